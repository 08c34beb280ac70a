"""A file system in a file, mounted through a loop device that goes with its last mount.

Structures and numbers are those of linux/loop.h. LOOP_CONFIGURE (Linux 5.8) attaches and sets LO_FLAGS_AUTOCLEAR in one
call, so that there is no moment at which a killed process could leave the device attached.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from roost.errors import HostError
from roost.host import runner, syscalls

_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_LO_FLAGS_AUTOCLEAR = 4
# struct loop_config: fd, block_size, struct loop_info64 (five u64, four u32 of which the last is lo_flags, then 176
# bytes of names, keys and more), reserved
_CONFIG = struct.Struct("=II 5Q 4I 176x 64x")
_ATTEMPTS = 50  # another process may take the free device first
_INODE_ROOM = 8192  # bytes of a file system for each inode of 256 bytes: sources have many small files


def make_ext4(path: str, room: int) -> None:
    """Writes a sparse file with an empty ext4 file system that has ``room`` bytes for its files.

    It has no journal: it serves one throwaway session. Raises CommandError, HostError or OSError.
    """
    # beside the inodes: bitmaps and group descriptors (under 1/256), and what ext4 keeps back for itself, 2 % but at
    # most 4096 blocks (ext4_calculate_resv_clusters in fs/ext4/super.c)
    total = room + room * 256 // _INODE_ROOM + room // 128 + min(room // 40, 4096 * 4096) + (1 << 20)
    with open(path, "xb", opener=_private) as stream:
        stream.truncate(total // 4096 * 4096)
    options = ("-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard", "-m", "0", "-b", "4096")
    argv = ("mke2fs", "-q", "-F", "-t", "ext4", *options, "-i", str(_INODE_ROOM), path)
    try:
        runner.check(runner.run(runner.Command(argv=argv)))
    except HostError:
        raise HostError("mke2fs is not installed", hint="apt install e2fsprogs") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def mount_ext4(image: str, target: str, *, read_only: bool = False) -> None:
    """Mounts the file system in ``image``; when the mount goes, so does the loop device.

    Raises HostError where there are no loop devices, OSError for what else the kernel refuses.
    """
    _wait_until_free(image)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        number, device = _attach(backing)
    finally:
        os.close(backing)
    try:
        flags = syscalls.MS_RDONLY if read_only else 0
        syscalls.mount(f"/dev/loop{number}", target, "ext4", flags=flags, options="noinit_itable,nobarrier,nodiscard")
    finally:
        os.close(device)


def _attach(backing: int) -> tuple[int, int]:
    """The number of a loop device that shows the open file ``backing``, and a descriptor that holds it."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            return _configured(control, backing)
        finally:
            os.close(control)
    except OSError as e:
        raise HostError(
            f"this host gives no loop device: {e.strerror}",
            hint="a limit on disk needs one, or a state directory on xfs or ext4 mounted with prjquota; `modprobe loop`?",
        ) from None


def _configured(control: int, backing: int) -> tuple[int, int]:
    attempts = 0
    while True:
        number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, _CONFIG.pack(backing, 0, *[0] * 8, _LO_FLAGS_AUTOCLEAR))
        except OSError as e:
            os.close(device)
            attempts += 1
            if e.errno != errno.EBUSY or attempts == _ATTEMPTS:
                raise
        else:
            return number, device


def _wait_until_free(image: str, *, seconds: float = 5.0) -> None:
    """Until no loop device shows the file any more: the kernel lets go of one a moment after its last mount.

    Raises OSError (EBUSY) when it is in use all that time: two mounts of one ext4 through two devices destroy it.
    """
    path, deadline = os.path.realpath(image), time.monotonic() + seconds
    while path in shown():
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), image)
        time.sleep(0.002)


def shown() -> set[str]:
    """The files that loop devices of this host show."""
    found = set()
    for name in os.listdir("/sys/block"):
        if name.startswith("loop"):
            try:
                with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="replace") as stream:
                    found.add(stream.read().rstrip("\n"))
            except OSError:  # not attached
                pass
    return found
