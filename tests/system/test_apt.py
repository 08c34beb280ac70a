"""Ubuntu and archived Debians from a signed mirror that the test makes, by the real mmdebstrap, debootstrap, dpkg and apt."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

from roost.distro.recipe import recipe
from system.deb_rig import Archive, Key, base_files, common, revoke, throwaway_key, with_init
from system.faults import Worker
from system.rig import Rig
from system.rpm_rig import HOST_BUNDLE, bound, run, self_signed, served
from system.scenes import DEFINITION, World, wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPLIT = {"xenial": "16.04", "bionic": "18.04", "focal": "20.04"}
"""The seeds' releases, as they were: /bin is not /usr/bin."""
NEW = "resolute"
"""Debian 12's debootstrap has no script of that name."""
LAYERED = 'profiles = ["p"]\npackages = ["hello"]\n'
PROFILE = '[profiles.p]\nuser = { name = "sai", uid = 883 }\nfiles = { "/etc/given" = { content = "given\\n" } }\n'


class Mirrors(NamedTuple):
    """One archive with suites by two keys: one that is good, one that has expired."""

    archive: Archive
    good: Key
    old: Key
    split: list[str]


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrors]:
    """Four Ubuntus and three Debians, with their updates."""
    place = tmp_path_factory.mktemp("deb")
    work = place / "work"
    work.mkdir()
    archive = Archive(place / "mirror", work)
    split = common(archive, work, merged=False)
    merged = common(archive, work, merged=True)
    init = with_init(archive, work)
    update = archive.package("greeting", version="3", priority="optional")
    with throwaway_key("good", place) as good, throwaway_key("old", place, expired=True) as old:
        for release, version in SPLIT.items():
            own = base_files(archive, work, "ubuntu", release, version, merged=False)
            archive.suite(release, [*split, *init, own], good, days=30)
            archive.suite(f"{release}-updates", [update], good, days=30)
        archive.suite(NEW, [*merged, base_files(archive, work, "ubuntu", NEW, "26.04", merged=True)], good)
        archive.suite(f"{NEW}-updates", [update], good)
        for release, version in (("jessie", "8"), ("stretch", "9"), ("buster", "10")):
            own = base_files(archive, work, "debian", release, version, merged=False)
            archive.suite(release, [*split, own], good if release == "buster" else old, days=-300)
        yield Mirrors(archive, good, old, split)


@pytest.fixture(scope="module")
def ubuntu(mirrors: Mirrors, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A store with four Ubuntus by mmdebstrap, and the newest by debootstrap too, each with layers above."""
    state = tempfile.mkdtemp(prefix="deb", dir=place)
    os.rmdir(state)
    states.append(state)
    made = [mirrors.archive.machine("ubuntu", release, mirrors.good, LAYERED) for release in (*SPLIT, NEW)]
    other = 'bootstrap = "debootstrap"\n' + LAYERED
    made.append(mirrors.archive.machine("ubuntu", NEW, mirrors.good, other, name="other"))
    rig = Rig(state, tmp_path_factory.mktemp("ubuntu"), "".join(made) + PROFILE)
    done = rig("build", timeout=300)
    assert done.status == 0, done
    return rig


@pytest.fixture
def empty(new_store: Callable[[], str], tmp_path: Path) -> Rig:
    """A store without any of it."""
    return Rig(new_store(), tmp_path)


def refused(rig: Rig, *said: str, status: int = 10) -> None:
    """A build fails with these words, and leaves nothing."""
    before = sorted(os.listdir(f"{rig.state}/layers"))
    done = rig("build", timeout=200)
    assert done.status == status, done
    assert all(text in done.said for text in said), done.said
    assert "hint:" in done.said
    assert sorted(os.listdir(f"{rig.state}/layers")) == before
    assert os.listdir(f"{rig.state}/staging") == []


# -- what is made


@pytest.mark.parametrize(("name", "version"), [*SPLIT.items(), (NEW, "26.04"), ("other", "26.04")])
def test_an_ubuntu_in_layers(ubuntu: Rig, name: str, version: str) -> None:
    done = ubuntu.run(". /etc/os-release; echo $ID $VERSION_ID; cat /etc/given; id sai; hello", machine=name)
    assert (
        done.text == f"ubuntu {version}\ngiven\nuid=883(sai) gid=65534(nogroup) groups=65534(nogroup)\npost configure\n"
    ), done
    link = ubuntu.run("readlink /bin; dpkg-query -W -f '${Version}' greeting", machine=name).text
    assert link == ("3" if name in SPLIT else "usr/bin\n3"), "the update is taken"
    plan = ubuntu.json("plan", name)
    assert [layer["verb"] for layer in plan["layers"]] == ["reuse"] * 3


def test_nothing_of_the_making_stays(ubuntu: Rig, mirrors: Mirrors) -> None:
    """Neither the mirror, which was seen inside, nor Roost's own directories."""
    top = str(mirrors.archive.directory).split("/")[1]
    for name in (*SPLIT, NEW, "other"):
        done = ubuntu.run(
            "cd /; ls var/lib/apt/lists var/cache/apt/archives; find / -xdev -path '*roost*' -type f", machine=name
        )
        found = [
            line
            for line in done.text.splitlines()
            if line and not line.endswith(":") and line not in ("lock", "partial", "auxfiles")
        ]
        assert found == ["/etc/apt/keyrings/roost.gpg"], done
        assert ubuntu.run(f"ls -A /{top}", machine=name).text == "", "only /tmp may have been there before"
        lists = ubuntu.run("cat /etc/apt/sources.list; ls /etc/apt/sources.list.d", machine=name).text
        where = f"deb [signed-by=/etc/apt/keyrings/roost.gpg] {mirrors.archive.url}"
        release = NEW if name == "other" else name
        assert lists == f"{where} {release} main\n{where} {release}-updates main\n"


def test_a_mirror_with_an_address(ubuntu: Rig, mirrors: Mirrors, tmp_path: Path) -> None:
    """By http, as a real one is; packages that another machine of it has taken are not asked for again."""
    with served(mirrors.archive.directory) as server:
        rig = Rig(
            ubuntu.state,
            tmp_path,
            mirrors.archive.machine("ubuntu", "bionic", mirrors.good, LAYERED, mirror=server.url) + PROFILE,
        )
        assert rig("build", timeout=200).status == 0
        asked = [path for path in server.asked if path.endswith(".deb")]
        assert len(asked) == len(set(asked)) > 5
        rig.define(mirrors.archive.machine("ubuntu", "xenial", mirrors.good, mirror=server.url))
        assert rig("build", timeout=200).status == 0
        more = [path for path in server.asked if path.endswith(".deb")][len(asked) :]
        assert [path.rpartition("/")[2].partition("_")[0] for path in more] == ["base-files"]


def test_archived_releases_with_keys_and_files_of_their_time(empty: Rig, mirrors: Mirrors) -> None:
    """Their keys have expired and their Release files are out of date: both is meant, and in further layers too."""
    how = {"jessie": "mmdebstrap", "stretch": "debootstrap", "buster": "mmdebstrap"}
    empty.define("".join(
        mirrors.archive.machine(
            "debian", name, mirrors.good if name == "buster" else mirrors.old, f'bootstrap = "{way}"\npackages = ["hello"]'
        )
        for name, way in how.items()
    ))  # fmt: skip
    done = empty("build", timeout=200)
    assert done.status == 0, done
    for name in how:
        assert (
            empty.run("hello; . /etc/os-release; echo $VERSION_CODENAME", machine=name).text
            == f"post configure\n{name}\n"
        )


def test_a_release_whose_usr_was_not_merged_boots(ubuntu: Rig, mirrors: Mirrors, tmp_path: Path) -> None:
    """As xenial's /lib/systemd did, with a network of its own."""
    text = mirrors.archive.machine("ubuntu", "xenial", mirrors.good, "boot = {}\nnetwork = { mode = 'private' }")
    rig = Rig(ubuntu.state, tmp_path, text)
    try:
        done = rig("up", "xenial", timeout=100)
        assert done.status == 0, done
        look = "systemctl is-system-running; readlink /bin; readlink /proc/1/exe; ls /sys/class/net"
        done = rig("exec", "xenial", "--", "sh", "-c", look)
        assert done.text == "running\n/lib/systemd/systemd\nhost0\nlo\n", done
    finally:
        rig("down", "xenial")
        rig("remove", "xenial")


def test_an_image_without_certificates_and_a_mirror_by_https(ubuntu: Rig, mirrors: Mirrors, tmp_path: Path) -> None:
    """It is the host that knows which servers are to be trusted; what it knows does not stay."""
    certificate, bundle = self_signed(tmp_path)
    digests = ubuntu.json("plan", "focal")["layers"]
    tree = tmp_path / "tree"
    run("cp", "-a", f"{ubuntu.state}/layers/{digests[0]['digest']}/tree", tree)
    rig = Rig(ubuntu.state, tmp_path, f'[machines.image]\nfrom = "dir:{tree}"\npackages = ["hello"]\n')
    with served(mirrors.archive.directory, certificate=certificate) as server:
        (tree / "etc/apt/sources.list").write_text(
            f"deb [signed-by=/etc/apt/keyrings/roost.gpg] {server.url} focal main\n"
        )
        done = rig("build", timeout=200)
        assert (done.status, "the mirror's certificate is not trusted" in done.said) == (10, True), done
        done = rig("build", prefix=bound(bundle, HOST_BUNDLE), timeout=200)
    assert done.status == 0, done
    assert rig.run("hello; find / -xdev -name '*certificates*' -type f", machine="image").text == "post configure\n"


def test_a_killed_bootstrap_leaves_nothing(new_store: Callable[[], str], mirrors: Mirrors, tmp_path: Path) -> None:
    """Neither in the store nor of the mirror, which was seen in the tree meanwhile."""
    slow = Archive(tmp_path / "mirror", tmp_path)
    slow.adopt(mirrors.archive)
    waits = slow.package("waits", essential=True, scripts={"postinst": "#!/bin/sh\nsleep 60\n"})
    slow.suite("focal", [*mirrors.split, waits, "base-files_20.04ubuntu"], mirrors.good)
    slow.suite("focal-updates", [], mirrors.good)
    before = {path.name: path.stat().st_size for path in (slow.directory / "pool").iterdir()}
    with contextlib.closing(Worker()) as worker:
        world = World(worker, new_store(), tmp_path)
        (tmp_path / "roost.toml").write_text(DEFINITION + slow.machine("ubuntu", "focal", mirrors.good))
        killed = world("build", "focal", timeout=4)
        assert killed.status == -9
        assert not killed.lingering
        assert "cleared" in world("layer", "list").said
        assert not wrong(world.state)
        assert world.listed("layers") == {"7" * 64}
    assert {path.name: path.stat().st_size for path in (slow.directory / "pool").iterdir()} == before


# -- what is refused


@pytest.mark.parametrize("bootstrap", ["mmdebstrap", "debootstrap"])
def test_what_is_not_signed_as_it_should_be(empty: Rig, mirrors: Mirrors, tmp_path: Path, bootstrap: str) -> None:
    shutil.copytree(mirrors.archive.directory / "dists", tmp_path / "dists")
    bad = Archive(tmp_path / "mirror", tmp_path)
    bad.adopt(mirrors.archive)
    more = f'bootstrap = "{bootstrap}"'
    focal = [*mirrors.split, "base-files_20.04ubuntu"]
    bad.suite("focal-updates", [], mirrors.good)

    bad.suite("focal", focal, mirrors.good)
    empty.define(bad.machine("ubuntu", "focal", mirrors.old, more))
    refused(empty, "is signed by a key that is not trusted", 'keyring = "PATH"')

    bad.suite("focal", focal, None)
    empty.define(bad.machine("ubuntu", "focal", mirrors.good, more))
    refused(empty, "the mirror is not signed: ", "copies its signatures too")

    bad.suite("focal", focal, mirrors.good, days=-3)
    refused(empty, "the mirror's Release file is out of date", "check-valid-until = false accepts it")

    bad.suite("focal", focal, mirrors.good)
    release = tmp_path / "mirror/dists/focal/InRelease"
    release.write_text(release.read_text().replace("Label: Lab", "Label: Bad"))
    refused(empty, "the mirror's signature is not good")

    bad.suite("focal", focal, mirrors.old)
    bad.suite("focal-updates", [], mirrors.old)
    empty.define(bad.machine("ubuntu", "focal", mirrors.old, more))
    refused(empty, "the mirror is signed by a key that has expired: ", "update the host's keyring package")


@pytest.mark.parametrize("bootstrap", ["mmdebstrap", "debootstrap"])
def test_a_release_that_was_signed_by_a_key_that_is_revoked(
    empty: Rig, mirrors: Mirrors, tmp_path: Path, bootstrap: str
) -> None:
    """Also one whose keys may have expired."""
    bad = Archive(tmp_path / "mirror", tmp_path)
    bad.adopt(mirrors.archive)
    bad.suite("focal-updates", [], mirrors.good)
    with throwaway_key("doomed", tmp_path) as key:
        bad.suite("focal", [*mirrors.split, "base-files_20.04ubuntu"], key)
        bad.suite("stretch", [*mirrors.split, "base-files_9debian"], key)
        revoke(key)
        for distribution, release in (("ubuntu", "focal"), ("debian", "stretch")):
            empty.define(bad.machine(distribution, release, key, f'bootstrap = "{bootstrap}"'))
            refused(empty, "the mirror is signed by a key that was revoked: ", "another mirror")


def test_a_package_that_is_not_what_the_list_says(empty: Rig, mirrors: Mirrors, tmp_path: Path) -> None:
    bad = Archive(tmp_path / "mirror", tmp_path)
    bad.adopt(mirrors.archive)
    for name in ("focal", "focal-updates"):
        bad.suite(name, [*mirrors.split, "base-files_20.04ubuntu"] if name == "focal" else [], mirrors.good)
    package = tmp_path / "mirror/pool/mawk_1_amd64.deb"
    content = bytearray(package.read_bytes())
    content[-5] ^= 1
    package.unlink()
    package.write_bytes(content)
    empty.define(bad.machine("ubuntu", "focal", mirrors.good))
    refused(empty, "the mirror changed while it was read")
    assert len(os.listdir(bad.directory / "pool")) == len(os.listdir(mirrors.archive.directory / "pool"))


@pytest.mark.parametrize("bootstrap", ["mmdebstrap", "debootstrap"])
def test_an_archived_release_on_a_mirror_that_does_not_have_it(
    empty: Rig, mirrors: Mirrors, tmp_path: Path, bootstrap: str
) -> None:
    """The error says where the archive is."""
    (tmp_path / "nothing").mkdir()
    distribution, release = ("debian", "stretch") if bootstrap == "mmdebstrap" else ("ubuntu", "groovy")
    archive = recipe(distribution).releases[release].mirrors["main"]
    text = f"{distribution} {release} is archived: its mirror is {archive}"
    more = f'bootstrap = "{bootstrap}"'
    with served(tmp_path / "nothing") as server:
        empty.define(mirrors.archive.machine(distribution, release, mirrors.good, more, mirror=server.url))
        refused(empty, "the mirror does not have it", text)
    empty.define(mirrors.archive.machine(distribution, release, mirrors.good, more, mirror="http://127.0.0.1:1/x"))
    refused(empty, "cannot be reached", text, status=9)
