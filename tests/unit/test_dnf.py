"""The dnf family without a mirror: what it would run and write, and what it makes of the words of dnf and yum."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from roost.definition.model import Base, RepositoryKeys
from roost.distro import dnf, dnf_repos, keyring, recipe
from roost.distro.recipe import Origin
from roost.errors import DefinitionError, HostError
from roost.host import dnf as host_dnf

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "roost-fake-password"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys in one file, not armoured."""
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
    for name in ("one", "two"):
        make = (*gpg, "--passphrase", "", "--quick-generate-key", f"{name}@example.org", "ed25519", "sign", "never")
        subprocess.run(make, check=True, capture_output=True)
    path = home / "keys.gpg"
    path.write_bytes(subprocess.run((*gpg, "--export"), check=True, capture_output=True).stdout)
    subprocess.run(("gpgconf", "--homedir", str(home), "--kill", "all"), check=True)
    return path


def base(distribution: str, release: str, key: Path, **more: str) -> Base:
    plain = Base(
        distribution=distribution, release=release, architecture="amd64", bootstrap="dnf", variant="minimal", keyring=str(key)
    )  # fmt: skip
    return structs.replace(plain, **more)


def host(tmp_path: Path, **files: str) -> host_dnf.HostDnf:
    """A host whose files these are: path with ``__`` for ``/`` → text."""
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host_dnf.read(str(tmp_path))


def made(one: Base, where: host_dnf.HostDnf) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """What a base's bootstrap runs, its environment, and the files that it reads."""
    found = dnf.bootstrap(one, recipe(one.distribution), host=where, target="/t", private="/s/p", archives="/s/a")
    return found.argv, found.env, {name: content.decode() for name, content in found.files.items()}


# -- keys


def test_each_key_has_an_armour_of_its_own(key: Path) -> None:
    """As gpg reads them back, and whichever way they came."""
    text = keyring.armoured(key.read_bytes(), "keys.gpg")
    assert text.count(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") == 2
    for block in text.split(b"-----END PGP PUBLIC KEY BLOCK-----\n")[:2]:
        shown = subprocess.run(
            ("gpg", "--homedir", str(key.parent), "--batch", "--no-autostart", "--show-keys", "--with-colons"),
            input=block + b"-----END PGP PUBLIC KEY BLOCK-----\n", check=True, capture_output=True,
        ).stdout  # fmt: skip
        assert shown.count(b"pub:") == 1
    assert keyring.armoured(text, "keys.asc") == text
    assert keyring.binary(text, "keys.asc") == key.read_bytes()


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_half_a_key_is_none(key: Path, cut: int) -> None:
    with pytest.raises(HostError) as caught:
        keyring.armoured(key.read_bytes()[:-cut], "keys.gpg")
    assert "keys.gpg" in caught.value.brief


# -- what is run


def test_a_fedora_32_is_made_by_the_hosts_dnf_from_its_archive(key: Path, tmp_path: Path) -> None:
    argv, env, files = made(base("fedora", "32", key), host(tmp_path))
    assert argv[0] == "/bin/sh"
    assert argv[4:] == (
        "/t", "/s/p", "fedora 32 is archived, and at https://archives.fedoraproject.org/pub/archive/fedora/linux", "-y", "-c",
        "/s/p/dnf.conf", "--installroot=/t", "--releasever=32", "--setopt=cachedir=/s/a", "--setopt=logdir=/s/p", "install", "systemd",
        "passwd", "dnf", "fedora-release", "glibc-langpack-en", "glibc-minimal-langpack",
    )  # fmt: skip
    assert env == {"LC_ALL": "C.UTF-8", "HOME": "/s/p"}
    archive = "https://archives.fedoraproject.org/pub/archive/fedora/linux"
    assert (
        f"[fedora]\nname=fedora\nbaseurl={archive}/releases/32/Everything/x86_64/os/\nenabled=1\ngpgcheck=1\n"
        in files["dnf.conf"]
    )
    assert f"baseurl={archive}/updates/32/Everything/x86_64/\n" in files["dnf.conf"]
    assert "reposdir=/s/p/none\nvarsdir=/s/p/none\nplugins=0\n" in files["dnf.conf"]
    assert files[".rpmmacros"] == "%_dbpath /var/lib/rpm\n"


@pytest.mark.parametrize(
    ("distribution", "release", "architecture", "url"),
    [
        ("fedora", "44", "arm64", "https://dl.fedoraproject.org/pub/fedora/linux/releases/44/Everything/aarch64/os/"),
        ("centos", "7", "amd64", "https://vault.centos.org/7.9.2009/os/x86_64/"),
        ("centos", "8", "ppc64el", "https://vault.centos.org/8.5.2111/BaseOS/ppc64le/os/"),
        ("centos", "8-stream", "amd64", "https://vault.centos.org/8-stream/BaseOS/x86_64/os/"),
        ("centos", "9-stream", "amd64", "https://mirror.stream.centos.org/9-stream/BaseOS/x86_64/os/"),
        ("almalinux", "10", "amd64", "https://repo.almalinux.org/almalinux/10/BaseOS/x86_64/os/"),
        ("rockylinux", "9", "s390x", "https://dl.rockylinux.org/pub/rocky/9/BaseOS/s390x/os/"),
    ],
)
def test_where_a_release_comes_from(
    key: Path, tmp_path: Path, distribution: str, release: str, architecture: str, url: str
) -> None:
    one = base(distribution, release, key, architecture=architecture)
    found = dnf_repos.resolve(one, recipe(distribution), host(tmp_path))
    assert found.repos[0].url == url


def test_a_mirror_of_the_definition_has_every_repository(key: Path, tmp_path: Path) -> None:
    one = base("centos", "8", key, mirror="http://mirror.example/centos/")
    found = dnf_repos.resolve(one, recipe("centos"), host(tmp_path))
    assert [repo.url for repo in found.repos] == [
        f"http://mirror.example/centos/8.5.2111/{name}/x86_64/os/" for name in ("BaseOS", "AppStream", "extras", "PowerTools")
    ]  # fmt: skip


def test_what_no_release_has_is_said(key: Path) -> None:
    assert "8-stream" in dnf.mistakes(base("centos", "6", key), recipe("centos"))[0]
    assert "armhf" in dnf.mistakes(base("fedora", "40", key, architecture="armhf"), recipe("fedora"))[0]
    with pytest.raises(DefinitionError):
        made(base("centos", "6", key), host_dnf.HostDnf())


# -- what stays out of it


def test_proxies_and_logins_are_for_the_making_alone(key: Path, tmp_path: Path) -> None:
    assert host(tmp_path, etc__dnf__vars="", etc__apt__x="").proxies == {}
    (tmp_path / "etc/dnf/dnf.conf").write_text(
        f"[main]\nproxy=http://proxy.example:3128\nproxy_username=me\nproxy_password={SECRET}/1\n"
    )
    (tmp_path / "etc/apt/auth.conf").write_text(f"machine mirror.example login me password {SECRET}2\n")
    where = host_dnf.read(str(tmp_path))
    assert SECRET not in repr(where)
    one = base("fedora", "32", key, mirror="https://mirror.example/fedora")
    argv, env, files = made(one, where)
    assert env["https_proxy"] == f"http://me:{SECRET}%2F1@proxy.example:3128"
    assert files["dnf.conf"].count(f"username=me\npassword={SECRET}2\n") == 2
    finish = dnf.finish(one, recipe("fedora"), host=where)
    assert not any(SECRET in word for word in (*argv, *finish.argv, finish.stdin.decode()))
    seen = dnf.provision(
        one, recipe("fedora"), host=where, repositories=[Origin(url="http://mirror.example/own", keys="")]
    )
    lines = seen.files["credentials"].decode().splitlines()
    assert lines[0] == f"https://mirror.example/fedora/releases/32/Everything/x86_64/os/\tme\t{SECRET}2"
    assert lines[-1] == f"http://mirror.example/own\tme\t{SECRET}2"
    assert seen.env["http_proxy"] == env["http_proxy"]
    assert SECRET not in seen.cache_key + seen.cache


def test_the_hosts_certificates_stand_in_for_expired_ones(key: Path, tmp_path: Path) -> None:
    path = tmp_path / "etc/ssl/certs/ca-certificates.crt"
    path.parent.mkdir(parents=True)
    path.write_text("certificates\n")
    seen = dnf.provision(base("centos", "7", key), recipe("centos"), host=host_dnf.read(str(tmp_path)))
    assert seen.files["certificates.pem"] == b"certificates\n"
    assert b"sslcacert=/run/roost/provision/certificates.pem\n" in seen.files["dnf.conf"]


def test_another_repository_has_a_cache_of_its_own(key: Path, tmp_path: Path) -> None:
    one, where = base("fedora", "32", key), host(tmp_path)
    plain = dnf.provision(one, recipe("fedora"), host=where)
    more = dnf.provision(one, recipe("fedora"), host=where, repositories=[Origin(url="file:///srv/own", keys="k")])
    assert plain.cache_key != more.cache_key
    assert more.binds == ("/srv/own",)
    one = base("fedora", "32", key, mirror="file:///srv/fedora")
    assert dnf.provision(one, recipe("fedora"), host=where).binds == ("/srv/fedora",)


def somebodys(name: str, url: str, key: bytes = b"") -> RepositoryKeys:
    return RepositoryKeys(name=name, url=url, suites=(), components=(), key=key)


def test_a_repository_of_somebody_else(key: Path) -> None:
    found = dnf.add_repository(somebodys("own", "https://x.example/$releasever/", key.read_bytes()))
    assert "gpgcheck=1\nrepo_gpgcheck=0\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-own\n" in found.argv[-2]
    assert found.stdin.count(b"BEGIN PGP") == 2
    found = dnf.add_repository(somebodys("own", "https://x.example/"))
    assert "RPM-GPG-KEY-roost\n" in found.argv[-2]
    for name, url in (("roost", "https://x.example/"), ("own", "https://x.example/ gpgcheck=0"), ("own", "ftps:x")):
        with pytest.raises(DefinitionError):
            dnf.add_repository(somebodys(name, url))


@pytest.mark.parametrize("name", ["-y", "a b", "", "a;b", "$(x)", "--nogpgcheck"])
def test_what_is_no_package(name: str) -> None:
    with pytest.raises(DefinitionError):
        dnf.install([name])


# -- what is said

SAID = [
    (
        "  - Curl error (6): Couldn't resolve host name for http://mirror.invalid/x/8.5.2111/BaseOS/x86_64/os/repodata/repomd.xml [Could]",
        "cannot be reached: http://mirror.invalid/x/8.5.2111/BaseOS/x86_64/os",
    ),
    (
        "http://m.example/7.9.2009/os/x86_64/repodata/repomd.xml: [Errno 14] curl#7 - Failed connect; Connection refused",
        "cannot be reached: http://m.example/7.9.2009/os/x86_64",
    ),
    ("Public key for h.rpm is not installed\nError: GPG check FAILED", "the mirror's packages are signed by a key that is not trusted"),
    ("Package hello-1-1.x86_64.rpm is not signed\nError: GPG check FAILED", "the package hello-1-1.x86_64 is not signed"),
    ("Error: repo 'x': repomd.xml GPG signature verification error: Bad GPG signature", "the repository's signature is not good"),
    ("No match for argument: nope\nError: Unable to find a match: nope", "no package is called nope here"),
    ("No package nope available.\nError: Not tolerating missing names on install, stopping.", "no package is called nope here"),
    (" Problem: conflicting requests\n  - nothing provides libx.so.1 needed by y-1.x86_64", "a package needs what is not here: libx.so.1"),
    (
        "roost: archived: centos 8 is archived, and at https://vault.centos.org\nStatus code: 404 for http://m.example/8/repomd.xml (",
        "the mirror does not have it: http://m.example/8/repomd.xml",
    ),
    ("Error Summary\n-------------\nDisk Requirements:\n   At least 10MB more space needed on the / filesystem.", "the disk is full"),
    # dnf5 5.4 (Debian sid)
    (
        ('OpenPGP check for package "systemd-1-1.x86_64" (/a/systemd-1-1.x86_64.rpm) from repo "fedora" has failed: '
        "Import of the key didn't help, wrong key?"),
        "the mirror's packages are signed by a key that is not trusted",
    ),
    (
        ('OpenPGP check for package "passwd-1-1.x86_64" (/a/passwd-1-1.x86_64.rpm) from repo "fedora" has failed: '
        "The package is not signed."),
        "the package passwd-1-1.x86_64 is not signed",
    ),
    (
        (">>> Downloading successful, but checksum doesn't match. Calculated: 9a(sha256)  Expected: b3(sha256)  - "
        "http://m.example/os/Packages/passwd-1-1.x86_64.rpm\n Librepo error: Cannot download Packages/passwd-1-1.x86_64.rpm"),
        "passwd-1-1.x86_64 is not what the repository's list says it is",
    ),
    (
        ">>> Curl error (37): Could not read a file:// file for file:///m/os/repodata/repomd.xml [Could not open file /m/os]",
        "the mirror does not have it: file:///m/os/repodata/repomd.xml",
    ),
    (
        ">>> Curl error (6): Could not resolve hostname for http://m.invalid/os/repodata/repomd.xml [Could not resolve host: m]",
        "cannot be reached: http://m.invalid/os",
    ),
    ("Failed to resolve the transaction:\nNo match for argument: nope\nYou can try", "no package is called nope here"),
    ("chroot: failed to run command 'rpm': Exec format error", "this host cannot run programs of that architecture"),
    ("something else", ""),
]  # fmt: skip


@pytest.mark.parametrize(("output", "brief"), SAID)
def test_what_went_wrong(output: str, brief: str) -> None:
    found, hint = dnf.explain(output)
    assert found == brief
    assert bool(hint) == bool(brief)
    if "archived" in output:
        assert "https://vault.centos.org" in hint


def test_a_mirrors_address_is_said_without_its_login() -> None:
    said = "Curl error (7): Couldn't connect to server for http://me:secret@m.example/os/repodata/repomd.xml [Failed to connect]"
    assert dnf.unreachable(said) == "http://m.example/os"
    assert dnf.unreachable("Status code: 404 for http://m.example/") == ""


def test_packages_from_the_list() -> None:
    text = b"glibc\t2.31-2.fc32\tx86_64\nglibc\t2.31-2.fc32\ti686\ngpg-pubkey\t12-34\t(none)\nvim\t2:8.2-1\tx86_64\nodd\n\xff\t1\tx\n"
    assert dnf.packages(text) == {"glibc": "2.31-2.fc32", "glibc.i686": "2.31-2.fc32", "vim": "2:8.2-1", "\ufffd": "1"}
    kernels = b"kernel-core\t5.6.6-300\tx86_64\nkernel-core\t5.11.22-100\tx86_64\nkernel-core\t5.6.6-300\ti686\n"
    assert dnf.packages(kernels) == {
        "kernel-core-5.6.6-300": "5.6.6-300", "kernel-core-5.11.22-100": "5.11.22-100", "kernel-core": "5.6.6-300",
    }  # fmt: skip
