"""openSUSE from a mirror that the test makes: the base by the host's dnf, what is above by a real zypper inside."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

from system.rig import Rig
from system.rpm_rig import LEAP, Mirror, Workshop, index, make_opensuse, served, sign, throwaway_key
from system.test_rpm import layers, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYERED = 'profiles = ["p"]\npackages = ["hello"]\n[profiles.p]\npackages = ["other"]\n'


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Signed by one key, all of it."""
    place = tmp_path_factory.mktemp("suse")
    with throwaway_key("lab", place) as key:
        yield make_opensuse(place, key)


@pytest.fixture(scope="module")
def leap(mirror: Mirror, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A store with Leap in three layers; tests add to it."""
    state = tempfile.mkdtemp(prefix="suse", dir=place)
    os.rmdir(state)
    states.append(state)
    rig = Rig(state, tmp_path_factory.mktemp("leap"), mirror.definition("opensuse", "15.6", LAYERED))
    done = rig("build", timeout=300)
    assert done.status == 0, done
    return rig


def test_leap_in_layers(leap: Rig, mirror: Mirror) -> None:
    done = leap.run("hello; rpm -q other openSUSE-release; cat /etc/zypp/repos.d/roost.repo", machine="m")
    assert done.text.startswith("2\npost of 1\nother-1-1.x86_64\nopenSUSE-release-15.6-1.x86_64\n[oss]\nname=oss\n"), (
        done
    )
    assert f"baseurl={mirror.url}/{LEAP[0]}/\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\n" in done.text
    top = leap.json("plan")["layers"][-1]["digest"][:16]
    found = leap.json("layer", "show", top)["packages"]
    assert (found["greeting"], found["zypper"]) == ("2-1", "1-1")
    look = "find /var/cache /var/log /root /tmp -type f; find / -xdev -path '*roost*' -type f"
    assert set(leap.run(look, machine="m").text.split()) == {
        "/etc/zypp/repos.d/roost.repo", "/etc/pki/rpm-gpg/RPM-GPG-KEY-roost", "/var/lib/roost/packages",
    }  # fmt: skip


def test_packages_are_downloaded_once(leap: Rig, mirror: Mirror, tmp_path: Path) -> None:
    with served(mirror.directory) as server:
        text = "".join(
            mirror.definition("opensuse", "15.6", f'packages = ["other"]\nscripts = ["echo {name}"]', name, server.url)
            for name in "ab"
        )
        rig = Rig(leap.state, tmp_path, text)
        done = rig("build", "-j", "1", timeout=300)
        assert done.status == 0, done
        packages = [path.rpartition("/")[2] for path in server.asked if path.endswith(".rpm")]
        assert packages.count("other-1-1.x86_64.rpm") == 1


def test_what_is_removed_goes_with_what_it_alone_needed(leap: Rig, mirror: Mirror, tmp_path: Path) -> None:
    more = 'profiles = ["p"]\nremove-packages = ["hello", "not-there"]\n[profiles.p]\npackages = ["other", "hello"]\n'
    rig = Rig(leap.state, tmp_path, mirror.definition("opensuse", "15.6", more))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run("rpm -qa --qf '%{NAME}\\n' | grep -xE 'hello|greeting|other'", machine="m").text == "other\n"
    rig.define(mirror.definition("opensuse", "15.6", more.replace('["hello", "not-there"]', '["greeting"]')))
    assert rig.run("rpm -qa --qf '%{NAME}\\n' | grep -xE 'hello|greeting|other'", machine="m").text == "other\n", (
        "what needs it goes as well"
    )


def test_users_time_and_services(leap: Rig, mirror: Mirror, tmp_path: Path) -> None:
    more = (
        'user = { name = "sai", uid = 883 }\nroot-password = ""\nservices = ["systemd-networkd"]\nlocale = "C.UTF-8"\n'
    )
    rig = Rig(leap.state, tmp_path, mirror.definition("opensuse", "15.6", more))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run(
        "id -u sai; id -gn sai; cut -d: -f2 /etc/shadow | head -n1; cat /etc/locale.conf", machine="m"
    ).text == ("883\nnobody\n\nLANG=C.UTF-8\n")


# -- what is refused


def test_metadata_without_its_signature(new_store: Callable[[], str], mirror: Mirror, tmp_path: Path) -> None:
    rig = Rig(new_store(), tmp_path)
    bad = mirror.copied(tmp_path / "mirror")
    (bad.directory / LEAP[0] / "repodata/repomd.xml.asc").unlink()
    rig.define(bad.definition("opensuse", "15.6"))
    refused(rig, "base opensuse 15.6 amd64")
    with throwaway_key("wrong", tmp_path) as key:
        rig.define(Mirror(mirror.directory, key).definition("opensuse", "15.6"))
        refused(rig, "the repository's signature is not good", 'keyring = "PATH"')


def test_a_layer_above_is_checked_too(leap: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """By zypper, from a mirror that has become another one since the base was made."""
    bad = mirror.copied(tmp_path / "mirror")
    rig = Rig(leap.state, tmp_path, bad.definition("opensuse", "15.6"))
    assert rig("build", timeout=200).status == 0
    rig.define(bad.definition("opensuse", "15.6", 'packages = ["no-such-thing"]'))
    refused(rig, "no package is called no-such-thing here")
    rig.define(bad.definition("opensuse", "15.6", 'packages = ["other"]'))
    place = bad.directory / LEAP[0]
    package = Workshop(tmp_path / "shop").small("other")
    (place / "Packages" / package.name).unlink()
    shutil.copy(package, place / "Packages")
    shutil.rmtree(place / "repodata")
    index(mirror.key, place)
    refused(rig, "step 'install other' failed: a package is not signed by a key that is trusted")
    with throwaway_key("wrong", tmp_path) as key:
        sign(key, place / "Packages" / package.name)
        shutil.rmtree(place / "repodata")
        index(key, place)
        refused(rig, "step 'install other' failed: the repository's signature is not good")


def test_somebody_elses_repository(leap: Rig, mirror: Mirror, tmp_path: Path) -> None:
    with throwaway_key("other", tmp_path) as key:
        package = Workshop(tmp_path / "shop").small("theirs")
        sign(key, package)
        (tmp_path / "theirs").mkdir()
        shutil.copy(package, tmp_path / "theirs")
        index(key, tmp_path / "theirs")
        repository = (
            f'repositories = [{{ name = "theirs", url = "file://{tmp_path}/theirs"%s }}]\npackages = ["theirs"]'
        )
        rig = Rig(leap.state, tmp_path, mirror.definition("opensuse", "15.6", repository % ""))
        before = layers(rig)
        refused(rig, "the repository's signature is not good")
        assert layers(rig) == before
        rig.define(mirror.definition("opensuse", "15.6", repository % f', key = "{key.public}"'))
        assert rig("build").status == 0
        assert rig.run("rpm -q theirs", machine="m").text == "theirs-1-1.x86_64\n"
