"""What layers have installed, which of them brought it, and how that is written as SPDX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from packageurl import PackageURL
from stored_layers import DPKG, dpkg, put

import roost
from roost.distro import apt, dnf
from roost.distro.recipe import Package, inventory
from roost.errors import StoreError
from roost.packages import Installed, Lists, installed
from roost.spdx import document, purl
from roost.store import Store
from roost.structs import replace

SCHEMA = json.loads((Path(__file__).parents[1] / "data/spdx-2.3-schema.json").read_text(encoding="utf-8"))
RELEASE = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three layers of a Debian: the middle one has no packages of its own, the last one changes one."""
    found = Store(str(tmp_path))
    below = dpkg("libc6 2.36-9 amd64 glibc (2.36-9+b1)", "bash 5.2-2", "old 1")
    one = put(found, "base debian", files={DPKG: below, "usr/lib/os-release": RELEASE})
    two = put(found, "profile files", one, files={"etc/motd": "hello\n"})
    above = dpkg(
        "libc6 2.36-9 amd64 glibc (2.36-9+b1)", "libc6 2.36-9 i386", "bash 5.2-3", "g++ 4:12.2.0-3 amd64 gcc-defaults"
    )
    put(found, "machine m", one, two, files={DPKG: above})
    return found


def top(store: Store) -> Any:
    return next(layer for layer in store.layers() if layer.name == "machine m")


def test_each_package_is_that_of_the_layer_that_brought_or_changed_it(store: Store) -> None:
    names = {layer.digest: layer.name for layer in store.layers()}
    found = [(one.name, one.version, one.architecture, names[one.layer]) for one in installed(store, top(store))]
    assert found == [
        ("bash", "5.2-3", "amd64", "machine m"),
        ("g++", "4:12.2.0-3", "amd64", "machine m"),
        ("libc6", "2.36-9", "amd64", "base debian"),
        ("libc6", "2.36-9", "i386", "machine m"),
    ]


def test_a_layer_without_a_list_has_what_is_below_it(store: Store) -> None:
    one, two = (layer.digest for layer in sorted(store.layers(), key=lambda layer: len(layer.parents))[:2])
    assert Lists(store).of((one, two), "apt") == {"bash": "5.2-2", "libc6": "2.36-9", "old": "1"}
    assert Lists(store).of((one, two), "none") is None
    assert Lists(store).of((one, two), "a family that is not known") is None


def test_a_family_that_tells_names_and_versions_alone_will_do() -> None:
    class Plain:
        def packages(self, status: bytes) -> dict[str, str]:
            return {status.decode(): "1"}

    assert inventory(Plain(), b"x") == [Package(name="x", version="1")]  # type: ignore[arg-type]  # no more is asked of it
    assert dnf.inventory(b"vim\t2:8.2-1\tx86_64\tmore\nold\t1\n") == [
        Package(name="vim", version="2:8.2-1", architecture="x86_64"), Package(name="old", version="1"),
    ]  # fmt: skip
    assert [one.source for one in apt.inventory(dpkg("a 1 all", "b 1-1+b2 amd64 c (1-1)").encode())] == ["", "c 1-1"]


def test_a_machine_stands_for_its_topmost_layer(store: Store, tmp_path: Path) -> None:
    """A name of a layer comes first; a machine that is not made is told how to make it."""
    file = tmp_path / "roost.toml"
    kept = 'from = "layer:kept"\n'
    unmade = '[machines.kept]\ndistribution = "debian"\nrelease = "sid"\n'
    file.write_text(f'[machines.m]\n{kept}[machines.n]\n{kept}files = {{ "/x" = {{ content = "x" }} }}\n{unmade}')
    (tmp_path / "names").mkdir()
    (tmp_path / "names/kept").write_text(top(store).digest)
    manager = roost.Manager(roost.load(file), state=str(tmp_path))
    for word in ("m", "kept", top(store).digest[:12]):
        assert manager.find_layer(word).name == "machine m"
    with pytest.raises(StoreError) as caught:
        manager.find_layer("n")
    assert (caught.value.brief, caught.value.hint) == (
        "the layers of machine n are not made",
        "make them: `roost build n`",
    )


# -- SPDX


def test_the_document_is_what_the_specification_asks_for(store: Store) -> None:
    layer = top(store)
    made = document(store, layer, installed(store, layer))
    jsonschema.Draft7Validator(SCHEMA).validate(made)
    ids = [one["SPDXID"] for one in (made, *made["packages"])]
    assert len(set(ids)) == len(ids) == 1 + 1 + 3 + 4
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") for one in ids)
    assert made["documentNamespace"].startswith("urn:uuid:")
    assert made["creationInfo"]["created"] == "2026-11-18T11:06:40Z"
    related = {(one["spdxElementId"], one["relationshipType"]) for one in made["relationships"]}
    assert ("SPDXRef-DOCUMENT", "DESCRIBES") in related
    contained = [one["relatedSpdxElement"] for one in made["relationships"]]
    assert sorted(contained) == sorted(ids[1:]), "each is described or contained once"
    by_name = {one["name"]: one for one in made["packages"]}
    assert by_name["base debian"]["checksums"][0]["checksumValue"] == store.layer(layer.parents[0]).manifest
    assert by_name["bash"]["licenseDeclared"] == "NOASSERTION"
    assert by_name["g++"]["sourceInfo"] == "built from: gcc-defaults 4:12.2.0-3"
    assert (
        by_name["g++"]["externalRefs"][0]["referenceLocator"]
        == "pkg:deb/debian/g%2B%2B@4:12.2.0-3?arch=amd64&distro=debian-12"
    )


def test_the_same_layer_gives_the_same_document_and_another_another(store: Store) -> None:
    layer = top(store)
    made = document(store, layer, installed(store, layer))
    assert made == document(Store(store.state), layer, installed(store, layer))
    assert made["creationInfo"]["creators"] == ["Tool: roost"], "which version made it is not known"
    older = replace(layer, roost="0.0.1")  # whatever version asks
    assert document(store, older, installed(store, older))["creationInfo"]["creators"] == ["Tool: roost-0.0.1"]
    below = store.layer(layer.parents[0])
    assert document(store, below, installed(store, below))["documentNamespace"] != made["documentNamespace"]


def test_names_that_differ_in_what_an_identifier_cannot_hold_stay_apart(store: Store) -> None:
    layer = top(store)
    odd = [Installed(name=name, version="1", layer=layer.digest) for name in ("a+b", "a_b", "a-b", "ü", "")]
    ids = [one["SPDXID"] for one in document(store, layer, odd)["packages"]]
    assert len(set(ids)) == len(ids)
    jsonschema.Draft7Validator(SCHEMA).validate(document(store, layer, odd))


@pytest.mark.parametrize(
    ("family", "package", "words", "address"),
    [
        ("apt", ("curl", "1:7.50.3-1~a", "i386"), "ubuntu 24.04", "pkg:deb/ubuntu/curl@1:7.50.3-1~a?arch=i386&distro=ubuntu-24.04"),
        ("apt", ("tzdata", "2026a", "all"), "debian sid", "pkg:deb/debian/tzdata@2026a?arch=all&distro=debian-sid"),
        ("dnf", ("vim", "2:8.2-1.fc32", "x86_64"), "fedora 32", "pkg:rpm/fedora/vim@8.2-1.fc32?arch=x86_64&distro=fedora-32&epoch=2"),
        ("dnf", ("gcc-c++", "8.5-1", "x86_64"), "rhel 8.9", "pkg:rpm/redhat/gcc-c%2B%2B@8.5-1?arch=x86_64&distro=rhel-8.9"),
        ("zypper", ("curl", "8-1", "noarch"), "opensuse-leap 15.6", "pkg:rpm/opensuse/curl@8-1?arch=noarch&distro=opensuse-leap-15.6"),
        ("apk", ("curl", "8.1-r0", "x86_64"), "alpine 3.20", "pkg:apk/alpine/curl@8.1-r0?arch=x86_64&distro=alpine-3.20"),
        ("pacman", ("pacman", "6.1-1", "x86_64"), "arch ", "pkg:alpm/arch/pacman@6.1-1?arch=x86_64&distro=arch"),
        ("portage", ("app-editors/vim", "9.1", ""), "gentoo ", "pkg:ebuild/app-editors/vim@9.1?distro=gentoo"),
        ("apt", ("odd", "1", ""), " ", "pkg:deb/odd@1"),
        ("none", ("odd", "1", ""), "debian 12", ""),
    ],
)  # fmt: skip
def test_package_urls(family: str, package: tuple[str, str, str], words: str, address: str) -> None:
    """As the specification's own library reads and writes them."""
    name, version, architecture = package
    distribution, release = words.split(" ")
    release_words = {"ID": distribution, "VERSION_CODENAME" if release == "sid" else "VERSION_ID": release}
    made = purl(Installed(name=name, version=version, architecture=architecture), family, release_words)
    assert made == address
    if made:
        assert PackageURL.from_string(made).to_string() == made
