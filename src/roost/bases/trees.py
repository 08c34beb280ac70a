"""Directories of the host that become layers: copied, digested, and known again without being read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from roost.errors import StoreError, of_os
from roost.host import runner
from roost.plan import digest
from roost.session.changes import OPAQUE, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_OVERLAY = "trusted.overlay."


def copy(source: str, target: str, what: str) -> None:
    """A tree with all that is in it, as far as its file system goes; ``what`` is for messages.

    cp keeps owners, links, holes, devices (whiteouts) and xattrs (opaque directories), and shares blocks if it can.
    Raises HostError when the disk is full, StoreError or CommandError for what cannot be copied.
    """
    argv = ("cp", "--archive", "--reflink=auto", "--one-file-system", "--no-target-directory", "--", source, target)
    done = runner.run(runner.Command(argv=argv, private=True))
    for code in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(code).encode() in done.output:
            raise of_os(OSError(code, os.strerror(code), target))
    if done.status and os.strerror(errno.ENAMETOOLONG).encode() in done.output:
        raise StoreError(f"{what} has a path that is longer than the kernel takes", hint="remove it")
    runner.check(done)


def content(tree: str, *, without: Container[str] = ()) -> str:
    """One digest over every path, its metadata and its content; ``without`` these names in the tree's top directory."""
    total = hashlib.sha256()
    for path, info in walk(tree, without=without):
        item: list[object] = [path, info.st_mode, info.st_uid, info.st_gid, info.st_rdev]
        full = f"{tree}/{path}"
        if stat.S_ISREG(info.st_mode):
            with open(full, "rb", opener=_no_follow) as stream:
                item.append(hashlib.file_digest(stream, "sha256").hexdigest())
        elif stat.S_ISLNK(info.st_mode):
            item.append(os.readlink(full))
        names = sorted(os.listxattr(full, follow_symlinks=False))
        item.append([[key, os.getxattr(full, key, follow_symlinks=False).hex()] for key in names])
        total.update(digest(item).encode())
    return total.hexdigest()


def stamp(tree: str, *, without: Container[str] = ()) -> tuple[str, int]:
    """A digest that is another after any change, found without reading a file; and when the newest was (ns).

    It takes the times of change of inodes, which nobody can set.
    """
    total = hashlib.sha256()
    newest = os.stat(tree).st_ctime_ns
    for path, info in walk(tree, without=without):
        newest = max(newest, info.st_ctime_ns)
        total.update(
            f"{path}\0{info.st_ino} {info.st_mode} {info.st_size} {info.st_ctime_ns}\0".encode(errors="surrogateescape")
        )
    return total.hexdigest(), newest


def walk(tree: str, *, without: Container[str] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Every path with its state, in one order, on this file system alone."""
    device = os.stat(tree).st_dev
    pending = [""]
    while pending:
        here = pending.pop()
        with os.scandir(os.path.join(tree, here)) as entries:
            found = sorted(
                (os.path.join(here, e.name), e.stat(follow_symlinks=False))
                for e in entries
                if here or e.name not in without
            )
        for path, info in found:
            yield path, info
            if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
                pending.append(path)


def clean(tree: str, what: str, *, upper: bool) -> None:
    """Takes out of a copied tree what a layer may not have: devices below /dev, which every session has of its own, and
    overlayfs's marks; of an ``upper`` directory whiteouts and opaque directories stay.

    Raises StoreError for a device elsewhere, and for what an upper directory has only a reference to.
    """
    gone = []
    for path, info in walk(tree):
        full = f"{tree}/{path}"
        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            if upper and is_whiteout(info):
                continue
            if not path.startswith("dev/"):
                raise StoreError(f"{what} has a device at /{path}", hint="remove it: sessions have theirs in /dev")
            gone.append(full)
        elif stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
            _clean_marks(full, path, what, upper=upper)
        elif stat.S_ISSOCK(info.st_mode):
            gone.append(full)
    for full in gone:
        os.unlink(full)


def _clean_marks(full: str, path: str, what: str, *, upper: bool) -> None:
    for name in os.listxattr(full, follow_symlinks=False):
        if not name.startswith(_OVERLAY) or (upper and name == OPAQUE):
            continue
        if upper and name in (f"{_OVERLAY}redirect", f"{_OVERLAY}metacopy"):
            raise StoreError(
                f"/{path} of {what} only refers to what is below it ({name})",
                hint="it was mounted with redirect_dir or metacopy: mount it so again, copy the merged tree, and adopt that",
            )
        with contextlib.suppress(OSError):
            os.removexattr(full, name, follow_symlinks=False)


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
