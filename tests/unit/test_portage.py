"""The portage family: what it says of bases and failures, and what it asks of a mirror. Its commands: golden/family-portage.txt."""

from __future__ import annotations

import re

import pytest
from msgspec import structs

from roost.definition.model import Base
from roost.distro import portage, recipe
from roost.errors import DefinitionError, HostError
from roost.host.dnf import HostDnf
from roost.packages import Installed
from roost.spdx import purl

BASE = Base(distribution="gentoo", release="rolling", architecture="amd64", bootstrap="stage3", variant="systemd")
POINTER = """# Latest as of Fri, 20 Nov 2026 17:00:00 +0000
# ts=1795194000
20261116T161545Z/stage3-amd64-systemd-20261116T161545Z.tar.xz 296513264
"""


def test_what_a_base_is_made_of() -> None:
    host = HostDnf(root="/nowhere", only_shown=True)
    made = portage.bootstrap(BASE, recipe("gentoo"), host=host, target="/t", private="/p", archives="/a")
    stage3, snapshot = made.archives
    assert stage3.url == "https://distfiles.gentoo.org/releases/amd64/autobuilds/latest-stage3-amd64-systemd.txt"
    found = re.search(stage3.pointer, POINTER, re.MULTILINE)
    assert found is not None
    assert found[1] == "20261116T161545Z/stage3-amd64-systemd-20261116T161545Z.tar.xz"
    for other in ("../../etc/passwd 1", "https://elsewhere.example.org/stage3-x.tar.xz 1", "/stage3-x.tar.xz 1"):
        assert not re.search(stage3.pointer, other, re.MULTILINE), other
    assert snapshot.only == ("profiles", "metadata/layout.conf")


def test_bases_that_cannot_be_made() -> None:
    gentoo = recipe("gentoo")
    [found] = portage.mistakes(structs.replace(BASE, architecture="s390x"), gentoo)
    assert "gentoo rolling has no architecture 's390x'" in found
    [found] = portage.mistakes(structs.replace(BASE, variant="musl"), gentoo)
    assert "gentoo has no variant 'musl': one of systemd, openrc" in found
    with pytest.raises(HostError) as caught:
        portage.bootstrap(BASE, gentoo, host=HostDnf(root="/nowhere"), target="/t", private="/p", archives="/a")
    assert "https://qa-reports.gentoo.org/output/service-keys.gpg" in caught.value.hint


def test_a_version_is_written_as_everywhere() -> None:
    made = portage.install(["app-misc/hello=1.2-r3", "git", "dev-lang/python:3.13"])
    assert made.argv[-3:] == ("=app-misc/hello-1.2-r3", "git", "dev-lang/python:3.13")


@pytest.mark.parametrize("name", ["-C", "--unmerge", "a b", "a;b", "", "a/b/c"])
def test_what_is_no_package(name: str) -> None:
    for ask in (portage.install, portage.remove):
        with pytest.raises(DefinitionError, match="not the name of a package"):
            ask([name])


# what emerge 3.0.83 says
SAID = {
    "!!! [roost] Error fetching binhost package info from 'http://127.0.0.1:9/bin'\n"
    "!!! [roost] <urlopen error [Errno 111] Connection refused>\n\nemerge: there are no binary packages to satisfy \"other\".\n": (
        "http://127.0.0.1:9/bin", "",
    ),
    "!!! [roost] Error fetching binhost package info from 'http://nosuch.invalid/bin'\n"
    "!!! [roost] <urlopen error [Errno -3] Temporary failure in name resolution>\n": ("http://nosuch.invalid/bin", ""),
    'emerge: there are no binary packages to satisfy "nosuch".\n': ("", "no binary package is called nosuch here"),
    " * \tbinpkg signed with at least one unknown key.\n": ("", "a package is not signed by a key that is trusted"),
    " * \tbinpkg appears unsigned (missing any signature)\n!!! Invalid binary package: 'x', GnuPG verification failed\n": (
        "", "a package is not signed",
    ),
    ">>> Completed (1 of 1) app-misc/other-1::gentoo\n": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("output", SAID)
def test_failures_are_explained(output: str) -> None:
    mirror, brief = SAID[output]
    assert portage.unreachable(output) == mirror
    found, hint = portage.explain(output)
    assert found == brief
    assert bool(hint) == bool(brief)


def test_the_list_of_packages() -> None:
    status = (
        b"app-misc/hello-1\t0\ndev-lang/python-3.12.8\t3.12\t1795194000\ndev-lang/python-3.13.1_p1-r2\t3.13\t1795194001\n"
        b"x11-libs/gtk+-2.24.33-r3\t2\t1\nodd\n"
    )
    assert portage.packages(status) == {
        "app-misc/hello": "1", "dev-lang/python:3.12": "3.12.8", "dev-lang/python:3.13": "3.13.1_p1-r2", "x11-libs/gtk+": "2.24.33-r3",
    }  # fmt: skip
    one, other = [found for found in portage.inventory(status) if found.name == "dev-lang/python"]
    assert (one.version, one.build, other.version, other.build) == (
        "3.12.8",
        "1795194000",
        "3.13.1_p1-r2",
        "1795194001",
    )
    words = {"ID": "gentoo"}
    assert purl(Installed(name=one.name, version=one.version), "portage", words) == (
        "pkg:ebuild/dev-lang/python@3.12.8?distro=gentoo"
    )


def test_what_was_built_again_is_another_package() -> None:
    one, other = (b"app-misc/hello-1\t0\t%d\n" % built for built in (1795194000, 1795194001))
    assert portage.packages(one) == portage.packages(other)
    assert portage.inventory(one) != portage.inventory(other)
