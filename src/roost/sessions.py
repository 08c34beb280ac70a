"""A session in use: opened on the store, run in as often as one likes, then thrown away or kept."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from roost import engine
from roost.engine import seccomp
from roost.engine.execute import Streams, execute
from roost.engine.launch import account, describe, mount_all
from roost.engine.spec import MOUNT_POINTS, Bound, Limits, Overlaid, Spec, emulated
from roost.errors import DefinitionError, Error, HostError, Interrupted, StoreError, of_os
from roost.host import capabilities, files, runner
from roost.results import Artifact, Log, Result
from roost.store import new_id
from roost.structs import Struct, asdict, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Literal, Self

    from roost.definition.model import Pool, Resolved
    from roost.engine.execute import Ended
    from roost.host.ranges import Range
    from roost.records import SessionRecord
    from roost.session.changes import Change
    from roost.session.disk import Disk
    from roost.store import Store

READ_MOST = 16 << 20  # bytes of a file that `read` returns
TAIL = 4096  # bytes of a run's output that its result repeats
SOURCE_TARGET = "/src"


class Source(Struct, frozen=True, kw_only=True):
    """A checkout for a run: ``directory`` on the host, seen at ``target`` as a copy-on-write tree."""

    directory: str
    target: str = SOURCE_TARGET


class Run(Struct, frozen=True, kw_only=True):
    """What to run. ``directory`` empty: the first source's target, else the user's home.

    ``limits`` replace those of the machine, by name: memory, disk and output in bytes, time in seconds, cpus, tasks, or as
    a definition writes them; None lifts one. ``timeout`` (seconds) is another way to say the time.
    ``artifacts`` are globs, relative to that directory or absolute; what they match goes to ``output``/MACHINE/.
    """

    command: tuple[str, ...]
    user: str = "root"
    directory: str = ""
    environment: dict[str, str] = {}
    sources: tuple[Source, ...] = ()
    binds: tuple[Bound, ...] = ()
    artifacts: tuple[str, ...] = ()
    output: str = "artifacts"
    timeout: float | None = None
    limits: dict[str, str | float | None] = {}

    @property
    def words(self) -> tuple[str, ...]:
        """The command as a result repeats it."""
        return tuple(map(files.printable, self.command))


class Terms(Struct, frozen=True, kw_only=True):
    """A machine's standing terms for its sessions. ``private``: those of its private network, see engine/private.py."""

    environment: dict[str, str] = {}
    binds: tuple[Bound, ...] = ()
    limits: Limits = Limits()
    private: dict[str, Any] = {}


def terms_of(machine: Resolved, pool: Pool | None = None) -> Terms:
    """Those of a definition's machine; ``pool`` is where its definition takes addresses from."""
    private: dict[str, Any] = {}
    if machine.network == "private":
        import msgspec

        own = msgspec.structs.asdict(machine.private_network)
        private = {"network": own, "pool": pool.pool if pool else None, "pool6": pool.pool6 if pool else None}
    return Terms(
        environment=machine.environment,
        binds=tuple(Bound(source=b.source, target=b.target, read_only=b.read_only) for b in machine.binds),
        limits=Limits(**{name: getattr(machine, name) for name in asdict(Limits())}), private=private,
    )  # fmt: skip


def init_path() -> str:
    """The static program that is PID 1 of every session. Raises HostError when it was not built."""
    path = os.path.join(os.path.dirname(engine.__file__), "roost-init")
    if not os.access(path, os.X_OK):
        raise HostError(
            "roost-init is missing from this installation", hint="install Roost again: `pip install .` builds it"
        )
    return path


class Session:
    """A writable overlay over layers. A context manager; ``keep`` it inside, or it is thrown away at the end."""

    def __init__(self, store: Store, record: SessionRecord, terms: Terms | None = None) -> None:
        self._store = store
        self.record = record
        self._terms = terms or Terms(environment=record.environment)
        self.directory = store.session_directory(record.id) if record.kept else store.running_directory(record.id)
        self._used = False
        self._stack = contextlib.ExitStack()
        self._range: Range | None = None
        self._disk: Disk | None = None

    @property
    def id(self) -> str:
        """The session's name in ``roost session list``."""
        return self.record.id

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._store.alive(self.record.id))
            if self.record.kept:  # until now somebody else may have changed, moved or removed it
                self.record = self._store.session(self.id)
                self.directory = self._store.session_directory(self.id)
            if self.record.private_users:
                self._range = self._store.ranges.take(self.record.id)
                stack.callback(self._store.ranges.give_back, self._range)
            if self.record.kept:
                self._used = True
            else:
                os.mkdir(self.directory, 0o700)
                stack.callback(self._leave)
                os.mkdir(f"{self.directory}/upper", 0o755)
                os.mkdir(f"{self.directory}/work", 0o700)
                self._store.write_session(self.record, self.directory)
            self._store.check_layers(self.record.layers)  # no sooner: from now on none of them is removed
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _leave(self) -> None:
        if not self.record.kept:
            if self._disk is not None:
                self._disk.release()
            self._store.discard(self.id)

    def keep(self, *, reason: str = "", state: str = "") -> None:
        """Lets the session stay when it is left; what it holds is on the disk when this returns.

        Raises StoreError when there is no room for it.
        """
        if self._disk is not None:
            self._disk.settle(self._store.mount_point)
            self._disk = None
        self._forget_volatile()
        files.sync(self.directory)
        was_kept = self.record.kept
        record = replace(self.record, kept=True, reason=files.printable(reason), state=state)
        self._store.write_session(record, self.directory, durable=True)
        self.record = record
        if not was_kept:
            self._store.keep_session(self.record)
            self.directory = self._store.session_directory(self.id)

    def _forget_volatile(self) -> None:
        """Removes overlayfs's mark that nothing was synced; a second mount would be refused because of it."""
        files.remove_tree(f"{self.directory}/work/work")
        for name in os.listdir(self.directory):
            if name.startswith("source"):
                files.remove_tree(f"{self.directory}/{name}/work/work")

    def _spec(self, run: Run, *, terminal: bool = False, **more: Any) -> Spec:
        if self._used:
            self._forget_volatile()
        self._used = True
        overlaid: list[Overlaid] = []
        for number, source in enumerate(run.sources):
            name = f"source{number}"
            for part in ("", "/upper", "/work"):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(f"{self.directory}/{name}{part}", 0o755)
            overlaid.append(Overlaid(source=os.path.abspath(source.directory), target=source.target, name=name))
        environment = {**self._terms.environment, **run.environment}
        return Spec(
            machine=self.record.machine, layers=tuple(self._store.tree(d) for d in reversed(self.record.layers)),
            directory=self.directory, disk=self._disk.image if self._disk else "", mount_point=self._store.mount_point, init=init_path(),
            command=run.command, user=run.user, chdir=run.directory or (run.sources[0].target if run.sources else ""),
            env=environment, overlaid=tuple(overlaid), bound=(*self._terms.binds, *run.binds),
            base=self._range.base if self._range else 0, userns=self._range.userns if self._range else None,
            network=_mode(self.record.network), terminal=terminal,
            emulated=emulated(self.record.architecture, private_users=self.record.private_users),
            volatile=not self.record.kept, no_new_privileges=self.record.no_new_privileges,
            capabilities=capabilities.default(private_users=self.record.private_users) | set(self.record.capabilities), **more,
        )  # fmt: skip

    def run(
        self, run: Run, *, on_output: Callable[[int, bytes], None] | None = None, stdin: int | None = None, merged: bool = False,
        terminal: bool = False, stop_fd: int | None = None, log: str = "",
    ) -> Result:  # fmt: skip
        """Runs a command to its end, and copies its artifacts out.

        ``terminal``: the caller's terminal is passed through, and no output is seen here. With ``log``, all output is
        written there too. How the command ended is in the result, whatever it was; raises only where Roost itself or
        the host failed.
        """
        limits = self._limits(run)
        notes = self._limit_disk(limits)
        if self._disk is not None:
            limits = replace(limits, disk=self._disk.limit)
        if terminal and limits.output is not None:
            notes.append("the limit on output is not enforced: it goes to the terminal itself")
        spec = self._spec(run, terminal=terminal)
        output_directory = os.path.join(os.path.realpath(run.output), self.record.machine)
        targets = [item.target for item in spec.overlaid] + [item.target for item in spec.bound]
        self.record.mount_points = tuple(sorted({*MOUNT_POINTS, *map(files.printable, targets)}))
        began = time.time()
        tail = bytearray()
        with contextlib.ExitStack() as stack:
            record = stack.enter_context(Log(log)) if log else None

            def output(stream: int, data: bytes) -> None:
                tail.extend(data)
                del tail[:-TAIL]
                if record is not None:
                    record.write(data)
                if on_output is not None:
                    on_output(stream, data)

            ended = self.execute(
                spec, limits=limits, streams=Streams(on_output=output, stdin=stdin, merged=merged), stop_fd=stop_fd
            )
        result = _result(self.record, run, ended, limits, notes, began, bytes(tail), log)
        if record is not None and record.problem:
            text = f"its log is not whole: {record.problem}"
            result = replace(result, warnings=(*result.warnings, text))
        if run.artifacts and not ended.error:
            result = self._with_artifacts(result, run, spec, output_directory, stop_fd)
        return result

    def _limits(self, run: Run) -> Limits:
        limits = self._terms.limits if run.timeout is None else self._terms.limits.changed({"time": run.timeout})
        return limits.changed(_numbers(run.limits)) if run.limits else limits

    def _limit_disk(self, limits: Limits) -> list[str]:
        """Before a run: makes what limits the session's disk. What cannot be enforced any more is said."""
        if limits.disk is None or (self._disk is not None and self._disk.limit == limits.disk):
            return []
        from roost.session.disk import set_again, set_up

        if not self._used:
            self._disk = set_up(self.directory, limits.disk, private_users=self.record.private_users)
        elif again := set_again(self.directory, limits.disk):
            self._disk = again
        elif self._disk is not None:
            return ["the limit on disk stays what it was: the session has been written to"]
        else:
            return ["the limit on disk is not enforced: the session has been written to without it"]
        return []

    def execute(self, spec: Spec, *, limits: Limits, streams: Streams, stop_fd: int | None = None) -> Ended:
        """Runs a specification in this session's control group."""
        name = self._store.group_of(self.record.id)
        programs = seccomp.filters(spec, directory=self._store.state, name=name)
        with contextlib.ExitStack() as stack:
            connect = None
            if spec.network == "private":
                from roost.engine.private import lent

                spec, connect = stack.enter_context(lent(self._store, self.id, self._terms.private, spec))
            return execute(
                spec,
                name=name,
                filters=programs,
                limits=limits,
                streams=streams,
                disk=self._disk,
                stop_fd=stop_fd,
                connect=connect,
            )

    def inside(self, spec: Spec, function: Callable[[], Any], *, stop_fd: int | None = None) -> Any:
        """The value of ``function``, called in a child that has the session mounted as its working directory.

        Raises Interrupted when a stop is asked for meanwhile.
        """
        self._forget_volatile()

        def work() -> Any:
            try:
                mount_all(spec)
            except OSError as e:
                raise describe(e) from e
            return function()

        return runner.in_child(work, stop_fd=stop_fd)

    def _with_artifacts(self, result: Result, run: Run, spec: Spec, output: str, stop_fd: int | None) -> Result:
        """The result with what was copied; a failure to copy is a warning, and takes nothing from the result."""

        def collect() -> Any:
            return _collect(run.artifacts, spec, output, caller())

        try:
            copied, warnings = self.inside(spec, collect, stop_fd=stop_fd)
        except Interrupted:
            return replace(result, state="interrupted", status=None)
        except (Error, OSError) as e:
            text = e.brief if isinstance(e, Error) else of_os(e).brief
            warnings = [f"the artifacts were not copied: {text}"]
            return replace(result, warnings=(*result.warnings, *warnings))
        artifacts = tuple(Artifact(**item) for item in copied)
        return replace(result, artifacts=artifacts, warnings=(*result.warnings, *warnings))

    def changes(self) -> Iterator[Change]:
        """What is different from the layers below, in the order of paths."""
        from roost.session import changes

        lowers = [self._store.tree(digest) for digest in reversed(self.record.layers)]
        ignore = frozenset(self.record.mount_points)
        if self._disk is None or not self._disk.image:
            return changes.changes(f"{self.directory}/upper", lowers, ignore=ignore)

        import msgspec

        def found() -> Any:
            return msgspec.to_builtins(list(changes.changes("disk/upper", lowers, ignore=ignore)))

        spec = self._spec(Run(command=("true",)))
        return iter(msgspec.convert(self.inside(spec, found), list[changes.Change]))

    def read(self, path: str) -> tuple[bytes | None, bytes | None]:
        """A file before and after: as the layers have it, and as the session has it; None where it is not."""
        spec = self._spec(Run(command=("true",)))
        count = len(spec.layers)

        def both() -> list[str | None]:
            after = read_below("merged", path)
            before = next((text for n in range(count) if (text := read_below(f"l{n}", path)) is not None), None)
            return [None if data is None else data.hex() for data in (before, after)]

        before, after = (None if text is None else bytes.fromhex(text) for text in self.inside(spec, both))
        return before, after


def _mode(word: str) -> Literal["host", "private", "none"]:
    """The network of a record; what it cannot be is none."""
    return "host" if word == "host" else "private" if word == "private" else "none"


def caller() -> tuple[int, int]:
    """Who asked for it: the user behind sudo, else this process's own."""
    try:
        return int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return os.getuid(), os.getgid()


def _collect(patterns: Sequence[str], spec: Spec, output: str, owner: tuple[int, int]) -> Any:
    from roost.artifacts import Collector

    copied: list[dict[str, Any]] = []
    warnings: list[str] = []
    home = spec.chdir or account(spec.user)[2]
    for pattern in patterns:
        path = os.path.join(home, pattern)
        place, prefix = "merged", "/"
        seen = [(f"o{n}", item.target) for n, item in enumerate(spec.overlaid)]
        seen += [(f"b{n}", item.target) for n, item in enumerate(spec.bound) if os.path.isdir(item.source)]
        for name, target in seen:
            if path.startswith(target.rstrip("/") + "/"):
                place, prefix = name, target.rstrip("/") + "/"
        root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            collector = Collector(root, output, owner)
            collector.collect(path[len(prefix) :], prefix)
        finally:
            os.close(root)
        copied += collector.copied
        warnings += collector.warnings
    return [copied, warnings]


def read_below(place: str, path: str) -> bytes | None:
    """The content of a file in a tree; None where it is not. Raises StoreError when it is too large to be compared."""
    try:
        content = files.read_inside(place, path, most=READ_MOST + 1)
    except OSError:
        return None
    if len(content) > READ_MOST:
        raise StoreError(
            f"{path} is larger than {READ_MOST >> 20} MiB", hint="look at it inside: `roost session shell`"
        )
    return content


def _result(
    record: SessionRecord, run: Run, ended: Ended, limits: Limits, notes: Sequence[str], began: float, tail: bytes, log: str,
) -> Result:  # fmt: skip
    if ended.error:
        state, status = "error", None
    elif ended.stopped == "time":
        state, status = "timed-out", None
    elif ended.stopped == "output":
        state, status = "killed", None
    elif ended.stopped:
        state, status = "interrupted", None
    elif ended.signal:
        state, status = "killed", None
    else:
        state, status = ("passed" if ended.status == 0 else "failed"), ended.status
    warnings = [*notes, *ended.notes]
    if "oom" in ended.reached:
        warnings.append(
            "the kernel killed a process of it: the host, or the control group around Roost, had no memory left"
        )
    limit = ""
    if reached := [name for name in ended.reached if name != "oom"]:
        from roost.engine.limits import told

        limit = told(limits, reached)
    number = ended.signal or (signal.SIGTERM if state == "killed" else 0)
    return Result(
        machine=record.machine, command=run.words, state=state, status=status,
        signal=runner.signal_name(number) if number else "", limit=limit, started=began, seconds=ended.seconds,
        user_seconds=ended.user_seconds, system_seconds=ended.system_seconds, max_rss=ended.max_rss,
        timings=ended.phases, session=record.id,
        log=log, tail=tail.decode(errors="replace"), error=ended.error, hint=ended.hint, warnings=tuple(warnings),
    )  # fmt: skip


def _numbers(written: Mapping[str, str | float | None]) -> dict[str, float | None]:
    """The limits of a run as numbers. Raises DefinitionError for one that cannot be."""
    from roost.definition.checks import LIMITS, limit

    found: dict[str, float | None] = {}
    for name, value in written.items():
        if name not in LIMITS:
            raise DefinitionError(f"there is no limit {name!r}", hint=f"the limits are {', '.join(LIMITS)}")
        number, wrong = (None, "") if value is None else limit(name, value)
        if wrong:
            raise DefinitionError(f"limits: {name}: {wrong}", hint="write it as in a definition, or as a number")
        found[name] = number
    return found


def check_sources(sources: Sequence[Source]) -> None:
    """Raises StoreError for a source that cannot be shown in a session."""
    for source in sources:
        if not os.path.isdir(source.directory):
            what = "is not a directory" if os.path.exists(source.directory) else "does not exist"
            raise StoreError(f"the source {source.directory} {what}", hint="--source takes the directory of a checkout")
        if not os.access(source.directory, os.R_OK | os.X_OK):
            raise StoreError(f"the source {source.directory} cannot be read", hint="run as a user who may read it")


def run_once(
    store: Store, record: SessionRecord, terms: Terms, run: Run, *, keep: str = "never",
    on_start: Callable[[str], None] | None = None, **options: Any,
) -> Result:  # fmt: skip
    """A run in a session of its own, thrown away or kept as ``keep`` says. ``options`` are those of ``Session.run``."""
    record = replace(record, id=new_id(record.machine), user=files.printable(run.user), created=time.time())
    began = time.monotonic()
    with Session(store, record, terms) as session:
        opened = time.monotonic()
        if on_start is not None:
            on_start(session.id)
        result = session.run(run, **options)
        if (
            keep == "always"
            or (keep == "on-failure" and result.state in ("failed", "killed", "timed-out"))
            or store.is_asked_to_keep(session.id)
        ):
            try:
                session.keep(reason=f"{result.state}: {' '.join(run.command)}"[:200], state=result.state)
            except (StoreError, OSError) as e:  # the result is not lost as well
                error = e if isinstance(e, StoreError) else of_os(e)
                warning = f"the session could not be kept: {error.brief}"
                result = replace(result, warnings=(*result.warnings, warning))
            else:
                result = replace(result, kept=session.id)
        done = time.monotonic()
    timings = {"open": opened - began, **result.timings, "close": time.monotonic() - done}
    return replace(result, timings=timings)
