"""Fedora and CentOS from a mirror that the test makes, by the real dnf: on the host for bases, inside for what is above."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.faults import Worker
from system.rig import Rig
from system.rpm_rig import CENTOS_8, FEDORA, Mirror, Workshop, index, run, served, sign, throwaway_key
from system.scenes import DEFINITION, World, wrong

if TYPE_CHECKING:
    from collections.abc import Callable

MAIN = FEDORA[0].format("32")
ALL = os.environ.get("ROOST_FAULTS") == "all"
LAYERED = 'profiles = ["p"]\npackages = ["hello"]\n[profiles.p]\npackages = ["other"]\n'


@pytest.fixture(scope="module")
def mirror(rpm_mirror: Mirror) -> Mirror:
    """Signed by one key, all of it."""
    return rpm_mirror


@pytest.fixture(scope="module")
def fedora(mirror: Mirror, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A store with fedora 32 in three layers; tests add to it."""
    state = tempfile.mkdtemp(prefix="rpm", dir=place)
    os.rmdir(state)
    states.append(state)
    rig = Rig(state, tmp_path_factory.mktemp("fedora"), mirror.definition("fedora", "32", LAYERED))
    done = rig("build", timeout=300)
    assert done.status == 0, done
    return rig


def layers(rig: Rig) -> list[str]:
    """What is in the store, half-made layers too."""
    return sorted(name for kind in ("layers", "staging") for name in os.listdir(f"{rig.state}/{kind}"))


# -- what is made


def test_fedora_32_in_layers(fedora: Rig, mirror: Mirror) -> None:
    done = fedora.run("hello; rpm -q other; rpm -q nothing; cat /etc/os-release", machine="m")
    assert done.text.startswith("2\npost of 1\nother-1-1.x86_64\npackage nothing is not installed\nID=fedora"), done
    plan = fedora.json("plan")
    assert [(layer["name"], layer["verb"]) for layer in plan["layers"]] == [
        ("base fedora 32 amd64", "reuse"), ("profile p", "reuse"), ("machine m", "reuse"),
    ]  # fmt: skip


def test_its_repositories_are_those_of_the_recipe(fedora: Rig, mirror: Mirror) -> None:
    """What a package has brought stays out of use, also when that package is updated."""
    done = fedora.run("cat /etc/yum.repos.d/roost.repo; echo; cat /etc/yum.repos.d/fedora.repo", machine="m")
    assert f"[fedora]\nname=fedora\nbaseurl={mirror.url}/{MAIN}/\nenabled=1\ngpgcheck=1\n" in done.text, done
    assert "[updates]" in done.text
    assert "mirror.invalid" not in done.text
    assert fedora.run("rpm -V fedora-release", machine="m").text.split()[-1] == "/etc/yum.repos.d/fedora.repo"


def test_a_recipe_beside_the_definition(mirror: Mirror, fedora: Rig, tmp_path: Path) -> None:
    """A derivative in five lines: a name, a mirror, keys and a set of its own. The keys lie beside it."""
    rig = Rig(fedora.state, tmp_path, "")
    (tmp_path / "recipes").mkdir()
    shutil.copy(mirror.key.public, tmp_path / "recipes/mine.asc")
    own = f'extends = "fedora"\nkeyring = "mine.asc"\nmirrors = {{ main = "{mirror.url}" }}\n[sets]\nours = ["hello", "no [s390x]"]\n'
    own += f'[releases.32]\nmirrors = {{ main = "{mirror.url}" }}\n'  # the shipped one's is the archive
    (tmp_path / "recipes/mine.toml").write_text(own)
    rig.define('[machines.o]\ndistribution = "mine"\nrelease = "32"\narchitecture = "amd64"\npackages = ["@ours"]\n')
    done = rig("build", timeout=300)
    assert done.status == 0, done
    assert rig.run("hello; cat /etc/os-release", machine="o").text.startswith("2\npost of 1\nID=fedora")
    (tmp_path / "recipes/mine.toml").write_text(own.replace("[sets]", "version = 2\n[sets]"))
    assert [layer["verb"] for layer in rig.json("plan")["layers"]] == ["build", "build"]
    (tmp_path / "recipes/mine.toml").write_text(own + "x = 1\n")
    assert "recipes/mine.toml:8: releases.32.x: unknown key" in rig.run("true", machine="o").said, (
        "at once, also when made"
    )


def test_nothing_of_the_making_stays(fedora: Rig) -> None:
    look = """find / -xdev -path '*roost*' -type f; find /var/cache /var/log /root -type f; cat /etc/machine-id
        ls -d /var/lib/rpm /root/.rpmdb"""
    assert (
        fedora.run(look, machine="m").text
        == "/etc/yum.repos.d/roost.repo\n/etc/pki/rpm-gpg/RPM-GPG-KEY-roost\n/var/lib/roost/packages\n/var/lib/rpm\n"
    )
    stages = [path for path in Path(fedora.state).rglob("*") if path.name in ("keys.asc", ".rpmmacros")]
    assert stages == []


def test_its_packages_have_versions(fedora: Rig) -> None:
    [base, profile, machine] = [layer["digest"][:16] for layer in fedora.json("plan")["layers"]]
    below = fedora.json("layer", "show", base)["packages"]
    assert below["fedora-release"] == "32-1"
    assert not {"other", "hello", "gpg-pubkey"} & below.keys()
    assert fedora.json("layer", "show", profile)["packages"].keys() - below.keys() == {"other"}
    found = fedora.json("layer", "show", machine)["packages"]
    assert (found["greeting"], found["hello"]) == ("2-1", "1-1"), "the update is taken"


def test_what_a_script_installs_is_listed(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """By the settings that the tree itself has."""
    rig = Rig(fedora.state, tmp_path, mirror.definition("fedora", "32", 'scripts = ["dnf -y install tzdata"]'))
    done = rig("build")
    assert done.status == 0, done
    top = rig.json("plan")["layers"][-1]["digest"][:16]
    assert rig.json("layer", "show", top)["packages"]["tzdata"] == "1-1"
    assert rig.run("find /var/cache/dnf /var/log -type f", machine="m").text == ""


def test_what_is_removed_goes_with_what_it_alone_needed(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """From the layer below, which keeps it; what was never there is no error, and what dnf needs itself is one."""
    more = 'profiles = ["p"]\n{}\n[profiles.p]\npackages = ["other", "hello"]\n'
    gone = 'packages = ["tzdata"]\nremove-packages = { dnf = ["hello", "not-there"], apt = ["other"] }'
    rig = Rig(fedora.state, tmp_path, mirror.definition("fedora", "32", more.format(gone)))
    assert rig("build").status == 0
    assert (
        rig.run("rpm -qa --qf '%{NAME}\\n' | grep -xE 'hello|greeting|other|tzdata' | sort", machine="m").text
        == "other\ntzdata\n"
    )
    [_, profile, top] = [layer["digest"][:16] for layer in rig.json("plan")["layers"]]
    below, above = (rig.json("layer", "show", one)["packages"].keys() for one in (profile, top))
    assert (below - above, above - below) == ({"hello", "greeting"}, {"tzdata"})
    rig.define(mirror.definition("fedora", "32", more.format('remove-packages = ["greeting"]')))
    assert rig.run("rpm -q greeting hello >/dev/null; echo $?", machine="m").text == "2\n", "what needs it goes as well"
    rig.define(mirror.definition("fedora", "32", 'remove-packages = ["dnf"]'))
    refused(rig, "the system cannot do without dnf")


def test_centos_8_with_all_that_a_definition_may_say(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """The host's own repositories, settings and plugins are not asked, whatever they say."""
    more = """
        user = { name = "sai", uid = 883, groups = ["wheel", "dialout"], sudo = "nopasswd" }
        packages = ["hello"]
        locale = "C.UTF-8"
        timezone = "Europe/Berlin"
        root-password = "$6$salt$1eO9B1R0.9G5i5PzKIfvMdT3k9vH0G3mQ9L1Yk8Zk5q5b0a8tYFhZ7n3vT8m1n4xw5V7mN9c2kQ0uB6yJ8aE0/"
        services = ["systemd-networkd"]
        boot = {}
    """
    rig = Rig(fedora.state, tmp_path, mirror.definition("centos", "8", more))
    evil, poison = tmp_path / "evil", tmp_path / "dnf"
    evil.mkdir()
    shutil.copy(Workshop(tmp_path / "shop").small("passwd", "99"), evil)
    run("createrepo_c", "--quiet", evil)
    poison.mkdir()
    text = f"[main]\ngpgcheck=0\nexcludepkgs=systemd\n[evil]\nname=evil\nbaseurl=file://{evil}\ngpgcheck=0\n"
    (poison / "dnf.conf").write_text(text)
    script = f'mount --bind {poison} /etc/dnf && exec "$@"'
    done = rig("build", prefix=("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"), timeout=300)
    assert done.status == 0, done
    look = """rpm -q passwd hello; id sai; id -gn sai; cat /etc/locale.conf; readlink /etc/localtime; cat /etc/sudoers.d/roost-sai
        grep ^root /etc/shadow | cut -c1-12; ls /etc/systemd/system/*.wants; ls -l /sbin/init; wc -c </etc/machine-id"""
    done = rig.run(look, machine="m")
    for line in (
        "passwd-1-1.x86_64", "hello-1-1.x86_64", "uid=883(sai) gid=65534(nobody)", "LANG=C.UTF-8", "../usr/share/zoneinfo/Europe/Berlin",
        "sai ALL=(ALL:ALL) NOPASSWD: ALL", "root:$6$salt", "systemd-networkd.service",
    ):  # fmt: skip
        assert line in done.text, done
    assert done.text.endswith("\n0\n")
    assert all(
        f"{mirror.url}/{path}/" in rig.run("cat /etc/yum.repos.d/roost.repo", machine="m").text for path in CENTOS_8
    )


def test_centos_7_by_yum(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """Only the name of the command is the old one: there is no yum 3 here."""
    script = 'scripts = ["rm /usr/bin/dnf"]\n'
    rig = Rig(
        fedora.state,
        tmp_path,
        mirror.definition("centos", "7", f'profiles = ["p"]\npackages = ["hello"]\n[profiles.p]\n{script}'),
    )
    assert rig("build", timeout=300).status == 0
    assert (
        rig.run("command -v dnf; hello; rpm -q centos-release", machine="m").text
        == "2\npost of 1\ncentos-release-7-1.x86_64\n"
    )


def test_the_package_database_is_where_the_machines_rpm_looks(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """Fedora since 36 has it in another directory than the host's rpm writes it to."""
    rig = Rig(fedora.state, tmp_path, mirror.definition("fedora", "40", 'packages = ["other"]'))
    assert rig("build", timeout=300).status == 0
    done = rig.run(
        "rpm -q fedora-release other; readlink /var/lib/rpm; ls /usr/lib/sysimage/rpm | head -n1; rpm -qa gpg-pubkey | wc -l",
        machine="m",
    )
    assert (
        done.text
        == "fedora-release-40-1.x86_64\nother-1-1.x86_64\n../../usr/lib/sysimage/rpm\nrpmdb.sqlite\n" + done.text[-2:]
    ), done
    assert done.text.endswith("1\n")


SECRET = "roost-fake-password-5"


def test_packages_are_downloaded_once_and_no_secret_is_kept(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """From a mirror that wants a login, which the host has in its netrc files."""
    (tmp_path / "auth").mkdir()
    script = f'mkdir -p /etc/apt/auth.conf.d && mount --bind {tmp_path}/auth /etc/apt/auth.conf.d && exec "$@"'
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")
    with served(mirror.directory, f"somebody:{SECRET}") as server:
        (tmp_path / "auth/zz.conf").write_text(f"machine {server.url[7:]} login somebody password {SECRET}\n")
        text = "".join(
            mirror.definition(
                "fedora", "32", f'packages = ["other"]\nscripts = ["echo {name} >/which"]', name, server.url
            )
            for name in ("a", "b")
        )
        rig = Rig(fedora.state, tmp_path, text)
        done = rig("build", "-j", "1", prefix=prefix, timeout=300)
        assert done.status == 0, done
        packages = [path.rpartition("/")[2] for path in server.asked if path.endswith(".rpm")]
        # who has not said the login yet is asked for it
        assert max(packages.count(name) for name in packages) <= 2, packages
        assert {name for name in packages if name.startswith("other")} == {"other-1-1.x86_64.rpm"}
        before = len(packages)
        rig.define(text.replace("/which", "/other"))
        assert rig("build", prefix=prefix).status == 0
        assert len([path for path in server.asked if path.endswith(".rpm")]) == before
        assert rig.run("cat /other", machine="b").text == "b\n"
    every = [Path(directory) / name for directory, _, names in os.walk(rig.state) for name in names]
    plain = [path for path in every if path.is_file() and not path.is_symlink()]
    assert [path for path in plain if SECRET.encode() in path.read_bytes()] == []


def test_somebody_elses_repository(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    with throwaway_key("other", tmp_path) as key:
        package = Workshop(tmp_path / "shop").small("theirs")
        sign(key, package)
        (tmp_path / "theirs").mkdir()
        shutil.copy(package, tmp_path / "theirs")
        index(key, tmp_path / "theirs")
        repository = (
            f'repositories = [{{ name = "theirs", url = "file://{tmp_path}/theirs"%s }}]\npackages = ["theirs"]'
        )
        rig = Rig(fedora.state, tmp_path, mirror.definition("fedora", "32", repository % ""))
        before = layers(rig)
        done = rig("build")
        assert done.status == 10, done
        assert "signed by a key that is not trusted" in done.said
        assert layers(rig) == before
        rig.define(mirror.definition("fedora", "32", repository % f', key = "{key.public}"'))
        assert rig("build").status == 0
        assert (
            rig.run("rpm -q theirs; ls /etc/yum.repos.d", machine="m").text
            == "theirs-1-1.x86_64\nfedora.repo\nroost.repo\ntheirs.repo\n"
        )


def test_a_killed_bootstrap_leaves_nothing(new_store: Callable[[], str], mirror: Mirror, tmp_path: Path) -> None:
    """Killed before dnf starts and while it works; with ROOST_FAULTS=all also later. The next one makes it all the same."""
    definition = mirror.definition("fedora", "32")
    with contextlib.closing(Worker()) as worker:
        world = World(worker, new_store(), tmp_path)
        (tmp_path / "roost.toml").write_text(DEFINITION + definition)
        late = ("roost.umount S/staging/stage-ID/archives/merged", "os.rename S/staging/stage-ID -> S/layers/ID")
        for point in ("subprocess.Popen setpriv", "", *(late if ALL else ())):
            killed = world("build", "m", kill=point, timeout=120 if point else 1.5)
            assert (killed.killed or not point, killed.status) == (True, -9), (point, killed)
            assert not killed.lingering
            assert "cleared" in world("layer", "list").said, point
            assert not wrong(world.state)
            assert world.listed("layers") == {"7" * 64}
        assert world("build", "m", timeout=120).status == 0


# -- what is refused


@pytest.fixture
def empty(new_store: Callable[[], str], tmp_path: Path) -> Rig:
    """A store without any of it."""
    return Rig(new_store(), tmp_path)


def refused(rig: Rig, *said: str, status: int = 10) -> None:
    """A build fails with these words, and leaves nothing."""
    before = layers(rig)
    done = rig("build", timeout=200)
    assert done.status == status, done
    assert all(text in done.said for text in said), done.said
    assert "hint:" in done.said
    assert layers(rig) == before


def test_a_key_that_did_not_sign_it(empty: Rig, mirror: Mirror, tmp_path: Path) -> None:
    with throwaway_key("wrong", tmp_path) as key:
        empty.define(Mirror(mirror.directory, key).definition("fedora", "32"))
        refused(
            empty,
            "step 'dnf' failed: the mirror's packages are signed by a key that is not trusted",
            'keyring = "PATH"',
        )


def test_a_package_without_a_signature(empty: Rig, mirror: Mirror, tmp_path: Path) -> None:
    bad = mirror.copied(tmp_path / "mirror")
    packages = bad.directory / MAIN / "Packages"
    (packages / "passwd-1-1.x86_64.rpm").unlink()
    shutil.copy(Workshop(tmp_path / "shop").small("passwd"), packages)
    shutil.rmtree(bad.directory / MAIN / "repodata")
    index(mirror.key, bad.directory / MAIN)
    empty.define(bad.definition("fedora", "32"))
    refused(empty, "the package passwd-1-1.x86_64 is not signed")


@pytest.mark.parametrize("how", ["file", "http"])
def test_a_package_that_was_changed(empty: Rig, mirror: Mirror, tmp_path: Path, how: str) -> None:
    bad = mirror.copied(tmp_path / "mirror")
    package = bad.directory / MAIN / "Packages/passwd-1-1.x86_64.rpm"
    content = bytearray(package.read_bytes())
    content[-5] ^= 1
    package.unlink()
    package.write_bytes(content)
    with served(bad.directory) as server:
        empty.define(bad.definition("fedora", "32", mirror=server.url if how == "http" else ""))
        refused(empty, "passwd-1-1.x86_64 is not what the repository's list says it is")


def test_a_package_that_nobody_has(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    rig = Rig(fedora.state, tmp_path, mirror.definition("fedora", "32", 'packages = ["no-such-thing"]'))
    refused(rig, "machine m: step 'install no-such-thing' failed: no package is called no-such-thing here")


def test_a_package_in_a_layer_above_is_checked_too(fedora: Rig, mirror: Mirror, tmp_path: Path) -> None:
    """By the machine's own dnf, from a mirror that has become another one since the base was made."""
    bad = mirror.copied(tmp_path / "mirror")
    rig = Rig(fedora.state, tmp_path, bad.definition("fedora", "32"))
    assert rig("build", timeout=200).status == 0
    packages = bad.directory / MAIN / "Packages"
    (packages / "other-1-1.x86_64.rpm").unlink()
    shutil.copy(Workshop(tmp_path / "shop").small("other"), packages)
    shutil.rmtree(bad.directory / MAIN / "repodata")
    index(mirror.key, bad.directory / MAIN)
    rig.define(bad.definition("fedora", "32", 'packages = ["other"]'))
    refused(rig, "the package other-1-1.x86_64 is not signed")


def test_an_archived_release_on_a_mirror_that_does_not_have_it(empty: Rig, mirror: Mirror, tmp_path: Path) -> None:
    where = "centos 8 is archived: its mirror is https://vault.centos.org"
    (tmp_path / "nothing").mkdir()
    with served(tmp_path / "nothing") as server:
        empty.define(mirror.definition("centos", "8", mirror=server.url))
        refused(empty, f"the mirror does not have it: {server.url}/8.5.2111/BaseOS", where)
    empty.define(mirror.definition("centos", "8", mirror=f"file://{tmp_path}/nothing"))
    refused(empty, f"the mirror does not have it: file://{tmp_path}/nothing/8.5.2111/BaseOS", where)
    empty.define(mirror.definition("centos", "8", mirror="http://127.0.0.1:1/centos"))
    refused(empty, "http://127.0.0.1:1/centos/8.5.2111/BaseOS/x86_64/os cannot be reached", where, status=9)


def test_a_keyring_that_is_not_there(empty: Rig) -> None:
    """Debian has no package of it: the hint says where it comes from."""
    empty.define('[machines.m]\ndistribution = "rockylinux"\nrelease = "9"\narchitecture = "amd64"\n')
    refused(
        empty,
        "RPM-GPG-KEY-Rocky-9 is not on this host",
        "https://github.com/rpm-software-management/distribution-gpg-keys",
    )
