"""The init of a machine that runs, seen from the host: which process it is, and what a command beside it must share."""

from __future__ import annotations

import contextlib
import os

from roost.boot.settings import INIT
from roost.engine.spec import EMULATOR
from roost.errors import HostError
from roost.host import syscalls
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# user is joined only where it is another one: setns(2) refuses one's own
_KINDS = {
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "ipc": syscalls.CLONE_NEWIPC,
    "mnt": syscalls.CLONE_NEWNS,
    "net": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "user": syscalls.CLONE_NEWUSER,
    "uts": syscalls.CLONE_NEWUTS,
}
_STARTED = 22  # the field of proc(5)'s stat: when the process started, in ticks since the boot


class Leader(Struct, frozen=True, kw_only=True):
    """A machine's init: its number on the host, and when it started, so that another with its number is not taken for it."""

    pid: int
    started: int


class Facts(Struct, frozen=True, kw_only=True):
    """What a command in the machine shares with its init.

    ``namespaces`` are flags of setns(2), ``capabilities`` the bounding set as a mask, ``base`` the host id of its root,
    ``groups`` what proc(5) says of its control groups, ``filters`` how many seccomp programs it runs under, or -1 for
    some (before Linux 5.9). ``personality`` is that of personality(2).
    """

    namespaces: int
    capabilities: int
    no_new_privileges: bool
    base: int
    groups: str
    filters: int
    personality: int = 0


def leader_of(nspawn: int) -> Leader | None:
    """The init that the systemd-nspawn of this number has started; None when it has not come so far, or has ended."""
    with contextlib.suppress(OSError):
        own = os.readlink(f"/proc/{nspawn}/ns/pid")
        with open(f"/proc/{nspawn}/task/{nspawn}/children", encoding="ascii") as stream:
            for pid in map(int, stream.read().split()):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/ns/pid") != own:
                        return Leader(pid=pid, started=started_at(f"/proc/{pid}"))
    return None


def leader_by_pid(pid: int) -> Leader | None:
    """The init with this number on the host, as machined or a record tells it; None when there is no such process."""
    with contextlib.suppress(OSError):
        return Leader(pid=pid, started=started_at(f"/proc/{pid}"))
    return None


def is_alive(leader: Leader) -> bool:
    """Whether it still runs."""
    try:
        return started_at(f"/proc/{leader.pid}") == leader.started
    except OSError:
        return False


def has_begun(leader: Leader) -> bool:
    """Whether it is the machine's own program already, and no more the nspawn or roost-init that becomes it."""
    with contextlib.suppress(OSError):
        parent = _word(_read(f"/proc/{leader.pid}/status"), "PPid")
        program = os.readlink(f"/proc/{leader.pid}/exe")
        earlier = program in (os.readlink(f"/proc/{parent}/exe"), INIT)
        return is_alive(leader) and not earlier
    return False


def program(leader: Leader) -> str:
    """The path of the program that it is, as the machine has it; empty when it has ended.

    Of one that an emulator runs, what the kernel told that: its first argument (fs/binfmt_misc.c).
    """
    try:
        path = os.readlink(f"/proc/{leader.pid}/exe")
        if path != EMULATOR and not os.path.basename(path).startswith("qemu-"):
            return path
        return [*_read(f"/proc/{leader.pid}/cmdline").split("\0"), "", ""][1]
    except OSError:
        return ""


def pidfd(leader: Leader) -> int:
    """A descriptor of the process. Raises HostError when it has ended."""
    try:
        fd = os.pidfd_open(leader.pid)
    except ProcessLookupError:
        raise gone() from None
    if not is_alive(leader):  # asked after the descriptor was there: a number is given again only when nobody has it
        os.close(fd)
        raise gone()
    return fd


def netns_fd(leader: Leader) -> int:
    """A descriptor of the machine's network namespace. Raises HostError when its init has ended."""
    try:
        fd = os.open(f"/proc/{leader.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise gone() from None
    if not is_alive(leader):
        os.close(fd)
        raise gone()
    return fd


def facts(leader: Leader) -> Facts:
    """What is to be known of it. Raises HostError when it has ended."""
    place = f"/proc/{leader.pid}"
    try:
        status = _read(f"{place}/status")
        found = Facts(
            namespaces=sum(_to_join(place)),
            capabilities=int(_word(status, "CapBnd"), 16),
            no_new_privileges=_word(status, "NoNewPrivs") == "1",
            base=int((_read(f"{place}/uid_map").split() or ["0", "0"])[1]),
            groups=_read(f"{place}/cgroup"),
            personality=int(_read(f"{place}/personality"), 16),
            filters=int(_word(status, "Seccomp_filters") or -1) if _word(status, "Seccomp") == "2" else 0,
        )
    except (OSError, ValueError):
        raise gone() from None
    if not is_alive(leader):
        raise gone()
    return found


def limits(leader: Leader) -> Sequence[tuple[int, tuple[int, int]]]:
    """Its resource limits, as resource.setrlimit() takes them."""
    import resource

    numbers = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
    try:
        return [(number, resource.prlimit(leader.pid, number)) for number in numbers]
    except OSError:
        raise gone() from None


def gone() -> HostError:
    """The machine does not run any more."""
    return HostError("the machine has ended", hint="`roost up` starts it, `roost logs` says what it said")


def _to_join(place: str) -> Iterator[int]:
    for kind, flag in _KINDS.items():
        if kind != "user" or os.readlink(f"{place}/ns/user") != os.readlink("/proc/self/ns/user"):
            yield flag


def started_at(place: str) -> int:
    """Field 22 of proc(5)'s stat; a process may call itself anything, so what is counted begins after its name."""
    fields = _read(f"{place}/stat").rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(place)
    return int(fields[_STARTED - 3])


def _word(text: str, name: str) -> str:
    """The first word of a line of proc(5)'s status."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].split()[0]
    return ""


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()
