"""Line numbers for the keys of a TOML text.

``tomllib`` gives none. This scanner is used only when there is a mistake to report, on a text that ``tomllib`` has
already accepted: so it follows the shape of the text and leaves every check of it out.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Keys = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
# Up to two quotes may stand right before the three that close a multi-line string (TOML 1.0, "String").
_STRINGS = (r'"""(?:\\.|[^\\])*?"""(?:"{0,2})', r"'''.*?'''(?:'{0,2})", r'"(?:\\.|[^"\\])*"', r"'[^']*'")
_STRING = re.compile("|".join(_STRINGS), re.DOTALL)


def locate(text: str) -> dict[Keys, int]:
    """The line (from 1) of every key path of a valid TOML text.

    An element of an array or of an array of tables has its index in the path.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: dict[Keys, int] = {(): 1}
        self._text = text + "\n"  # every look at the next character finds one
        self._at = 0
        self._ends = [index for index, char in enumerate(text) if char == "\n"]
        self._counts: dict[Keys, int] = {}  # tables so far in each array of tables

    def document(self) -> None:
        table: Keys = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Keys:
        line = self._line()
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        parts = self._key()
        self._at += 2 if array else 1
        path: Keys = ()
        for part in parts[:-1]:
            path += (part,)
            self.found.setdefault(path, line)
            if path in self._counts:
                path += (self._counts[path] - 1,)
        path += (parts[-1],)
        if array:
            self.found.setdefault(path, line)
            self._counts[path] = self._counts.get(path, 0) + 1
            path += (self._counts[path] - 1,)
        self.found[path] = line
        return path

    def _pair(self, path: Keys) -> None:
        line = self._line()
        for part in self._key():
            path += (part,)
            self.found.setdefault(path, line)
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Keys) -> None:
        first = self._text[self._at]
        if first not in "[{":
            self._skip(_STRING if first in "\"'" else _SCALAR)
            return
        self._at += 1
        index = 0
        self._skip(_BLANK)
        while self._text[self._at] not in "]}":
            if first == "{":
                self._pair(path)
            else:
                self.found[(*path, index)] = self._line()
                self._value((*path, index))
                index += 1
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_BLANK)
        self._at += 1

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._at
            quoted = self._text[start] in "\"'"
            self._skip(_STRING if quoted else _BARE)
            part = self._text[start : self._at]
            parts.append(next(iter(tomllib.loads(f"{part}=0"))) if quoted else part)
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _skip(self, what: re.Pattern[str]) -> int:
        match = what.match(self._text, self._at)
        if match is None:  # not TOML: the caller broke the promise
            raise ValueError(f"cannot scan line {self._line()}")
        self._at = match.end()
        return self._at

    def _line(self) -> int:
        return bisect_right(self._ends, self._at - 1) + 1
