"""Copies files out of a session: nothing in its tree is trusted to be what, or where, it says."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any

from roost.host import files, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEPTH_MAX = 64
ENTRIES_MOST = 5_000_000
_WARNINGS_MOST = 20  # a session may make any number of things that cannot be copied
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OUT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Collector:
    """Copies what globs match below ``root`` (a directory's descriptor) to ``output``, owned by ``owner``.

    ``output`` is a real path, as it was before the session ran: a link that is in it now was put there since.
    """

    def __init__(self, root: int, output: str, owner: tuple[int, int]) -> None:
        self._root = root
        self._output = output
        self._owner = owner
        self.copied: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._warned = 0

    def collect(self, pattern: str, prefix: str) -> None:
        """``pattern`` is relative to ``root``; ``prefix`` is how a person names ``root``, to be put before what is found."""
        before = len(self.copied) + self._warned
        try:
            for path in expand(self._root, pattern):
                self._copy(path, prefix, depth=0)
        except OSError as e:
            self._warn(f"artifact {prefix}{pattern}: {e.strerror}")
        if len(self.copied) + self._warned == before:
            self._warn(f"no artifact matches {prefix}{pattern}")

    def _copy(self, path: str, prefix: str, *, depth: int, link: bool = False) -> None:
        """A file, or a directory with all below it; a link's file where the link leads inside the session.

        Below a directory, a link to another one is not followed: a tree of such links may have no end.
        """
        try:
            fd = files.open_inside(self._root, path)
        except OSError as e:
            self._warn(f"artifact {prefix}{path}: {e.strerror}")
            return
        try:
            info = os.fstat(fd)
            if stat.S_ISDIR(info.st_mode):
                if link:
                    self._warn(f"artifact {prefix}{path}: a link to a directory, not followed")
                    return
                if depth >= _DEPTH_MAX:
                    self._warn(f"artifact {prefix}{path}: more than {_DEPTH_MAX} directories deep")
                    return
                with os.scandir(fd) as entries:
                    found = sorted((entry.name, entry.is_symlink()) for entry in entries)
                for name, is_link in found:
                    self._copy(f"{path}/{name}", prefix, depth=depth + 1, link=is_link)
                return
            try:
                self._write(fd, path, prefix, info)
            except OSError as e:
                self._warn(f"artifact {prefix}{path} could not be written: {e.strerror}")
        finally:
            os.close(fd)

    def _warn(self, text: str) -> None:
        self._warned += 1
        if self._warned <= _WARNINGS_MOST:
            self.warnings.append(files.printable(text))
        else:
            more = self._warned - _WARNINGS_MOST
            self.warnings[_WARNINGS_MOST:] = [f"artifacts: {more} more warning{'' if more == 1 else 's'} of that kind"]

    def _write(self, fd: int, path: str, prefix: str, info: os.stat_result) -> None:
        """By descriptors all the way: the session may have had a hand in the output directory too, through a bind."""
        target = os.path.join(self._output, os.path.normpath(path).lstrip("/"))
        directory, name = os.path.split(target)
        parent = self._directory(directory)
        part = f".{os.urandom(8).hex()}.part"
        try:
            out = os.open(part, _OUT, 0o600, dir_fd=parent)
            try:
                _copy_content(fd, out)
                os.fchown(out, *self._owner)
                os.fchmod(out, info.st_mode & 0o777)  # no set-user-id leaves a session
                os.utime(out, ns=(info.st_mtime_ns, info.st_mtime_ns))
                size = os.fstat(out).st_size
                os.rename(part, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=parent)
                raise
            finally:
                os.close(out)
        finally:
            os.close(parent)
        self.copied.append(
            {"path": files.printable(target), "source": files.printable(f"{prefix}{path}"), "size": size}
        )

    def _directory(self, path: str) -> int:
        """A descriptor of a directory, made where it is missing; a link on the way is an OSError (ELOOP, ENOTDIR)."""
        fd = os.open("/", _DIRECTORY)
        for part in path.strip("/").split("/"):
            try:
                made = True
                try:
                    os.mkdir(part, dir_fd=fd)
                except FileExistsError:
                    made = False
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
            if made:
                os.fchown(fd, *self._owner)
        return fd


def _copy_content(source: int, target: int) -> None:
    """All of a file. The kernel copies within one file system only (EXDEV): from an overlay it never does."""
    sys.audit("roost.write", target)
    while block := os.read(source, 1 << 20):
        view = memoryview(block)
        while view:
            view = view[os.write(target, view) :]


def expand(root: int, pattern: str) -> Iterator[str]:
    """The paths below ``root`` that match a glob: ``*``, ``?``, ``[…]`` within a name, ``**`` for any directories.

    Each once. However the pattern and the tree are, no directory is looked at twice for the same part of the pattern,
    and after ENTRIES_MOST names it is over (OSError, E2BIG): a tree of links to itself has paths without end.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if ".." in parts:
        return
    seen: set[tuple[str, int]] = set()
    looked = 0
    pending = [("", 0, 0)]  # a path, the parts that it has matched, the directories that the last ** has taken
    while pending:
        path, matched, depth = pending.pop()
        if (path, matched) in seen:
            continue
        seen.add((path, matched))
        if matched == len(parts):
            if path:
                yield path
            continue
        if looked > ENTRIES_MOST:
            raise OSError(errno.E2BIG, "more names than can be looked at")
        below, entries = _step(root, path, parts, matched, depth)
        looked += entries
        pending += reversed(below)


def _step(
    root: int, path: str, parts: Sequence[str], matched: int, depth: int
) -> tuple[list[tuple[str, int, int]], int]:
    """What follows from one state of ``expand``, and how many names were looked at."""
    part = parts[matched]
    if part != "**" and not any(c in part for c in "*?["):
        here = f"{path}/{part}".lstrip("/")
        return ([(here, matched + 1, 0)] if _exists(root, here) else []), 1
    found = _entries(root, path)
    if part != "**":
        fits = re.compile(fnmatch.translate(part)).match
        hidden = part.startswith(".")
        names = [name for name, _ in found if (hidden or not name.startswith(".")) and fits(name)]
        return [(f"{path}/{name}".lstrip("/"), matched + 1, 0) for name in names], len(found) + 1
    below = [(path, matched + 1, 0)]
    if depth < _DEPTH_MAX:
        below += [(f"{path}/{name}".lstrip("/"), matched, depth + 1) for name, directory in found if directory]
    return below, len(found) + 1


def _exists(root: int, path: str) -> bool:
    try:
        os.close(syscalls.openat2(path, os.O_PATH | os.O_NOFOLLOW, root=root))
    except OSError:
        return False
    return True


def _entries(root: int, path: str) -> list[tuple[str, bool]]:
    """Names in a directory, each with whether it is a directory itself (a link to one is not)."""
    try:
        fd = syscalls.openat2(path or "/", os.O_RDONLY | os.O_DIRECTORY, root=root)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(fd)
