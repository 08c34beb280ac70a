"""How much an unpacked archive may take of a disk that others work on too: not all that there is."""

from __future__ import annotations

import errno
import os

from roost.errors import HostError, of_os

_RESERVE = 64 << 20
"""Bytes that stay free, or 1/64 of a smaller file system's."""
_OFTEN = 8 << 20  # bytes written, between two looks
_FILES = 1024  # files made, between two looks


class Room:
    """Says no before the disk says it, to a file as large as a bomb's and to one small file too many."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._left = 0
        self._files = 0

    def want(self, size: int) -> None:
        """A file of ``size`` bytes is about to be written. Raises HostError when too little would stay free."""
        self._left -= size
        self._files -= 1
        if self._left > 0 and self._files > 0:
            return
        found = os.fstatvfs(self._directory)
        free = found.f_bavail * found.f_frsize - min(_RESERVE, found.f_blocks * found.f_frsize // 64)
        if size >= free or (found.f_files and found.f_favail < _FILES):
            error = of_os(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            more = (
                f"{max(0, free) >> 20} MiB and {found.f_favail} files" if found.f_files else f"{max(0, free) >> 20} MiB"
            )
            raise HostError(f"{error.brief}: what is unpacked needs more than {more}", hint=error.hint)
        self._left, self._files = min(_OFTEN, free - size), _FILES
