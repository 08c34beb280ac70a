"""Plans: what would be made, why, and what a layer's identity depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import roost
from roost import facts
from roost.errors import DefinitionError
from roost.plan import Known, Plan, make, why

if TYPE_CHECKING:
    from pathlib import Path

BASE = '[machines.a]\ndistribution = "debian"\nrelease = "bookworm"\narchitecture = "amd64"\n'
NOTHING = Known(present=(), last={}, names={})


def plan(path: Path, text: str, known: Known = NOTHING) -> Plan:
    """The plan of a definition."""
    file = path / "roost.toml"
    file.write_text(text)
    return make(list(roost.load(file).machines.values()), known, facts.versions)


def digests(path: Path, text: str) -> tuple[str, ...]:
    """Those of machine a."""
    return plan(path, text).machines[0].layers


def test_a_machine_is_its_base_its_profiles_and_itself(tmp_path: Path) -> None:
    text = (
        BASE
        + 'profiles = ["p", "q"]\npackages = ["x"]\n[profiles.p]\npackages = ["y"]\n[profiles.q]\nscripts = ["true"]\n'
    )
    made = plan(tmp_path, text)
    assert [layer.name for layer in made.layers] == [
        "base debian bookworm amd64",
        "profile p",
        "profile q",
        "machine a",
    ]
    assert [layer.parent for layer in made.layers] == ["", *(layer.digest for layer in made.layers[:-1])]
    assert {layer.verb for layer in made.layers} == {"build"}
    assert made.machines[0].layers == tuple(layer.digest for layer in made.layers)


def test_machines_share_what_is_the_same(tmp_path: Path) -> None:
    two = (
        BASE
        + 'profiles = ["p"]\n'
        + BASE.replace("machines.a", "machines.b")
        + 'profiles = ["p"]\npackages = ["x"]\n[profiles.p]\npackages = ["y"]\n'
    )
    made = plan(tmp_path, two)
    assert [layer.machines for layer in made.layers] == [("a", "b"), ("a", "b"), ("b",)]
    assert made.machines[1].layers[:2] == made.machines[0].layers


def test_a_machine_that_adds_nothing_is_its_base(tmp_path: Path) -> None:
    assert len(digests(tmp_path, BASE)) == 1
    assert len(digests(tmp_path, BASE + '[machines.a.environment]\nA = "b"\n')) == 1


@pytest.mark.parametrize(
    "more",
    [
        'environment = { A = "b" }', 'binds = ["/etc"]', 'limits = { memory = "1G" }', 'network = { mode = "none" }',
        "private-users = false", 'description = "words"', 'network = { publish = ["80:80"], isolated = true }',
        'firstboot = ["true"]', 'capabilities = ["CAP_BPF"]', "no-new-privileges = true",
    ],
)  # fmt: skip
def test_what_is_of_a_session_is_no_part_of_a_layer(tmp_path: Path, more: str) -> None:
    assert digests(tmp_path, f"{BASE}{more}\n") == digests(tmp_path, BASE)


def test_how_a_machine_boots_is_no_part_of_its_layers(tmp_path: Path) -> None:
    boots = digests(tmp_path, BASE + "boot = {}\n")
    assert len(boots) == 2
    assert digests(tmp_path, BASE + 'boot = { enable = true, hostname = "b", ready = "true" }\n') == boots


@pytest.mark.parametrize(
    "change",
    [
        ('release = "bookworm"', 'release = "trixie"'), ('architecture = "amd64"', 'architecture = "arm64"'),
        ("\n[profiles", '\nvariant = "buildd"\n[profiles'), ("\n[profiles", '\nbootstrap = "debootstrap"\n[profiles'),
        ("\n[profiles", '\nmirror = "http://mirror.example/debian"\n[profiles'), ("\n[profiles", "\nsource-packages = true\n[profiles"),
    ],
)  # fmt: skip
def test_a_change_below_changes_everything_above(tmp_path: Path, change: tuple[str, str]) -> None:
    text = BASE + 'profiles = ["p"]\n[profiles.p]\npackages = ["y"]\n'
    before, after = digests(tmp_path, text), digests(tmp_path, text.replace(*change))
    assert not set(before) & set(after)


@pytest.mark.parametrize(
    "steps",
    [
        'packages = ["y", "z"]', 'packages = ["y"]\nuser = { name = "sai" }', 'packages = ["y"]\nscripts = ["true"]',
        'packages = ["y"]\nfiles = { "/f" = { content = "x" } }', 'packages = ["y"]\nfiles = { "/f" = { content = "y" } }',
        'packages = ["y"]\nfiles = { "/f" = { content = "x", mode = "0600" } }',
        'packages = ["y"]\nfiles = { "/f" = { content = "x", owner = "sai" } }',
    ],
)  # fmt: skip
def test_every_step_counts(tmp_path: Path, steps: str) -> None:
    start = BASE + 'profiles = ["p"]\n[profiles.p]\n'
    plain = 'packages = ["y"]\nfiles = { "/f" = { content = "x" } }'
    found = digests(tmp_path, f"{start}{steps}\n")
    assert found != digests(tmp_path, f'{start}packages = ["y"]\n')
    assert steps == plain or found != digests(tmp_path, f"{start}{plain}\n")


def test_the_content_of_a_file_counts_not_its_place(tmp_path: Path) -> None:
    text = BASE + 'profiles = ["p"]\n[profiles.p]\nfiles = { "/f" = { source = "given" } }\n'
    (tmp_path / "given").write_text("one")
    first = digests(tmp_path, text)
    (tmp_path / "given").write_text("two")
    assert digests(tmp_path, text) != first
    (tmp_path / "other").write_text("one")
    assert digests(tmp_path, text.replace("given", "other")) == first


def test_what_is_there_already_keeps_its_digest(tmp_path: Path) -> None:
    """As Roost named it before layers could have repositories, services and the like: nothing is made again."""
    text = BASE + 'profiles = ["p"]\nscripts = ["true"]\n[profiles.p]\npackages = ["git", "gcc"]\n'
    text += 'user = { name = "sai", uid = 883, sudo = "nopasswd" }\nfiles = { "/etc/f" = { content = "x", mode = "0600" } }\n'
    (tmp_path / "roost.toml").write_text(text)
    machines = list(roost.load(tmp_path / "roost.toml").machines.values())
    assert make(machines, NOTHING, lambda *_: [1]).machines[0].layers == (
        "716800b84e39d73fad63431bb557713c2e96832cada22e1beefe7aff708b9cce",
        "d512fe626985284f1334c5f5888c890f1e1b6626680ef91aadf0ec0b0f987fd6",
        "ae4424909b5d0b2c9a4df957a7c43b819a7eb6891ea1271bc7c4a2088977d8f8",
    )


def test_a_hash_is_in_no_plan(tmp_path: Path) -> None:
    made = plan(tmp_path, BASE + 'root-password = "$y$salt$hash"\n')
    assert "salt" not in str(made.layers[-1].facts)
    other = plan(tmp_path, BASE + 'root-password = "$y$salt$other"\n', remembered(made)).layers[-1]
    assert other.reason == "root-password changed"


def test_the_order_of_packages_does_not_count(tmp_path: Path) -> None:
    start = BASE + 'profiles = ["p"]\n[profiles.p]\n'
    assert digests(tmp_path, start + 'packages = ["y", "z"]\n') == digests(tmp_path, start + 'packages = ["z", "y"]\n')


def remembered(made: Plan) -> Known:
    """What a store knows after a plan was carried out."""
    last: dict[str, Any] = {}
    for item in made.machines:
        own = [layer for layer in made.layers if layer.digest in item.layers]
        last[item.machine.name] = [
            ("base" if layer.kind == "base" else layer.name, layer.digest, layer.facts) for layer in own
        ]
    return Known(present={layer.digest for layer in made.layers}, last=last, names={})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"git"', '"git", "libuv1-dev"'), "packages added: libuv1-dev"),
        (('"git"', '"hg"'), "packages added: hg; packages removed: git"),
        (('content = "x"', 'content = "y"'), "files changed: /f"),
        (('"true"', '"false"'), "scripts changed: "),
        (("uid = 5", "uid = 6"), "users changed: sai"),
        (('services = ["a"]', 'services = ["a", "b"]'), "services added: b"),
        (('url = "https://q.example"', 'url = "https://r.example"'), "repositories changed: q"),
        (('name = "q"', 'name = "r"'), "repositories added: r; repositories removed: q"),
    ],
)
def test_it_says_why(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = BASE + 'profiles = ["p"]\n[profiles.p]\npackages = ["git"]\nfiles = { "/f" = { content = "x" } }\n'
    text += 'scripts = ["true"]\nuser = { name = "sai", uid = 5 }\nservices = ["a"]\n'
    text += 'repositories = [{ name = "q", url = "https://q.example" }]\n'
    before = plan(tmp_path, text)
    known = remembered(before)
    assert {layer.reason for layer in plan(tmp_path, text, known).layers} == {"present"}
    after = plan(tmp_path, text.replace(*change), known)
    assert [layer.verb for layer in after.layers] == ["reuse", "build"]
    assert words in after.layers[1].reason


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('locale = "de_DE.UTF-8"', "locale changed: default to de_DE.UTF-8"),
        ('timezone = "Europe/Berlin"', "timezone changed: default to Europe/Berlin"),
        ('root-password = ""', "root-password added"),
        ("boot = {}", "init added"),
    ],
)
def test_it_says_why_of_a_machines_own(tmp_path: Path, more: str, words: str) -> None:
    text = BASE + 'packages = ["git"]\n'
    after = plan(tmp_path, f"{text}{more}\n", remembered(plan(tmp_path, text)))
    assert [layer.reason for layer in after.layers] == ["present", words]
    before = plan(tmp_path, text, remembered(after))
    assert before.layers[1].reason.split()[0] == words.split(maxsplit=1)[0]


def test_a_layer_that_was_removed_is_made_again(tmp_path: Path) -> None:
    before = plan(tmp_path, BASE)
    known = msgspec.structs.replace(remembered(before), present=())
    assert [layer.reason for layer in plan(tmp_path, BASE, known).layers] == ["it was removed from the store"]


def test_what_is_below_explains_what_is_above(tmp_path: Path) -> None:
    text = BASE + 'profiles = ["p"]\n[profiles.p]\npackages = ["git"]\n'
    known = remembered(plan(tmp_path, text))
    after = plan(tmp_path, text.replace("bookworm", "trixie"), known)
    assert "bookworm" in after.layers[0].reason
    assert after.layers[1].reason == "a layer below it changed"


def test_a_first_time_has_no_reason_but_that() -> None:
    assert why("a" * 64, {"packages": ["x"]}, None) == "not made yet"


def test_a_machine_on_a_committed_layer(tmp_path: Path) -> None:
    text = '[machines.a]\nfrom = "layer:mine"\npackages = { apt = ["git"], dnf = ["git-core"] }\n'
    known = Known(present=(), last={}, names={"mine": ("c" * 64, ("b" * 64, "c" * 64), "apt")})
    made = plan(tmp_path, text, known)
    assert made.machines[0].layers[:2] == ("b" * 64, "c" * 64)
    assert made.layers[0].facts == {"packages": ["git"]}
    with pytest.raises(DefinitionError) as caught:
        plan(tmp_path, text)
    assert "mine" in caught.value.brief
    assert caught.value.hint


def test_machines_of_every_family_can_be_planned(tmp_path: Path) -> None:
    text = """
        [defaults]
        architecture = "amd64"
        packages = { apt = ["gcc"], dnf = ["gcc", "gcc-c++"] }
        [machines.f]
        distribution = "fedora"
        release = "32"
        [machines.c]
        distribution = "centos"
        release = "7"
        [machines.g]
        distribution = "gentoo"
    """
    made = plan(tmp_path, text)
    bases = ["base fedora 32 amd64", "base centos 7 amd64", "base gentoo rolling amd64"]
    assert [layer.name for layer in made.layers] == [bases[0], "machine f", bases[1], "machine c", bases[2]]
    assert made.layers[1].facts == {"packages": ["gcc", "gcc-c++"]}
    assert made.layers[0].facts["bootstrap"] == "dnf"
    assert {layer.family for layer in made.layers} == {"dnf", "portage"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('components = ["main"]', "fedora has no components: leave the key out"),
        ('variant = "minbase"', "unknown variant 'minbase'"),
        ('bootstrap = "mmdebstrap"', "unknown bootstrap 'mmdebstrap', one of dnf"),
        ('architecture = "riscv64"', "fedora 32 is not made for riscv64: it is made for amd64, arm64, armhf"),
    ],
)
def test_words_of_one_family_are_none_of_another(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan(tmp_path, f'[machines.f]\ndistribution = "fedora"\nrelease = "32"\n{line}\n')
    assert said in caught.value.details


def test_what_was_made_anew_is_another_layer_of_the_same(tmp_path: Path) -> None:
    """With all that stands on it; without the stamp it is what it was."""
    text = BASE + 'packages = ["x"]\n'
    before = plan(tmp_path, text)
    stamp = "2026-11-21T10:00:00Z"
    after = plan(tmp_path, text, Known(present=(), last={}, names={}, refreshed={before.layers[0].identity: stamp}))
    assert after.layers[0].digest != before.layers[0].digest
    assert after.layers[0].identity == before.layers[0].digest
    assert after.layers[1].digest != before.layers[1].digest
    assert after.layers[0].reason == "made anew from the packages of 2026-11-21"


def test_what_is_removed_is_part_of_a_layer_only_where_it_is_written(tmp_path: Path) -> None:
    text = BASE + 'packages = ["git"]\n'
    before = plan(tmp_path, text)
    gone = 'remove-packages = { apt = ["perl", "less"], dnf = ["vim"] }\n'
    after = plan(tmp_path, text + gone, remembered(before))
    assert before.layers[1].facts == {"packages": ["git"]}
    assert after.layers[1].facts == {"packages": ["git"], "remove_packages": ["less", "perl"]}
    assert after.layers[1].reason == "packages to remove added: less, perl"
    assert len(plan(tmp_path, BASE + 'remove-packages = { dnf = ["vim"] }\n').layers) == 1
    committed = Known(present=(), last={}, names={"mine": ("c" * 64, ("c" * 64,), "dnf")})
    made = plan(tmp_path, '[machines.a]\nfrom = "layer:mine"\n' + gone, committed)
    assert made.layers[0].facts == {"remove_packages": ["vim"]}
