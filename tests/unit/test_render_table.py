"""Text for a terminal: what a person sees in a column, and what can never reach the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cli.table import (
    SGR,
    Cell,
    Painted,
    Style,
    age,
    clean,
    columns,
    cut,
    duration,
    fold,
    size,
    style_of,
    table,
    terminal_width,
    use_colour,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_line_up_and_numbers_stand_right() -> None:
    shown = table(["machine", "layers", "size"], [["sid", 3, "1.0 G"], ["bookworm", 12, "80.0 M"]], right=("size",))
    assert shown == (
        "MACHINE   LAYERS    SIZE\n"
        "sid            3   1.0 G\n"
        "bookworm      12  80.0 M\n"
    )  # fmt: skip


def test_no_line_ends_with_spaces() -> None:
    shown = table(["a", "b", "c"], [["x", None, ""], ["long name", "y", None], ["x", "y", "z"]])
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_the_widest_column_gives_way_and_the_name_stays_whole() -> None:
    name = "a-machine-with-a-long-name"
    shown = table(["machine", "size", "description"], [[name, 1, "words " * 20]], width=50)
    lines = shown.splitlines()
    assert max(map(len, lines)) == 50
    assert name in lines[1]
    assert lines[1].endswith("…")


def test_without_a_terminal_nothing_is_cut() -> None:
    assert "words " * 50 + "end" in table(["machine", "description"], [["sid", "words " * 50 + "end"]], width=None)


def test_a_cell_cannot_act_on_the_terminal_or_break_its_line() -> None:
    shown = table(["name"], [["a\x1b[2J\nb"], [Painted("\x9b31m", "good")]])
    assert shown == "NAME\na\\x1b[2J\\nb\n\\x9b31m\n"


def test_wide_characters_take_two_columns() -> None:
    lines = table(["name", "is"], [["日本", "x"], ["abcd", "y"], ["e\u0301", "z"]]).splitlines()
    assert lines[1] == "日本  x"
    assert lines[2] == "abcd  y"
    assert lines[3] == "e\u0301     z"


def test_colour_changes_nothing_but_colour() -> None:
    rows: list[list[Cell]] = [["sid", Style().state("failed")], ["trixie", Style().state("passed")]]
    coloured = table(["machine", "state"], rows, style=Style(colour=True))
    assert "\x1b[31m✗ failed\x1b[0m" in coloured
    assert SGR.sub("", coloured) == table(["machine", "state"], rows)


def test_an_empty_table_is_its_header() -> None:
    assert table(["machine", "state"], []) == "MACHINE  STATE\n"


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    shown = clean(text)
    shown.encode()  # no lone surrogate
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u202e\u2066\u2028\u200b" for char in shown)


def test_clean_keeps_what_people_write() -> None:
    assert clean("Grüße, 日本, naïve ✓") == "Grüße, 日本, naïve ✓"
    assert clean("a\u00a0b") == "a b"
    assert clean("one\ttwo\n", keep="\t\n") == "one\ttwo\n"


@given(st.text(alphabet="ab 日é"), st.integers(0, 12))
def test_cut_fits(text: str, width: int) -> None:
    assert columns(cut(text, width)) <= width


@given(st.text(alphabet="ab 日é"), st.integers(4, 12))
def test_fold_fits_and_keeps_everything_when_there_is_room(text: str, width: int) -> None:
    rows = fold(text, width, rows=100)
    assert all(columns(row) <= width for row in rows)
    assert "".join(rows) == text


def test_fold_says_when_it_left_something_out() -> None:
    assert fold("x" * 100, 10, rows=3) == ["x" * 10, "x" * 10, "x" * 9 + "…"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 K"), (1024**2 - 1, "1.0 M"), (3 * 1024**3 // 2, "1.5 G"),
     (5 << 50, "5120.0 T")],
)  # fmt: skip
def test_size(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 ms"), (0.045, "45 ms"), (0.0999, "0.1 s"), (0.8, "0.8 s"), (9.96, "10 s"), (12.3, "12 s"),
     (59.7, "1 min 00 s"), (185, "3 min 05 s"), (3599.6, "1 h 00 min"), (7620, "2 h 07 min"), (-1, "0 ms")],
)  # fmt: skip
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_running_clock_does_not_round_up() -> None:
    assert [duration(seconds, whole=True) for seconds in (0.0, 0.9, 9.99, 61.9)] == ["0 s", "0 s", "9 s", "1 min 01 s"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "now"), (42, "42 s"), (720, "12 min"), (5 * 3600, "5 h"), (86400, "1 day"), (3 * 86400, "3 days"),
     (21 * 86400, "3 weeks"), (200 * 86400, "6 months"), (800 * 86400, "2 years")],
)  # fmt: skip
def test_age(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


@pytest.mark.parametrize(
    ("env", "terminal", "pipe"),
    [
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, False),  # no-color.org: an empty value does not count
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "xterm", "FORCE_COLOR": "0"}, True, False),
    ],
)
def test_when_there_is_colour(env: dict[str, str], *, terminal: bool, pipe: bool) -> None:
    assert use_colour(Terminal(), env) is terminal
    assert use_colour(io.StringIO(), env) is pipe


def test_an_ascii_terminal_gets_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    style = style_of(stream, {})
    for state in ("passed", "failed", "interrupted", "skipped", "waiting"):
        style.state(state).text.encode("ascii")
    table(["a"], [["x" * 50]], width=20, style=style).encode("ascii")


def test_a_pipe_has_no_width() -> None:
    assert terminal_width(io.StringIO()) is None
