"""``roost plan -v``: each layer with what it runs, as wide as the terminal."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import TYPE_CHECKING

from roost.cli.table import clean, style_of, terminal_width

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from roost.commands import Shown

_WIDTH = 120
"""Columns where there is no terminal."""
_OPTION = re.compile(r"--[a-z-]+=")


def print_commands(layers: Iterable[Shown]) -> None:
    """On stdout, a paragraph for each layer."""
    width = max(terminal_width(sys.stdout) or _WIDTH, 40)
    style = style_of(sys.stdout, os.environ)
    for one in layers:
        print(f"\n{style.paint(clean(one.layer.name), 'bold')} {style.paint(one.layer.digest[:12], 'dim')}")
        for command in one.commands:
            where = "" if command.host else " (inside)"
            print(f"  {style.paint(clean(command.step), 'good')}{style.paint(where, 'dim')}")
            print("\n".join(wrapped(words(command.argv), width, "    ")))
        for note in one.notes:
            print("\n".join(wrapped(clean(note).split(), width, "  - ", more="    ", end="")))
    sys.stdout.flush()


def words(argv: Sequence[str]) -> list[str]:
    """A command's words as a shell has them; of a script, how long it is."""
    return [_word(word) for word in argv]


def _word(word: str) -> str:
    lines = word.count("\n") + (not word.endswith("\n"))
    if lines < 2:
        return shlex.quote(clean(word))
    option = _OPTION.match(word)
    return f"{option[0] if option else ''}<{lines} lines>"


def wrapped(parts: Sequence[str], width: int, first: str, *, more: str = "", end: str = " \\") -> Iterator[str]:
    """Words in lines that are no wider than ``width``, unless a word itself is."""
    line = first
    below = more or f"{first}    "
    for number, part in enumerate(parts):
        if len(below) + len(part) > width and " " in part:  # a word with spaces in it, such as a line of sources.list
            if line not in (first, below):
                yield line + end
            *inner, line = wrapped(part.split(" "), width, below, more=f"{below}  ", end="")
            yield from inner
            continue
        gap = "" if line in (first, below) else " "
        room = width - (len(end) if number + 1 < len(parts) else 0)
        if gap and len(line) + 1 + len(part) > room:
            yield line + end
            line, gap = below, ""
        line += gap + part
    yield line
