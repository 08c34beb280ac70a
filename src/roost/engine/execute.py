"""The parent's side of a run: starts the container, hands on its output, keeps its time, and knows how it ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
import time

from roost.engine import moments
from roost.engine.launch import become_nspawn, describe
from roost.errors import Error, HostError, of_os
from roost.host import cgroups, runner
from roost.structs import Struct, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.engine.spec import Limits, Spec
    from roost.session.disk import Disk

GRACE = 5.0  # seconds between the polite signal and the kill
_MESSAGES_KEPT = 16384
_WAIT_MOST = 86400.0  # seconds; epoll_wait(2) takes 24 days at most
_BLOCKS = 16  # read at a time, so that a flood does not keep a deadline waiting
ENDED = struct.Struct("=8siiQQQQQ")  # roost-init.c: struct ended, after its tag
STOP, KILL = 1, 2
CONNECTED = 255  # roost-init.c: the network, or the terminal, is there
_HOST_FULL = "the host's disk was full before the session's limit: what the session wrote then is lost"
_LOOK = 0.1  # seconds between two looks at a limited disk: what filled it may be removed again


class Ended(Struct, frozen=True, kw_only=True):
    """How a command ended.

    ``status`` is None when a signal (``signal``, a number) ended it, or when it never ran (``error`` says why).
    ``stopped``: "time", "output" (the limit for which Roost ended it) or "stop". ``reached``: the names of all limits
    that were, and "oom" when the kernel killed for want of memory that was not the run's own limit. Times are seconds, ``max_rss`` bytes.
    ``phases``: where the time went, see roost.engine.moments.
    """

    status: int | None = None
    signal: int = 0
    stopped: str = ""
    error: str = ""
    hint: str = ""
    seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    max_rss: int = 0
    phases: dict[str, float] = {}
    reached: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Streams(Struct, frozen=True, kw_only=True):
    """Where the command's streams go. ``stdin`` is a descriptor, or None for nothing to read.

    ``merged``: standard error goes into standard output, so that a log has them in their true order.
    """

    on_output: Callable[[int, bytes], None] | None = None
    stdin: int | None = None
    merged: bool = False


class Running:
    """One container from start to end; use ``execute``."""

    def __init__(
        self, spec: Spec, *, group: cgroups.Group, limits: Limits, streams: Streams, disk: Disk | None, stop_fd: int | None,
        connect: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self._spec = spec
        self._connect = connect
        self._group = group
        self._limits = limits
        self._streams = streams
        self._stop_fd = stop_fd
        self._stack = contextlib.ExitStack()
        self._poller = selectors.DefaultSelector()
        self._stack.callback(self._poller.close)
        self._messages = bytearray()
        self._report = b""
        self._failure = ""
        self._hint = ""
        self._stopped = ""
        self._kill_at: float | None = None
        self._pid = 0
        self._pidfd = -1
        self._left = limits.output
        self._disk = disk
        self._disk_fd: int | None = None
        self._disk_full = False
        self._host_full = False
        self._looked = 0.0

    def start(self, filters: Sequence[bytes]) -> None:
        """Forks the child that becomes nspawn."""
        control, control_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.callback(control.close)
        self._control = control
        with contextlib.ExitStack() as theirs:
            theirs.callback(control_inside.close)
            fds = [control_inside.fileno()]
            messages = self._pipe(theirs, 0)
            if not self._spec.terminal:
                fds += self._std_streams(theirs)
            self._problem, problem_w = os.pipe()
            self._stack.callback(os.close, self._problem)
            theirs.callback(os.close, problem_w)
            room = self._room(theirs)
            go_r, go_w = os.pipe()
            theirs.callback(os.close, go_r)
            theirs.callback(os.close, go_w)

            def child() -> None:
                runner.die_with_parent()
                os.close(go_w)
                _child(
                    self._spec,
                    group=self._group,
                    go=go_r,
                    filters=filters,
                    fds=fds,
                    messages=messages,
                    problem=problem_w,
                    room=room,
                )

            self._forked = time.monotonic()
            self._pid, born = runner.fork_into(child, self._group.born)
            self._pidfd = os.pidfd_open(self._pid)
            self._stack.callback(os.close, self._pidfd)
            cgroups.enter(self._group, self._pid, born=born)
            os.write(go_w, b"g")
        self._poller.register(control, selectors.EVENT_READ, self._on_control)
        self._poller.register(self._pidfd, selectors.EVENT_READ, None)
        if self._stop_fd is not None:
            self._poller.register(self._stop_fd, selectors.EVENT_READ, self._on_stop)

    def _room(self, theirs: contextlib.ExitStack) -> int | None:
        """A socket for the child, by which it shows where the session writes, when that is an image."""
        if not self._spec.disk:
            return None
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._stack.callback(reader.close)
        theirs.callback(writer.close)

        def receive() -> None:
            self._poller.unregister(reader)
            with contextlib.suppress(OSError):  # it did not come so far
                # not recv_fds: that of Python 3.11 forgets its flags
                flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                for _, _, data in reader.recvmsg(1, socket.CMSG_LEN(4), flags)[1]:
                    self._disk_fd = int.from_bytes(data, sys.byteorder)
                    self._stack.callback(os.close, self._disk_fd)

        self._poller.register(reader, selectors.EVENT_READ, receive)
        return writer.fileno()

    def _std_streams(self, theirs: contextlib.ExitStack) -> list[int]:
        if self._streams.stdin is None:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, stdin)
        else:
            stdin = self._streams.stdin
        out = self._pipe(theirs, 1)
        err = out if self._streams.merged else self._pipe(theirs, 2)
        return [stdin, out, err]

    def _pipe(self, theirs: contextlib.ExitStack, stream: int) -> int:
        """A pipe whose far end belongs to the container's root, so that /dev/stdout can be opened again inside."""
        reader, writer = os.pipe()
        self._stack.callback(os.close, reader)
        theirs.callback(os.close, writer)
        os.set_blocking(reader, False)
        if stream:
            os.fchown(writer, self._spec.base, self._spec.base)
            os.fchmod(writer, 0o666)  # whoever may be the session's user; nobody else can reach it

        def read() -> bool:
            """Takes what there is, though not for ever; whether there may be more."""
            for _ in range(_BLOCKS):
                try:
                    block = os.read(reader, runner.BLOCK)
                except BlockingIOError:
                    return False
                if not block:
                    self._poller.unregister(reader)
                    return False
                if stream == 0:
                    self._messages += block
                    del self._messages[:-_MESSAGES_KEPT]
                else:
                    self._hand_on(stream, block)
            return True

        self._poller.register(reader, selectors.EVENT_READ, read)
        return writer

    def _hand_on(self, stream: int, block: bytes) -> None:
        """Output to whoever wants it, up to its limit; past it the command is ended, and what it still says is lost."""
        if self._left is not None:
            if self._left < 0:
                return
            if len(block) > self._left:
                self._end("output", signal.SIGTERM)
                from roost.engine.limits import told

                notice = f"\n[roost: {told(self._limits, ['output'])} reached, the rest is left out]\n"
                block = block[: self._left] + notice.encode()
                self._left = -1
            else:
                self._left -= len(block)
        if self._streams.on_output is not None:
            self._streams.on_output(stream, block)

    def _look(self, *, now: float) -> None:
        if self._disk is not None and not self._disk_full and now - self._looked >= _LOOK:
            self._looked = now
            self._disk_full = self._disk.is_full(self._disk_fd)
            self._host_full = self._host_full or self._disk.is_without_host()

    def wait(self) -> None:
        """Until the container is gone and all its output has been handed on."""
        began = time.monotonic()
        deadline = None if self._limits.time is None else began + self._limits.time
        gone = False
        while not gone:
            next_time = self._kill_at if self._kill_at is not None else deadline
            left = None if next_time is None else min(max(0.0, next_time - time.monotonic()), _WAIT_MOST)
            if self._disk is not None:
                left = _LOOK if left is None else min(left, _LOOK)
            ready = self._poller.select(left)
            now = time.monotonic()
            self._look(now=now)
            if self._kill_at is None and deadline is not None and now >= deadline and not gone:
                self._end("time", signal.SIGTERM)
                deadline = None
            elif self._kill_at is not None and now >= self._kill_at:
                self._kill()
            for key, _ in ready:
                if key.data is not None:
                    key.data()
                elif not gone:
                    gone = True
                    self._poller.unregister(self._pidfd)
        # whoever in the container could write is dead; what was written is in the pipes
        for key in list(self._poller.get_map().values()):
            if key.data is not None and key.fileobj != self._stop_fd:
                while key.data():
                    pass
        self._look(now=float("inf"))

    def _on_control(self) -> None:
        try:
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            packet, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_LEN(4), flags)
        except BlockingIOError:
            return
        except ConnectionResetError:  # killed with something of ours unread
            packet, ancillary = b"", []
        for _, _, data in ancillary:
            self._make_network(int.from_bytes(data, sys.byteorder))
        if packet.startswith(b"X"):
            self._report = packet
        elif packet.startswith(b"E"):
            self._failure = packet[1:].decode(errors="replace")
        elif not packet and self._control in {key.fileobj for key in self._poller.get_map().values()}:
            self._poller.unregister(self._control)

    def _make_network(self, fd: int) -> None:
        """Puts a network into the namespace ``fd``, once: what comes later comes from whoever took roost-init over."""
        connect, self._connect = self._connect, None
        try:
            if connect is not None:
                connect(fd)
                self._control.send(bytes([CONNECTED]))
        except (Error, OSError) as e:
            error = e if isinstance(e, Error) else of_os(e)
            self._failure, self._hint = error.brief, error.hint
            self._kill()
        finally:
            os.close(fd)

    def _on_stop(self) -> None:
        assert self._stop_fd is not None
        data = os.read(self._stop_fd, 64)
        if not data or max(data) >= KILL:  # end of file: whoever could stop us is gone
            self._poller.unregister(self._stop_fd)
            self._stopped = self._stopped or "stop"
            self._kill()
        else:
            self._end("stop", signal.SIGINT)

    def _end(self, why: str, number: int) -> None:
        self._stopped = self._stopped or why
        self._kill_at = self._kill_at or time.monotonic() + GRACE
        with contextlib.suppress(OSError):
            self._control.send(bytes([number]))

    def _kill(self) -> None:
        self._kill_at = None
        runner.send_signal(self._pidfd, self._pid, signal.SIGKILL)

    def close(self) -> int:
        """Ends whatever still runs, reaps it and lets everything go; nspawn's status."""
        status = 0
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                if self._pidfd < 0:  # there was no descriptor left for it
                    os.kill(self._pid, signal.SIGKILL)
                else:
                    runner.send_signal(self._pidfd, self._pid, signal.SIGKILL)
            status = runner.reap(self._pid) or 0
        self._gone = time.monotonic()
        self._child_moments, self._problem_text = moments.unpacked(runner.read_now(self._problem) if self._pid else b"")
        self._stack.close()
        return status

    def ended(self, status: int, seconds: float) -> Ended:
        """The whole story, once closed."""
        notes = (_HOST_FULL,) if self._host_full else ()
        plain = Ended(seconds=seconds, stopped=self._stopped, notes=(*self._group.notes, *notes))
        reached = [self._stopped] if self._stopped in ("time", "output") else []
        reached += [*cgroups.reached(self._group), *(("disk",) if self._disk_full else ())]
        plain = replace(plain, reached=tuple(reached))
        if len(self._report) == ENDED.size:
            code, user, system, rss, inside = unpack(self._report)
            passed = moments.phases([self._forked, *self._child_moments, *inside, self._gone])
            return replace(
                plain, status=None if self._failure or code < 0 else code, signal=max(0, -code), error=self._failure,
                user_seconds=user / 1e6, system_seconds=system / 1e6, max_rss=rss << 10, phases=passed,
            )  # fmt: skip
        if self._problem_text:
            brief, _, hint = self._problem_text.decode(errors="replace").partition("\0")
            return replace(plain, error=brief, hint=hint)
        if self._stopped or {"memory", "oom"}.intersection(reached):
            return replace(plain, signal=signal.SIGKILL)
        if self._hint:
            return replace(plain, error=self._failure, hint=self._hint)
        words = self._messages.decode(errors="replace").strip()
        return replace(plain, error=self._failure or words or f"systemd-nspawn: {runner.ending(status)}")


def unpack(report: bytes) -> tuple[int, int, int, int, tuple[float, float]]:
    """What roost-init says: exit code (negative: a signal), user and system time in microseconds, memory in KiB, when it began and ended.

    The container's root may have forged it: what no command can have said is cut to what one can.
    """
    _, status, _, user, system, rss, began, ended = ENDED.unpack(report)
    number, core = status & 0x7F, status & 0x80
    code = -number if 0 < number < 0x7F and not status & ~(number | core) else status >> 8 & 0xFF
    return code, user, system, min(rss, 1 << 50), (began / 1e6, ended / 1e6)


def _child(
    spec: Spec,
    *,
    group: cgroups.Group,
    go: int,
    filters: Sequence[bytes],
    fds: Sequence[int],
    messages: int,
    problem: int,
    room: int | None,
) -> None:
    """In the child: becomes nspawn, or tells the parent why not."""
    try:
        become_nspawn(spec, group=group, go=go, filters=filters, fds=fds, messages=messages, problem=problem, room=room)
    except (OSError, Error) as e:
        error = describe(e) if isinstance(e, OSError) else e
        os.write(problem, f"{error.brief}\0{error.hint}".encode(errors="backslashreplace")[:4096])


def execute(
    spec: Spec, *, name: str, filters: Sequence[bytes], limits: Limits, streams: Streams, disk: Disk | None = None,
    stop_fd: int | None = None, connect: Callable[[int], None] | None = None,
) -> Ended:  # fmt: skip
    """Runs ``spec`` to its end in a control group ``name``.

    Nothing is left behind, however this ends. ``stop_fd``: a byte 1 asks the command to end (SIGINT, and SIGKILL after
    GRACE seconds), a byte 2 or the end of file kills it. ``disk`` is what limits the session's. ``connect`` is
    given a descriptor of a private network's namespace, before the command starts. Raises HostError when no process could
    be started.
    """
    group = cgroups.create(name, memory=limits.memory, cpus=limits.cpus, tasks=limits.tasks)
    try:
        running = Running(
            spec, group=group, limits=limits, streams=streams, disk=disk, stop_fd=stop_fd, connect=connect
        )
        began = time.monotonic()
        try:
            try:
                running.start(filters)
            except OSError as e:
                error = of_os(e)
                raise HostError(f"cannot start a container: {error.brief}", hint=error.hint) from e
            running.wait()
        finally:
            status = running.close()
        return running.ended(status, time.monotonic() - began)
    finally:
        cgroups.remove(group)
