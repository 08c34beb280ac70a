"""What is kept of a machine that boots, and what is known of one that runs.

    STATE/booted/<name>/machine.json   how it is started; what a start needs is here alone, no definition is read
    STATE/booted/<name>/hosts          its /etc/hosts
    STATE/booted/<name>/console.log    what its console said; of a host with systemd the journal has it
    RUN/booted/<name>/run.json         of a running one: nspawn's process
    RUN/booted/<name>/supervisor       its supervisor's process, on a host without systemd

Its changes are those of a session of its name: kept, or in ``running`` when it is ephemeral.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from roost.boot.leader import Leader, is_alive, leader_by_pid
from roost.definition.model import BootTerms, NetworkTerms
from roost.errors import StoreError
from roost.host import files

if TYPE_CHECKING:
    from roost.store import Store


class BoundPath(Struct, frozen=True, kw_only=True):
    """A path of the host that is seen in the machine."""

    source: str
    target: str
    read_only: bool = True


class Caps(Struct, frozen=True, kw_only=True):
    """Upper bounds of the whole machine: bytes, processors, processes."""

    memory: int | None = None
    cpus: float | None = None
    tasks: int | None = None


class Booted(Struct, frozen=True, kw_only=True):
    """machine.json. ``layers`` and ``previous`` (those before the last update, for rollback) from the base up; ``refused``
    are those that somebody went back from.

    ``firstboot`` are the scripts as (name, content), ``uuid`` is its machine-id(5), ``architecture`` that of its layers when
    it is another than the host's.
    """

    name: str
    definition: str
    family: str
    layers: tuple[str, ...]
    previous: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    boot: BootTerms = BootTerms()
    network: str = "private"
    terms: NetworkTerms = NetworkTerms()
    pool: str | None = None
    pool6: str | None = None
    private_users: bool = True
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False
    environment: dict[str, str] = {}
    binds: tuple[BoundPath, ...] = ()
    limits: Caps = Caps()
    firstboot: tuple[tuple[str, bytes], ...] = ()
    uuid: str = ""
    architecture: str = ""


class Process(Struct, frozen=True, kw_only=True):
    """run.json: nspawn's process id on the host, the time it was started (proc(5), starttime) and since when it runs."""

    pid: int
    started: int
    since: float


def _started(pid: int) -> int:
    process = leader_by_pid(pid)
    return process.started if process else 0


class Records:
    """The records of a store's machines."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.directory = f"{store.state}/booted"
        self.run = f"{store.run}/booted"

    def names(self) -> list[str]:
        """All machines that were ever brought up and not removed."""
        return files.names_in(self.directory)

    def find(self, name: str) -> Booted | None:
        """The record of a machine; None when it was never brought up. Raises StoreError when it is damaged."""
        try:
            with open(f"{self.directory}/{name}/machine.json", "rb") as stream:
                return msgspec.json.decode(stream.read(), type=Booted)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise StoreError(f"the record of machine {name} is damaged: {e}", hint=f"`roost up {name}`") from None

    def read(self, name: str) -> Booted:
        """As ``find``; raises StoreError when there is none."""
        record = self.find(name)
        if record is None:
            known = ", ".join(self.names())
            raise StoreError(
                f"no machine {name} was brought up", details=known and f"there are {known}", hint=f"`roost up {name}`"
            )
        return record

    def known(self, name: str) -> Booted:
        """As ``read``; of a damaged record what is known without it, which is enough to end and to forget a machine."""
        try:
            return self.read(name)
        except StoreError:
            if not os.path.isdir(f"{self.directory}/{name}"):
                raise
        layers: tuple[str, ...] = ()
        with contextlib.suppress(StoreError):
            layers = self._store.session(name).layers
        ephemeral = BootTerms(ephemeral=os.path.isdir(self._store.running_directory(name)))
        return Booted(name=name, definition="", family="", layers=layers, boot=ephemeral)

    def write(self, record: Booted) -> None:
        """Keeps a record; it is on the disk when this returns."""
        directory = f"{self.directory}/{record.name}"
        data = msgspec.json.format(msgspec.json.encode(record), indent=1)
        if os.path.isdir(directory):
            files.write_atomic(
                f"{directory}/machine.json", data, mode=0o600, durable=True, staging=f"{self._store.state}/staging"
            )
            return
        with self._store.staged("stage") as stage:  # none without a record, whoever is killed
            os.mkdir(f"{stage}/machine", 0o700)
            files.write_atomic(f"{stage}/machine/machine.json", data, mode=0o600, durable=True)
            os.rename(f"{stage}/machine", directory)
        files.fsync_directory(self.directory)

    def remove(self, name: str) -> None:
        """Forgets a machine that does not run."""
        with self._store.staged("trash") as trash, contextlib.suppress(FileNotFoundError):
            os.rename(f"{self.directory}/{name}", f"{trash}/machine")

    def running(self, name: str) -> Process | None:
        """The nspawn of a machine that runs; None when it does not."""
        with contextlib.suppress(OSError, msgspec.MsgspecError), open(f"{self.run}/{name}/run.json", "rb") as stream:
            process = msgspec.json.decode(stream.read(), type=Process)
            if is_alive(Leader(pid=process.pid, started=process.started)):
                return process
        return None

    def set_running(self, name: str, pid: int, since: float) -> None:
        """Notes the nspawn of a machine that has been started."""
        process = Process(pid=pid, started=_started(pid), since=since)
        files.write_atomic(f"{self.run}/{name}/run.json", msgspec.json.encode(process))

    def set_supervisor(self, name: str) -> None:
        """Notes that this process is the machine's supervisor."""
        text = f"{os.getpid()} {_started(os.getpid())}"
        files.write_atomic(f"{self.make_run(name)}/supervisor", text.encode())

    def supervisor(self, name: str) -> int | None:
        """The supervisor's process id; None when there is none."""
        with (
            contextlib.suppress(OSError, ValueError),
            open(f"{self.run}/{name}/supervisor", encoding="ascii") as stream,
        ):
            pid, started = map(int, stream.read().split())
            return pid if is_alive(Leader(pid=pid, started=started)) else None
        return None

    def make_run(self, name: str) -> str:
        """The directory for what a running machine needs, made when missing."""
        directory = f"{self.run}/{name}"
        os.makedirs(directory, mode=0o755, exist_ok=True)
        return directory

    def end_run(self, name: str) -> None:
        """Removes what was only of the running machine."""
        files.remove_tree(f"{self.run}/{name}")
