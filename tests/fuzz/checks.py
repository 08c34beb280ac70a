"""What must hold of whatever Roost says."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from roost.cli.render import error_text
from roost.cli.table import SGR, Style

if TYPE_CHECKING:
    from roost.errors import Error


def harmless(text: str) -> None:
    """Nothing in it acts on a terminal but colours."""
    rest = SGR.sub("", text)
    if rest.isascii() and rest.replace("\n", "").replace("\t", "").isprintable():
        return
    bad = {c for c in set(rest) - {"\n", "\t"} if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert not bad, bad


def told(error: Error) -> None:
    """An error has its parts, and they can be shown."""
    assert error.brief
    assert "\n" not in error.brief
    assert error.hint or error.details
    for width in (None, 40):
        harmless(error_text(error, style=Style(colour=True), width=width))
