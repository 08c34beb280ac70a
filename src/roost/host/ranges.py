"""Ranges of host ids, one per session: what runs in one session owns nothing of another's."""

from __future__ import annotations

import contextlib
import os
import weakref
import zlib

from roost.errors import HostError
from roost.host import files, idmap
from roost.structs import Struct

# systemd's container range (systemd.io/UIDS-GIDS: 524288..1878982656), the half that nspawn's own pick seldom reaches
FIRST = 0x40000000
COUNT = 8192


class Range(Struct, frozen=True):
    """A range that is held: its first host id, the lock that holds it, and a user namespace that maps 0..65535 to it."""

    base: int
    lock: int
    userns: int


class Ranges:
    """The ranges of one process. One that was given back is used again by the next session: making it costs more."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._free: list[Range] = []
        self._owner = os.getpid()
        self._borrowed = False
        weakref.finalize(self, _give_up, self._free, directory, self._owner)

    def take(self, session: str) -> Range:
        """A range that no other session has, until it is given back. Raises HostError when all are taken."""
        if self._owner != os.getpid():  # forked: what is free is the parent's, to give to one of us only
            self._free.clear()
            self._owner = os.getpid()
        return self._free.pop() if self._free else self._allot(session)

    def give_back(self, held: Range) -> None:
        """To be called when nothing runs in the range any more."""
        self._free.append(held)

    def drop(self, held: Range) -> None:
        """Lets go of a range in which something may still be ending: only when all that has gone is it anybody's."""
        _give_up([held], self._directory, self._owner)

    def borrow(self, held: Range) -> None:
        """In a forked process: the next session has this range, which stays the parent's."""
        self._free[:] = [held]
        self._owner = os.getpid()
        self._borrowed = True

    def close(self) -> None:
        """Gives up the free ranges."""
        if self._borrowed:
            self._free.clear()
        _give_up(self._free, self._directory, self._owner)

    def _allot(self, session: str) -> Range:
        """The search starts at a place that the session's name gives, so that sessions seldom meet."""
        start = zlib.crc32(session.encode())
        for number in range(COUNT):
            slot = (start + number) % COUNT
            lock = files.try_lock(os.path.join(self._directory, str(slot)))
            if lock is not None:
                base = FIRST + slot * idmap.RANGE
                return Range(base, lock, idmap.user_namespace(idmap.shifted(base), idmap.shifted(base)))
        raise HostError(f"all {COUNT} id ranges are in use", hint="end some sessions: `roost session list`")


def _give_up(free: list[Range], directory: str, owner: int) -> None:
    if os.getpid() != owner:  # forked: they are the parent's
        return
    for held in free:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, str((held.base - FIRST) // idmap.RANGE)))
        os.close(held.lock)
        os.close(held.userns)
    free.clear()
