"""A person's terminal in front of one in a machine: keys, output and size are passed on until the command has ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import termios
import time
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BLOCK = 65536
_LEAVE = b"\x1d"  # Ctrl-], three times within a second: systemd-nspawn's and machinectl's way out
_AGAIN = 0.02  # seconds until a master that nobody has open at its other end is looked at again


class Screen:
    """This process's descriptors 0 and 1, which are a terminal's, and the master of the one in the machine.

    ``leave`` is called when the person wants to get out, whatever the command does.
    """

    def __init__(self, poller: selectors.BaseSelector, leave: Callable[[], None]) -> None:
        self._poller = poller
        self._leave = leave
        self._stack = contextlib.ExitStack()
        self._master = -1
        self._typed = b""  # what the machine's terminal has had no room for
        self._presses: list[float] = []
        self.retry: float | None = None  # when to look again

    def connect(self, master: int) -> None:
        """Takes the terminal; ``close`` gives it back as it was."""
        self._master = master
        self._stack.callback(os.close, master)
        os.set_blocking(master, False)
        with contextlib.suppress(OSError, termios.error):
            modes = termios.tcgetattr(0)
            self._stack.callback(_restore, modes)
            tty.setraw(0)
        self._resize()
        with contextlib.suppress(ValueError):  # signals are the main thread's
            before = signal.signal(signal.SIGWINCH, lambda _number, _frame: self._resize())
            self._stack.callback(signal.signal, signal.SIGWINCH, before)
        self._poller.register(0, selectors.EVENT_READ, self._on_keys)
        self._poller.register(master, selectors.EVENT_READ, self.show)

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))

    def _on_keys(self) -> None:
        try:
            keys = os.read(0, _BLOCK)
        except OSError:  # the terminal has gone
            keys = b""
        if not keys:
            self._poller.unregister(0)
            return
        now = time.monotonic()
        if keys.strip(_LEAVE):
            self._presses.clear()
        else:
            self._presses = [when for when in self._presses if now - when < 1] + [now] * len(keys)
            if len(self._presses) >= 3:
                self._leave()
        self._typed += keys
        self._feed()

    def _feed(self) -> None:
        """Gives what was typed to the machine; while it has no room no more is read."""
        with contextlib.suppress(BlockingIOError):
            self._typed = self._typed[os.write(self._master, self._typed) :]
        keys_wanted, there = not self._typed, 0 in self._poller.get_map()
        if keys_wanted and not there:
            self._poller.register(0, selectors.EVENT_READ, self._on_keys)
        elif not keys_wanted and there:
            self._poller.unregister(0)
        if self._master in self._poller.get_map():
            events = selectors.EVENT_READ if keys_wanted else selectors.EVENT_READ | selectors.EVENT_WRITE
            self._poller.modify(self._master, events, self.show)

    def show(self) -> bool:
        """Shows what there is; whether there may be more."""
        if self._master < 0:
            return False
        if self._typed:
            self._feed()
        try:
            block = os.read(self._master, _BLOCK)
        except BlockingIOError:
            return False
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            block = b""
        if not block:  # nobody has it open: at the end, and while login(1) hangs up on those before it
            if self._master in self._poller.get_map():
                self._poller.unregister(self._master)
            self.retry = time.monotonic() + _AGAIN
            return False
        while block:
            block = block[os.write(1, block) :]
        return True

    def look_again(self) -> None:
        """After ``retry``."""
        self.retry = None
        if self._master >= 0 and self._master not in self._poller.get_map():
            self._poller.register(self._master, selectors.EVENT_READ, self.show)

    def close(self) -> None:
        """The terminal is as before."""
        self._stack.close()


def _restore(modes: Any) -> None:
    with contextlib.suppress(OSError, termios.error):
        if os.tcgetpgrp(0) == os.getpgrp():  # else it is somebody else's by now, and this would stop us
            termios.tcsetattr(0, termios.TCSADRAIN, modes)
