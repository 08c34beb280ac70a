"""What a crash, a damaged record, a full disk or another store does to machines that boot, and how one gets over it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roost.network import netlink
from system.boot_rig import BOOTY, OWN_FILES, BootRig, make_booty
from system.disk import Disk
from system.network_rig import Host, peer_of
from system.rig import COMMAND, below, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def rig(net: Host, new_store: Callable[[], str], tmp_path: Path) -> Iterator[BootRig]:
    """The command on a host of its own; no machine stays up."""
    state = new_store()
    make_booty(state, quick=True)
    made = BootRig(state, tmp_path, net)
    yield made
    made.close()
    assert "roost" not in net.state()["rules"]
    assert "roost" not in net.read("etc/hosts")


def kill(rig: BootRig, machine: str = "tiny") -> None:
    """A power cut for one machine."""
    pid = rig.nspawn(machine)
    os.kill(rig.supervisor(machine), signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def leftovers(rig: BootRig) -> str:
    """What `roost doctor` says of them."""
    found: str = next(check["found"] for check in rig.json("doctor") if check["name"] == "leftovers")
    return found


def repaired(rig: BootRig) -> dict[str, str]:
    """What --repair did: name → state."""
    return {item["name"]: item["state"] for item in json.loads(rig("doctor", "--repair", "--json").out)}


def test_doctor_tells_and_clears_what_a_kill_left(rig: BootRig) -> None:
    """An ephemeral machine's changes, its last run and its network; looking changes nothing."""
    rig.up("--ephemeral")
    assert leftovers(rig) == "none"
    kill(rig)
    for said in (leftovers(rig), leftovers(rig)):
        for what in ("session tiny", "the last run of machine tiny", "the network of tiny"):
            assert what in said, said
    found = repaired(rig)
    assert set(found.values()) == {"cleared"}
    assert {"session tiny", "the last run of machine tiny", "the network of tiny"} <= set(found)
    assert leftovers(rig) == "none"
    assert "roost" not in rig.host.state()["rules"]
    assert "tiny" not in rig.host.read("etc/hosts")
    assert rig.up()["action"] == "started"


def test_a_limit_that_is_not_enforced_is_said(rig: BootRig) -> None:
    """Rather than to be believed in."""
    rig.define('[machines.tiny]\nfrom = "layer:booty"\nlimits = { disk = "64M" }\n')
    done = rig("up", "tiny")
    assert done.status == 0
    assert "limits.disk is for sessions" in done.said


def test_what_is_of_no_machine_on_the_host(rig: BootRig) -> None:
    """The names and the table of a machine that nothing knows any more, as after a reboot in the middle of it."""
    assert leftovers(rig) == "none"
    rig.host.write("etc/hosts", "127.0.0.1\tlocalhost\n# BEGIN roost\n10.9.9.2\told\n# END roost\n")
    rig.host.here.run("nft", "add", "table", "inet", "roost")
    rig.host.here.ip("link add ro-lost type veth peer name lost0")
    rig.host.here.ip("link set ro-lost alias roost:lost")
    rig.host.here.ip("link add ro-other type veth peer name other0")  # somebody else's
    for what in ("traces of private networks on the host", "the network of lost"):
        assert what in leftovers(rig)
    assert repaired(rig) == {"traces of private networks on the host": "cleared", "the network of lost": "cleared"}
    assert "ro-lost" not in rig.host.state()["links"]
    assert "ro-other" in rig.host.state()["links"]
    assert rig.host.read("etc/hosts") == "127.0.0.1\tlocalhost\n"
    assert "roost" not in rig.host.state()["rules"]
    assert leftovers(rig) == "none"


def test_a_damaged_record(rig: BootRig) -> None:
    """It is said; the machine can be ended, brought up and removed, and keeps what it has changed."""
    record = Path(f"{rig.state}/booted/tiny/machine.json")
    rig.up()
    rig.inside("echo kept > /etc/kept")
    record.write_text('{"name": "tiny", ')
    assert rig.status()["state"] == "damaged"
    assert "the record of machine tiny is damaged" in leftovers(rig)
    assert repaired(rig) == {"tiny": "stays"}
    assert rig("gc").status == 0
    assert rig("down", "tiny").status == 0
    done = rig("up", "tiny")
    assert done.status == 0, done
    assert "is written anew" in done.said
    assert rig.inside("cat /etc/kept").text == "kept\n"
    assert leftovers(rig) == "none"
    record.write_text("")
    assert rig("up", "tiny").status == 0  # nobody knows what it runs with: it is started again
    assert rig.inside("wc -l < /var/boots").text.split() == ["3"]
    os.rename(f"{rig.state}/layers/{BOOTY}", f"{rig.state}/layers/gone")
    done = rig("restart", "tiny")
    assert f"layer {BOOTY[:12]} was removed" in done.said
    assert rig.status()["state"] == "up"  # it is not ended for a start that must fail
    os.rename(f"{rig.state}/layers/gone", f"{rig.state}/layers/{BOOTY}")
    record.write_text("")
    assert rig("down", "--remove", "tiny").status == 0
    assert os.listdir(f"{rig.state}/booted") == os.listdir(f"{rig.state}/sessions") == []


@pytest.mark.parametrize("way", ["full", "read-only"])
def test_no_room(net: Host, tmp_path: Path, tiny_state: str, way: str) -> None:
    """One clear error when it is brought up; one that is up goes on, and can be ended; with room it comes up again."""
    disk = Disk(tmp_path, "ext4", "-m", "0", size=40 << 20)
    try:
        subprocess.run(("cp", "-a", tiny_state, disk.place / "state"), check=True)
        rig = BootRig(str(disk.place / "state"), tmp_path, net)
        make_booty(rig.state, quick=True)
        rig.up()
        rig.inside("echo kept > /etc/kept; sync")
        assert rig("down", "tiny").status == 0
        ballast = disk.fill() if way == "full" else None
        if way == "read-only":
            disk.remount("ro")
        done = rig("doctor", "--repair")
        assert "Traceback" not in done.said
        done = rig("up", "tiny")
        assert done.status != 0
        assert ("the disk is full" if way == "full" else "read-only") in done.said, done
        assert "Traceback" not in done.said
        assert "ro-" not in net.state()["links"]
        if ballast is None:
            disk.remount("rw")
        else:
            os.unlink(ballast)
        assert rig.up()["action"] == "started"
        assert rig.inside("cat /etc/kept").text == "kept\n"
        if way == "full":
            ballast = disk.fill()
            assert rig.inside("echo works").text == "works\n"
            assert rig("down", "tiny").status == 0
            os.unlink(ballast)
        rig.close()
    finally:
        disk.unmount()
    assert "roost" not in net.state()["rules"]


def test_two_stores_with_a_machine_of_the_same_name(rig: BootRig, new_store: Callable[[], str], tmp_path: Path) -> None:
    """Both are up at once, each with an interface, an address and a way out of its own; one ends, the other stays."""
    state = new_store()
    make_booty(state, quick=True)
    (tmp_path / "other").mkdir()
    other = BootRig(state, tmp_path / "other", rig.host)
    try:
        rig.up()  # the names are allotted while nothing of the other is there to be seen
        assert rig("down", "tiny").status == 0
        other.up()
        rig.up()
        found = [one.status() for one in (rig, other)]
        assert len({one["interface"] for one in found}) == len({one["address"] for one in found}) == 2
        for one in (rig, other):
            with rig.host.wan.listen(4444) as door:
                one.inside("timeout 1 nc 198.51.100.1 4444 </dev/null")
                assert peer_of(door) == "198.51.100.2"
        assert rig("down", "tiny").status == 0
        assert "tiny" in rig.host.read("etc/hosts")
        with rig.host.wan.listen(4444) as door:
            other.inside("timeout 1 nc 198.51.100.1 4444 </dev/null")
            assert peer_of(door) == "198.51.100.2"
    finally:
        other.close()


def test_the_host_reboots_in_the_middle_of_up(rig: BootRig) -> None:
    """All processes end at once and /run is empty: the machine comes up with its changes, and nothing is in its way."""
    rig.up()
    rig.inside("echo kept > /etc/kept; sync")
    assert rig("down", "tiny").status == 0
    own = ("unshare", "--mount", "--propagation=private", "sh", "-c", OWN_FILES, f"{rig.host.root}/etc")
    with netlink.inside(rig.host.here.fd):
        child = subprocess.Popen((*own, *COMMAND, "up", "tiny"), cwd=rig.directory, env=rig.environment())
    wait_for(lambda: "ro-" in rig.host.state()["links"])
    supervisor = rig.supervisor()
    for pid in (child.pid, *below(child.pid), supervisor, *below(supervisor)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    child.wait()
    wait_for(lambda: "ro-" not in rig.host.state()["links"])
    shutil.rmtree(f"{rig.state}/run")
    shutil.rmtree(f"/run/roost/network-{os.fstat(rig.host.here.fd).st_ino}")
    rig.host.here.run("nft", "flush", "ruleset")
    assert rig.status()["state"] == "down"
    assert rig.up()["action"] == "started"
    assert rig.inside("cat /etc/kept").text == "kept\n"


@pytest.mark.parametrize("beside", ["down", "gc", "session commit", "session remove"])
def test_up_beside(rig: BootRig, beside: str) -> None:
    """Both succeed, or one says that the machine is in use; then it comes up, and nothing of its layers is gone."""
    rig.up()
    if beside != "down":
        assert rig("down", "tiny").status == 0
    words = {"session commit": ("session", "commit", "tiny", "mine"), "session remove": ("session", "remove", "tiny")}
    other = words.get(beside, (beside, "tiny") if beside == "down" else (beside,))
    with ThreadPoolExecutor(2) as pool:
        done = [one.result() for one in (pool.submit(rig, "up", "tiny"), pool.submit(rig, *other))]
    for one in done:
        assert "Traceback" not in one.said, done
        assert one.status == 0 or any(word in one.said for word in ("in use", "is up", "meanwhile", "no session")), done
    assert rig("up", "tiny").status == 0
    assert rig.inside("echo works").text == "works\n"
    assert not (
        set(json.loads(Path(f"{rig.state}/booted/tiny/machine.json").read_text())["layers"])
        - set(os.listdir(f"{rig.state}/layers"))
    )
