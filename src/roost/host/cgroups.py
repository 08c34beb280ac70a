"""A control group for each session: for its limits, for its account of memory, and so that nspawn leaves nothing.

A move between groups waits for an RCU grace period (percpu_down_write in cgroup_attach_lock, kernel/cgroup/cgroup.c): 3
to 10 ms. So a session's first process is born in its group (clone3 with CLONE_INTO_CGROUP). And nspawn, which with
--keep-unit moves itself and its payload to groups ``supervisor`` and ``payload`` below its own, finds them there with
something else in the place of ``cgroup.procs``: both stay in the session's group, which ends up as the root of the
container's control group namespace, as ``payload`` would.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from roost.host import syscalls
from roost.structs import Struct

MOUNT = "/sys/fs/cgroup"


class Group(Struct, frozen=True, kw_only=True):
    """One control group, a directory in each hierarchy.

    ``born``: the one of cgroup v2, empty where there is none. ``entered``: those that a process has to be moved to.
    ``nspawn``: those where nspawn keeps its two groups. ``notes`` say which limits are not enforced.
    """

    born: str = ""
    entered: tuple[str, ...] = ()
    nspawn: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All its directories."""
        return tuple(dict.fromkeys((*self.nspawn, *self.entered, *((self.born,) if self.born else ()))))


def create(name: str, *, memory: int | None = None, cpus: float | None = None, tasks: int | None = None) -> Group:
    """Makes the group ``name`` below this process's own; ``memory`` in bytes.

    A limit that this host cannot enforce is no error: it is named in ``notes``.
    """
    own = _own_groups()
    wanted = {"memory": memory, "cpu": cpus, "pids": tasks}
    limits = {controller: value for controller, value in wanted.items() if value is not None}
    hybrid = os.path.isdir(f"{MOUNT}/unified")
    born = (_make("unified" if hybrid else "", own[""], name) if "" in own else None) or ""
    nspawn = [born] if born else []
    if "name=systemd" in own:  # with both, nspawn uses the path of the one in the other too
        nspawn += filter(None, [_make("systemd", own["" if born else "name=systemd"], name)])
    for path in nspawn:
        for part in _NSPAWN:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{path}/{part}", 0o755)
    entered = [] if born else list(nspawn)
    notes: list[str] = []
    if born and not hybrid:
        notes += _limit_unified(born, limits)
        limits = {}
    for controller, value in limits.items():
        limited = _make(controller, own[controller], name) if controller in own else None
        if limited is None or not _limit_legacy(limited, controller, value):
            notes.append(f"this host cannot enforce the limit on {_WORDS[controller]}")
        if limited is not None:
            entered.append(limited)
    return Group(born=born, entered=tuple(entered), nspawn=tuple(nspawn), notes=tuple(notes))


_NSPAWN = ("payload", "supervisor")
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


def enter(group: Group, pid: int, *, born: bool) -> None:
    """Moves a process to where the group's limits are; to all of the group unless it was born in it."""
    for path in group.entered if born or not group.born else (*group.entered, group.born):
        fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)


def mask(group: Group, file: str) -> None:
    """In a private mount namespace: lets nspawn's moves be written to ``file``, an empty one, instead of being made."""
    for path in group.nspawn:
        for part in _NSPAWN:
            syscalls.mount(file, f"{path}/{part}/cgroup.procs", flags=syscalls.MS_BIND)


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
    return [Group(entered=tuple(paths)) for paths in found.values()]
