"""Jobs side by side, each in a forked child of its own: a crash, a leak or a blocked disk stays in its job.

The children send events and one answer through pipes; one loop reads them all. A child whose parent is killed ends
what it has started and clears up after itself (PR_SET_PDEATHSIG); a child that is killed itself is told by its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from roost.errors import Error, HostError, from_parts, of_memory, of_os, to_parts
from roost.events import Event
from roost.host import runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.events import Monitor
    from roost.stop import Stop

_PIPE = 1 << 20  # bytes: some blocks of output, so that neither side waits for the other at each
_LENGTH = struct.Struct("=IB")
_PATIENCE = 12.0  # seconds that children have to end and clear up after SIGTERM
_EVENT, _VALUE, _ERROR, _INTERRUPTED = 0, 1, 2, 3
_encode = msgspec.msgpack.Encoder().encode
_events = msgspec.msgpack.Decoder(Event)


class Job(Struct, frozen=True, kw_only=True):
    """``work`` runs in the child: it gets a monitor and a descriptor to be asked to stop by, and returns plain values.

    It starts when every job in ``after`` has ended well; when one has not, it is skipped.
    """

    key: str
    work: Callable[[Monitor, int], Any]
    after: tuple[str, ...] = ()


class Done(Struct, frozen=True, kw_only=True):
    """How a job ended: its value, or the error, or interrupted, or skipped: it never started."""

    key: str
    value: Any = None
    error: Error | None = None
    interrupted: bool = False
    skipped: bool = False

    @property
    def well(self) -> bool:
        """Whether it has a value."""
        return self.error is None and not self.skipped and not self.interrupted


class Interrupted(BaseException):
    """Raised in a child that shall end now; not an Error, so that nothing swallows it."""


class _Child:
    """One running job, seen from the parent."""

    def __init__(self, job: Job) -> None:
        self.job = job
        parent = os.getpid()
        with contextlib.ExitStack() as stack:  # whoever fails here must leave descriptors to clear up with
            self.reader, writer = _pipe(stack)
            with contextlib.suppress(OSError):  # this user's pipes are at their limit
                fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, _PIPE)
            stop_reader, self.stop = _pipe(stack)
            self._start(parent, writer, stop_reader)
            stack.pop_all()
        os.close(writer)
        os.close(stop_reader)
        self._rest = b""  # the beginning of a message
        self.answer: Done | None = None

    def _start(self, parent: int, writer: int, stop_reader: int) -> None:
        job = self.job

        def work() -> None:
            os.close(self.reader)
            os.close(self.stop)
            _serve(job, writer, stop_reader, parent)

        self.pid = runner.fork(work)

    def read(self, monitor: Monitor) -> bool:
        """Takes what there is; False at the end."""
        block = os.read(self.reader, _PIPE)
        data = self._rest + block if self._rest else block
        at = 0
        with memoryview(data) as view:
            while len(data) - at >= _LENGTH.size:
                length, kind = _LENGTH.unpack_from(view, at)
                end = at + _LENGTH.size + length
                if len(data) < end:
                    break
                self._take(kind, view[at + _LENGTH.size : end], monitor)
                at = end
        self._rest = data[at:]
        return bool(block)

    def _take(self, kind: int, payload: memoryview, monitor: Monitor) -> None:
        if kind == _EVENT:
            monitor(_events.decode(payload))
        elif kind == _VALUE:
            self.answer = Done(key=self.job.key, value=msgspec.msgpack.decode(payload))
        elif kind == _INTERRUPTED:
            self.answer = Done(key=self.job.key, interrupted=True)
        else:
            self.answer = Done(key=self.job.key, error=from_parts(msgspec.msgpack.decode(payload)))

    def finish(self) -> Done:
        os.close(self.reader)
        os.close(self.stop)
        status = runner.reap(self.pid)
        if self.answer is not None:
            return self.answer
        how = runner.ending(status or 0)
        return Done(key=self.job.key, error=HostError(f"its process ended early: {how}", hint="run it again"))


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        stack.callback(os.close, fd)
    return ends


def _serve(job: Job, writer: int, stop: int, parent: int) -> None:
    """In the child."""
    _watch_parent(parent)

    def send(kind: int, value: Any) -> None:
        data = _encode(value)
        view = memoryview(_LENGTH.pack(len(data), kind) + data)
        while view:
            view = view[os.write(writer, view) :]

    with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer any more
        try:
            value = job.work(lambda event: send(_EVENT, event), stop)
        except Error as e:
            send(_ERROR, to_parts(e))
        except OSError as e:
            send(_ERROR, to_parts(of_os(e)))
        except MemoryError:
            send(_ERROR, to_parts(of_memory()))
        except Interrupted:
            send(_INTERRUPTED, None)
        else:
            send(_VALUE, value)


def _watch_parent(parent: int) -> None:
    """Unwinds this process when its parent ends, or asks for it with SIGTERM; keys on the terminal are the parent's."""

    def interrupt(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and clearing up is not to be interrupted
        raise Interrupted

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, interrupt)
    runner.die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        raise Interrupted


class Pool:
    """Runs jobs, at most ``limit`` at a time. ``tick`` is called at least every ``interval`` seconds while they run."""

    def __init__(
        self, limit: int, monitor: Monitor, *, stop: Stop | None = None, tick: Callable[[], None] | None = None,
        interval: float | None = None, polite: bool = True,
    ) -> None:  # fmt: skip
        self._limit = max(1, limit)
        self._monitor = monitor
        self._stop = stop
        self._tick = tick
        self._interval = interval
        self._polite = polite
        self._running: dict[str, _Child] = {}
        self._done: dict[str, Done] = {}
        self._stopping = False
        self._kill_at: float | None = None

    def run(
        self, jobs: Sequence[Job], *, on_start: Callable[[str], None] = lambda _key: None,
        on_done: Callable[[Done], bool] | None = None,
    ) -> dict[str, Done]:  # fmt: skip
        """Runs all, in their order as far as ``after`` allows; ``on_done`` says False when no further one may start.

        ``on_start`` is called in this process just before a job's own is made, with its key.
        """
        waiting = list(jobs)
        with contextlib.closing(selectors.DefaultSelector()) as poller:
            if self._stop is not None:
                poller.register(self._stop.fd, selectors.EVENT_READ)
            try:
                while waiting or self._running:
                    waiting = self._start(waiting, poller, on_start)
                    if not self._running:
                        break
                    self._turn(poller, on_done)
            finally:
                self._end_all()
        for job in waiting:
            self._done[job.key] = Done(key=job.key, skipped=True)
        return self._done

    def _start(self, waiting: list[Job], poller: selectors.BaseSelector, on_start: Callable[[str], None]) -> list[Job]:
        left: list[Job] = []
        for number, job in enumerate(waiting):
            if len(self._running) >= self._limit and not self._stopping:
                return (
                    left + waiting[number:] if number else waiting
                )  # thousands may wait: they are not looked at each time
            before = [self._done.get(key) for key in job.after]
            if self._stopping or any(done is not None and not done.well for done in before):
                self._done[job.key] = Done(key=job.key, skipped=True)
            elif all(before):
                on_start(job.key)
                child = _Child(job)
                self._running[job.key] = child
                poller.register(child.reader, selectors.EVENT_READ, child)
            else:
                left.append(job)
        return left

    def _turn(self, poller: selectors.BaseSelector, on_done: Callable[[Done], bool] | None) -> None:
        """Waits for something, and takes it in."""
        left = self._interval
        if self._kill_at is not None:
            until = max(0.0, self._kill_at - time.monotonic())
            left = until if left is None else min(left, until)
        for key, _ in poller.select(left):
            if key.data is None:
                self._ask_to_stop(max(os.read(key.fd, 64)))
            elif not key.data.read(self._monitor):
                poller.unregister(key.fd)
                child = self._running.pop(key.data.job.key)
                done = child.finish()
                if self._stopping and not self._polite and child.answer is None:
                    done = Done(key=done.key, interrupted=True)
                if on_done is not None and not on_done(done):
                    self._stopping = True
                # whoever takes them one by one has the value: thousands of them are not kept here too
                self._done[done.key] = done if on_done is None else msgspec.structs.replace(done, value=None)
        if self._tick is not None:
            self._tick()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            for child in self._running.values():
                os.kill(child.pid, signal.SIGKILL)

    def _ask_to_stop(self, level: int) -> None:
        self._stopping = True
        if not self._polite and self._kill_at is None:
            # Python swallows an exception that a signal raises within a callback of its own: the child would go on
            self._kill_at = time.monotonic() + _PATIENCE
        for child in self._running.values():
            if self._polite:
                with contextlib.suppress(OSError):
                    os.write(child.stop, bytes([level]))
            else:
                os.kill(child.pid, signal.SIGTERM)

    def _end_all(self) -> None:
        """After an error in this process: no child outlives the pool."""
        for child in self._running.values():
            os.close(child.reader)  # else it could wait for ever for somebody to read
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10.0
        for child in self._running.values():
            if runner.reap(child.pid, timeout=max(0.0, deadline - time.monotonic())) is None:
                os.kill(child.pid, signal.SIGKILL)
                runner.reap(child.pid)
            os.close(child.stop)
        self._running.clear()
