"""Where packages come from, with which keys and options."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from roost.definition.model import Base
from roost.distro import apt, apt_auth, apt_sources, keyring, recipe
from roost.errors import DefinitionError, HostError
from roost.host.apt import Entry, HostApt

if TYPE_CHECKING:
    from pathlib import Path

# Packets of the right look: what they say is for gpgv.
DEBIAN, UBUNTU, REMOVED, CORPORATE = (
    bytes([0x99, 0, 1]) + name for name in (b"debian", b"ubuntu", b"removed", b"corp")
)
ARMOURED = (
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: none\n\n"
    + base64.b64encode(CORPORATE).decode()
    + "\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
)
SHIPPED = "/usr/share/keyrings/debian-archive-keyring.gpg"
OWN = Entry(
    file="/etc/apt/sources.list.d/debian.sources",
    types=("deb",),
    uris=("http://own.example/debian",),
    suites=("bookworm", "bookworm-updates"),
    components=("main",),
    signed_by=(SHIPPED,),
)
OWN_SECURITY = replace(OWN, uris=("http://own.example/debian-security",), suites=("bookworm-security",))


@pytest.fixture
def host(tmp_path: Path) -> HostApt:
    """A Debian host that uses a mirror of its own, and has every keyring."""
    folder = tmp_path / "usr/share/keyrings"
    folder.mkdir(parents=True)
    (folder / "debian-archive-keyring.gpg").write_bytes(DEBIAN)
    (folder / "debian-archive-removed-keys.pgp").write_bytes(REMOVED)
    (folder / "ubuntu-archive-keyring.gpg").write_bytes(UBUNTU)
    (folder / "corporate.gpg").write_bytes(CORPORATE)
    return HostApt(
        root=str(tmp_path),
        distribution="debian",
        release="bookworm",
        architecture="amd64",
        entries=(OWN, OWN_SECURITY),
    )


def base(release: str = "bookworm", distribution: str = "debian", **more: object) -> Base:
    values: dict[str, object] = {"architecture": "amd64", "bootstrap": "mmdebstrap", "variant": "minbase"}
    values |= {"components": tuple(recipe(distribution).components)} | more
    return replace(Base(distribution=distribution, release=release), **values)


def resolve(b: Base, host: HostApt) -> apt_sources.Sources:
    return apt_sources.resolve(b, recipe(b.distribution), host)


def lines(b: Base, host: HostApt) -> list[str]:
    return [f"{line.uri} {line.suite}" for line in resolve(b, host).lines]


def test_the_host_s_mirror_serves_every_release_of_its_distribution(host: HostApt) -> None:
    assert lines(base("trixie"), host) == [
        "http://own.example/debian trixie",
        "http://own.example/debian trixie-updates",
        "http://own.example/debian-security trixie-security",
    ]


def test_another_distribution_comes_from_its_recipe(host: HostApt) -> None:
    found = resolve(base("noble", "ubuntu"), host)
    assert [line.uri for line in found.lines] == [
        "http://archive.ubuntu.com/ubuntu",
        "http://archive.ubuntu.com/ubuntu",
        "http://security.ubuntu.com/ubuntu",
    ]
    assert found.keyrings[0].content == UBUNTU


def test_ports_have_their_own_mirror(host: HostApt) -> None:
    assert lines(base("noble", "ubuntu", architecture="arm64"), host)[0] == "http://ports.ubuntu.com/ubuntu-ports noble"
    ubuntu = replace(host, distribution="ubuntu", entries=(replace(OWN, suites=("jammy",)),))
    assert lines(base("noble", "ubuntu"), ubuntu)[0] == "http://own.example/debian noble"
    assert lines(base("noble", "ubuntu", architecture="arm64"), ubuntu)[0].startswith("http://ports.ubuntu.com/")


def test_an_archived_release_is_not_looked_for_on_the_host_s_mirror(host: HostApt) -> None:
    found = resolve(base("buster"), host)
    assert {line.uri.split("/")[2] for line in found.lines} == {"archive.debian.org"}
    assert found.keyrings[0].content == REMOVED
    assert found.keyrings[0].inside == SHIPPED
    assert ("check-valid-until", "no") in found.lines[0].options


def test_a_mirror_in_the_definition_gives_the_main_suites_only(host: HostApt) -> None:
    found = lines(base(mirror="http://mine.example/debian"), host)
    assert found == ["http://mine.example/debian bookworm", "http://mine.example/debian bookworm-updates"]


def test_a_vendor_s_archive_with_the_same_suite_is_not_the_distribution(host: HostApt) -> None:
    vendor = replace(
        OWN, file="/etc/apt/sources.list.d/vendor.list", uris=("https://vendor.example/debian",), signed_by=("/v.gpg",)
    )
    foreign = replace(vendor, components=("stable",))
    flat = replace(vendor, suites=("nodistro",))
    found = lines(base(), replace(host, entries=(vendor, foreign, flat, OWN)))
    assert found[0] == "http://own.example/debian bookworm"
    assert found[2] == "http://deb.debian.org/debian-security bookworm-security", "the host has no security entry"


def test_what_the_host_cannot_use_is_passed_over(host: HostApt) -> None:
    entries = (
        replace(OWN, types=("deb-src",)),
        replace(OWN, uris=("cdrom:[x]/",)),
        replace(OWN, architectures=("i386",)),
    )
    assert lines(base(), replace(host, entries=entries))[0] == "http://deb.debian.org/debian bookworm"


def test_a_key_goes_with_the_mirror_that_it_signs(host: HostApt) -> None:
    by_path = replace(host, entries=(replace(OWN, signed_by=("/usr/share/keyrings/corporate.gpg",)),))
    inline = replace(host, entries=(replace(OWN, signed_by=(), key=ARMOURED),))
    for own in (by_path, inline):
        main, _, security = resolve(base(), own).lines
        assert (main.keyring.content, main.keyring.shipped) == (CORPORATE, False)
        assert main.keyring.inside == "/etc/apt/keyrings/roost.gpg"
        assert (security.keyring.content, security.keyring.shipped) == (DEBIAN, True), "the recipe's mirror"
    elsewhere = resolve(base(mirror="http://mine.example/debian"), by_path)
    assert elsewhere.keyrings[0].content == DEBIAN


def test_the_definition_s_keyring_is_above_all(host: HostApt, tmp_path: Path) -> None:
    mine = tmp_path / "mine.asc"
    mine.write_text(ARMOURED)
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()
    found = resolve(base(keyring=str(mine), keyring_digest=f"sha256:{digest}"), host)
    assert [k.content for k in found.keyrings] == [CORPORATE]
    mine.write_text(ARMOURED + "\n")
    with pytest.raises(DefinitionError, match="changed"):
        resolve(base(keyring=str(mine), keyring_digest=digest), host)


def test_a_missing_keyring_names_its_package_and_only_when_it_is_needed(host: HostApt, tmp_path: Path) -> None:
    (tmp_path / "usr/share/keyrings/ubuntu-archive-keyring.gpg").unlink()
    with pytest.raises(HostError) as caught:
        resolve(base("jammy", "ubuntu"), host)
    assert "apt install ubuntu-keyring" in caught.value.hint
    mine = tmp_path / "mine.gpg"
    mine.write_bytes(CORPORATE)
    assert resolve(base("jammy", "ubuntu", keyring=str(mine)), host).keyrings[0].content == CORPORATE


@pytest.mark.parametrize("content", [b"", b"<html>", b"\0\0\0\0\0\0\0\0KBXf", b"-----BEGIN PGP MESSAGE-----\n\nx\n"])
def test_what_is_no_keyring_is_refused_with_a_remedy(content: bytes) -> None:
    with pytest.raises(HostError) as caught:
        keyring.binary(content, "/k.gpg")
    assert "gpg --export" in caught.value.hint


def test_the_age_of_release_files_is_the_host_s_word_on_its_own_mirror_only(host: HostApt) -> None:
    lax = replace(host, options=(("Acquire::Check-Valid-Until", "false"), ("Acquire::Max-ValidTime", "9")))
    own = resolve(base("sid"), lax)
    assert own.lines[0].options == (("check-valid-until", "no"),)
    assert ("Acquire::Check-Valid-Until", "false") in own.acquire
    assert ("Acquire::Max-ValidTime", "9") in own.acquire
    other = resolve(base("noble", "ubuntu"), lax)
    assert other.lines[0].options == ()
    assert other.acquire == ()


def test_the_definition_decides_about_the_age_of_release_files(host: HostApt) -> None:
    lax = replace(host, options=(("Acquire::Check-Valid-Until", "false"), ("Acquire::Check-Date", "no")))
    strict = resolve(base("sid", check_valid_until=True), lax)
    assert strict.lines[0].options == ()
    assert strict.acquire == ()
    assert resolve(base("buster", check_valid_until=True), host).lines[0].options == ()
    assert resolve(base("sid", check_valid_until=False), host).lines[0].options == (("check-valid-until", "no"),)


def test_options_of_the_host_s_entry_are_kept_but_never_those_that_trust_blindly(host: HostApt) -> None:
    options = (("by-hash", "no"), ("trusted", "yes"), ("allow-insecure", "yes"), ("valid-until-max", "60"))
    found = resolve(base("sid"), replace(host, entries=(replace(OWN, options=options),)))
    assert found.lines[0].options == (("by-hash", "no"), ("valid-until-max", "60"))


def test_proxies_and_certificates_are_for_every_mirror(host: HostApt) -> None:
    options = (("Acquire::http::Proxy", "http://proxy.example"), ("Acquire::https::CaInfo", "/ca.pem"))
    found = resolve(base("noble", "ubuntu"), replace(host, options=options, files={"/ca.pem": b"ca", "/other": b""}))
    assert found.acquire == options
    assert found.files == {"/ca.pem": b"ca"}


def test_a_tree_without_certificates_uses_those_that_the_host_trusts(host: HostApt) -> None:
    trusting = replace(host, ca_bundle="/all.crt", files={"/all.crt": b"all"})
    assert resolve(base(mirror="https://mine.example/debian"), trusting).files == {"/all.crt": b"all"}
    assert resolve(base(mirror="http://mine.example/debian"), trusting).files == {}


def test_credentials_leave_the_address(host: HostApt) -> None:
    auth = "machine own.example\nlogin a password b\nmachine other.example login c password d\n"
    found = resolve(base(mirror="http://u%40x:p%3Aw@own.example:81/debian"), replace(host, auth=auth))
    assert found.lines[0].uri == "http://own.example:81/debian"
    assert [(c.machine, c.login, c.password) for c in found.credentials] == [
        ("http://own.example:81/debian", "u@x", "p:w"),
        ("own.example", "a", "b"),
    ]
    assert b"machine own.example:81/debian login u@x password p:w\n" in apt_auth.apt_text(found.credentials)
    assert b"other.example" not in apt_auth.apt_text(found.credentials)


def test_credentials_that_netrc_cannot_hold_are_refused_without_showing_them() -> None:
    with pytest.raises(DefinitionError) as caught:
        apt_auth.split("http://user:two%20words@own.example/")
    assert "words" not in str(caught.value.brief) + caught.value.hint.replace("spaces", "")


@pytest.mark.parametrize("mirror", ["own.example/debian", "http://a b/", "javascript:x", 'http://x/"y'])
def test_what_is_no_address_is_refused(mirror: str, host: HostApt) -> None:
    with pytest.raises(DefinitionError, match="not a mirror"):
        resolve(base(mirror=mirror), host)


def test_packages_are_shared_by_those_with_the_same_mirrors_and_keys(host: HostApt, tmp_path: Path) -> None:
    key = resolve(base("bookworm"), host).cache_key
    assert resolve(base("trixie"), host).cache_key == key
    assert resolve(base("noble", "ubuntu"), host).cache_key != key
    (tmp_path / "usr/share/keyrings/debian-archive-keyring.gpg").write_bytes(DEBIAN + b"more")
    assert resolve(base("bookworm"), host).cache_key != key


def test_mistakes_of_a_base_are_all_named() -> None:
    assert apt.mistakes(base(), recipe("debian")) == ()
    assert "bookworm" in apt.mistakes(base("bokworm"), recipe("debian"))[0]
    wrong = base("focal", "ubuntu", architecture="i386", variant="tiny", components=("main; rm",))
    assert [m.split(":")[0] for m in apt.mistakes(wrong, recipe("ubuntu"))] == [
        "ubuntu focal has no architecture 'i386'",
        "mmdebstrap has no variant 'tiny'",
        "not components",
    ]
    assert apt.mistakes(base(bootstrap="debootstrap", variant="essential"), recipe("debian"))
