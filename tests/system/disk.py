"""Small file systems of a test's own: one that is full or read-only, and one whose power is cut."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from typing import TYPE_CHECKING

from system.rig import wait_for

if TYPE_CHECKING:
    from pathlib import Path

# ext4.h and xfs_fs.h: EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same, _IOR('X', 125, __u32); 2 is NOLOGFLUSH:
# nothing more reaches the disk, neither data nor the journal
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    # lazily, the journal would be written every five seconds; a test is over sooner, and is not to depend on it
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
OPTIONS = {"ext4": "commit=600", "xfs": "defaults"}
SIZE = {"ext4": 96 << 20, "xfs": 320 << 20}  # the least that mkfs.xfs makes


class Disk:
    """An image mounted below the test's directory, in the tests' own mount namespace; the loop device goes with it."""

    def __init__(self, directory: Path, kind: str, *options: str, size: int = 0) -> None:
        self.kind = kind
        self.image = directory / f"{kind}.image"
        self.place = directory / kind
        self.place.mkdir()
        with self.image.open("wb") as stream:
            stream.truncate(size or SIZE[kind])
        subprocess.run((*MAKE[kind], *options, self.image), check=True, capture_output=True)
        self.mount()

    def mount(self) -> None:
        """Mounts it, and lets the journal be replayed."""
        subprocess.run(("mount", "-o", f"loop,{OPTIONS[self.kind]}", self.image, self.place), check=True)

    def remount(self, how: str) -> None:
        """``ro`` or ``rw``."""
        subprocess.run(("mount", "-o", f"remount,{how}", self.place), check=True)

    def cut(self, *, journal: bool = False) -> None:
        """The power goes: what was not synced is lost.

        ``journal``: somebody else has just synced a file of theirs, so that the names of all files are on the disk, and
        not what is in them.
        """
        if journal:
            other = os.open(self.place / "other", os.O_CREAT | os.O_WRONLY, 0o600)
            os.fsync(other)
            os.close(other)
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def back(self) -> None:
        """The power comes back; whoever was at work must be dead."""
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        """Takes it away, as soon as the last dead process has let it go."""
        wait_for(lambda: subprocess.run(("umount", self.place), capture_output=True, check=False).returncode == 0)

    def fill(self, left: int = 0) -> Path:
        """Takes all of its room but ``left`` bytes; the file to remove to give it back."""
        ballast = self.place / "ballast"
        fd = os.open(ballast, os.O_CREAT | os.O_WRONLY, 0o600)
        for size in (1 << 20, 4096, 4096, 4096):  # again: what is written finds blocks that were held back for it
            with contextlib.suppress(OSError):
                while os.write(fd, bytes(size)):
                    pass
            with contextlib.suppress(OSError):
                os.fsync(fd)
        os.ftruncate(fd, max(0, os.lseek(fd, 0, os.SEEK_CUR) - left))
        os.close(fd)
        return ballast
