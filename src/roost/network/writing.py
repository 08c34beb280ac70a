"""Files of the host that one process at a time writes, and that are to be gone without a trace afterwards.

Each has one name for the part that is there until it is whole, so that whoever comes after a killed process writes over
it or removes it.
"""

from __future__ import annotations

import contextlib
import os
import sys


def write(path: str, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces a file, so that a reader sees the old content or the new. To be called with the host's lock held."""
    part = _part(path)
    with open(
        os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode), "wb"
    ) as stream:
        os.fchmod(stream.fileno(), mode)
        sys.audit("roost.write", part)
        stream.write(data)
    try:
        os.rename(part, path)
    except OSError:
        os.unlink(part)
        raise


def remove(path: str) -> None:
    """Removes a file and what a killed process left beside it; missing is fine."""
    for name in (_part(path), path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def remove_part(path: str) -> None:
    """Removes only what a killed process left beside a file, which may be where nobody writes."""
    if os.path.lexists(_part(path)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_part(path))


def _part(path: str) -> str:
    directory, name = os.path.split(path)
    return f"{directory}/.{name}.roost"
