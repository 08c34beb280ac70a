"""Output becomes lines, whatever the bytes are and however they are cut."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cli.output import PIECE, LastLine, Lines, last_lines, prefixed, safe_line


def whole(*pieces: bytes) -> list[str]:
    lines = Lines()
    return [line for piece in pieces for line in lines.feed(piece)] + lines.end()


def test_lines_come_as_soon_as_they_end() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntw") == ["one"]
    assert lines.feed(b"o\n\nthr") == ["two", ""]
    assert lines.end() == ["thr"]
    assert lines.end() == []


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_where_the_bytes_are_cut_does_not_matter(data: bytes, cuts: list[int]) -> None:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    assert whole(*(data[a:b] for a, b in pairwise(places))) == whole(data)


def test_characters_are_not_cut() -> None:
    text = "é日" * 40000
    assert "".join(whole(text.encode())) == text
    assert whole("ü\n".encode()[:1], "ü\n".encode()[1:]) == ["ü"]


def test_bytes_that_are_not_utf8_are_shown_as_such() -> None:
    assert whole(b"caf\xe9\nok\n") == ["caf\ufffd", "ok"]
    assert sum(map(len, whole(b"\x80" * 200_000))) == 200_000


def test_a_progress_bar_is_its_last_state() -> None:
    assert whole(b" 10%\r 20%", b"\r100%\n", b"next\r\n") == ["100%", "next"]
    assert whole(*([b"\r%3d%%" % 42] * 50_000)) == [" 42%"]


def test_a_hundred_megabytes_without_a_newline() -> None:
    lines = Lines()
    block = b"x" * 65536
    count = longest = 0
    began = time.monotonic()
    for _ in range(1600):
        for line in lines.feed(block):
            count += len(line)
            longest = max(longest, len(line))
    count += sum(map(len, lines.end()))
    assert count == 1600 * 65536
    assert longest <= PIECE
    assert time.monotonic() - began < 5


def test_colours_stay_and_everything_else_is_made_visible() -> None:
    line = "\x1b[31merror\x1b[0m:\ttab \x07 \x1b[2J \x1b]0;title\x07"
    assert safe_line(line, colour=True) == "\x1b[31merror\x1b[0m:\ttab \\x07 \\x1b[2J \\x1b]0;title\\x07"
    assert safe_line(line, colour=False) == "error:\ttab \\x07 \\x1b[2J \\x1b]0;title\\x07"


def test_a_colour_ends_with_its_line() -> None:
    assert safe_line("\x1b[31mred", colour=True) == "\x1b[31mred\x1b[0m"


def test_gcc_coloured_messages_read_well() -> None:
    line = "\x1b[01m\x1b[Kmain.c:1:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kno"
    assert safe_line(line, colour=False) == "main.c:1: error: no"
    assert "[K" not in safe_line(line, colour=True)


def test_the_last_line_worth_showing() -> None:
    last = LastLine()
    assert last.text() == ""
    last.feed(b"one\ntwo\x1b[1m!\x1b[0m\n\n   \n")
    assert last.text() == "two!"
    last.feed(b"10%\r20%\r")
    assert last.text() == "20%"
    last.feed(b"\n" + b"y" * 10_000_000)
    assert set(last.text()) == {"y"}


def test_the_tail_of_a_log() -> None:
    log = "".join(f"line {number}\n" for number in range(30)) + "10%\r99%\r\n\ta\x1b[31mb\x1b[0m\x07\n\n\n"
    assert last_lines(log, 3) == ["line 29", "99%", "        ab\\x07"]
    assert last_lines("", 3) == []


@pytest.mark.parametrize("block", [b"\0", b"\x1b", b"\0\x01\x02", b"\x1b[m\0", "\u202e".encode()])
def test_a_flood_that_is_no_text_is_shown_in_short(block: bytes) -> None:
    text = prefixed(whole(*[block * 20_000] * 4), "who | ", colour=True)
    assert len(text) < 8_000
    assert "no text" in text
    assert text.isascii()


def test_a_flood_of_returns_is_nothing() -> None:
    lines = Lines()
    assert [line for _ in range(1000) for line in lines.feed(b"\r" * 65536)] == []
    assert lines.feed(b"at last\n") == ["at last"]
    assert whole(b"\r\r" * 70_000 + b"\n", b"a\r\r\n\r\rb\r\n") == ["", "a", "b"]


def test_a_flood_of_short_lines_is_shown_line_by_line() -> None:
    text = prefixed(whole(b"y\n" * 100_000, b"\n" * 1000), "who | ", colour=True)
    assert text == "who | y\n" * 100_000 + "who | \n" * 1000


def test_long_lines_in_a_large_block_come_in_pieces() -> None:
    assert list(map(len, whole(b"a\n" + b"x" * 150_000 + b"\nb\n"))) == [1, PIECE, PIECE, 150_000 - 2 * PIECE, 1]


def test_odd_characters_among_text_are_each_made_visible() -> None:
    line = ("text\0" + "more text " * 10) * 1000
    assert safe_line(line, colour=True) == line.replace("\0", "\\x00")
