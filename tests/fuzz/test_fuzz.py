"""Every door of `targets`, with what hypothesis thinks of. `make fuzz` opens them for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.init import Driver
from fuzz.targets import TARGETS, seeds, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Words of a target's language with odd bytes between them, bytes alone, and good input with a piece of it replaced."""
    word = st.sampled_from(words(name))
    mixed = st.lists(word | word | st.binary(max_size=6), max_size=40).map(b"".join)
    good = st.sampled_from([path.read_bytes() for path in seeds(name)])
    replaced = st.builds(
        lambda whole, at, length, new: whole[: at % len(whole)] + new + whole[at % len(whole) + length :],
        good, st.integers(0, 5000), st.integers(0, 20), word | st.binary(max_size=6),
    )  # fmt: skip
    return mixed | replaced | st.binary(max_size=200)


def try_all(name: str, target: Callable[[bytes], None]) -> None:
    """A hundred and fifty inputs, the same ones each time."""

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def attempt(data: bytes) -> None:
        target(data)

    attempt()


@pytest.mark.parametrize("name", TARGETS)
def test_anything_is_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    for path in seeds(name):
        TARGETS[name](path.read_bytes(), tmp_path)
    try_all(name, lambda data: TARGETS[name](data, tmp_path))


def test_roost_init_and_roost_read_the_same_from_any_tree(tmp_path: Path) -> None:
    with Driver(tmp_path) as driver:
        try_all("init", driver.compare)
