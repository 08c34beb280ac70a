"""Machines on a host without systemd: a supervising process each (``roost.boot.supervise``)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from roost.boot.record import Records
from roost.errors import BusyError, HostError, from_parts
from roost.host import runner

if TYPE_CHECKING:
    from roost.boot.record import Booted
    from roost.store import Store

_MOMENT = 2.0  # seconds that a supervisor needs to say who it is
_SLACK = 10.0  # seconds beyond the machine's own time to end, until the supervisor itself is killed


class Supervised:
    """Starts and ends machines by their supervisors."""

    systemd = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = Records(store)
        self._early: tuple[str, socket.socket] | None = None

    def expect(self, name: str) -> None:
        """A start of the machine is likely: its supervisor's Python begins to load now, while layers are looked at.

        ``forget`` has to follow.
        """
        if self._records.running(name) is not None:
            return
        ours, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._spawn(name, theirs.fileno(), null, "later")
        finally:
            theirs.close()
            os.close(null)
        self._early = name, ours

    def forget(self) -> None:
        """No start is expected any more; what was begun for it and not used ends."""
        if self._early is not None:
            self._early[1].close()
            self._early = None

    def _spawn(self, name: str, told: int, output: int, *more: str) -> None:
        argv = [sys.executable, "-I", "-m", "roost.boot", "supervise", self._store.given, name, str(told), *more]
        runner.spawn(argv, fds=(told,), output=output)

    def _begin(self, name: str, log: int) -> int:
        """Starts the supervisor; the descriptor from which its answer is read."""
        early, self._early = self._early, None
        if early is not None:
            with early[1] as channel:
                if early[0] == name:
                    with contextlib.suppress(OSError):  # somebody has killed it
                        socket.send_fds(channel, [b"g"], [log])
                        return channel.detach()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._spawn(name, writer, log)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return reader

    def refuse(self, name: str) -> None:
        """Nobody else has machines here."""

    def install(self, _record: Booted) -> list[str]:
        """Nothing has to be written for it."""
        return []

    def uninstall(self, name: str) -> None:
        """Nothing was written for it."""

    def start(self, record: Booted) -> None:
        """Starts a machine; returns when its init runs and its network is up. Raises the error of the start."""
        name = record.name
        log = os.open(
            f"{self._records.directory}/{name}/console.log",
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        try:
            reader = self._begin(name, log)
        finally:
            os.close(log)
        try:
            answer = _read(reader)
        finally:
            os.close(reader)
        if answer is None:
            raise HostError(
                f"{name} did not start: its supervisor ended", details=self.console(name), hint=f"`roost logs {name}`"
            )
        if answer:
            raise from_parts(answer)

    def settle(self, name: str) -> None:
        """Waits for a start that is under way."""
        deadline = time.monotonic() + _SLACK
        while (
            self._records.running(name) is None and self._supervisor(name) is not None and time.monotonic() < deadline
        ):
            time.sleep(0.01)

    def stop(self, record: Booted) -> None:
        """Asks a machine to end, and waits until it has; when its time is over it is killed.

        Raises BusyError when its session is in use otherwise.
        """
        pid = self._supervisor(record.name)
        if pid is None:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            runner.send_signal(fd, pid, signal.SIGTERM)
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if not poller.poll((record.boot.stop_timeout + _SLACK) * 1000):
                runner.send_signal(fd, pid, signal.SIGKILL)
                poller.poll(_SLACK * 1000)
        finally:
            os.close(fd)
        deadline = time.monotonic() + _SLACK
        while self._store.is_alive(record.name) and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel is ending what it had started

    def _supervisor(self, name: str) -> int | None:
        """The supervisor's process id: the one that holds the machine's lock. None: nobody holds it."""
        deadline = time.monotonic() + _MOMENT
        while self._store.is_alive(name):
            if pid := self._records.supervisor(name):
                return pid
            if time.monotonic() > deadline:
                raise BusyError(f"the session of {name} is in use", hint="end that first; `roost session list`")
            time.sleep(0.01)  # one that was just started, or has just ended
        return None

    def is_enabled(self, name: str) -> bool:
        """Whether ``roost up --enabled`` starts it."""
        return os.path.exists(f"{self._records.directory}/{name}/enabled")

    def enable(self, name: str) -> None:
        """Lets ``roost up --enabled`` start it: without systemd the host's own start has to call that."""
        with open(f"{self._records.directory}/{name}/enabled", "w", encoding="ascii"):
            pass

    def disable(self, name: str) -> None:
        """The contrary of ``enable``."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._records.directory}/{name}/enabled")

    def console(self, name: str, *, lines: int = 20) -> str:
        """The last lines of a machine's console."""
        with contextlib.suppress(OSError), open(f"{self._records.directory}/{name}/console.log", "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 16384))
            text = stream.read().decode(errors="replace").replace("\r", "")
            return "\n".join(text.rstrip().splitlines()[-lines:])
        return ""


def _read(fd: int) -> list[str] | None:
    data = b""
    while block := os.read(fd, 65536):
        data += block
    with contextlib.suppress(ValueError):
        answer: list[str] = json.loads(data)
        return answer
    return None
