"""Where a definition is wrong: every mistake is kept with its place, and all of them are told at once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from roost.definition.lines import Keys
    from roost.definition.model import Definition


TOLD = 200
"""So many mistakes are told one by one; of more, their number. What comes after has no suggestions."""
WORD = 64
"""A longer word is no misspelt one."""
LISTED = 20
KNOWN = 500
"""Among more names than these, none is looked for that is near."""


class Document(Struct, kw_only=True):
    """One file: ``name`` as shown to the user, ``directory`` to which its relative paths belong.

    ``skipped`` are the places that were taken out of ``definition`` because they are wrong already, and ``kept`` the
    original indexes of the lists that lost elements. ``inputs`` are the files that it takes in.
    """

    name: str
    directory: str
    text: str
    definition: Definition
    skipped: set[Keys] = set()
    kept: dict[Keys, list[int]] = {}
    mistakes: set[tuple[Keys, str]] = set()
    inputs: set[str] = set()

    def original(self, keys: Keys) -> Keys:
        """The path in the text of a path in ``definition``."""
        if not self.kept:
            return keys
        path: Keys = ()
        for key in keys:
            path += (self.kept[path][key] if isinstance(key, int) and path in self.kept else key,)
        return path


class Place(Struct, frozen=True):
    """One value of a document."""

    document: Document
    keys: Keys

    def at(self, *keys: str | int) -> Place:
        """A place below this one."""
        return Place(self.document, (*self.keys, *keys))

    @property
    def skipped(self) -> bool:
        """The user has been told about this value already."""
        return self.document.original(self.keys) in self.document.skipped

    def wrong(self, message: str) -> None:
        """Keep a mistake; an empty message is none."""
        if message and not self.skipped:
            self.document.mistakes.add((self.document.original(self.keys), message))

    def did_you_mean(self, word: str, known: Iterable[str]) -> str:
        """The end of a message about an unknown word, or nothing when no known one is near."""
        near = nearest(word, known) if len(self.document.mistakes) < TOLD else ""
        return f", did you mean '{near}'?" if near else ""


def shown(keys: Keys) -> str:
    """A path as it would be written in the file, with indexes from 0 in brackets."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        bare = key.replace("-", "").replace("_", "")
        plain = bare.isascii() and bare.isalnum()
        text += f".{key}" if plain else f".{_quoted(key)}"
        if len(text) > 1000:
            text = text[:1000] + "…"
    return text.removeprefix(".")


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or nothing."""
    from difflib import get_close_matches  # only when there is a mistake

    known = list(known)
    if len(word) > WORD or len(known) > KNOWN:
        return ""
    known = [one for one in known if len(one) <= WORD]
    if near := get_close_matches(word, known, 1):
        return near[0]
    starts = [one for one in known if len(word) > 2 and one.startswith(word)]
    return starts[0] if len(starts) == 1 else ""


def listed(names: Collection[str]) -> str:
    """Names for a message: not more than a person reads."""
    some = [name if len(name) <= WORD else f"{name[:WORD]}…" for name in islice(names, LISTED)]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(some) + more


def report(documents: Iterable[Document], name: str, hint: str = "`roost schema` describes every key") -> None:
    """Raise one DefinitionError with a line for every mistake in the documents; do nothing when there is none."""
    lines: list[str] = []
    total = 0
    for document in documents:
        if document.mistakes:
            total += len(document.mistakes)
            lines += _lines(document, TOLD - len(lines))
    if not lines:
        return
    count = "1 mistake" if total == 1 else f"{total} mistakes"
    if total > len(lines):
        lines.append(f"{name}: and {total - len(lines)} more")
    raise DefinitionError(f"{name}: {count}", details="\n".join(lines), hint=hint)


def _lines(document: Document, most: int) -> list[str]:
    from roost.definition.lines import locate  # only when there is a mistake

    places = locate(document.text)
    found = []
    for keys, message in document.mistakes:
        near = keys
        while near not in places:  # what is missing is told at the table that lacks it
            near = near[:-1]
        found.append((places[near], keys, message))
    found.sort(key=lambda item: item[0])
    # one more line than is shown may hold many of them: only those are put into words
    last = found[most - 1][0] if 0 < most < len(found) else None
    worded = [(line, shown(keys), message) for line, keys, message in found if last is None or line <= last]
    return [f"{document.name}:{line}: {path}: {_short(text)}" for line, path, text in sorted(worded)[: max(most, 0)]]


def _short(message: str) -> str:
    return message if len(message) <= 1000 else message[:1000] + "…"
