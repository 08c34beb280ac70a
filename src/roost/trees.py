"""What a tree must have to run a command, and to boot: said before a start.

A machine's tree is a stack of layers, merged as overlayfs merges them (kernel documentation, filesystems/overlayfs):
a whiteout hides what is below it, an opaque directory everything below its name. Every name is looked up in a directory
that is open already and no link is followed but by hand, inside: nothing leads out of the trees.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.host import architectures
from roost.session.changes import is_opaque, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INITS = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init")
"""What systemd-nspawn --boot tries, in this order (nspawn.c, inner_child)."""
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
"""nspawn boots only what has one of them: os-release(5)."""
FILLED = ("/proc", "/sys", "/dev", "/run", "/etc")
"""Directories that nspawn mounts over or writes into, by their paths in the host; made where they are missing."""
MERGED = ("bin", "lib", "sbin")
"""Made as links into /usr where they are missing, by nspawn (base-filesystem.c) and by Roost."""

_LINKS_MOST = 40  # as in the kernel (MAXSYMLINKS)
_NAMES_MOST = 256  # on the way to one of the paths here: a tree of links could keep this busy for hours
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Problem(Struct, frozen=True, kw_only=True):
    """What is missing. ``needed`` for: "run" (a command) or "boot"; ``remedy`` is what to do."""

    needed: str
    path: str
    found: str
    remedy: str


class _Entry(Struct, frozen=True, kw_only=True):
    """``path`` is where the links led. ``head`` is the beginning of a regular file."""

    path: str
    mode: int
    head: bytes = b""


def problems(trees: Sequence[str]) -> tuple[Problem, ...]:
    """What the tree of these directories lacks; ``trees`` are a stack, the top first. Raises OSError for none that is there."""
    with _opened(trees) as stack:
        return (*_to_run(stack), *_to_boot(stack))


def beginning(trees: Sequence[str], path: str) -> bytes | None:
    """The first 64 KiB of what a process would find at a path, links followed inside; None when that is no regular file."""
    with _opened(trees) as stack:
        entry = stack.find(path)
    return entry.head if entry is not None and stat.S_ISREG(entry.mode) else None


@contextlib.contextmanager
def _opened(trees: Sequence[str]) -> Iterator[_Stack]:
    with contextlib.ExitStack() as held:
        roots = []
        for tree in trees:
            roots.append(os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            held.callback(os.close, roots[-1])
        yield _Stack(roots)


def _to_run(stack: _Stack) -> Iterator[Problem]:
    usr = stack.find("/usr")
    if usr is None or not stat.S_ISDIR(usr.mode):
        found = "it is not there" if usr is None else "it is no directory"
        remedy = "this is no tree of a system; is it the directory above or below it?"
        yield Problem(needed="run", path="/usr", found=found, remedy=remedy)
    for path in FILLED:
        own = stack.at(path)
        if own is not None and not stat.S_ISDIR(own.mode):
            kind = "a link, and nspawn would follow it in the host" if stat.S_ISLNK(own.mode) else "no directory"
            yield Problem(
                needed="run", path=path, found=f"it is {kind}", remedy="remove it: an empty directory is made instead"
            )
    own = stack.at("/etc/machine-id")
    if own is not None and not stat.S_ISREG(own.mode):
        remedy = "remove it: each session and each boot has its own"
        yield Problem(needed="run", path="/etc/machine-id", found="it is no regular file", remedy=remedy)


def _to_boot(stack: _Stack) -> Iterator[Problem]:
    found = [entry for entry in map(stack.find, OS_RELEASE) if entry is not None]
    if not any(stat.S_ISREG(entry.mode) for entry in found):
        what = "it is no regular file" if found else "it is not there, nor is /usr/lib/os-release"
        remedy = "every distribution has it; for another tree write one with NAME= and ID= (os-release(5))"
        yield Problem(needed="boot", path=OS_RELEASE[0], found=what, remedy=remedy)
    wrong = {path: _no_init(stack, path) for path in INITS}
    if all(wrong.values()):
        there = [f"{path} {reason}" for path, reason in wrong.items() if reason != _MISSING]
        remedy = (
            "write `boot = {}` for the machine, whose layer then gets an init; or install one (systemd-sysv, systemd)"
        )
        text = "; ".join(there) or f"it is not there, nor is {INITS[0]}"
        yield Problem(needed="boot", path=INITS[2], found=text, remedy=remedy)


_MISSING = "is not there"


def _no_init(stack: _Stack, path: str) -> str:
    """Why a file cannot be executed as the init; empty when it can."""
    entry = stack.find(path)
    if entry is None:
        own = stack.at(path)
        return _MISSING if own is None else "is a link to nothing in this tree"
    if not stat.S_ISREG(entry.mode):
        return "is no regular file"
    if not entry.mode & 0o111:
        return "is not executable"
    wanted = architectures.interpreter(entry.head)
    if wanted and stack.find(wanted) is None:
        return f"needs {wanted}, which is not there"
    return ""


class _Stack:
    """The merged tree. ``roots`` are descriptors of the layers' trees, the top first."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = tuple(roots)

    def at(self, path: str) -> _Entry | None:
        """What has that name itself; links on the way to it are followed, one in its place is not."""
        return self._find(path, last=False)

    def find(self, path: str) -> _Entry | None:
        """What a process inside would find there; None for nothing, also for links that go round in circles."""
        return self._find(path, last=True)

    def _find(self, path: str, *, last: bool) -> _Entry | None:
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = looked = 0
        while todo:
            name = todo.pop()
            looked += 1
            if name == "..":
                done = done[:-1]
                continue
            mode, target, head = self._entry([*done, name])
            if mode == 0 or looked > _NAMES_MOST:
                return None
            if stat.S_ISLNK(mode) and (todo or last):
                links += 1
                if links > _LINKS_MOST:
                    return None
                if target.startswith("/"):
                    done = []
                todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                continue
            done.append(name)
            if todo and not stat.S_ISDIR(mode):
                return None
            if not todo:
                return _Entry(path="/" + "/".join(done), mode=mode, head=head)
        return _Entry(path="/" + "/".join(done), mode=stat.S_IFDIR | 0o755)

    def _entry(self, parts: Sequence[str]) -> tuple[int, str, bytes]:
        """Mode (0: nothing), link target and beginning of a path whose directories are no links, as overlayfs shows it."""
        with contextlib.ExitStack() as held:
            merged = list(self._roots)
            for number, name in enumerate(parts):
                shown = _shown(merged, name, held)
                if not shown:
                    merged_usr = number == 0 and name in MERGED
                    return (stat.S_IFLNK | 0o777, f"usr/{name}", b"") if merged_usr else (0, "", b"")
                info = os.fstat(shown[0])
                if number == len(parts) - 1:
                    return _about(shown[0], info)
                if not stat.S_ISDIR(info.st_mode):
                    return 0, "", b""
                merged = shown
        return 0, "", b""


def _shown(merged: Sequence[int], name: str, held: contextlib.ExitStack) -> list[int]:
    """The entries of that name which are seen: one that is no directory, or the directories that are merged."""
    found: list[int] = []
    for parent in merged:
        try:
            fd = os.open(name, _PATH, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            continue
        held.callback(os.close, fd)
        info = os.fstat(fd)
        if is_whiteout(info):
            break
        if not stat.S_ISDIR(info.st_mode):
            return found or [fd]
        found.append(fd)
        if is_opaque(fd):
            break
    return found


def _about(fd: int, info: os.stat_result) -> tuple[int, str, bytes]:
    if stat.S_ISLNK(info.st_mode):
        return info.st_mode, os.readlink("", dir_fd=fd), b""
    head = b""
    if stat.S_ISREG(info.st_mode):
        with contextlib.suppress(OSError), open(f"/proc/self/fd/{fd}", "rb") as stream:
            head = stream.read(65536)
    return info.st_mode, "", head
