"""One command over many machines: a session each, some at a time, every result in the order of the machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from roost.events import RunEnded, RunOutput, RunStarted, Warned
from roost.pool import Job, Pool
from roost.results import Result, of_plain
from roost.results import plain as plain_of
from roost.sessions import run_once
from roost.structs import Struct, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.events import Monitor
    from roost.pool import Done
    from roost.records import SessionRecord
    from roost.sessions import Run, Terms
    from roost.stop import Stop
    from roost.store import Store


class Cell(Struct, frozen=True, kw_only=True):
    """One machine's part: its session's record (the id is given when it starts), its terms and its run."""

    record: SessionRecord
    terms: Terms
    run: Run
    key: str


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

    def run(self, cells: Sequence[Cell]) -> list[Result]:
        """All results, in the order of ``cells``; a cell that never started is skipped."""
        by_key = {cell.key: cell for cell in cells}
        jobs = [Job(key=cell.key, work=self._work(cell)) for cell in cells]

        def on_done(done: Done) -> bool:
            result = self._result(by_key[done.key], done)
            self._results[done.key] = result
            if done.error is not None:
                self._store.sweep()  # a process that was killed has left its session
                self._monitor(RunEnded(machine=done.key, state=result.state, seconds=result.seconds))
            return result.passed or not self._fail_fast

        for key, done in self._pool.run(jobs, on_done=on_done).items():
            if key not in self._results:
                self._results[key] = self._result(by_key[key], done)
        return [self._results[cell.key] for cell in cells]

    def _result(self, cell: Cell, done: Done) -> Result:
        if done.value is not None:
            return of_plain(done.value)
        plain = Result(machine=cell.record.machine, command=cell.run.words, state="skipped")
        if done.interrupted:
            return replace(plain, state="interrupted")
        if done.error is None:
            return plain
        brief = done.error.brief + (f"\n{done.error.details}" if done.error.details else "")
        return replace(plain, state="error", error=brief, hint=done.error.hint)

    def _work(self, cell: Cell) -> Callable[[Monitor, int], Any]:
        def work(monitor: Monitor, stop_fd: int) -> Any:
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
        for text in result.warnings:
            monitor(Warned(message=text, machine=key))
        monitor(RunEnded(machine=key, state=result.state, seconds=result.seconds))
        return result
