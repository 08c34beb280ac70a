"""Gentoo from a mirror that the test makes: a stage3 found, verified and unpacked; packages by the real emerge inside."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

from roost.distro import portage
from system.portage_rig import (
    BUILDS,
    PACKAGES,
    POINTER,
    SNAPSHOT,
    STAGE3,
    STAMP,
    Gentoo,
    build,
    clearsign,
    finish_mirror,
    make_mirror,
)
from system.rig import Rig
from system.rpm_rig import served, throwaway_key
from system.test_rpm import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYERED = 'profiles = ["p"]\npackages = ["hello"]\n[profiles.p]\npackages = ["app-misc/other"]\n'


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gentoo]:
    """Signed by one key, all of it, and served."""
    place = tmp_path_factory.mktemp("gentoo")
    with throwaway_key("lab", place) as key:
        made = make_mirror(place, key)
        (place / "served").symlink_to(made.directory)
        with served(place / "served") as server:
            yield made._replace(url=server.url, served=place / "served", asked=server.asked)


@pytest.fixture(scope="module")
def gentoo(mirror: Gentoo, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A store with Gentoo in three layers; tests add to it."""
    state = tempfile.mkdtemp(prefix="gentoo", dir=place)
    os.rmdir(state)
    states.append(state)
    rig = Rig(state, tmp_path_factory.mktemp("gentoo"), mirror.definition(LAYERED))
    done = rig("build", timeout=300)
    assert done.status == 0, done
    return rig


def test_gentoo_in_layers(gentoo: Rig, mirror: Gentoo) -> None:
    done = gentoo.run("hello; cat /usr/share/other /etc/portage/binrepos.conf/*; ls /var/db/repos/gentoo", machine="m")
    assert done.text == (
        f"2\npost of 1\nother\n[roost]\npriority = 1\nsync-uri = {mirror.url}/{PACKAGES}\nlocation = /var/cache/binpkgs\n"
        "verify-signature = true\nmetadata\nprofiles\n"
    ), done
    top = gentoo.json("plan")["layers"][-1]["digest"][:16]
    found = gentoo.json("layer", "show", top)["packages"]
    assert found["app-misc/greeting"] == "2"
    assert found["sys-apps/portage"] == "3.0.83"
    look = "find /var/cache /var/log /var/tmp /root /tmp /run/roost-portage -type f; cat /etc/hostname /etc/machine-id"
    assert gentoo.run(look, machine="m").text.strip() in ("", "m")


def test_packages_are_downloaded_once(gentoo: Rig, mirror: Gentoo, tmp_path: Path) -> None:
    """Other layers of the same base have one of them, too."""
    text = mirror.definition('packages = ["hello", "other"]')
    done = Rig(gentoo.state, tmp_path, text)("build", timeout=300)
    assert done.status == 0, done
    for name in ("/other-1-1.gpkg.tar", "/hello-1-1.gpkg.tar", f"/{STAGE3}"):
        assert sum(path.endswith(name) for path in mirror.asked) == 1, mirror.asked


def test_users_time_and_services(gentoo: Rig, mirror: Gentoo, tmp_path: Path) -> None:
    more = (
        'user = { name = "sai", uid = 883 }\nroot-password = ""\nservices = ["systemd-networkd"]\nlocale = "C.UTF-8"\n'
        'timezone = "Europe/Berlin"\nfiles = { "/etc/motd" = { content = "hello" } }\n'
    )
    rig = Rig(gentoo.state, tmp_path, mirror.definition(more))
    done = rig("build")
    assert done.status == 0, done
    look = "cd /etc; id -u sai; id -gn sai; cut -d: -f2 /etc/shadow | head -n1; cat locale.conf timezone motd; readlink localtime"
    assert rig.run(look, machine="m").text == (
        "883\nnogroup\n\nLANG=C.UTF-8\nEurope/Berlin\nhello../usr/share/zoneinfo/Europe/Berlin\n"
    )
    wanted = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    assert rig.run(f"test -L {wanted}", machine="m").status == 0


def test_packages_go(gentoo: Rig, mirror: Gentoo, tmp_path: Path) -> None:
    more = (
        'profiles = ["p", "h"]\nremove-packages = ["hello", "app-misc/not-there"]\n'
        '[profiles.p]\npackages = ["app-misc/other"]\n[profiles.h]\npackages = ["hello"]\n'
    )
    rig = Rig(gentoo.state, tmp_path, mirror.definition(more))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run("ls /var/db/pkg/app-misc; test ! -e /usr/bin/hello", machine="m").text == "other-1\n"


def test_packages_are_brought_up(gentoo: Rig, mirror: Gentoo, tmp_path: Path) -> None:
    rig = Rig(gentoo.state, tmp_path, mirror.definition('packages = ["app-misc/greeting=1"]'))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run("cat /usr/share/greeting", machine="m").text == "1\n"
    argv = portage.upgrade().argv
    done = rig.run(f"{shlex.join(argv)} && cat /usr/share/greeting", machine="m")
    assert done.text.endswith("\n2\n"), done


# -- what is refused


@pytest.fixture
def spoilt(mirror: Gentoo, tmp_path: Path) -> Iterator[Gentoo]:
    """A mirror to spoil."""
    directory = mirror.copied(tmp_path / "mirror")
    with served(directory) as server:
        yield mirror._replace(directory=directory, url=server.url)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_stage3_that_is_not_signed_by_the_key(new_store: Callable[[], str], spoilt: Gentoo, tmp_path: Path) -> None:
    rig = Rig(new_store(), tmp_path)
    stage3 = spoilt.directory / BUILDS / STAMP / STAGE3
    with throwaway_key("wrong", tmp_path) as wrong:
        rig.define(spoilt.definition(key=wrong.public))
        refused(
            rig, "latest-stage3-amd64-systemd.txt of the mirror has no good signature by one of the keys of the keyring"
        )
        pointer = (spoilt.directory / POINTER).read_bytes()
        rig.define(spoilt.definition())
        _replace(spoilt.directory / POINTER, f"{STAMP}/{STAGE3} 1\n".encode())
        refused(
            rig, "latest-stage3-amd64-systemd.txt of the mirror has no good signature by one of the keys of the keyring"
        )
        _replace(spoilt.directory / POINTER, pointer.replace(b"# ts=1", b"# ts=2"))
        refused(
            rig, "latest-stage3-amd64-systemd.txt of the mirror has no good signature by one of the keys of the keyring"
        )
        _replace(spoilt.directory / POINTER, pointer)
    clearsign(spoilt.key, stage3.with_name(f"{STAGE3}.DIGESTS"), f"# SHA512 HASH\n{'0' * 128}  {STAGE3}\n")
    refused(rig, f"{STAGE3} is not what the mirror's list of digests says")
    content = stage3.read_bytes()
    _replace(stage3, content[:-8] + bytes(8))
    refused(rig, f"{STAGE3}.asc is no good signature by one of the keys of the keyring")
    stage3.with_name(f"{STAGE3}.asc").unlink()
    refused(rig, f"{STAGE3}.asc: the server says 404")


def test_a_repository_that_is_not_signed_by_the_key(
    new_store: Callable[[], str], spoilt: Gentoo, tmp_path: Path
) -> None:
    """The stage3 is good; what stands beside it is not: the base is not made."""
    rig = Rig(new_store(), tmp_path, spoilt.definition())
    _replace(spoilt.directory / BUILDS / STAMP / STAGE3, bytes(10240))  # an archive of nothing
    snapshot = spoilt.directory / SNAPSHOT
    finish_mirror(spoilt.directory, spoilt.key)
    _replace(snapshot, snapshot.read_bytes()[:-4] + bytes(4))
    refused(rig, "gentoo-latest.tar.xz.gpgsig is no good signature by one of the keys of the keyring")


def test_packages_that_are_not_signed_by_the_key(gentoo: Rig, mirror: Gentoo, tmp_path: Path) -> None:
    """The mirror has become another one since the base was made."""
    place = mirror.copied(tmp_path / "mirror") / PACKAGES
    rig = Rig(gentoo.state, tmp_path, mirror.definition('packages = ["no-such-thing"]'))
    refused(rig, "no binary package is called no-such-thing here")
    rig.define(mirror.definition('packages = ["other"]\nscripts = ["echo another layer"]'))
    repository = next(mirror.tree.parent.glob("gentoo-2*"))
    with mirror.replaced(tmp_path / "mirror"), throwaway_key("wrong", tmp_path) as wrong:
        for key, reason in (
            (None, "a package is not signed"),
            (wrong, "a package is not signed by a key that is trusted"),
        ):
            shutil.rmtree(place)
            build(mirror.tree, repository, key, place, "app-misc/other")
            refused(rig, f"step 'install other' failed: {reason}\n")
        shutil.rmtree(place)
        place.mkdir()
        refused(rig, "no binary package is called other here")


def test_somebody_elses_packages(gentoo: Rig, mirror: Gentoo, tmp_path: Path) -> None:
    with throwaway_key("theirs", tmp_path) as key, served(tmp_path) as server:
        build(mirror.tree, next(mirror.tree.parent.glob("gentoo-2*")), key, tmp_path / "packages", "app-misc/other")
        theirs = f'repositories = [{{ name = "theirs", url = "{server.url}/packages", key = "{key.public}" }}]\n'
        rig = Rig(gentoo.state, tmp_path, mirror.definition(theirs + 'packages = ["other"]'))
        done = rig("build")
        assert done.status == 0, done
        assert any(path.endswith("/other-1-1.gpkg.tar") for path in server.asked)
        assert rig.run("cat /usr/share/other", machine="m").text == "other\n"
