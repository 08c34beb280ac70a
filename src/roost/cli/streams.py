"""The command's own streams and signals, while one machine's command has them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios

from roost.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """The stop that Ctrl-C asks: once to end cleanly, twice to kill."""
    stop = Stop()

    def interrupt(_number: int, _frame: object) -> None:
        stop.request()

    ours = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # what the caller ignores stays ignored: nohup(1), and SIGINT of a script's job in the background
    before = {n: signal.signal(n, interrupt) for n in ours if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


def pass_on(stream: int, data: bytes) -> None:
    """A command's output (1 or 2) to this process's own, byte for byte."""
    target = sys.stdout if stream == 1 else sys.stderr
    target.flush()
    target.buffer.write(data)
    target.flush()


def standard_input() -> int | None:
    """Standard input, when it is something to read from: a terminal that is not passed through as one is not."""
    try:
        os.fstat(0)
    except OSError:  # closed
        return None
    return None if os.isatty(0) else 0


@contextlib.contextmanager
def restored_terminal() -> Iterator[None]:
    """Whatever ends nspawn, the terminal's modes are afterwards as before."""
    try:
        modes = termios.tcgetattr(0)
    except (termios.error, OSError):
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(0) == os.getpgrp():  # else it is somebody else's by now, and this would stop us
                termios.tcsetattr(0, termios.TCSADRAIN, modes)
