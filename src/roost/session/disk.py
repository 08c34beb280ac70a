"""A limit on what a session may write: its changes, with its /tmp and the copies of the caller's trees.

By a project quota where the file system of the session's directory enforces them; else what is written goes into a file
system of that size, in a sparse file of the session's directory, which is mounted in the session's namespaces only. It
is not a tmpfs: a build may write more than the computer has memory, and its files would count as memory of the session.
"""

from __future__ import annotations

import errno
import os

from roost.errors import Error, HostError, StoreError
from roost.host import files, loop, quota, runner, syscalls
from roost.structs import Struct

IMAGE = "disk.ext4"
LEAST = 8 << 20  # bytes; the definition takes no less
_SLACK = 2 << 20
"""Bytes beyond the limit: a large write fails as a whole, so that without it a full disk would be short of the limit."""


class Disk(Struct, frozen=True, kw_only=True):
    """What enforces the limit (bytes) of the session in ``directory``; ``image`` is empty where a quota does."""

    directory: str
    limit: int
    image: str = ""

    def is_full(self, fd: int | None) -> bool:
        """Whether the limit is reached now. ``fd``: a directory in the mounted image."""
        enough = self.limit - self.limit // 128
        try:
            if not self.image:
                return quota.used(self.directory) >= enough
            if fd is None:
                return False
            info = os.fstatvfs(fd)
        except OSError:
            return False
        return (info.f_blocks - info.f_bfree) * info.f_frsize >= enough or info.f_ffree == 0

    def is_without_host(self) -> bool:
        """Whether the host's disk has no room for an image that grows: the kernel then loses what is written to it."""
        if not self.image:
            return False
        info = os.statvfs(self.directory)
        return info.f_bavail * info.f_frsize < _SLACK

    def release(self) -> None:
        """Before the session's directory is removed: what the file system knows of it beside its files."""
        if not self.image:
            quota.release(self.directory)

    def settle(self, mount_point: str) -> None:
        """Puts what is in the image into the session's directory, where what is kept is looked for; then removes it.

        ``mount_point`` is an empty directory of the host. Raises StoreError, and then the image stays as it is.
        """
        if not self.image:
            return
        try:
            runner.in_child(lambda: self._copy(mount_point))
        except (Error, OSError) as e:
            brief, details = (e.brief, e.details) if isinstance(e, Error) else (f"{e.strerror}: {e.filename}", "")
            raise StoreError(f"its disk was not copied: {brief}", details=details, hint="make room: `roost gc`") from e
        os.unlink(self.image)

    def _copy(self, mount_point: str) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        loop.mount_ext4(self.image, mount_point)
        for name in os.listdir(mount_point):
            if name == "upper" or name.startswith("source"):
                files.remove_tree(f"{self.directory}/{name}")
                # as commit does: owners, links, holes, devices (whiteouts) and xattrs (opaque directories)
                argv = ("cp", "--archive", "--no-target-directory", f"{mount_point}/{name}", f"{self.directory}/{name}")
                runner.check(runner.run(runner.Command(argv=argv, private=True)))


def kind(directory: str, *, private_users: bool = True) -> str:
    """How a limit would be enforced below ``directory``: "quota" or "image".

    Root without a user namespace may take a file out of its project (fileattr_set_prepare, fs/file_attr.c).
    """
    return "quota" if private_users and quota.enforced(directory) else "image"


def set_up(directory: str, limit: int, *, private_users: bool) -> Disk:
    """Limits a session's directory in which nothing was written yet. Raises HostError, saying what the host lacks."""
    try:
        if kind(directory, private_users=private_users) == "quota":
            quota.limit(directory, limit + _SLACK)
            return Disk(directory=directory, limit=limit)
        image = f"{directory}/{IMAGE}"
        loop.make_ext4(image, limit + _SLACK)
    except OSError as e:
        hint = "the limit is larger than a file may be here" if e.errno == errno.EFBIG else "see `roost doctor`"
        raise HostError(f"the disk of the session cannot be limited: {e.strerror}", hint=hint) from e
    except Error as e:
        raise HostError(
            f"the disk of the session cannot be limited: {e.brief}",
            details=e.details,
            hint=e.hint or "see `roost doctor`",
        ) from e
    return Disk(directory=directory, limit=limit, image=image)


def set_again(directory: str, limit: int) -> Disk | None:
    """Another limit for a session that was written to already: only a quota that it has can be changed."""
    if not quota.is_limited(directory):
        return None
    quota.limit(directory, limit + _SLACK)
    return Disk(directory=directory, limit=limit)


def mount(image: str, target: str, names: list[str]) -> None:
    """In a private mount namespace: shows the image, with a directory for the changes of each overlay in ``names``.

    An empty name is the session's own overlay. Raises OSError or HostError.
    """
    loop.mount_ext4(image, target)
    for name in names:
        place = os.path.join(target, name)
        for part in (place, f"{place}/upper"):
            if not os.path.isdir(part):
                os.mkdir(part, 0o755)
        files.remove_tree(f"{place}/work")  # an earlier run's, which says that nothing was synced
        os.mkdir(f"{place}/work", 0o700)
