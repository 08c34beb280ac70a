"""Nothing may be left behind: every test is followed by a look at what this computer has that it did not have before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from roost.host import syscalls
from roost.host.cgroups import LEAF

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = "/sys/fs/cgroup"
MS_SHARED = 1 << 20  # mount(2)
PATIENCE = 3.0  # seconds that the kernel may take to end what was killed


class Group:
    """A control group of the tests' own: whatever a test starts is in it, also when its parent is gone."""

    def __init__(self) -> None:
        self._homes: dict[str, str] = {}
        if os.geteuid() != 0:
            return
        for hierarchy, own in _own_groups():
            home = os.path.normpath(f"{CGROUPS}/{hierarchy}/{own}")
            _sweep(home)
            with contextlib.suppress(OSError):
                os.mkdir(f"{home}/rtests-{os.getpid()}")
                _move(f"{home}/rtests-{os.getpid()}")
                self._homes[hierarchy] = home
                if not hierarchy:
                    _delegate(f"{home}/rtests-{os.getpid()}")

    @property
    def tops(self) -> list[str]:
        """Its directories."""
        return [f"{home}/rtests-{os.getpid()}" for home in self._homes.values()]

    def processes(self) -> set[str]:
        """All but this one, as ``PID command line``."""
        found: set[int] = set()
        for top in self.tops:
            for directory, _, _ in os.walk(top):
                with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as stream:
                    found.update(int(line) for line in stream)
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
            found.update(int(word) for word in stream.read().split())
        return {f"process {pid} {_command_line(pid)}" for pid in found - {os.getpid(), 0}}

    def below(self) -> set[str]:
        """Groups that somebody made in it."""
        own = (*self.tops, *(f"{top}/{LEAF}" for top in self.tops))
        return {f"control group {path}" for top in self.tops for path, _, _ in os.walk(top) if path not in own}

    def clear(self) -> None:
        """Removes what a test left, once that was said."""
        for top in self.tops:
            for directory, _, _ in os.walk(top, topdown=False):
                if directory != top:
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)

    def close(self) -> None:
        """Back to where this process was."""
        for hierarchy, home in self._homes.items():
            if not hierarchy:
                for group in (f"{home}/rtests-{os.getpid()}", home):  # else nobody may be moved there
                    _hand_down(group, "-")
            _move(home)
            _remove(f"{home}/rtests-{os.getpid()}")


def _own_groups() -> list[tuple[str, str]]:
    """(hierarchy, path) of this process, for those that sessions use."""
    found = []
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        for line in stream:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                found.append(("unified" if os.path.isdir(f"{CGROUPS}/unified") else "", path))
            elif controllers.removeprefix("name=") in ("systemd", "memory", "pids", "cpu"):
                found.append((controllers.removeprefix("name="), path))
    return [(hierarchy, path) for hierarchy, path in found if os.path.isdir(f"{CGROUPS}/{hierarchy}/{path}")]


def _delegate(group: str) -> None:
    """On a host with cgroup v2: the tests' group may limit those below it, as far as the one above it lets it."""
    _hand_down(os.path.dirname(group), "+")
    os.setxattr(group, "user.delegate", b"1")


def _hand_down(group: str, sign: str) -> None:
    with contextlib.suppress(OSError), open(f"{group}/cgroup.subtree_control", "w", encoding="ascii") as stream:
        stream.write(f"{sign}memory {sign}cpu {sign}pids")


def _move(group: str) -> None:
    with open(f"{group}/cgroup.procs", "w", encoding="ascii") as stream:
        stream.write("0")


def _sweep(home: str) -> None:
    """Groups of test runs that were killed."""
    for name in os.listdir(home):
        if name.startswith("rtests-") and not os.path.exists(f"/proc/{name[7:]}"):
            _remove(f"{home}/{name}")


def _remove(top: str) -> None:
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read()[:200].replace(b"\0", b" ").decode(errors="replace") or "(zombie, or of the kernel)"
    except OSError:
        return "(gone meanwhile)"


class Things(NamedTuple):
    """What a computer has, as a person would name it."""

    mounts: set[str]
    loops: set[str]
    links: set[str]


def _things() -> Things:
    mounts = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            number, _, _, root, point, *_ = line.split()
            mounts.add(f"mount {number} {root} at {point}")
    return Things(mounts, _loops(), {f"network link {name}" for name in os.listdir("/sys/class/net")})


def _loops() -> set[str]:
    """Loop devices with their files, but for those of another run of these tests beside this one."""
    found = set()
    for name in os.listdir("/sys/block"):
        with contextlib.suppress(OSError), open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as stream:
            path = stream.read().strip()
            if "/roost-tests-" not in path or f"/roost-tests-{os.getpid()}-" in path:
                found.add(f"loop device {name} of {path}")
    return found


def _descriptors() -> set[str]:
    """What this process has open; a number alone would be another file a moment later.

    Not an id range with its user namespace: a Manager keeps it for its next session (``Manager.close``).
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"open file {name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {text for text in found if not any(word in text for word in ("/proc/", "/run/ranges/", " user:["))}


def held_locks(states: list[str]) -> set[str]:
    """Lock files below state directories that somebody holds."""
    found = set()
    for directory in (f"{state}/run/{name}" for state in states for name in ("locks", "ranges")):
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            with contextlib.suppress(FileNotFoundError), open(f"{directory}/{name}", "rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.add(f"held lock {directory}/{name}")
    return found


@pytest.fixture(scope="session")
def group() -> Iterator[Group]:
    """The tests' control group."""
    made = Group()
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def own_mounts() -> None:
    """A mount namespace for the tests: what is seen to be left there is theirs, whoever else mounts meanwhile.

    Its mounts are shared, as on a host that systemd has started, so that whatever escapes a session is seen.
    """
    if os.geteuid() == 0:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | MS_SHARED)


@pytest.fixture(scope="session")
def states() -> list[str]:
    """State directories in use; whoever makes one adds it."""
    return []


@pytest.fixture(autouse=True)
def nothing_left(group: Group, states: list[str]) -> Iterator[None]:
    """Fails a test that leaves a process, mount, loop device, link, control group or lock behind."""
    before = _things()
    open_before = _descriptors()

    def left() -> set[str]:
        now = _things()
        new = set().union(*(new - old for new, old in zip(now, before, strict=True)))
        return new | group.processes() | group.below() | held_locks(states) | (_descriptors() - open_before)

    yield
    deadline = time.monotonic() + PATIENCE
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if found:
        group.clear()
        pytest.fail("left behind:\n" + "\n".join(sorted(found)))
