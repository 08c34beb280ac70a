"""What a crash or a power cut left in a store, and what can be done about it without guessing.

Only Roost's own records, names and locks are believed. What a person may still want is never removed, only told.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from roost import recovery
from roost.boot import record as booted
from roost.boot import remains
from roost.errors import BusyError, StoreError
from roost.host import files
from roost.records import Machines
from roost.structs import Damaged, from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from roost.store import Store


class Leftover(Struct, frozen=True, kw_only=True):
    """One finding.

    ``state``: left (a repair clears it), cleared (a repair has), or stays: then ``remedy`` says what a person can do.
    ``remedy`` is otherwise what a repair does.
    """

    kind: str
    name: str
    found: str
    remedy: str
    state: str = "left"


class _Finding(Struct, frozen=True):
    shown: Leftover
    clear: Callable[[], object] | None = None


def find(store: Store) -> list[Leftover]:
    """What ``repair`` would clear, and what it would leave to a person. Changes nothing."""
    texts = [*recovery.leftovers(store), *remains.leftovers(store)]
    left = [_of_a_process(text, "left") for text in dict.fromkeys(texts)]
    return left + [finding.shown for finding in _all(store)]


def repair(store: Store) -> list[Leftover]:
    """Clears it; all that was found, each with what became of it."""
    cleared = [*recovery.sweep(store), *remains.sweep(store)]
    done = [_of_a_process(text, "cleared") for text in cleared]
    for finding in _all(store):
        shown = finding.shown
        if finding.clear is not None:
            try:
                finding.clear()
                shown = msgspec.structs.replace(shown, state="cleared")
            except (OSError, StoreError, BusyError) as e:
                shown = msgspec.structs.replace(shown, state="stays", remedy=f"it could not be cleared: {e}")
        done.append(shown)
    return done


def _of_a_process(text: str, state: str) -> Leftover:
    return Leftover(
        kind="process", name=text, found="a process that was killed left it", remedy="clear it", state=state
    )


def _all(store: Store) -> Iterator[_Finding]:
    yield from _names(store)
    yield from _layers(store)
    yield from _sessions(store)
    yield from _machines(store)
    yield from _references(store)
    yield from _records(store)
    yield from _parts(store)


def _names(store: Store) -> Iterator[_Finding]:
    for name, digest in store.names().items():
        if not store.has(digest):
            found = f"it means layer {digest[:12] or 'nothing'}, which is gone"
            yield _Finding(
                Leftover(kind="name", name=name, found=found, remedy="forget it"),
                partial(store.forget_names, [digest]),
            )


def _layers(store: Store) -> Iterator[_Finding]:
    for digest in store.layer_digests():
        problem = _problem(store, digest)
        if not problem:
            continue
        users = _users(store, digest)
        if not users:
            yield _Finding(
                Leftover(kind="layer", name=digest[:12], found=f"{problem}; nothing stands on it", remedy="remove it"),
                partial(remove, store, digest),
            )
        else:
            found = f"{problem}; used by {', '.join(users[:5])}{', …' if len(users) > 5 else ''}"
            remedy = f"remove these, then `roost layer remove {digest[:12]}`"
            yield _Finding(Leftover(kind="layer", name=digest[:12], found=found, remedy=remedy, state="stays"))


def _problem(store: Store, digest: str) -> str:
    try:
        record = store.layer(digest)
    except (StoreError, OSError) as e:
        return e.brief if isinstance(e, StoreError) else f"its record cannot be read: {e.strerror}"
    if not store.has(digest):
        return "it has no tree"
    gone = [parent for parent in record.parents if not store.has(parent)]
    return f"it stands on layer {gone[0][:12]}, which is gone" if gone else ""


def _users(store: Store, digest: str, *, names: Collection[str] = ()) -> list[str]:
    """Who would lose something with the layer. Definitions are none: `roost build` makes it again."""
    found = [f"session {session.id}" for session, _ in store.sessions() if digest in session.layers]
    found += [f"layer {other.digest[:12]} ({other.name})" for other in store.layers() if digest in other.parents]
    found += [f"layer {name}" for name, meant in store.names().items() if meant == digest and name not in names]
    if not found and store.is_referred_to(digest):
        found.append("a kept session")
    return found


def remove(store: Store, digest: str, *, names: Collection[str] = ()) -> None:
    """Removes a layer on which nothing stands, and which only ``names`` mean. Raises BusyError saying what is in the way."""

    def used() -> set[str]:
        pinned = any(digest in session.layers for session, _ in store.running())
        return {digest} if pinned or _users(store, digest, names=names) else set()

    users = _users(store, digest, names=names)
    if users or not store.remove_layers([digest], used):
        raise BusyError(f"layer {digest[:12]} is in use", details="\n".join(users), hint="remove those first")


def _sessions(store: Store) -> Iterator[_Finding]:
    for name in files.names_in(f"{store.state}/sessions"):
        if store.is_alive(name):
            continue
        problem = ""
        try:
            record = store.session(name)
        except (StoreError, OSError) as e:
            problem = e.brief if isinstance(e, StoreError) else f"its record cannot be read: {e.strerror}"
            if not os.path.exists(f"{store.state}/sessions/{name}/session.json"):
                problem = "it has no record"
            remedy = f"what it changed is in {store.state}/sessions/{name}/upper; then `roost session remove {name}`"
        else:
            gone = [digest for digest in record.layers if not store.has(digest)]
            problem = f"its layer {gone[0][:12]} is gone" if gone else ""
            remedy = f"`roost build` may make the layer again; else `roost session remove {name}`"
        if problem and os.path.isdir(f"{store.state}/sessions/{name}"):
            yield _Finding(Leftover(kind="session", name=name, found=problem, remedy=remedy, state="stays"))


def _machines(store: Store) -> Iterator[_Finding]:
    """Of machines that boot: what they changed is a session, so that a record can be made anew."""
    records = booted.Records(store)
    for name in records.names():
        problem = ""
        try:
            record = records.find(name)
        except (StoreError, OSError) as e:
            problem = e.brief if isinstance(e, StoreError) else f"its record cannot be read: {e.strerror}"
        else:
            if record is None:
                problem = "it has no record"
            elif gone := [digest for digest in record.layers if not store.has(digest)]:
                problem = f"its layer {gone[0][:12]} is gone"
        if problem and os.path.isdir(f"{records.directory}/{name}"):
            remedy = f"`roost up {name}` makes it anew, its changes stay; `roost down --remove {name}` forgets it"
            yield _Finding(Leftover(kind="machine", name=name, found=problem, remedy=remedy, state="stays"))


def _references(store: Store) -> Iterator[_Finding]:
    """They are made from the sessions' own records, so that nothing is lost when they are made anew."""
    top = f"{store.state}/references"
    for digest in files.names_in(top):
        here = files.names_in(f"{top}/{digest}")
        gone = [name for name in here if not _stands(store, name)]
        if gone or not here:
            found = f"no session {gone[0]} stands on layer {digest[:12]}" if gone else "no session stands on it"
            yield _Finding(
                Leftover(kind="reference", name=digest[:12], found=found, remedy="drop it"),
                partial(_drop, store, digest, gone or [""]),
            )
    for record, _ in store.kept_sessions():
        if record.layers and not os.path.exists(f"{top}/{record.layers[-1]}/{record.id}"):
            yield _Finding(
                Leftover(
                    kind="reference", name=record.id, found="nothing says that it needs its layers", remedy="say it"
                ),
                store.repair_references,
            )


def _drop(store: Store, digest: str, sessions: list[str]) -> None:
    for name in sessions:
        if not name or not _stands(store, name):
            store.unrefer(name, (digest,))


def _stands(store: Store, session: str) -> bool:
    """Whether a session is there, that moves from running to kept as the case may be."""
    return any(os.path.isdir(f"{store.state}/{place}/{session}") for place in ("running", "sessions"))


def _records(store: Store) -> Iterator[_Finding]:
    top = f"{store.state}/machines"
    for name in files.names_in(top):
        try:
            with open(f"{top}/{name}", "rb") as stream:
                from_json(stream.read(), Machines)
        except Damaged as e:
            yield _Finding(
                Leftover(
                    kind="record", name=f"machines/{name}", found=f"it is damaged: {e}",
                    remedy="remove it: the next `roost build` of its definition writes it",
                ),
                partial(os.unlink, f"{top}/{name}"),
            )  # fmt: skip
        except FileNotFoundError:
            continue


def _parts(store: Store) -> Iterator[_Finding]:
    """Of files that were being copied into a cache of packages; each holds its own lock while it is written."""
    top = f"{store.cache}/packages"
    for key in files.names_in(top):
        with contextlib.suppress(OSError):
            for name in os.listdir(f"{top}/{key}"):
                path = f"{top}/{key}/{name}"
                if name.startswith(".") and name.endswith(".part") and not files.is_held(path):
                    yield _Finding(
                        Leftover(kind="file", name=path, found="a part of a package", remedy="remove it"),
                        partial(files.drop_free_lock, path),
                    )
