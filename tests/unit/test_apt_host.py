"""What the host's apt is told, read from a root that the test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.host import apt

KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZ6fKQhYJKwYBBAHaRw8BAQdA
=abcd
-----END PGP PUBLIC KEY BLOCK-----
"""


class Root:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("/etc/os-release", 'ID=debian\nVERSION_CODENAME="bookworm"\n')

    def write(self, name: str, text: str) -> None:
        file = Path(f"{self.path}{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self) -> apt.HostApt:
        return apt.read(str(self.path))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_a_host_without_apt_gives_an_empty_value(tmp_path: Path) -> None:
    host = apt.read(str(tmp_path))
    assert (host.distribution, host.entries, host.options, host.auth, host.problems) == ("", (), (), "", ())


def test_one_line_sources(root: Root) -> None:
    root.write(
        "/etc/apt/sources.list",
        "# a comment\n"
        "deb [arch=amd64,i386 signed-by=/k.gpg check-valid-until=no] http://m.example/debian trixie main contrib # x\n"
        "deb-src http://mirror.example/debian bookworm main\n",
    )
    first, second = root.read().entries
    assert first.uris == ("http://m.example/debian",)
    assert first.suites == ("trixie",)
    assert first.components == ("main", "contrib")
    assert first.architectures == ("amd64", "i386")
    assert first.signed_by == ("/k.gpg",)
    assert first.options == (("check-valid-until", "no"),)
    assert second.types == ("deb-src",)
    assert root.read().distribution == "debian"
    assert root.read().release == "bookworm"


def test_deb822_sources(root: Root) -> None:
    indented = "".join(f" {line or '.'}\n" for line in KEY.splitlines())
    root.write(
        "/etc/apt/sources.list.d/debian.sources",
        "# the archive\nTypes: deb deb-src\nURIs: http://one.example/debian\n http://two.example/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\n# between\nSigned-By:\n" + indented + "By-Hash: no\n"
        "\n\nTypes: deb\nURIs: http://off.example\nSuites: x\nEnabled: no\n"
        "\nTypes: deb\nURIs: http://flat.example\nSuites: ./\nSigned-By: /a.gpg /b.asc",
    )
    first, second = root.read().entries
    assert first.types == ("deb", "deb-src")
    assert first.uris == ("http://one.example/debian", "http://two.example/debian")
    assert first.suites == ("bookworm", "bookworm-updates")
    assert first.key == KEY
    assert first.options == (("by-hash", "no"),)
    assert second.signed_by == ("/a.gpg", "/b.asc")


def test_only_options_that_matter_to_a_download_are_taken(root: Root) -> None:
    root.write("/etc/apt/apt.conf.d/10proxy", 'Acquire::http::Proxy "http://first.example";')
    root.write(
        "/etc/apt/apt.conf.d/20more.conf", 'Acquire { http::Proxy "http://second.example"; Check-Date "false"; };'
    )
    root.write("/etc/apt/apt.conf.d/30ignored.bak", 'Acquire::Retries "9";')
    root.write(
        "/etc/apt/apt.conf.d/40weak", 'Acquire::AllowInsecureRepositories "true"; Acquire::AllowWeakRepositories "1";'
    )
    root.write("/etc/apt/apt.conf", 'APT::Get::AllowUnauthenticated "true"; acquire::retries "2"; Dir::Cache "/x";')
    assert root.read().options == (
        ("Acquire::http::Proxy", "http://second.example"),
        ("Acquire::Check-Date", "false"),
        ("acquire::retries", "2"),
    )


def test_files_that_options_name_are_read(root: Root) -> None:
    root.write("/etc/ca.pem", "certificate")
    root.write("/etc/apt/apt.conf.d/ca", 'Acquire::https::mirror.example::CaInfo "/etc/ca.pem";')
    assert root.read().files == {"/etc/ca.pem": b"certificate"}


def test_the_certificates_that_the_host_trusts_are_found(root: Root) -> None:
    root.write("/etc/pki/tls/certs/ca-bundle.crt", "all")
    assert root.read().files[root.read().ca_bundle] == b"all"


def test_credentials_are_joined_and_never_shown(root: Root) -> None:
    root.write("/etc/apt/auth.conf", "machine a.example login u password Tops3cret")
    root.write("/etc/apt/auth.conf.d/b.conf", "machine b.example login u password p\n")
    root.write("/etc/apt/auth.conf.d/c.disabled", "machine c.example login u password p\n")
    host = root.read()
    assert host.auth == "machine a.example login u password Tops3cret\nmachine b.example login u password p\n"
    assert "Tops3cret" not in repr(host)


def test_broken_files_are_named_and_the_others_are_used(root: Root) -> None:
    root.write("/etc/apt/sources.list", "deb http://no-suite.example\n")
    root.write("/etc/apt/sources.list.d/bad.sources", "Types: deb\nURIs: http://x.example\n")
    root.write("/etc/apt/sources.list.d/good.list", "deb http://good.example/debian bookworm main\n")
    root.write("/etc/apt/apt.conf.d/bad", "Acquire {")
    root.write("/etc/apt/apt.conf.d/good", 'Acquire::Retries "3"; Acquire::https::CaInfo "/gone.pem";')
    (root.path / "etc/apt/auth.conf").mkdir()
    host = root.read()
    assert [entry.uris for entry in host.entries] == [("http://good.example/debian",)]
    assert ("Acquire::Retries", "3") in host.options
    named = sorted(problem.partition(":")[0] for problem in host.problems)
    assert named == [
        "/etc/apt/apt.conf.d/bad",
        "/etc/apt/auth.conf",
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/bad.sources",
        "/gone.pem",
    ]


def test_this_host_can_be_read() -> None:
    assert apt.read().root == "/"
