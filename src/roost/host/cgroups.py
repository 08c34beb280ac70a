"""A control group for each session: its limits, and a place of its own for nspawn's bookkeeping.

nspawn with --keep-unit makes the groups ``payload`` and ``supervisor`` below the one it was started in, moves there, and
leaves them behind. So in its private mount namespace a group of the session's own is shown in place of that one, and
they go with it. That is quicker than entering the group: moving a process waits for an RCU grace period.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from msgspec import Struct

from roost.host import syscalls

MOUNT = "/sys/fs/cgroup"


class Group(Struct, frozen=True):
    """One control group. ``paths``: its directories, one in each hierarchy; ``notes`` say what is not enforced.

    ``shown``: (directory, where it is to be shown instead of this process's own group). ``limits``: the directories of
    those hierarchies that have to be entered, as nspawn does not move there.
    """

    paths: tuple[str, ...]
    shown: tuple[tuple[str, str], ...] = ()
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def create(name: str, *, memory: int | None = None, cpus: float | None = None, tasks: int | None = None) -> Group:
    """Makes the group ``name`` below this process's own; ``memory`` in bytes.

    A limit that this host cannot enforce is no error: it is named in ``notes``.
    """
    own = _own_groups()
    wanted = {"memory": memory, "cpu": cpus, "pids": tasks}
    limits = {controller: value for controller, value in wanted.items() if value is not None}
    unified = "unified" if os.path.isdir(f"{MOUNT}/unified") else ""
    shown = []
    for hierarchy, controller in ((unified, ""), ("systemd", "name=systemd")):
        if controller in own and (path := _make(hierarchy, own[controller], name)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{path}/{name}")  # see show()
            shown.append((path, os.path.dirname(path)))
    paths = [path for path, _ in shown]
    if shown and not unified and "name=systemd" not in own:
        return Group(tuple(paths), tuple(shown), (), tuple(_limit_unified(paths[0], limits)))
    entered: list[str] = []
    notes: list[str] = []
    for controller, value in limits.items():
        path = _make(controller, own[controller], name) if controller in own else None
        if path is None or not _limit_legacy(path, controller, value):
            notes.append(f"this host cannot enforce the limit on {_WORDS[controller]}")
        if path is not None:
            entered.append(path)
    return Group((*paths, *entered), tuple(shown), tuple(entered), tuple(notes))


_WORDS = {"memory": "memory", "cpu": "cpus", "pids": "tasks"}


def _own_groups() -> dict[str, str]:
    """Controller (or ``name=...``, or nothing for cgroup v2) → this process's group, from proc(5)."""
    found = {}
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        for line in stream:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _make(hierarchy: str, own: str, name: str) -> str | None:
    path = os.path.normpath(f"{MOUNT}/{hierarchy}/{own}/{name}")
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return path
    except OSError:  # not mounted here, or read-only: nspawn will say so where it matters
        return None
    return path


def _limit_legacy(path: str, controller: str, value: float) -> bool:
    if controller == "cpu":
        settings = {"cpu.cfs_period_us": 100000, "cpu.cfs_quota_us": int(value * 100000)}
    else:
        settings = {{"memory": "memory.limit_in_bytes", "pids": "pids.max"}[controller]: int(value)}
    return _write_all(path, {key: str(number) for key, number in settings.items()})


def _limit_unified(path: str, limits: dict[str, float]) -> list[str]:
    parent = os.path.dirname(path)
    notes = []
    for controller, value in limits.items():
        _write_all(parent, {"cgroup.subtree_control": f"+{controller}"})
        name = {"memory": "memory.max", "cpu": "cpu.max", "pids": "pids.max"}[controller]
        text = f"{int(value * 100000)} 100000" if controller == "cpu" else str(int(value))
        if not _write_all(path, {name: text}):
            notes.append(
                f"the limit on {_WORDS[controller]} is not enforced: this process's control group is not delegated "
                "(start roost with `systemd-run --scope -p Delegate=yes`)"
            )
    return notes


def _write_all(path: str, settings: dict[str, str]) -> bool:
    try:
        for name, text in settings.items():
            with open(f"{path}/{name}", "w", encoding="ascii") as stream:
                stream.write(text)
    except OSError:
        return False
    return True


def enter(group: Group, pid: int = 0) -> None:
    """Moves a process (0: this one) to where its limits are."""
    for path in group.limits:
        fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)


def hasten(group: Group) -> None:
    """Begins the wait that a process's move to another group needs, so that nspawn, a little later, finds it over.

    A move waits for an RCU grace period (percpu_down_write of cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c), 3 to
    10 ms, unless another move was just before. This one, of this process to where it is, changes nothing.
    """
    for _, place in group.shown[:1]:
        with contextlib.suppress(OSError):
            fd = os.open(f"{place}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)


def show(group: Group) -> None:
    """In a private mount namespace: lets the group stand where this process's own is.

    And, in itself, where it really is: once moved, nspawn asks the kernel for its group, and is told the true name.
    """
    for path, place in group.shown:
        syscalls.mount(path, place, flags=syscalls.MS_BIND)
        syscalls.mount(place, path, flags=syscalls.MS_BIND)


def out_of_memory(group: Group) -> bool:
    """Whether the kernel killed something in the group because its memory limit was reached."""
    for path in group.paths:
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError), open(f"{path}/{name}", encoding="ascii") as stream:
                if any(line.startswith("oom_kill ") and not line.endswith(" 0\n") for line in stream):
                    return True
    return False


def remove(group: Group, *, seconds: float = 2.0) -> bool:
    """Removes the group and all below it; waits for what is still dying in it. False: something lives there."""
    deadline = time.monotonic() + seconds
    return sum(_remove_below(path, deadline) for path in group.paths) == len(group.paths)


def _remove_below(path: str, deadline: float) -> bool:
    for directory, _, _ in os.walk(path, topdown=False):
        while True:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                break
            except OSError as e:
                if e.errno != errno.EBUSY or time.monotonic() > deadline:
                    return False
                time.sleep(0.001)
            else:
                break
    return True


def find(prefix: str) -> list[Group]:
    """Groups below this process's own whose name starts with ``prefix``, as one Group for each name."""
    found: dict[str, list[str]] = {}
    for controller, own in _own_groups().items():
        hierarchy = controller.removeprefix("name=") or ("unified" if os.path.isdir(f"{MOUNT}/unified") else "")
        parent = os.path.normpath(f"{MOUNT}/{hierarchy}/{own}")
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                if name.startswith(prefix):
                    found.setdefault(name, []).append(f"{parent}/{name}")
    return [Group(tuple(paths)) for paths in found.values()]
