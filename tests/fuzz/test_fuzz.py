"""Every door of `targets`, with what hypothesis thinks of. `make fuzz` opens them for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.init import Driver
from fuzz.targets import TARGETS, TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Words of a target's language with odd bytes between them, and bytes alone."""
    word = st.sampled_from(TOKENS[name])
    return st.lists(word | word | st.binary(max_size=6), max_size=40).map(b"".join) | st.binary(max_size=200)


def try_all(name: str, target: Callable[[bytes], None]) -> None:
    """A hundred and fifty inputs, the same ones each time."""

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def attempt(data: bytes) -> None:
        target(data)

    attempt()


@pytest.mark.parametrize("name", TARGETS)
def test_anything_is_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    try_all(name, lambda data: TARGETS[name](data, tmp_path))


def test_roost_init_and_roost_read_the_same_from_any_tree(tmp_path: Path) -> None:
    with Driver(tmp_path) as driver:
        try_all("init", driver.compare)
