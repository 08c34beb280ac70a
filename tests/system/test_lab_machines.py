"""Machines on hosts with systemd: units that administrators know, and what Roost writes for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from system.lab import HOSTS

if TYPE_CHECKING:
    from system.lab import LabHost

EVERY_HOST = pytest.mark.parametrize("host", HOSTS, indirect=True)
UNIT = "systemd-nspawn@guest"
DROP_IN = f"/etc/systemd/system/{UNIT}.service.d/50-roost.conf"


def guest(boot: str = "", more: str = "", *, name: str = "guest") -> str:
    """A machine without a network, which is not what these tests are about."""
    return f'[machines.{name}]\nboot = {{ {boot} }}\nnetwork = {{ mode = "none" }}\n{more}\n'


def up(host: LabHost, *words: str) -> dict[str, Any]:
    """What `roost up guest` says of it."""
    (outcome,) = json.loads(host.roost("up", "guest", "--json", *words).out)
    return dict(outcome)


def status(host: LabHost) -> dict[str, Any]:
    """What `roost status` says of the only machine."""
    (one,) = json.loads(host.roost("status", "--json").out)
    return dict(one)


@EVERY_HOST
def test_a_machine_is_administered_with_what_administrators_know(host: LabHost) -> None:
    host.define(guest())
    outcome = up(host)
    assert (outcome["machine"], outcome["action"], outcome["state"]) == ("guest", "started", "running")
    assert host.ok("machinectl list --no-legend").split()[:3] == ["guest", "container", "systemd-nspawn"]
    shown = host.ok("machinectl show guest -p Unit -p State -p RootDirectory --value").split()
    assert sorted(shown) == ["/var/lib/machines/guest", "running", "systemd-nspawn@guest.service"]
    assert "Debian GNU/Linux 12" in host.ok("machinectl status guest --no-pager")
    assert host.ok(f"systemctl is-active {UNIT}") == "active"
    assert host.ok("systemctl -M guest is-system-running") == "running"
    assert host.ok("systemd-run -M guest --quiet --wait --pipe cat /proc/sys/kernel/hostname /proc/1/comm").split() == [
        "guest",
        "systemd",
    ]
    assert host.ok("machinectl -q shell guest /bin/sh -c 'hostname; echo $((6 * 7))'").split() == ["guest", "42"]
    assert "Reached target" in host.ok("journalctl -M guest --no-pager --quiet")
    assert "Reached target" in host.ok(f"journalctl --no-pager --quiet -u {UNIT}")
    assert host.roost("exec", "guest", "--", "cat", "/proc/sys/kernel/hostname").text == "guest\n"
    host.ok("roost exec guest -- sh -c 'echo root:secret | chpasswd'")
    assert host.ok("roost exec guest -u nobody -- sh -c 'echo secret | su -c \"id -un\"'") == "root"

    host.ok("machinectl reboot guest")
    host.ok("until systemctl -M guest is-system-running --wait 2>/dev/null; do sleep 0.05; done")
    assert up(host)["action"] == "unchanged"
    host.ok(
        f"machinectl poweroff guest; until [ $(systemctl is-active {UNIT}) = inactive ]; do sleep 0.05; done",
        timeout=20,
    )
    assert (status(host)["state"], status(host)["enabled"]) == ("down", False)
    assert "Reached target" in host.roost("logs", "guest").text
    host.ok("machinectl start guest")
    assert status(host)["state"] != "down"
    host.roost("down", "guest", "--remove")


@EVERY_HOST
def test_enabled_machines_come_up_with_the_host_and_no_process_of_roosts_is_there(host: LabHost) -> None:
    host.define(guest("enable = true") + guest(name="idle"))
    host.roost("up", "guest", "idle")
    host.ok("systemd-run -M guest --quiet --wait --pipe sh -c 'echo kept > /etc/kept'")
    host.reboot()
    host.ok("until systemctl -M guest is-system-running --wait 2>/dev/null; do sleep 0.05; done")
    assert host.ok("systemd-run -M guest --quiet --wait --pipe cat /etc/kept") == "kept"
    found = {
        one["machine"]: (one["state"] != "down", one["enabled"])
        for one in json.loads(host.roost("status", "--json").out)
    }
    assert found == {"guest": (True, True), "idle": (False, False)}
    assert host("pgrep -a -f 'roost[.]'").text == ""
    host.roost("disable", "guest")
    host.roost("enable", "idle")
    assert host(f"systemctl is-enabled {UNIT} systemd-nspawn@idle").text.split() == ["disabled", "enabled"]
    host.roost("down", "guest", "idle", "--remove")


def test_an_edit_changes_what_it_says_and_no_more(host: LabHost) -> None:
    host.define(guest())
    up(host)
    leader = host.ok("machinectl show guest -p Leader --value")
    again = up(host)
    assert (again["action"], again["changes"]) == ("unchanged", [])

    host.define(guest("enable = true, timeout = '100s'", 'limits = { memory = "90M", tasks = 100, cpus = 1.5 }'))
    outdated = status(host)["outdated"]
    changed = up(host)
    assert changed["action"] == "changed"
    assert changed["changes"] == outdated == [
        "boot.enable: no to yes", "boot.timeout: 90.0 to 100.0", "limits.memory: none to 90M",
        "limits.cpus: none to 1.5", "limits.tasks: none to 100",
    ]  # fmt: skip
    assert host.ok("machinectl show guest -p Leader --value") == leader
    assert host.ok(f"systemctl is-enabled {UNIT}") == "enabled"
    group = host.ok(f"systemctl show {UNIT} -p ControlGroup --value")
    assert host.ok(f"cat /sys/fs/cgroup/memory{group}/memory.limit_in_bytes") == "94371840"
    eaten = host("systemd-run -M guest --quiet --wait --pipe sh -c 'head -c 300M /dev/zero | tail -c 250M | wc -c'")
    assert eaten.text == "0\n"  # tail is killed
    assert host.ok("machinectl show guest -p Leader --value") == leader

    host.define(guest("hostname = 'renamed'"))
    restarted = up(host)
    assert restarted["action"] == "restarted"
    assert restarted["changes"][1] == "boot.hostname: guest to renamed"
    assert host.ok("systemd-run -M guest --quiet --wait --pipe cat /proc/sys/kernel/hostname") == "renamed"
    assert host.ok("machinectl show guest -p Leader --value") != leader
    host.roost("down", "guest", "--remove")


def test_what_it_writes_is_thrown_away_when_it_is_ephemeral(host: LabHost) -> None:
    host.define(guest())
    up(host, "--ephemeral")
    host.ok("systemd-run -M guest --quiet --wait --pipe sh -c 'echo x > /etc/gone'")
    host.roost("restart", "guest")
    assert host("systemd-run -M guest --quiet --wait --pipe cat /etc/gone").status != 0
    assert status(host)["ephemeral"]
    host.roost("down", "guest")
    assert (
        host.ok("ls /var/lib/roost/running /var/lib/roost/sessions")
        == "/var/lib/roost/running:\n\n/var/lib/roost/sessions:"
    )
    assert up(host, "--ephemeral")["action"] == "started"
    host.roost("down", "guest", "--remove")


def test_new_layers_are_put_below_it_and_it_goes_back(host: LabHost) -> None:
    """Its own changes stay, above the old layers, above the new ones, and above the old ones again."""
    host.define('[machines.guest]\nfrom = "layer:guest"\nnetwork = { mode = "none" }\n', over="")
    up(host)
    host.ok("systemd-run -M guest --quiet --wait --pipe sh -c 'echo own > /etc/own'")
    host.roost("run", "guest", "--keep", "--", "sh", "-c", "echo new > /etc/new")
    session = next(one["id"] for one in json.loads(host.roost("session", "list", "--json").out) if one["id"] != "guest")
    host.roost("session", "commit", session, "newer")
    host.roost("session", "remove", session)
    host.define('[machines.guest]\nfrom = "layer:newer"\nnetwork = { mode = "none" }\n', over="")
    changed = up(host)
    assert (changed["action"], changed["changes"]) == ("restarted", ["layers changed"])
    assert host.ok("systemd-run -M guest --quiet --wait --pipe cat /etc/own /etc/new").split() == ["own", "new"]
    host.roost("rollback", "guest")
    back = host("systemd-run -M guest --quiet --wait --pipe cat /etc/own /etc/new")
    assert (back.text, back.status) == ("own\n", 1)
    assert "layers changed" in status(host)["outdated"]
    assert "/etc/own" in host.roost("session", "diff", "guest").text
    host.roost("down", "guest", "--remove")
    host.roost("layer", "remove", "newer")


def test_two_at_once_start_it_once(host: LabHost) -> None:
    host.define(guest())
    said = host.ok("roost up guest --json >one & roost up guest --json >two; wait; cat one two; rm one two", timeout=60)
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(said)
    second, _ = decoder.raw_decode(said[end:].lstrip())
    assert sorted(one["action"] for one in (*first, *second)) == ["started", "unchanged"]
    host.roost("down", "guest", "--remove")


@EVERY_HOST
def test_its_unit_starts_it_again_when_nspawn_is_killed(host: LabHost) -> None:
    host.define(guest())
    up(host)
    leader = host.ok("machinectl show guest -p Leader --value")
    before = host.ok(f"systemctl show {UNIT} -p MainPID --value")
    host.ok(
        f"kill -9 {before}; until [ $(systemctl show {UNIT} -p NRestarts --value) = 1 ]; do sleep 0.02; done",
        timeout=20,
    )
    assert (up(host)["action"], up(host)["state"]) == ("unchanged", "running")
    assert host.ok("machinectl show guest -p Leader --value") != leader
    assert host(f"test -e /proc/{leader}").status == 1
    assert host.ok("machinectl list --no-legend | wc -l") == "1"
    host.roost("down", "guest", "--remove")


def test_one_that_crashed_too_often_is_brought_up_again_by_hand(host: LabHost) -> None:
    limit = f"/run/systemd/system/{UNIT}.service.d/limit.conf"
    host.put(limit, "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n")
    host.define(guest())
    up(host)
    pid = f"pid=$(systemctl show {UNIT} -p MainPID --value)"
    host.ok(
        f"until systemctl is-failed --quiet {UNIT}; do {pid}; [ $pid = 0 ] || kill -9 $pid; sleep 0.1; done", timeout=30
    )
    assert status(host)["state"] == "down"
    assert (up(host)["action"], up(host)["action"]) == ("started", "unchanged")
    host.ok(f"rm -r $(dirname {limit}); systemctl daemon-reload")
    host.roost("down", "guest", "--remove")


@EVERY_HOST
def test_one_that_runs_is_known_without_its_drop_in_which_up_writes_again(host: LabHost) -> None:
    """`systemctl revert` takes it away, and systemd closes what it has kept for the unit."""
    host.define(guest())
    up(host)
    leader = host.ok("machinectl show guest -p Leader --value")
    host.ok(f"systemctl revert {UNIT}")
    host.roost("run", "guest", "--", "true")  # what nobody holds is cleared first
    assert status(host)["state"] == "running"
    again = up(host)
    assert (again["action"], again["changes"]) == ("changed", [f"{DROP_IN} written again"])
    assert host.ok("machinectl show guest -p Leader --value") == leader
    host.roost("down", "guest", "--remove")


@EVERY_HOST
def test_a_start_that_fails_says_why_and_not_only_what_the_console_said_since(host: LabHost) -> None:
    host.define("[machines.guest]\nboot = { }\n")
    host.ok("mv /usr/sbin/nft /usr/sbin/nft.away")
    try:
        done = host.roost("up", "guest", status=1)
    finally:
        host.ok("mv /usr/sbin/nft.away /usr/sbin/nft")
    assert "nft is not installed" in done.said
    assert done.said.index("nft is not installed") < done.said.index("Failed to start")
    assert up(host)["state"] == "running"
    host.roost("down", "guest", "--remove")


def test_one_that_never_gets_ready_is_told_with_its_last_words(host: LabHost) -> None:
    host.define(guest("ready = 'echo not yet >&2; false', timeout = '2s'"))
    done = host.roost("up", "guest", status=1)
    assert "was not ready within 2 s" in done.said
    assert "Reached target" in done.said
    assert "boot.timeout" in done.said
    assert status(host)["state"] == "running"
    host.define(guest("ready = 'true'"))
    assert (up(host)["action"], up(host)["state"]) == ("changed", "ready")
    host.roost("down", "guest", "--remove")


def test_what_cannot_boot_is_said_before_the_start(host: LabHost) -> None:
    """A tree without an init, and a name that another machine of the host has."""
    host.define(f'[machines.guest]\nnetwork = {{ mode = "none" }}\npackages = []\n{guest(name="taken")}')
    done = host.roost("up", "guest", status=1)
    assert "init" in done.said
    assert host.left() == ""
    host.ok("mkdir -p /var/lib/machines/taken/usr")
    done = host.roost("up", "taken", status=1)
    assert "/var/lib/machines/taken" in done.said
    host.ok("rmdir /var/lib/machines/taken/usr /var/lib/machines/taken")
    host.put("/etc/systemd/nspawn/taken.nspawn", "[Exec]\n")
    done = host.roost("up", "taken", status=1)
    assert "/etc/systemd/nspawn/taken.nspawn" in done.said
    assert host.left() == "/etc/systemd/nspawn/taken.nspawn"
    host.ok("rm /etc/systemd/nspawn/taken.nspawn")


def test_a_host_that_goes_down_during_an_up_leaves_nothing_broken(host: LabHost) -> None:
    host.define(guest("enable = true"))
    starts = f"systemctl show {UNIT} -p ActiveState --value | grep -q activating"
    host.reboot(script=f"roost up guest & until {starts}; do sleep 0.01; done; systemctl --force --force reboot")
    assert up(host)["state"] == "running"
    host.roost("down", "guest", "--remove")


def test_a_killed_up_is_taken_up_by_the_next(host: LabHost) -> None:
    host.define(guest())
    for pause in ("0.1", "0.25", "0.4"):
        host(f"timeout -s KILL {pause} roost up guest")
        assert up(host)["state"] == "running"
        host.roost("down", "guest")
    host.roost("down", "guest", "--remove")


def test_scripts_of_the_first_boot_run_until_each_has_succeeded_once(host: LabHost) -> None:
    host.define(
        guest(more='firstboot = ["echo one >> /var/log/first", "test -e /etc/now && echo two >> /var/log/first"]')
    )
    outcome = up(host)
    assert outcome["state"] == "degraded: roost-firstboot.service"
    host.ok("systemd-run -M guest --quiet --wait --pipe touch /etc/now")
    assert "running" in host.roost("restart", "guest").text
    host.roost("restart", "guest")
    assert host.ok("systemd-run -M guest --quiet --wait --pipe cat /var/log/first").split() == ["one", "two"]
    host.roost("down", "guest", "--remove")
