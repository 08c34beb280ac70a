"""Arch from a mirror that the test makes: the base by the host's pacman, what is above by a real pacman inside it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from system.pacman_rig import CORE, EXTRA, Packer, Ring, index, keyring_files, make_arch
from system.rig import Rig, below, name_of, wait_for
from system.rpm_rig import Key, Mirror, run, served, throwaway_key
from system.test_rpm import layers, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYERED = 'profiles = ["p"]\npackages = ["hello"]\n[profiles.p]\npackages = ["other"]\n'
BASE = "base arch rolling amd64"
SECRET = "roost-fake-password-6"


class Lab(NamedTuple):
    """A mirror and all the keys. ``lab`` has signed what is in it, and three master keys the packager ``lab``."""

    mirror: Mirror
    ring: Ring
    lab: str
    masters: list[str]

    def definition(self, more: str = "", name: str = "m", mirror: str = "", *, keyring: str = "") -> str:
        """A machine of the mirror; its keyring is as Arch's own unless another one is named."""
        key = Key(self.mirror.key.home, Path(keyring)) if keyring else self.mirror.key
        return Mirror(self.mirror.directory, key).definition("arch", "rolling", more, name, mirror)

    def copied(self, place: Path) -> Lab:
        """One of its own to change."""
        return self._replace(mirror=self.mirror.copied(place))

    def put(self, package: Path, by: str = "lab", where: str = EXTRA) -> None:
        """Another package for the mirror, signed by somebody or by nobody."""
        if by:
            self.ring.sign(by, package)
        index(self.mirror.directory / where, [package])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A mirror of Arch."""
    place = tmp_path_factory.mktemp("arch")
    with throwaway_key("lab", place) as key:
        ring = Ring(key)
        masters = [ring.make(f"master{number}") for number in range(3)]
        packager = ring.fingerprint("lab@example.org")
        ring.certify(packager, masters)
        keyring = keyring_files(place / "keyring", ring, [packager], masters)
        mirror = make_arch(place / "arch", key, keyring)
        yield Lab(Mirror(mirror.directory, Key(key.home, keyring)), ring, packager, masters)


@pytest.fixture(scope="module")
def arch(lab: Lab, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A store with Arch in three layers; tests add to it."""
    state = tempfile.mkdtemp(prefix="arch", dir=place)
    os.rmdir(state)
    states.append(state)
    rig = Rig(state, tmp_path_factory.mktemp("rolling"), lab.definition(LAYERED))
    done = rig("build", timeout=300)
    assert done.status == 0, done
    return rig


@pytest.fixture
def empty(new_store: Callable[[], str], tmp_path: Path) -> Rig:
    """A store without any of it."""
    return Rig(new_store(), tmp_path)


# -- what is made


def test_arch_in_layers(arch: Rig, lab: Lab) -> None:
    done = arch.run("hello; pacman -Q other base 2>/dev/null; cat /etc/pacman.conf", machine="m")
    assert done.text.startswith("1\npost of 1-1\nother 1-1\nbase 1-1\n[options]\n"), done
    assert "SigLevel = Required DatabaseOptional\n" in done.text
    assert f"[core]\nServer = {lab.mirror.url}/{CORE}\n\n[extra]\nServer = {lab.mirror.url}/{EXTRA}\n" in done.text
    [base, profile, machine] = [layer["digest"][:16] for layer in arch.json("plan")["layers"]]
    below_it = arch.json("layer", "show", base)["packages"]
    assert below_it["archlinux-keyring"] == "1-1"
    assert arch.json("layer", "show", profile)["packages"].keys() - below_it.keys() == {"other"}
    assert arch.json("layer", "show", machine)["packages"]["greeting"] == "1-1"


def test_nothing_of_the_making_stays(arch: Rig) -> None:
    """Neither lists nor packages, nor the key that could sign others."""
    look = """find /var/cache /var/log /root /tmp /var/lib/pacman/sync -type f; find / -xdev -path '*roost*' -type f; cat /etc/machine-id
        ls /etc/pacman.d/gnupg; gpg --homedir /etc/pacman.d/gnupg --list-secret-keys 2>/dev/null"""
    said = arch.run(look, machine="m").text.split()
    assert said == ["/var/lib/roost/packages", "gpg-agent.conf", "gpg.conf", "pubring.gpg", "trustdb.gpg"]
    assert [
        path for path in Path(arch.state).rglob("*") if path.name in ("keys.gpg", ".netrc", "private-keys-v1.d")
    ] == []


def test_all_that_a_definition_may_say(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    """The host's own repositories, settings and hooks are not asked, whatever they say."""
    more = """
        user = { name = "sai", uid = 883, groups = ["wheel", "dialout"], sudo = "nopasswd" }
        packages = ["extra/hello"]
        locale = "C.UTF-8"
        timezone = "Europe/Berlin"
        root-password = "$6$salt$1eO9B1R0.9G5i5PzKIfvMdT3k9vH0G3mQ9L1Yk8Zk5q5b0a8tYFhZ7n3vT8m1n4xw5V7mN9c2kQ0uB6yJ8aE0/"
        services = ["systemd-networkd"]
        files = { "/etc/motd" = { content = "hi" } }
        boot = {}
    """
    rig = Rig(arch.state, tmp_path, lab.definition(more, mirror=f"{lab.mirror.url}/"))
    (tmp_path / "evil").mkdir()
    index(tmp_path / "evil/core/os/x86_64", [Packer(tmp_path).small("base", "99")])
    (tmp_path / "pacman.conf").write_text(
        f"[options]\nSigLevel = Never\nIgnorePkg = tzdata\nNoExtract = *\n[core]\nServer = file://{tmp_path}/evil/core/os/x86_64\n"
    )
    hook = "[Trigger]\nOperation = Install\nType = Package\nTarget = *\n[Action]\nWhen = PreTransaction\nExec = /bin/false\nAbortOnFail\n"
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/no.hook").write_text(hook)
    script = f"""set -e
        mount -t tmpfs none /mnt
        mkdir /mnt/upper /mnt/work
        mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
        mkdir -p /etc/pacman.d/hooks
        mount --bind {tmp_path}/hooks /etc/pacman.d/hooks
        mount --bind {tmp_path}/pacman.conf /etc/pacman.conf
        exec "$@\""""
    done = rig("build", prefix=("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"), timeout=300)
    assert done.status == 0, done
    look = """pacman -Q base hello dbus util-linux systemd-sysvcompat 2>/dev/null; id sai; cat /etc/locale.conf; readlink /etc/localtime
        cat /etc/sudoers.d/roost-sai; grep ^root /etc/shadow | cut -c1-12; ls /etc/systemd/system/*.wants
        cat /etc/motd; wc -c </etc/machine-id"""
    done = rig.run(look, machine="m")
    for line in (
        "base 1-1", "hello 1-1", "dbus 1-1", "util-linux 1-1", "systemd-sysvcompat 1-1", "uid=883(sai) gid=65534(nobody)",
        "LANG=C.UTF-8", "../usr/share/zoneinfo/Europe/Berlin", "sai ALL=(ALL:ALL) NOPASSWD: ALL", "root:$6$salt",
        "systemd-networkd.service",
    ):  # fmt: skip
        assert line in done.text, done
    assert done.text.endswith("hi0\n")
    rig.define(lab.definition('locale = "xx_XX.UTF-8"', mirror=f"{lab.mirror.url}/"))
    refused(rig, "there is no locale xx_XX.UTF-8")


def test_downloads_are_kept_upgrades_whole_and_no_secret_is_left(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    """From a mirror that wants a login and has a certificate that only the host trusts, by a keyring that is no more than keys."""
    own = lab.copied(tmp_path / "mirror")
    (tmp_path / "lab.gpg").write_bytes(lab.ring.export(lab.lab))
    (tmp_path / "auth").mkdir()
    trusted = tmp_path / "trusted.pem"
    names = ("-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1")
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", trusted, *names
    )
    (tmp_path / "whole.pem").write_bytes(trusted.read_bytes() + (tmp_path / "key").read_bytes())
    script = f"""mkdir -p /etc/apt/auth.conf.d && mount --bind {tmp_path}/auth /etc/apt/auth.conf.d
        mount --bind {trusted} /etc/ssl/certs/ca-certificates.crt && exec "$@\""""
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")
    with served(own.mirror.directory, f"somebody:{SECRET}", tmp_path / "whole.pem") as server:
        (tmp_path / "auth/zz.conf").write_text(f"machine {server.url[8:]} login somebody password {SECRET}\n")

        def machine(name: str, package: str) -> str:
            return own.definition(f'packages = ["{package}"]\n', name, server.url, keyring=f"{tmp_path}/lab.gpg")

        rig = Rig(arch.state, tmp_path, machine("a", "hello") + machine("b", "greeting"))
        hellos = "cache/packages/*/hello-1-1-x86_64.pkg.tar.zst"
        before = set(Path(rig.state).glob(hellos))
        done = rig("build", "-j", "1", prefix=prefix, timeout=300)
        assert done.status == 0, done
        asked = [path.rpartition("/")[2] for path in server.asked]
        # who has not said the login yet is asked for it
        assert 1 <= asked.count("greeting-1-1-x86_64.pkg.tar.zst") <= 2, asked
        assert 1 <= asked.count("greeting-1-1-x86_64.pkg.tar.zst.sig") <= 2, asked
        # a crash has cut it short, as nothing in the cache is synced
        [kept] = set(Path(rig.state).glob(hellos)) - before
        os.truncate(kept, 100)
        own.put(Packer(tmp_path / "shop").small("greeting", "2"))
        rig.define(machine("a", "hello") + machine("b", "greeting") + machine("c", "other") + machine("d", "hello"))
        rig.file.write_text(rig.file.read_text() + 'profiles = ["p"]\n[profiles.p]\npackages = ["greeting", "other"]\n')
        done = rig("build", prefix=prefix, timeout=300)
        assert done.status == 0, done
        assert rig.run("hello", machine="d").text == "2\npost of 1-1\n"
        assert rig.run("hello; cat /etc/ssl/certs/*", machine="a").text == "1\npost of 1-1\nnone\n"
    every = [Path(directory) / name for directory, _, names in os.walk(rig.state) for name in names]
    plain = [path for path in every if path.is_file() and not path.is_symlink()]
    assert [path for path in plain if SECRET.encode() in path.read_bytes()] == []


def test_what_is_removed_goes_with_what_it_alone_needed(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    """A name that only another package goes by is no name; what others need stays, as all of it would go."""
    more = 'profiles = ["p"]\nremove-packages = ["hello", "not-there", "sh"]\n[profiles.p]\npackages = ["other", "hello"]\n'
    rig = Rig(arch.state, tmp_path, lab.definition(more))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run("pacman -Qq | grep -xE 'hello|greeting|other|coreutils'", machine="m").text == "coreutils\nother\n"
    rig.define(lab.definition('remove-packages = ["tzdata"]'))
    refused(rig, "step 'remove tzdata' failed: another package needs it: base")


def test_an_update_upgrades_what_was_committed(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    own = lab.copied(tmp_path / "mirror")
    with served(own.mirror.directory) as server:
        rig = Rig(arch.state, tmp_path, own.definition('packages = ["hello"]', mirror=server.url))
        assert rig("build", timeout=300).status == 0
        assert rig("session", "commit", rig.kept("true", machine="m"), "kept").status == 0
        rig.define('[machines.k]\nfrom = "layer:kept"\n')
        own.put(Packer(tmp_path / "shop").small("greeting", "2"))
        done = rig("build", "--update")
        assert done.status == 0, done
        look = "hello; ls /var/lib/pacman /var/cache/pacman/pkg /etc/pacman.d/gnupg"
        assert rig.run(look, machine="k").text.split() == [
            "2", "post", "of", "1-1", "/etc/pacman.d/gnupg:", "gpg-agent.conf", "gpg.conf", "pubring.gpg", "trustdb.gpg",
            "/var/cache/pacman/pkg:", "/var/lib/pacman:", "local",
        ]  # fmt: skip


def test_a_new_packager_s_key_comes_first(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    """With the package archlinux-keyring, whose script asks pacman-key to sign; the one who left is not trusted any more."""
    own = lab.copied(tmp_path / "mirror")
    rig = Rig(arch.state, tmp_path, own.definition(mirror=own.mirror.url))
    assert rig("build", timeout=300).status == 0
    newcomer, gone = lab.ring.make("newcomer"), lab.ring.make("gone")
    for one in (newcomer, gone):
        lab.ring.certify(one, lab.masters)
    shop = Packer(tmp_path / "shop")
    own.put(shop.small("other", "2"), by="newcomer")
    rig.define(own.definition('packages = ["other"]', mirror=own.mirror.url))
    refused(rig, "the mirror's packages are signed by a key that is not trusted")
    newer = keyring_files(tmp_path / "newer", lab.ring, [lab.lab, newcomer], lab.masters, gone)
    own.put(shop.keyring("2", newer), where=CORE)
    done = rig("build")
    assert done.status == 0, done
    look = "pacman -Q other archlinux-keyring 2>/dev/null; ls /etc/pacman.d/gnupg"
    assert rig.run(look, machine="m").text == (
        "other 2-1\narchlinux-keyring 2-1\ngpg-agent.conf\ngpg.conf\npubring.gpg\ntrustdb.gpg\n"
    )
    own.put(shop.small("sudo", "2"), by="gone")
    rig.define(own.definition('packages = ["other", "sudo"]', mirror=own.mirror.url))
    refused(rig, "step 'install 2 packages' failed: the mirror's packages are signed by a key that was revoked")


def test_somebody_elses_repository(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    with throwaway_key("other", tmp_path) as key:
        package = Packer(tmp_path / "shop").small("theirs")
        Ring(key).sign("other", package)
        place = tmp_path / "theirs/os/x86_64"
        index(place, [package])
        repository = f'repositories = [{{ name = "theirs", url = "file://{place}"%s }}]\npackages = ["theirs"]'
        rig = Rig(arch.state, tmp_path, lab.definition(repository % ""))
        refused(rig, "signed by a key that is not trusted", "keyring")
        rig.define(lab.definition(repository % f', key = "{key.public}"'))
        done = rig("build")
        assert done.status == 0, done
        look = "pacman -Q theirs 2>/dev/null; tail -n 2 /etc/pacman.conf; ls /etc/pacman.d/gnupg | grep -c private"
        assert rig.run(look, machine="m").text == f"theirs 1-1\n[theirs]\nServer = file://{place}\n0\n"


def test_a_bootstrap_tarball(arch: Rig, lab: Lab, tmp_path: Path) -> None:
    """As Arch publishes one: its pacman has neither mirrors nor keys yet, and there is no list of packages."""
    own = lab.copied(tmp_path / "mirror")
    tree = f"{arch.state}/layers/{arch.json('plan')['layers'][0]['digest']}/tree"
    without = [f"--exclude=./{path}" for path in ("etc/pacman.conf", "etc/pacman.d/gnupg", "var/lib/roost")]
    archive = tmp_path / "bootstrap.tar"
    subprocess.run(("tar", "-c", "-C", tree, "-f", archive, *without, "."), check=True)
    (tmp_path / "etc").mkdir()
    text = "[options]\nSigLevel = Required DatabaseOptional\nDownloadUser = alpm\nCheckSpace\n[core]\nInclude = /etc/pacman.d/mirrorlist\n"
    (tmp_path / "etc/pacman.conf").write_text(text)
    subprocess.run(("tar", "-r", "-C", tmp_path, "-f", archive, "./etc/pacman.conf"), check=True)
    more = 'packages = ["hello"]\nuser = { name = "sai" }\n'
    core, extra = (
        f'{{ name = "{path[: path.index("/")]}", url = "{own.mirror.url}/{path}" }}' for path in (CORE, EXTRA)
    )
    machine = f'[machines.t]\nfrom = "tar:{archive}"\n{more}'
    rig = Rig(arch.state, tmp_path, f"{machine}repositories = [{core}, {extra}]\n")
    done = rig("build")
    assert done.status == 0, done
    look = "hello; id -un sai; grep -c Include /etc/pacman.conf; ls /etc/pacman.d/gnupg | grep -c private"
    assert rig.run(look, machine="t").text == "1\npost of 1-1\nsai\n0\n0\n"
    assert rig.json("layer", "show", rig.json("plan")["layers"][-1]["digest"][:16])["packages"]["hello"] == "1-1"
    own.put(Packer(tmp_path / "shop").small("greeting", "2"))
    done = rig("build", "--update")
    assert done.status == 0, done
    assert rig.run("hello", machine="t").text == "2\npost of 1-1\n"


# -- what is refused


def test_keys_that_did_not_sign_it(empty: Rig, lab: Lab, tmp_path: Path) -> None:
    with throwaway_key("wrong", tmp_path) as key:
        empty.define(lab.definition(keyring=str(key.public)))
        refused(
            empty,
            f"{BASE}: step 'pacman' failed: the mirror's packages are signed by a key that is not trusted",
            "keyring",
        )
    two = keyring_files(tmp_path / "two", lab.ring, [lab.lab], lab.masters[:2])
    empty.define(lab.definition(keyring=str(two)))
    refused(empty, "step 'pacman' failed: the mirror's packages are signed by a key that is not trusted")


def test_packages_that_nobody_signed(empty: Rig, arch: Rig, lab: Lab, tmp_path: Path) -> None:
    bad = lab.copied(tmp_path / "mirror")
    (bad.mirror.directory / CORE / "tzdata-1-1-x86_64.pkg.tar.zst.sig").unlink()
    bad.put(Packer(tmp_path / "shop").small("tzdata"), by="", where=CORE)
    empty.define(bad.definition(mirror=bad.mirror.url))
    refused(empty, "tzdata", "is not signed")


@pytest.mark.parametrize("how", ["file", "http"])
def test_a_package_that_was_changed(empty: Rig, lab: Lab, tmp_path: Path, how: str) -> None:
    bad = lab.copied(tmp_path / "mirror")
    package = bad.mirror.directory / CORE / "tzdata-1-1-x86_64.pkg.tar.zst"
    content = bytearray(package.read_bytes())
    content[-5] ^= 1
    package.unlink()
    package.write_bytes(content)
    with served(bad.mirror.directory) as server:
        empty.define(bad.definition(mirror=server.url if how == "http" else bad.mirror.url))
        refused(empty, "tzdata-1-1-x86_64.pkg.tar.zst is not what its packager has signed")


def test_mirrors_that_have_nothing(empty: Rig, arch: Rig, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with served(tmp_path / "nothing") as server:
        empty.define(lab.definition(mirror=server.url))
        refused(empty, "the mirror does not have it: ", "https://archive.archlinux.org/repos/")
    empty.define(lab.definition(mirror=f"file://{tmp_path}/nothing"))
    refused(empty, "the mirror does not have it: ")
    empty.define(lab.definition(mirror="http://127.0.0.1:1/arch"))
    refused(empty, "127.0.0.1:1 cannot be reached", status=9)
    arch_of_day = Rig(arch.state, tmp_path, lab.definition('packages = ["no-such-thing"]'))
    refused(arch_of_day, "machine m: step 'install no-such-thing' failed: no package is called no-such-thing here")
    empty.define('[machines.m]\ndistribution = "arch"\nrelease = "2024"\narchitecture = "arm64"\n')
    refused(empty, "rolling", status=2)


def test_a_bootstrap_that_is_killed(empty: Rig, lab: Lab) -> None:
    """It and gpg's agent end with Roost, and what it has made is gone with the next build."""
    before = layers(empty)
    empty.define(lab.definition())
    with empty.started("build") as child:
        wait_for(lambda: {"gpg-agent", "pacman"} & {name_of(pid) for pid in below(child.pid)})
        ours = below(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: not any(name_of(pid) for pid in ours), 20)
    done = empty("build", timeout=200)
    assert done.status == 0, done
    assert layers(empty) == sorted([*before, empty.json("plan")["layers"][0]["digest"]])
