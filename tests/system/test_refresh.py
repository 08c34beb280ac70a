"""`--update`: what a person is told when a mirror has changed since the layers were made, and when it has not."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

from system.rig import Rig
from system.rpm_rig import FEDORA, Mirror, Workshop, index, sign

if TYPE_CHECKING:
    from pathlib import Path

MAIN, UPDATES = (path.format("32") for path in FEDORA)
SHARED = 'profiles = ["p"]\n'
PROFILE = '[profiles.p]\npackages = ["lab"]\n'


class World:
    """A mirror that may change, and a store whose machines are made from it."""

    def __init__(self, mirror: Mirror, shop: Workshop, rig: Rig) -> None:
        self.mirror, self.shop, self.rig = mirror, shop, rig

    def add(self, *packages: Path) -> None:
        """Signs packages, and writes the list of updates anew."""
        sign(self.mirror.key, *packages)
        place = self.mirror.directory / UPDATES
        for package in packages:
            shutil.copy(package, place / "Packages")
        shutil.rmtree(place / "repodata")
        index(self.mirror.key, place)

    def define(self, one: str = SHARED, two: str = SHARED + 'packages = ["other"]\n') -> None:
        """Two machines on one base and one profile."""
        fedora = self.mirror.definition
        self.rig.define(fedora("fedora", "32", one, name="one") + fedora("fedora", "32", two, name="two") + PROFILE)

    def layers(self) -> set[str]:
        """What is in the store."""
        return set(os.listdir(f"{self.rig.state}/layers"))


@pytest.fixture(scope="module")
def world(rpm_mirror: Mirror, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> World:
    """One machine of the mirror as it was, and the mirror as it is since: one package rose, one came, one went."""
    work = tmp_path_factory.mktemp("refresh")
    state = tempfile.mkdtemp(prefix="refresh", dir=place)
    os.rmdir(state)
    states.append(state)
    mirror, shop = rpm_mirror.copied(work / "mirror"), Workshop(work)
    found = World(mirror, shop, Rig(state, tmp_path_factory.mktemp("machines")))
    found.add(shop.small("lab", "1", requires="lab-old"), shop.small("lab-old", "1"))
    found.define()
    done = found.rig("build", timeout=300)
    assert done.status == 0, done
    return found


def test_nothing_changed_and_nothing_more_is_kept(world: World) -> None:
    before = world.layers()
    done = world.rig("build", "--update", timeout=300)
    assert (done.status, done.text) == (0, ""), done
    assert "nothing changed: the layers that were there stay" in done.said
    assert world.layers() == before
    assert {layer["verb"] for layer in world.rig.json("plan")["layers"]} == {"reuse"}


def test_what_changed_is_said_once_for_all_who_share_it(world: World) -> None:
    """The base's change in the base, the profile's in the profile; the machines stand on the new layers at once."""
    world.add(
        world.shop.small("lab", "2", requires="lab-new"), world.shop.small("lab-new", "5"),
        world.shop.small("glibc-minimal-langpack", "2"),
    )  # fmt: skip
    before = world.layers()
    done = world.rig("build", "--update", timeout=300)
    assert done.status == 0, done
    assert done.text.splitlines() == [
        "base fedora 32 amd64, for one, two",
        "PACKAGE                 FROM  TO",
        "glibc-minimal-langpack  1-1   2-1",
        "",
        "profile p, for one, two",
        "PACKAGE  FROM   TO",
        "lab      1-1    2-1",
        "lab-new  added  5-1",
        "lab-old  1-1    removed",
        "",
    ]
    assert "packages: 2 changed, 1 added, 1 removed, in 2 layers\n3 layers made in" in done.said
    assert len(world.layers() - before) == 3
    assert world.rig.run("rpm -q lab lab-new", machine="two").text == "lab-2-1.x86_64\nlab-new-5-1.x86_64\n"
    listed = world.rig("layer", "show", "two").text
    assert re.search(r"^lab +2-1 +x86_64 +profile p$", listed, re.MULTILINE), listed
    assert re.search(r"^glibc-minimal-langpack +2-1 +x86_64 +base fedora 32 amd64$", listed, re.MULTILINE)
    assert re.search(r"^other +1-1 +x86_64 +machine two$", listed, re.MULTILINE)
