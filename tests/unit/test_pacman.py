"""The pacman family without a mirror: what it would run and write, and what it makes of the words of pacman and gpg."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

import roost
from roost.definition.model import Base, RepositoryKeys
from roost.distro import pacman, pacman_keys, recipe
from roost.distro.recipe import Origin
from roost.errors import DefinitionError, HostError
from roost.host import dnf as host_dnf

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "roost-fake-password"
ARCHIVE = "https://archive.archlinux.org/repos/2026/11/01"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys in one file, not armoured."""
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
    for name, kind in (("one", "ed25519"), ("two", "rsa2048")):
        make = (*gpg, "--passphrase", "", "--quick-generate-key", f"{name}@example.org", kind, "default", "never")
        subprocess.run(make, check=True, capture_output=True)
    path = home / "keys.gpg"
    path.write_bytes(subprocess.run((*gpg, "--export"), check=True, capture_output=True).stdout)
    subprocess.run(("gpgconf", "--homedir", str(home), "--kill", "all"), check=True)
    return path


def base(key: Path, **more: str) -> Base:
    plain = Base(
        distribution="arch", release="rolling", architecture="amd64", bootstrap="pacman", variant="minimal", keyring=str(key)
    )  # fmt: skip
    return structs.replace(plain, **more)


# -- keys


def test_fingerprints_are_gpg_s(key: Path) -> None:
    shown = subprocess.run(
        ("gpg", "--homedir", str(key.parent), "--batch", "--with-colons", "--list-keys"), check=True, capture_output=True, text=True
    ).stdout.splitlines()  # fmt: skip
    primary = [two.split(":")[9] for one, two in itertools.pairwise(shown) if one.startswith("pub:")]
    assert pacman_keys.fingerprints(key.read_bytes(), "keys.gpg") == primary
    files = pacman_keys.of_file(key.read_bytes(), "keys.gpg")
    assert files["-trusted"].decode() == "".join(f"{one}:4:\n" for one in primary)


def test_a_keyring_of_a_distribution_says_itself_whom_it_trusts(key: Path, tmp_path: Path) -> None:
    own = tmp_path / "usr/share/pacman/keyrings"
    own.mkdir(parents=True)
    (own / "archlinux.gpg").write_bytes(key.read_bytes())
    (own / "archlinux-trusted").write_text("AAAA:4:\n")
    (own / "archlinux-revoked").write_text("BBBB\n")
    found = pacman_keys.of_base(base(key, keyring=""), recipe("arch"), host_dnf.HostDnf(root=str(tmp_path)))
    assert found == {".gpg": key.read_bytes(), "-trusted": b"AAAA:4:\n", "-revoked": b"BBBB\n"}
    with pytest.raises(HostError) as caught:
        pacman_keys.of_base(base(key, keyring=""), recipe("arch"), host_dnf.HostDnf(root=str(tmp_path / "nowhere")))
    assert "apt install archlinux-keyring" in caught.value.hint
    with pytest.raises(DefinitionError):
        pacman_keys.of_base(base(key, keyring_digest=f"sha256:{'0' * 64}"), recipe("arch"), host_dnf.HostDnf())


def test_a_key_longer_than_a_fingerprint_can_say_is_no_key() -> None:
    packet = b"\xc6\xff" + (1 << 16).to_bytes(4, "big") + b"\x04" * (1 << 16)
    with pytest.raises(HostError, match=r"keys\.gpg holds a key that gpg cannot read: 65536 bytes"):
        pacman_keys.fingerprints(packet, "keys.gpg")


ARCH = '[machines.a]\ndistribution = "arch"\nrelease = "rolling"\narchitecture = "amd64"\nkeyring = "mine.gpg"\n'


def test_whom_a_keyring_trusts_is_part_of_the_base(key: Path, tmp_path: Path) -> None:
    """As much as its keys are; a keyring without such files is what it was, and so is one of another family."""
    (tmp_path / "mine.gpg").write_bytes(key.read_bytes())
    (tmp_path / "roost.toml").write_text(
        ARCH + ARCH.replace(".a]", ".b]").replace('arch"\nr', 'debian"\nr').replace("rolling", "sid")
    )
    found = [roost.load(tmp_path / "roost.toml")]
    for ending, text in (("trusted", "AAAA:4:\n"), ("trusted", "BBBB:4:\n"), ("revoked", "CCCC\n")):
        (tmp_path / f"mine-{ending}").write_text(text)
        found.append(roost.load(tmp_path / "roost.toml"))
    plain = hashlib.sha256(key.read_bytes()).hexdigest()
    digests = [one.machines["a"].base.keyring_digest for one in found]
    assert digests[0] == plain
    assert len(set(digests)) == 4
    assert {one.machines["b"].base.keyring_digest for one in found} == {plain}
    assert {str(tmp_path / "mine-trusted"), str(tmp_path / "mine-revoked")} <= set(found[3].inputs)
    assert str(tmp_path) in found[0].inputs, "such a file may come later"
    made = found[3].machines["a"].base
    files = pacman_keys.of_base(made, recipe("arch"), host_dnf.HostDnf())
    assert files == {".gpg": key.read_bytes(), "-trusted": b"BBBB:4:\n", "-revoked": b"CCCC\n"}
    (tmp_path / "mine-trusted").write_text("DDDD:4:\n")
    with pytest.raises(DefinitionError, match="the keyring changed since the definition was read"):
        pacman_keys.of_base(made, recipe("arch"), host_dnf.HostDnf())


def test_a_file_of_trust_that_cannot_be_read_has_a_line(key: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.gpg").write_bytes(key.read_bytes())
    (tmp_path / "mine-trusted").mkdir()
    (tmp_path / "roost.toml").write_text(ARCH)
    with pytest.raises(DefinitionError) as caught:
        roost.load(tmp_path / "roost.toml")
    assert f"roost.toml:5: machines.a.keyring: {tmp_path}/mine-trusted: Is a directory" in caught.value.details


# -- what is run


def test_a_base_is_made_by_a_configuration_of_its_own(key: Path, tmp_path: Path) -> None:
    where = host_dnf.read(str(tmp_path))
    mirror = f"https://me:{SECRET}@{ARCHIVE[8:]}"
    one = base(key, mirror=mirror, variant="devel")
    made = pacman.bootstrap(one, recipe("arch"), host=where, target="/t", private="/s/p", archives="/s/a")
    assert made.argv[4:] == ("/t", "/s/p", "/s/a", "base", "base-devel")
    assert made.env["HOME"] == "/s/p"
    text = made.files["pacman.conf"].decode()
    assert "SigLevel = Required DatabaseOptional\n" in text
    assert f"[core]\nServer = {ARCHIVE}/core/os/x86_64\n\n[extra]\nServer = {ARCHIVE}/extra/os/x86_64\n" in text
    assert made.files[".netrc"].decode().startswith(f"machine archive.archlinux.org login me password {SECRET}\n")
    assert SECRET not in text + " ".join(made.argv)
    finished = pacman.finish(one, recipe("arch"), host=where)
    assert text in finished.argv
    given = pacman.provision(one, recipe("arch"), host=where)
    assert given.cache_key != pacman.provision(base(key), recipe("arch"), host=where).cache_key
    more = pacman.provision(one, recipe("arch"), host=where, repositories=[Origin(url="file:///srv/x", keys="")])
    assert more.binds == ("/srv/x",)
    assert more.cache_key != given.cache_key
    with pytest.raises(HostError):
        pacman.bootstrap(one, recipe("arch"), host=where, target="/with space", private="/p", archives="/a")


def test_what_arch_does_not_have(key: Path) -> None:
    said = pacman.mistakes(base(key, release="2024", architecture="arm64"), recipe("arch"))
    assert said == ("arch has no release '2024': one of rolling",)
    said = pacman.mistakes(base(key, architecture="arm64", variant="x"), recipe("arch"))
    assert said[0] == "arch rolling has no architecture 'arm64': one of amd64"


@pytest.mark.parametrize("name", ["-Rdd", "a b", "", "core/../x", "a;b", "x=1", "https://x/y.pkg.tar.zst"])
def test_what_is_no_package_s_name(name: str) -> None:
    for make in (pacman.install, pacman.remove):
        with pytest.raises(DefinitionError):
            make([name])


@pytest.mark.parametrize("name", ["options", "local", "A", "../x"])
def test_what_is_no_repository_s_name(name: str) -> None:
    with pytest.raises(DefinitionError):
        pacman.add_repository(RepositoryKeys(name=name, url="https://example.org", suites=(), components=(), key=b""))


def test_scripts_are_a_shell_s(key: Path) -> None:
    repository = RepositoryKeys(
        name="x", url="https://example.org/$arch", suites=(), components=(), key=key.read_bytes()
    )
    for step in (
        pacman.install(["a", "core/b", "xorg-apps", "libstdc++5"]), pacman.install([], init=True), pacman.remove(["a"]), pacman.upgrade(),
        pacman.add_repository(repository), pacman.set_locale("de_DE.UTF-8"), pacman.list_packages(), pacman.set_timezone("UTC"),
    ):  # fmt: skip
        subprocess.run(("sh", "-n", "-c", step.argv[2]), check=True)


# -- what is said


@pytest.mark.parametrize(
    ("output", "brief"),
    [
        ("error: target not found: no-such\n", "no package is called no-such here"),
        ("error: hello: missing required signature\nerror: failed to commit transaction (package missing required signature)\n",
         "hello is not signed"),
        ("error: failed retrieving file 'h-1-1-x86_64.pkg.tar.zst.sig' from m : 404\nerror: failed to commit transaction (x)\n",
         "h-1-1-x86_64.pkg.tar.zst is not signed"),
        ('error: hello: signature from "Some One <one@example.org>" is unknown trust\n',
         'the mirror\'s packages are signed by a key that is not trusted: "Some One <one@example.org>"'),
        ('error: hello: signature from "Some One <one@example.org>" is marginal trust\n',
         'the mirror\'s packages are signed by a key that is not trusted: "Some One <one@example.org>"'),
        ('roost: the key ABCD1234 cannot be trusted\nerror: hello: signature from "Some One <one@example.org>" is unknown trust\n',
         "the key ABCD1234 has expired or was revoked"),
        ('error: key "BBB8D5B9F24A7F90" could not be looked up remotely\nerror: required key missing from keyring\n',
         "the mirror's packages are signed by a key that is not trusted: BBB8D5B9F24A7F90"),
        ('error: sudo: key "gone <gone@example.org>" is disabled\n:: File /c/sudo.pkg.tar.zst is corrupted (invalid (PGP signature)).\n',
         'the mirror\'s packages are signed by a key that was revoked: "gone <gone@example.org>"'),
        ("error: required key missing from keyring\n", "the mirror's packages are signed by a key that is not trusted"),
        (":: File /c/hello-1-1-x86_64.pkg.tar.zst is corrupted (invalid or corrupted package (PGP signature)).\n",
         "hello-1-1-x86_64.pkg.tar.zst is not what its packager has signed"),
        (":: File /c/hello-1-1-x86_64.pkg.tar.zst is corrupted (invalid or corrupted package (checksum)).\n",
         "hello-1-1-x86_64.pkg.tar.zst is not what the repository's list says it is"),
        ("error: database 'core' is not valid (invalid or corrupted database (PGP signature))\n",
         "the signature of the repository core is not good"),
        ("error: could not open file /t/core.db: Unrecognized archive format\n", "what the mirror has as its list of packages is none"),
        ("error: failed retrieving file 'core.db' from m.example : The requested URL returned error: 404\n",
         "the mirror does not have it: core.db"),
        ("error: failed retrieving file 'core.db' from disk : Couldn't open file /srv/core.db\n", "the mirror does not have it: core.db"),
        ("error: failed retrieving file 'core.db' from m.example : The requested URL returned error: 401\n",
         "the mirror or the proxy refuses access"),
        ("error: failed retrieving file 'core.db' from m.example : SSL certificate problem: self signed certificate\n",
         "the mirror's certificate is not trusted"),
        ("error: failed retrieving file 'core.db' from m.example : Could not resolve host: m.example\n", "cannot be reached: m.example"),
        ("error: failed retrieving file 'core.db' from m:81 : Failed to connect to m port 81 after 0 ms: Couldn't connect to server\n",
         "cannot be reached: m:81"),
        ("error: failed retrieving file 'core.db' from m : Operation too slow. Less than 1 bytes/sec transferred the last 10 seconds\n",
         "cannot be reached: m"),
        ("error: no servers configured for repository: core\n", "the machine's pacman has no mirror for core"),
        ("error: failed to commit transaction (conflicting files)\nhello: /usr/bin/hello exists in filesystem\n",
         "packages contradict each other or what is there: /usr/bin/hello exists in filesystem"),
        (":: hello and hallo are in conflict. Remove hallo? [y/N] \nerror: unresolvable package conflicts detected\n",
         "packages contradict each other: hello and hallo are in conflict"),
        (":: removing coreutils breaks dependency 'coreutils' required by base\n", "another package needs it: base"),
        (":: installing a (2-1) breaks dependency 'a=1' required by b\n", "another package needs it: b"),
        (":: unable to satisfy dependency 'libfoo.so=3' required by bar\n", "a package needs what is not here: libfoo.so=3"),
        ("error: Partition / too full: 10 blocks needed, 2 blocks free\n", "the disk is full"),
        ("roost: there is no gpg-agent on this host\n", "this host has no gpg-agent"),
        ("there is no pacman in this machine\n", "this machine has no pacman"),
        ("no locale is called xx here: /etc/locale.gen names them\n", "there is no locale xx"),
        ("all is well\n", ""),
    ],
)  # fmt: skip
def test_why_it_failed(output: str, brief: str) -> None:
    found, hint = pacman.explain(output)
    assert found == brief
    assert bool(hint) == bool(brief)


def test_what_cannot_be_reached_is_told_apart_from_what_is_not_there() -> None:
    assert pacman.unreachable("error: failed retrieving file 'a.db' from m : Could not resolve host: m\n") == "m"
    assert (
        pacman.unreachable("error: failed retrieving file 'a.db' from m : The requested URL returned error: 404\n")
        == ""
    )


def test_packages_from_the_list() -> None:
    assert pacman.packages(b"base 3-2\nvim 2:9.1-1\nodd\n\xff 1\n") == {"base": "3-2", "vim": "2:9.1-1", "\ufffd": "1"}
