"""The session that holds a machine's changes: one of its name, over layers that may be exchanged below it."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from roost.errors import StoreError
from roost.records import SessionRecord
from roost.sessions import Session, read_below
from roost.structs import replace

if TYPE_CHECKING:
    from typing import Self

    from roost.boot.leader import Leader
    from roost.boot.record import Booted
    from roost.store import Store

# what is bound above the machine's own files
MOUNT_POINTS = ("/etc/hosts", "/etc/resolv.conf")


def record_of(machine: Booted) -> SessionRecord:
    """The record of its session."""
    targets = {bound.target for bound in machine.binds}
    return SessionRecord(
        id=machine.name, machine=machine.name, layers=machine.layers, family=machine.family, created=time.time(),
        network=machine.network, private_users=machine.private_users,
        capabilities=machine.capabilities, no_new_privileges=machine.no_new_privileges, environment=machine.environment,
        mount_points=tuple(sorted({*MOUNT_POINTS, *targets})), reason="boots", kept=not machine.boot.ephemeral,
        architecture=machine.architecture,
    )  # fmt: skip


def ensure(store: Store, machine: Booted) -> None:
    """Makes the session, or puts it over the machine's layers. Only while the machine is down.

    Raises StoreError, LayerGone among others, and BusyError while somebody uses it.
    """
    wanted = record_of(machine)
    if machine.boot.ephemeral:
        store.check_layers(machine.layers)
        return  # made anew at every start
    found = None
    with contextlib.suppress(StoreError):
        found = store.session(machine.name)
    if found is None and not os.path.isdir(store.session_directory(machine.name)):
        with Session(store, replace(wanted, kept=False)) as session:
            session.keep(reason="boots")
        return
    if found is not None and found.reason != "boots":
        raise StoreError(f"there is a session {machine.name} of {found.machine}", hint="give the machine another name")
    with store.alive(machine.name):  # a damaged record is written anew
        record = replace(wanted, created=found.created if found else wanted.created)
        if record == found:
            store.check_layers(machine.layers)
            return
        store.refer(record)  # before the record names them; what it stood on keeps its reference, for rollback
        store.check_layers(machine.layers)
        store.write_session(record, store.session_directory(machine.name), durable=True)


def begin_anew(store: Store, machine: Booted) -> None:
    """At each start of an ephemeral machine, by whoever holds its lock: an empty directory for its changes."""
    store.discard(machine.name)
    directory = store.running_directory(machine.name)
    for part in ("", "/upper", "/work"):
        os.mkdir(f"{directory}{part}", 0o755 if part == "/upper" else 0o700)
    store.write_session(record_of(machine), directory)


def release(store: Store, machine: Booted, layers: tuple[str, ...]) -> None:
    """Forgets that it stood on layers that it does not go back to any more."""
    if layers and layers[-1:] not in (machine.layers[-1:], machine.previous[-1:]):
        store.unrefer(machine.name, layers)


class Live(Session):
    """The session of a machine that is up, to be looked at: nothing is mounted, and nobody is kept from using it."""

    def __init__(self, store: Store, record: SessionRecord, leader: Leader) -> None:
        super().__init__(store, record)
        self._leader = leader

    def __enter__(self) -> Self:
        return self

    def read(self, path: str) -> tuple[bytes | None, bytes | None]:
        """As of a session; the file as the machine has it at this moment."""
        trees = [self._store.tree(digest) for digest in reversed(self.record.layers)]
        before = next((text for tree in trees if (text := read_below(tree, path)) is not None), None)
        return before, read_below(f"/proc/{self._leader.pid}/root", path)
