"""Project quotas: a limit on all that is in a directory, on the file systems that have them (xfs, ext4 with prjquota).

A directory gets a project number that everything made in it inherits. Numbers and structures are those of linux/quota.h,
linux/dqblk_xfs.h and linux/fs.h; quotactl_fd(2) came with Linux 5.14.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from roost.host import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRJQUOTA = 2
_Q_GETQUOTA, _Q_SETQUOTA, _Q_XGETQSTAT = 0x800007, 0x800008, 0x5805
_FS_QUOTA_PDQ_ENFD = 1 << 5  # project quotas are enforced, not only counted
_QIF_BLIMITS = 1
_BLOCK = 1024  # QIF_DQBLKSIZE: the unit of limits
_DQBLK = struct.Struct("=8QI4x")  # hard and soft limit, bytes in use; the same of inodes; two times; what is valid
_FS_IOC_FSGETXATTR, _FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=5I8x")  # flags, extent size, extents, project, copy-on-write extent size
_PROJINHERIT = 0x200
_OURS = 0x40000000  # project numbers that people choose are small


def enforced(directory: str) -> bool:
    """Whether the file system of ``directory`` enforces project quotas."""
    state = bytearray(256)  # struct fs_quota_stat; qs_flags is its second field
    try:
        _quotactl(directory, _Q_XGETQSTAT, 0, state)
    except OSError:
        return False
    return bool(struct.unpack_from("=H", state, 2)[0] & _FS_QUOTA_PDQ_ENFD)


def limit(directory: str, size: int) -> None:
    """Lets an empty directory hold ``size`` bytes at most; one that has a limit already gets the new one.

    Raises OSError where the file system has no project quotas.
    """
    project = _project(directory)
    if project < _OURS:
        project = _free_project(directory)
        _set_project(directory, project)
    _set_limit(directory, project, size)


def is_limited(directory: str) -> bool:
    """Whether ``limit`` was called for it."""
    try:
        return _project(directory) >= _OURS
    except OSError:
        return False


def release(directory: str) -> None:
    """Forgets the limit of a directory that is about to be removed; without one, nothing happens."""
    with contextlib.suppress(OSError):
        project = _project(directory)
        if project >= _OURS:
            _set_limit(directory, project, 0)


def used(directory: str) -> int:
    """Bytes that are used of a directory's limit. Raises OSError."""
    return _get(directory, _project(directory))[2]


def _free_project(directory: str) -> int:
    while True:
        project = _OURS | int.from_bytes(os.urandom(4), "little") >> 2
        try:
            if not any(_get(directory, project)[:6]):
                return project
        except FileNotFoundError:  # ENOENT: xfs has no record of it
            return project


def _get(directory: str, project: int) -> tuple[int, ...]:
    block = bytearray(_DQBLK.size)
    _quotactl(directory, _Q_GETQUOTA, project, block)
    return _DQBLK.unpack(block)


def _set_limit(directory: str, project: int, size: int) -> None:
    block = bytearray(_DQBLK.pack(size // _BLOCK, size // _BLOCK, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS))
    _quotactl(directory, _Q_SETQUOTA, project, block)


def _quotactl(directory: str, command: int, identity: int, block: bytearray) -> None:
    with _opened(directory) as fd:
        syscalls.quotactl_fd(fd, command << 8 | _PRJQUOTA, identity, block)


def _project(directory: str) -> int:
    with _opened(directory) as fd:
        attributes = fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    return int(_FSXATTR.unpack(attributes)[3])


def _set_project(directory: str, project: int) -> None:
    """For the directory and those in it: what exists does not inherit."""
    for path in (directory, *(entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))):
        with _opened(path) as fd:
            flags, size, extents, _, cow = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))
            wanted = _FSXATTR.pack(flags | _PROJINHERIT, size, extents, project, cow)
            fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, wanted)


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
