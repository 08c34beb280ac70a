"""Runs with a private network: an address of their own, lent for as long as they last."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from roost.network import netlink
from system.boot_rig import OWN_FILES, BootRig
from system.network_rig import WAN, Host, host_at, peer_of
from system.rig import COMMAND, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PRIVATE = """
[machines.tiny]
from = "layer:tiny"
network = { mode = "private" }
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of the test's own."""
    with host_at(str(tmp_path / "host")) as made:
        yield made


@pytest.fixture
def rig(host: Host, new_store: Callable[[], str], tmp_path: Path) -> BootRig:
    """The command on it."""
    return BootRig(new_store(), tmp_path, host, PRIVATE)


def test_a_run_has_an_address_and_the_way_out(rig: BootRig) -> None:
    """NAT, a resolver, a name of its own; the host's own services are closed to it, and nothing is left."""
    before = rig.host.state()
    with rig.host.wan.listen(4444) as door, rig.host.here.listen(22):
        done = rig.run(
            f"ip -4 addr show host0 | grep -c inet; cat /etc/resolv.conf; hostname; timeout 1 nc {WAN} 4444 </dev/null;"
            f" timeout 1 nc 198.51.100.2 22 </dev/null || echo closed"
        )
        assert peer_of(door) == "198.51.100.2"
    assert done.text.split() == ["1", "nameserver", WAN, "tiny", "closed"], done
    after = rig.host.state()
    for what in ("links", "rules", "settings", "files"):
        assert after[what] == before[what]


def test_an_allow_list_for_a_build(rig: BootRig) -> None:
    """Only what `egress` names is reached."""
    rig.define(PRIVATE.replace('"private" }', f'"private", egress = ["{WAN}:4444"] }}'))
    with rig.host.wan.listen(4444), rig.host.wan.listen(4445):
        done = rig.run(
            f"timeout 1 nc {WAN} 4444 </dev/null && echo open; timeout 1 nc {WAN} 4445 </dev/null || echo closed"
        )
    assert "closed" in done.text
    assert done.status == 0


def test_many_at_once(rig: BootRig) -> None:
    """Each has another address."""
    done = rig(
        "run",
        "tiny",
        "--matrix",
        "N=1,2,3,4,5,6",
        "-j",
        "3",
        "--json",
        "--",
        "sh",
        "-c",
        "ip -4 -o addr show host0; sleep 0.3",
    )
    assert done.status == 0, done
    assert "ro-" not in rig.host.here.ip("-br link")


def test_none_of_it_stays_after_a_kill(rig: BootRig) -> None:
    """`kill -9` of the command: its link goes with it, its rules with the next command, which says so."""
    own = ("unshare", "--mount", "--propagation=private", "sh", "-c", OWN_FILES, f"{rig.host.root}/etc")
    with netlink.inside(rig.host.here.fd):
        running = subprocess.Popen(
            (*own, *COMMAND, "run", "tiny", "--", "sleep", "60"), cwd=rig.directory, env=rig.environment()
        )
    try:
        wait_for(lambda: "ro-" in rig.host.here.ip("-br link"))
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    wait_for(lambda: "ro-" not in rig.host.here.ip("-br link"))
    assert "cleared what a killed process left" in rig("build").said
    assert "roost" not in rig.host.state()["rules"]
