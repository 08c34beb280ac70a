"""Files and directories: locks, publishing by rename, and removal that never leaves the tree it was given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import time

from roost.errors import BusyError, HostError, StoreError
from roost.host import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


SPARES = 3  # of each kind: removing a layer takes a directory, two locks and a file, keeping a session a directory and a file
_FULL = (errno.ENOSPC, errno.EDQUOT)


def make_spares(where: str) -> None:
    """Empty directories and files for ``make_directory`` and ``make_file``; on a full disk, as many as there are."""
    with contextlib.suppress(OSError):
        os.makedirs(where, mode=0o700, exist_ok=True)
        for number in range(SPARES):
            if not os.path.exists(f"{where}/file{number}"):
                os.close(os.open(f"{where}/file{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if not os.path.exists(f"{where}/directory{number}"):
                os.mkdir(f"{where}/directory{number}", 0o700)


def make_directory(path: str, spares: str) -> None:
    """mkdir(2); on a full disk a spare one gets the name: what makes room must not need any."""
    try:
        os.mkdir(path, 0o700)
    except OSError as e:
        if e.errno not in _FULL or not _took_spare("directory", path, spares):
            raise


def make_file(path: str, spares: str) -> None:
    """The same with an empty file; one that exists stays."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        if e.errno not in _FULL or not _took_spare("file", path, spares):
            raise


def _took_spare(kind: str, path: str, spares: str) -> bool:
    for number in range(SPARES):
        with contextlib.suppress(OSError):  # taken already, or on another file system
            os.rename(f"{spares}/{kind}{number}", path)
            return True
    return False


def write_in_any_case(path: str, data: bytes, *, durable: bool, staging: str = "") -> None:
    """``write_atomic``; on a full disk a small file that exists is replaced where it is, in the block that it has."""
    try:
        write_atomic(path, data, durable=durable, staging=staging)
    except OSError as e:
        if e.errno not in _FULL or not os.path.exists(path):
            raise
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            sys.audit("roost.write", path)
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
            sys.audit("roost.fsync", path)
            os.fsync(fd)
        finally:
            os.close(fd)


def try_lock(path: str, *, shared: bool = False, spares: str = "") -> int | None:
    """A descriptor that holds an flock on ``path`` (made when missing), or None when somebody else has it.

    The lock is on the file that has the name now: one that was replaced or removed meanwhile does not count. On a full
    disk one of ``spares`` gets the name.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            if not spares or e.errno not in _FULL or not _took_spare("file", path, spares):
                raise
            continue
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:  # removed between open and stat: the next round makes it anew
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def drop_free_lock(path: str) -> bool:
    """Unlinks a lock file that nobody holds, holding it meanwhile, so that nobody takes it and loses its name."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                os.unlink(path)
                return True
        finally:
            os.close(fd)
    return False


def is_held(path: str) -> bool:
    """Whether somebody holds the lock file ``path``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def locked(path: str, *, seconds: float | None = None, shared: bool = False, spares: str = "") -> Iterator[int]:
    """Holds an flock on ``path``; waits at most ``seconds`` for it (None: for ever).

    Raises BusyError when the time is over.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while (fd := try_lock(path, shared=shared, spares=spares)) is None:
        if deadline is not None and time.monotonic() >= deadline:
            raise BusyError(f"{path} is locked", hint="another roost is at work on it: wait for it, or end it")
        time.sleep(0.02)  # flock(2) cannot wait with a deadline
    try:
        yield fd
    finally:
        if not shared:  # whoever waits for it looks for its name again
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.close(fd)


def write_atomic(path: str, data: bytes, *, mode: int = 0o644, durable: bool = False, staging: str = "") -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    ``durable``: it and its name are on the disk when this returns. ``staging`` is the directory for the part that is
    there until then, which holds its own lock, so that whoever clears the directory knows whether somebody writes it.
    """
    fd, part = _part(path, mode, staging)
    try:
        with open(fd, "wb") as stream:
            sys.audit("roost.write", part)
            stream.write(data)
            stream.flush()
            if durable:
                sys.audit("roost.fsync", part)
                os.fsync(stream.fileno())
            os.rename(part, path)  # while its lock is held
    except BaseException as e:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(e, OSError) and e.filename is None:  # write(2) has a descriptor only
            e.filename = path
        raise
    if durable:
        fsync_directory(os.path.dirname(path))


def _part(path: str, mode: int, staging: str) -> tuple[int, str]:
    """A new file, locked, to become ``path`` by a rename."""
    directory, name = os.path.split(path)
    while True:
        word = os.urandom(4).hex()
        part = f"{staging}/part-{word}" if staging else f"{directory}/.{name}.{word}.part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd, part
        os.close(fd)  # somebody took it for a dead process's before it was locked


def copy_atomic(source: str, target: str) -> None:
    """Copies a file so that nobody sees a part of it under its name."""
    fd, part = _part(target, 0o644, "")
    try:
        with open(source, "rb") as reader, open(fd, "wb") as writer:
            sys.audit("roost.write", part)
            while block := reader.read(1 << 20):
                writer.write(block)
            writer.flush()
            os.rename(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def sync(path: str) -> None:
    """Everything in the file system of a directory reaches the disk."""
    fd = os.open(path, _DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def expect_roots(path: str) -> None:
    """Whoever can change the directory could put a layer there, or a session's terms. Raises HostError."""
    info = os.stat(path)
    if info.st_uid != 0 or info.st_mode & 0o022:
        raise HostError(
            f"{path} can be changed by others than root",
            hint=f"`chown root {path}; chmod go-w {path}`, or use another place",
        )


def fsync_directory(path: str) -> None:
    """The names in a directory reach the disk."""
    fd = os.open(path, _DIRECTORY)
    try:
        sys.audit("roost.fsync", path)
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(stage: str, final: str) -> bool:
    """Gives a finished directory its final name, when all of it is on the disk; False: somebody was faster."""
    sync(stage)
    try:
        os.rename(stage, final)
        first = True
    except OSError as e:
        if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        first = False
    fsync_directory(os.path.dirname(final))  # also after another's rename: it may not have come so far yet
    return first


def remove_tree(path: str) -> None:
    """Removes a directory with all that is in it; missing is fine.

    No symbolic link is followed and no other file system is entered: a mount below is refused, with nothing removed in
    it (StoreError). Works on descriptors, so that a tree that changes meanwhile cannot lead it astray.
    """
    parent, name = os.path.split(path)
    try:
        parent_fd = os.open(parent, _DIRECTORY & ~os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        _remove_at(parent_fd, name, path, device=None)
    finally:
        os.close(parent_fd)


def _remove_at(parent: int, name: str, shown: str, *, device: int | None) -> None:
    """Depth first with one descriptor: a tree may be deeper than Python's stack, PATH_MAX and the limit on open files."""
    fd = _open_directory(parent, name, shown, device)
    if fd is None:
        return
    top = os.fstat(parent)
    device = os.fstat(fd).st_dev
    stack = [(name, _empty(fd), (top.st_dev, top.st_ino))]
    try:
        while stack:
            name, below, above = stack[-1]
            if below:
                child = below.pop()
                here = os.fstat(fd)
                inner = _open_directory(fd, child, f"{shown}/…/{child}", device)
                if inner is not None:
                    os.close(fd)
                    fd = inner
                    stack.append((child, _empty(fd), (here.st_dev, here.st_ino)))
                continue
            stack.pop()
            up = os.open("..", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = up
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) != above:
                raise StoreError(f"not removed: {shown} is being moved", hint="end what works in it, then try again")
            os.rmdir(name, dir_fd=fd)
    finally:
        os.close(fd)


def _empty(fd: int) -> list[str]:
    """Unlinks everything in a directory that is no directory; the names of the directories."""
    below = []
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if is_directory:
            below.append(name)
        else:
            os.unlink(name, dir_fd=fd)
    return below


def _open_directory(parent: int, name: str, shown: str, device: int | None) -> int | None:
    """Opens a directory of the tree; None when it is gone or was no directory (and is now unlinked)."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent)
        return None
    if device is not None and os.fstat(fd).st_dev != device:
        os.close(fd)
        raise StoreError(
            f"not removed: something is mounted at {shown}",
            hint=f"see `findmnt {shown}`; unmount it, then try again",
        )
    return fd


def names_in(directory: str, *, hidden: bool = False) -> list[str]:
    """What a directory has, in order; those that begin with a dot, or the others. Nothing when it is missing."""
    try:
        return sorted(name for name in os.listdir(directory) if name.startswith(".") == hidden)
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_inside(root: int, path: str) -> int:
    """Opens a regular file or a directory of the tree ``root`` (a descriptor) for reading; no link leads out of it.

    Anything else is not even opened, which would act on a device or wait for a pipe's other end. Raises OSError.
    """
    there = syscalls.openat2(path, os.O_PATH, root=root)
    try:
        if not stat.S_ISREG(mode := os.fstat(there).st_mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return os.open(f"/proc/self/fd/{there}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(there)


def read_inside(tree: str, path: str, *, most: int) -> bytes:
    """At most ``most`` bytes of a regular file in the directory ``tree``, found as by ``open_inside``. Raises OSError."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_inside(root, path)
    finally:
        os.close(root)
    try:
        with open(fd, "rb", closefd=False) as stream:  # which refuses a directory
            return stream.read(most)
    finally:
        os.close(fd)


def printable(text: str) -> str:
    """A path or word for a record, which is Unicode: bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(text).decode(errors="backslashreplace")


class Usage:
    """What a tree occupies: ``size`` in bytes of disk blocks, ``files`` counted once per inode."""

    def __init__(self) -> None:
        self.size = 0
        self.files = 0


def usage(path: str) -> Usage:
    """Adds up a tree without leaving its file system; what vanishes meanwhile is not counted."""
    total = Usage()
    seen: set[int] = set()
    pending = [path]
    device = os.stat(path, follow_symlinks=False).st_dev
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                        if info.st_ino in seen:
                            continue
                        seen.add(info.st_ino)
                    total.size += info.st_blocks * 512
                    total.files += 1
                    if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
                        pending.append(entry.path)
        except OSError:
            continue
    return total
