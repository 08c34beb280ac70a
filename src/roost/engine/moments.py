"""Where the time of a container goes: moments of CLOCK_MONOTONIC, in seconds, and the phases between them.

The kernel has one such clock for all containers (unless one has a time namespace, which nspawn does not make).
"""

from __future__ import annotations

import struct
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PHASES = ("mounts", "filters", "nspawn", "command", "end")
"""The child's way to its mounts, to nspawn, roost-init's to the command, to its end, and until the container is gone."""

_MARK = b"\x01"  # begins no message of an error
_CHILD = struct.Struct("=2d")


def packed(mounted: float, executed: float) -> bytes:
    """What the child sends before it becomes nspawn."""
    return _MARK + _CHILD.pack(mounted, executed)


def unpacked(data: bytes) -> tuple[tuple[float, ...], bytes]:
    """The child's moments, and what it sent after them."""
    end = len(_MARK) + _CHILD.size
    if data.startswith(_MARK) and len(data) >= end:
        return _CHILD.unpack_from(data, len(_MARK)), data[end:]
    return (), data


def phases(moments: Sequence[float]) -> dict[str, float]:
    """Seconds for each of PHASES; empty unless there is a moment at each end of each, in their order.

    Some are told from inside, where they may be forged.
    """
    between = [later - earlier for earlier, later in pairwise(moments)]
    whole = len(between) == len(PHASES) and min(between) >= 0
    return dict(zip(PHASES, between, strict=True)) if whole else {}
