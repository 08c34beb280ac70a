"""Machines that boot, on a host without systemd: up, down, changes, kills, and what is left (nothing)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from system.boot_rig import BOOT, BootRig, make_booty
from system.network_rig import WAN, Host, host_at, peer_of
from system.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of the test's own."""
    with host_at(str(tmp_path / "host")) as made:
        yield made


@pytest.fixture
def rig(host: Host, new_store: Callable[[], str], tmp_path: Path) -> Iterator[BootRig]:
    """The command on it; no machine stays up."""
    state = new_store()
    make_booty(state, quick=True)
    made = BootRig(state, tmp_path, host)
    yield made
    made.close()
    assert "roost" not in host.state()["rules"]


def test_a_machine_boots_answers_and_ends(rig: BootRig) -> None:
    """Its own init runs, with a network; afterwards the host is as it was."""
    before = rig.host.state()
    outcome = rig.up()
    assert (outcome["action"], outcome["state"]) == ("started", "ready")
    assert rig.status()["state"] == "up"
    done = rig.inside("cat /proc/1/comm; hostname; cat /run/ready; ls -d /var/boots")
    assert done.text.split() == ["init", "tiny", "/var/boots"]
    assert "booted on the console" in rig("logs", "tiny").text
    done = rig("down", "tiny")
    assert done.status == 0
    assert rig.status()["state"] == "down"
    after = rig.host.state()
    for what in ("links", "rules", "settings", "files", "hosts"):  # routes of IPv6 come a moment after their links
        assert after[what] == before[what]


def test_its_changes_stay_and_are_told(rig: BootRig) -> None:
    """What it writes is there after a restart, in `session diff`, and becomes a layer."""
    rig.up()
    assert rig.inside("echo kept > /etc/kept").status == 0
    assert "/etc/kept" in rig("session", "diff", "tiny").text
    refused = rig("session", "commit", "tiny", "mine")
    assert refused.status != 0
    assert "roost down" in refused.said
    assert rig("restart", "tiny").status == 0
    assert rig.inside("cat /etc/kept; wc -l < /var/boots").text.split() == ["kept", "2"]
    assert rig("down", "tiny").status == 0
    assert rig("session", "commit", "tiny", "mine").status == 0
    rig.define('[machines.tiny]\nfrom = "layer:mine"\n')
    assert rig.run("cat /etc/kept").out == b"kept\n"


def test_an_ephemeral_machine_begins_anew(rig: BootRig) -> None:
    """Nothing that it has written is there at the next start, nor on disk."""
    rig.up("--ephemeral")
    rig.inside("echo gone > /etc/gone")
    assert rig("restart", "tiny").status == 0
    assert rig.inside("test ! -e /etc/gone").status == 0
    assert rig("down", "tiny").status == 0
    assert not os.listdir(f"{rig.state}/running")
    assert "tiny" not in os.listdir(f"{rig.state}/sessions")


def test_nat_names_and_no_way_in(rig: BootRig) -> None:
    """It reaches what has no way back to it, finds its neighbour by name, and nobody outside reaches it."""
    rig.define(BOOT + '\n[machines.other]\nfrom = "layer:booty"\n')
    assert rig("up", "tiny", "other").status == 0
    address = rig.status()["address"]
    with rig.host.wan.listen(4444) as door:
        rig.inside(f"timeout 1 nc {WAN} 4444 </dev/null")
        assert peer_of(door) == "198.51.100.2"
    rig.inside("nc -l -p 80 -e echo hello >/dev/null 2>&1 &", "other")
    wait_for(lambda: rig.inside("timeout 1 nc other 80 </dev/null").text == "hello\n")
    rig.host.wan.ip(f"route add {address}/32 via 198.51.100.2")
    rig.inside("nc -l -p 81 -e echo hello >/dev/null 2>&1 &")
    wait_for(lambda: rig.host.here.reaches(address, 81))
    rig.inside("nc -l -p 82 -e echo hello >/dev/null 2>&1 &")
    assert not rig.host.wan.reaches(address, 82)
    with open(f"{rig.host.root}/etc/hosts", encoding="utf-8") as stream:
        assert f"{address}\ttiny" in stream.read()


def test_only_what_changed_changes(rig: BootRig) -> None:
    """A port is opened in the running machine; another layer needs a start. Both are told."""
    rig.up()
    first = rig.nspawn()
    assert rig.up()["action"] == "unchanged"
    rig.define(BOOT + 'network = { publish = ["8080:80"] }\n')
    assert "network.publish" in " ".join(rig.status()["outdated"])
    outcome = rig.up()
    assert outcome["action"] == "changed"
    assert "network.publish: none to 8080:80" in outcome["changes"]
    assert rig.nspawn() == first
    rig.inside("nc -l -p 80 -e echo hello >/dev/null 2>&1 &")
    wait_for(lambda: rig.host.wan.reaches("198.51.100.2", 8080))
    rig.define(BOOT + 'environment = { A = "b" }\nlimits = { tasks = 200 }\n')
    outcome = rig.up()
    assert outcome["action"] == "restarted"
    assert "limits.tasks: none to 200" in outcome["changes"]
    assert rig.nspawn() != first


def test_what_cannot_be_applied_is_not_said_to_be_there(rig: BootRig) -> None:
    """A port that somebody has: the next `up` tries again. What was applied holds after a restart from inside, too."""
    rig.up()
    rig.define(BOOT + 'network = { publish = ["8080:80"], egress = [] }\n')
    with rig.host.here.listen(8080):
        assert rig("up", "tiny").status == 1
    assert rig.up()["action"] == "changed"
    pid = rig.nspawn()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: _runs_as_another(rig, pid))
    with rig.host.wan.listen(4444):
        assert rig.inside(f"timeout 1 nc {WAN} 4444 </dev/null").status != 0


def test_an_address_is_not_changed_under_it(rig: BootRig) -> None:
    """It is started again with the new one, and has that alone."""
    rig.up()
    rig.define(BOOT + 'network = { address = "10.77.0.2" }\nboot = { hostname = "other" }\n')
    outcome = rig.up()
    assert (outcome["action"], outcome["address"]) == ("restarted", "10.77.0.2")
    shown = rig.inside("ip -4 -o addr show host0; hostname; grep 127.0.1.1 /etc/hosts").text
    assert shown.count("inet ") == 1
    assert shown.split()[-3:] == ["other", "127.0.1.1", "other"]


def test_enabled_machines_start_from_their_records(rig: BootRig) -> None:
    """No definition is there, and no name is given."""
    rig.up()
    assert rig("enable", "tiny").status == 0
    assert rig("down").status == 0
    rig.file.unlink()
    done = rig("up", "--enabled")
    assert done.status == 0, done
    assert rig.status()["state"] == "up"


def test_nothing_is_removed_that_is_not_named(rig: BootRig) -> None:
    """Neither what runs nor what is down."""
    rig.up()
    rig("down")
    done = rig("down", "--remove")
    assert done.status != 0
    assert "'*'" in done.said
    assert rig.status()["state"] == "down"


def test_other_layers_and_the_way_back(rig: BootRig) -> None:
    """Its layers are exchanged below its changes, and exchanged back; gc keeps both."""
    rig.up()
    rig.inside("echo mine > /etc/mine")
    rig.define(BOOT + 'scripts = ["echo new > /etc/new\\n"]\n')
    outcome = rig.up()
    assert (outcome["action"], outcome["changes"]) == ("restarted", ["layers changed"])
    assert rig.inside("cat /etc/new /etc/mine").text.split() == ["new", "mine"]
    assert rig("gc").status == 0
    done = rig("rollback", "tiny")
    assert done.status == 0, done
    assert rig.inside("cat /etc/mine; test ! -e /etc/new").text.split() == ["mine"]
    assert rig("rollback", "tiny").status == 0
    assert rig.inside("cat /etc/new").text.split() == ["new"]


def test_an_update_and_the_way_back(rig: BootRig) -> None:
    """The same definition made anew; the machine stands on the new layers, keeps its changes, and can go back."""
    rig.define(BOOT + 'scripts = ["cat /proc/sys/kernel/random/uuid > /etc/made"]\n')
    rig.up()
    rig.inside("echo mine > /etc/mine")
    first = rig.inside("cat /etc/made").text
    outcome = rig.up("--update")
    assert (outcome["action"], outcome["changes"]) == ("restarted", ["layers changed"])
    second = rig.inside("cat /etc/made").text
    assert second != first
    assert rig.inside("cat /etc/mine").text == "mine\n"
    assert rig.up()["action"] == "unchanged"
    assert rig.run("cat /etc/made").text == second
    assert rig("rollback", "tiny").status == 0
    assert rig.inside("cat /etc/made").text == first
    done = rig("up", "tiny")
    assert "stays on the layers that it was rolled back to" in done.said
    assert rig.inside("cat /etc/made").text == first
    assert rig("rollback", "tiny").status == 0
    assert rig.inside("cat /etc/made").text == second


def test_an_update_that_changes_nothing_lets_it_run(rig: BootRig) -> None:
    rig.up()
    before = rig.nspawn()
    outcome = rig.up("--update")
    assert (outcome["action"], outcome["packages"]) == ("unchanged", [])
    assert rig.nspawn() == before


@pytest.mark.parametrize("victim", ["nspawn", "supervisor"])
def test_a_kill_leaves_nothing(rig: BootRig, victim: str) -> None:
    """nspawn is started again by its supervisor; without a supervisor all of it goes, and `up` starts it anew."""
    rig.up()
    pid = rig.nspawn()
    os.kill(rig.supervisor() if victim == "supervisor" else pid, signal.SIGKILL)
    if victim == "nspawn":
        wait_for(lambda: _runs_as_another(rig, pid), 30)
        assert rig.inside("wc -l < /var/boots").text.split() == ["2"]
        return
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert rig.status()["state"] == "down"
    assert rig("down", "tiny").status == 0
    assert rig.up()["action"] == "started"


def _runs_as_another(rig: BootRig, pid: int) -> bool:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return rig.nspawn() != pid and rig.status()["state"] == "up"
    return False


def test_two_at_once(rig: BootRig) -> None:
    """Both succeed; there is one machine."""
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: rig("--json", "up", "tiny"), range(2)))
    assert [one.status for one in done] == [0, 0], done
    assert sorted(json.loads(one.out)[0]["action"] for one in done) == ["started", "unchanged"]


def test_a_machine_that_ends_itself(rig: BootRig) -> None:
    """poweroff inside ends it; reboot starts it again."""
    make_booty(rig.state, name="busy", digest="9" * 64)
    rig.define('[machines.tiny]\nfrom = "layer:busy"\n')
    rig.up()
    pid = rig.nspawn()
    rig.inside("reboot")
    wait_for(lambda: _runs_as_another(rig, pid))
    rig.inside("poweroff")
    wait_for(lambda: rig.status()["state"] == "down")
    wait_for(lambda: not os.path.exists(f"{rig.state}/run/booted/tiny/run.json"))


def test_without_an_init(rig: BootRig) -> None:
    """It is said before anything is started, with what is missing and what to do."""
    rig.define('[machines.tiny]\nfrom = "layer:tiny"\n')
    done = rig("up", "tiny")
    assert done.status == 1
    assert "error: tiny cannot boot\n" in done.said
    assert done.said.count("boot = {}") == 1
    assert rig("status").text == ""


def test_never_ready(rig: BootRig) -> None:
    """The time is over, its last words are told, and it stays up to be looked into."""
    rig.define(BOOT + 'boot = { ready = "test -e /never", timeout = 2 }\n')
    done = rig("up", "tiny")
    assert done.status == 1
    assert "not ready within 2 s" in done.said
    assert "booted on the console" in done.said
    assert rig.status()["state"] == "up"


def test_first_boot(rig: BootRig) -> None:
    """A script that fails is run again at the next start, what has succeeded is not."""
    rig.define(
        BOOT
        + """boot = {}
firstboot = ["echo one >> /var/log-one\\n", "echo two >> /var/log-two\\ntest -e /var/allowed\\n", "echo three >> /var/log-three\\n"]
"""
    )
    done = rig("up", "tiny")
    assert done.status == 1
    assert "script 2 failed" in done.said
    rig.inside("touch /var/allowed")
    assert rig("restart", "tiny").status == 0
    assert rig("restart", "tiny").status == 0
    assert rig.inside("cat /var/log-one /var/log-two /var/log-three").text.split() == ["one", "two", "two", "three"]


def test_removed(rig: BootRig) -> None:
    """Nothing of it is in the store but its layers."""
    rig.up()
    done = rig("down", "--remove", "tiny")
    assert done.status == 0, done
    assert rig("status").text == ""
    assert not os.listdir(f"{rig.state}/booted")
    assert not os.listdir(f"{rig.state}/sessions")
    assert "tiny" not in rig.host.read("etc/hosts")


def test_enabled_where_only_a_mark_is_kept(rig: BootRig) -> None:
    """Nothing starts it by itself: what has to be called is said."""
    rig.up()
    assert json.loads(rig("--json", "enable", "tiny").out) == [{"machine": "tiny", "enabled": True}]
    assert "by `roost up --enabled`" in rig("status").text
    assert json.loads(rig("--json", "disable", "tiny").out) == [{"machine": "tiny", "enabled": False}]
    assert "by hand" in rig("status").text
