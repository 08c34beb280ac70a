"""Every unknown key and every wrong type of a table at once.

``msgspec.convert`` stops at its first error. When it fails, this walker goes over the whole table with the types of the
same records, tells each mistake, and leaves a table without them, so that the values of the rest can be checked too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, inspect

from roost.definition.mistakes import TOLD, nearest
from roost.definition.model import Definition

if TYPE_CHECKING:
    from roost.definition.lines import Keys


class Cleaned(Struct, kw_only=True):
    """A table without its mistakes, and what they were. ``skipped`` and ``kept`` are those of a Document."""

    table: dict[str, Any] = {}
    mistakes: set[tuple[Keys, str]] = set()
    skipped: set[Keys] = set()
    kept: dict[Keys, list[int]] = {}


def clean(table: dict[str, Any]) -> Cleaned:
    """Take everything out of a definition's table that has no place in it or the wrong type."""
    walker = _Walker()
    walker.result.table = walker.value(table, inspect.type_info(Definition), ())
    return walker.result


def clean_as(table: dict[str, Any], kind: inspect.Type) -> Cleaned:
    """The same for a table that is of another kind; its places are those within it."""
    walker = _Walker()
    walker.result.table = walker.value(table, kind, ())
    return walker.result


_WRONG = object()


class _Walker:
    def __init__(self) -> None:
        self.result = Cleaned()

    def value(self, value: Any, kind: inspect.Type, path: Keys) -> Any:
        for one in _alternatives(kind):
            if not _fits(value, one):
                continue
            if isinstance(one, inspect.StructType):
                return self._struct(value, one, path)
            if isinstance(one, inspect.DictType):
                return self._dict(value, one, path)
            if isinstance(one, inspect.ListType):
                return self._list(value, one, path)
            return value
        literal = isinstance(value, str) and any(isinstance(one, inspect.LiteralType) for one in _alternatives(kind))
        got = repr(value) if literal else _named(value)
        quote = ": put it in quotes" if _expects_text(kind) and type(value) in (int, float, bool) else ""
        self._wrong(path, f"expected {_expected(kind)}, got {got}{quote}")
        return _WRONG

    def _struct(self, table: dict[str, Any], kind: inspect.StructType, path: Keys) -> dict[str, Any]:
        fields = {field.encode_name: field for field in kind.fields}
        cleaned = {}
        for key, value in table.items():
            if key not in fields:
                self._unknown(key, table, list(fields), path)
            elif (inner := self.value(value, fields[key].type, (*path, key))) is not _WRONG:
                cleaned[key] = inner
        for name, field in fields.items():
            if field.required and name not in cleaned:
                if name not in table and (*path, name) not in self.result.skipped:
                    self._wrong((*path, name), "missing")
                cleaned[name] = ""  # every required key of the records is a string
        return cleaned

    def _dict(self, table: dict[str, Any], kind: inspect.DictType, path: Keys) -> dict[str, Any]:
        cleaned = {key: self.value(value, kind.value_type, (*path, key)) for key, value in table.items()}
        return {key: value for key, value in cleaned.items() if value is not _WRONG}

    def _list(self, values: list[Any], kind: inspect.ListType, path: Keys) -> list[Any]:
        cleaned = [self.value(value, kind.item_type, (*path, index)) for index, value in enumerate(values)]
        kept = [index for index, value in enumerate(cleaned) if value is not _WRONG]
        if len(kept) < len(values):
            self.result.kept[path] = kept
        return [cleaned[index] for index in kept]

    def _unknown(self, key: str, table: dict[str, Any], known: list[str], path: Keys) -> None:
        meant = nearest(key, known) if len(self.result.mistakes) < TOLD else ""
        if meant:
            message = f"unknown key, did you mean '{meant}'?"
            if meant not in table:  # so that it is not told to be missing as well
                self.result.skipped.add((*path, meant))
        else:
            message = f"unknown key, the keys here are {', '.join(known)}"
        self._wrong((*path, key), message)

    def _wrong(self, path: Keys, message: str) -> None:
        self.result.mistakes.add((path, message))
        self.result.skipped.add(path)


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(kind, inspect.UnionType):
        return tuple(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return (kind,)


def _fits(value: Any, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.AnyType):
        return True
    if isinstance(kind, inspect.LiteralType):
        return value in kind.values
    if isinstance(kind, inspect.FloatType):
        return type(value) in (int, float)
    return type(value) is _PYTHON[type(kind)]


_PYTHON = {
    inspect.StructType: dict,
    inspect.DictType: dict,
    inspect.ListType: list,
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.BoolType: bool,
}


def _expects_text(kind: inspect.Type) -> bool:
    return any(isinstance(one, inspect.StrType) for one in _alternatives(kind))


def _expected(kind: inspect.Type) -> str:
    names = []
    for one in _alternatives(kind):
        if isinstance(one, inspect.LiteralType):
            names += [repr(value) for value in one.values]
        elif isinstance(one, inspect.ListType):
            items = [_PLURAL.get(type(item), "values") for item in _alternatives(one.item_type)]
            names.append(f"a list of {' or '.join(items)}")
        else:
            names.append(_SINGULAR.get(type(one), "a value"))
    return " or ".join(names)


def _named(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "an integer", float: "a float", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


_SINGULAR: dict[type, str] = {
    inspect.StructType: "a table",
    inspect.DictType: "a table",
    inspect.StrType: "a string",
    inspect.IntType: "an integer",
    inspect.FloatType: "a number",
    inspect.BoolType: "true or false",
}
_PLURAL: dict[type, str] = {inspect.StructType: "tables", inspect.StrType: "strings"}
