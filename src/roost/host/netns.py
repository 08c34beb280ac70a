"""Which network this process is in, and where what Roost has attached to it is recorded."""

from __future__ import annotations

import contextlib
import os

from roost.host import files

TOP = "/run/roost"  # of the host, whatever the state


def directory() -> str:
    """One place for a network namespace, whichever store a machine is of: RUN/network, ``attached/`` and ``lent/`` in it."""
    own = os.stat("/proc/self/ns/net")
    with contextlib.suppress(OSError):
        if os.path.samestat(own, os.stat("/proc/1/ns/net")):
            return f"{TOP}/network"
    return f"{TOP}/network-{own.st_ino}"


def has_dead_loans(where: str) -> bool:
    """Whether a run that was lent a link has been killed: its lock is free (``Network.lend``)."""
    return any(not files.is_held(f"{where}/lent/{name}") for name in files.names_in(f"{where}/lent"))
