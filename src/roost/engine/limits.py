"""How limits that were reached are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roost.engine.spec import Limits


def told(limits: Limits, names: Iterable[str]) -> str:
    """``memory limit 512M, tasks limit 100``: what is said of the limits ``names``."""
    return ", ".join(f"{name} limit {_told(name, getattr(limits, name))}" for name in names)


def _told(name: str, value: float) -> str:
    if name == "time":
        return _time(value)
    return _size(int(value)) if name in ("memory", "disk", "output") else str(value)


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _size(size: int) -> str:
    for unit, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return f"{size} bytes"
