"""Id-mapped mounts: a directory tree whose owners are shown shifted, without a chown on disk.

An extent is (id on disk, id shown, count). Needs Linux 5.12, and 5.19 for the result to be a layer of an overlay; the
file system must allow it (ext4, xfs, btrfs, tmpfs since 6.3, ...; not overlayfs).
"""

from __future__ import annotations

import errno
import os

from roost.errors import HostError
from roost.host import runner, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Extent = tuple[int, int, int]
RANGE = 65536  # ids of one container, as nspawn's --private-users has it


def shifted(base: int) -> tuple[Extent, ...]:
    """0..65535 on disk, shown from ``base``."""
    return ((0, base, RANGE),)


def given_to(owner: int, user: int, base: int) -> tuple[Extent, ...]:
    """Like ``shifted``, with the ids ``owner`` (on disk) and ``user`` (in the container) exchanged.

    So what ``owner`` has on disk belongs to ``user`` inside, whatever the two numbers are.
    """
    if owner == user:
        return shifted(base)
    if owner >= RANGE:  # no place for it in the range: it takes that of `user`
        extents = [(owner, base + user, 1)]
        cuts = [user]
    else:
        extents = [(owner, base + user, 1), (user, base + owner, 1)]
        cuts = sorted((owner, user))
    start = 0
    for cut in [*cuts, RANGE]:
        if cut > start:
            extents.append((start, base + start, cut - start))
        start = cut + 1
    return tuple(extents)


def only(owner: int, user: int, base: int) -> tuple[Extent, ...]:
    """What ``owner`` has on disk belongs to ``user`` inside; nobody inside is anybody else there, root least of all."""
    return ((owner, base + user, 1),)


def user_namespace(uids: Sequence[Extent], gids: Sequence[Extent]) -> int:
    """A descriptor of a user namespace with these maps; no process is left in it."""
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()

    def hold() -> None:
        os.close(ready_r)
        os.close(done_w)
        runner.die_with_parent()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(ready_w, b"r")
        os.read(done_r, 1)

    pid = runner.fork(hold)
    try:
        os.close(ready_w)
        os.close(done_r)
        if not os.read(ready_r, 1):
            raise HostError("cannot make a user namespace", hint="see /proc/sys/user/max_user_namespaces")
        for name, extents in (("uid_map", uids), ("gid_map", gids)):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, "".join(f"{a} {b} {n}\n" for a, b, n in extents).encode())
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(done_w)
        os.close(ready_r)
        os.waitpid(pid, 0)


def mount_mapped(source: str, target: str, userns_fd: int | None, *, attributes: int = 0) -> None:
    """Shows the directory ``source`` at ``target`` through a user namespace's map (None: as it is).

    Raises HostError when the file system of ``source`` cannot be mapped.
    """
    fd = syscalls.open_tree(source)
    try:
        if userns_fd is not None or attributes:
            syscalls.mount_setattr(fd, attributes=attributes, userns_fd=userns_fd, name=source)
        syscalls.move_mount(fd, target)
    except OSError as e:
        if e.errno != errno.EINVAL or userns_fd is None:
            raise
        raise HostError(
            f"the file system of {source} does not support id-mapped mounts",
            hint="keep it on ext4, xfs or btrfs (--state DIR moves Roost's own), or set `private-users = false`",
        ) from None
    finally:
        os.close(fd)
