"""The apk family: what it says of bases and failures, and what it asks of a mirror. Its commands are in golden/family-apk.txt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from roost.definition import checks
from roost.definition.model import Base, RepositoryKeys
from roost.distro import apk, recipe
from roost.errors import DefinitionError, HostError
from roost.host.dnf import HostDnf

if TYPE_CHECKING:
    from pathlib import Path

BASE = Base(distribution="alpine", release="3.22", architecture="amd64", bootstrap="minirootfs", variant="minimal")
YAML = """---
-
  title: "Mini root filesystem"
  desc: |
    Minimal root filesystem.
  branch: v3.22
  arch: x86_64
  version: 3.22.2
  flavor: alpine-minirootfs
  file: alpine-minirootfs-3.22.2-x86_64.tar.gz
  iso: alpine-minirootfs-3.22.2-x86_64.tar.gz
-
  title: "Netboot"
  file: alpine-netboot-3.22.2-x86_64.tar.gz
"""


def _bootstrap(base: Base, host: HostDnf) -> object:
    return apk.bootstrap(base, recipe("alpine"), host=host, target="/t", private="/p", archives="/a")


def test_the_pointer_names_the_minirootfs_of_this_release_alone() -> None:
    host = HostDnf(root="/nowhere", only_shown=True)
    made = apk.bootstrap(BASE, recipe("alpine"), host=host, target="/t", private="/p", archives="/a")
    [archive] = made.archives
    assert archive.url == "https://dl-cdn.alpinelinux.org/alpine/v3.22/releases/x86_64/latest-releases.yaml"
    found = re.search(archive.pointer, YAML, re.MULTILINE)
    assert found is not None
    assert found[1] == "alpine-minirootfs-3.22.2-x86_64.tar.gz"
    for other in ("3.21.5-x86_64", "3.22.2-aarch64", "20260805-x86_64"):
        assert not re.search(archive.pointer, YAML.replace("3.22.2-x86_64", other), re.MULTILINE), other


def test_keys_that_the_host_lacks() -> None:
    with pytest.raises(HostError) as caught:
        _bootstrap(BASE, HostDnf(root="/nowhere"))
    assert "https://alpinelinux.org/keys/ncopa.asc" in caught.value.hint
    with pytest.raises(HostError) as caught:
        _bootstrap(structs.replace(BASE, bootstrap="apk"), HostDnf(root="/nowhere"))
    assert caught.value.brief == "the keyring /usr/share/apk/keys/x86_64 is not on this host"


def test_keys_that_the_host_has(tmp_path: Path) -> None:
    place = tmp_path / "etc/apk/keys"
    place.mkdir(parents=True)
    for name in ("a.rsa.pub", "b.rsa.pub", "note"):
        (place / name).write_text("-----BEGIN PUBLIC KEY-----\n")
    base = structs.replace(BASE, bootstrap="apk")
    made = apk.bootstrap(
        base, recipe("alpine"), host=HostDnf(root=str(tmp_path)), target="/t", private="/p", archives="/a"
    )
    assert set(made.files) == {"key:a.rsa.pub", "key:b.rsa.pub", "repositories"}
    (place / "a.rsa.pub").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    with pytest.raises(HostError, match=r"a\.rsa\.pub holds no public key as apk reads them"):
        _bootstrap(base, HostDnf(root=str(tmp_path)))


def test_what_is_no_base() -> None:
    alpine = recipe("alpine")
    assert apk.mistakes(BASE, alpine) == ()
    [found] = apk.mistakes(structs.replace(BASE, release="3.18", architecture="riscv64"), alpine)
    assert "alpine 3.18 has no architecture 'riscv64'" in found
    with pytest.raises(DefinitionError, match="cannot have a login"):
        _bootstrap(structs.replace(BASE, mirror="https://me:secret@mirror.example.org/alpine"), HostDnf())


def test_a_repository_of_this_disk_is_a_path() -> None:
    one = RepositoryKeys(name="own", url="file:///srv/apk/", suites=(), components=(), key=b"")
    assert apk.add_repository(one).argv[-3:] == ("own", "/srv/apk", "no")
    with pytest.raises(HostError, match="holds no public key"):
        apk.add_repository(structs.replace(one, key=b"-----BEGIN PGP PUBLIC KEY BLOCK-----"))


@pytest.mark.parametrize("name", ["-f", "a b", "a;b", "", "!busybox"])
def test_what_is_no_package(name: str) -> None:
    for ask in (apk.install, apk.remove):
        with pytest.raises(DefinitionError, match="not the name of a package"):
            ask([name])


# what apk-tools 3.0.8 says, then what 2.14 does
SAID = {
    "WARNING: updating and opening http://127.0.0.1:9/x/x86_64/APKINDEX.tar.gz: Connection refused\n"
    "1 unavailable, 0 stale; 0 distinct packages available\n": ("http://127.0.0.1:9/x/x86_64/APKINDEX.tar.gz", ""),
    "WARNING: updating and opening http://a.invalid/x: DNS: name does not exist\n": ("http://a.invalid/x", ""),
    "WARNING: updating and opening http://a/x/x86_64/APKINDEX.tar.gz: HTTP 404: Not Found\n": ("", "the mirror does not have it: http://a/x"),
    "WARNING: opening /srv/x86_64/APKINDEX.tar.gz: UNTRUSTED signature\n": ("", "the repository's signature is not good"),
    "WARNING: opening /srv/x86_64/APKINDEX.tar.gz: No such file or directory\n": ("", "the mirror does not have it: /srv/x86_64"),
    "ERROR: unable to select packages:\n  nosuch (no such package):\n": ("", "no package is called nosuch here"),
    "WARNING: updating http://a: temporary error (try again later)\n": ("http://a", ""),
    "ERROR: http://a/main: network error (check Internet connection and firewall)\n": ("http://a/main", ""),
    "WARNING: Ignoring http://a/main: UNTRUSTED signature\n": ("", "the repository's signature is not good"),
    "ERROR: hello-1-r0: BAD signature\n": ("", "the repository's signature is not good"),
    "roost: there is no apk on this host\n": ("", "this host has no apk, which makes this base"),
    "OK: 8 MiB in 15 packages\n": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("output", SAID)
def test_failures_are_explained(output: str) -> None:
    mirror, brief = SAID[output]
    assert apk.unreachable(output) == mirror
    if not mirror:
        found, hint = apk.explain(output)
        assert found.startswith(brief)
        assert bool(found) == bool(hint) == bool(brief)


def test_a_version_is_said_as_the_docstring_says_it() -> None:
    """A definition takes it, and so does the step."""
    for name in ("cmake=3.31.1-r0", "cmake~3.31", "cmake~3.31@edge"):
        assert checks.package(name) == ""
        assert apk.install((name,)).argv[-1] == name
        assert "without a version" in checks.installed(name, "apk")


def test_the_list_of_packages() -> None:
    assert apk.packages(b"busybox\t1.37.0-r12\nmusl\t1.2.5-r9\nbroken\n") == {
        "busybox": "1.37.0-r12",
        "musl": "1.2.5-r9",
    }
