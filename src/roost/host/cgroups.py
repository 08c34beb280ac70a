"""A control group for each session: its limits, and a place of its own for nspawn's bookkeeping.

nspawn with --keep-unit makes the groups ``payload`` and ``supervisor`` below the one it was started in and leaves them
there. Started in a group of the session's own, they go with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from msgspec import Struct

MOUNT = "/sys/fs/cgroup"


class Group(Struct, frozen=True):
    """The directories of one control group, one in each hierarchy that it is in; ``notes`` say what is not enforced."""

    paths: tuple[str, ...]
    notes: tuple[str, ...] = ()


def create(name: str, *, memory: int | None = None, cpus: float | None = None, tasks: int | None = None) -> Group:
    """Makes the group ``name`` below this process's own; ``memory`` in bytes.

    A limit that this host cannot enforce is no error: it is named in ``notes``.
    """
    own = _own_groups()
    wanted = {"memory": memory, "cpu": cpus, "pids": tasks}
    limits = {controller: value for controller, value in wanted.items() if value is not None}
    paths: list[str] = []
    notes: list[str] = []
    unified = "unified" if os.path.isdir(f"{MOUNT}/unified") else ""
    if "" in own and (path := _make(unified, own[""], name)):
        paths.append(path)
        if not unified:
            notes += _limit_unified(path, limits)
            return Group(tuple(paths), tuple(notes))
    if "name=systemd" in own and (path := _make("systemd", own["name=systemd"], name)):
        paths.append(path)
    for controller, value in limits.items():
        path = _make(controller, own.get(controller, ""), name) if controller in own else None
        if path is None or not _limit_legacy(path, controller, value):
            notes.append(f"this host cannot enforce the limit on {_WORDS[controller]}")
        if path is not None:
            paths.append(path)
    return Group(tuple(paths), tuple(notes))


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
    """Moves a process (0: this one) into the group."""
    for path in group.paths:
        fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)


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
