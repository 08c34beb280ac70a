"""The records that a store keeps as JSON, each beside what it describes."""

from __future__ import annotations

import contextlib
import os

from roost.host import files
from roost.structs import Damaged, Struct, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class LayerRecord(Struct, kw_only=True):
    """layer.json. ``parents`` from the base up, without itself; ``created`` in seconds since the epoch.

    ``manifest`` is the SHA-256 of the layer's manifest (see ``roost.manifest``); empty: it has none.
    ``architecture`` is Debian's name of it when it is another than that of the host that made the layer.
    """

    digest: str
    parents: tuple[str, ...]
    kind: str
    name: str
    family: str
    facts: dict[str, Any]
    created: float
    seconds: float = 0.0
    size: int = 0
    files: int = 0
    roost: str = ""
    manifest: str = ""
    architecture: str = ""


class SessionRecord(Struct, kw_only=True):
    """session.json: all that is needed to open the session again. ``layers`` from the base up.

    ``capabilities`` are those that its machine has beyond the default ones, ``architecture`` that of its layers.
    """

    id: str
    machine: str
    layers: tuple[str, ...]
    family: str
    created: float
    kept: bool = False
    network: str = "host"
    private_users: bool = True
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = True
    environment: dict[str, str] = {}
    user: str = "root"
    mount_points: tuple[str, ...] = ()
    reason: str = ""
    state: str = ""
    architecture: str = ""


class Machines(Struct, kw_only=True):
    """machines/<hash>.json: a definition and what its machines were last built from, as (role, digest, facts).

    ``refreshed``: the identities of layers that were made anew from the same, and when (see ``roost.plan``).
    """

    definition: str
    machines: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    chains: dict[str, tuple[str, ...]] = {}
    refreshed: dict[str, str] = {}


def expect(found: str, name: str) -> None:
    """A record is that of the directory that it is in. Raises Damaged."""
    if found != name:
        raise Damaged("it is that of something else")


class Remembered:
    """What the machines of each definition were last built from, in the store at ``state``."""

    state: str

    def remembered(self, definition: str) -> Machines:
        """What the machines of a definition were last built from; empty when never."""
        try:
            with open(self.machines_path(definition), "rb") as stream:
                return from_json(stream.read(), Machines)
        except (FileNotFoundError, Damaged):
            return Machines(definition=files.printable(definition))

    def remember(self, record: Machines) -> None:
        """Writes what ``remembered`` returns; on the disk at once, as gc would remove what no record names."""
        path = self.machines_path(record.definition)
        files.write_atomic(path, to_json(record), durable=True, staging=f"{self.state}/staging")

    def all_remembered(self) -> list[Machines]:
        """Those of every definition that was built here."""
        found = []
        for name in files.names_in(f"{self.state}/machines"):
            with (
                contextlib.suppress(OSError, Damaged),
                open(f"{self.state}/machines/{name}", "rb") as stream,
            ):
                found.append(from_json(stream.read(), Machines))
        return found

    def forget(self, definition: str) -> None:
        """Removes what ``remember`` wrote."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.machines_path(definition))

    def machines_path(self, definition: str) -> str:
        """Where the record of a definition is."""
        import hashlib  # not needed to list machines

        return f"{self.state}/machines/{hashlib.sha256(files.printable(definition).encode()).hexdigest()[:16]}.json"
