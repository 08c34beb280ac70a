"""Whether layers are still what they were when they were made: each against its manifest, some side by side."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from roost import manifest
from roost.errors import StoreError
from roost.events import VerifyEnded, VerifyStarted
from roost.manifest import Difference  # noqa: TC001  # msgspec looks at it
from roost.pool import Job, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from roost.events import Monitor
    from roost.store import Store

DETAILS = 10  # differences of a layer that an error repeats


class Verified(Struct, frozen=True, kw_only=True):
    """One layer. ``state``: whole, damaged or no-manifest (made by a Roost that wrote none).

    ``count`` differences were found, of which ``differences`` has the first. ``reason`` says what kept the tree from
    being compared. ``size`` is bytes on disk, ``seconds`` how long it took.
    """

    digest: str
    name: str
    state: str
    reason: str = ""
    count: int = 0
    differences: tuple[Difference, ...] = ()
    size: int = 0
    files: int = 0
    seconds: float = 0.0


def verify(
    store: Store, digests: Iterable[str], monitor: Monitor, *, jobs: int, stop: Any = None,
    tick: Callable[[], None] | None = None, interval: float | None = None,
) -> list[Verified]:  # fmt: skip
    """Reads layers whole and compares them; one that is removed meanwhile is left out. Takes no lock."""
    wanted = list(dict.fromkeys(digests))
    pool = Pool(jobs, monitor, stop=stop, tick=tick, interval=interval, polite=False)
    done = pool.run([Job(key=digest, work=_work(store, digest)) for digest in wanted])
    found = []
    for digest in wanted:
        if (error := done[digest].error) is not None:
            raise error
        if done[digest].value is not None and os.path.lexists(f"{store.state}/layers/{digest}"):
            found.append(msgspec.convert(done[digest].value, Verified))
    return found


def check(store: Store, found: Sequence[Verified]) -> None:
    """Raises StoreError, with what is wrong and the commands that mend it, unless all are whole."""
    bad = [item for item in found if item.state != "whole"]
    if not bad:
        return
    words = "is damaged" if bad[0].state == "damaged" else "cannot be verified: it has no manifest"
    brief = f"layer {bad[0].digest[:12]} ({bad[0].name}) {words}"
    if len(bad) > 1:
        brief = f"{len(bad)} layers are damaged or cannot be verified"
    raise StoreError(brief, details="\n".join(line for item in bad for line in _lines(item)), hint=remedy(store, bad))


def _lines(item: Verified) -> list[str]:
    lines = [f"{item.digest[:12]} ({item.name}): {item.reason}"] if item.reason else []
    lines += [f"{each.kind} {each.path}{each.what and f': {each.what}'}" for each in item.differences[:DETAILS]]
    if item.count > DETAILS:
        lines.append(f"and {item.count - DETAILS} more: `roost layer verify {item.digest[:12]}`")
    return lines


def remedy(store: Store, bad: Sequence[Verified]) -> str:
    """The commands that make the layers again, a line each: what stands on a layer goes before it."""
    digests = {item.digest for item in bad}
    above = [record for record in store.layers() if digests.intersection(record.parents)]
    above.sort(key=lambda record: -len(record.parents))
    order = [record.digest for record in above]
    order += [digest for digest in _deepest_last(store, digests) if digest not in order]
    lines = []
    users = [session.id for session, _ in store.sessions() if set(order).intersection(session.layers)]
    if users:
        lines.append(f"sessions stand on it; look into them, then `roost session remove {' '.join(users)}`")
    lines.append(f"make it again: `roost layer remove {' '.join(digest[:12] for digest in order)} && roost build`")
    names = sorted(name for name, digest in store.names().items() if digest in order)
    if names:
        lines.append(f"{', '.join(names)} was committed from a session: `roost build` cannot make it, commit it again")
    return "\n".join(lines)


def _deepest_last(store: Store, digests: set[str]) -> list[str]:
    known = {record.digest: len(record.parents) for record in store.layers()}
    return sorted(digests, key=lambda digest: (-known.get(digest, 0), digest))


def _work(store: Store, digest: str) -> Callable[[Monitor, int], Any]:
    def work(monitor: Monitor, _stop: int) -> Any:
        began = time.monotonic()
        found = _one(store, digest, monitor)
        found = msgspec.structs.replace(found, seconds=time.monotonic() - began)
        monitor(VerifyEnded(layer=digest, name=found.name, state=found.state, seconds=found.seconds))
        return msgspec.to_builtins(found)

    return work


def _one(store: Store, digest: str, monitor: Monitor) -> Verified:
    directory = f"{store.state}/layers/{digest}"
    plain = Verified(digest=digest, name=digest[:12], state="damaged")
    try:
        record = store.layer(digest)
    except StoreError as e:
        monitor(VerifyStarted(layer=digest, name=plain.name))
        return msgspec.structs.replace(plain, reason=e.brief)
    plain = msgspec.structs.replace(plain, name=record.name)
    monitor(VerifyStarted(layer=digest, name=record.name))
    if not record.manifest:
        return msgspec.structs.replace(
            plain, state="no-manifest", reason="no manifest: an older Roost made it, so nothing can be compared"
        )
    try:
        found = manifest.compare(f"{directory}/tree", f"{directory}/manifest", record.manifest)
    except StoreError as e:
        return msgspec.structs.replace(plain, reason=e.brief)
    except OSError as e:
        return msgspec.structs.replace(plain, reason=f"{e.filename or 'its tree'} cannot be read: {e.strerror}")
    return msgspec.structs.replace(
        plain, state="damaged" if found.count else "whole", count=found.count, differences=found.differences, size=found.size,
        files=found.files,
    )  # fmt: skip
