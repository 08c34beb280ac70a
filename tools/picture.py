"""Make an SVG picture of a recorded terminal session.

    script -q -c 'make demo' demo.typescript
    python tools/picture.py demo.typescript docs/demo.svg --title "make demo"

The recording is played on a small terminal of our own first, so that what a live table repainted is seen once, as it
was last. The picture refers to no font or file on the network.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category, east_asian_width

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

# Control sequences of ECMA-48 and xterm: CSI, OSC (a title), a charset, any other escape; then single controls.
TOKEN = re.compile(
    r"\x1b\[(?P<args>[0-9;:?<=>]*)[ -/]*(?P<end>[@-~])"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()*+].|\x1b.|[\x00-\x1f\x7f]"
)

THEME = TerminalTheme(
    (250, 250, 247),
    (48, 52, 58),
    [
        (48, 52, 58), (190, 49, 54), (46, 125, 64), (160, 105, 0),
        (40, 96, 168), (134, 70, 145), (10, 120, 130), (120, 124, 130),
    ],
)  # fmt: skip
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

Cell = tuple[str, str]
"""A character and the colours (SGR parameters) that it has."""


class Screen:
    """A terminal of ``width`` columns and ``height`` rows that remembers every line that scrolled away."""

    def __init__(self, width: int, height: int = 50) -> None:
        self.lines: list[list[Cell]] = [[]]
        self._width = width
        self._height = height
        self._row = 0
        self._column = 0
        self._colours = ""

    def play(self, text: str) -> None:
        """Show ``text`` as a terminal would."""
        at = 0
        for token in TOKEN.finditer(text):
            self._print(text[at : token.start()])
            at = token.end()
            if token["end"]:
                self._control(token["end"], token["args"])
            else:
                self._single(token[0])
        self._print(text[at:])

    def text(self) -> str:
        """What is on the screen and above it, with colours, without blank lines at the end."""
        shown = [_joined(line) for line in self.lines]
        while shown and not shown[-1]:
            shown.pop()
        return "\n".join(shown)

    def _print(self, text: str) -> None:
        for char in text:
            wide = 0 if category(char) == "Mn" else 2 if east_asian_width(char) in "WF" else 1
            if wide == 0:
                continue
            if self._column + wide > self._width:
                self._column = 0
                self._down()
            line = self.lines[self._row]
            line += [(" ", "")] * (self._column + wide - len(line))
            line[self._column] = (char, self._colours)
            if wide == 2:
                line[self._column + 1] = ("", "")
            self._column += wide

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append([])

    def _single(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char in "\n\v\f":
            self._down()
        elif char == "\b":
            self._column = max(self._column - 1, 0)
        elif char == "\t":
            self._column = min((self._column // 8 + 1) * 8, self._width - 1)

    def _control(self, end: str, args: str) -> None:
        if args.startswith(("?", "<", "=", ">")):
            return  # modes: the cursor's look, bracketed paste…
        numbers = [int(number) if number else 0 for number in re.split("[;:]", args)]
        count = max(numbers[0], 1)
        top = max(len(self.lines) - self._height, 0)
        if end == "m":
            self._colours = "" if args in {"", "0"} else f"{self._colours};{args}".strip(";")
        elif end in "AF":
            self._row = max(self._row - count, top)
        elif end in "BE":
            self._row = min(self._row + count, len(self.lines) - 1)
        elif end == "C":
            self._column = min(self._column + count, self._width - 1)
        elif end == "D":
            self._column = max(self._column - count, 0)
        elif end == "G":
            self._column = min(count, self._width) - 1
        elif end == "H":
            self._row = min(top + count - 1, len(self.lines) - 1)
            self._column = min(max(numbers[-1], 1), self._width) - 1 if len(numbers) > 1 else 0
        elif end in "JK":
            self._erase(end, numbers[0])
        if end in "EF":
            self._column = 0

    def _erase(self, end: str, what: int) -> None:
        line = self.lines[self._row]
        if what == 0:
            del line[self._column :]
        elif what == 1:
            line[: self._column + 1] = [(" ", "")] * min(self._column + 1, len(line))
        else:
            line.clear()
        if end == "J" and what == 0:
            del self.lines[self._row + 1 :]
        elif end == "J" and what == 2:
            del self.lines[max(len(self.lines) - self._height, 0) + 1 :]
            self._row = len(self.lines) - 1
            self.lines[self._row].clear()


def _joined(line: Sequence[Cell]) -> str:
    parts = []
    now = ""
    for char, colours in line:
        if colours != now:
            parts.append(f"\x1b[0;{colours}m" if colours else "\x1b[0m")
            now = colours
        parts.append(char)
    if now:
        parts.append("\x1b[0m")
    text = "".join(parts)
    return text.rstrip() if not now else text


def picture(recording: bytes, *, title: str, width: int, last: int = 0, command: str = "") -> str:
    """The SVG for a recording. ``last``: only that many lines of its end. ``command``: shown first, after a ``$``."""
    text = recording.decode(errors="replace")
    text = re.sub(r"\AScript started on [^\n]*\n|\n?Script done on [^\n]*\n?\Z", "", text)  # what script(1) adds
    screen = Screen(width)
    screen.play(text)
    lines = screen.text().split("\n")[-last:]
    if command:
        lines = [f"\x1b[2m$\x1b[0m \x1b[1m{command}\x1b[0m", *lines]
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True, highlight=False, markup=False)
        for line in lines:
            console.print(Text.from_ansi(line), soft_wrap=True)
        svg = console.export_svg(title=title, theme=THEME, unique_id="roost")
    svg = re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", FONTS).replace("font-family: arial", "font-family: system-ui, sans-serif")
    svg = re.sub(r'x="([0-9.]+)" y="([0-9.]+)" textLength="([0-9.]+)"([^>]*)>((?:&#160;)+)([^<]+)<', _indented, svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE).rstrip() + "\n"


def _indented(match: re.Match[str]) -> str:
    """A piece of text that begins with spaces, moved to where its first letter is: some renderers drop the spaces."""
    x, y, length, rest, spaces, text = match.groups()
    count = len(spaces) // len("&#160;")
    cell = float(length) / (count + len(re.sub(r"&#?\w+;", " ", text)))
    return f'x="{float(x) + count * cell:g}" y="{y}" textLength="{float(length) - count * cell:g}"{rest}>{text}<'


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Make an SVG picture of a recorded terminal session.")
    parser.add_argument("recording", type=Path, help="what script(1) wrote, or any output with colours")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    parser.add_argument("--title", default="roost")
    parser.add_argument("--width", type=int, default=100, help="columns of the recorded terminal (100)")
    parser.add_argument("--last", type=int, default=0, metavar="LINES", help="only the end of the recording")
    parser.add_argument("--command", default="", help="a command to show above it")
    options = parser.parse_args(arguments)
    recording = options.recording.read_bytes()
    svg = picture(recording, title=options.title, width=options.width, last=options.last, command=options.command)
    options.picture.write_text(svg, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
