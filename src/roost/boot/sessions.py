"""The session that holds a machine's changes: one of its name, over layers that may be exchanged below it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from roost.errors import StoreError
from roost.records import SessionRecord
from roost.sessions import Session
from roost.structs import replace

if TYPE_CHECKING:
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
    if found is None:
        with Session(store, replace(wanted, kept=False)) as session:
            session.keep(reason="boots")
        return
    with store.alive(machine.name):
        store.check_layers(machine.layers)
        record = replace(wanted, created=found.created)
        store.refer(record)  # before the record names them; what it stood on keeps its reference, for rollback
        store.write_session(record, store.session_directory(machine.name), durable=True)


def release(store: Store, machine: Booted, layers: tuple[str, ...]) -> None:
    """Forgets that it stood on layers that it does not go back to any more."""
    if layers and layers[-1:] not in (machine.layers[-1:], machine.previous[-1:]):
        store.unrefer(machine.name, layers)
