"""What Roost would run is what was reviewed: tests/golden, see golden_plans.py."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from golden_plans import PLACE, names, text

from roost.distro.recipe import RECIPES, recipe


@pytest.mark.parametrize("name", names())
def test_what_would_be_run_is_as_recorded(name: str) -> None:
    recorded = PLACE / f"{name}.txt"
    assert recorded.exists(), f"`make golden` records what {name} runs"
    assert text(name) == recorded.read_text(), "`make golden`, then review the difference"


def test_nothing_is_recorded_of_what_there_is_not() -> None:
    assert {path.stem for path in PLACE.glob("*.txt")} == set(names())


def test_what_is_recorded_is_of_no_host_in_particular() -> None:
    """No mirror but the recipes' own, and no path of this host's."""
    recipes = [recipe(name) for name in RECIPES]
    tables = [
        table
        for one in recipes
        for table in (one.mirrors, one.ports_mirrors, *(release.mirrors for release in one.releases.values()))
    ]
    own = {urlsplit(url).netloc for table in tables for url in table.values()} | {"repo.example.org"}
    for path in PLACE.glob("*.txt"):
        words = path.read_text()
        assert set(re.findall(r"(?:https?|ftp)://([\w.:@-]+)", words)) <= own
        assert "/NOWHERE" not in words
        assert str(PLACE.parents[1]) not in words
