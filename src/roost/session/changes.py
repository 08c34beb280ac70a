"""What a session changed, read from its upper directory.

overlayfs keeps there (kernel documentation, filesystems/overlayfs): new and changed files as they are; a whiteout, a
character device 0:0, for what was removed; the xattr trusted.overlay.opaque "y" on a directory that hides what was
below its name.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.host import syscalls

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
    roots = [os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for lower in lowers]
    fd = os.open(upper, _DIRECTORY)
    try:
        yield from _walk(fd, "", roots, at, ignore)
    finally:
        os.close(fd)
        for root in roots:
            os.close(root)


def _walk(top: int, path: str, lowers: Sequence[int], at: str, ignore: frozenset[str]) -> Iterator[Change]:
    with os.scandir(top) as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    for name, info in found:
        here = f"{path}/{name}"
        shown = f"{at}{here}"
        below = _below(here, lowers)
        if is_whiteout(info):
            if below is not None:
                yield Change(kind="removed", path=shown)
            continue
        if not stat.S_ISDIR(info.st_mode):
            if shown in ignore and info.st_size == 0:
                continue
            size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            kind = (
                "added"
                if below is None
                else "changed"
                if stat.S_IFMT(below.st_mode) == stat.S_IFMT(info.st_mode)
                else "replaced"
            )
            yield Change(kind=kind, path=shown, size=size)
            continue
        fd = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            if below is None:
                if not (shown in ignore and not os.listdir(fd)) and not _leads_to(shown, ignore, fd):
                    yield Change(kind="added", path=shown)
            elif is_opaque(fd) or not stat.S_ISDIR(below.st_mode):
                yield Change(kind="replaced", path=shown)
            elif _rights(below) != _rights(info):  # its times say only that something in it changed
                yield Change(kind="changed", path=shown)
            yield from _walk(fd, here, () if below is None or is_opaque(fd) else lowers, at, ignore)
        finally:
            os.close(fd)


def _leads_to(path: str, ignore: frozenset[str], fd: int) -> bool:
    """Whether a directory exists only because a mount point is below it."""
    names = os.listdir(fd)
    return len(names) == 1 and any(f"{place}/".startswith(f"{path}/{names[0]}/") for place in ignore)


def _rights(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_mode, info.st_uid, info.st_gid


def _below(path: str, lowers: Sequence[int]) -> os.stat_result | None:
    """What the layers below have at ``path``, None for nothing. No link in a layer is followed."""
    for root in lowers:
        try:
            fd = syscalls.openat2(
                path.lstrip("/"),
                os.O_PATH | os.O_NOFOLLOW,
                root=root,
                resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS,
            )
        except OSError as e:
            if e.errno in (errno.ELOOP, errno.ENOTDIR):
                return None  # something else than a directory is on the way: it hides the rest
            if _hidden(path, root):
                return None
            continue
        try:
            info = os.fstat(fd)
        finally:
            os.close(fd)
        return None if is_whiteout(info) else info
    return None


def _hidden(path: str, root: int) -> bool:
    """Whether a directory on the way to ``path`` is opaque, or whited out, in this layer."""
    parts = path.strip("/").split("/")[:-1]
    for count in range(1, len(parts) + 1):
        try:
            fd = syscalls.openat2(
                "/".join(parts[:count]), os.O_PATH | os.O_NOFOLLOW, root=root,
                resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS,
            )  # fmt: skip
        except OSError:
            return False
        try:
            if is_whiteout(os.fstat(fd)) or is_opaque(fd):
                return True
        finally:
            os.close(fd)
    return False
