"""What an edit of a definition changes of a machine that boots, in words."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from roost.boot.changes import changes
from roost.boot.record import Booted, Caps
from roost.definition.checks import bytes_of
from roost.definition.model import NetworkTerms

MACHINE = Booted(name="tiny", definition="roost.toml", family="apt", layers=("1",))


def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The words for two records that differ in this only."""
    old, new = structs.replace(MACHINE, **before), structs.replace(MACHINE, **after)
    return [change.what for change in changes(old, new)]


def test_what_may_be_reached() -> None:
    """An empty list is the contrary of none at all."""
    lists: list[tuple[str, ...] | None] = [None, (), ("deb.debian.org:80", "host:4444")]
    words = ["everything", "nothing", "deb.debian.org:80 host:4444"]
    for before, word in zip(lists, words, strict=True):
        for after, other in zip(lists, words, strict=True):
            found = told({"terms": NetworkTerms(egress=before)}, {"terms": NetworkTerms(egress=after)})
            assert found == ([] if before == after else [f"network.egress: {word} to {other}"])


@pytest.mark.parametrize("written", ["2G", "90M", "1536K", "1T", "2048T", "94371841"])
def test_sizes_are_as_written(written: str) -> None:
    found = told({}, {"limits": Caps(memory=bytes_of(int(written) if written.isdigit() else written))})
    assert found == [f"limits.memory: none to {written}"]
