"""How somebody asks work to end."""

from __future__ import annotations

import contextlib
import os


class Stop:
    """A pipe, so that a signal handler may use it and a poll may wait for it."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self.level = 0

    def request(self) -> None:
        """The first time: finish cleanly; again: kill."""
        self.level = min(2, self.level + 1)
        with contextlib.suppress(OSError):
            os.write(self._writer, bytes([self.level]))

    def close(self) -> None:
        """Lets the pipe go."""
        os.close(self.fd)
        os.close(self._writer)
