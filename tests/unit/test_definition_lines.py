"""Line numbers of the keys of a TOML text."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from roost.definition.lines import Keys, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = '''\
# a comment with [brackets] and "quotes
title = "x"                  # 2

[machines.bookworm]          # 4
packages = [                 # 5
  "a", # one, "two"
  "b]",

  'c',
]
limits = { memory = "2G", "a.b" = { c.d = [1, {e = 2}] } } # 11
text = """
[not.a.header]
key = "value" \\"""
"""""
after = 1979-05-27 07:32:00  # 16
literal = \'\'\'
x = 1
\'\'\'\'
dotted . "quoted \\u0065" = 1 # 20

[[ list ]]                   # 22
name = 1
[list.sub]                   # 24
x = 1
[[list]]                     # 26
[[list.inner]]               # 27
[[list.inner]]               # 28
y = 'ü'
[machines]                   # 30
'''


def test_every_shape_of_key() -> None:
    found = locate(TEXT)
    expected: dict[Keys, int] = {
        ("title",): 2,
        ("machines", "bookworm"): 4,
        ("machines", "bookworm", "packages"): 5,
        ("machines", "bookworm", "packages", 0): 6,
        ("machines", "bookworm", "packages", 1): 7,
        ("machines", "bookworm", "packages", 2): 9,
        ("machines", "bookworm", "limits", "memory"): 11,
        ("machines", "bookworm", "limits", "a.b", "c", "d", 1, "e"): 11,
        ("machines", "bookworm", "text"): 12,
        ("machines", "bookworm", "after"): 16,
        ("machines", "bookworm", "literal"): 17,
        ("machines", "bookworm", "dotted", "quoted e"): 20,
        ("list",): 22,
        ("list", 0, "name"): 23,
        ("list", 0, "sub", "x"): 25,
        ("list", 1): 26,
        ("list", 1, "inner", 1): 28,
        ("list", 1, "inner", 1, "y"): 29,
        ("machines",): 30,
    }
    assert {path: found[path] for path in expected} == expected
    assert set(paths(tomllib.loads(TEXT))) == set(found) - {()}


def test_lines_of_a_text_from_windows() -> None:
    assert locate('a = 1\r\n\r\n[b]\r\nc = """\r\nx"""\r\nd = [\r\n1]\r\n')[("b", "d", 0)] == 7


def paths(value: Any, path: Keys = ()) -> Iterator[Keys]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


# A small writer of TOML that uses each of its notations; which one, is drawn.

KEYS = st.one_of(
    st.text("abz019_-", min_size=1, max_size=6),
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f", exclude_categories=["Cc", "Cs"]), max_size=6),
    st.sampled_from(["a.b", "#", "=", "]", "[x]", "'", '"', "\\", "'''", '"""']),
)
STRINGS = st.one_of(
    st.text(max_size=12), st.sampled_from(['"""', "'''", "\n[x]\n", '#"', "\\", '""', "a\nb = 1\n", "]", "},"])
)
SCALARS = st.one_of(STRINGS, st.integers(), st.booleans(), st.floats(allow_nan=False))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, VALUES | inner | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=6,
)


def basic(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class Writer:
    def __init__(self, draw: Callable[[int], int]) -> None:
        self.choose = draw
        self.lines: list[str] = []

    def key(self, key: str) -> str:
        bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        if bare and self.choose(2):
            return key
        printable = key.isprintable() and "'" not in key
        return f"'{key}'" if printable and self.choose(2) else json.dumps(key, ensure_ascii=False)

    def string(self, text: str) -> str:
        style = self.choose(4)
        plain = all(c.isprintable() or c == "\n" for c in text)
        if style == 1 and plain and "\n" not in text and "'" not in text:
            return f"'{text}'"
        if style == 2 and plain and "'''" not in text and not text.startswith("\n"):
            return f"'''\n{text}'''" if not text.endswith("'") else basic(text)
        if style == 3 and plain:
            inner = text.replace("\\", "\\\\").replace('""', '"\\"')
            return f'"""\n{inner}"""'
        return basic(text)

    def value(self, value: Any, *, one_line: bool = False) -> str:
        if isinstance(value, str):
            text = self.string(value)
            return basic(value) if one_line and "\n" in text else text
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            items = [self.value(item, one_line=one_line) for item in value]
            if one_line or not self.choose(2):
                return f"[{', '.join(items)}]"
            return "[\n" + "".join(f"  # ], no\n  {item} ,\n" for item in items) + "]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self.key(k)} = {self.value(v, one_line=True)}" for k, v in value.items()) + " }"
        return repr(value)

    def table(self, table: dict[str, Any], path: list[str]) -> None:
        later = []
        for key, value in table.items():
            tables = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
            if (isinstance(value, dict) or tables) and self.choose(2):
                later.append((key, value))
            elif isinstance(value, dict) and value and self.choose(2):
                for inner, one in value.items():
                    self.lines.append(f"{self.key(key)} . {self.key(inner)} = {self.value(one)} # = ")
            else:
                self.lines.append(f"{self.key(key)}={self.value(value)}")
        for key, value in later:
            name = [*path, self.key(key)]
            for one in value if isinstance(value, list) else [value]:
                header = ".".join(name)
                self.lines += ["", f"  [[ {header} ]] # ]" if isinstance(value, list) else f"[{header}]"]
                self.table(one, name)


@settings(max_examples=300, deadline=None)
@given(TABLES, st.data())
def test_every_key_of_a_document_has_its_line(table: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(lambda below: data.draw(st.integers(0, below - 1)))
    writer.table(table, [])
    text = "\n".join(writer.lines)
    assert tomllib.loads(text) == table, "the writer of this test is wrong"
    found = locate(text)
    lines = text.split("\n")
    assert set(paths(table)) == set(found) - {()}
    for path, line in found.items():
        if path and isinstance(path[-1], str):
            key = path[-1]
            assert key in lines[line - 1] or json.dumps(key, ensure_ascii=False)[1:-1] in lines[line - 1]
