"""The shipped recipes: whole, and of one piece with the families."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import roost
from roost.definition import checks
from roost.distro import apt, dnf, family, pacman, recipe, zypper
from roost.distro.recipe import RECIPES, VERSIONS, Family
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from pathlib import Path

APT = [name for name in RECIPES if recipe(name).family == "apt"]
OTHERS = [name for name in RECIPES if name not in APT]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_together(name: str) -> None:
    r = recipe(name)
    assert r.name == name
    assert r.family in VERSIONS
    assert r.family in checks.FAMILIES
    assert r.variant in r.variants
    assert r.bootstraps
    assert set(r.ports_architectures) <= set(r.architectures)
    assert not r.architecture_names or r.architecture_names.keys() == set(r.architectures)
    for release in r.releases.values():
        assert set(release.architectures) <= set(r.architectures)
        assert release.suites
        for suite in release.suites:
            assert {suite.mirror} <= r.mirrors.keys()
            assert not r.ports_mirrors or suite.mirror in r.ports_mirrors
        assert not release.mirrors or release.mirrors.keys() == r.mirrors.keys()
        assert not (r.packages.keys() | release.packages.keys()) - set(r.variants)


@pytest.mark.parametrize("name", APT)
def test_apt_s_suites_and_keyrings_are_named_as_it_does(name: str) -> None:
    r = recipe(name)
    assert all(path.startswith("/usr/share/keyrings/") for path in (r.keyring, *_keyrings(name)))
    for release_name, release in r.releases.items():
        assert release.suites[0].name == release_name, "the first suite is the release"
        assert release.suites[0].mirror == "main"
        assert all(suite.name.startswith(release_name) and not suite.path for suite in release.suites)


@pytest.mark.parametrize("name", OTHERS)
def test_repositories_of_other_families_have_an_address(name: str) -> None:
    r = recipe(name)
    for release_name, release in r.releases.items():
        known = {"release": release_name, "version": release.version, "variant": r.variant}
        for architecture in release.architectures or r.architectures:
            names = {**known, "architecture": r.architecture_names[architecture]}
            found = [suite.path.format(**names) for suite in release.suites]
            assert all(re.fullmatch(r"[A-Za-z0-9._-][A-Za-z0-9./_-]*", path) and "//" not in path for path in found)
        assert (release.keyring or r.keyring).format(**known).startswith("/usr/share/")
    assert r.keyring_source.startswith("https://")


def _keyrings(name: str) -> list[str]:
    return [release.keyring for release in recipe(name).releases.values() if release.keyring]


@pytest.mark.parametrize("name", RECIPES)
def test_mirrors_are_the_distribution_s_own(name: str) -> None:
    r = recipe(name)
    tables = [r.mirrors, r.ports_mirrors, *(release.mirrors for release in r.releases.values())]
    own = (
        r"(debian\.org|ubuntu\.com|fedoraproject\.org|centos\.org|almalinux\.org|rockylinux\.org|opensuse\.org|gentoo\.org|"
        r"pkgbuild\.com|alpinelinux\.org)"
    )
    for url in (url for table in tables for url in table.values()):
        assert re.fullmatch(rf"https?://[a-z.-]+\.{own}(/[a-z-]+)*", url)


def test_moving_names_are_no_releases() -> None:
    assert not {"stable", "testing", "unstable", "oldstable"} & recipe("debian").releases.keys()


def test_every_system_of_the_seeds_is_there() -> None:
    assert {"buster", "bullseye", "bookworm", "trixie", "sid"} <= recipe("debian").releases.keys()
    assert {"xenial", "bionic", "focal", "jammy", "noble"} <= recipe("ubuntu").releases.keys()
    assert {"jessie"} <= recipe("debian").releases.keys()
    assert {"32"} <= recipe("fedora").releases.keys()
    assert {"7", "8", "8-stream", "9-stream", "10-stream"} <= recipe("centos").releases.keys()
    assert {"8", "9", "10"} == recipe("almalinux").releases.keys() == recipe("rockylinux").releases.keys()
    assert {"15.6", "tumbleweed"} <= recipe("opensuse").releases.keys()
    assert recipe("gentoo").releases.keys() == recipe("arch").releases.keys() == {"rolling"}
    assert "i386" in recipe("ubuntu").releases["bionic"].architectures
    assert "i386" not in recipe("ubuntu").releases["focal"].architectures


def mistake(path: Path, distribution: str, release: str, architecture: str = "amd64") -> str:
    """What the definition of such a machine is answered with."""
    file = path / "roost.toml"
    file.write_text(
        f'[machines.a]\ndistribution = "{distribution}"\nrelease = "{release}"\narchitecture = "{architecture}"\n'
    )
    with pytest.raises(DefinitionError) as caught:
        roost.load(file)
    [line] = caught.value.details.splitlines()
    return line.partition(": machines.a.")[2]


def test_a_release_that_there_is_not_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    """The newest first, and how to add one."""
    said = mistake(tmp_path, "debian", "potato")
    assert "it has sid, forky, trixie, bookworm, bullseye, buster, stretch, jessie; recipes/NAME.toml beside" in said
    assert "it has 10-stream, 9-stream, 8, 8-stream, 7;" in mistake(tmp_path, "centos", "6")
    assert "it has rawhide, 45, 44," in mistake(tmp_path, "fedora", "4711")
    assert "it has tumbleweed, 16.0, 15.6, 15.5;" in mistake(tmp_path, "opensuse", "leap")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("debian", "12"), "release: debian has no release '12', did you mean 'bookworm'?"),
        (("ubuntu", "16.04"), "release: ubuntu has no release '16.04', did you mean 'xenial'?"),
        (("ubuntu", "xenail"), "release: ubuntu has no release 'xenail', did you mean 'xenial'?"),
        (("debain", "sid"), "distribution: unknown distribution 'debain', did you mean 'debian'?"),
        (("plan9", "4"), "distribution: unknown distribution 'plan9', one of debian, ubuntu, "),
        (("ubuntu", "noble", "i386"), "(i386 was there until bionic)"),
        (("debian", "bookworm", "riscv64"), "(riscv64 is there since trixie)"),
        (("debian", "sid", "mipsel"), "(mipsel was there until bookworm)"),
        (("fedora", "42", "s390x"), "fedora 42 is not made for s390x: it is made for amd64, arm64"),
    ],
)
def test_what_a_distribution_never_had(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    assert says in mistake(tmp_path, *words)


def test_unknown_names_say_which_there_are() -> None:
    with pytest.raises(DefinitionError) as caught:
        recipe("plan9")
    assert "debian" in caught.value.hint
    with pytest.raises(DefinitionError) as caught:
        family("rpm")
    assert "apt" in caught.value.hint


def test_the_family_of_a_recipe_is_loaded() -> None:
    checked: Family = apt  # mypy compares every signature with the protocol
    assert family("apt") is checked
    assert checked.NOBODY_GROUP == "nogroup"
    other: Family = dnf
    assert family("dnf") is other
    assert other.NOBODY_GROUP == "nobody"
    third: Family = zypper
    assert family("zypper") is third
    fourth: Family = pacman
    assert family("pacman") is fourth
