"""What dead processes left, told apart by locks, and cleared: the same for a start and for `roost doctor --repair`.

Nothing is guessed: a name below staging or running, or that of a lock, is Roost's own; its lock, when it is free, says that
its owner is dead. Who clears holds that lock meanwhile, so that two never clear the same.
"""

from __future__ import annotations

import contextlib
import os

from roost.errors import StoreError
from roost.host import cgroups, files
from roost.records import SessionRecord
from roost.structs import Damaged, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.store import Store

_KINDS = {"stage": "the half-made layer", "trash": "the removal", "doctor": "the doctor's", "pin": "the pin"}


def sweep(store: Store) -> list[str]:
    """Clears it; what was cleared, as a person would call it."""
    staging, running, locks = f"{store.state}/staging", f"{store.state}/running", f"{store.run}/locks"
    cleared = [
        f"the half-written file {name}"
        for name in files.names_in(staging)
        if name.startswith("part-") and files.drop_free_lock(f"{staging}/{name}")  # a file, which is locked itself
    ]
    at_work = dict.fromkeys((*files.names_in(staging), *files.names_in(running), *files.names_in(locks)))
    for name in at_work:
        if not name.startswith("part-"):
            with _claimed(f"{locks}/{name}") as note:
                if note is not None:
                    cleared += _clear(store, name, note)
    for group in cgroups.find(store.group_prefix):
        name = os.path.basename(group.paths[0]).removeprefix(store.group_prefix)
        if not store.is_alive(name) and cgroups.remove(group, seconds=1.0):
            cleared.append(f"control group {name}")
    for name in files.names_in(store.ranges_directory):
        files.drop_free_lock(f"{store.ranges_directory}/{name}")
    return cleared


def leftovers(store: Store) -> list[str]:
    """What ``sweep`` would clear; changes nothing."""
    staging, running, locks = f"{store.state}/staging", f"{store.state}/running", f"{store.run}/locks"
    found = []
    for name in files.names_in(staging):
        if name.startswith("part-"):
            if not files.is_held(f"{staging}/{name}"):
                found.append(f"the half-written file {name}")
        elif not store.is_alive(name):
            found.append(_called(name))
    found += [_called(name) for name in files.names_in(running) if not store.is_alive(name)]
    for name in dict.fromkeys((*files.names_in(locks), *_grouped(store))):
        if not store.is_alive(name):
            note = cgroups.own_groups_text()  # without a lock it was found below our own
            with contextlib.suppress(OSError), open(f"{locks}/{name}", encoding="utf-8") as stream:
                note = stream.read()
            found += [f"control group {name}" for _ in _groups(store, name, note)]
    return list(dict.fromkeys(found))


def _grouped(store: Store) -> list[str]:
    return [
        os.path.basename(group.paths[0]).removeprefix(store.group_prefix) for group in cgroups.find(store.group_prefix)
    ]


@contextlib.contextmanager
def _claimed(lock: str) -> Iterator[str | None]:
    """Holds the lock of a dead process, with what it noted in it (``Store.group_of``); None: its owner lives.

    The lock goes at the end, unless something is left to be cleared: then it raises nothing, and the note stays.
    """
    fd = files.try_lock(lock)
    if fd is None:
        yield None
        return
    try:
        yield os.read(fd, 65536).decode(errors="replace")
    except (OSError, StoreError):  # what cannot be cleared today is no reason to do nothing at all
        pass
    else:
        os.unlink(lock)
    finally:
        os.close(fd)


def _clear(store: Store, name: str, note: str) -> Iterator[str]:
    """Ends what the dead process began; says each thing once it is done. Raises OSError and StoreError."""
    for group in _groups(store, name, note):
        if not cgroups.remove(group, seconds=1.0):
            raise StoreError(f"something still lives in the control group of {name}")
        yield f"control group {name}"
    staged, running = f"{store.state}/staging/{name}", f"{store.state}/running/{name}"
    if os.path.lexists(staged):
        if name.startswith("trash-"):
            _end_removal(store, staged)
        _remove(staged)
        yield _called(name)
    if os.path.lexists(running):
        record = _record(f"{running}/session.json")
        if record is not None and record.kept:
            store.keep_session(record)
            yield f"session {name}, which is kept"
        else:
            _remove(running)
            yield _called(name)


def _remove(path: str) -> None:
    from roost.host import quota  # nothing to clear, mostly

    quota.release(path)
    files.remove_tree(path)


def _groups(store: Store, name: str, note: str) -> list[cgroups.Group]:
    """A session's group where the dead process has made it; whoever clears may be in another one."""
    if not note.strip():
        return []
    with contextlib.suppress(ValueError):
        return [group for group in cgroups.find(store.group_prefix + name, note) if _is_called(group, store, name)]
    return []


def _is_called(group: cgroups.Group, store: Store, name: str) -> bool:
    return os.path.basename(group.paths[0]) == store.group_prefix + name


def _end_removal(store: Store, trash: str) -> None:
    """What lies in it is removed for good: nothing may name it any more."""
    store.forget_names(files.names_in(trash))
    record = _record(f"{trash}/session/session.json")
    if record is not None:
        store.unrefer(record.id, record.layers)


def _record(path: str) -> SessionRecord | None:
    try:
        with open(path, "rb") as stream:
            return from_json(stream.read(), SessionRecord)
    except (OSError, Damaged):
        return None


def _called(name: str) -> str:
    kind = _KINDS.get(name.partition("-")[0])
    return f"{kind} {name.partition('-')[2]}" if kind else f"session {name}"
