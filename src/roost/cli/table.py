"""Text for a terminal: colours, widths, human numbers and plain aligned tables. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import TextIO

SGR = re.compile(r"\x1b\[[0-9;:]*m")
"""A colour: ECMA-48, 8.3.117 "select graphic rendition"."""

GAP = "  "
TONES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1", "error": "1;31"}

# State → tone, symbol, symbol where the encoding has no ✓.
STATES = {
    "passed": ("good", "✓", "+"),
    "made": ("good", "✓", "+"),
    "failed": ("bad", "✗", "x"),
    "killed": ("bad", "✗", "x"),
    "timed-out": ("bad", "✗", "x"),
    "error": ("bad", "✗", "x"),
    "interrupted": ("warn", "!", "!"),
    "warning": ("warn", "!", "!"),
    "skipped": ("dim", "·", "-"),
    "waiting": ("dim", "·", "-"),
}


class Style(Struct, frozen=True, kw_only=True):
    """What a stream can show. ``unicode``: its encoding has more than ASCII."""

    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, tone: str) -> str:
        """``text`` in a tone of TONES; unchanged without colour or tone."""
        if not self.colour or not tone or not text:
            return text
        return f"\x1b[{TONES[tone]}m{text}\x1b[0m"

    @property
    def ellipsis(self) -> str:
        """What stands for text that was left out."""
        return "…" if self.unicode else ".."

    @property
    def dot(self) -> str:
        """What separates two short facts."""
        return " · " if self.unicode else ", "

    def symbol(self, state: str) -> str:
        """One character for a state of STATES, not painted."""
        _tone, symbol, plain = STATES[state]
        return symbol if self.unicode else plain

    def state(self, state: str) -> Painted:
        """A table's cell for a state: its symbol and its word."""
        return Painted(f"{self.symbol(state)} {state.replace('-', ' ')}", STATES[state][0])


class Painted(Struct, frozen=True):
    """A cell of a table in a tone of TONES."""

    text: str
    tone: str = ""


Cell = str | int | float | Painted | None


def use_colour(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Whether ``stream`` gets colours: NO_COLOR (no-color.org) wins, then FORCE_COLOR, then terminal and TERM."""
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return env.get("TERM", "dumb") not in {"", "dumb"} and stream.isatty()


def style_of(stream: TextIO, env: Mapping[str, str]) -> Style:
    """The style for a stream."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    return Style(colour=use_colour(stream, env), unicode=encoding.startswith(("utf", "gb18030")))


def terminal_width(stream: TextIO) -> int | None:
    """The columns of the terminal behind ``stream``; None when there is none: then nothing should be shortened."""
    if not stream.isatty():
        return None
    return terminal_size(stream)[0]


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of a terminal; 80 and 24 when it does not say (a serial line)."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return (80, 24)
    return (found.columns or 80, found.lines or 24)


def clean(text: str, *, keep: str = "") -> str:
    r"""``text`` with every character that could act on a terminal made visible: ESC as ``\x1b``.

    Those are control and format characters (bidirectional overrides too), line separators and lone surrogates (bytes
    of a file name that are not UTF-8). ``keep`` has those to leave alone, such as ``"\t\n"``. Odd spaces become spaces.
    """
    return text if text.isprintable() else text.translate(_visible(keep))


class _Visible(dict[int, str]):
    """For ``str.translate``: a character's number → how it is shown, found when it is first met."""

    def __init__(self, keep: str) -> None:
        super().__init__({ord(char): char for char in keep})

    def __missing__(self, code: int) -> str:
        from unicodedata import category  # 1 ms that an ordinary table does not need

        char = chr(code)
        kind = "" if char.isprintable() else category(char)
        shown = char  # also private use, or newer than this Python's tables: harmless
        if kind == "Zs":
            shown = " "
        elif kind in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            shown = char.encode("unicode_escape").decode("ascii")
        self[code] = shown
        return shown


@cache
def _visible(keep: str) -> _Visible:
    return _Visible(keep)


def plain(text: str) -> str:
    """One line of a program's output without its colours, with tabs as spaces, safe for a terminal."""
    return clean(SGR.sub("", text).replace("\x1b[K", "").expandtabs(8))  # gcc writes ESC [ K after each colour


def columns(text: str) -> int:
    """How many columns ``text`` takes: wide East Asian characters two, combining ones none (UAX #11)."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    def of(char: str) -> int:
        if category(char) in {"Mn", "Me"}:
            return 0
        return 2 if east_asian_width(char) in {"W", "F"} else 1

    return sum(map(of, text))


def cut(text: str, width: int, *, ellipsis: str = "…") -> str:
    """``text`` in at most ``width`` columns; what is left out is said by ``ellipsis``."""
    if columns(text) <= width:
        return text
    room = width - len(ellipsis)
    if room < 1:
        return ellipsis[: max(width, 0)]
    return _head(text, room) + ellipsis


def fold(text: str, width: int, *, rows: int, ellipsis: str = "…") -> list[str]:
    """``text`` in rows of at most ``width`` columns, at most ``rows`` of them, broken at a space when one is near."""
    folded: list[str] = []
    while columns(text) > width and len(folded) < rows - 1:
        head = _head(text, width) or text[:1]
        space = head.rfind(" ")
        if space > len(head) * 2 // 3:
            head = head[: space + 1]
        folded.append(head)
        text = text[len(head) :]
    return [*folded, cut(text, width, ellipsis=ellipsis)]


def _head(text: str, width: int) -> str:
    """As much of ``text`` as fits into ``width`` columns."""
    if text.isascii():
        return text[:width]
    used = 0
    for at, char in enumerate(text):
        used += columns(char)
        if used > width:
            return text[:at]
    return text


def size(count: int) -> str:
    """Bytes for people, powers of 1024: ``512 B``, ``1.5 K``, ``3.2 G``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in "KMGT":
        value /= 1024
        if value < 1023.95:  # what would be rounded to 1024.0 is 1.0 of the next
            return f"{value:.1f} {unit}"
    return f"{value:.1f} T"


def duration(seconds: float, *, whole: bool = False) -> str:
    """Seconds for people: ``45 ms``, ``0.8 s``, ``12 s``, ``3 min 05 s``, ``2 h 07 min``.

    ``whole``: nothing smaller than a second, for a clock that is seen running.
    """
    seconds = max(seconds, 0.0)
    if whole:
        seconds = float(int(seconds))
    elif seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    elif seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def age(seconds: float) -> str:
    """How long ago, in the largest unit that fits: ``now``, ``40 s``, ``12 min``, ``5 h``, ``3 days``, ``2 years``."""
    if seconds < 5:
        return "now"
    day = 86400
    for limit, unit, word in (
        (60, 1, "s"), (3600, 60, "min"), (day, 3600, "h"), (14 * day, day, "day"), (60 * day, 7 * day, "week"),
        (730 * day, 30.44 * day, "month"),
    ):  # fmt: skip
        if seconds < limit:
            return _counted(int(seconds / unit), word)
    return _counted(int(seconds / (365.25 * day)), "year")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}s" if number != 1 and word in {"day", "week", "month", "year"} else f"{number} {word}"


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    width: int | None = None,
    style: Style = Style(),  # noqa: B008 (frozen)
    right: Collection[str] = (),
    fixed: Collection[str] = (),
) -> str:
    """Aligned columns, two spaces apart, ready to print; every line ends with a newline.

    Columns of numbers, and those whose header is in ``right``, stand to the right and are never shortened, nor are
    those in ``fixed``. When the lines are wider than ``width``, the widest of the others is shortened; the first column
    (the name) last of all. ``width`` None: nothing is shortened. Cells are cleaned; None is an empty cell.
    """
    cells = [list(row) for row in rows]
    body = [[_painted(cell) for cell in row] for row in cells]
    raw = [[str(header).upper() for header in headers], *([cell.text for cell in row] for row in body)]
    widths = [max(map(columns, column)) for column in zip(*raw, strict=True)]
    numbers = [header in right or _numeric(row[at] for row in cells) for at, header in enumerate(headers)]
    if width is not None:
        rigid = {at for at, header in enumerate(headers) if numbers[at] or header in fixed}
        _shrink(widths, rigid | {0}, width)
        _shrink(widths, rigid, width)
    out = [_line([Painted(text) for text in raw[0]], widths, numbers, style, tone="dim")]
    out += [_line(row, widths, numbers, style) for row in body]
    return "".join(out)


def _painted(cell: Cell) -> Painted:
    if isinstance(cell, Painted):
        return Painted(clean(cell.text), cell.tone)
    return Painted("" if cell is None else clean(str(cell)))


def _numeric(column: Iterable[Cell]) -> bool:
    found = [cell for cell in column if cell is not None]
    return bool(found) and all(isinstance(cell, int | float) for cell in found)


def _shrink(widths: list[int], fixed: set[int], width: int) -> None:
    """Take from the widest column that may give, never below eight."""
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while over > 0:
        able = [at for at, wide in enumerate(widths) if at not in fixed and wide > 8]
        if not able:
            return
        widest = max(able, key=lambda at: widths[at])
        second = max([8, *(widths[at] for at in able if at != widest)])
        step = max(1, min(over, widths[widest] - second))
        widths[widest] -= step
        over -= step


def _line(cells: list[Painted], widths: list[int], numbers: list[bool], style: Style, *, tone: str = "") -> str:
    parts: list[str] = []
    pending = ""  # spaces are written before the next text only: no line ends with one
    for at, cell in enumerate(cells):
        text = cut(cell.text, widths[at], ellipsis=style.ellipsis)
        space = " " * (widths[at] - columns(text))
        if text:
            parts += [pending, space if numbers[at] else "", style.paint(text, tone or cell.tone)]
            pending = "" if numbers[at] else space
        else:
            pending += space
        pending += GAP
    return "".join(parts) + "\n"
