"""Alpine from a mirror that the test makes, by the real apk of Alpine 3.23: on the host, and in the machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from roost.definition.model import Base
from roost.distro import apk, recipe
from system.apk_rig import (
    MAIN,
    MINIROOTFS,
    RELEASES,
    Alpine,
    Workshop,
    add_minirootfs,
    make_repositories,
    make_signer,
    sign_minirootfs,
    unpack_image,
)
from system.boot_rig import BootRig
from system.network_rig import host_at
from system.rig import Rig, wait_for
from system.rpm_rig import HOST_BUNDLE, bound, self_signed, served, throwaway_key
from system.test_rpm import layers, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from system.network_rig import Host

LAYERED = 'profiles = ["p"]\npackages = ["hello"]\n[profiles.p]\npackages = ["other"]\n'


def by_apk(alpine: Alpine, place: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """The command that makes a base with the host's apk, as Roost runs it, with the real apk as the host's."""
    tree, private, archives = (place / name for name in ("tree", "private", "archives"))
    for path in (tree, private, archives):
        path.mkdir()
    base = Base(
        distribution="alpine", release="3.23", architecture="amd64", bootstrap="apk", variant="minimal", mirror=alpine.url or f"file://{alpine.directory}",
        keyring=str(key),
    )  # fmt: skip
    plan = apk.bootstrap(base, recipe("alpine"), host=apk.read_host(), target=tree, private=private, archives=archives)
    for name, content in plan.files.items():
        (private / name).write_bytes(content)
    env = {**plan.env, "PATH": f"{alpine.tools}:/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = ("unshare", "--mount", "--propagation", "private", *plan.argv)
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alpine]:
    """A mirror whose minirootfs was made from its repositories by the host's apk."""
    place = tmp_path_factory.mktemp("alpine")
    with throwaway_key("lab", place) as key:
        alpine = make_repositories(place, key)
        made = place / "base"
        made.mkdir()
        done = by_apk(alpine, made, alpine.signer.public)
        assert done.returncode == 0, done
        add_minirootfs(alpine, made / "tree")
        with served(alpine.directory) as server:
            yield alpine._replace(url=server.url)


@pytest.fixture(scope="module")
def alpine(mirror: Alpine, place: str, states: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A store with Alpine in three layers; tests add to it."""
    state = tempfile.mkdtemp(prefix="alpine", dir=place)
    os.rmdir(state)
    states.append(state)
    rig = Rig(state, tmp_path_factory.mktemp("alpine"), mirror.definition(LAYERED))
    done = rig("build", timeout=300)
    assert done.status == 0, done
    return rig


def test_a_tree_that_the_hosts_apk_makes(mirror: Alpine, tmp_path: Path) -> None:
    assert by_apk(mirror, tmp_path, mirror.signer.public).returncode == 0
    tree = tmp_path / "tree"
    assert (tree / "usr/lib/apk/db/installed").read_text().count("\nP:") == 7
    assert os.readlink(tree / "usr/bin/awk") == "/bin/busybox"
    assert not list((tree / "dev").iterdir())
    assert {path.name.partition("-1")[0] for path in (tmp_path / "archives").glob("*.apk")} >= {"busybox", "musl"}


def test_a_tree_from_a_key_that_did_not_sign(mirror: Alpine, tmp_path: Path) -> None:
    done = by_apk(mirror, tmp_path, make_signer(tmp_path, "tests@example.org-4a6a0840").public)
    assert done.returncode
    assert apk.explain(done.stdout + done.stderr)[0] == "the repository's signature is not good"


def test_a_host_without_an_apk(mirror: Alpine, new_store: Callable[[], str], tmp_path: Path) -> None:
    rig = Rig(new_store(), tmp_path, mirror.definition('bootstrap = "apk"', key=mirror.signer.public))
    assert shutil.which("apk") is None, "the test wants a host without one"
    refused(rig, "step 'apk' failed: this host has no apk, which makes this base", "the minirootfs needs none")


def test_a_mirror_that_only_the_hosts_proxy_knows(new_store: Callable[[], str], mirror: Alpine, tmp_path: Path) -> None:
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:/mirror.invalid").symlink_to(mirror.directory)
    (tmp_path / "conf").mkdir()
    rig = Rig(new_store(), tmp_path, mirror.definition(url="http://mirror.invalid"))
    with served(tmp_path) as proxy:
        (tmp_path / "conf/proxy").write_text(f'Acquire::http::Proxy "{proxy.url}";\n')
        done = rig("build", prefix=bound(tmp_path / "conf", "/etc/apt/apt.conf.d"))
    assert done.status == 0, done
    assert f"http://mirror.invalid/{RELEASES}/{MINIROOTFS}" in proxy.asked


def test_a_mirror_by_https_that_the_host_trusts(new_store: Callable[[], str], mirror: Alpine, tmp_path: Path) -> None:
    certificate, bundle = self_signed(tmp_path)
    rig = Rig(new_store(), tmp_path)
    with served(mirror.directory, certificate=certificate) as server:
        rig.define(mirror.definition(url=server.url))
        refused(rig, "CERTIFICATE_VERIFY_FAILED", status=9)
        done = rig("build", prefix=bound(bundle, HOST_BUNDLE))
    assert done.status == 0, done


def test_alpine_in_layers(alpine: Rig, mirror: Alpine) -> None:
    done = alpine.run("hello; cat /usr/share/other /etc/apk/repositories /etc/apk/world; apk --version", machine="m")
    assert done.text.startswith(
        f"2\npost of 1-r0\nother\n{mirror.url}/v3.23/main\n{mirror.url}/v3.23/community\nalpine-baselayout\n"
    ), done
    assert "apk-tools 3.0.8" in done.text
    top = alpine.json("plan")["layers"][-1]["digest"][:16]
    found = alpine.json("layer", "show", top)["packages"]
    assert (found["greeting"], found["busybox"], found["alpine-release"]) == ("2-r0", "1-r0", "3.23.1-r0")
    look = "find /var/cache /var/log /var/tmp /root /tmp -type f; test ! -e /etc/hostname; head -n 1 /etc/hosts"
    assert alpine.run(look, machine="m").text == "127.0.0.1 localhost\n"


def test_packages_are_downloaded_once(alpine: Rig, mirror: Alpine, tmp_path: Path) -> None:
    with served(mirror.directory) as server:
        text = "".join(
            mirror.definition(f'packages = ["other"]\nscripts = ["echo {name}"]', url=server.url, name=name)
            for name in "ab"
        )
        done = Rig(alpine.state, tmp_path, text)("build", "-j", "1", timeout=300)
        assert done.status == 0, done
        assert sum(path.endswith("/other-1-r0.apk") for path in server.asked) == 1, server.asked


def test_users_and_time(alpine: Rig, mirror: Alpine, tmp_path: Path) -> None:
    more = (
        'user = [{ name = "sai", uid = 883, groups = ["wheel"] }, { name = "ann", uid = 1200, group = "people" }]\n'
        'root-password = ""\nlocale = "C.UTF-8"\ntimezone = "Europe/Berlin"\nfiles = { "/etc/motd" = { content = "hello" } }\n'
    )
    rig = Rig(alpine.state, tmp_path, mirror.definition(more))
    done = rig("build")
    assert done.status == 0, done
    look = (
        "id -u sai; id -Gn sai; stat -c '%U %G' /home/sai; id -u ann; id -gn ann; grep ^root: /etc/shadow | cut -d: -f2; "
        "cat /etc/locale.conf /etc/timezone /etc/motd; readlink /etc/localtime"
    )
    assert rig.run(look, machine="m").text == (
        "883\nnobody wheel\nsai nobody\n1200\npeople\n\nLANG=C.UTF-8\nEurope/Berlin\n"
        "hello../usr/share/zoneinfo/Europe/Berlin\n"
    )
    rig.define(mirror.definition('user = { name = "nobody", uid = 883 }'))
    refused(rig, "user nobody exists already")


def test_packages_go(alpine: Rig, mirror: Alpine, tmp_path: Path) -> None:
    more = 'profiles = ["p"]\nremove-packages = ["hello", "not-there"]\n[profiles.p]\npackages = ["hello", "other"]\n'
    rig = Rig(alpine.state, tmp_path, mirror.definition(more))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run("test ! -e /usr/bin/hello; apk info -e other greeting hello", machine="m").text == "other\n"
    rig.define(mirror.definition(more.replace('["hello", "not-there"]', '["greeting"]', 1)))
    refused(rig, "greeting is needed by others", "remove these as well")
    rig.define(mirror.definition(more.replace('["hello", "not-there"]', '["greeting", "hello"]', 1)))
    assert rig.run("apk info -e other greeting hello", machine="m").text == "other\n"


def test_packages_are_brought_up(alpine: Rig, mirror: Alpine, tmp_path: Path) -> None:
    rig = Rig(alpine.state, tmp_path, mirror.definition('packages = ["greeting=1-r0"]'))
    done = rig("build")
    assert done.status == 0, done
    argv = shlex.join(apk.upgrade().argv)
    done = rig.run(
        f"cat /usr/share/greeting; apk add greeting >/dev/null; {argv}; cat /usr/share/greeting", machine="m"
    )
    assert done.text.startswith("1\n"), done
    assert done.text.endswith("\n2\n"), done


# -- a whole Alpine


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of the test's own."""
    with host_at(str(tmp_path / "host")) as made:
        yield made


def test_a_whole_alpine_boots_by_openrc(host: Host, new_store: Callable[[], str], tmp_path: Path) -> None:
    """Alpine itself, from an image of a disk: its packages, an account by its adduser, and its services."""
    tree = unpack_image(tmp_path)
    more = 'user = { name = "sai", uid = 883, groups = ["wheel"] }\nservices = ["crond"]\nboot = {}\n'
    rig = BootRig(new_store(), tmp_path, host, f'[machines.tiny]\nfrom = "dir:{tree}"\n{more}')
    done = rig("build")
    assert done.status == 0, done
    top = rig.json("plan")["layers"][-1]["digest"][:16]
    packages = rig.json("layer", "show", top)["packages"]
    assert packages["alpine-release"] == rig.run("cat /etc/alpine-release", machine="tiny").text.strip() + "-r0"
    assert set(packages) == set(rig.run("apk info 2>/dev/null", machine="tiny").text.split())
    try:
        assert rig.up()["state"] == "ready"
        wait_for(lambda: "started" in rig.inside("rc-service crond status").text)
        assert rig.inside("rc-status default; id -u sai; cat /proc/1/comm").text.endswith("883\ninit\n")
    finally:
        rig.close()


# -- what is refused


@pytest.fixture
def spoilt(mirror: Alpine, tmp_path: Path) -> Iterator[Alpine]:
    """A mirror to spoil."""
    directory = mirror.copied(tmp_path / "mirror")
    with served(directory) as server:
        yield mirror._replace(directory=directory, url=server.url)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_minirootfs_that_is_not_signed_by_the_key(
    new_store: Callable[[], str], spoilt: Alpine, tmp_path: Path
) -> None:
    rig = Rig(new_store(), tmp_path)
    place = spoilt.directory / RELEASES
    with throwaway_key("wrong", tmp_path) as wrong:
        rig.define(spoilt.definition(key=wrong.public))
        refused(rig, f"{MINIROOTFS}.asc is no good signature by one of the keys of the keyring")
    rig.define(spoilt.definition(key=spoilt.signer.public))
    refused(rig, "holds no OpenPGP keys")
    rig.define(spoilt.definition())
    digests = (place / f"{MINIROOTFS}.sha256").read_bytes()
    _replace(place / f"{MINIROOTFS}.sha256", f"{'0' * 64}  {MINIROOTFS}\n".encode())
    refused(rig, f"{MINIROOTFS} is not what the mirror's list of digests says")
    _replace(place / f"{MINIROOTFS}.sha256", b"")
    refused(rig, f"the mirror has no digest of {MINIROOTFS}")
    _replace(place / f"{MINIROOTFS}.sha256", digests)
    content = (place / MINIROOTFS).read_bytes()
    _replace(place / MINIROOTFS, content[:1000] + bytes(4) + content[1004:])
    refused(rig, f"{MINIROOTFS}.asc is no good signature by one of the keys of the keyring")
    sign_minirootfs(spoilt)  # damaged, and signed so
    refused(rig, f"{MINIROOTFS}: ")
    _replace(place / "latest-releases.yaml", b"  file: alpine-minirootfs-3.1.1-x86_64.tar.gz\n")
    refused(rig, "latest-releases.yaml names no archive")


def test_repositories_that_are_not_signed_by_the_key(alpine: Rig, spoilt: Alpine, tmp_path: Path) -> None:
    rig = Rig(alpine.state, tmp_path, spoilt.definition())
    assert rig("build", timeout=200).status == 0
    rig.define(spoilt.definition('packages = ["no-such-thing"]'))
    refused(rig, "no package is called no-such-thing here")
    rig.define(spoilt.definition('packages = ["other"]'))
    repository = spoilt.directory / MAIN
    good = repository / "APKINDEX.tar.gz"
    content = good.read_bytes()
    wrong = Workshop(tmp_path / "wrong", make_signer(tmp_path, "tests@example.org-4a6a0840"), spoilt.tools)
    wrong.index(repository)
    refused(rig, "step 'install other' failed: the repository's signature is not good")
    _replace(good, (tmp_path / "wrong/index.tar.gz").read_bytes())
    refused(rig, "step 'install other' failed: the repository's signature is not good")
    _replace(good, content)
    package = wrong.small("other", usr__share__other="another\n")
    _replace(repository / "other-1-r0.apk", package.read_bytes())
    refused(rig, "step 'install other' failed: a package is not what the repository's index says it is")


def test_somebody_elses_repository(alpine: Rig, mirror: Alpine, tmp_path: Path) -> None:
    signer = make_signer(tmp_path, "they@example.org-1")
    shop = Workshop(tmp_path / "shop", signer, mirror.tools)
    shop.index(tmp_path / "theirs/x86_64", [shop.small("theirs", usr__share__theirs="theirs\n")])
    shutil.copy(signer.public, tmp_path / "some.name")
    repository = f'repositories = [{{ name = "theirs", url = "file://{tmp_path}/theirs"%s }}]\npackages = ["theirs"]'
    rig = Rig(alpine.state, tmp_path, mirror.definition(repository % ""))
    before = layers(rig)
    refused(rig, "the repository's signature is not good")
    assert layers(rig) == before
    rig.define(mirror.definition(repository % f', key = "{tmp_path}/some.name"'))
    done = rig("build")
    assert done.status == 0, done
    assert rig.run("cat /usr/share/theirs; ls /etc/apk/keys", machine="m").text == (
        "theirs\ntests@example.org-4a6a0840.rsa.pub\nthey@example.org-1.rsa.pub\n"
    )
