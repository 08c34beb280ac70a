"""Recipes beside a definition: a derivative in a few lines, every mistake with its line, and what makes a new layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from test_plan import NOTHING

import roost
from roost import commands, facts
from roost.distro import family, recipe
from roost.distro.own import read, recipe_of
from roost.distro.recipe import RECIPES
from roost.errors import DefinitionError, HostError
from roost.host.apt import Entry, HostApt
from roost.plan import Plan, make, why

if TYPE_CHECKING:
    from pathlib import Path

    from roost.definition.model import Base

MACHINE = '[machines.a]\ndistribution = "mine"\nrelease = "bookworm"\narchitecture = "amd64"\n'
DERIVED = 'extends = "debian"\n'
WHOLE = """
family = "dnf"
architectures = ["amd64"]
architecture-names = { amd64 = "x86_64" }
mirrors = { main = "https://mirror.example/mine" }
keyring = "/usr/share/keys/mine.asc"
keyring-package = "mine-keys"
bootstraps = ["dnf"]
variant = "minimal"
variants = ["minimal"]
packages = { minimal = ["bash", "dnf"] }
[sets]
tools = ["git", "glibc.i686 [amd64]"]
[releases.1]
suites = [{ name = "base", path = "{release}/{architecture}/" }]
"""


def load(path: Path, own: str, text: str = MACHINE, name: str = "mine") -> roost.definition.Loaded:
    (path / "recipes").mkdir(exist_ok=True)
    (path / f"recipes/{name}.toml").write_text(own)
    (path / "roost.toml").write_text(text)
    return roost.load(path / "roost.toml")


def plan(path: Path, own: str, text: str = MACHINE) -> Plan:
    return make(list(load(path, own, text).machines.values()), NOTHING, facts.versions)


def told(path: Path, own: str, text: str = MACHINE) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        load(path, own, text)
    assert caught.value.brief.startswith(f"{path}/recipes/mine.toml: ")
    return [line.partition("mine.toml:")[2] for line in caught.value.details.splitlines()]


def base_of(made: Plan) -> Base:
    base = made.layers[0].base
    assert base is not None
    return base


def test_a_derivative_is_a_few_lines(tmp_path: Path) -> None:
    """A mirror of its own, with the keys that sign it, and releases that Debian has not."""
    own = """
extends = "debian"
inherit-releases = false
mirrors = { main = "http://mirror.example/merged", security = "http://mirror.example/merged" }
keyring = "mine.asc"
[releases.daedalus]
version = "5"
suites = [{ name = "daedalus" }, { name = "daedalus-security", mirror = "security" }]
"""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.asc").write_text(
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQAA\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    made = plan(tmp_path, own, MACHINE.replace("bookworm", "daedalus") + 'packages = ["@build-essential"]\n')
    assert [layer.name for layer in made.layers] == ["base mine daedalus amd64", "machine a"]
    base = base_of(made)
    assert base.keyring == str(tmp_path / "recipes/mine.asc")
    found = recipe_of(base)
    assert found is not None
    assert list(found.releases) == ["daedalus"]
    argv = commands.of_base(base, found, family("apt"), family("apt").read_host(root="/nowhere"))[0].argv
    lines = [word for word in argv if word.startswith("deb ")]
    assert lines == [
        "deb [signed-by=/STAGE/tree/etc/apt/keyrings/roost.gpg] http://mirror.example/merged daedalus main",
        "deb [signed-by=/STAGE/tree/etc/apt/keyrings/roost.gpg] http://mirror.example/merged daedalus-security main",
    ]
    assert made.layers[1].facts["packages"] == ["build-essential", "patch", "pkg-config"]


def test_a_new_release_of_a_shipped_distribution(tmp_path: Path) -> None:
    made = plan(
        tmp_path, DERIVED + '[releases.duke]\nsuites = [{ name = "duke" }]\n', MACHINE.replace("bookworm", "duke")
    )
    assert base_of(made).release == "duke"
    assert set(recipe("debian").releases) < set(recipe_of(base_of(made)).releases)  # type: ignore[union-attr]


def test_without_a_mirror_of_its_own_the_host_s_serves_it(tmp_path: Path) -> None:
    found, _ = read(str(_file(tmp_path, DERIVED)), "mine.toml")
    assert found.mirrors_of == "debian"
    entry = Entry(
        file="/etc/apt/sources.list",
        types=("deb",),
        uris=("https://own.example/debian",),
        suites=("bookworm",),
        components=("main",),
    )
    host = HostApt(root="/nowhere", distribution="debian", architecture="amd64", entries=(entry,), only_shown=True)
    argv = commands.of_base(base_of(plan(tmp_path, DERIVED)), found, family("apt"), host)[0].argv
    assert any(" https://own.example/debian bookworm main" in word for word in argv)
    found, _ = read(str(_file(tmp_path, DERIVED + 'mirrors = { main = "http://m.example/d" }\n')), "mine.toml")
    assert found.mirrors_of == ""
    assert found.mirrors["security"] == recipe("debian").mirrors["security"], "merged key by key"


def test_one_that_extends_nothing(tmp_path: Path) -> None:
    text = MACHINE.replace("bookworm", "1") + 'packages = ["@tools"]\n'
    made = plan(tmp_path, WHOLE, text)
    assert made.layers[1].facts["packages"] == ["git", "glibc.i686"]
    assert base_of(made).bootstrap == "dnf"
    assert commands.mirrors(base_of(made), recipe_of(base_of(made))) == (  # type: ignore[arg-type]
        "base: https://mirror.example/mine/1/x86_64/",
    )


def test_what_counts_for_a_base(tmp_path: Path) -> None:
    """Its mirrors and the like; not its sets, its notes, another release, or where it is."""
    first = plan(tmp_path, DERIVED)
    assert first.layers[0].digest == plan(tmp_path, DERIVED + '[sets]\nx = ["y"]\n').layers[0].digest
    assert (
        first.layers[0].digest
        == plan(tmp_path, DERIVED + '[releases.duke]\nsuites = [{ name = "duke" }]\n').layers[0].digest
    )
    (tmp_path / "other").mkdir()
    assert first.layers[0].digest == plan(tmp_path / "other", DERIVED).layers[0].digest
    for change in ('mirrors = { main = "http://m.example/" }', 'components = ["main", "contrib"]', "version = 2"):
        assert plan(tmp_path, f"{DERIVED}{change}\n").layers[0].digest != first.layers[0].digest, change
    shipped = plan(tmp_path, DERIVED, MACHINE.replace("mine", "debian"))
    assert shipped.layers[0].digest != first.layers[0].digest


def test_the_plan_says_that_the_recipe_changed(tmp_path: Path) -> None:
    before, after = plan(tmp_path, DERIVED).layers[0], plan(tmp_path, DERIVED + "version = 2\n").layers[0]
    old, new = before.facts["recipe_digest"], after.facts["recipe_digest"]
    said = why(after.digest, after.facts, (before.digest, before.facts))
    assert said == f"recipe-digest changed: {old[:12]} to {new[:12]}"


def test_a_set_of_its_own_changes_the_layers_that_have_it(tmp_path: Path) -> None:
    text = MACHINE + 'packages = ["@tools"]\n'
    one = plan(tmp_path, DERIVED + '[sets]\ntools = ["git"]\n', text)
    two = plan(tmp_path, DERIVED + '[sets]\ntools = ["git", "vim"]\n', text)
    assert one.layers[0].digest == two.layers[0].digest
    assert one.layers[1].digest != two.layers[1].digest


def test_what_the_command_remembers_of_a_machine_ends_with_its_recipe(tmp_path: Path) -> None:
    assert str(tmp_path / "recipes/mine.toml") in load(tmp_path, DERIVED).inputs


def test_a_recipe_that_changed_meanwhile_is_not_used(tmp_path: Path) -> None:
    base = base_of(plan(tmp_path, DERIVED))
    _file(tmp_path, DERIVED + 'components = ["main", "contrib"]\n')
    with pytest.raises(DefinitionError) as caught:
        recipe_of(base)
    assert "changed since the definition was read" in caught.value.brief


def test_the_name_of_a_shipped_one_is_taken(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(tmp_path, DERIVED, MACHINE.replace("mine", "debian"), "debian")
    assert "'debian' is the name of a recipe of Roost's" in caught.value.brief
    assert 'extends = "debian"' in caught.value.hint


def test_it_is_among_the_names_to_suggest(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(tmp_path, DERIVED, MACHINE.replace('"mine"', '"mina"'))
    assert "unknown distribution 'mina', did you mean 'mine'?" in caught.value.details


WRONG = {
    "unknown key": ('extnds = "debian"', "extnds: unknown key, did you mean 'extends'?"),
    "type": (DERIVED + "version = '1'", "2: version: expected an integer, got a string"),
    "unknown parent": ('extends = "debain"', "1: extends: Roost ships no recipe 'debain', did you mean 'debian'?"),
    "another name": (DERIVED + 'name = "other"', "2: name: the file is called mine.toml"),
    "family": (DERIVED + 'family = "atp"', "2: family: unknown family of distributions, did you mean 'apt'?"),
    "bootstrap": (DERIVED + 'bootstraps = ["dnf"]', "2: bootstraps[0]: this family has no 'dnf': mmdebstrap, debootstrap"),
    "variant": (DERIVED + 'variant = "tiny"', "2: variant: no variant 'tiny': it has minbase"),
    "mirror": (DERIVED + 'mirrors = { main = "http://u:p@m.example/" }', "2: mirrors.main: no user or password here"),
    "keyring": (DERIVED + 'keyring = "none.gpg"', "2: keyring: none.gpg: No such file or directory"),
    "architecture": (
        DERIVED + '[releases.x]\nsuites = [{ name = "x" }]\narchitectures = ["amd46"]',
        "4: releases.x.architectures[0]: 'amd46' is not among the recipe's: amd64",
    ),
    "suites": (DERIVED + "[releases.x]", "2: releases.x.suites: there is none"),
    "first suite": (DERIVED + '[releases.x]\nsuites = [{ name = "y" }]', "3: releases.x.suites[0].name: the first suite bears"),
    "suite's mirror": (
        DERIVED + '[releases.x]\nsuites = [{ name = "x", mirror = "m" }]',
        "3: releases.x.suites[0].mirror: no mirror 'm': there are main, security",
    ),
    "path": (WHOLE.replace("{release}/", "{relase}/"), "suites[0].path: not a path '{relase}/{architecture}/'"),
    "packages": (WHOLE.replace('packages = { minimal = ["bash", "dnf"] }', ""), "no packages are said for the variant"),
    "set": (DERIVED + '[sets]\nx = ["a b"]', "3: sets.x[0]: not a package 'a b'"),
    "set's name": (DERIVED + '[sets]\nX = ["a"]', "3: sets.X: a set's name has a-z"),
    "no release": (DERIVED + "inherit-releases = false", "releases: there is no release"),
    "a second line": (DERIVED + '[releases.x]\nsuites = [{ name = "x" }]\nnotes = ["a\\nb"]', "notes[0]: has the character U+000A"),
    "a path that climbs": (WHOLE.replace("{release}/", "../"), "suites[0].path: not a path '../{architecture}/'"),
    "a format": (WHOLE.replace("{release}/", "{release:>9999}/"), "suites[0].path: not a path"),
    "option as a package": (WHOLE.replace('"bash"', '"--nogpgcheck"'), "packages.minimal[0]: not a package's name '--nogpgcheck'"),
    "a private key": (DERIVED + 'keyring = "mine.toml"', "2: keyring: holds no OpenPGP keys"),
    "components": (DERIVED + 'components = ["main contrib"]', "2: components[0]: not a component 'main contrib'"),
    "option with a value": (WHOLE.replace('"bash"', '"--installroot=/"'), "11: packages.minimal[0]: not a package's name '--inst"),
    "an address": (WHOLE.replace('"bash"', '"https://a.example/b.rpm"'), "packages.minimal[0]: not a package's name 'https"),
    "a file": (WHOLE.replace('"bash"', '"/tmp/b.rpm"'), "packages.minimal[0]: not a package's name '/tmp/b.rpm'"),
    "option in a set": (DERIVED + '[sets]\nx = ["--setopt=x"]', "3: sets.x[0]: not a package '--setopt=x'"),
    "set in a set": (DERIVED + '[sets]\nx = ["@y"]', "3: sets.x[0]: not a package '@y'"),
    "architecture in a set": (DERIVED + '[sets]\nx = ["a [amd46]"]', "3: sets.x[0]: there is no architecture 'amd46'"),
    "no architecture in a set": (DERIVED + '[sets]\nx = ["a []"]', "3: sets.x[0]: not a package 'a []'"),
    "option as a new name": (
        DERIVED + '[obsolete]\nold = { use = "--foo", why = "x" }', "3: obsolete.old.use: not a package's name '--foo'",
    ),
    "unknown architecture": (
        DERIVED + 'architectures = ["amd46"]', "2: architectures[0]: there is no architecture 'amd46': one of amd64",
    ),
    "unknown architecture's name": (
        WHOLE.replace("{ amd64 =", "{ amd46 ="), "4: architecture-names.amd46: there is no architecture 'amd46'",
    ),
    "an architecture's name of two lines": (
        WHOLE.replace('"x86_64"', '"x86_64\\nx=1"'), "4: architecture-names.amd64: has the character U+000A",
    ),
    "an architecture's name that climbs": (
        WHOLE.replace('"x86_64"', '"a/../../b"'), "4: architecture-names.amd64: not what an architecture is called: 'a/../../b'",
    ),
    "options of a suite": (
        DERIVED + '[releases.x]\nsuites = [{ name = "x" }, { name = "a b [trusted=yes]" }]',
        "3: releases.x.suites[1].name: not a suite 'a b [trusted=yes]'",
    ),
    "a section": (WHOLE.replace('"base"', '"duke]\\nfoo=1"'), "15: releases.1.suites[0].name: has the character U+000A"),
    "path of two lines": (WHOLE.replace("{release}/", "a\\nb/"), "15: releases.1.suites[0].path: has the character U+000A"),
    "key of two lines": (
        WHOLE + 'options = { "a\\nb" = "1" }', '16: releases.1.options."a\\u000ab": has the character U+000A',
    ),
    "option of two words": (WHOLE + 'options = { "a b" = "1" }', "not an option 'a b' = '1': two words"),
    "option with a section": (WHOLE + 'options = { a = "[main]" }', "16: releases.1.options.a: not an option 'a' = '[main]'"),
    "relative hooks": (
        DERIVED + '[releases.x]\nsuites = [{ name = "x" }]\nmmdebstrap-hooks = ["hooks"]',
        "4: releases.x.mmdebstrap-hooks[0]: not the path of a directory 'hooks'",
    ),
    "script": (DERIVED + 'debootstrap-script = "-x"', "2: debootstrap-script: not the name of one of debootstrap's scripts '-x'"),
    "release's script": (
        DERIVED + '[releases.x]\nsuites = [{ name = "x" }]\ndebootstrap-script = "-x"',
        "4: releases.x.debootstrap-script: not the name of one",
    ),
    "version": (WHOLE + 'version = "5\u00b2"', "16: releases.1.version: not a version '5\u00b2'"),
    "long version": (WHOLE + f'version = "{"5" * 5000}"', "16: releases.1.version: not a version '555"),
    "keyring's word": (WHOLE.replace("mine.asc", "{foo}"), "6: keyring: not the path of a keyring '/usr/share/keys/{foo}'"),
    "keyring with a NUL": (DERIVED + 'keyring = "a\\u0000b"', "2: keyring: has the character U+0000"),
    "keyring's architecture": (DERIVED + 'keyring = "{architecture}.gpg"', "2: keyring: a file beside the recipe is one for all"),
    "two keyrings of apt": (DERIVED + 'keyring = "/a /b"', "2: keyring: not the path of a keyring '/a /b'"),
    "minirootfs": (
        'extends = "alpine"\n[releases.x]\nsuites = [{ name = "main", path = "x/main" }]', "x.suites: there is no suite 'releases'",
    ),
    "packages of apk": (
        'extends = "alpine"\nvariants = ["minimal", "full"]', "no packages are said for the variant 'full'",
    ),
    "binary packages": (
        'extends = "gentoo"\narchitectures = ["amd64", "riscv64"]', "suites: there is no suite 'binpackages-riscv64'",
    ),
    "stage3": (
        'extends = "gentoo"\n[releases.x]\nsuites = [{ name = "a", path = "b" }]', "releases.x.suites: there is no suite 'stage3'",
    ),
    "packages of pacman": (
        WHOLE.replace('packages = { minimal = ["bash", "dnf"] }', "").replace('["dnf"]', '["pacman"]').replace('"dnf"', '"pacman"'),
        "no packages are said for the variant 'minimal'",
    ),
    "a key of another's": (DERIVED + 'mirrors-of = "debian"', "2: mirrors-of: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_has_a_line(tmp_path: Path, case: str) -> None:
    own, says = WRONG[case]
    assert [line for line in told(tmp_path, own + "\n") if says in line], told(tmp_path, own + "\n")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    assert len(told(tmp_path, DERIVED + 'family = "x"\nvariant = "y"\nkeyring = "z"\n')) == 3
    missing = told(tmp_path, 'family = "dnf"\n')
    assert {line.split(": ")[1] for line in missing} >= {
        "mirrors",
        "keyring",
        "releases",
        "architectures",
        "bootstraps",
    }
    assert all("missing" in line for line in missing)
    assert told(tmp_path, "x = \n")[0].startswith("1: Invalid value")


def test_a_version_that_python_cannot_read_has_an_order(tmp_path: Path) -> None:
    """Of a recipe as it might be called from a program; a definition is told its line."""
    found, own = read(str(_file(tmp_path, DERIVED)), "mine.toml")
    for version in ("5\u00b2", "5" * 5000):
        changed = {**found.releases, "bookworm": structs.replace(found.releases["bookworm"], version=version)}
        assert "bookworm" in facts._facts(structs.replace(found, releases=changed), own).releases


KEYS = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQAA\n-----END PGP PUBLIC KEY BLOCK-----\n"


def test_a_keyring_beside_the_recipe_for_each_release(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/keys-bookworm.asc").write_text(KEYS)
    (tmp_path / "recipes/keys-trixie.asc").write_text(KEYS)
    own = 'extends = "debian"\ninherit-releases = false\nkeyring = "keys-{release}.asc"\n' + "".join(
        f'[releases.{one}]\nsuites = [{{ name = "{one}" }}]\n' for one in ("bookworm", "trixie")
    )
    assert base_of(plan(tmp_path, own)).keyring == str(tmp_path / "recipes/keys-bookworm.asc")


@pytest.mark.parametrize("bootstrap", ["mmdebstrap", "debootstrap"])
def test_a_release_has_one_mirror_of_its_own(tmp_path: Path, bootstrap: str) -> None:
    own = DERIVED + '[releases.new]\nsuites = [{ name = "new" }]\nmirrors = { security = "http://s.example/" }\n'
    made = plan(tmp_path, own, f'{NEW}bootstrap = "{bootstrap}"\n')
    (shown,) = commands.of_plan(made, lambda one: one.read_host(root=str(tmp_path / "host")))
    assert any("mine new is archived, and at http://deb.debian.org/debian" in word for word in shown.commands[0].argv)


SUITES = {
    "alpine": '[{ name = "main", path = "m" }, { name = "releases", path = "r" }]',
    "gentoo": "["
    + ", ".join(f'{{ name = "{one}", path = "p" }}' for one in ("stage3", "snapshot", "binpackages-amd64"))
    + "]",
    "arch": '[{ name = "core", path = "c" }]',
    "fedora": '[{ name = "core", path = "c" }]',
    "debian": '[{ name = "new" }]',
}
NEW = MACHINE.replace("bookworm", "new")


def with_keyring(parent: str) -> str:
    """A recipe with a release whose keyring is the host's, by the release's name."""
    own = f'suites = {SUITES[parent]}\narchitectures = ["amd64"]\nkeyring = "/keys/mine-{{release}}.asc"\n'
    return f'extends = "{parent}"\n[releases.new]\n{own}'


@pytest.mark.parametrize("parent", SUITES)
def test_a_release_has_a_keyring_of_its_own(tmp_path: Path, parent: str) -> None:
    """On the host, with the release's name in it; each family takes that, and not the recipe's."""
    base = base_of(plan(tmp_path, with_keyring(parent), NEW))
    found = recipe_of(base)
    assert found is not None
    host = structs.replace(family(found.family).read_host(root=str(tmp_path / "host")), only_shown=False)
    with pytest.raises(HostError, match=r"the keyring .*/keys/mine-new\.asc is not on this host"):
        commands.of_base(base, found, family(found.family), host)
    (tmp_path / "host/keys").mkdir(parents=True)
    (tmp_path / "host/keys/mine-new.asc").write_text(KEYS)
    assert commands.of_base(base, found, family(found.family), host)


@pytest.mark.parametrize("parent", SUITES)
def test_a_plan_is_shown_on_a_host_without_the_keyring(tmp_path: Path, parent: str) -> None:
    (shown,) = commands.of_plan(
        plan(tmp_path, with_keyring(parent), NEW), lambda one: one.read_host(root=str(tmp_path / "host"))
    )
    assert shown.commands
    assert any("mine-new.asc is not on this host" in note for note in shown.notes)


@pytest.mark.parametrize("parent", RECIPES)
def test_what_roost_ships_can_be_extended(tmp_path: Path, parent: str) -> None:
    """With a word about each of its releases: their values are those of an own recipe then, and all of them are good."""
    own = "".join(f'[releases."{name}"]\nnotes = ["tried"]\n' for name in recipe(parent).releases)
    found, _ = read(str(_file(tmp_path, f'extends = "{parent}"\n{own}')), "mine.toml")
    assert {release.notes[0] for release in found.releases.values()} == {"tried"}


def _file(path: Path, text: str) -> Path:
    (path / "recipes").mkdir(exist_ok=True)
    file = path / "recipes/mine.toml"
    file.write_text(text)
    return file
