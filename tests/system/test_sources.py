"""Bases that no recipe makes: real archives, downloads, images and directories become machines that run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roost.store import Store
from system.rig import COMMAND, Rig, wait_for
from system.sources_rig import Keys, call, make_tree, served

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGE3 = "NAME=Gentoo\nID=gentoo\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of nobody's."""
    return make_tree(tmp_path / "tree")


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    """A key that signs."""
    made = Keys(tmp_path / "gnupg")
    yield made
    made.close()


def packed(tree: Path, path: Path, *options: str) -> Path:
    """The tree as an archive, by the tar of the host."""
    call("tar", "-C", tree, "--numeric-owner", *options, "-cf", path, ".")
    return path


def machine(source: str, *more: str) -> str:
    """A definition of one machine."""
    return "\n".join(("[machines.m]", f'from = "{source}"', *more, ""))


def sha256(path: Path) -> str:
    """As sha256sum prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def family(rig: Rig) -> str:
    """What was recognised."""
    plan = rig.manager().plan()
    return Store(rig.state).layer(plan.machines[0].layers[0]).family


def half_made(rig: Rig) -> list[str]:
    """What may not be left."""
    places = (f"{rig.state}/staging", f"{rig.state}/running", f"{rig.state}/run/locks")
    return [name for place in places if os.path.isdir(place) for name in os.listdir(place)]


# -- archives


def test_a_stage3_with_its_signature(tiny: Rig, keys: Keys, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", STAGE3, "/usr/bin/emerge")
    for name in (
        "etc/portage/make.profile",
        "var/db/repos/gentoo",
        "var/db/pkg/sys-apps/portage-3",
        "var/cache/distfiles",
    ):
        (tree / name).mkdir(parents=True)
    (tree / "etc/portage/make.conf").write_text('CFLAGS="-O2"\n')
    os.mknod(tree / "dev/null", 0o20666, os.makedev(1, 3))
    packed(tree, tiny.directory / "stage3.tar.xz", "--xz", "--xattrs")
    keys.sign(tiny.directory / "stage3.tar.xz")
    keys.public(tiny.directory / "gentoo.asc")
    tiny.define(machine("tar:stage3.tar.xz", 'keyring = "gentoo.asc"', 'scripts = ["echo made > /made"]'))
    done = tiny.run("cat /made /etc/portage/make.conf; stat -c %a /tmp; test -c /dev/null", machine="m")
    assert (done.status, done.text) == (0, 'made\nCFLAGS="-O2"\n1777\n'), done
    assert family(tiny) == "portage"
    assert tiny("plan").text.count("present") == 2
    # another key, another file, no signature: nothing of it is used
    other = Keys(tmp_path / "other")
    other.public(tiny.directory / "other.asc")
    other.close()
    tiny.define(machine("tar:stage3.tar.xz", 'keyring = "other.asc"'))
    assert "no good signature" in tiny("build").said
    (tiny.directory / "stage3.tar.xz").write_bytes((tiny.directory / "stage3.tar.xz").read_bytes() + b"\0")
    tiny.define(machine("tar:stage3.tar.xz", 'keyring = "gentoo.asc"'))
    done = tiny("build")
    assert done.status == 10
    assert "no good signature" in done.said
    (tiny.directory / "stage3.tar.xz.asc").unlink()
    assert "stage3.tar.xz.asc: No such file" in tiny("build").said
    assert half_made(tiny) == []


def test_a_changed_archive_is_another_layer_and_the_plan_says_why(tiny: Rig, tree: Path) -> None:
    file = packed(tree, tiny.directory / "root.tar.zst", "--zstd")
    tiny.define(machine("tar:root.tar.zst"))
    assert "not made yet" in tiny("plan").text
    assert tiny("build").status == 0
    assert tiny.json("build")["layers"][0]["made"] is False
    os.utime(file)  # the same content
    assert "all layers are there" in tiny("plan").said
    (tree / "etc/new").write_text("new\n")
    packed(tree, file, "--zstd")
    assert "archive changed" in tiny("plan").text
    assert tiny.run("cat /etc/new", machine="m").text == "new\n"
    file.unlink()
    done = tiny("build")
    assert done.status == 6
    assert "root.tar.zst" in done.said


def test_the_digest_of_the_definition_is_checked(tiny: Rig, tree: Path) -> None:
    file = packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", f'sha256 = "{"0" * 64}"'))
    done = tiny("build")
    assert done.status == 10
    assert "is not what the definition says" in done.said
    assert sha256(file) in done.said
    tiny.define(machine("tar:root.tar", f'sha256 = "{sha256(file)}"'))
    assert tiny("build").status == 0
    file.unlink()  # it is not needed any more
    assert tiny.run("true", machine="m").status == 0
    assert half_made(tiny) == []


def test_archives_that_are_none_or_no_system_are_refused(tiny: Rig, tmp_path: Path, tree: Path) -> None:
    whole = packed(tree, tmp_path / "root.tar.xz", "--xz").read_bytes()
    link = tmp_path / "link.tar"
    with tarfile.open(link, "w") as archive:
        info = tarfile.TarInfo("etc")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("etc/roost-was-here"))
    for data, words in (
        (whole[: len(whole) // 2], "cut short"), (b"nothing of that kind" * 99, "no tar archive"), (link.read_bytes(), "etc"),
        (packed(tree / "etc", tmp_path / "etc.tar").read_bytes(), "no machine can run in this tree"),
    ):  # fmt: skip
        (tiny.directory / "bad.tar").write_bytes(data)
        tiny.define(machine("tar:bad.tar"))
        done = tiny("build")
        assert done.status == 10, done
        assert words in done.said
        assert half_made(tiny) == []
    assert not os.path.exists("/etc/roost-was-here")


def test_a_bomb_does_not_fill_the_disk(tiny: Rig, tmp_path: Path) -> None:
    """It is refused while there is room for others: a large file before its first byte, small ones before the last."""
    zeros = tmp_path / "zeros"
    zeros.mkdir()
    with tarfile.open(tiny.directory / "bomb.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 256 << 20
        with open("/dev/zero", "rb") as stream:
            archive.addfile(info, stream)
    with tarfile.open(tiny.directory / "many.tar.gz", "w:gz") as archive:
        for number in range(20_000):
            archive.addfile(tarfile.TarInfo(f"f{number}"))
    tiny.define("".join(machine(f"tar:{name}.tar.gz").replace(".m]", f".{name}]") for name in ("bomb", "many")))
    place = tiny.directory / "mounted"
    place.mkdir()
    script = """mount -t tmpfs -o size=128M,mode=755,nr_inodes=8000 none mounted; cp -a "$STORE"/. mounted/
        for name in bomb many; do "$@" --state mounted build $name; echo status $?; ls mounted/staging; done; ls mounted/layers"""
    done = subprocess.run(
        ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *COMMAND),
        cwd=tiny.directory, env=tiny.environment({"STORE": tiny.state}), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["status", "10", "status", "10", "7" * 64], done
    assert done.stderr.count("the disk is full: what is unpacked needs more than 1") == 2, done
    assert done.stderr.count("make room") == 2


def test_names_are_found_where_the_image_expects_systemd_resolved(tiny: Rig, tree: Path) -> None:
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", 'scripts = ["cat /etc/resolv.conf > /seen"]'))
    done = tiny.run("cat /etc/resolv.conf", machine="m")
    assert done.text == Path("/etc/resolv.conf").read_text()
    assert tiny.run("cat /seen", machine="m").text == done.text
    session = tiny.kept("true", machine="m")
    assert "resolv" not in tiny("session", "diff", session).text
    top = tiny.manager().plan().machines[0].layers[-1]
    assert not os.path.lexists(f"{tiny.state}/layers/{top}/tree/etc/resolv.conf")  # the image's own stays


def test_packages_need_a_family_and_files_do_not(tiny: Rig, tree: Path) -> None:
    packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", 'packages = ["gcc"]'))
    done = tiny("build")
    assert done.status == 2
    assert "packages cannot be had on tar:" in done.said
    assert "no package manager" in done.said
    tiny.define(machine("tar:root.tar", 'packages = { apt = ["gcc"] }', 'files = { "/etc/f" = { content = "f\\n" } }'))
    assert tiny.run("cat /etc/f", machine="m").text == "f\n"


def test_a_tree_boots_with_the_init_that_it_has(tiny: Rig, tree: Path) -> None:
    packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", "boot = {}"))
    done = tiny("build")
    assert (done.status, "this tree has no init" in done.said) == (10, True), done
    (tree / "sbin").mkdir()
    (tree / "sbin/init").symlink_to("../bin/busybox")
    (tree / "etc/machine-id").write_text("1" * 32)
    packed(tree, tiny.directory / "root.tar")
    assert tiny("build").status == 0
    assert (
        tiny("layer", "check", Store(tiny.state).layer(tiny.manager().plan().machines[0].layers[-1]).digest).status == 0
    )
    assert "1" * 32 not in tiny.run("cat /etc/machine-id", machine="m").text


def test_the_family_chooses_the_packages(tiny: Rig, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 'ID=mine\nID_LIKE="ubuntu debian"\n', "/usr/bin/apt-get")
    (tree / "usr/bin/apt-get").write_text("#!/bin/sh\necho apt-get $* >&2\nexit 7\n")
    packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", 'packages = { apt = ["hello"], dnf = ["other"] }'))
    done = tiny("build")
    assert family(tiny) == "apt"
    assert done.status == 10, done
    assert "install hello" in done.said


_RECORDING = '#!/bin/sh\n[ "$5" != install ] || shift 6\n[ $# = 0 ] || echo $* >/installed\n'


@pytest.mark.parametrize("family", ["", 'family = "apt"\n'])
def test_package_sets_are_those_of_the_tree_s_distribution(tiny: Rig, tmp_path: Path, family: str) -> None:
    tree = make_tree(tmp_path / "tree", "ID=debian\nVERSION_CODENAME=jessie\n", "/usr/bin/apt-get")
    (tree / "usr/bin/apt-get").write_text(_RECORDING)
    packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", f'{family}packages = ["@lws", "other"]'))
    done = tiny("build")
    assert done.status == 0, done
    found = tiny.run("cat /installed", machine="m").text.split()
    assert {"libssl-dev", "libgit2-dev", "other"} <= set(found)
    assert "libuv1-dev" not in found, "jessie has none"
    assert tiny("build").said.startswith("all layers are there")


def test_package_sets_of_a_tree_that_nobody_knows_are_refused(tiny: Rig, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 'ID=haiku\nPRETTY_NAME="Haiku R1"\n', "/usr/bin/apt-get")
    packed(tree, tiny.directory / "root.tar")
    tiny.define(machine("tar:root.tar", 'packages = ["@lws"]'))
    done = tiny("build")
    assert done.status == 2, done
    assert (
        "machine m: its package sets are not known: its os-release says 'Haiku R1', which no recipe is for" in done.said
    )
    assert "name the packages instead of @SETS" in done.said


def test_a_killed_build_leaves_nothing(tiny: Rig, tree: Path) -> None:
    with open(tree / "var/big", "wb") as stream:
        stream.writelines(os.urandom(1 << 20) for _ in range(64))
    packed(tree, tiny.directory / "root.tar.gz", "--gzip")
    tiny.define(machine("tar:root.tar.gz", f'sha256 = "{sha256(tiny.directory / "root.tar.gz")}"'))
    with tiny.started("build") as child:
        wait_for(lambda: any(name.startswith("stage-") for name in os.listdir(f"{tiny.state}/staging")))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert tiny.run("true", machine="m").status == 0
    assert half_made(tiny) == []


# -- downloads


def test_a_download_goes_on_where_it_broke_off(tiny: Rig, tree: Path, tmp_path: Path) -> None:
    file = packed(tree, tmp_path / "root.tar")
    with served(tmp_path, cut=300_000) as (url, asked):
        tiny.define(machine(f"tar:{url}/root.tar", f'sha256 = "{sha256(file)}"'))
        assert tiny("build").status == 0
        assert asked == ["", "bytes=300000-"]
        assert tiny.run("true", machine="m").status == 0
        assert len(asked) == 2
    assert os.listdir(f"{tiny.state}/cache/downloads") == []


def test_a_download_that_changed_meanwhile_begins_again(tiny: Rig, tree: Path, tmp_path: Path) -> None:
    file = packed(tree, tmp_path / "root.tar")
    with served(tmp_path, cut=300_000, once=False) as (url, asked):
        tiny.define(machine(f"tar:{url}/root.tar", f'sha256 = "{sha256(file)}"'))
        done = tiny("build")
        assert done.status == 9
        assert "ended after 900000 of" in done.said
    assert [item["kind"] for item in tiny.json("gc", "--dry-run")["removed"]] == ["download"]
    (tree / "etc/new").write_text("new\n")
    packed(tree, file)
    port = int(url.rpartition(":")[2])
    assert port
    with served(tmp_path) as (other, asked):
        tiny.define(machine(f"tar:{other}/root.tar", f'sha256 = "{sha256(file)}"'))
        assert tiny.run("cat /etc/new", machine="m").text == "new\n"
        assert asked == [""]


def test_what_is_not_what_it_should_be_is_downloaded_anew(tiny: Rig, tree: Path, tmp_path: Path) -> None:
    file = packed(tree, tmp_path / "root.tar")
    right = file.read_bytes()
    file.write_bytes(right[:-512] + b"x" * 512)
    with served(tmp_path) as (url, asked):
        tiny.define(machine(f"tar:{url}/root.tar", f'sha256 = "{hashlib.sha256(right).hexdigest()}"'))
        done = tiny("build")
        assert done.status == 10
        assert "is not what the definition says" in done.said
        file.write_bytes(right)
        assert tiny("build").status == 0
        assert asked == ["", ""]
        tiny.define(machine(f"tar:{url}/missing.tar", f'sha256 = "{"1" * 64}"'))
        assert "the server says 404" in tiny("build").said
    tiny.define(machine(f"tar:{url}/gone.tar", f'sha256 = "{"2" * 64}"'))
    done = tiny("build")
    assert (done.status, "cannot be reached" in done.said) == (9, True)


def test_a_signed_download_needs_no_digest(tiny: Rig, tree: Path, keys: Keys, tmp_path: Path) -> None:
    file = packed(tree, tmp_path / "root.tar.gz", "--gzip")
    keys.sign(file)
    keys.public(tiny.directory / "keys.asc")
    with served(tmp_path) as (url, asked):
        tiny.define(machine(f"tar:{url}/root.tar.gz"))
        assert "write its sha256" in tiny("build").said
        tiny.define(machine(f"tar:{url}/root.tar.gz", 'keyring = "keys.asc"', 'scripts = ["echo 1 > /one"]'))
        assert "known once" in tiny("plan").text
        assert tiny.run("cat /one", machine="m").text == "1\n"
        assert tiny("plan").text.count("present") == 2
        assert len(asked) == 1
        (tree / "etc/new").write_text("new\n")
        packed(tree, file, "--gzip")
        done = tiny("build", "--update")
        assert done.status != 0
        assert "no good signature" in done.said
        assert tiny.run("cat /one", machine="m").text == "1\n"  # what was there stays
        keys.sign(file)
        assert tiny("build", "--update").status == 0
        assert tiny.run("cat /etc/new", machine="m").text == "new\n"
    assert os.listdir(f"{tiny.state}/cache/downloads") == []


# -- images


def layout(path: Path, *trees: Path) -> Path:
    """An OCI layout whose image has a layer for each tree, by umoci."""
    call("umoci", "init", "--layout", path)
    call("umoci", "new", "--image", f"{path}:latest")
    for number, tree in enumerate(trees):
        tar = packed(tree, path.with_name(f"{path.name}-{number}.tar"))
        call("umoci", "raw", "add-layer", "--image", f"{path}:latest", tar)
    return path


@pytest.fixture
def image(tiny: Rig, tree: Path, tmp_path: Path) -> Path:
    """An image of two layers: the second removes a file, replaces a directory and adds a file."""
    for name in ("gone", "stays"):
        (tree / "etc" / name).write_text(name)
    (tree / "opt/old").mkdir(parents=True)
    (tree / "var/lib").chmod(0o751)
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "opt").mkdir()
    (upper / "var/lib").mkdir(parents=True)
    for name in ("etc/.wh.gone", "opt/.wh..wh..opq"):
        (upper / name).touch()
    (upper / "opt/new").write_text("new")
    (upper / "var/lib/state").write_text("state\n")
    return layout(tiny.directory / "image", tree, upper)


LOOK = "ls /etc/gone 2>/dev/null; cat /etc/stays /var/lib/state; ls /opt"
SEEN = "staysstate\nnew\n"


def test_an_oci_layout_becomes_layers(tiny: Rig, image: Path) -> None:
    tiny.define(machine(f"oci:oci-layout:{image.name}", 'scripts = ["echo > /opt/mine"]'))
    assert tiny("plan").text.count("build") == 3
    done = tiny.run(LOOK, machine="m")
    assert (done.status, done.text) == (0, SEEN.replace("new", "mine\nnew")), done
    assert tiny("layer", "verify").status == 0
    # another image on the same first layer shares it
    other = tiny.directory / "other"
    call("cp", "-a", image, other)
    extra = tiny.directory / "extra"
    (extra / "etc").mkdir(parents=True)
    (extra / "etc/extra").write_text("extra")
    tar = packed(extra, tiny.directory / "extra.tar")
    call("umoci", "raw", "add-layer", "--image", f"{other}:latest", tar)
    tiny.define(machine("oci:oci-layout:other:latest"))
    made = {layer["name"].split(" of ")[0]: layer["made"] for layer in tiny.json("build")["layers"]}
    assert [made[name] for name in made if name.startswith("layer")] == [False, True]
    assert tiny.run("cat /etc/extra", machine="m").text == "extra"
    tiny.define(machine("oci:oci-layout:other:newest"))
    done = tiny("build")
    assert "no image 'newest'" in done.said
    assert "its tags: latest" in done.said


def test_a_layer_that_gives_an_old_file_a_new_name(tiny: Rig, image: Path) -> None:
    """As umoci and docker write it: a hard link to what only a layer below has."""
    link = tarfile.TarInfo("etc/renamed")
    link.type, link.linkname = tarfile.LNKTYPE, "etc/stays"
    with tarfile.open(tiny.directory / "link.tar", "w") as archive:
        archive.addfile(link)
    call("umoci", "raw", "add-layer", "--image", f"{image}:latest", tiny.directory / "link.tar")
    tiny.define(machine("oci:oci-layout:image"))
    done = tiny.run("cat /etc/renamed; test /etc/renamed -ef /etc/stays && echo same", machine="m")
    assert done.text == "stayssame\n", done
    assert tiny("layer", "verify").status == 0


def test_an_image_with_a_broken_layer_is_refused(tiny: Rig, image: Path) -> None:
    blobs = sorted((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blobs[-1].read_bytes())
    data[len(data) // 2] ^= 0xFF
    blobs[-1].write_bytes(data)
    tiny.define(machine("oci:oci-layout:image"))
    done = tiny("build")
    assert done.status == 10, done
    assert "damaged" in done.said
    (image / "index.json").write_text("{")
    done = tiny("build")
    assert done.status == 6
    assert "damaged" in done.said
    assert half_made(tiny) == []


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {tmp_path}/registry\nhttp:\n  addr: {address}\n"
    )
    child = subprocess.Popen(("docker-registry", "serve", config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(address.split(":")):  # type: ignore[arg-type]
            return True
        return False

    try:
        wait_for(answers)
        yield address
    finally:
        child.kill()
        child.wait()


def test_an_image_pushed_to_a_registry_runs(tiny: Rig, image: Path, registry: str) -> None:
    name = f"{registry}/team/image"
    push = ("skopeo", "copy", "--dest-tls-verify=false")
    call(*push, f"oci:{image}:latest", f"docker://{name}:one")
    tiny.define(machine(f"oci:{name}:one", 'scripts = ["true"]'))
    assert "known once" in tiny("plan").text
    done = tiny.run(LOOK, machine="m")
    assert (done.status, done.text) == (0, SEEN), done
    assert os.listdir(f"{tiny.state}/cache/images") == []
    # the same content from the layout is the same layers
    tiny.define(f'[machines.m]\nfrom = "oci:{name}:one"\n[machines.n]\nfrom = "oci:oci-layout:image"\n')
    assert all(layer["verb"] == "reuse" for layer in tiny.json("plan")["layers"])
    # the tag moves: nothing changes until somebody asks
    extra = tiny.directory / "extra"
    extra.mkdir()
    (extra / "moved").write_text("moved")
    call("umoci", "raw", "add-layer", "--image", f"{image}:latest", packed(extra, tiny.directory / "extra.tar"))
    call(*push, f"oci:{image}:latest", f"docker://{name}:one")
    tiny.define(machine(f"oci:{name}:one"))
    assert "all layers are there" in tiny("build").said
    assert tiny("build", "--update").status == 0
    assert tiny.run("cat /moved", machine="m").text == "moved"
    digest = call("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{name}:one").strip()
    tiny.define(machine(f"oci:{name}@{digest}"))
    assert tiny.run("cat /moved", machine="m").text == "moved"
    tiny.define(machine(f"oci:{name}:none"))
    done = tiny("build")
    assert (done.status, "skopeo cannot get" in done.said) == (6, True), done
    tiny.define(machine("oci:127.0.0.1:9/x:y"))
    assert tiny("build").status == 9


def test_a_docker_archive_becomes_layers(tiny: Rig, image: Path) -> None:
    call("skopeo", "copy", f"oci:{image}:latest", f"docker-archive:{tiny.directory}/image.tar:team/image:one")
    tiny.define(machine("oci:docker-archive:image.tar"))
    assert tiny.run(LOOK, machine="m").text == SEEN
    assert "all layers are there" in tiny("plan").said


# -- directories


def test_a_directory_becomes_a_base(tiny: Rig, tree: Path) -> None:
    os.mknod(tree / "dev/null", 0o20666, os.makedev(1, 3))
    tiny.define(machine(f"dir:{tree}", 'scripts = ["true"]'))
    assert tiny.run("cat /etc/os-release", machine="m").text == "ID=tiny\n"
    assert "all layers are there" in tiny("plan").said
    (tree / "etc/os-release").write_text("ID=other\n")
    assert "directory changed" in tiny("plan").text
    assert tiny.run("cat /etc/os-release", machine="m").text == "ID=other\n"
    os.mknod(tree / "srv", 0o60600, os.makedev(7, 0))
    done = tiny("build")
    assert (done.status, "has a device at /srv" in done.said) == (10, True)
    tiny.define(machine("dir:missing"))
    assert "no directory" in tiny("build").said
    tiny.define(machine("dir:/var"))
    done = tiny("build")
    assert (done.status, "own store is in /var" in done.said) == (6, True), done
    assert half_made(tiny) == []


# -- adopted


def seed(path: Path) -> Path:
    """What the first seed's commands leave: a base, an env that an overlay wrote, and its work directory."""
    make_tree(path / "base")
    for name in ("gone", "stays"):
        (path / "base/etc" / name).write_text(name)
    (path / "base/opt/old").mkdir(parents=True)
    for name in ("env", "work", "merged"):
        (path / name).mkdir()
    script = """mount -t overlay -o lowerdir=base,upperdir=env,workdir=work none merged
rm merged/etc/gone; rm -r merged/opt; mkdir merged/opt; echo new > merged/opt/new; chmod 4755 merged/bin/busybox
echo 'sai:x:883:65534::/home/sai:/bin/sh' >> merged/etc/passwd; mkdir -p merged/home/sai; chown 883:65534 merged/home/sai
umount merged"""
    call("unshare", "--mount", "--propagation=private", "sh", "-ec", script, cwd=path)
    return path


def test_a_tree_of_the_first_seed_is_adopted_and_runs(tiny: Rig, place: str) -> None:
    path = seed(Path(tempfile.mkdtemp(dir=place)) / "linux-ubuntu-xenial-amd64")
    before = call("find", path, "-printf", "%p %i %m %u %C@\\n")
    done = tiny("adopt", str(path))
    assert done.status == 0, done
    assert 'from = "layer:linux-ubuntu-xenial-amd64"' in done.said
    assert call("find", path, "-printf", "%p %i %m %u %C@\\n") == before
    tiny.define(machine("layer:linux-ubuntu-xenial-amd64", 'scripts = ["echo more > /opt/more"]'))
    look = "ls /etc/gone 2>/dev/null; cat /etc/stays; ls /opt; stat -c %a /bin/busybox; stat -c %u:%g /home/sai"
    done = tiny.run(look, machine="m")
    assert (done.status, done.text) == (0, "staysmore\nnew\n4755\n883:65534\n"), done
    assert "883" in tiny.run("id", "-u", "sai", machine="m").text
    layers = tiny.json("adopt", str(path), "again")["layers"]
    assert len(layers) == 2
    assert (
        len({layer["digest"] for layer in tiny.json("layer", "list")}) == 4
    )  # tiny, base, env, the machine's: nothing twice
    assert tiny("layer", "verify").status == 0
    shutil.rmtree(path.parent)


def test_what_cannot_be_adopted_is_said(tiny: Rig, place: str) -> None:
    top = Path(tempfile.mkdtemp(dir=place))
    path = seed(top / "Seed_1")
    os.setxattr(path / "env/opt", "trusted.overlay.redirect", b"/elsewhere")
    done = tiny("adopt", str(path))
    assert (done.status, "only refers to" in done.said) == (6, True), done
    os.removexattr(path / "env/opt", "trusted.overlay.redirect")
    for words, said in (
        ((str(top),), "nothing to adopt"),
        ((str(path), "No Name"), "cannot name a layer"),
        ((str(path / "base/etc"),), "nothing to adopt"),
    ):
        done = tiny("adopt", *words)
        assert (done.status, said in done.said) == (6, True), done
    assert tiny("adopt", str(path)).said.count("seed-1") == 3
    assert tiny("adopt", str(path / "base"), "plain").status == 0
    assert half_made(tiny) == []
    shutil.rmtree(top)
