"""What is shown of machines that boot: they may say anything, and nothing of it acts on a terminal."""

from __future__ import annotations

import argparse
import os
import pty
import sys
from typing import TYPE_CHECKING

from roost.boot.manage import Outcome
from roost.cli import booted, machines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

HOSTILE = "\x1b]0;OWNED\x07\x1b[2J \x9b31m \u202e"
SHOWN = r"\x1b]0;OWNED\x07\x1b[2J \x9b31m \u202e"


def told(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> str:
    """What `roost up` prints of it on stderr."""
    machines._told([outcome], argparse.Namespace(json=False, quiet=True))
    return capsys.readouterr().err


def test_what_a_machine_says_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last words, the names of its units, and what else comes from it."""
    failed = Outcome(
        machine="tiny", action="failed", error=("HostError", HOSTILE, f"one\n{HOSTILE}", HOSTILE), warnings=(HOSTILE,)
    )
    said = told(failed, capsys)
    assert said.count(SHOWN) == 4
    assert "\n  one\n" in said
    assert said.replace("\n", "").isprintable()


def test_an_error_names_its_machine_once(capsys: pytest.CaptureFixture[str]) -> None:
    failed = Outcome(machine="tiny", action="failed", error=("HostError", "tiny cannot boot: no init", "", ""))
    assert told(failed, capsys) == "\nerror: tiny cannot boot: no init\n"
    failed = Outcome(machine="tiny", action="failed", error=("HostError", "the disk is full", "", ""))
    assert told(failed, capsys) == "\nerror: tiny: the disk is full\n"


def logged(monkeypatch: pytest.MonkeyPatch, stdout: int, console: str, kept: Callable[[str], str]) -> None:
    """`roost logs tiny`, of a machine that is down."""
    with os.fdopen(os.dup(stdout), "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        options = argparse.Namespace(machine="tiny", follow=False, lines=10)
        assert booted.logs(options, lambda _: None, lambda _: console, kept) == 0


def test_logs_on_a_terminal_are_printable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a pipe gets them as they are."""
    console = tmp_path / "console.log"
    console.write_text(f"one\r\n{HOSTILE}\r\nlogin: ")
    leader, follower = pty.openpty()
    logged(monkeypatch, follower, str(console), str)
    assert os.read(leader, 4096).decode() == f"one\r\n{SHOWN}\r\nlogin: \r\n"
    for fd in (leader, follower):
        os.close(fd)
    with (tmp_path / "out").open("wb") as out:
        logged(monkeypatch, out.fileno(), str(console), str)
    assert (tmp_path / "out").read_text() == f"one\n{HOSTILE}\nlogin: \n"


def test_a_console_that_the_hosts_journal_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("wb") as out:
        logged(monkeypatch, out.fileno(), "", lambda name: f"{name} was here")
    assert (tmp_path / "out").read_text() == "tiny was here\n"
