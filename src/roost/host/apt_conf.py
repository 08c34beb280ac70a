"""The language of apt's configuration files, apt.conf(5): read into settings, and written down again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Setting = tuple[str, str]
"""A key such as ``Acquire::http::Proxy`` and its value; a key that ends in ``::`` adds an element to a list."""

CLEAR = "#clear"

# '#' and '//' start a comment outside quotes, except in the two commands that are spelt like one. A word ends at a
# comment or a mark: apt splits "Tag{" and "value;" the same way.
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|\#(?!clear\b|include\b)[^\n]*|/\*.*?\*/)
      | "(?P<quoted>[^"]*)"
      | (?P<mark>[{};])
      | (?P<word>(?:(?!//|/\*)[^\s"{};])+)""",
    re.DOTALL | re.VERBOSE,
)


def parse(text: str) -> list[Setting]:
    """The settings of one file, in its order. ``#clear KEY`` gives the setting ``(CLEAR, KEY)``.

    Raises ValueError, with the line, for what apt refuses, and for ``#include``, which is not followed.
    """
    found: list[Setting] = []
    scopes: list[str] = []
    words: list[str] = []
    for is_mark, value, line in _tokens(text):
        if not is_mark:
            words.append(value)
            continue
        if words and words[0] in (CLEAR, "#include"):
            if words[0] == "#include":
                raise ValueError(f"line {line}: #include is not followed")
            found += [(CLEAR, _join(scopes, word)) for word in words[1:]]
        elif len(words) > 2:
            raise ValueError(f"line {line}: more than a name and a value: {' '.join(words)[:60]!r}")
        elif value == "{":
            if not words:
                raise ValueError(f"line {line}: a block without a name")
            scopes.append(words[0].rstrip(":"))
            found += [(_join(scopes), word) for word in words[1:]]
        elif len(words) == 2:
            found.append((_join(scopes, words[0]), words[1]))
        elif words and scopes:
            found.append((_join(scopes, ""), words[0]))  # a value alone is an element of the block's list
        if value == "}":
            if not scopes:
                raise ValueError(f"line {line}: '}}' closes nothing")
            scopes.pop()
        words = []
    if scopes or words:
        raise ValueError("the file ends inside a statement")
    return found


def apply(settings: Iterable[Setting], more: Iterable[Setting]) -> list[Setting]:
    """``settings`` with ``more`` on top, as apt reads one file after the other.

    Keys have no case. A later value replaces an earlier one, elements of lists are added, ``CLEAR`` takes out a key
    with all that is below it.
    """
    result = list(settings)
    for key, value in more:
        if key == CLEAR:
            gone = value.lower().rstrip(":")
            result = [s for s in result if s[0].lower() != gone and not s[0].lower().startswith(gone + "::")]
            continue
        if not key.endswith("::"):
            result = [s for s in result if s[0].lower() != key.lower()]
        result.append((key, value))
    return result


def dump(settings: Iterable[Setting]) -> str:
    """The settings as a configuration file. Raises ValueError for what its language cannot say."""
    lines = []
    for key, value in settings:
        if not can_be_said((key, value)):
            raise ValueError(f"apt's configuration cannot hold {key} {value!r}")
        lines.append(f'{key} "{value}";\n')
    return "".join(lines)


def can_be_said(setting: Setting) -> bool:
    """Whether ``dump`` can write it, on one line."""
    key, value = setting
    return '"' not in value and "\n" not in value and not re.search(r'[\s"{};]|//|/\*|^#', key) and bool(key)


def _join(scopes: list[str], *name: str) -> str:
    return "::".join((*scopes, *name))


def _tokens(text: str) -> Iterator[tuple[bool, str, int]]:
    """Whether it is one of ``{};``, the text, and the line it is on."""
    at, counted, line = 0, 0, 1
    while at < len(text):
        line += text.count("\n", counted, at)
        counted = at
        token = _TOKEN.match(text, at)
        if not token:
            raise ValueError(f"line {line}: cannot be read: {text[at : at + 40].splitlines()[0]!r}")
        at = token.end()
        kind = token.lastgroup or ""
        if kind != "skip":
            yield kind == "mark", token[kind], line
