"""What a machine's console said, from the file that it is kept in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from roost.boot import readiness
from roost.boot.leader import leader_by_pid
from roost.stop import Stop

if TYPE_CHECKING:
    from pathlib import Path


def test_a_console_that_is_full_is_followed_into_the_next_file(tmp_path: Path) -> None:
    """The supervisor renames console.log and goes on in a new one: no line is lost, none comes twice."""
    console = tmp_path / "console.log"
    console.write_text("one\n")
    init = leader_by_pid(os.getpid())
    assert init is not None
    said: list[bytes] = []
    stop = Stop()

    def take(block: bytes) -> None:
        said.append(block)
        if block == b"one\n":
            with console.open("a") as stream:
                stream.write("two\n")
                console.rename(tmp_path / "console.log.old")
                stream.write("three\n")
            console.write_text("four\n")
        elif b"four" in block:
            stop.request()

    readiness._show_console(init, str(console), follow=True, lines=None, on_output=take, stop_fd=stop.fd)
    stop.close()
    assert b"".join(said) == b"one\ntwo\nthree\nfour\n"
