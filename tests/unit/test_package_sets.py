"""``@NAME`` among packages: what it stands for on each system, and what is said of one that there is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_plan import BASE, NOTHING, plan

import roost
from roost import facts
from roost.definition import families
from roost.definition.package_sets import Sets, sets_of
from roost.distro import recipe
from roost.distro.recipe import RECIPES
from roost.errors import DefinitionError
from roost.plan import Found, Known
from roost.records import LayerRecord
from roost.store import Store
from roost.structs import to_json
from roost.system import sets_in

if TYPE_CHECKING:
    from pathlib import Path

    from roost.definition.model import Contents
    from roost.plan import Plan

NAMES = {"build-essential", "lws", "sai", "toolchains-32", "qgis", "minimal-install"}


def packages(made: Plan) -> list[str]:
    """Those of the last layer."""
    found: list[str] = made.layers[-1].facts["packages"]
    return found


def machine(distribution: str, release: str, more: str, architecture: str = "amd64") -> str:
    return f'[machines.a]\ndistribution = "{distribution}"\nrelease = "{release}"\narchitecture = "{architecture}"\n{more}\n'


def told(path: Path, text: str) -> list[str]:
    (path / "roost.toml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        roost.load(path / "roost.toml")
    return [line.partition("roost.toml:")[2] for line in caught.value.details.splitlines()]


@pytest.mark.parametrize("name", [name for name in RECIPES if recipe(name).sets])
def test_the_sets_of_a_recipe_are_of_one_piece(name: str) -> None:
    one = recipe(name)
    assert one.sets.keys() >= {"build-essential", "lws"}
    known = facts.of_distribution(name)
    assert known is not None
    for data in one.releases.values():
        assert data.sets.keys() <= NAMES | one.sets.keys(), "a set of one release alone is a slip"
    for release in one.releases:
        found = sets_of(name, known, release, "amd64")
        for elements in found.sets.values():
            names = [element.partition(" [")[0] for element in elements]
            assert len(names) == len(set(names))
        for old, instead in found.obsolete.items():
            assert old != instead.use
            assert set(instead.releases) <= one.releases.keys()


@pytest.mark.parametrize(
    ("system", "some"),
    [
        (("debian", "bookworm"), {"gcc": False, "build-essential": True, "libuv1-dev": True, "libgit2-dev": True}),
        (("debian", "jessie"), {"libuv1-dev": False, "libmbedtls-dev": False, "libssl-dev": True}),
        (("ubuntu", "xenial"), {"libuv1-dev": True, "libc6-i386": True}),
        (("fedora", "32"), {"gcc-c++": True, "libuv-devel": True, "glibc.i686": True}),
        (("centos", "7"), {"pkgconfig": True, "libuv-devel": False}),
        (("centos", "8"), {"mbedtls-devel": False, "libuv-devel": True}),
        (("rockylinux", "9"), {"libuv-devel": True}),
        (("opensuse", "15.6"), {"libopenssl-devel": True, "glibc-32bit": True}),
    ],
)
def test_the_same_words_are_each_release_s_packages(
    tmp_path: Path, system: tuple[str, str], some: dict[str, bool]
) -> None:
    made = plan(tmp_path, machine(*system, 'packages = ["@build-essential", "@lws", "@toolchains-32"]'))
    found = packages(made)
    assert not [name for name in found if name.startswith("@")]
    assert {name: name in found for name in some} == some


def test_a_set_is_what_its_packages_are(tmp_path: Path) -> None:
    """The same layer as when they are written one by one: a set is a shorter way to say them."""
    short = plan(tmp_path, BASE + 'packages = ["@build-essential", "vim"]\n')
    long = plan(tmp_path, BASE + 'packages = ["build-essential", "patch", "pkg-config", "vim"]\n')
    assert short.layers[-1].digest == long.layers[-1].digest


def test_an_element_may_be_of_some_architectures(tmp_path: Path) -> None:
    text = machine("debian", "bookworm", 'packages = ["@toolchains-32", "vim"]', "arm64")
    assert packages(plan(tmp_path, text)) == ["vim"]


def test_sets_in_lists_of_families_and_profiles(tmp_path: Path) -> None:
    text = machine("fedora", "42", 'profiles = ["p"]') + (
        '[profiles.p]\npackages = { apt = ["@nothing"], dnf = ["@build-essential"] }\n'
    )
    assert "gcc-c++" in packages(plan(tmp_path, text))


@pytest.mark.parametrize(
    ("more", "line", "says"),
    [
        ('packages = ["x", "@lsw"]', 5, "machines.a.packages[1]: debian bookworm has no package set '@lsw', did you mean '@lws'?"),
        ('packages = { dnf = ["@y"], apt = ["@zzz"] }', 5, "packages.apt[0]: debian bookworm has no package set '@zzz', it has @b"),
        ('profiles = ["p"]\n[profiles.p]\npackages = ["@zzz"]', 7, "profiles.p.packages[0]: debian bookworm has no package set"),
        ('[defaults]\npackages = ["@zzz"]', 6, "defaults.packages[0]: debian bookworm has no package set '@zzz'"),
        ('packages = ["@"]', 5, "not a package set '@'"),
        ('packages = ["@a b"]', 5, "not a package set '@a b'"),
    ],
)  # fmt: skip
def test_a_set_that_there_is_not_is_told_at_its_line(tmp_path: Path, more: str, line: int, says: str) -> None:
    [said] = told(tmp_path, BASE + more + "\n")
    assert said.startswith(f"{line}: ")
    assert says in said


def test_a_name_of_another_time_is_replaced_and_the_plan_says_so(tmp_path: Path) -> None:
    made = plan(tmp_path, BASE + 'packages = ["libgit2-24", "libmbedcrypto0", "git"]\n')
    assert packages(made) == ["git", "libgit2-dev", "libmbedtls-dev"]
    contents = made.layers[-1].contents
    assert contents is not None
    assert contents.notes[0].startswith("libgit2-24 is not in debian bookworm: libgit2-dev instead (it is the library")


def test_a_name_stays_where_it_is_one(tmp_path: Path) -> None:
    assert packages(plan(tmp_path, machine("ubuntu", "xenial", 'packages = ["libgit2-24"]'))) == ["libgit2-24"]


def test_a_repository_of_one_s_own_may_have_it(tmp_path: Path) -> None:
    text = BASE + 'packages = ["libgit2-24"]\nrepositories = [{ name = "r", url = "https://r.example/" }]\n'
    assert packages(plan(tmp_path, text)) == ["libgit2-24"]


# -- trees whose distribution only they know


def test_a_tree_that_is_not_there_yet_says_so(tmp_path: Path) -> None:
    known = Known(present=(), last={}, names={}, found=lambda _: Found(word="archive", layers=("1" * 64,)))
    made = plan(tmp_path, '[machines.a]\nfrom = "tar:x.tar"\npackages = ["@lws"]\n', known)
    contents = made.layers[-1].contents
    assert contents is not None
    assert contents.open == "what is below it is not known"


def test_a_tree_s_sets_are_those_of_its_distribution(tmp_path: Path) -> None:
    debian = facts.of_distribution("debian")
    assert debian is not None
    known = Known(
        present=(), last={}, names={}, found=lambda _: Found(word="archive", layers=("1" * 64,)),
        family_of=lambda _: "apt", sets_of=lambda _: (sets_of("debian", debian, "jessie", "amd64"), ""),
    )  # fmt: skip
    made = plan(tmp_path, '[machines.a]\nfrom = "tar:x.tar"\npackages = ["@lws", "libgit2-27"]\n', known)
    assert "libuv1-dev" not in packages(made)
    assert {"libgit2-dev", "libssl-dev"} <= set(packages(made))
    bad = plan(tmp_path, '[machines.a]\nfrom = "tar:x.tar"\npackages = ["@lsw"]\n', known)
    contents = bad.layers[-1].contents
    assert contents is not None
    assert contents.open == "debian jessie has no package set '@lsw', did you mean '@lws'?"
    assert plan(tmp_path, BASE, NOTHING).layers[-1].contents is None


@pytest.mark.parametrize(
    ("identity", "system"),
    [
        ("ID=debian\nVERSION_CODENAME=jessie\n", "debian jessie"),
        ('ID=ubuntu\nVERSION_ID="16.04"\nVERSION_CODENAME=xenial\n', "ubuntu xenial"),
        ('NAME="CentOS Stream"\nID="centos"\nVERSION_ID="9"\n', "centos 9-stream"),
        ('NAME="CentOS Linux"\nID="centos"\nVERSION_ID="8"\n', "centos 8"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n', "rockylinux 9"),
        ('ID="opensuse-leap"\nVERSION_ID="15.6"\n', "opensuse 15.6"),
        ('ID="opensuse-tumbleweed"\nVERSION_ID="20260101"\n', "opensuse tumbleweed"),
        ("ID=fedora\nVERSION_ID=99\n", "fedora"),  # newer than the recipe: its own sets
        ("ID=gentoo\n", "gentoo rolling"),
        ('ID=mint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=xenial\n', "ubuntu"),  # like it, and not its release
    ],
)
def test_a_tree_says_what_it_is(tmp_path: Path, identity: str, system: str) -> None:
    found, why = sets_in(stored(tmp_path, identity, {"archive": "x"}), "1" * 64, facts.of_distribution, "amd64")
    assert (found.system, why) == (system, "")


def test_what_a_base_was_made_from_comes_first(tmp_path: Path) -> None:
    made = {"distribution": "debian", "release": "jessie", "architecture": "i386"}
    found, _ = sets_in(stored(tmp_path, "ID=fedora\n", made), "1" * 64, facts.of_distribution, "amd64")
    assert (found.system, found.architecture) == ("debian jessie", "i386")


@pytest.mark.parametrize(
    ("identity", "made", "says"),
    [
        ('ID=haiku\nPRETTY_NAME="Haiku R1"\n', {}, "its os-release says 'Haiku R1', which no recipe is for"),
        ("", {}, "its os-release says 'nothing'"),
        ("ID=debian\n", {"distribution": "mine", "release": "1"}, "mine is a distribution of another definition's"),
    ],
)
def test_why_nobody_knows(tmp_path: Path, identity: str, made: dict[str, str], says: str) -> None:
    found, why = sets_in(stored(tmp_path, identity, made), "1" * 64, facts.of_distribution, "amd64")
    assert found == Sets()
    assert says in why
    assert sets_in(Store(str(tmp_path / "none")), "2" * 64, facts.of_distribution, "amd64")[1].startswith("its distr")


def test_a_layer_of_an_own_distribution_has_its_sets(tmp_path: Path) -> None:
    """They are those of the recipe beside the definition, as for a machine that names the distribution."""
    made = {"distribution": "mine", "release": "bookworm", "architecture": "amd64"}
    store = stored(tmp_path, "ID=haiku\n", made)
    store.prepare()
    store.set_name("tuned", "1" * 64)
    (tmp_path / "recipes").mkdir()
    own = tmp_path / "recipes/mine.toml"
    own.write_text('extends = "debian"\n[sets]\nours = ["git", "vim"]\n')
    (tmp_path / "roost.toml").write_text('[machines.a]\nfrom = "layer:tuned"\npackages = ["@ours"]\n')

    def contents() -> Contents:
        manager = roost.Manager(roost.load(tmp_path / "roost.toml"), state=store.state)
        made = manager.plan().layers[-1].contents
        assert made is not None
        return made

    assert contents().packages == ("git", "vim")
    bases = [machine.base for machine in roost.load(tmp_path / "roost.toml").machines.values()]
    assert str(own) in facts.named(store, bases, str(tmp_path / "roost.toml"))
    own.write_text('extends = "debain"\n')
    assert contents().open.startswith(f"{own}: 2 mistakes")
    own.unlink()
    assert contents().open == "mine is a distribution of another definition's"


def stored(path: Path, identity: str, made: dict[str, str]) -> Store:
    """A store with one layer, without anything in its tree but os-release."""
    store = Store(str(path / "s"))
    directory = path / "s/layers" / ("1" * 64)
    (directory / "tree/etc").mkdir(parents=True)
    (directory / "tree/etc/os-release").write_text(identity)
    record = LayerRecord(digest="1" * 64, parents=(), kind="base", name="b", family="apt", facts=made, created=0.0)
    (directory / "layer.json").write_bytes(to_json(record))
    return store


def test_the_families_of_roost_need_no_look_at_what_is_installed() -> None:
    families.added.cache_clear()
    assert families.is_family("dnf")
    assert families.added.cache_info().misses == 0
