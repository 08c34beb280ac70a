"""What programs print, made into lines: bytes come in pieces, may have no newline for 100 MB, and may be no UTF-8."""

from __future__ import annotations

from roost.cli.table import SGR, clean, plain

PIECE = 65536
"""A line longer than this is shown in pieces: memory stays bounded."""

RESET = "\x1b[0m"


class Lines:
    """Cuts a stream of bytes into lines of text.

    A carriage return goes back to the start of its line, so only the last state of a progress bar is a line. The bytes
    of one character stay together; those that are not UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, without their ends."""
        *complete, rest = data.split(b"\n")
        lines: list[str] = []
        for piece in complete:
            if not self._pending and len(piece) <= PIECE and b"\r" not in piece:  # nearly every line there is
                lines.append(piece.decode(errors="replace"))
                continue
            lines += self._take(piece)
            lines.append(self._flush())
        return lines + self._take(rest)

    def end(self) -> list[str]:
        """The last line, when it has no newline."""
        return [self._flush()] if self._pending else []

    def _take(self, piece: bytes) -> list[str]:
        """Add a piece without a newline; what grows too long comes back."""
        self._pending += piece
        if len(self._pending) <= PIECE:
            return []
        at = self._pending.rfind(b"\r", 0, len(self._pending.rstrip(b"\r")))
        if at >= 0:
            del self._pending[: at + 1]
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

    A colour that the line does not end is ended.
    """
    if line.isprintable():
        return line
    line = line.replace("\x1b[K", "")  # gcc writes it after each colour; it clears nothing of ours
    if not colour:
        return clean(SGR.sub("", line), keep="\t")
    parts = SGR.split(line)
    colours = SGR.findall(line)
    out = clean(parts[0], keep="\t")
    for code, part in zip(colours, parts[1:], strict=True):
        out += code + clean(part, keep="\t")
    return out + RESET if colours and colours[-1] not in {RESET, "\x1b[m"} else out


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
