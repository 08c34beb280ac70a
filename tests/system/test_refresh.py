"""`--update`: what a person is told when a mirror has changed since the layers were made, and when it has not."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jsonschema
import pytest
from packageurl import PackageURL

from roost.store import Store
from system import deb_rig
from system.rig import Rig
from system.rpm_rig import FEDORA, Mirror, Workshop, index, served, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SCHEMA = Path(__file__).parents[1] / "data/spdx-2.3-schema.json"
UPDATES = FEDORA[1].format("32")
PROFILE = '[profiles.p]\npackages = ["lab"]\n'
KEPT = '[machines.kept]\nfrom = "layer:kept"\n'


@pytest.fixture(scope="module")
def new_state(place: str, states: list[str]) -> Callable[[], str]:
    """Stores that are gone when all tests are over."""

    def make() -> str:
        state = tempfile.mkdtemp(prefix="refresh", dir=place)
        os.rmdir(state)
        states.append(state)
        return state

    return make


def layers(rig: Rig) -> set[str]:
    """What is in the store."""
    return set(os.listdir(f"{rig.state}/layers"))


def update(rig: Rig, *words: str) -> tuple[str, str]:
    """``roost build --update``: what it prints and what it says beside that."""
    done = rig("build", "--update", *words, timeout=300)
    assert done.status == 0, done
    return done.text, done.said


# -- rpm


class Fedora(NamedTuple):
    """A mirror that may change, and a store whose machines are made from it."""

    mirror: Mirror
    shop: Workshop
    rig: Rig

    def add(self, *packages: Path) -> None:
        """Signs packages, and writes the list of updates anew."""
        sign(self.mirror.key, *packages)
        place = self.mirror.directory / UPDATES
        for package in packages:
            shutil.copy(package, place / "Packages")
        shutil.rmtree(place / "repodata")
        index(self.mirror.key, place)


@pytest.fixture(scope="module")
def fedora(
    rpm_mirror: Mirror, new_state: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fedora]:
    """Two machines on one base and one profile, and one on that base as a layer that is given."""
    work = tmp_path_factory.mktemp("refresh")
    mirror, shop = rpm_mirror.copied(work / "mirror"), Workshop(work)
    with served(mirror.directory) as server:
        found = Fedora(mirror, shop, Rig(new_state(), tmp_path_factory.mktemp("machines"), ""))
        found.add(shop.small("lab", "1", requires="lab-old"), shop.small("lab-old", "1"))
        more = {"one": 'profiles = ["p"]\n', "two": 'profiles = ["p"]\npackages = ["other"]\n'}
        texts = [mirror.definition("fedora", "32", text, name=name, mirror=server.url) for name, text in more.items()]
        found.rig.define("".join(texts) + PROFILE)
        done = found.rig("build", timeout=300)
        assert done.status == 0, done
        Store(found.rig.state).set_name("kept", found.rig.json("plan", "one")["layers"][0]["digest"])
        found.rig.define("".join(texts) + PROFILE + KEPT)
        assert found.rig("build").status == 0
        yield found


def test_nothing_changed_and_nothing_more_is_kept(fedora: Fedora) -> None:
    before = layers(fedora.rig)
    text, said = update(fedora.rig)
    assert text == ""
    assert "nothing changed: the layers that were there stay" in said
    assert layers(fedora.rig) == before
    assert {layer["verb"] for layer in fedora.rig.json("plan")["layers"]} == {"reuse"}


def test_what_changed_is_said_once_for_all_who_share_it(fedora: Fedora) -> None:
    """The base's change in the base, the profile's in the profile; the machines stand on the new layers at once."""
    fedora.add(
        fedora.shop.small("lab", "2", requires="lab-new"), fedora.shop.small("lab-new", "5"),
        fedora.shop.small("glibc-minimal-langpack", "2"),
    )  # fmt: skip
    before = layers(fedora.rig)
    text, said = update(fedora.rig)
    langpack = ["PACKAGE                 FROM  TO", "glibc-minimal-langpack  1-1   2-1", ""]
    assert text.splitlines() == [
        "base fedora 32 amd64, for one, two", *langpack,
        "profile p, for one, two",
        "PACKAGE  FROM   TO",
        "lab      1-1    2-1",
        "lab-new  added  5-1",
        "lab-old  1-1    removed",
        "",
        "upgrade of layer:kept, for kept", *langpack,
    ]  # fmt: skip
    assert "packages: 3 changed, 1 added, 1 removed, in 3 layers\n4 layers made in" in said
    assert len(layers(fedora.rig) - before) == 4
    assert fedora.rig.run("rpm -q lab lab-new", machine="two").text == "lab-2-1.x86_64\nlab-new-5-1.x86_64\n"
    listed = fedora.rig("layer", "show", "two").text
    for name, version, layer in (
        ("lab", "2-1", "profile p"), ("glibc-minimal-langpack", "2-1", "base fedora 32 amd64"), ("other", "1-1", "machine two"),
    ):  # fmt: skip
        assert re.search(rf"^{name} +{version} +x86_64 +{layer}$", listed, re.MULTILINE), listed
    assert fedora.rig.run("rpm -q glibc-minimal-langpack", machine="kept").text == "glibc-minimal-langpack-2-1.x86_64\n"


# -- apt


class Debian(NamedTuple):
    """An archive that may change, and a store whose machines are made from it."""

    archive: deb_rig.Archive
    key: deb_rig.Key
    base: list[str]
    rig: Rig

    def publish(self, *packages: str) -> None:
        """What the suite has beside the base's packages."""
        self.archive.suite(RELEASE, [*self.base, *packages], self.key)
        self.archive.suite(f"{RELEASE}-updates", [], self.key)


RELEASE = "resolute"


@pytest.fixture(scope="module")
def ubuntu(new_state: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """One machine with a profile that installs a package and removes another."""
    place = tmp_path_factory.mktemp("deb")
    work = place / "work"
    work.mkdir()
    archive = deb_rig.Archive(place / "mirror", work)
    base = deb_rig.common(archive, work, merged=True)
    base.append(deb_rig.base_files(archive, work, "ubuntu", RELEASE, "26.04", merged=True))
    with deb_rig.throwaway_key("refresh", place) as key:
        found = Debian(archive, key, base, Rig(new_state(), tmp_path_factory.mktemp("machines"), ""))
        package = archive.package
        found.publish(
            package("lab", depends="lab-old", priority="optional"), package("lab-old", priority="optional"),
            package("tz", priority="required"),
        )  # fmt: skip
        gone = 'profiles = ["p"]\nremove-packages = ["hello", "not-there"]\n'
        profile = PROFILE.replace('["lab"]', '["lab", "hello", "passwd"]')
        found.rig.define(archive.machine("ubuntu", RELEASE, key, gone, name="m") + profile)
        done = found.rig("build", timeout=300)
        assert done.status == 0, done
        yield found


def test_what_is_removed_goes_with_what_it_alone_needed(ubuntu: Debian) -> None:
    [_, profile, machine] = [layer["digest"][:16] for layer in ubuntu.rig.json("plan")["layers"]]
    below, above = (ubuntu.rig.json("layer", "show", one)["packages"].keys() for one in (profile, machine))
    assert below - above == {"hello", "greeting"}
    assert ubuntu.rig.run("ls /usr/bin/hello /usr/sbin/policy-rc.d; ls /var/lib/apt/lists", machine="m").text == ""


def test_a_package_that_rose_one_that_came_and_one_that_went(ubuntu: Debian, tmp_path: Path) -> None:
    """As a document, too: and the list of what is there then is good SPDX."""
    text, said = update(ubuntu.rig)
    assert (text, "nothing changed" in said) == ("", True)
    package = ubuntu.archive.package
    ubuntu.publish(
        package("lab", version="1:2~b", depends="lab-new", priority="optional"), package("lab-new", priority="optional"),
        package("tz", version="2", priority="required"),
    )  # fmt: skip
    made = json.loads(update(ubuntu.rig, "--json")[0])["updated"]
    assert [(one["layer"], one["machines"], one["changes"]) for one in made] == [
        ("base ubuntu resolute amd64", ["m"], [{"name": "tz", "from": "1", "to": "2"}]),
        ("profile p", ["m"], [
            {"name": "lab", "from": "1", "to": "1:2~b"}, {"name": "lab-new", "from": "", "to": "1"},
            {"name": "lab-old", "from": "1", "to": ""},
        ]),
        ("machine m", ["m"], []),
    ]  # fmt: skip
    document = ubuntu.rig.json("layer", "show", "--spdx", "m")
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(document)
    found = [
        PackageURL.from_string(one["externalRefs"][0]["referenceLocator"])
        for one in document["packages"]
        if "externalRefs" in one
    ]
    assert {(one.name, one.version) for one in found} >= {("lab", "1:2~b"), ("tz", "2"), ("lab-new", "1")}
    assert {(one.type, one.namespace, one.qualifiers["distro"]) for one in found} == {("deb", "ubuntu", "ubuntu-26.04")}
