"""One command over many machines: a session each, some at a time, every result in the order of the machines."""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING, Any

from roost.errors import DefinitionError
from roost.events import RunEnded, RunOutput, RunStarted, Warned
from roost.pool import Job, Pool
from roost.results import Result, of_plain
from roost.results import plain as plain_of
from roost.sessions import run_once
from roost.structs import Struct, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.events import Monitor
    from roost.host.ranges import Range
    from roost.pool import Done
    from roost.records import SessionRecord
    from roost.sessions import Run, Terms
    from roost.stop import Stop
    from roost.store import Store


class Variant(Struct, frozen=True, kw_only=True):
    """One of several runs on each machine.

    ``name`` is part of file names. ``environment`` is added to the run's, ``command`` (when there is one) takes the
    place of the run's. ``machines``: names and globs of those that it is meant for; none means all.
    """

    name: str
    environment: dict[str, str] = {}
    command: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()

    def fits(self, machine: str) -> bool:
        """Whether it is meant for this machine."""
        return not self.machines or any(fnmatch.fnmatchcase(machine, pattern) for pattern in self.machines)

    def of(self, run: Run) -> Run:
        """The run as this variant has it; artifacts go into a directory of its own."""
        return replace(
            run, command=self.command or run.command, environment={**run.environment, **self.environment},
            output=os.path.join(run.output, self.name),
        )  # fmt: skip


def axes(texts: Sequence[str]) -> list[Variant]:
    """The variants of ``NAME=A,B,C``, every combination of several such: what ``--matrix`` says.

    Raises DefinitionError for what is none, and where two values would have the same name.
    """
    from itertools import product
    from re import sub

    found: dict[str, list[str]] = {}
    for text in texts:
        name, given, values = text.partition("=")
        if not given or not (name.isascii() and name.replace("_", "a").isalnum()) or name[:1].isdigit():
            raise DefinitionError(
                f"--matrix {text}: {name!r} cannot be a variable's name", hint="write --matrix NAME=A,B,C"
            )
        found[name] = values.split(",")
    variants: dict[str, Variant] = {}
    for chosen in product(*found.values()) if found else ():
        name = ".".join(sub("[^A-Za-z0-9_+=-]", "_", value) or "_" for value in chosen)
        if len(name) > 100:
            raise DefinitionError(
                f"--matrix: the name {name[:40]!r}… is too long for a file's", hint="use shorter values"
            )
        if name in variants:
            raise DefinitionError(
                f"--matrix: two variants would be called {name!r}", hint="values must differ in letters, digits or _+=-"
            )
        variants[name] = Variant(name=name, environment=dict(zip(found, chosen, strict=True)))
    return list(variants.values())


class Cell(Struct, frozen=True, kw_only=True):
    """One machine's part: its session's record (the id is given when it starts), its terms, its run, its variant's name."""

    record: SessionRecord
    terms: Terms
    run: Run
    variant: str = ""

    @property
    def key(self) -> str:
        """What events and logs call it: the machine, and the variant after a dot."""
        return f"{self.record.machine}.{self.variant}" if self.variant else self.record.machine


def cells_of(record: SessionRecord, terms: Terms, run: Run, variants: Sequence[Variant]) -> list[Cell]:
    """A machine's cells: one, or one for each variant that fits it."""
    if not variants:
        return [Cell(record=record, terms=terms, run=run)]
    fitting = [variant for variant in variants if variant.fits(record.machine)]
    return [Cell(record=record, terms=terms, run=variant.of(run), variant=variant.name) for variant in fitting]


class Matrix:
    """Runs cells. ``keep``: never, on-failure or always; ``logs`` is a directory, empty for no logs."""

    def __init__(
        self, store: Store, monitor: Monitor, *, jobs: int, keep: str = "never", fail_fast: bool = False, logs: str = "",
        stop: Stop | None = None, tick: Callable[[], None] | None = None, interval: float | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._monitor = monitor
        self._keep = keep
        self._fail_fast = fail_fast
        self._logs = logs
        self._pool = Pool(jobs, monitor, stop=stop, tick=tick, interval=interval)
        self._results: dict[str, Result] = {}
        self._held: dict[str, Range] = {}

    def run(self, cells: Sequence[Cell]) -> list[Result]:
        """All results, in the order of ``cells``; a cell that never started is skipped."""
        by_key = {cell.key: cell for cell in cells}
        jobs = [Job(key=cell.key, work=self._work(cell)) for cell in cells]

        def on_start(key: str) -> None:
            # a range with its namespace is made once for each job at a time, not for each job
            if by_key[key].record.private_users:
                self._held[key] = self._store.ranges.take(key)

        def on_done(done: Done) -> bool:
            if done.error is not None:
                self._store.sweep()  # a process that was killed has left its session, which may still be ending
            if done.key in self._held:
                held = self._held.pop(done.key)
                (self._store.ranges.drop if done.value is None else self._store.ranges.give_back)(held)
            result = self._result(by_key[done.key], done)
            self._results[done.key] = result
            if done.error is not None:
                self._monitor(RunEnded(machine=done.key, state=result.state, seconds=result.seconds))
            return result.passed or not self._fail_fast

        try:
            ended = self._pool.run(jobs, on_start=on_start, on_done=on_done)
        finally:
            while self._held:
                self._store.ranges.drop(self._held.popitem()[1])
        for key, done in ended.items():
            if key not in self._results:
                self._results[key] = self._result(by_key[key], done)
        return [self._results[cell.key] for cell in cells]

    def _result(self, cell: Cell, done: Done) -> Result:
        if done.value is not None:
            return of_plain(done.value)
        plain = Result(machine=cell.record.machine, variant=cell.variant, command=cell.run.words, state="skipped")
        if done.interrupted:
            return replace(plain, state="interrupted")
        if done.error is None:
            return plain
        brief = done.error.brief + (f"\n{done.error.details}" if done.error.details else "")
        return replace(plain, state="error", error=brief, hint=done.error.hint)

    def _work(self, cell: Cell) -> Callable[[Monitor, int], Any]:
        def work(monitor: Monitor, stop_fd: int) -> Any:
            if cell.key in self._held:
                self._store.ranges.borrow(self._held[cell.key])
            try:
                return plain_of(self._once(cell, monitor, stop_fd))
            finally:
                self._store.ranges.close()

        return work

    def _once(self, cell: Cell, monitor: Monitor, stop_fd: int) -> Result:
        """In the job's own process: the whole life of one session."""
        key = cell.key
        log = os.path.join(self._logs, f"{key}.log") if self._logs else ""
        result = run_once(
            self._store, cell.record, cell.terms, cell.run, keep=self._keep, log=log, merged=True, stop_fd=stop_fd,
            on_output=lambda stream, data: monitor(RunOutput(machine=key, stream=stream, data=data)),
            on_start=lambda session: monitor(RunStarted(machine=key, session=session, log=log)),
        )  # fmt: skip
        result = replace(result, variant=cell.variant)
        for text in result.warnings:
            monitor(Warned(message=text, machine=key))
        monitor(RunEnded(machine=key, state=result.state, seconds=result.seconds))
        return result
