"""Machines of other processors: i386 by the processor itself, arm64 by an emulator that Roost registers for a session alone.

Nothing is ever registered with the machine's own binfmt_misc: what the tests register is in user namespaces, which have one
of their own since Linux 6.7.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import roost
from roost.host import foreign, runner, syscalls
from roost.host.architectures import PROCESSORS
from roost.sessions import init_path
from roost.store import Store
from system import processors
from system.boot_rig import BootRig
from system.conftest import CACHED
from system.rig import Rig, link_layers
from system.sources_rig import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from system.network_rig import Host

REAL = """
[machines.old]
distribution = "debian"
release = "bookworm"
architecture = "i386"
variant = "essential"
mirror = "{mirror}"
"""
TWO = """
[machines.arm]
from = "dir:{place}/arm64"
architecture = "arm64"
scripts = ["uname -m > /made-on"]

[machines.old]
from = "dir:{place}/i386"
"""
HIDDEN = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /usr/bin/qemu-aarch64-static; exec "$@"', "sh")
BINFMT_D = Path("/usr/lib/binfmt.d")
# $0 a tree, $1 roost-init, $2 what it is to register
BOOT_BY_HAND = """
mount -t tmpfs none "$0/run"
printf %s "$2" >"$0/run/roost-binfmt"
cp "$1" "$0/run/roost-init"
mount --rbind /proc "$0/proc"
exec chroot "$0" /run/roost-init --boot
"""


@pytest.fixture(scope="session")
def mirror() -> str:
    """Where this host has its bookworm from."""
    return processors.mirror()


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """A directory with a tree of each."""
    (tmp_path / "trees").mkdir()
    for name, program in processors.busyboxes(CACHED).items():
        processors.tree_of(tmp_path / "trees" / name, program)
    return tmp_path / "trees"


@pytest.fixture
def two(tiny: Rig, trees: Path) -> Rig:
    """The command with a machine of each; nothing is registered with the host when the test has ended."""
    tiny.define(TWO.format(place=trees))
    return tiny


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    """Whatever the tests do, the machine's own binfmt_misc has what it had."""
    before = registered()
    yield
    assert registered() == before


def registered() -> Any:
    """What the machine's own has, seen through a mount of nobody else's."""

    def look() -> list[str]:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("binfmt_misc", foreign.REGISTERED, "binfmt_misc")
        return sorted(os.listdir(foreign.REGISTERED))

    return runner.in_child(look)


def test_debians_i386_runs_on_the_processor_itself(mirror: str, tiny: Rig) -> None:
    """A real one, made from the mirror: what it runs is 32 bits wide, and is told that the machine is."""
    tiny.define(REAL.format(mirror=mirror))
    plan = roost.Manager(roost.load(tiny.file), state=CACHED).build()
    link_layers(CACHED, tiny.state, plan.machines[0].layers)
    done = tiny.run(
        "uname -m; dpkg --print-architecture; perl -e 'print length(pack(q(p), q())), qq(\\n)'", machine="old"
    )
    assert done.text.split() == ["i686", "i386", "4"], done
    assert Store(tiny.state).layer(plan.machines[0].layers[0]).architecture == "i386"


def test_arm64_runs_where_nothing_is_registered(two: Rig) -> None:
    """Layers are made and commands run by an emulator; how they end is told as exactly as of any."""
    assert foreign.registered_wrongly("arm64"), "the host itself runs arm64: this would prove nothing"
    done = two.run("uname -m; cat /made-on; uname -m | sh -c 'cat; id -u'; exit 3", machine="arm")
    assert (done.text.split(), done.status) == (["aarch64", "aarch64", "aarch64", "0"], 3), done
    killed = two.result("kill -SEGV $$", machine="arm")
    assert (killed["state"], killed["signal"]) == ("killed", "SIGSEGV")
    limited = two.result("dd if=/dev/zero of=/dev/null bs=300M count=1", "--limit", "memory=150M", machine="arm")
    assert limited["limit"].startswith("memory"), limited
    seen = two.run("cat /proc/sys/fs/binfmt_misc/qemu-aarch64; echo 1 > /proc/sys/fs/binfmt_misc/status", machine="arm")
    assert "flags: POF" in seen.text
    assert "Read-only" in seen.said
    assert (
        two.run("cat /proc/sys/fs/binfmt_misc/status 2>&1 || true; uname -m", machine="old").text.split()[-1] == "i686"
    )


def test_a_kept_session_and_a_committed_layer_stay_what_they_are(two: Rig) -> None:
    """What a session is made for goes with it, and with what is made from it."""
    session = two.kept("echo one > /one", machine="arm")
    with two.manager().open_session(session) as opened:
        assert opened.run(roost.Run(command=("sh", "-c", "cat /one; uname -m"))).tail.split() == ["one", "aarch64"]
    assert two("session", "commit", session, "mine").status == 0
    two.define('[machines.m]\nfrom = "layer:mine"\n')
    assert two.run("cat /one; uname -m", machine="m").text.split() == ["one", "aarch64"]


def test_without_an_emulator_nothing_is_made(two: Rig) -> None:
    """The plan warns, the build refuses before it begins, and both say what is missing and how to get it."""
    plan = two("plan", prefix=HIDDEN)
    assert "warning: arm: this host (amd64) cannot run programs of arm64" in plan.said
    built = two("build", "arm", prefix=HIDDEN)
    assert built.status != 0
    for part in ("cannot run programs of arm64", "there is no static qemu-aarch64-static", "hint: "):
        assert part in built.said, built.said
    real = '[machines.far]\ndistribution = "debian"\nrelease = "bookworm"\narchitecture = "arm64"\n'
    two.define(real)
    before = sorted(os.listdir(f"{two.state}/layers"))
    refused = two("build", prefix=HIDDEN)
    assert "base debian bookworm arm64: this host (amd64) cannot run programs of arm64" in refused.said
    assert "making" not in refused.said
    assert sorted(os.listdir(f"{two.state}/layers")) == before
    two.define(real + 'bootstrap = "debootstrap"\n')
    assert "debootstrap cannot make a base of arm64" in two("build").said
    two.define(real + "private-users = false\n")
    assert "what it registers is a user namespace's" in two("plan").said


def test_a_machine_that_was_made_is_refused_when_the_emulator_is_gone(two: Rig) -> None:
    """Before its command, and with the way to get it back."""
    assert two.run("true", machine="arm").status == 0
    done = two.run("true", machine="arm", prefix=HIDDEN)
    assert done.status not in (0, 126)
    assert "cannot run programs of arm64" in done.said
    assert not two.sessions()


def test_a_tree_is_what_its_programs_are_made_for(tiny: Rig, trees: Path) -> None:
    """Not what the definition says: a mistake is found before anything runs."""
    tiny.define(f'[machines.m]\nfrom = "dir:{trees}/arm64"\narchitecture = "i386"\n')
    built = tiny("build")
    assert built.status != 0
    assert "is made for arm64, not for i386" in built.said
    assert 'hint: architecture = "arm64"' in built.said
    tar = tiny.directory / "arm.tar"
    call("tar", "-C", trees / "arm64", "-cf", tar, ".")
    tiny.define(f'[machines.m]\nfrom = "tar:{tar}"\n')  # it does not say
    assert tiny.run("uname -m", machine="m").text.strip() == "aarch64"
    tiny.define(f'[machines.m]\nfrom = "tar:{tar}"\narchitecture = "amd64"\n')
    assert "is made for arm64, not for amd64" in tiny("build").said


def test_an_image_for_several_processors(tiny: Rig, trees: Path) -> None:
    """The index's manifest of the architecture that is written; of one that it lacks, nothing."""
    image = tiny.directory / "image"
    call("umoci", "init", "--layout", image)
    for name in ("arm64", "i386"):
        call("umoci", "new", "--image", f"{image}:{name}")
        tar = tiny.directory / f"{name}.tar"
        call("tar", "-C", trees / name, "-cf", tar, ".")
        call("umoci", "raw", "add-layer", "--image", f"{image}:{name}", tar)
    top = json.loads((image / "index.json").read_text())
    for one in top["manifests"]:
        name = one.pop("annotations")["org.opencontainers.image.ref.name"]
        one["platform"] = {"os": "linux", "architecture": {"i386": "386"}.get(name, name)}
    inner = json.dumps({**top, "mediaType": "application/vnd.oci.image.index.v1+json"}).encode()
    digest = hashlib.sha256(inner).hexdigest()
    (image / "blobs/sha256" / digest).write_bytes(inner)
    one = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{digest}", "size": len(inner)}
    (image / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [one]}))
    source = f'from = "oci:oci-layout:{image}"\n'
    tiny.define(f'[machines.a]\n{source}architecture = "arm64"\n[machines.i]\n{source}architecture = "i386"\n')
    assert tiny.run("uname -m", machine="a").text.strip() == "aarch64"
    assert tiny.run("uname -m", machine="i").text.strip() == "i686"
    tiny.define(f'[machines.s]\n{source}architecture = "s390x"\n')
    assert "is not made for s390x" in tiny("build").said


@pytest.mark.parametrize(("name", "word"), [("arm64", "aarch64"), ("i386", "i686")])
def test_a_booted_machine_is_what_it_is(
    name: str, word: str, net: Host, new_store: Callable[[], str], tmp_path: Path, trees: Path
) -> None:
    """Its init, and each command in it; it ends in order."""
    rig = BootRig(
        new_store(), tmp_path, net, f'[machines.tiny]\nfrom = "dir:{trees}/{name}"\nboot = {{ timeout = 20 }}\n'
    )
    try:
        assert rig.up()["state"] == "ready"
        done = rig.inside("uname -m; cat /run/booted-on; kill -KILL $$")
        assert done.text.split() == [word, word]
        assert done.status == 128 + signal.SIGKILL
        assert rig.inside("sh -c 'exit 7'").status == 7
        assert rig("down", "tiny").status == 0
    finally:
        rig.close()


def test_an_init_is_run_by_the_hosts_own_binfmt_misc(trees: Path) -> None:
    """The start of a machine for which Roost registers nothing: it has no binfmt_misc of its own, which would hide the host's.

    The host is a user namespace of the test's. nspawn starts nothing in one, so roost-init is run as nspawn runs it.
    """
    init = trees / "arm64/sbin/init"
    init.unlink()
    init.write_text("#!/bin/sh\nuname -m\n")
    init.chmod(0o755)

    def boot(registration: str) -> list[Any]:
        foreign.enter(None)
        Path(foreign.REGISTERED, "register").write_bytes((BINFMT_D / "qemu-aarch64.conf").read_bytes().strip())
        words = (
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-euc",
            BOOT_BY_HAND,
            trees / "arm64",
            init_path(),
        )
        done = subprocess.run([*words, registration], capture_output=True, text=True, check=False)
        return [done.stdout, done.stderr, done.returncode]

    assert runner.in_child(lambda: boot("")) == ["aarch64\n", "", 0]
    # what is written is registered: nothing but that namespace's own runs programs then
    assert "no init can be started" in runner.in_child(lambda: boot(":other:E::other::/bin/sh:"))[1]


def test_what_the_kernel_has_registered_is_understood() -> None:
    """Debian's own lines, in a user namespace of the test's: found, told when they cannot work in a tree, or are off."""
    lines = {name: (BINFMT_D / f"qemu-{one.qemu}.conf") for name, one in PROCESSORS.items()}
    lines = {name: path for name, path in lines.items() if path.exists()}
    assert "arm64" in lines

    def look() -> Any:
        foreign.enter(None)
        found: dict[str, Any] = {"none": foreign.registered_wrongly("arm64")}
        place = Path(foreign.REGISTERED)
        for path in set(lines.values()):
            (place / "register").write_bytes(path.read_bytes().strip())
        found["all"] = {name: foreign.registered_wrongly(name) for name in lines}
        found["way"] = foreign.find("arm64").emulator
        (place / "qemu-aarch64").write_text("0")
        found["off"] = foreign.registered_wrongly("arm64")
        (place / "qemu-aarch64").write_text("-1")
        (place / "register").write_bytes(lines["arm64"].read_bytes().strip().removesuffix(b"OPF") + b"OP")
        found["late"] = foreign.registered_wrongly("arm64")
        (place / "status").write_text("-1")
        for name in ("arm64", "s390x"):  # and what Roost itself would register, for both orders of bytes
            (place / "register").write_bytes(foreign.Way(architecture=name).registration(foreign.emulator(name)))
        found["own"] = [foreign.registered_wrongly(name) for name in ("arm64", "s390x", "riscv64")]
        return found

    found = runner.in_child(look)
    assert found["none"] == "binfmt_misc has no interpreter for them"
    assert set(found["all"].values()) == {""}
    assert found["way"] == ""
    assert found["off"] == "qemu-aarch64 in binfmt_misc is disabled"
    assert "without the flag F" in found["late"]
    assert found["own"] == ["", "", "binfmt_misc has no interpreter for them"]


def test_doctor_says_by_what_each_is_run(tiny: Rig) -> None:
    """Natively, by an emulator; and what is missing where there is none."""
    found = {one["name"]: one for one in tiny.json("doctor")}["architectures"]
    assert found["state"] == "ok"
    assert "by the processor: i386" in found["found"]
    assert "by QEMU, which Roost registers itself: arm64 armhf" in found["found"]
