"""The live table, on a real pseudo-terminal, read through the small terminal of tools/picture.py."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pty
import struct
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from roost.cli.live import LiveMonitor, Row, frame
from roost.cli.table import SGR, Style, columns
from roost.events import LayerEnded, LayerOutput, LayerStarted, LayerStep, RunEnded, RunOutput, RunStarted, Warned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

TOOL = Path(__file__).parents[2] / "tools" / "picture.py"


def picture_tool() -> Any:
    spec = importlib.util.spec_from_file_location("picture", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Desk:
    """A pseudo-terminal of 60 by 12 with somebody looking at it, and a clock that is set by hand."""

    def __init__(self) -> None:
        self._reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
        self.stream: TextIO = os.fdopen(writer, "w", encoding="utf-8")
        os.set_blocking(self._reader, False)
        self.sent = ""
        self.now = 100.0

    def monitor(self, *machines: str) -> LiveMonitor:
        return LiveMonitor(self.stream, style=Style(), machines=machines, clock=lambda: self.now)

    def look(self) -> list[str]:
        while True:
            try:
                self.sent += os.read(self._reader, 65536).decode()
            except BlockingIOError:
                break
        screen = picture_tool().Screen(60, 12)
        screen.play(self.sent)
        return [SGR.sub("", line).rstrip() for line in screen.text().split("\n")]

    def close(self) -> None:
        self.stream.close()
        os.close(self._reader)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


def test_a_matrix_from_layers_to_its_end(desk: Desk) -> None:
    with desk.monitor("bookworm", "sid") as monitor:
        monitor(LayerStarted("d1", "base debian sid amd64", "not made yet"))
        monitor(LayerStep("d1", "bootstrap", 1, 2))
        monitor(LayerOutput("d1", b"Get:1 libc6\nGet:2 gcc"))
        desk.now += 1
        monitor.tick()
        assert desk.look() == [
            "⠋ base debian sid amd64  making   1 s  step 1 of 2: bootstr…",
            "· bookworm               waiting",
            "· sid                    waiting",
            "0/2 done · 0 running · 0 failed · 1 layer being made · 1 s",
        ]
        monitor(LayerEnded("d1", "base debian sid amd64", "built", 1.5))
        monitor(RunStarted("bookworm", "b-1", ""))
        monitor(RunStarted("sid", "s-1", ""))
        monitor(RunOutput("sid", 1, b"compiling\x1b[2J\n"))
        monitor(Warned("old mirror", "sid"))
        monitor(RunEnded("bookworm", "passed", 41.2))
        desk.now += 2
        monitor.tick()
        assert desk.look() == [
            "✓ base debian sid amd64  made in 1.5 s",
            "warning: sid: old mirror",
            "✓ bookworm  passed   41 s",
            "⠋ sid       running   2 s  compiling\\x1b[2J",
            "1/2 done · 1 running · 0 failed · 3 s",
        ]
        monitor(RunEnded("sid", "killed", 3.0))
        desk.now += 1
        monitor.tick()
        assert "2/2 done · 0 running · 1 failed · 4 s" in desk.look()
    # the table gives way to the summary; what happened stays
    assert desk.look() == ["✓ base debian sid amd64  made in 1.5 s", "warning: sid: old mirror"]


def test_the_terminal_is_as_before_after_ctrl_c(desk: Desk) -> None:
    def interrupted() -> None:
        with desk.monitor("a", "b") as monitor:
            desk.now += 1
            monitor.tick()
            desk.look()
            assert desk.sent.rfind("\x1b[?25l") > desk.sent.rfind("\x1b[?25h")  # the cursor is hidden
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert desk.look() == [""]
    assert desk.sent.rfind("\x1b[?25h") > desk.sent.rfind("\x1b[?25l")


def test_it_paints_ten_times_a_second_at_most(desk: Desk) -> None:
    with desk.monitor("a", "b") as monitor:
        monitor(RunStarted("a", "a-1", ""))
        desk.now += 1
        monitor.tick()
        desk.look()
        before = len(desk.sent)
        for _ in range(1000):
            monitor(RunOutput("a", 1, b"line\n"))
            desk.now += 0.00005
        desk.look()
        assert len(desk.sent) == before


def test_what_is_over_at_once_is_not_drawn(desk: Desk) -> None:
    with desk.monitor("a", "b") as monitor:
        monitor(LayerEnded("d1", "base", "built", 0.05))
        monitor(RunStarted("a", "a-1", ""))
        monitor(RunEnded("a", "passed", 0.05))
    assert desk.look() == ["✓ base  made in 50 ms"]
    assert "\x1b[?25l" not in desk.sent


def test_after_stop_it_writes_plain_lines(desk: Desk) -> None:
    with desk.monitor("a", "b") as monitor:
        desk.now += 1
        monitor.tick()
        monitor.stop()
        monitor(Warned("late"))
        assert desk.look() == ["warning: late"]


def rows(**states: int) -> list[Row]:
    made = []
    for state, number in states.items():
        for at in range(number):
            row = Row(f"{state}-{at}", state, 0.0)
            row.output.feed("words and 日本 ".encode() * 20)
            made.append(row)
    return made


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("height", [4, 10, 50])
def test_the_frame_always_fits(width: int, height: int) -> None:
    style = Style(colour=True)
    lines = frame(rows(waiting=20, running=5, failed=2, passed=9), width=width, height=height, style=style, now=5.0)
    assert len(lines) <= height - 2
    if width >= 40:
        assert all(columns(SGR.sub("", line)) <= width for line in lines)


def test_more_machines_than_lines() -> None:
    lines = frame(rows(waiting=20, passed=3, running=5, failed=2), width=80, height=12, style=Style(), now=5.0)
    assert [line.split()[1].split("-")[0] for line in lines[:7]] == ["running"] * 5 + ["failed"] * 2
    assert lines[-1] == "… and 18 waiting, 3 passed"


def test_a_picture_shows_the_last_state_and_needs_no_network() -> None:
    recording = (
        b"Script started on 2026 [x]\n10%\r\x1b[2K\x1b[32m100%\x1b[0m done\r\ntwo\r\n\x1b[1A\x1b[2Kmore\r\n"
        b"Script done on 2026\n"
    )
    svg = picture_tool().picture(recording, title="a run", width=60, command="roost run")
    assert "10%" not in svg.replace("100%", "")
    assert "two" not in svg
    for word in ("100%", "done", "more", "a&#160;run", "roost&#160;run"):
        assert word in svg or word.replace("&#160;", " ") in svg
    assert "Script" not in svg
    assert "font-face" not in svg
    assert svg.count("http") == svg.count("http://www.w3.org/2000/svg") == 1
