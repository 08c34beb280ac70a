"""A command in a machine that runs already: in its namespaces, with no more rights than its init, and exactly watched.

roost-init --exec (engine/roost-init.c) joins the machine and starts the command. It is executed from a sealed copy in memory,
so that nothing in the machine can change the program on the host (CVE-2019-5736); it holds no descriptor of the host's
files (CVE-2016-9962, CVE-2024-21626); and it is in a pid namespace that the machine does not see. The command is in a control
group below the machine's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import stat
import sys
import time

from roost.boot import leader as leaders
from roost.engine import execute
from roost.engine.execute import GRACE, KILL, Ended, Streams
from roost.errors import HostError, of_os
from roost.host import cgroups, runner, syscalls
from roost.structs import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from roost.boot.leader import Facts, Leader
    from roost.boot.terminal import Screen

_PREFIX = "roost-exec-"  # of control groups; the number of who made it follows
_FIRST = 3  # roost-init.c: CONTROL, and the others in their order
_PIDFD, _KILL_GROUP = 7, 8
_HIGH = 64  # above every descriptor that is being put in its place
_BLOCKS = 16  # read at a time, so that a flood does not keep a deadline waiting
_WAIT_MOST = 86400.0  # seconds; epoll_wait(2) takes 24 days at most
_BEGIN = 10.0  # seconds that a machine's init has to be its own
_SEAL_FUTURE_WRITE = (
    0x10  # linux/fcntl.h, since 5.1. F_SEAL_WRITE says EBUSY while the kernel itself holds a page for a moment
)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE
_MFD_EXEC = 0x10  # linux/memfd.h; since Linux 6.3, where it is wanted if sysctl vm.memfd_noexec is set


def run_inside(
    leader: Leader, command: Sequence[str], *, user: str = "root", directory: str = "",
    environment: Mapping[str, str] | None = None, terminal: bool = False, streams: Streams | None = None,
    stop_fd: int | None = None, timeout: float | None = None, filters: Sequence[bytes] | None = None,
    grace: float = GRACE,
) -> Ended:  # fmt: skip
    """Runs ``command`` in the machine of ``leader`` to its end.

    ``user`` is a name of the machine's /etc/passwd or a number, ``directory`` is empty for the user's home. With
    ``terminal`` the command has a terminal of the machine's own, and this process's descriptors 0 and 1 are in front of it;
    else its streams are pipes. After ``timeout`` seconds it gets SIGTERM, and SIGKILL after ``grace`` more, with all that it
    has started; likewise when a byte comes from ``stop_fd`` (1: SIGINT first, 2 or the end of file: killed). What it leaves
    in the background when it ends by itself lives on in the machine. ``filters`` are the seccomp programs of the machine's
    init where the caller knows them; None: they are read from it.

    Raises HostError when the machine has ended or cannot be joined.
    """
    if streams is None:
        streams = Streams()
    _await_begin(leader)
    found = leaders.facts(leader)
    if filters is None:
        filters = filters_of(leader)
    init = _sealed_init()
    try:
        execution = _Execution(
            leader, found, streams=streams, terminal=terminal, stop_fd=stop_fd, timeout=timeout, grace=grace
        )
        argv = _argv(found, command, user=user, directory=directory, terminal=terminal)
        return execution.run(init, argv, _environment(environment or {}, terminal=terminal), filters)
    except OSError as e:
        error = of_os(e)
        raise HostError(f"the machine cannot be joined: {error.brief}", hint=error.hint) from e
    finally:
        os.close(init)


def _await_begin(leader: Leader) -> None:
    deadline = time.monotonic() + _BEGIN
    while not leaders.has_begun(leader):
        if not leaders.is_alive(leader):
            raise leaders.gone()
        if time.monotonic() > deadline:
            raise HostError("the machine's init has not begun", hint="see `roost logs`")
        time.sleep(0.005)


def filters_of(leader: Leader) -> Sequence[bytes]:
    """The seccomp programs of a machine's init, once it has begun; reading them takes a third of the time of a short command.

    Raises HostError when not all of them can be read.
    """
    found = leaders.facts(leader)
    if not found.filters:
        return ()
    from roost.engine import seccomp

    try:
        programs = seccomp.filters_of(leader.pid)
    except (OSError, HostError):
        programs = []
    if not leaders.is_alive(leader):
        raise leaders.gone()
    if not programs or found.filters not in (-1, len(programs)):
        raise HostError(
            "the seccomp filters of the machine's init cannot be read, and no command is run with fewer",
            hint="it needs a kernel with CONFIG_CHECKPOINT_RESTORE, no seccomp filter around Roost, and nobody else who traces the init",
        )
    return programs


def _argv(found: Facts, command: Sequence[str], *, user: str, directory: str, terminal: bool) -> tuple[str, ...]:
    return (
        "roost-init", "--exec", f"{found.namespaces:x}", str(int(found.no_new_privileges)), user, directory, str(int(terminal)),
        f"{found.capabilities:x}", *command,
    )  # fmt: skip


def _environment(given: Mapping[str, str], *, terminal: bool) -> dict[str, str]:
    """What nspawn gives to what it starts; roost-init adds what is known of the user. Nothing of the caller's but TERM."""
    base = {"PATH": runner.PATH, "container": "systemd-nspawn"}
    if terminal:
        base["TERM"] = os.environ.get("TERM", "vt220")
    return {**base, **given}


def _sealed_init() -> int:
    """A copy of roost-init in memory that nobody can write to, as a descriptor."""
    from roost.sessions import init_path

    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("roost-init", flags | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("roost-init", flags)
    try:
        with open(init_path(), "rb") as source:
            size = os.fstat(source.fileno()).st_size
            while size > 0:
                size -= os.sendfile(fd, source.fileno(), None, size)
        os.fchmod(fd, 0o555)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Execution:
    """One command from start to end."""

    def __init__(
        self,
        leader: Leader,
        found: Facts,
        *,
        streams: Streams,
        terminal: bool,
        stop_fd: int | None,
        timeout: float | None,
        grace: float,
    ) -> None:
        self._leader = leader
        self._facts = found
        self._streams = streams
        self._terminal = terminal
        self._stop_fd = stop_fd
        self._timeout = timeout
        self._grace = grace
        self._stack = contextlib.ExitStack()
        self._poller = selectors.DefaultSelector()
        self._stack.callback(self._poller.close)
        self._screen: Screen | None = None
        self._pid = 0
        self._pidfd = -1
        self._report = b""
        self._failure = ""
        self._stopped = ""
        self._kill_at: float | None = None
        self._group = cgroups.Group()

    def run(self, init: int, argv: tuple[str, ...], env: dict[str, str], filters: Sequence[bytes]) -> Ended:
        """Starts it and waits for its end; nothing is left of it but what it has put in the background itself."""
        self._group = cgroups.below(self._facts.groups, f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}")
        _sweep(self._group.born)
        began = time.monotonic()
        whole = False
        try:
            self._start(init, argv, env, filters)
            self._wait(began)
            whole = not self._stopped and bool(self._report)
        finally:
            self._close(whole=whole)
        return self._ended(time.monotonic() - began)

    def _start(self, init: int, argv: tuple[str, ...], env: dict[str, str], filters: Sequence[bytes]) -> None:
        control, theirs_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.callback(control.close)
        self._control = control
        limits = leaders.limits(self._leader)
        with contextlib.ExitStack() as theirs:
            theirs.callback(theirs_control.close)
            fds = {_FIRST: theirs_control.fileno()}
            if not self._terminal:
                fds |= dict(enumerate(self._pipes(theirs), _FIRST + 1))
            fds[_PIDFD] = _kept(theirs, leaders.pidfd(self._leader))
            path = f"{self._group.born}/cgroup.kill" if self._group.born else os.devnull
            fds[_KILL_GROUP] = _kept(theirs, _open_or_null(path))
            go_r, go_w = os.pipe()
            theirs.callback(os.close, go_r)
            theirs.callback(os.close, go_w)
            problem, problem_w = os.pipe()
            theirs.callback(os.close, problem)

            def child() -> None:
                os.close(go_w)
                os.close(control.fileno())
                problem_high = fcntl.fcntl(problem_w, fcntl.F_DUPFD_CLOEXEC, _HIGH)
                try:
                    if self._facts.personality:
                        syscalls.personality(self._facts.personality)
                    _become_init(init, argv, env, fds, filters=filters, limits=limits, go=go_r)
                except OSError as e:
                    os.write(problem_high, of_os(e).brief.encode(errors="replace")[:4096])

            try:
                self._pid, born = runner.fork_into(child, self._group.born, new_pid_namespace=False)
            finally:
                os.close(problem_w)
            self._pidfd = os.pidfd_open(self._pid)
            self._stack.callback(os.close, self._pidfd)
            cgroups.enter(self._group, self._pid, born=born)
            os.write(go_w, b"g")
            self._failure = os.read(problem, 4096).decode(errors="replace")  # its end: roost-init has been executed
        self._poller.register(control, selectors.EVENT_READ, self._take_control)
        self._poller.register(self._pidfd, selectors.EVENT_READ, None)
        if self._stop_fd is not None:
            self._poller.register(self._stop_fd, selectors.EVENT_READ, self._on_stop)

    def _pipes(self, theirs: contextlib.ExitStack) -> list[int]:
        stdin = self._streams.stdin
        if stdin is None:
            stdin = _kept(theirs, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        elif stat.S_ISDIR(os.fstat(stdin).st_mode):  # a way out of the machine
            raise HostError("standard input is a directory", hint="give it a file or a pipe")
        out = self._pipe(theirs, 1)
        return [stdin, out, out if self._streams.merged else self._pipe(theirs, 2)]

    def _pipe(self, theirs: contextlib.ExitStack, stream: int) -> int:
        """A pipe whose far end belongs to the machine's root, so that /dev/stdout can be opened again inside."""
        reader, writer = os.pipe()
        self._stack.callback(os.close, reader)
        theirs.callback(os.close, writer)
        os.set_blocking(reader, False)
        os.fchown(writer, self._facts.base, self._facts.base)
        os.fchmod(writer, 0o666)  # whoever may be the user; nobody else can reach it

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
                if self._streams.on_output is not None:
                    self._streams.on_output(stream, block)
            return True

        self._poller.register(reader, selectors.EVENT_READ, read)
        return writer

    def _wait(self, began: float) -> None:
        deadline = None if self._timeout is None else began + self._timeout
        gone = False
        while not gone:
            times = [self._kill_at or deadline, self._screen.retry if self._screen else None]
            left = min((max(0.0, when - time.monotonic()) for when in times if when is not None), default=None)
            ready = self._poller.select(None if left is None else min(left, _WAIT_MOST))
            now = time.monotonic()
            if self._kill_at is None and deadline is not None and now >= deadline:
                self._end("time", signal.SIGTERM)
                deadline = None
            elif self._kill_at is not None and now >= self._kill_at:
                self._kill()
            if self._screen is not None and self._screen.retry is not None and now >= self._screen.retry:
                self._screen.look_again()
            for key, _ in ready:
                if key.data is not None:
                    key.data()
                else:
                    gone = True
        # what was written is in the pipes; what lives on in the background may keep them open
        self._drain()

    def _drain(self) -> None:
        ends: list[Callable[[], bool]] = [
            key.data for key in self._poller.get_map().values()
            if key.data is not None and key.fileobj not in (self._stop_fd, self._control, 0)
        ]  # fmt: skip
        ends.append(self._take_control)
        if self._screen is not None:
            ends.append(self._screen.show)
        for take in ends:
            while take():
                pass

    def _take_control(self) -> bool:
        """One packet of roost-init's; False when there is none."""
        try:
            packet, rights, _, _ = self._control.recvmsg(
                4096, socket.CMSG_LEN(4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except ConnectionResetError:  # killed with something of ours unread
            packet, rights = b"", []
        fds = [int.from_bytes(data[:4], sys.byteorder) for _, _, data in rights]
        if packet.startswith(b"T") and fds:
            from roost.boot.terminal import Screen

            self._screen = Screen(self._poller, self._leave)
            self._stack.callback(self._screen.close)
            self._screen.connect(fds[0])
            self._control.send(bytes([execute.CONNECTED]))
        elif packet.startswith(b"X"):
            self._report = packet
        elif packet.startswith(b"E"):
            self._failure = packet[1:].decode(errors="replace")
        elif not packet and self._control in {key.fileobj for key in self._poller.get_map().values()}:
            self._poller.unregister(self._control)
        return bool(packet)

    def _on_stop(self) -> None:
        assert self._stop_fd is not None
        data = os.read(self._stop_fd, 64)
        if not data or max(data) >= KILL:  # end of file: whoever could stop us is gone
            self._poller.unregister(self._stop_fd)
            self._leave()
        else:
            self._end("stop", signal.SIGINT)

    def _leave(self) -> None:
        self._stopped = self._stopped or "stop"
        self._kill()

    def _end(self, why: str, number: int) -> None:
        self._stopped = self._stopped or why
        self._kill_at = self._kill_at or time.monotonic() + self._grace
        with contextlib.suppress(OSError):
            self._control.send(bytes([number]))

    def _kill(self) -> None:
        """The command first, so that roost-init can still tell of its end; it is killed with the rest afterwards."""
        self._kill_at = None
        with contextlib.suppress(OSError):
            self._control.send(bytes([signal.SIGKILL]))
        # a roost-init that has not come so far, or that the machine has frozen, does not answer
        poller = selectors.DefaultSelector()
        with contextlib.closing(poller):
            poller.register(self._pidfd, selectors.EVENT_READ)
            if not poller.select(1.0):
                self._kill_group()

    def _kill_group(self) -> None:
        if self._group.born:
            cgroups.kill(self._group.born)
        if self._pidfd >= 0:
            runner.send_signal(self._pidfd, self._pid, signal.SIGKILL)
        elif self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def _close(self, *, whole: bool) -> None:
        if not whole:
            self._kill_group()
        if self._pid:
            runner.reap(self._pid)
        self._stack.close()
        if self._group.born and (not whole or not cgroups.is_populated(self._group.born)):
            cgroups.remove(cgroups.Group(born=self._group.born))

    def _ended(self, seconds: float) -> Ended:
        plain = Ended(seconds=seconds, stopped=self._stopped, reached=("time",) if self._stopped == "time" else ())
        if len(self._report) == execute.ENDED.size:
            code, user, system, rss, _ = execute.unpack(self._report)
            return replace(
                plain, status=None if self._failure or code < 0 else code, signal=max(0, -code), error=self._failure,
                user_seconds=user / 1e6, system_seconds=system / 1e6, max_rss=rss << 10,
            )  # fmt: skip
        return replace(plain, error=self._failure, signal=0 if self._failure else signal.SIGKILL)


def _become_init(
    init: int, argv: tuple[str, ...], env: dict[str, str], fds: Mapping[int, int], *, filters: Sequence[bytes],
    limits: Sequence[tuple[int, tuple[int, int]]], go: int,
) -> None:  # fmt: skip
    """In the child: becomes roost-init with ``fds`` at their numbers; returns or raises only when it could not."""
    import resource

    if not os.read(go, 1):  # the parent is gone
        return
    # first: one of them may have a number that is about to be given away
    high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for number, fd in fds.items()}
    program = fcntl.fcntl(init, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in range(_FIRST):
        os.dup2(null, number)
    for number, fd in high.items():
        os.dup2(fd, number, inheritable=True)
    for number, values in limits:
        resource.setrlimit(number, values)
    for text in filters:
        syscalls.install_seccomp_filter(text)
    os.execve(program, argv, env)  # noqa: S606


def _sweep(beside: str) -> None:
    """Removes the groups of Roosts that have ended, where nothing lives any more."""
    above = os.path.dirname(beside)
    for name in os.listdir(above) if beside else ():
        if name.startswith(_PREFIX) and not os.path.exists(f"/proc/{name.removeprefix(_PREFIX).partition('-')[0]}"):
            with contextlib.suppress(OSError):
                os.rmdir(f"{above}/{name}")


def _open_or_null(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # a kernel before 5.14
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _kept(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd
