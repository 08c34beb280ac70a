"""Machines that boot on a host with its own kernel and systemd: `make vm`.

    python -m tools.vm [--state DIR] [STEP...]

Boots a VM in QEMU without hardware's help (tcg), in it Roost from this checkout, and proves what no container can: pure
control groups v2 with limits that bite, and machines that come up with the host. A line for each thing with what was seen;
at the first that is not as expected it ends with that and the VM's console.

The VM's system is made by Roost too (tests/lab/vm.toml) and stays in the store; the rest is thrown away.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from roost.host import foreign
from system.vm import Vm, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from system.rig import Done

GROUP = "/sys/fs/cgroup/machine.slice/systemd-nspawn@guest.service"
_LIMIT = "systemctl show systemd-nspawn@guest -p MemoryMax --value"
_CPU = ("nr_periods", "nr_throttled", "usage_usec")
WAN = """
test ! -e /run/netns/wan || exit 0
ip netns add wan && ip link add wan0 type veth peer name up0 netns wan
ip address add 198.51.100.1/24 dev wan0 && ip link set wan0 up
ip -n wan address add 198.51.100.2/24 dev up0 && ip -n wan link set up0 up && ip -n wan link set lo up
systemd-run --quiet --unit=listener nsenter --net=/run/netns/wan socat TCP-LISTEN:7,fork,reuseaddr \
    'SYSTEM:echo $SOCAT_PEERADDR'
"""
"""A network that knows no way back to the guest's: only a masqueraded connection is answered, with its peer's address."""


def guest(limits: str) -> str:
    """The machine that is booted in it: nothing has to be made there."""
    return f'[machines.guest]\nfrom = "layer:guest"\nlimits = {{ {limits} }}\n'


def settings(vm: Vm, *names: str) -> str:
    """What the kernel has for the guest's control group."""
    return " ".join(f"{name}={vm.ok(f'cat {GROUP}/{name}')}" for name in names)


def counted(vm: Vm, file: str, *words: str) -> list[int]:
    """Counters of the guest's control group."""
    found = dict(line.split() for line in vm.ok(f"cat {GROUP}/{file}").splitlines())
    return [int(found[word]) for word in words]


def leader(vm: Vm) -> str:
    """The guest's init; the guest is the one that was started as long as it is the same."""
    return vm.ok("systemctl is-active --quiet systemd-nspawn@guest && machinectl show guest -p Leader --value")


def inside(vm: Vm, script: str, *, status: int | None = 0, timeout: float = 60) -> Done:
    """A script in the guest."""
    return vm.roost("exec", "guest", "--", "bash", "-c", script, status=status, timeout=timeout)


def see_host(vm: Vm) -> str:
    assert vm.ok("ps -o comm= 1; findmnt -no FSTYPE /sys/fs/cgroup").split() == ["systemd", "cgroup2"]
    controllers = vm.ok("cat /sys/fs/cgroup/cgroup.controllers")
    assert {"cpu", "memory", "pids"} <= set(controllers.split())
    return f"{vm.ok('uname -r')}; {vm.ok('systemctl --version').split('(')[0].strip()} as PID 1; cgroup2: {controllers}"


def see_up(vm: Vm) -> str:
    vm.define(guest('memory = "160M", cpus = 0.9, tasks = 200'), over="")
    (one,) = json.loads(vm.roost("up", "guest", "--json", timeout=200).out)
    assert (one["action"], one["state"]) == ("started", "running"), one
    assert vm.ok("machinectl list --no-legend").split()[:3] == ["guest", "container", "systemd-nspawn"]
    found = settings(vm, "memory.max", "memory.swap.max", "pids.max", "cpu.max")
    assert found == "memory.max=167772160 memory.swap.max=0 pids.max=200 cpu.max=90000 100000", found
    return f"running after {one['seconds']:.0f} s; {found}"


def see_memory(vm: Vm) -> str:
    before = leader(vm)
    assert inside(vm, "head -c 300M /dev/zero | tail -c 250M | wc -c").text == "0\n"  # tail is killed
    (kills,) = counted(vm, "memory.events", "oom_kill")
    assert (kills, leader(vm)) == (1, before)
    assert vm.ok("systemctl -M guest is-system-running") == "running"
    told = vm.ok("journalctl -k --no-pager -o cat | grep 'Memory cgroup out of memory' | tail -n 1")
    return f"oom_kill {kills}, the machine runs on; kernel: {told.split(', ')[0]}"


def see_tasks(vm: Vm) -> str:
    before = leader(vm)
    bomb = inside(vm, "for i in {1..400}; do sleep 30 & done", status=None, timeout=90)
    assert "Resource temporarily unavailable" in bomb.said, bomb
    peak = vm.ok(f"cat {GROUP}/pids.peak")
    assert (peak, leader(vm)) == ("200", before)
    inside(vm, "cd /proc; for p in [0-9]*; do read n < $p/comm; [ $n != sleep ] || kill $p; done", status=None)
    return f"at most {peak} at once of 400; {bomb.said.splitlines()[0]}; the machine runs on"


def see_change(vm: Vm) -> str:
    before = leader(vm)
    vm.define(guest('memory = "200M", cpus = 0.25, tasks = 300'), over="")
    (one,) = json.loads(vm.roost("up", "guest", "--json").out)
    assert (one["action"], len(one["changes"]), leader(vm)) == ("changed", 3, before), one
    found = settings(vm, "memory.max", "pids.max", "cpu.max")
    assert found == "memory.max=209715200 pids.max=300 cpu.max=25000 100000", found
    before_it = counted(vm, "cpu.stat", *_CPU)
    vm.roost("exec", "guest", "--timeout", "8s", "--", "sh", "-c", "while :; do :; done", status=124)
    periods, throttled, used = (now - then for now, then in zip(counted(vm, "cpu.stat", *_CPU), before_it, strict=True))
    assert throttled > 20, (periods, throttled)
    assert used < 4e6, used
    return f"live: {found}; a busy loop of 8 s had {used / 1e6:.1f} s of CPU, throttled in {throttled} of {periods} periods"


def see_run(vm: Vm) -> str:
    script = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; head -c 300M /dev/zero | tail -c 150M | wc -c"
    run = f"roost run guest --limit memory=90M --limit cpus=0.8 --limit tasks=50 -- sh -c {shlex.quote(script)}"
    plain = vm(run)
    assert plain.text.split()[-1] == "157286400", plain
    assert all(f"the limit on {name} is not enforced" in plain.said for name in ("memory", "cpus", "tasks")), plain
    delegated = vm(f"systemd-run --scope --quiet -p Delegate=yes {run}")
    assert delegated.text.split() == ["94371840", "52", "80000", "100000", "0"], delegated  # two tasks are Roost's own
    assert "not enforced" not in delegated.said, delegated
    assert "memory limit 90M reached" in delegated.said, delegated
    assert vm.ok("grep -v ^0:: /proc/self/cgroup || true") == "", "a hierarchy of v1 was made"
    return f"not delegated: {plain.said.split('(')[0].split(': ')[-1].strip()}; delegated: {delegated.said.splitlines()[-1]}"


def see_network(vm: Vm) -> str:
    vm.ok(WAN)
    ask = "roost exec guest -- socat -T5 - TCP:{}:7,connect-timeout=5,retry=5"
    inside, outside = vm.ok(ask.format("198.51.100.2")), vm.ok(ask.format("10.0.2.100"))
    assert (inside, outside) == ("198.51.100.1", "outside")
    return "a listener that knows no way back saw the peer 198.51.100.1; the VM's own uplink was reached"


def see_architectures(vm: Vm) -> str:
    """arm64 by the host's own binfmt_misc, on a kernel that has no other."""
    vm.define('[machines.arm]\nfrom = "dir:/srv/arm64"\nprivate-users = false\n', over="")
    vm.ok("ln -sf /srv/qemu-aarch64-static /usr/local/bin")
    refused = vm("roost run arm -- uname -m")
    assert refused.status != 0, refused
    assert "cannot run programs of arm64" in refused.said, refused
    vm.define('[machines.arm]\nfrom = "dir:/srv/arm64"\nscripts = ["uname -m > /made-on"]\n', over="")
    old = vm("roost build")
    assert "Linux 6.7 can" in old.said, old
    line = foreign.Way(architecture="arm64").registration("/srv/qemu-aarch64-static").decode()
    for flags, said in (("OP", "without the flag F"), ("FOP", "")):
        vm.put("/etc/binfmt.d/qemu-aarch64.conf", line.removesuffix("FOP") + flags + "\n")
        vm.ok("systemctl restart systemd-binfmt")
        built = vm("roost build", timeout=120)
        assert (said in built.said) if said else (built.status == 0), built
    done = vm("roost run arm -- sh -c 'uname -m; cat /made-on; ls /proc/sys/fs/binfmt_misc; exit 3'")
    assert (done.text.split(), done.status) == (["aarch64", "aarch64"], 3), done
    (told,) = (one for one in json.loads(vm("roost doctor --json").out) if one["name"] == "architectures")
    assert "by binfmt_misc: arm64" in told["found"], told
    vm.define('[machines.arm]\nfrom = "dir:/srv/arm64"\nprivate-users = false\n', over="")
    assert vm.ok("roost run arm -- uname -m") == "aarch64"
    return f"refused before, and without the flag F; then {done.text.split()[0]} by systemd-binfmt; doctor: {told['found']}"


def see_boot(vm: Vm, *, script: str) -> str:
    vm.define(guest('memory = "200M", tasks = 300'), over="")
    vm.roost("up", "guest")
    vm.roost("enable", "guest")
    mark = str(time.time())
    inside(vm, f"echo {mark} > /etc/kept; sync")
    before = json.loads(vm.roost("status", "--json").out)[0]
    vm.reboot(script=script)
    vm.ok(
        "until [ $(systemctl -M guest is-system-running --wait 2>/dev/null)x = runningx ]; do sleep 0.5; done",
        timeout=90,
    )
    took = time.monotonic() - vm.began
    assert vm("pgrep -a -f 'roost[.]'").text == ""
    (after,) = json.loads(vm.roost("status", "--json").out)
    assert (after["state"], after["enabled"], after["address"]) == ("running", True, before["address"]), after
    assert vm.ok("systemd-run -M guest --quiet --wait --pipe cat /etc/kept") == mark
    assert settings(vm, "memory.max", "pids.max", "cpu.max") == "memory.max=209715200 pids.max=300 cpu.max=max 100000"
    boot = vm.ok("systemd-run -M guest --quiet --wait --pipe systemd-analyze time").splitlines()[0]
    return f"running {took:.0f} s after; {after['address']} as before, its changes are there, no process of Roost's; its own: {boot}"


def see_lost_drop_in(vm: Vm) -> str:
    before, limit = leader(vm), vm.ok(_LIMIT)
    vm.ok("systemctl revert systemd-nspawn@guest")
    vm.roost("run", "guest", "--", "true")  # clears what it takes for left over
    assert see_network(vm)
    (one,) = json.loads(vm.roost("up", "guest", "--json").out)
    assert (one["action"], leader(vm)) == ("changed", before), one
    assert all(what.endswith("50-roost.conf written again") for what in one["changes"]), one
    assert vm.ok(_LIMIT) == limit != "infinity"
    return "after `systemctl revert` the machine is known and connected; `roost up` writes its drop-in again"


def see_removed(vm: Vm) -> str:
    vm.roost("down", "guest", "--remove")
    own = ("var-lib-roost.mount", "fby-label\\x2froost")  # the VM's second disk
    assert not (left := [line for line in vm.left().splitlines() if not line.endswith(own)]), left
    return "nothing is left of it"


STEPS: dict[str, Callable[[Vm], str]] = {
    "host": see_host, "up": see_up, "memory": see_memory, "tasks": see_tasks, "changed limits": see_change, "runs": see_run,
    "network": see_network, "reboot": functools.partial(see_boot, script="systemctl reboot"),
    "architectures": see_architectures,
    "network then": see_network, "power cut": functools.partial(see_boot, script="echo b > /proc/sysrq-trigger"),
    "revert": see_lost_drop_in, "remove": see_removed,
}  # fmt: skip


def main() -> int:
    """Says what was seen; 1 when something was not as expected."""
    parser = argparse.ArgumentParser(prog="python -m tools.vm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--state", default=os.environ.get("ROOST_STATE", "/var/cache/roost-dev"), help="where layers are kept"
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"these alone, of: {', '.join(STEPS)}")
    words = parser.parse_args()
    with started(words.state) as vm:
        print(f"{'VM':16} up after {time.monotonic() - vm.began:.0f} s", flush=True)
        for name in words.steps or STEPS:
            began = time.monotonic()
            print(f"{name:16} {STEPS[name](vm)} [{time.monotonic() - began:.0f} s]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
