"""What programs print, made into lines: bytes come in pieces, may have no newline for 100 MB, and may be no UTF-8."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from roost.cli.table import SGR, clean, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = 65536
"""A line longer than this is shown in pieces: memory stays bounded."""

RESET = "\x1b[0m"

TEXT_LEAST = 4096
SAMPLE = 256
"""Of a line of more than TEXT_LEAST characters, a quarter of them unprintable, so many are shown."""

# Returns at the end of a line, then all that another return has gone back over. Each matches from one place of a run or
# line only: the time is that of one look at every byte.
_RETURNS = rb"(?<!\r)\r++(?=\n|\Z)"
_OVERWRITTEN = rb"(?m:^)[^\n]*\r"
_NO_COLOUR = r"\x1b(?!\[[0-9;:]*m)"
_GONE = dict.fromkeys((*range(9), *range(10, 32), 127))


class Lines:
    """Cuts a stream of bytes into lines of text.

    A carriage return goes back to the start of its line, so only the last state of a progress bar is a line. The bytes
    of one character stay together; those that are not UTF-8 become U+FFFD. A block of many lines is worked on as a
    whole: a flood of short lines costs no more than one of long ones.
    """

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, without their ends."""
        head, newline, rest = data.rpartition(b"\n")
        if not newline:
            return self._take(rest)
        lines: list[str] = []
        if self._pending:
            first, newline, head = head.partition(b"\n")
            lines = [*self._take(first), self._flush()]
        if newline:
            lines += _complete(head)
        return lines + self._take(rest)

    def end(self) -> list[str]:
        """The last line, when it has no newline."""
        return [self._flush()] if self._pending else []

    def _take(self, piece: bytes) -> list[str]:
        """Add a piece without a newline; what grows too long comes back."""
        self._pending += piece
        if b"\r" in piece:
            text = self._pending.rstrip(b"\r")
            returned = len(text) < len(self._pending)
            self._pending = text[text.rfind(b"\r") + 1 :] + (b"\r" if returned else b"")
        if len(self._pending) <= PIECE:
            return []
        lines = []
        start = 0
        while len(self._pending) - start > PIECE:
            end = _character_start(self._pending, start + PIECE)
            lines.append(self._pending[start:end].decode(errors="replace"))
            start = end
        del self._pending[:start]
        return lines

    def _flush(self) -> str:
        line = bytes(self._pending).rstrip(b"\r")
        self._pending.clear()
        return line[line.rfind(b"\r") + 1 :].decode(errors="replace")


def _complete(block: bytes) -> list[str]:
    """The lines of a block that ends with one."""
    if b"\r" in block:
        block = re.sub(_OVERWRITTEN, b"", re.sub(_RETURNS, b"", block))
    lines = block.decode(errors="replace").split("\n")  # no byte of a character is a newline
    if len(block) <= PIECE:
        return lines
    return [line[at : at + PIECE] for line in lines for at in range(0, max(len(line), 1), PIECE)]


class LastLine:
    """Remembers the end of a stream of bytes, to show its last line."""

    def __init__(self) -> None:
        self._end = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; cheap, whatever their number."""
        self._end = (self._end + data[-4096:])[-4096:]

    def text(self) -> str:
        """The last line that is not blank, safe for a terminal, without colours."""
        for line in reversed(self._end.replace(b"\r", b"\n").split(b"\n")):
            if text := plain(line.decode(errors="replace")).strip():
                return text
        return ""


def safe_line(line: str, *, colour: bool) -> str:
    """A line of output for a stream that Roost shares: colours stay (unless not ``colour``), all else is made visible.

    A colour that the line does not end is ended. Of a long line that is no text, only the beginning is shown.
    """
    if _harmless(line):
        return line
    line = line.replace("\x1b[K", "")  # gcc writes it after each colour; it clears nothing of ours
    text = SGR.sub("", line)
    if not _harmless(text):
        if len(text) > TEXT_LEAST and (odd := _unprintable(text)) > len(text) // 4:
            shown = clean(text[:SAMPLE], keep="\t")
            return f"{shown} ({len(text) - SAMPLE} more characters, no text: {odd} of the line cannot be printed)"
        line = text if not colour else re.sub(_NO_COLOUR, r"\\x1b", line)
        return _ended(clean(line, keep="\t\x1b" if colour else "\t"))
    return _ended(line) if colour else text


def prefixed(lines: Sequence[str], prefix: str, *, colour: bool) -> str:
    """Lines of output as ``safe_line`` has them, each with ``prefix`` before it and a newline after it."""
    if not lines:
        return ""
    text = "\n".join(lines)
    if not _harmless(text.replace("\n", "")):
        text = "\n".join([safe_line(line, colour=colour) for line in lines])
    return prefix + text.replace("\n", "\n" + prefix) + "\n"


def _harmless(text: str) -> bool:
    return text.isprintable() or text.replace("\t", "").isprintable()


def _unprintable(text: str) -> int:
    """How many characters there are that ``clean`` would have to make visible; tabs are none."""
    return len(text) - len(text.translate(_GONE)) if text.isascii() else sum(not c.isprintable() for c in text)


def _ended(line: str) -> str:
    """A line in which every escape is a colour, with the last one undone."""
    last = line.rfind("\x1b")
    return line if last < 0 or line.startswith((RESET, "\x1b[m"), last) else line + RESET


def last_lines(output: str, count: int) -> list[str]:
    """The last lines of a log, safe for a terminal, without colours and without blank lines around them."""
    lines = [plain(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in output.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    lines = lines[-count:]
    while lines and not lines[0]:
        lines.pop(0)
    return lines


def _character_start(data: bytearray, at: int) -> int:
    """``at``, or up to three bytes before it, so that no UTF-8 character is cut."""
    for back in range(4):
        if data[at - back] & 0xC0 != 0x80:  # not a continuation byte
            return at - back
    return at
