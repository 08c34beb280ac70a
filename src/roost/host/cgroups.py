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

from roost.errors import HostError
from roost.host import syscalls
from roost.structs import Struct

MOUNT = "/sys/fs/cgroup"


class Group(Struct, frozen=True, kw_only=True):
    """One control group, a directory in each hierarchy.

    ``born``: the one of cgroup v2, empty where there is none. ``entered``: those that a process has to be moved to.
    ``nspawn``: those where nspawn keeps its two groups. ``limits`` (memory, cpu, pids) are those that are enforced,
    ``notes`` say which are not.
    """

    born: str = ""
    entered: tuple[str, ...] = ()
    nspawn: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All its directories."""
        return tuple(dict.fromkeys((*self.nspawn, *self.entered, *((self.born,) if self.born else ()))))


def create(
    name: str,
    *,
    memory: int | None = None,
    cpus: float | None = None,
    tasks: int | None = None,
    own_legacy: bool = False,
) -> Group:
    """Makes the group ``name`` below this process's own; ``memory`` in bytes, ``tasks`` without nspawn's own.

    A limit that this host cannot enforce is no error: it is named in ``notes``. ``own_legacy``: where these are of v1, the
    group has them without a limit too, so that somebody inside may be given them to set limits below (``given_legacy``).
    """
    own = _own_groups()
    wanted = {"memory": memory, "cpu": cpus, "pids": None if tasks is None else tasks + OWN_TASKS}
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
    for controller, value in limits.items():
        if controller in own:  # of v1: a controller is in one hierarchy only
            limited = _make(controller, own[controller], name)
            entered += [limited] if limited is not None else []
            notes += _limit_legacy(limited, controller, value)
        else:
            notes += _limit_unified(born, controller, value)
    if own_legacy:
        made = [_make(controller, own[controller], name) for controller in _WORDS if controller in own]
        entered += [path for path in made if path is not None and path not in entered]
    kept = tuple(name for name in limits if not any(note.startswith(_unenforced(name)) for note in notes))
    return Group(born=born, entered=tuple(entered), nspawn=tuple(nspawn), limits=kept, notes=tuple(notes))


def given_legacy(group: Group) -> tuple[str, ...]:
    """The controllers of v1 in which the group is one of its own."""
    return tuple(name for name in _WORDS if any(path.startswith(f"{MOUNT}/{name}/") for path in group.entered))


_NSPAWN = ("payload", "supervisor")
_WORDS = {"memory": "memory", "cpu": "cpus", "pids": "tasks"}
OWN_TASKS = 2  # nspawn and roost-init: a session's limit counts what the command starts, itself included
LEAF = "roost.manager"
"""Where the processes of a delegated group go, so that the group may have limited groups below it."""


def _unenforced(controller: str) -> str:
    return f"the limit on {_WORDS[controller]} is not enforced"


def own_groups_text() -> str:
    """This process's groups as proc(5) has them: what ``find`` takes."""
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        return stream.read()


def _own_groups(text: str = "") -> dict[str, str]:
    """Controller (or ``name=...``, or nothing for cgroup v2) → group, of this process or as ``text`` says.

    Not LEAF, but the group that it was made in.
    """
    found = {}
    for line in (text or own_groups_text()).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path.removesuffix(f"/{LEAF}") or "/"
    return found


def below(text: str, name: str) -> Group:
    """A new group ``name`` in those of an init, of which proc(5) says ``text``, for a process that shares its limits.

    Of v1 there is none, only the init's own: in ``entered``, where they are not this process's. An init that is systemd
    is in ``init.scope``, and its machine in what is above that. Raises HostError when it cannot be made.
    """
    theirs = {kind: path.removesuffix("/init.scope") or "/" for kind, path in _own_groups(text).items()}
    own = _own_groups()
    hierarchy = "unified" if os.path.isdir(f"{MOUNT}/unified") else ""
    born = _make(hierarchy, theirs[""], name) if "" in theirs else ""
    if born is None:
        raise HostError(
            "no control group can be made for a command in the machine",
            hint=f"is {MOUNT} read-only? see `roost doctor`",
        )
    entered = [
        os.path.normpath(f"{MOUNT}/{kind.removeprefix('name=')}/{path}")
        for kind, path in theirs.items()
        if kind and path != own.get(kind)
    ]
    return Group(
        born=born, entered=tuple(path for path in entered if os.path.isdir(path))
    )  # not all that is may be mounted


def kill(path: str) -> None:
    """Kills all that is in one group of cgroup v2 (Linux 5.14), whoever forks meanwhile."""
    _write_all(path, {"cgroup.kill": "1"})


def is_populated(path: str) -> bool:
    """Whether a process lives in one group of cgroup v2, or below it."""
    return "populated 1" in " ".join(_words_of(f"{path}/cgroup.events"))


def _make(hierarchy: str, own: str, name: str) -> str | None:
    path = os.path.normpath(f"{MOUNT}/{hierarchy}/{own}/{name}")
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return path
    except OSError:  # not mounted here, or read-only: nspawn will say so where it matters
        return None
    return path


def _limit_legacy(path: str | None, controller: str, value: float) -> list[str]:
    if path is None:
        return [f"{_unenforced(controller)}: control groups cannot be made below {MOUNT}/{controller}"]
    if controller == "cpu":
        settings = {"cpu.cfs_period_us": _PERIOD, "cpu.cfs_quota_us": int(value * _PERIOD)}
    else:
        settings = {{"memory": "memory.limit_in_bytes", "pids": "pids.max"}[controller]: int(value)}
    if not _write_all(path, {key: str(number) for key, number in settings.items()}):
        return [f"{_unenforced(controller)}: the kernel refuses it"]
    swap = {"memory.memsw.limit_in_bytes": str(int(value))}  # of both together, hence after the other
    return [] if controller != "memory" or _write_all(path, swap) else _about_swap()


_NOT_DELEGATED = "this process's control group is not its own (start roost with `systemd-run --scope -p Delegate=yes`)"
_PERIOD = 100000  # microseconds, the kernel's default


def _limit_unified(path: str, controller: str, value: float) -> list[str]:
    if not path:
        return [f"{_unenforced(controller)}: control groups cannot be made below {MOUNT}"]
    parent = os.path.dirname(path)
    if controller not in _words_of(f"{parent}/cgroup.controllers"):
        return [f"{_unenforced(controller)}: this process's control group does not have the controller {controller}"]
    if not _hand_down(parent, controller):
        return [f"{_unenforced(controller)}: {_NOT_DELEGATED}"]
    name = {"memory": "memory.max", "cpu": "cpu.max", "pids": "pids.max"}[controller]
    text = f"{int(value * _PERIOD)} {_PERIOD}" if controller == "cpu" else str(int(value))
    if not _write_all(path, {name: text}):
        return [f"{_unenforced(controller)}: the kernel refuses it"]
    return [] if controller != "memory" or _write_all(path, {"memory.swap.max": "0"}) else _about_swap()


def _about_swap() -> list[str]:
    """A kernel that does not count swap lets a session use more than its limit, where there is any."""
    with open("/proc/swaps", encoding="utf-8", errors="replace") as stream:
        swaps = stream.read().count("\n") - 1
    return ["the limit on memory does not count swap: this kernel does not account it"] if swaps > 0 else []


def _hand_down(parent: str, controller: str) -> bool:
    """Lets groups below ``parent`` have a limit of this kind.

    A group with processes in it may not (the rule of no internal processes), except the true root, which alone has no
    type. It is not tried: for cpu and pids the kernel would make it a threaded group, below which nothing can start.
    Where somebody gave that group to us, its processes are moved to LEAF, a group of their own, as other managers do.
    """
    if controller in _words_of(f"{parent}/cgroup.subtree_control"):
        return True
    if os.path.exists(f"{parent}/cgroup.type") and (processes := _words_of(f"{parent}/cgroup.procs")):
        if not is_delegated(parent):
            return False
        try:
            os.makedirs(f"{parent}/{LEAF}", 0o755, exist_ok=True)
        except OSError:
            return False
        for pid in processes:
            _write_all(f"{parent}/{LEAF}", {"cgroup.procs": pid})  # one may have ended meanwhile
    return _write_all(parent, {"cgroup.subtree_control": f"+{controller}"})


def is_delegated(path: str) -> bool:
    """Whether the group belongs to whoever is in it: systemd says so (Delegate=yes), or it is a container's topmost.

    systemd marks it with an extended attribute, by version one of two (CONTROL_GROUP_INTERFACE). The topmost group of
    a control group namespace has the files of any other group, which the true root has not.
    """
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return path == MOUNT and os.path.exists(f"{path}/cgroup.type")


def _words_of(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read().split()
    except OSError:
        return []


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


def reached(group: Group) -> tuple[str, ...]:
    """Which limits stopped something in the group: "memory" when the kernel killed for it, "tasks" when a fork failed.

    "oom": the kernel killed for memory, but not because of the group's own limit: the host, or a group above, had no more.
    """
    found = []
    if any(_counted(f"{path}/{name}", "oom_kill") for path in group.paths for name in _MEMORY_EVENTS):
        own = "memory" in group.limits and any(_at_its_limit(path) for path in group.paths)
        found.append("memory" if own else "oom")
    if "pids" in group.limits and any(_counted(f"{path}/pids.events", "max") for path in group.paths):
        found.append("tasks")
    return tuple(found)


_MEMORY_EVENTS = ("memory.events", "memory.oom_control")  # v2, v1


def _at_its_limit(path: str) -> bool:
    """Whether the group's own limit on memory was ever hit.

    v2 counts it as "oom". v1 has memory.failcnt, which newer kernels (6.18) leave at zero: the highest use tells it.
    """
    if _counted(f"{path}/memory.events", "oom"):
        return True
    most, limit = (_words_of(f"{path}/memory.{name}_in_bytes") for name in ("max_usage", "limit"))
    return bool(most and limit) and int(most[0]) >= int(limit[0]) * 15 // 16  # charged in batches


def _counted(path: str, word: str) -> bool:
    """Whether the counter ``word`` of an events file is above zero."""
    with contextlib.suppress(OSError), open(path, encoding="ascii") as stream:
        return any(line.startswith(f"{word} ") and not line.endswith(" 0\n") for line in stream)
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


def find(prefix: str, text: str = "") -> list[Group]:
    """Groups whose name starts with ``prefix``, as one Group for each name.

    They are looked for below this process's own groups, or below those that ``own_groups_text`` said once.
    """
    found: dict[str, list[str]] = {}
    for controller, own in _own_groups(text).items():
        hierarchy = controller.removeprefix("name=") or ("unified" if os.path.isdir(f"{MOUNT}/unified") else "")
        parent = os.path.normpath(f"{MOUNT}/{hierarchy}/{own}")
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                if name.startswith(prefix):
                    found.setdefault(name, []).append(f"{parent}/{name}")
    return [Group(entered=tuple(paths)) for paths in found.values()]
