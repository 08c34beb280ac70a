"""A hostile machine that boots, as its root: what it may do to the host, to other machines, and to Roost. Nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roost.host import capabilities
from roost.host.ranges import FIRST
from system.boot_rig import BOOT, BootRig, make_booty
from system.rig import below, name_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from system.network_rig import Host

# each of these prints what it has gained
HOSTILE = """
try() { if eval "$2" >/dev/null 2>&1; then echo "gained: $1"; fi; }
try 'a setting of the kernel' 'echo 7 > /proc/sys/vm/swappiness'
try 'where cores go' 'echo "|/bin/sh" > /proc/sys/kernel/core_pattern'
try 'a remount' 'mount -o remount,rw /proc/sys && echo 7 > /proc/sys/vm/swappiness'
try 'another /proc' 'mkdir /p && mount -t proc p /p && echo 7 > /p/sys/vm/swappiness'
try 'sysrq' 'echo s > /proc/sysrq-trigger'
try 'uevent_helper' 'mount -o remount,rw /sys; echo /bin/sh > /sys/kernel/uevent_helper'
try 'the memory' 'mknod /k c 1 1 && dd if=/k of=/dev/null bs=1 count=1'
try 'a disk' 'mknod /d b 7 0 && dd if=/d of=/dev/null bs=1 count=1'
try 'a loop device' 'mknod /l c 10 237 && true < /l'
try 'the clock' 'date -s 2001-01-01 && test $(date +%%Y) = 2001'
try 'a module' 'insmod /bin/busybox'
try 'the host root' 'chroot /proc/1/root/../../.. sh -c "test -e %(state)s"'
try 'what it is given' 'mount -o remount,rw /run/roost-init && echo > /run/roost-init'
try 'its init program' 'echo > /run/roost-init'
try 'the hosts file, by a rename' 'mv /etc/hosts /etc/hosts.old'
try 'a process outside' 'kill -9 %(outside)d'
"""


@pytest.fixture
def rig(net: Host, new_store: Callable[[], str], tmp_path: Path) -> Iterator[BootRig]:
    """The command on a host of its own; no machine stays up."""
    state = new_store()
    make_booty(state, quick=True)
    made = BootRig(state, tmp_path, net)
    yield made
    made.close()


def init_of(rig: BootRig, machine: str = "tiny") -> int:
    """The machine's process 1, by its number on the host."""
    return next(pid for pid in below(rig.nspawn(machine)) if name_of(pid) == "init")


def test_its_root_is_nobody_outside(rig: BootRig) -> None:
    """No two machines share an id; what it may not do is refused, whatever it is root of."""
    rig.define(BOOT + '\n[machines.other]\nfrom = "layer:booty"\n')
    assert rig("up", "tiny", "other").status == 0
    owners = {os.stat(f"/proc/{init_of(rig, machine)}").st_uid for machine in ("tiny", "other")}
    assert len(owners) == 2
    assert min(owners) >= FIRST
    assert rig.inside("id -u; cat /proc/self/uid_map").text.split() == [
        "0",
        "0",
        str(min(owners, key=lambda uid: uid != os.stat(f"/proc/{init_of(rig)}").st_uid)),
        "65536",
    ]
    done = rig.inside(HOSTILE % {"state": rig.state, "outside": os.getpid()})
    assert done.text == "", done.text
    assert rig.inside("ls /proc | grep -c '^[0-9]'").status == 0


def rights(rig: BootRig) -> tuple[frozenset[str], str, str]:
    """The capabilities that its init may have, no-new-privileges, and whether it has filters."""
    lines = rig.inside("cat /proc/1/status").text.splitlines()
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return frozenset(capabilities.names(int(found["CapBnd"], 16))), found["NoNewPrivs"], found["Seccomp"]


def test_what_its_init_may_have(rig: BootRig) -> None:
    """nspawn's own capabilities and filters, not a session's; more is what the definition says."""
    rig.up()
    own, no_new, filters = rights(rig)
    assert (no_new, filters) == ("0", "2")
    assert capabilities.default(private_users=True) < own
    assert {"CAP_SYS_ADMIN", "CAP_NET_ADMIN"} <= own
    outside = {
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_TIME",
        "CAP_SYSLOG",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_MAC_ADMIN",
    }
    assert not own & outside
    rig.define(BOOT + 'capabilities = ["CAP_SYSLOG"]\nno-new-privileges = true\n')
    rig.up()
    assert rights(rig) == (own | {"CAP_SYSLOG"}, "1", "2")
    rig.define(BOOT + "boot = { nested = true }\n")
    rig.up()
    every, _, filters = rights(rig)
    assert outside < every
    assert filters == "0"
    assert rig.inside(HOSTILE % {"state": rig.state, "outside": os.getpid()}).text == "", (
        "they hold in its namespaces only"
    )


def test_it_sees_no_file_of_the_host_nor_of_another_machine(rig: BootRig) -> None:
    """Its mounts are its own tree, what it was given, and the kernel's own; no descriptor of Roost's is open in it."""
    rig.define(BOOT + '\n[machines.other]\nfrom = "layer:booty"\n')
    assert rig("up", "tiny", "other").status == 0
    rig.inside("echo secret > /root/secret", "other")
    assert rig.inside("cat /root/secret").status != 0
    mounts = [line.split() for line in rig.inside("cat /proc/self/mountinfo").text.splitlines()]
    points = {
        words[4]
        for words in mounts
        if words[words.index("-") + 1] not in ("proc", "sysfs", "tmpfs", "cgroup", "cgroup2", "devpts", "mqueue")
    }
    assert points <= {"/", "/etc/hosts", "/run/roost-init", "/run/host/os-release"}, points
    assert {"other" in words[3] for words in mounts} == {False}
    opened = os.listdir(f"/proc/{init_of(rig)}/fd")
    found = {os.readlink(f"/proc/{init_of(rig)}/fd/{number}") for number in opened}
    assert not [path for path in found if rig.state in path], found


def test_its_hosts_file_is_read_with_care(rig: BootRig) -> None:
    """The host's root writes names into it: whatever it has become, that costs the machine alone."""
    rig.up()
    rig.inside("dd if=/dev/zero of=/etc/hosts bs=1 seek=100G count=0")
    path = Path(f"{rig.state}/booted/tiny/hosts")
    assert path.stat().st_size == 100 << 30
    rig.define(BOOT + '\n[machines.other]\nfrom = "layer:booty"\n')
    assert rig("up", "other").status == 0
    assert path.stat().st_size < 1000
    assert "other" in rig.inside("cat /etc/hosts").text
    before = Path("/etc/passwd").read_text()
    rig.inside("umount /etc/hosts; rm -f /etc/hosts; ln -s /etc/passwd /etc/hosts; cp /etc/passwd /tmp/before")
    assert rig("down", "other").status == 0
    assert rig("up", "other").status == 0
    assert rig.inside("cmp /etc/passwd /tmp/before").status == 0
    assert Path("/etc/passwd").read_text() == before


def test_its_resolv_conf_fills_nothing_of_the_host(rig: BootRig) -> None:
    """It may write it, in memory that has an end."""
    rig.up()
    done = rig.inside(
        "echo nameserver 192.0.2.1 > /etc/resolv.conf && dd if=/dev/zero of=/etc/resolv.conf bs=1M count=200"
    )
    assert "No space left" in done.said
    assert not os.path.exists(f"{rig.state}/run/booted/tiny/resolv.conf")


def test_one_that_never_stops_printing(rig: BootRig) -> None:
    """What is kept of its console has an end, and it can still be ended in order."""
    make_booty(rig.state, name="loud", digest="b" * 64, quick=True, rc="(while :; do cat /bin/busybox; done) &\n")
    rig.define('[machines.tiny]\nfrom = "layer:loud"\n')
    rig.up()
    log = f"{rig.state}/booted/tiny/console.log"
    wait_for(lambda: os.path.exists(f"{log}.old"))
    time.sleep(0.5)
    assert sum(os.stat(path).st_size for path in (log, f"{log}.old")) < 4 << 20
    assert rig.status()["state"] == "up"
    began = time.monotonic()
    assert rig("down", "tiny").status == 0
    assert time.monotonic() - began < 15
    assert "cleared" not in rig("session", "list").said


def test_a_fork_bomb(rig: BootRig) -> None:
    """It has as many processes as it may have; the host and other machines go on, and it can be ended."""
    rig.define(BOOT + 'limits = { tasks = 60 }\n\n[machines.other]\nfrom = "layer:booty"\n')
    assert rig("up", "tiny", "other").status == 0
    rig.inside("(while :; do sleep 100 & done) >/dev/null 2>&1 &")
    wait_for(lambda: len(below(rig.nspawn())) > 40)
    time.sleep(0.5)
    assert len(below(rig.nspawn())) < 70
    assert rig.inside("echo works", "other").text == "works\n"
    assert rig("down", "tiny").status == 0
    assert rig.status()["state"] == "down"
