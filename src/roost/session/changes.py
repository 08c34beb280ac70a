"""What a session changed, read from its upper directory.

overlayfs keeps there (kernel documentation, filesystems/overlayfs): new and changed files as they are; a whiteout, a
character device 0:0, for what was removed; the xattr trusted.overlay.opaque "y" on a directory that hides what was
below its name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPAQUE = "trusted.overlay.opaque"


class Change(Struct, frozen=True, kw_only=True):
    """``kind``: added, changed, removed, or replaced (another type of file, or a directory made anew).

    ``path`` is absolute inside; ``size`` is bytes of a regular file now.
    """

    kind: str
    path: str
    size: int = 0


def is_whiteout(info: os.stat_result) -> bool:
    """Whether this stands for a removed file."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Whether a directory hides all that is below its name."""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    except OSError:
        return False


def changes(
    upper: str, lowers: Sequence[str], *, at: str = "", ignore: frozenset[str] = frozenset()
) -> Iterator[Change]:
    """Every change, in the order of paths. ``lowers`` from the top down; ``at`` is where ``upper`` is seen inside.

    A path in ``ignore`` (a mount point) does not count as long as it is an empty file or directory.
    """
    walk = _Walk(upper, lowers, at, ignore)
    try:
        yield from walk.changes()
    finally:
        walk.close()


class _Level(Struct):
    """A directory on the way: what is still to be looked at in it, the length of its parent's path, and the layers
    (number, descriptor) that are not merged with it.
    """

    pending: list[tuple[str, os.stat_result]]
    length: int
    parked: list[tuple[int, int]] = []


class _Walk:
    """Goes through an upper directory and the layers below side by side, by names within directories that are open.

    There is one descriptor for the upper directory and one for each layer, however deep the tree is: each level gives
    its descriptors to the next, and gets them back by "..". No link is followed.
    """

    def __init__(self, upper: str, lowers: Sequence[str], at: str, ignore: frozenset[str]) -> None:
        self._at = at
        self._ignore = ignore
        self._path = ""
        self._levels: list[_Level] = []
        self._upper = os.open(upper, _DIRECTORY)
        self._lowers = {number: os.open(lower, _DIRECTORY) for number, lower in enumerate(lowers)}

    def close(self) -> None:
        """Closes every descriptor."""
        parked = [fd for level in self._levels for _, fd in level.parked]
        for fd in (self._upper, *self._lowers.values(), *parked):
            with contextlib.suppress(OSError):  # one step failed half-way
                os.close(fd)

    def changes(self) -> Iterator[Change]:
        """All of them."""
        self._levels.append(_Level(pending=_entries(self._upper), length=0))
        while self._levels:
            level = self._levels[-1]
            if not level.pending:
                self._leave()
                continue
            name, info = level.pending.pop()
            path = f"{self._at}{self._path}/{name}"
            below, merged = self._below(name)
            if is_whiteout(info):
                if below is not None:
                    yield Change(kind="removed", path=path)
            elif stat.S_ISDIR(info.st_mode):
                opaque = self._enter(name, merged)
                change = self._of_directory(path, info, below, opaque=opaque)
                if change:
                    yield Change(kind=change, path=path)
            elif path not in self._ignore or info.st_size:
                size = info.st_size if stat.S_ISREG(info.st_mode) else 0
                same = below is not None and stat.S_IFMT(below.st_mode) == stat.S_IFMT(info.st_mode)
                yield Change(kind="added" if below is None else "changed" if same else "replaced", path=path, size=size)

    def _of_directory(self, path: str, info: os.stat_result, below: os.stat_result | None, *, opaque: bool) -> str:
        """The kind of change that a directory itself is, when it is one; it has been entered."""
        if below is None:
            names = [name for name, _ in self._levels[-1].pending]
            if path in self._ignore and not names:
                return ""
            # it exists only because a mount point is below it
            leads = len(names) == 1 and any(f"{place}/".startswith(f"{path}/{names[0]}/") for place in self._ignore)
            return "" if leads else "added"
        if opaque or not stat.S_ISDIR(below.st_mode):
            return "replaced"
        return "changed" if _rights(below) != _rights(info) else ""  # its times say only that something in it changed

    def _below(self, name: str) -> tuple[os.stat_result | None, list[int]]:
        """What the layers below have at a name of this directory, and those whose directories are merged there."""
        first: os.stat_result | None = None
        merged: list[int] = []
        for number, fd in self._lowers.items():
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_whiteout(info):
                break
            first = first or info
            if not stat.S_ISDIR(info.st_mode):
                break
            merged.append(number)
            if _is_opaque_at(fd, name):
                break
        return first, merged

    def _enter(self, name: str, merged: Sequence[int]) -> bool:
        """Goes down into a directory; whether it is opaque."""
        inner = os.open(name, _DIRECTORY, dir_fd=self._upper)
        os.close(self._upper)
        self._upper = inner
        opaque = is_opaque(inner)
        level = _Level(pending=_entries(inner), length=len(self._path))
        self._levels.append(level)
        self._path += f"/{name}"
        for number, fd in list(self._lowers.items()):
            if number in merged and not opaque:
                self._lowers[number] = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
            else:
                level.parked.append((number, fd))
                del self._lowers[number]
        return opaque

    def _leave(self) -> None:
        level = self._levels.pop()
        if not self._levels:
            for number, fd in level.parked:
                self._lowers[number] = fd
            return
        self._path = self._path[: level.length]
        self._upper = _above(self._upper)
        found = {number: _above(fd) for number, fd in self._lowers.items()}
        self._lowers = dict(sorted((found | dict(level.parked)).items()))


def _above(fd: int) -> int:
    try:
        return os.open("..", _DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def _entries(fd: int) -> list[tuple[str, os.stat_result]]:
    """What a directory has, the last name first."""
    with os.scandir(fd) as entries:
        return sorted(((entry.name, entry.stat(follow_symlinks=False)) for entry in entries), reverse=True)


def _is_opaque_at(parent: int, name: str) -> bool:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError:
        return False
    try:
        return is_opaque(fd)
    finally:
        os.close(fd)


def _rights(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_mode, info.st_uid, info.st_gid
