"""overlayfs: the mount as a value, and how it is made."""

from __future__ import annotations

import contextlib
import errno
import os

from roost.errors import StoreError
from roost.host import syscalls
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPTIONS_MAX = 4095  # mount(2): one page, less its end
_LEAST = 64  # blocks, or inodes: with fewer free ones a file system that refuses is taken to be full


class Overlay(Struct, frozen=True, kw_only=True):
    """One overlay mount; ``lower`` from the top down, as the kernel has it. Paths may be relative."""

    lower: tuple[str, ...]
    upper: str
    work: str
    volatile: bool = False

    def options(self) -> str:
        """The options for mount(2).

        ``index`` and ``metacopy`` off whatever the kernel's default, so that an upper directory is whole by itself and
        may become a layer. ``volatile``: no sync at unmount, right for what is thrown away.

        Raises StoreError when a path holds overlayfs's own syntax, or the text is too long for one call.
        """
        paths = (*self.lower, self.upper, self.work)
        if bad := [path for path in paths if set(path) & set(":,\\")]:
            raise StoreError(f"{bad[0]!r} cannot be part of an overlay", hint="no ':' ',' or '\\' in the path")
        text = f"lowerdir={':'.join(self.lower)},upperdir={self.upper},workdir={self.work},index=off,metacopy=off"
        text += ",volatile" if self.volatile else ""
        if len(text) > OPTIONS_MAX:
            raise StoreError(f"{len(self.lower)} layers do not fit into one overlay", hint="use fewer profiles")
        return text


@contextlib.contextmanager
def acting_as(owner: int) -> Iterator[None]:
    """Makes files as ``owner`` (0: nothing changes), with all capabilities, as SECBIT_NO_SETUID_FIXUP keeps them.

    For a process that is about to exec or end: the kernel forgets its parent-death signal here.
    """
    if not owner:
        yield
        return
    syscalls.prctl(syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NO_SETUID_FIXUP)
    syscalls.set_fs_ids(owner, owner)
    try:
        yield
    finally:
        syscalls.set_fs_ids(os.geteuid(), os.getegid())
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, 0)


def mount_overlay(overlay: Overlay, target: str, *, owner: int, flags: int = 0) -> None:
    """Mounts as the ids ``owner``: overlayfs makes its work files, and copies up, with the mounter's file system ids.

    With other ids than those of id-mapped upper directories the mount would succeed and be silently read-only. So it is
    when there is no room for overlayfs's own directory: then OSError is raised.
    """
    with acting_as(owner):
        syscalls.mount("overlay", target, "overlay", flags=flags, options=overlay.options())
    if os.statvfs(target).f_flag & os.ST_RDONLY:
        room = os.statvfs(overlay.upper)
        full = room.f_bavail < _LEAST or room.f_favail < _LEAST
        code = errno.ENOSPC if full and not room.f_flag & os.ST_RDONLY else errno.EROFS
        raise OSError(code, os.strerror(code), overlay.upper)


def lower_names(count: int) -> Sequence[str]:
    """Short names for the mount points of layers: the options must fit into a page."""
    return [f"l{number}" for number in range(count)]
