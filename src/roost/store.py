"""What Roost keeps on disk, and how it stays whole.

    STATE/                       /var/lib/roost, or DIR with --state DIR
      layers/<digest>/           published by rename, then never changed
        layer.json  tree/  manifest
      names/<name>               the digest of a committed layer
      running/<id>/              a session to be thrown away: session.json  upper/  work/  and a directory for each source
      sessions/<id>/             a session that is kept, moved here by rename
      references/<digest>/<id>   an empty file: a kept session stands on this layer (its topmost); .whole: none is missing
      staging/<kind>-*           being made or removed
      machines/<hash>.json       what each definition's machines were last built from
      results/<id>/              result.json, logs
      ready/                     what machines need to run, see roost.ready
      spare/                     empty files and directories, for removing and keeping on a full disk
      seccomp-*                  nspawn's filters, see roost.engine.seccomp
    CACHE/packages/<key>/        downloaded packages, /var/cache/roost or STATE/cache
    RUN/                         /run/roost or STATE/run: mnt (an empty mount point), ranges/, locks/

Who works on something holds an flock on its file below RUN/locks: a lock that is free means that its owner is dead, so
that what it left may be cleared (roost.recovery). No lock of others is waited for to run.

What is looked through at every start is only what is at work (running, staging, locks): a store may have thousands of
layers and kept sessions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import zlib

from roost.errors import BusyError, HostError, LayerGone, StoreError, exhausted
from roost.host import cgroups, files
from roost.records import LayerRecord, Remembered, SessionRecord, expect
from roost.structs import Damaged, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from roost.host.ranges import Ranges


LEAST_FILES = 128  # RLIMIT_NOFILE: what a session, its container and this process need, with room to spare
_REMOVING = ".removing"  # in a removal's directory: the layers that it means to take, one a line; none: any
RANGES = "/run/roost/ranges"  # of the host, whatever the state: two Roosts must not give out the same ids


class Store(Remembered):
    """The directories, and the records in them."""

    def __init__(self, state: str | None = None) -> None:
        self.given = os.path.abspath(state) if state else ""
        if top := self.given:
            self.state, self.cache, self.run = top, f"{top}/cache", f"{top}/run"
        else:
            self.state, self.cache, self.run = "/var/lib/roost", "/var/cache/roost", "/run/roost"
        # by state: two Roosts with different ones may run in one control group
        self.group_prefix = f"roost-{zlib.crc32(os.fsencode(self.state)):08x}-"
        self.mount_point = f"{self.run}/mnt"
        self.ranges_directory = RANGES
        self.spares = f"{self.state}/spare"
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
        if os.sysconf("SC_OPEN_MAX") < LEAST_FILES:  # a session would end in the middle of something
            raise exhausted(OSError(errno.EMFILE, os.strerror(errno.EMFILE))) or HostError(
                "too few files may be opened"
            )
        try:
            for top in dict.fromkeys((self.state, self.cache, self.run, os.path.dirname(RANGES))):
                os.makedirs(top, mode=0o755, exist_ok=True)
                files.expect_roots(top)
            for name in ("layers", "names", "running", "sessions", "staging", "machines", "results", "booted"):
                os.makedirs(f"{self.state}/{name}", mode=0o700, exist_ok=True)
            if not os.path.exists(f"{self.state}/references/.whole"):
                self.repair_references()
            os.makedirs(f"{self.cache}/packages", mode=0o755, exist_ok=True)
            for path in (self.mount_point, RANGES, f"{self.run}/locks"):
                os.makedirs(path, mode=0o700, exist_ok=True)
            files.make_spares(self.spares)
        except OSError as e:
            root = isinstance(e, PermissionError)
            hint = "run roost as root: `sudo roost …`" if root else "choose another place with --state DIR"
            error = HostError(f"{e.filename} cannot be made: {e.strerror}", hint=hint)
            raise (None if root else exhausted(e)) or error from None

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
                record = from_json(stream.read(), LayerRecord)
            expect(record.digest, digest)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"there is no layer {digest[:12]}", hint="see `roost layer list`") from None
        except Damaged as e:
            raise StoreError(
                f"the record of layer {digest[:12]} is damaged: {e}", hint=f"`roost layer remove {digest[:12]}`"
            ) from None
        return record

    def layers(self) -> list[LayerRecord]:
        """All layers, the oldest first; unreadable ones are left out."""
        found = []
        for name in files.names_in(f"{self.state}/layers"):
            with contextlib.suppress(StoreError):
                found.append(self.layer(name))
        return sorted(found, key=lambda record: (record.created, record.digest))

    def layer_digests(self) -> list[str]:
        """All layers, those whose record cannot be read too."""
        return files.names_in(f"{self.state}/layers")

    def find_layer(self, word: str) -> LayerRecord:
        """A layer by its name or by the start of its digest. Raises StoreError when it is none, or not the only one."""
        return self.layer(self.find_digest(word))

    def find_digest(self, word: str) -> str:
        """As ``find_layer``; its record is not read."""
        if named := self._named(_plain(word)):
            return named
        found = (
            [name for name in files.names_in(f"{self.state}/layers") if name.startswith(word)] if len(word) >= 4 else []
        )
        if len(found) != 1:
            what = f"{len(found)} layers start with {word}" if found else f"there is no layer {word}"
            raise StoreError(what, details=" ".join(name[:16] for name in found), hint="see `roost layer list`")
        return found[0]

    @contextlib.contextmanager
    def staged(self, kind: str) -> Iterator[str]:
        """A directory to fill and to publish, with the lock that keeps it from being cleared; gone if not published."""
        name = f"{kind}-{os.urandom(8).hex()}"
        path = f"{self.state}/staging/{name}"
        with self.alive(name):
            if kind == "trash":
                files.make_directory(path, self.spares)
            else:
                os.mkdir(path, 0o700)
            try:
                yield path
            finally:
                files.remove_tree(path)

    def publish(self, stage: str, record: LayerRecord) -> bool:
        """Makes ``stage`` (with its ``tree``) the layer of ``record``; False when somebody was faster."""
        from roost import manifest  # who only runs makes none

        made = manifest.write(f"{stage}/tree", f"{stage}/manifest")
        record.size, record.files, record.manifest = made.size, made.files, made.sha256
        files.write_atomic(f"{stage}/layer.json", to_json(record))
        os.chmod(stage, 0o700)
        return files.publish(stage, f"{self.state}/layers/{record.digest}")

    def remove_layers(self, digests: Iterable[str], used: Callable[[], set[str]]) -> set[str]:
        """Removes layers that are not ``used``, in their order, and what names them; those that it removed.

        It says first which it means to remove, and only then looks what is used. Whoever begins to use one says that
        first, and looks then (``check_layers``). So one of the two always sees the other.
        """
        wanted = tuple(digests)
        with self.staged("trash") as trash:
            try:
                files.write_atomic(f"{trash}/{_REMOVING}", "\n".join(wanted).encode())
            except OSError:  # what makes room must not need any
                files.make_file(f"{trash}/{_REMOVING}", self.spares)
            kept = used()
            for digest in wanted:
                if digest not in kept:
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(f"{self.state}/layers/{digest}", f"{trash}/{digest}")
            os.unlink(f"{trash}/{_REMOVING}")
            removed = set(files.names_in(trash))
            self.forget_names(removed)
        return removed

    def check_layers(self, digests: Iterable[str]) -> None:
        """Raises LayerGone unless all are there; to be asked once a record names them, when none of them is removed."""
        self._await_removals(set(digests))
        for digest in digests:
            if not self.has(digest):
                raise LayerGone(f"layer {digest[:12]} was removed meanwhile", hint="`roost build` makes it again")

    def _await_removals(self, digests: set[str]) -> None:
        """Until nobody is about to decide that one of these is not used: the time of a look at the records."""
        for name in files.names_in(f"{self.state}/staging"):
            while name.startswith("trash-") and self.is_alive(name):
                try:
                    with open(f"{self.state}/staging/{name}/{_REMOVING}", encoding="ascii") as stream:
                        removing = stream.read().split()
                except FileNotFoundError:
                    break
                if removing and digests.isdisjoint(removing):
                    break
                time.sleep(0.002)

    @contextlib.contextmanager
    def pinned(self, digests: Iterable[str]) -> Iterator[None]:
        """While this is held none of these layers is removed, whether they are there already or are being made."""
        name = f"pin-{os.urandom(8).hex()}"
        directory = self.running_directory(name)
        with self.alive(name):
            os.mkdir(directory, 0o700)
            try:
                record = SessionRecord(id=name, machine="", layers=tuple(digests), family="", created=time.time())
                self.write_session(record, directory)
                self._await_removals(set(record.layers))
                yield
            finally:
                files.remove_tree(directory)

    # names

    def names(self) -> dict[str, str]:
        """Committed layers: name → digest."""
        found = {}
        for name in files.names_in(f"{self.state}/names"):
            if digest := self._named(name):
                found[name] = digest
        return found

    def named(self, name: str) -> str:
        """The digest that a name means. Raises StoreError."""
        if digest := self._named(_plain(name)):
            return digest
        raise StoreError(f"there is no layer {name}", hint="see `roost layer list`")

    def _named(self, name: str) -> str:
        """The digest that a name means; empty when there is none, or what is there is none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            with open(f"{self.state}/names/{name}", encoding="ascii") as stream:
                digest = stream.read(129).strip()
            return digest if len(digest) <= 128 and not digest.strip("0123456789abcdef") else ""
        return ""

    def set_name(self, name: str, digest: str) -> None:
        """Lets ``name`` mean ``digest`` from now on."""
        path = f"{self.state}/names/{_plain(name)}"
        with files.locked(f"{self.run}/locks/_names"):
            files.write_atomic(path, digest.encode(), durable=True, staging=f"{self.state}/staging")

    def forget_names(self, digests: Iterable[str]) -> None:
        """Removes the names of layers that are gone."""
        gone = set(digests)
        with files.locked(
            f"{self.run}/locks/_names", spares=self.spares
        ):  # a commit names a layer that is there: it is not among them
            for name, digest in self.names().items() if gone else ():
                if digest in gone and not self.has(digest):
                    self.remove_name(name)

    def remove_name(self, name: str) -> None:
        """Removes a name; the layer stays."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.state}/names/{_plain(name)}")

    # sessions

    def session_directory(self, session: str) -> str:
        """Where a session is that exists."""
        running = self.running_directory(session)
        return running if os.path.isdir(running) else f"{self.state}/sessions/{session}"

    def running_directory(self, session: str) -> str:
        """Where a session is until it is kept."""
        return f"{self.state}/running/{_plain(session)}"

    def session(self, session: str) -> SessionRecord:
        """The record of a session. Raises StoreError."""
        with contextlib.suppress(StoreError):
            return self._session(self.running_directory(session), session)
        return self._session(f"{self.state}/sessions/{_plain(session)}", session)  # maybe since a moment ago

    def _session(self, directory: str, session: str) -> SessionRecord:
        try:
            with open(f"{directory}/session.json", "rb") as stream:
                record = from_json(stream.read(), SessionRecord)
            expect(record.id, session)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"there is no session {session}", hint="see `roost session list`") from None
        except Damaged as e:
            raise StoreError(
                f"the record of session {session} is damaged: {e}", hint=f"`roost session remove {session}`"
            ) from None
        return record

    def running(self) -> list[tuple[SessionRecord, bool]]:
        """What stands on layers and ends: sessions that are thrown away, and pins, whose record names no machine."""
        return self._sessions("running")

    def kept_sessions(self) -> list[tuple[SessionRecord, bool]]:
        """Sessions that stay."""
        return self._sessions("sessions")

    def sessions(self) -> list[tuple[SessionRecord, bool]]:
        """All sessions, the oldest first, each with whether somebody is using it now."""
        found = {item[0].id: item for item in (*self.running(), *self.kept_sessions()) if item[0].machine}
        return sorted(found.values(), key=lambda item: item[0].created)

    def _sessions(self, where: str) -> list[tuple[SessionRecord, bool]]:
        found = []
        for name in files.names_in(f"{self.state}/{where}"):
            with contextlib.suppress(StoreError):
                found.append((self._session(f"{self.state}/{where}/{name}", name), self.is_alive(name)))
        return found

    def write_session(self, record: SessionRecord, directory: str, *, durable: bool = False) -> None:
        """Writes the record of a session whose directory exists."""
        path, staging = f"{directory}/session.json", f"{self.state}/staging"
        files.write_in_any_case(path, to_json(record), durable=durable, staging=staging)

    def discard(self, session: str) -> None:
        """Removes a running session, which its process holds, by a rename first."""
        path = f"{self.state}/staging/{_plain(session)}"
        try:
            os.rename(self.running_directory(session), path)
        except OSError:  # a full disk may have no room for the name
            path = self.running_directory(session)
        files.remove_tree(path)

    def keep_session(self, record: SessionRecord) -> None:
        """Moves a running session whose record says ``kept`` to those that stay; all of it is on the disk then.

        A process that is killed on the way is no loss: the next start goes on where it ended.
        """
        running, kept = self.running_directory(record.id), f"{self.state}/sessions/{record.id}"
        self.refer(record)
        os.rename(running, kept)
        files.fsync_directory(os.path.dirname(kept))
        files.fsync_directory(os.path.dirname(running))

    def remove_session(self, session: str) -> None:
        """Removes a kept session that nobody uses, by a rename first. Raises StoreError when there is none."""
        path = f"{self.state}/sessions/{_plain(session)}"
        try:
            layers = self._session(path, session).layers
        except StoreError:
            if not os.path.isdir(path):
                raise
            layers = ()  # a damaged record: `roost doctor --repair` drops its references
        from roost.host import quota

        quota.release(path)
        with self.staged("trash") as trash:
            os.rename(path, f"{trash}/session")
            self.unrefer(session, layers)

    def refer(self, record: SessionRecord) -> None:
        """Says that a kept session stands on the layers of its record."""
        for digest in record.layers[-1:]:
            directory = f"{self.state}/references/{digest}"
            while True:
                with contextlib.suppress(FileExistsError):
                    files.make_directory(directory, self.spares)
                with contextlib.suppress(FileNotFoundError):  # the last other session on it has just gone
                    files.make_file(f"{directory}/{record.id}", self.spares)
                    files.fsync_directory(directory)
                    break
            files.fsync_directory(f"{self.state}/references")

    def unrefer(self, session: str, layers: Sequence[str]) -> None:
        """Forgets that a session that is gone stood on ``layers``."""
        for digest in layers[-1:]:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.state}/references/{digest}/{session}")
            with contextlib.suppress(OSError):
                os.rmdir(f"{self.state}/references/{digest}")  # unless there are others

    def referred_to(self) -> set[str]:
        """The topmost layers of the kept sessions."""
        return {digest for digest in files.names_in(f"{self.state}/references") if self.is_referred_to(digest)}

    def is_referred_to(self, digest: str) -> bool:
        """Whether a kept session has it as its topmost layer."""
        return any(
            os.path.isdir(f"{self.state}/sessions/{name}") or os.path.isdir(f"{self.state}/running/{name}")
            for name in files.names_in(f"{self.state}/references/{digest}")
        )

    def repair_references(self) -> None:
        """Writes the references anew from the sessions' own records, as for a store of an older Roost."""
        new = f"{self.state}/references"
        os.makedirs(new, mode=0o700, exist_ok=True)
        for record, _ in self.kept_sessions():
            self.refer(record)
        files.make_file(f"{new}/.whole", self.spares)

    def ask_to_keep(self, session: str) -> None:
        """Asks whoever uses a session to keep it at its end. Raises StoreError."""
        self.session(session)
        path = f"{self.running_directory(session)}/keep"
        with contextlib.suppress(OSError):
            os.symlink("yes", path)
            return
        with contextlib.suppress(OSError):
            if os.readlink(path) == "yes":
                return
        raise StoreError(f"session {session} has just ended", hint="see `roost session list`")

    def is_asked_to_keep(self, session: str) -> bool:
        """Whether somebody did; from now on nobody can. One link, made once, so that exactly one side is right."""
        try:
            os.symlink("no", f"{self.running_directory(session)}/keep")
        except FileExistsError:
            return True
        except OSError:  # no room for it
            return False
        return False

    # who is at work

    @contextlib.contextmanager
    def alive(self, name: str) -> Iterator[None]:
        """Says that ``name`` is in use for as long as this is held; a killed process stops saying so."""
        path = f"{self.run}/locks/{_plain(name)}"
        fd = files.try_lock(path, spares=self.spares)
        for _ in range(20):  # somebody may be asking `is_alive` at this moment
            if fd is not None:
                break
            time.sleep(0.01)
            fd = files.try_lock(path)
        if fd is None:
            raise BusyError(
                f"{name} is in use", hint="a machine: `roost down` it; else wait, or see `roost session list`"
            )
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.close(fd)

    def is_alive(self, name: str) -> bool:
        """Whether somebody uses it."""
        return files.is_held(f"{self.run}/locks/{name}")

    def group_of(self, name: str) -> str:
        """What the control group of a ``name`` in use is called; where it will be is noted for whoever clears it."""
        path = f"{self.run}/locks/{_plain(name)}"
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as stream:  # a full disk
            stream.write(cgroups.own_groups_text())
        return self.group_prefix + name

    def sweep(self) -> list[str]:
        """Clears what dead processes left: half-made layers, sessions nobody keeps, control groups, locks.

        Only what Roost's own records and names say is its own; returns what was cleared, as a person would call it.
        """
        places = [f"{self.state}/staging", f"{self.state}/running", f"{self.run}/locks", RANGES]
        if not any(map(os.listdir, places)) and not cgroups.find(self.group_prefix):
            return []  # nobody is at work: the usual case
        from roost.recovery import sweep

        return sweep(self)


def new_id(prefix: str) -> str:
    """A name that nothing else has: the prefix, and six hexadecimal digits."""
    return f"{prefix}-{os.urandom(3).hex()}"


def run_id() -> str:
    """A name for the results of a run, in the order of time."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(4).hex()


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
