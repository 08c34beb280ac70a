"""The shipped recipes: whole, and of one piece with the families."""

from __future__ import annotations

import re

import pytest

from roost.distro import apt, family, recipe
from roost.distro.recipe import FAMILIES, RECIPES, Family
from roost.errors import DefinitionError


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_together(name: str) -> None:
    r = recipe(name)
    assert r.name == name
    assert r.family in FAMILIES
    assert r.variant in r.variants
    assert set(r.ports_architectures) <= set(r.architectures)
    assert all(path.startswith("/usr/share/keyrings/") for path in (r.keyring, *_keyrings(name)))
    for release_name, release in r.releases.items():
        assert release.suites[0].name == release_name, "the first suite is the release"
        assert release.suites[0].mirror == "main"
        assert set(release.architectures) <= set(r.architectures)
        for suite in release.suites:
            assert suite.name.startswith(release_name)
            assert {suite.mirror} <= r.mirrors.keys()
            assert not r.ports_mirrors or suite.mirror in r.ports_mirrors
        assert not release.mirrors or release.mirrors.keys() == r.mirrors.keys()


def _keyrings(name: str) -> list[str]:
    return [release.keyring for release in recipe(name).releases.values() if release.keyring]


@pytest.mark.parametrize("name", RECIPES)
def test_mirrors_are_the_distribution_s_own(name: str) -> None:
    r = recipe(name)
    tables = [r.mirrors, r.ports_mirrors, *(release.mirrors for release in r.releases.values())]
    for url in (url for table in tables for url in table.values()):
        assert re.fullmatch(r"https?://[a-z-]+\.(debian\.org|ubuntu\.com)/[a-z-]+", url)


def test_moving_names_are_no_releases() -> None:
    assert not {"stable", "testing", "unstable", "oldstable"} & recipe("debian").releases.keys()


def test_every_system_of_the_seeds_is_there() -> None:
    assert {"buster", "bullseye", "bookworm", "trixie", "sid"} <= recipe("debian").releases.keys()
    assert {"xenial", "bionic", "focal", "jammy", "noble"} <= recipe("ubuntu").releases.keys()
    assert "i386" in recipe("ubuntu").releases["bionic"].architectures
    assert "i386" not in recipe("ubuntu").releases["focal"].architectures


def test_unknown_names_say_which_there_are() -> None:
    with pytest.raises(DefinitionError) as caught:
        recipe("gentoo")
    assert "debian" in caught.value.hint
    with pytest.raises(DefinitionError) as caught:
        family("dnf")
    assert "apt" in caught.value.hint


def test_the_family_of_a_recipe_is_loaded() -> None:
    checked: Family = apt  # mypy compares every signature with the protocol
    assert family("apt") is checked
    assert checked.NOBODY_GROUP == "nogroup"
