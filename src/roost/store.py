"""What Roost keeps on disk, and how it stays whole.

    STATE/                       /var/lib/roost, or DIR with --state DIR
      layers/<digest>/           published by rename, then never changed
        layer.json  tree/
      layers/.stage-*/           being made; whoever makes it holds its lock file
      names/<name>               the digest of a committed layer
      sessions/<id>/             session.json  upper/  work/  and one directory for each copy-on-write tree
      machines/<hash>.json       what each definition's machines were last built from
      results/<id>/              result.json, logs
      seccomp-*                  nspawn's filters, see roost.engine.seccomp
    CACHE/packages/<key>/        downloaded packages, /var/cache/roost or STATE/cache
    RUN/                         /run/roost or STATE/run: mnt (an empty mount point), ranges/, locks/

Who works on something holds an flock on its file below RUN/locks: a lock that is free means that its owner is dead, so
that what it left may be cleared. No lock is needed to run.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from roost.errors import BusyError, HostError, StoreError
from roost.host import cgroups, files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.host.ranges import Ranges


RANGES = "/run/roost/ranges"  # of the host, whatever the state: two Roosts must not give out the same ids


class LayerRecord(Struct, kw_only=True):
    """layer.json. ``parents`` from the base up, without itself; ``created`` in seconds since the epoch."""

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


class SessionRecord(Struct, kw_only=True):
    """session.json: all that is needed to open the session again. ``layers`` from the base up."""

    id: str
    machine: str
    layers: tuple[str, ...]
    family: str
    created: float
    kept: bool = False
    network: str = "host"
    private_users: bool = True
    environment: dict[str, str] = {}
    user: str = "root"
    mount_points: tuple[str, ...] = ()
    reason: str = ""
    state: str = ""


class Machines(Struct, kw_only=True):
    """machines/<hash>.json: a definition and what its machines were last built from, as (role, digest, facts)."""

    definition: str
    machines: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    chains: dict[str, tuple[str, ...]] = {}


class Store:
    """The directories, and the records in them."""

    def __init__(self, state: str | None = None) -> None:
        if state:
            top = os.path.abspath(state)
            self.state, self.cache, self.run = top, f"{top}/cache", f"{top}/run"
        else:
            self.state, self.cache, self.run = "/var/lib/roost", "/var/cache/roost", "/run/roost"
        # by state: two Roosts with different ones may run in one control group
        self.group_prefix = f"roost-{zlib.crc32(os.fsencode(self.state)):08x}-"
        self.mount_point = f"{self.run}/mnt"
        self._ranges: Ranges | None = None

    @property
    def ranges(self) -> Ranges:
        """The id ranges of this process's sessions."""
        from roost.host.ranges import Ranges

        if self._ranges is None:
            self._ranges = Ranges(RANGES)
        return self._ranges

    def prepare(self) -> None:
        """Makes the directories. Raises HostError when this may not be done here."""
        try:
            for name in ("layers", "names", "sessions", "machines", "results"):
                os.makedirs(f"{self.state}/{name}", mode=0o700, exist_ok=True)
            os.makedirs(f"{self.cache}/packages", mode=0o755, exist_ok=True)
            for path in (self.mount_point, RANGES, f"{self.run}/locks"):
                os.makedirs(path, mode=0o700, exist_ok=True)
        except PermissionError as e:
            raise HostError(
                f"{e.filename} cannot be made: {e.strerror}", hint="run roost as root: `sudo roost …`"
            ) from None
        except OSError as e:
            raise HostError(
                f"{e.filename} cannot be made: {e.strerror}", hint="choose another place with --state DIR"
            ) from None

    # layers

    def tree(self, digest: str) -> str:
        """The directory that an overlay takes."""
        return f"{self.state}/layers/{digest}/tree"

    def has(self, digest: str) -> bool:
        """Whether the layer is there; then it is whole."""
        return os.path.isdir(self.tree(digest))

    def layer(self, digest: str) -> LayerRecord:
        """The record of a layer. Raises StoreError."""
        try:
            with open(f"{self.state}/layers/{digest}/layer.json", "rb") as stream:
                return msgspec.json.decode(stream.read(), type=LayerRecord)
        except FileNotFoundError:
            raise StoreError(f"there is no layer {digest[:12]}", hint="see `roost layer list`") from None
        except msgspec.DecodeError as e:
            raise StoreError(
                f"the record of layer {digest[:12]} is damaged: {e}", hint=f"`roost layer remove {digest[:12]}`"
            ) from None

    def layers(self) -> list[LayerRecord]:
        """All layers, the oldest first; unreadable ones are left out."""
        found = []
        for name in _names(f"{self.state}/layers"):
            with contextlib.suppress(StoreError):
                found.append(self.layer(name))
        return sorted(found, key=lambda record: (record.created, record.digest))

    def find_layer(self, word: str) -> LayerRecord:
        """A layer by its name or by the start of its digest. Raises StoreError when it is none, or not the only one."""
        with (
            contextlib.suppress(OSError, UnicodeDecodeError),
            open(f"{self.state}/names/{_plain(word)}", encoding="ascii") as stream,
        ):
            return self.layer(stream.read().strip())
        found = [name for name in _names(f"{self.state}/layers") if name.startswith(word)] if len(word) >= 4 else []
        if len(found) != 1:
            what = f"{len(found)} layers start with {word}" if found else f"there is no layer {word}"
            raise StoreError(what, details=" ".join(name[:16] for name in found), hint="see `roost layer list`")
        return self.layer(found[0])

    @contextlib.contextmanager
    def staged(self, kind: str) -> Iterator[str]:
        """A directory to fill and to publish, with the lock that keeps it from being cleared; gone if not published."""
        name = f".{kind}-{os.urandom(8).hex()}"
        path = f"{self.state}/layers/{name}"
        with self.alive(name):
            os.mkdir(path, 0o700)
            try:
                yield path
            finally:
                files.remove_tree(path)

    def publish(self, stage: str, record: LayerRecord) -> bool:
        """Makes ``stage`` (with its ``tree``) the layer of ``record``; False when somebody was faster."""
        total = files.usage(f"{stage}/tree")
        record.size, record.files = total.size, total.files
        files.write_atomic(f"{stage}/layer.json", msgspec.json.encode(record))
        os.chmod(stage, 0o700)
        return files.publish(stage, f"{self.state}/layers/{record.digest}")

    def remove_layer(self, digest: str) -> None:
        """Takes the layer's name away first, so that no reader ever sees a part of it; then removes it.

        A session that has just been made on it keeps it: then it gets its name back (BusyError).
        """
        path = f"{self.state}/layers/{digest}"
        with self.staged("trash") as trash, contextlib.suppress(FileNotFoundError):
            os.rename(path, f"{trash}/layer")
            if any(digest in session.layers for session, _ in self.sessions()):
                os.rename(f"{trash}/layer", path)
                raise BusyError(f"layer {digest[:12]} is in use", hint="see `roost session list`")

    @contextlib.contextmanager
    def layers_kept(self) -> Iterator[None]:
        """While this is held no layer is removed: a build stands on layers that no record names yet."""
        with files.locked(f"{self.run}/locks/layers", shared=True):
            yield

    @contextlib.contextmanager
    def layers_removable(self) -> Iterator[None]:
        """For removing layers. Raises BusyError when something is being built for longer than a moment."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(f"{self.run}/locks/layers", seconds=3.0))
            except BusyError:
                raise BusyError(
                    "layers are being made", hint="wait for the other roost to finish, then try again"
                ) from None
            yield

    # names

    def names(self) -> dict[str, str]:
        """Committed layers: name → digest."""
        found = {}
        for name in _names(f"{self.state}/names"):
            with contextlib.suppress(OSError), open(f"{self.state}/names/{name}", encoding="ascii") as stream:
                found[name] = stream.read().strip()
        return found

    def set_name(self, name: str, digest: str) -> None:
        """Lets ``name`` mean ``digest`` from now on."""
        files.write_atomic(f"{self.state}/names/{_plain(name)}", digest.encode(), durable=True)

    def remove_name(self, name: str) -> None:
        """Forgets a name."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.state}/names/{_plain(name)}")

    # sessions

    def session_directory(self, session: str) -> str:
        """Where a session keeps what it changed."""
        return f"{self.state}/sessions/{_plain(session)}"

    def session(self, session: str) -> SessionRecord:
        """The record of a session. Raises StoreError."""
        try:
            with open(f"{self.session_directory(session)}/session.json", "rb") as stream:
                return msgspec.json.decode(stream.read(), type=SessionRecord)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"there is no session {session}", hint="see `roost session list`") from None
        except msgspec.DecodeError as e:
            raise StoreError(
                f"the record of session {session} is damaged: {e}", hint=f"`roost session remove {session}`"
            ) from None

    def sessions(self) -> list[tuple[SessionRecord, bool]]:
        """All sessions, the oldest first, each with whether somebody is using it now."""
        found = []
        for name in _names(f"{self.state}/sessions"):
            with contextlib.suppress(StoreError):
                found.append((self.session(name), self.is_alive(name)))
        return sorted(found, key=lambda item: item[0].created)

    def write_session(self, record: SessionRecord, *, durable: bool = False) -> None:
        """Writes the record of a session whose directory exists."""
        path = f"{self.session_directory(record.id)}/session.json"
        files.write_atomic(path, msgspec.json.encode(record), durable=durable)

    def ask_to_keep(self, session: str) -> None:
        """Asks whoever uses a session to keep it at its end. Raises StoreError."""
        self.session(session)
        files.write_atomic(f"{self.session_directory(session)}/keep", b"")

    def is_asked_to_keep(self, session: str) -> bool:
        """Whether somebody did."""
        return os.path.exists(f"{self.session_directory(session)}/keep")

    # who is at work

    @contextlib.contextmanager
    def alive(self, name: str) -> Iterator[None]:
        """Says that ``name`` is in use for as long as this is held; a killed process stops saying so."""
        path = f"{self.run}/locks/{name}"
        fd = files.try_lock(path)
        for _ in range(20):  # somebody may be asking `is_alive` at this moment
            if fd is not None:
                break
            time.sleep(0.01)
            fd = files.try_lock(path)
        if fd is None:
            raise BusyError(f"{name} is in use", hint="wait until it is free, or see `roost session list`")
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.close(fd)

    def is_alive(self, name: str) -> bool:
        """Whether somebody uses it."""
        path = f"{self.run}/locks/{name}"
        if not os.path.exists(path):
            return False
        fd = files.try_lock(path, shared=True)
        if fd is None:
            return True
        os.close(fd)
        return False

    def sweep(self) -> list[str]:
        """Clears what dead processes left: half-made layers, sessions nobody keeps, control groups, locks.

        Only what Roost's own records and names say is its own; returns what was cleared, as a person would call it.
        """
        cleared = [
            f"half-made layer {name}"
            for name in _names(f"{self.state}/layers", hidden=True)
            if self._dead(name) and _removed(f"{self.state}/layers/{name}")
        ]
        cleared += [
            f"session {name}"
            for name in _names(f"{self.state}/sessions")
            if self._dead(name) and not self._is_kept(name) and _removed(self.session_directory(name))
        ]
        for group in cgroups.find(self.group_prefix):
            name = os.path.basename(group.paths[0]).removeprefix(self.group_prefix)
            if not self.is_alive(name) and cgroups.remove(group, seconds=1.0):
                cleared.append(f"control group {name}")
        for directory in (RANGES, f"{self.run}/locks"):
            for name in _names(directory, hidden=True) + _names(directory):
                _drop_free_lock(f"{directory}/{name}")
        return cleared

    def _dead(self, name: str) -> bool:
        return not self.is_alive(name)

    def _is_kept(self, name: str) -> bool:
        try:
            return self.session(name).kept
        except StoreError:  # without a record it was never whole; a damaged one may be of something kept
            return os.path.exists(f"{self.session_directory(name)}/session.json")

    # machines

    def remembered(self, definition: str) -> Machines:
        """What the machines of a definition were last built from; empty when never."""
        try:
            with open(self._machines_path(definition), "rb") as stream:
                return msgspec.json.decode(stream.read(), type=Machines)
        except (FileNotFoundError, msgspec.DecodeError):
            return Machines(definition=files.printable(definition))

    def remember(self, record: Machines) -> None:
        """Writes what ``remembered`` returns."""
        files.write_atomic(self._machines_path(record.definition), msgspec.json.encode(record))

    def all_remembered(self) -> list[Machines]:
        """Those of every definition that was built here."""
        found = []
        for name in _names(f"{self.state}/machines"):
            with (
                contextlib.suppress(OSError, msgspec.DecodeError),
                open(f"{self.state}/machines/{name}", "rb") as stream,
            ):
                found.append(msgspec.json.decode(stream.read(), type=Machines))
        return found

    def forget(self, definition: str) -> None:
        """Removes what ``remember`` wrote."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._machines_path(definition))

    def _machines_path(self, definition: str) -> str:
        import hashlib  # not needed to list machines

        return f"{self.state}/machines/{hashlib.sha256(files.printable(definition).encode()).hexdigest()[:16]}.json"


def new_id(prefix: str) -> str:
    """A name that nothing else has: the prefix, and six hexadecimal digits."""
    return f"{prefix}-{os.urandom(3).hex()}"


def run_id() -> str:
    """A name for the results of a run, in the order of time."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(2).hex()


def _plain(name: str) -> str:
    """A name from outside as a file's name. Raises StoreError when it is not one."""
    if (
        not name
        or name.startswith(".")
        or not all(c.isascii() and (c.isalnum() or c in "-_.+") for c in name)
        or len(name) > 128
    ):
        raise StoreError(
            f"{name!r} is not a name that Roost gives", hint="see `roost session list` and `roost layer list`"
        )
    return name


def _names(directory: str, *, hidden: bool = False) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.startswith(".") == hidden)
    except FileNotFoundError:
        return []


def _removed(path: str) -> bool:
    """Whether it could be removed; what cannot be today is no reason to do nothing at all."""
    try:
        files.remove_tree(path)
    except (OSError, StoreError):
        return False
    return True


def _drop_free_lock(path: str) -> None:
    """Unlinks a lock file that nobody holds; holding it meanwhile, so that nobody can take it and lose its name."""
    with contextlib.suppress(OSError):
        fd = files.try_lock(path)
        if fd is not None:
            try:
                os.unlink(path)
            finally:
                os.close(fd)
