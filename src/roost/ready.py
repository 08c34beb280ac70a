"""What a machine's sessions need, remembered from the plan: so that to run one that is ready, nothing is read or planned.

A definition's memory is a file STATE/ready/<checksum of its path>: the stamps of everything that the plan was made from
(the definition, what it takes in, the recipes, the names of committed layers), and for each machine whose layers are
there a session's record and terms. It holds as long as all stamps are the same, as git's index does; it is a cache, and
may be removed at any time. The format is marshal's: like a .pyc file it is read by the Python that wrote it, or not at all.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
import zlib

from roost.engine.spec import Bound, Limits
from roost.host import files
from roost.records import SessionRecord
from roost.sessions import Terms
from roost.structs import Struct, asdict
from roost.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from roost.store import Store

_KEY = f"4 {__version__} {sys.implementation.cache_tag} {os.uname().machine}"
# A file that changes twice within one tick of the kernel's clock (10 ms at most) has the same times both times.
_SETTLED = 50_000_000  # nanoseconds
_FAILURES = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError)


class Ready(Struct, frozen=True, kw_only=True):
    """A machine that can be run at once. ``record`` lacks its id, user and time."""

    record: SessionRecord
    terms: Terms


def find(store: Store, definition: str, machine: str) -> Ready | None:
    """What is known of a machine of the definition at that absolute path; None when it has to be planned."""
    try:
        with open(_path(store, definition), "rb") as stream:
            key, path, stamps, machines = _unpacked(stream.read())
        if (key, path) != (_KEY, definition) or any(_stamp(name) != stamp for name, stamp in stamps.items()):
            return None
        record, terms = machines[machine]
        binds = tuple(Bound(**bind) for bind in terms.pop("binds"))
        limits = Limits(**terms.pop("limits"))
        return Ready(record=SessionRecord(**record), terms=Terms(**terms, binds=binds, limits=limits))
    except _FAILURES:  # not there, damaged, or of another version
        return None


def remember(store: Store, definition: str, inputs: Iterable[str], machines: Mapping[str, Ready], *, read: int) -> None:
    """Writes what ``find`` reads, unless an input may have changed since ``read`` (nanoseconds). A failure is no loss."""
    with contextlib.suppress(*_FAILURES):
        stamps = {name: _stamp(name) for name in inputs}
        if any(max(mtime, ctime) > read - _SETTLED for _, _, mtime, ctime in stamps.values()):
            return
        plain = _others(store, definition, stamps)
        plain |= {name: (asdict(ready.record), _plain(ready.terms)) for name, ready in machines.items()}
        data = marshal.dumps((_KEY, definition, stamps, plain))
        data = zlib.crc32(data).to_bytes(4) + data
        os.makedirs(f"{store.state}/ready", mode=0o700, exist_ok=True)
        files.write_atomic(_path(store, definition), data, mode=0o600, staging=f"{store.state}/staging")


def _others(store: Store, definition: str, stamps: dict[str, Any]) -> dict[str, Any]:
    """What is known already, when it was made from the same."""
    with contextlib.suppress(*_FAILURES), open(_path(store, definition), "rb") as stream:
        *head, machines = _unpacked(stream.read())
        if head == [_KEY, definition, stamps]:
            return dict(machines)
    return {}


def _unpacked(data: bytes) -> Any:
    """What was written; ValueError when it is damaged, which marshal may not survive."""
    if zlib.crc32(data[4:]).to_bytes(4) != data[:4]:
        raise ValueError("damaged")
    return marshal.loads(data[4:])  # noqa: S302  # root's own, as .pyc files are


def _plain(terms: Terms) -> dict[str, Any]:
    return {**asdict(terms), "binds": tuple(asdict(bind) for bind in terms.binds), "limits": asdict(terms.limits)}


def _path(store: Store, definition: str) -> str:
    return f"{store.state}/ready/{zlib.crc32(os.fsencode(definition)):08x}"


def _stamp(path: str) -> tuple[int, int, int, int]:
    info = os.stat(path)
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
