"""Brings machines up and down: from what the definition says now to units or supervisors, with as little change as needed."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from roost.boot import sessions, wiring
from roost.boot.changes import changes
from roost.boot.leader import leader_of
from roost.boot.record import BoundPath, Caps, Records
from roost.boot.remains import lock_of
from roost.boot.supervised import Supervised
from roost.boot.units import Units, booted
from roost.definition.model import BootTerms
from roost.errors import BusyError, Error, HostError, StoreError, from_parts, to_parts
from roost.host import files
from roost.trees import problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.boot.changes import Change
    from roost.boot.leader import Leader
    from roost.boot.record import Booted
    from roost.definition.model import Pool, Resolved
    from roost.store import Store


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one machine.

    ``action``: started, restarted, changed, unchanged, stopped, removed, failed. ``changes`` are in words, ``state`` is
    the machine's own (running, degraded, ...), ``error`` has the parts of an error (brief, details, hint).
    """

    machine: str
    action: str
    changes: tuple[str, ...] = ()
    state: str = ""
    address: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: tuple[str, ...] = ()

    def raised(self) -> None:
        """Raises the error that it holds."""
        if self.error:
            raise from_parts(list(self.error))


class Status(Struct, frozen=True, kw_only=True):
    """One machine as it is now. ``state``: down, starting, running, degraded, ... (systemd's words), or up.

    ``since`` in seconds since the epoch; ``outdated`` says what the definition says otherwise.
    """

    machine: str
    state: str
    enabled: bool
    since: float = 0.0
    pid: int = 0
    address: str = ""
    address6: str = ""
    interface: str = ""
    ephemeral: bool = False
    outdated: tuple[str, ...] = ()


def host_of(store: Store) -> Units | Supervised:
    """What this host starts machines by, found by looking."""
    return Units(store) if booted() else Supervised(store)


def record_of(
    machine: Resolved, layers: tuple[str, ...], *, definition: str, pool: Pool, before: Booted | None, ephemeral: bool | None,
    architecture: str,
) -> Booted:  # fmt: skip
    """What the definition says of a machine now."""
    from roost.boot.record import Booted

    terms = machine.boot or BootTerms()
    terms = structs.replace(
        terms, hostname=terms.hostname or machine.name, ephemeral=terms.ephemeral if ephemeral is None else ephemeral
    )
    return Booted(
        name=machine.name, definition=files.printable(definition), family=machine.family, layers=layers,
        previous=before.previous if before else (), refused=before.refused if before else (),
        boot=terms, network=machine.boot_network, terms=machine.private_network,
        pool=pool.pool, pool6=pool.pool6, private_users=machine.private_users, capabilities=machine.capabilities,
        no_new_privileges=machine.boot_no_new_privileges, environment=machine.environment,
        binds=tuple(BoundPath(source=b.source, target=b.target, read_only=b.read_only) for b in machine.binds),
        limits=Caps(memory=machine.memory, cpus=machine.cpus, tasks=machine.tasks),
        firstboot=tuple((script.name, script.content) for script in machine.firstboot),
        uuid=before.uuid if before else new_machine_id(), architecture=architecture,
    )  # fmt: skip


def _on_its_layers(wanted: Booted, before: Booted | None) -> tuple[Booted, tuple[str, ...]]:
    """The record with what it may go back to; layers that somebody went back from are not taken again. With what to warn of."""
    if before is None or wanted.layers == before.layers:
        return wanted, ()
    if wanted.layers == wanted.refused:
        warning = "it stays on the layers that it was rolled back to: `roost rollback` again, or `roost up --update`"
        return structs.replace(wanted, layers=before.layers, previous=before.previous), (warning,)
    refused = wanted.refused if wanted.refused == before.layers else ()
    return structs.replace(wanted, previous=before.layers, refused=refused), ()


def new_machine_id() -> str:
    """A random machine-id(5), as sd_id128_randomize(3) makes one: the bits of a UUID of version 4."""
    data = bytearray(os.urandom(16))
    data[6], data[8] = data[6] & 0x0F | 0x40, data[8] & 0x3F | 0x80
    return data.hex()


class Machines:
    """The machines of a store that boot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.records = Records(store)
        self.host = host_of(store)

    def up(self, wanted: Booted, *, wait: bool = True, restart: bool = False, stop_fd: int | None = None) -> Outcome:
        """Brings one machine to what ``wanted`` says. An error of it is in the outcome; nothing else is affected by it."""
        began = time.monotonic()
        try:
            with self._alone(wanted.name):
                outcome = self._up(wanted, wait=wait, restart=restart, stop_fd=stop_fd)
        except Error as e:
            outcome = Outcome(machine=wanted.name, action="failed", error=tuple(to_parts(e)))
        return structs.replace(outcome, seconds=time.monotonic() - began)

    def _alone(self, name: str) -> contextlib.AbstractContextManager[int]:
        """Two at once for one machine: the second waits, and then finds it done."""
        return files.locked(lock_of(self._store, name), spares=self._store.spares)

    def _up(self, wanted: Booted, *, wait: bool, restart: bool, stop_fd: int | None) -> Outcome:
        name = wanted.name
        before = self._before(name)
        runs = self._is_settled(name)
        if before is not None:  # maybe since a moment ago: somebody else has brought it up meanwhile
            wanted = structs.replace(wanted, uuid=before.uuid)
        wanted, warnings = _on_its_layers(wanted, before)
        found = changes(before, wanted) if before else []
        action = "unchanged" if runs else "started"
        if runs and (restart or before is None or not all(self._is_live(change) for change in found)):
            self._check(wanted)
            self.host.stop(before or wanted)
            action, runs = "restarted", False
        if not runs:
            self.host.refuse(name)
            self._prepare(wanted, before)
        else:
            action = "changed" if found else action
            self._apply(wanted, found)
            if wanted != before:  # what could not be applied is not said to be there
                self.records.write(wanted)
        again: list[str] = []
        if found or not runs or before is None:
            self.host.install(wanted)
        elif again := self.host.install(wanted):  # somebody took them away, or changed them
            action = "changed"
        self._enable(wanted, before)
        if not runs:
            self.host.start(wanted)
        if before is not None:
            sessions.release(self._store, wanted, before.previous)
        state = self.wait_ready(wanted, stop_fd=stop_fd) if wait else ""
        return Outcome(
            machine=name,
            action=action,
            changes=(*(change.what for change in found), *(f"{path} written again" for path in again)),
            state=state,
            address=self.address(wanted),
            warnings=warnings,
        )

    def _is_settled(self, name: str) -> bool:
        """Whether a machine runs. One that is being started or ended, by its unit or its supervisor, is waited for."""
        if not self._has_begun(name) and self._store.is_alive(name):
            self.host.settle(name)
        return self.is_up(name)

    def _has_begun(self, name: str) -> bool:
        process = self.records.running(name)
        return process is not None and leader_of(process.pid) is not None

    def _is_live(self, change: Change) -> bool:
        """Whether no start is needed for it. Limits are the unit's: systemd puts them into force when it reads them again."""
        return change.live or (self.host.systemd and change.what.startswith("limits."))

    def _before(self, name: str) -> Booted | None:
        """The machine's record; None when there is none, or only a damaged one: then it is started anew."""
        with contextlib.suppress(StoreError):
            return self.records.find(name)
        return None

    def _prepare(self, wanted: Booted, before: Booted | None) -> None:
        """Before a start: the record, and the session over the layers.

        The record comes first, so that whatever a kill leaves is a machine's that is known, and can be removed.
        """
        self._check(wanted)
        if before is not None and before.boot.ephemeral and not wanted.boot.ephemeral:
            self._store.discard(wanted.name)
        if wanted != before:
            self.records.write(wanted)
        sessions.ensure(self._store, wanted)

    def _check(self, wanted: Booted) -> None:
        """Raises HostError when the layers cannot boot, LayerGone when they are not there."""
        self._store.check_layers(wanted.layers)
        trees = [self._store.tree(digest) for digest in reversed(wanted.layers)]
        if lacks := problems(trees):
            raise HostError(
                f"{wanted.name} cannot boot",
                details="\n".join(f"{one.path}: {one.found}" for one in lacks),
                hint="\n".join(dict.fromkeys(one.remedy for one in lacks)),
            )

    def _enable(self, wanted: Booted, before: Booted | None) -> None:
        """What the definition says; `roost enable` and `disable` say it for a machine of which it says nothing."""
        if wanted.boot.enable and not self.host.is_enabled(wanted.name):
            self.host.enable(wanted.name)
        elif before is not None and before.boot.enable and not wanted.boot.enable:
            self.host.disable(wanted.name)

    def _apply(self, wanted: Booted, found: Sequence[Change]) -> None:
        """What a running machine takes over without a start."""
        process = self.records.running(wanted.name)
        leader = leader_of(process.pid) if process else None
        if leader is not None and any(change.what.startswith("network.") for change in found):
            wiring.attach(self._store, wanted, leader)

    def wait_ready(self, record: Booted, *, stop_fd: int | None = None) -> str:
        """Waits until the machine's own init says that it is ready; its state. Raises HostError with its last words."""
        from roost.boot import readiness

        leader = self.leader(record.name)
        try:
            found = readiness.wait_ready(
                leader,
                record.boot.ready,
                timeout=record.boot.timeout,
                stop_fd=stop_fd,
                console=self.console_file(record),
            )
        except HostError as e:
            details = e.details or self.host.console(record.name)
            raise HostError(e.brief, details=details, hint=e.hint or f"`roost logs {record.name}`") from None
        if record.firstboot and not readiness.is_systemd(leader):
            self._first_boot(leader, stop_fd)
        return f"{found.state}: {' '.join(found.failed)}" if found.failed else found.state

    def console_file(self, record: Booted) -> str:
        """Where a machine's console is kept; empty where the journal has it."""
        return "" if self.host.systemd else f"{self.records.directory}/{record.name}/console.log"

    def _first_boot(self, leader: Leader, stop_fd: int | None) -> None:
        """Runs what is to be run once, where no unit does it. Raises HostError."""
        from roost.boot import firstboot
        from roost.boot.inside import run_inside
        from roost.engine.execute import Streams

        said = bytearray()
        streams = Streams(on_output=lambda _stream, data: said.extend(data), merged=True)
        ended = run_inside(leader, firstboot.command(), streams=streams, stop_fd=stop_fd, directory="/")
        if ended.status != 0:
            details = "\n".join(said.decode(errors="replace").splitlines()[-15:])
            raise HostError("a script of its first boot failed", details=details, hint="`roost restart` runs it again")

    def leader(self, name: str) -> Leader:
        """The init of a machine that runs. Raises StoreError."""
        process = self.records.running(name)
        leader = leader_of(process.pid) if process else None
        if leader is None:
            self.records.read(name)
            raise StoreError(f"machine {name} is not up", hint=f"`roost up {name}`")
        return leader

    def is_up(self, name: str) -> bool:
        """Whether a machine runs."""
        return self.records.running(name) is not None

    def address(self, record: Booted) -> str:
        """The machine's own address, empty when its network is not private."""
        if record.network != "private":
            return ""
        link = wiring.known_link(self._store, record.name)
        return link.address.partition("/")[0] if link else ""

    def down(self, name: str) -> Outcome:
        """Ends a machine: orderly, and firmly when its time is over."""
        began = time.monotonic()
        try:
            with self._alone(name):
                record = self.records.known(name)
                was = self.is_up(name) or self._store.is_alive(name)
                if was:
                    self.host.stop(record)
                self.clear(record)
        except Error as e:
            return Outcome(machine=name, action="failed", error=tuple(to_parts(e)), seconds=time.monotonic() - began)
        return Outcome(machine=name, action="stopped" if was else "unchanged", seconds=time.monotonic() - began)

    def clear(self, record: Booted) -> None:
        """After an end, however it came: what was only of the running machine."""
        if self._store.is_alive(record.name):
            return
        link = wiring.known_link(self._store, record.name)
        if link is not None:
            wiring.detach(self._store, link)
        self.records.end_run(record.name)
        if record.boot.ephemeral:
            self._store.discard(record.name)

    def remove(self, name: str) -> Outcome:
        """Forgets a machine that is down: its changes, units, address. Its layers stay until `roost gc`."""
        try:
            with self._alone(name):
                record = self.records.known(name)
                if self.is_up(name) or self._store.is_alive(name):
                    raise BusyError(f"machine {name} is up", hint=f"`roost down {name}`")
                self.clear(record)
                if self.host.is_enabled(name):
                    self.host.disable(name)
                self.host.uninstall(name)
                wiring.release(self._store, name)
                with contextlib.suppress(StoreError):
                    self._store.remove_session(name)
                for layers in (record.layers, record.previous):
                    self._store.unrefer(name, layers)
                self.records.remove(name)
                wiring.refresh_names(self._store)
        except Error as e:
            return Outcome(machine=name, action="failed", error=tuple(to_parts(e)))
        return Outcome(machine=name, action="removed")

    def status(self, name: str, *, outdated: tuple[str, ...] = ()) -> Status:
        """One machine as it is now."""
        from roost.boot import readiness

        record = self.records.known(name)
        process = self.records.running(name)
        link = wiring.known_link(self._store, name) if record.network == "private" else None
        init = leader_of(process.pid) if process else None
        state = "down" if process is None else "up"
        if process is not None:
            with contextlib.suppress(Error, OSError):
                state = readiness.state(self.leader(name))
        elif self._store.is_alive(name):
            state = "starting" if self.records.supervisor(name) or self.host.systemd else "down"
        if not record.definition:
            state = "damaged"
        return Status(
            machine=name, state=state, enabled=self.host.is_enabled(name), since=process.since if process else 0.0,
            pid=init.pid if init else 0, address=link.address.partition("/")[0] if link else "",
            address6=link.address6.partition("/")[0] if link else "", interface=link.interface if link and process else "",
            ephemeral=record.boot.ephemeral, outdated=outdated,
        )  # fmt: skip

    def rollback(self, name: str, *, stop_fd: int | None = None) -> Outcome:
        """Puts a machine back over the layers that it had before its last update, and starts it again if it ran."""
        record = self.records.read(name)
        if not record.previous:
            raise StoreError(
                f"machine {name} has no layers to go back to", hint="it was not updated, or went back already"
            )
        gone = [digest[:12] for digest in record.previous if not self._store.has(digest)]
        if gone:
            raise StoreError(
                f"the layers before the last update are gone: {' '.join(gone)}", hint="`roost up --update`"
            )
        refused = () if record.refused == record.previous else record.layers
        wanted = structs.replace(record, layers=record.previous, previous=record.layers, refused=refused)
        if self.is_up(name):
            return self.up(wanted, stop_fd=stop_fd)
        with self._alone(name):
            self._prepare(wanted, record)
        return Outcome(machine=name, action="changed", changes=("layers changed",))
