"""Roost's own Struct does as msgspec's does, as far as it goes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost import structs
from roost.records import SessionRecord

TEXT = st.text(max_size=20)


def pair(own: Any, theirs: Any) -> tuple[Any, Any]:
    class One(own, frozen=True, kw_only=True):  # type: ignore[misc,call-arg]
        a: int
        b: str = "x"
        c: dict[str, str] = {}

    class Two(theirs, frozen=True, kw_only=True):  # type: ignore[misc,call-arg]
        a: int
        b: str = "x"
        c: dict[str, str] = {}

    return One, Two


@pytest.mark.parametrize(
    "fields",
    [{"a": 1}, {"a": 1, "b": "y"}, {}, {"a": 1, "d": 2}, {"b": "y"}, {"a": 1, "c": {"k": "v"}}],
    ids=str,
)
def test_it_takes_what_msgspec_takes(fields: dict[str, Any]) -> None:
    outcomes: list[Any] = []
    for kind in pair(structs.Struct, msgspec.Struct):
        try:
            value = kind(**fields)
        except TypeError:
            outcomes.append("refused")
        else:
            outcomes.append((value.a, value.b, value.c))
    assert outcomes[0] == outcomes[1]


def test_values_are_compared_shown_and_frozen() -> None:
    for kind in pair(structs.Struct, msgspec.Struct):
        value = kind(a=1)
        assert value == kind(a=1)
        assert value != kind(a=2)
        assert repr(value).endswith("(a=1, b='x', c={})")
        with pytest.raises(AttributeError):
            value.a = 2
        with pytest.raises(TypeError):
            kind(1)


def test_empty_defaults_are_not_shared() -> None:
    kind, _ = pair(structs.Struct, msgspec.Struct)
    kind(a=1).c["k"] = "v"
    assert kind(a=1).c == {}


@given(
    st.builds(
        SessionRecord,
        id=TEXT,
        machine=TEXT,
        layers=st.lists(TEXT, max_size=3).map(tuple),
        family=TEXT,
        created=st.floats(0, 1e10),
        kept=st.booleans(),
        environment=st.dictionaries(TEXT, TEXT, max_size=3),
    )
)
def test_a_record_is_read_as_it_was_written(record: SessionRecord) -> None:
    data = structs.to_json(record)
    assert structs.from_json(data, SessionRecord) == record
    assert msgspec.json.decode(data) == msgspec.json.decode(msgspec.json.encode(structs.asdict(record)))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"id": 1}', b'{"id": "x"}', b"\xff"])
def test_what_is_damaged_is_said(data: bytes) -> None:
    with pytest.raises(structs.Damaged):
        structs.from_json(data, SessionRecord)
