"""Ranges of host ids, one per session: what runs in one session owns nothing of another's."""

from __future__ import annotations

import os
import zlib

from roost.errors import HostError
from roost.host import files
from roost.host.idmap import RANGE

# systemd's container range (systemd.io/UIDS-GIDS: 524288..1879048191), the half that nspawn's own pick rarely reaches
FIRST = 0x40000000
COUNT = 8192


def allot(directory: str, session: str) -> tuple[int, int]:
    """The first id of a range that no other session has, and a descriptor: the range is held while it is open.

    The search starts at a place that the session's name gives, so that sessions seldom meet. Raises HostError.
    """
    start = zlib.crc32(session.encode())
    for number in range(COUNT):
        slot = (start + number) % COUNT
        lock = files.try_lock(os.path.join(directory, str(slot)))
        if lock is not None:
            return FIRST + slot * RANGE, lock
    raise HostError(f"all {COUNT} id ranges are in use", hint="end some sessions: `roost session list`")


def release(directory: str, base: int, lock: int) -> None:
    """Gives a range back."""
    os.unlink(os.path.join(directory, str((base - FIRST) // RANGE)))
    os.close(lock)
