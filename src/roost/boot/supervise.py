"""A machine on a host without systemd: a small process that starts its nspawn, keeps its console, and sees it end.

    python -m roost.boot supervise STATE NAME TOLD [later]

nspawn runs in pid and mount namespaces of its own below this process: when either is killed, the kernel clears the rest.
SIGTERM asks the machine for an orderly end, and kills it when its time for that is over. TOLD is a descriptor to which
``[]`` is written once the machine's init runs and its network is up, or the error that was in the way (roost.errors).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from roost.boot import start
from roost.boot.leader import leader_of
from roost.boot.record import Records
from roost.boot.sessions import begin_anew
from roost.boot.wiring import attach, detach, link_of
from roost.engine.launch import describe
from roost.errors import Error, HostError, StoreError, of_os, to_parts
from roost.host import cgroups, files, runner, syscalls
from roost.store import Store

if TYPE_CHECKING:
    from roost.boot.record import Booted
    from roost.host.ranges import Range

CONSOLE_MOST = 1 << 20  # bytes of console.log; then it is begun anew, and the one before it is kept
RESTART = 133  # nspawn's status when the machine asked for a reboot (systemd-nspawn@.service, RestartForceExitStatus=)
_TRIES, _WITHIN = 5, 10.0  # systemd's own DefaultStartLimitBurst= and DefaultStartLimitIntervalSec= (seconds)
_BLOCKS = 16  # of the console's output, until something else is looked at
_PATIENCE = 60.0  # seconds until nspawn has to have started the machine's init


class Supervisor:
    """One machine from its start to its end, however often it reboots."""

    def __init__(self, store: Store, record: Booted, told: int) -> None:
        self._store = store
        self._record = record
        self._records = Records(store)
        self._told: int | None = told
        self._ending = False
        self._kill_at: float | None = None
        self._pid = 0
        self._pidfd = -1
        self._up = False
        self._starts: list[float] = []
        self._console = _Console(f"{self._records.directory}/{record.name}/console.log")

    def run(self) -> int:
        """Until the machine is down; 0 when that was wanted, by it or by us."""
        name = self._record.name
        stop, self._stop_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._stop_writer)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        held = self._store.ranges.take(name) if self._record.private_users else None
        status = 1
        try:
            while True:
                self._starts = [at for at in self._starts if time.monotonic() - at < _WITHIN] + [time.monotonic()]
                status = self._once(held, stop)
                again = status == RESTART or (status != 0 and self._up and len(self._starts) < _TRIES)
                if self._ending or not again:
                    break
                self._console.write(
                    f"roost: nspawn ended with status {status}, the machine is started again\n".encode()
                )
        finally:
            self._records.end_run(name)
            if self._record.boot.ephemeral:
                self._store.discard(name)
        return 0 if self._ending else status

    def _once(self, held: Range | None, stop: int) -> int:
        name = self._record.name
        with contextlib.suppress(StoreError):  # it may have been changed since the last start
            self._record = self._records.read(name)
        record = self._record
        link = link_of(self._store, record)
        limits = record.limits
        group = cgroups.create(
            self._store.group_of(name),
            memory=limits.memory,
            cpus=limits.cpus,
            tasks=limits.tasks,
            own_legacy=record.boot.nested,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(cgroups.remove, group)
            if record.boot.ephemeral:
                begin_anew(self._store, record)
            if link is not None:
                stack.callback(detach, self._store, link)
            notify = stack.enter_context(contextlib.closing(_notify_socket()))
            self._child(stack, held, group, notify)
            poller = stack.enter_context(contextlib.closing(selectors.DefaultSelector()))
            poller.register(self._pidfd, selectors.EVENT_READ)
            poller.register(self._output, selectors.EVENT_READ, self._read_console)
            poller.register(stop, selectors.EVENT_READ, lambda: self._asked(stop))
            poller.register(notify, selectors.EVENT_READ, lambda: self._notified(notify))
            self._leader = False
            deadline = time.monotonic() + _PATIENCE
            while True:
                ends = [at for at in (self._kill_at, None if self._leader else deadline) if at is not None]
                ready = poller.select(max(0.0, min(ends) - time.monotonic()) if ends else None)
                if ends and time.monotonic() >= min(ends):
                    self._kill()
                for key, _ in ready:
                    if key.data is not None:
                        key.data()
                if any(key.fd == self._pidfd for key, _ in ready):
                    break
                if self._leader and not self._up_now:
                    self._has_begun()
            self._read_console()
            return self._reaped()

    def _child(
        self, stack: contextlib.ExitStack, held: Range | None, group: cgroups.Group, notify: socket.socket
    ) -> None:
        self._up_now = False
        self._output, console = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._output)
        os.set_blocking(self._output, False)
        self._problem, problem = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._problem)
        go, started = os.pipe2(os.O_CLOEXEC)
        address = "@" + notify.getsockname()[1:].decode()

        def child() -> None:
            runner.die_with_parent()
            os.close(started)
            try:
                self._become_nspawn(held, group, go, console, address)
            except (OSError, Error) as e:
                error = describe(e) if isinstance(e, OSError) else e
                os.write(problem, json.dumps(to_parts(error)).encode()[:4096])

        try:
            self._pid, born = runner.fork_into(child, group.born)
            stack.callback(self._end_child)
            self._pidfd = os.pidfd_open(self._pid)
            cgroups.enter(group, self._pid, born=born)
            os.write(started, b"g")
        finally:
            for fd in (console, problem, go, started):
                os.close(fd)

    def _become_nspawn(self, held: Range | None, group: cgroups.Group, go: int, console: int, address: str) -> None:
        """In the child: mounts, and becomes nspawn."""
        store, record = self._store, self._record
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        spec = start.spec_of(store, record, held)
        start.private_mounts(new_processes=True)
        inside = start.mount_for(store, record, spec)
        # names and locks of nspawn's: ours are private, as whatever else is mounted here
        os.makedirs("/run/systemd/nspawn", exist_ok=True)
        syscalls.mount("roost", "/run/systemd/nspawn", "tmpfs", options="mode=0755")
        runner.die_with_parent()  # again: the kernel forgets it whenever a process's file system ids change
        controllers = cgroups.given_legacy(group) if record.boot.nested else ()
        merged = f"{spec.mount_point}/merged"
        words = start.argv(record, spec, inside, directory=merged, systemd=False, controllers=controllers)
        env = {**start.nspawn_environment(record, inside), "NOTIFY_SOCKET": address}
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        for target, fd in enumerate((null, console, console)):
            os.dup2(fd, target)
        if os.read(go, 1):
            os.execvpe("systemd-nspawn", words, runner.child_env(env))  # noqa: S606

    def _notified(self, notify: socket.socket) -> None:
        text, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(12))
        senders = [
            int.from_bytes(data[:4], sys.byteorder) for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS
        ]
        if self._pid in senders and b"X_NSPAWN_LEADER_PID=" in text:
            self._leader = True

    def _has_begun(self) -> None:
        """The machine's init runs: gives it its network, and says so."""
        self._up_now = True
        leader = leader_of(self._pid)
        if leader is None:
            return  # it is ending already
        try:
            attach(self._store, self._record, leader)
            self._records.set_running(self._record.name, self._pid, time.time())
        except (Error, OSError) as e:
            error = e if isinstance(e, Error) else of_os(e)
            self._tell(to_parts(error))
            self._console.write(f"roost: {error.brief}\n{error.details}\n".encode())
            self._ending = True
            self._kill()
            return
        self._up = True
        self._tell([])

    def failed(self, answer: list[str]) -> None:
        """Says what ended it, to whoever waits and in the console."""
        self._console.write(f"roost: {answer[1]}\n{answer[2]}\n".encode())
        self._tell(answer)

    def _tell(self, answer: list[str]) -> None:
        if self._told is not None:
            with contextlib.suppress(OSError):
                os.write(self._told, json.dumps(answer).encode())
            os.close(self._told)
            self._told = None

    def _asked(self, stop: int) -> None:
        """Somebody wants the machine to end."""
        os.read(stop, 64)
        self._ending = True
        self._kill_at = self._kill_at or time.monotonic() + self._record.boot.stop_timeout
        runner.send_signal(self._pidfd, self._pid, signal.SIGTERM)

    def _kill(self) -> None:
        self._kill_at = None
        runner.send_signal(self._pidfd, self._pid, signal.SIGKILL)

    def _end_child(self) -> None:
        if self._pidfd >= 0:
            self._kill()
            self._reaped()

    def _reaped(self) -> int:
        status = runner.reap(self._pid) or 0
        os.close(self._pidfd)
        self._pidfd = -1
        if not self._up and self._told is not None:
            problem = runner.read_now(self._problem)
            said = self._console.tail()
            parts = (
                json.loads(problem)
                if problem
                else to_parts(
                    HostError(
                        f"{self._record.name} did not start: {runner.ending(status)}",
                        details=said,
                        hint="`roost logs` has the whole console",
                    )
                )
            )
            self._tell(parts)
        return status

    def _read_console(self) -> None:
        """At most what a pipe holds: who never stops printing must not keep us from all else."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BLOCKS):
                if not (block := os.read(self._output, runner.BLOCK)):
                    break
                self._console.write(block)


class _Console:
    """console.log, which does not grow for ever."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._last = b""

    def write(self, data: bytes) -> None:
        self._last = (self._last + data)[-4096:]
        with contextlib.suppress(OSError):  # a full disk
            if self._size > CONSOLE_MOST:
                os.rename(self._path, f"{self._path}.old")
                os.close(self._fd)
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._size = 0
            self._size += os.write(self._fd, data)

    def tail(self) -> str:
        """The last that it said."""
        return files.printable(os.fsdecode(self._last)).strip()


def _notify_socket() -> socket.socket:
    """Where nspawn says that the machine's init runs (sd_notify(3)): an abstract name, as paths have a limit of 108."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    made.bind(f"\0roost-{os.urandom(8).hex()}")
    return made


def supervise_later(state: str, name: str, told: int) -> int:
    """``supervise``, when it is asked for: TOLD is a socket, from which comes the descriptor for what is printed.

    When its other end is closed before, the machine is not to be started. It has loaded what it needs by then.
    """
    with socket.socket(fileno=told) as channel:
        channel.set_inheritable(False)
        asked, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not asked or not descriptors:
            return 0
        for number in (1, 2):
            os.dup2(descriptors[0], number)
        os.close(descriptors[0])
        return supervise(state, name, channel.detach())


def supervise(state: str, name: str, told: int) -> int:
    """The whole life of a machine; the status of the process."""
    os.set_inheritable(told, False)  # noqa: FBT003  # its own
    store = Store(state or None)
    syscalls.set_name("roost-machine")
    records = Records(store)
    supervisor = None
    try:
        record = records.read(name)
        with store.alive(name):
            records.set_supervisor(name)
            if not record.boot.ephemeral and not os.path.isdir(store.session_directory(name)):
                raise StoreError(
                    f"the session of {name} was removed meanwhile", hint=f"`roost up {name}` makes it again"
                )
            supervisor = Supervisor(store, record, told)
            return supervisor.run()
    except (Error, OSError) as e:
        answer = to_parts(e if isinstance(e, Error) else of_os(e))
        if supervisor is not None:
            supervisor.failed(answer)
        else:
            with contextlib.suppress(OSError):
                os.write(told, json.dumps(answer).encode())
        return 1
