"""With a real terminal: it is passed through, keys arrive, and it is as before at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from system.rig import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from system.rig import Rig


class Terminal:
    """A person's terminal with the command on it."""

    def __init__(
        self, rig: Rig, *words: str, env: dict[str, str] | None = None, command: tuple[str, ...] = COMMAND
    ) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        self._follower = follower
        self.before = termios.tcgetattr(follower)
        environment = {**rig.environment({"TERM": "xterm", **(env or {})}), "PYTHONUNBUFFERED": "1"}
        self.child = subprocess.Popen(
            ("setsid", "--ctty", "--wait", *command, *words), cwd=rig.directory, env=environment, stdin=follower, stdout=follower,
            stderr=follower,
        )  # fmt: skip
        self.seen = b""

    def read(self, until: bytes = b"", seconds: float = 15) -> bytes:
        """All that is shown until ``until`` is, or until the command has ended."""
        deadline = time.monotonic() + seconds
        while not (until and until in self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self._leader], [], [], 0.05)[0]:
                self.seen += os.read(self._leader, 65536)
            elif self.child.poll() is not None:
                assert not until, self.seen
                break
        return self.seen

    def type(self, keys: bytes) -> None:
        """Presses keys."""
        os.write(self._leader, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Pulls at the window's corner."""
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """The command's status, when it has ended; the terminal must be as before."""
        self.read()
        status = self.child.wait(10)
        assert termios.tcgetattr(self._follower) == self.before
        return status

    def close(self) -> None:
        """Ends it all."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        os.close(self._leader)
        os.close(self._follower)


@contextlib.contextmanager
def terminal(rig: Rig, *words: str, **more: Any) -> Iterator[Terminal]:
    made = Terminal(rig, *words, **more)
    try:
        yield made
    finally:
        made.close()


def test_a_terminal_is_passed_through(tiny: Rig) -> None:
    with terminal(
        tiny, "run", "tiny", "--", "sh", "-c", "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo three; stty size; exit 7"
    ) as screen:
        assert screen.end() == 7
    assert b"/dev/" in screen.seen
    assert b"three" in screen.seen
    assert b"33 101" in screen.seen


@pytest.mark.parametrize("user", ["root", "user"])
def test_keys_arrive_inside(tiny: Rig, user: str) -> None:
    with terminal(
        tiny,
        "run",
        "tiny",
        "-u",
        user,
        "--",
        "sh",
        "-c",
        "trap 'echo caught' INT; echo ready; read line; echo got $line; read line; echo then $line",
    ) as screen:
        screen.read(b"ready")
        screen.type(b"\x03")
        screen.read(b"caught")
        screen.type(b"hello\n")
        screen.read(b"hello")
        screen.type(b"again\n")
        assert screen.end() in (0, 130)
    assert b"caught" in screen.seen


def test_a_shell_has_job_control(farm: Rig) -> None:
    with terminal(farm, "shell", "bookworm") as screen:
        screen.read(b"# ")
        screen.type(b"sleep 1000\n")
        time.sleep(0.5)
        screen.type(b"\x03")
        screen.type(b"echo status $((100 + $?)); hostname; stty -a | head -n1\n")
        screen.read(b"status 230")
        screen.type(b"exit 5\n")
        assert screen.end() == 5
    assert b"bookworm" in screen.seen
    assert b"job control" not in screen.seen
    assert b"no tty" not in screen.seen


def test_modes_are_restored_when_the_inside_breaks_them(tiny: Rig) -> None:
    with terminal(tiny, "run", "tiny", "--", "sh", "-c", "stty raw -echo; kill -9 $$") as screen:
        assert screen.end() == 137


def test_modes_are_restored_when_nspawn_is_killed(tiny: Rig) -> None:
    from system.rig import pick

    with terminal(tiny, "run", "tiny", "--", "sh", "-c", "echo ready; sleep 60") as screen:
        screen.read(b"ready")
        os.kill(pick(screen.child.pid, "nspawn"), signal.SIGKILL)
        assert screen.end() != 0


def test_a_terminal_that_goes_away_ends_the_run(tiny: Rig) -> None:
    with terminal(tiny, "run", "tiny", "--", "sh", "-c", "echo ready; sleep 60") as screen:
        screen.read(b"ready")
        os.kill(screen.child.pid, signal.SIGHUP)
        assert screen.child.wait(10) in (130, 129)
    assert tiny.sessions() == []


def test_a_matrix_draws_a_table_and_clears_it(tiny: Rig) -> None:
    tiny.define("".join(f'[machines.m{n}]\nfrom = "layer:tiny"\n' for n in range(3)))
    with terminal(
        tiny, "run", "--all", "-j", "3", "--", "sh", "-c", "echo working on it; sleep 1; [ $(hostname) != m1 ]"
    ) as screen:
        assert screen.end() == 1
    text = screen.seen.decode(errors="replace")
    assert "working on it" in text  # the last line, live
    assert "\x1b[?25h" in text or "\x1b[?25l" not in text  # the cursor is back
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "2 passed, 1 failed (m1: exit status 1)" in plain


def test_ctrl_c_at_a_table_gives_results(tiny: Rig) -> None:
    tiny.define("".join(f'[machines.m{n}]\nfrom = "layer:tiny"\n' for n in range(3)))
    with terminal(tiny, "run", "--all", "-j", "3", "--", "sh", "-c", "echo running; sleep 30") as screen:
        screen.read(b"running")
        screen.type(b"\x03")
        assert screen.end() == 130
    assert b"3 interrupted" in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", screen.seen)


def test_no_colour_when_asked(tiny: Rig) -> None:
    with terminal(tiny, "list", env={"NO_COLOR": "1"}) as screen:
        assert screen.end() == 0
    assert b"\x1b[" not in screen.seen
    with terminal(tiny, "list") as screen:
        assert screen.end() == 0
    assert b"\x1b[" in screen.seen
