"""What the layers below show at a path, and how a file of theirs is copied up: for hard links of an image's layers.

Docker, podman and umoci make layers of what changed. A new name of an old file is a hard link to something that the layer
itself does not have; on an overlay it is copied up by the kernel, here by ``copy_up``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from roost.host import syscalls
from roost.session.changes import OPAQUE, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK = 1 << 20  # bytes


def find(roots: Sequence[int], path: Sequence[str]) -> int:
    """A descriptor (O_PATH) of the file that overlayfs would show at ``path``; the trees' top directory comes first.

    Links in a path are followed within their own layer, not from one into another. Raises FileNotFoundError when there
    is nothing, or something that hides it.
    """
    for root in roots:
        last = False
        for count in range(1, len(path) + 1):
            try:
                fd = syscalls.openat2("/".join(path[:count]), os.O_PATH | os.O_NOFOLLOW, root=root)
            except FileNotFoundError:
                break
            info = os.fstat(fd)
            if count == len(path) and not is_whiteout(info):
                return fd
            last = last or is_whiteout(info) or _is_opaque(fd, info)
            os.close(fd)
        if last:
            break
    raise FileNotFoundError("/".join(path))


def _is_opaque(fd: int, info: os.stat_result) -> bool:
    if not stat.S_ISDIR(info.st_mode):
        return not stat.S_ISLNK(info.st_mode)  # a file hides a directory below it
    with contextlib.suppress(OSError):
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    return False


def copy_up(source: int, parent: int, name: str) -> int:
    """Makes ``name`` in the directory ``parent`` what ``source`` is (a file or a link); how many bytes were written.

    Raises OSError; ValueError for what is neither.
    """
    info = os.fstat(source)
    here = f"/proc/self/fd/{source}"
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink("", dir_fd=source), name, dir_fd=parent)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=parent, follow_symlinks=False)
        return 0
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(here, "rb", buffering=0) as stream, open(os.open(name, flags, 0o600, dir_fd=parent), "wb", 0) as target:
        while os.sendfile(target.fileno(), stream.fileno(), None, _BLOCK):
            pass
        os.fchown(target.fileno(), info.st_uid, info.st_gid)
        os.fchmod(target.fileno(), stat.S_IMODE(info.st_mode))  # after the owner, which clears set-user-id
        for key in os.listxattr(here):
            if key == "security.capability" or key.startswith("user."):
                os.setxattr(target.fileno(), key, os.getxattr(here, key))
        os.utime(target.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))
    return info.st_size
