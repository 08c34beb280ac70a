"""`roost network`: what a person sees of the machines' networks, and what sets them right."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from roost.network import netlink
from system.boot_rig import BootRig, make_booty
from system.network_rig import UPLINK, WAN, host_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEFINITION = """
[machines.tiny]
from = "layer:booty"
network = { publish = ["8080:80", "127.0.0.1:5353:53/udp"], bridge = "lab" }
"""


@pytest.fixture
def rig(new_store: Callable[[], str], tmp_path: Path) -> Iterator[BootRig]:
    """A machine that is up, on a host of its own."""
    with host_at(str(tmp_path / "host")) as host:
        state = new_store()
        make_booty(state)
        made = BootRig(state, tmp_path, host, DEFINITION)
        made.up()
        yield made
        made.close()


def failed(rig: BootRig, *machines: str) -> list[str]:
    """The hops that fail, in order."""
    done = rig("network", "check", *machines, "--json")
    hops = [hop for one in json.loads(done.out) for hop in one["hops"]]
    found = [hop["name"] for hop in hops if hop["state"] == "failed"]
    assert (done.status == 0) == (not found)
    return found


def test_a_list_of_networks(rig: BootRig) -> None:
    shown = rig("network", "list")
    assert shown.status == 0
    link = rig.json("network", "list")[0]
    for word in (
        "tiny",
        "up",
        "ro-tiny",
        "ro-b_lab",
        "8080/tcp",
        "127.0.0.1:5353/udp",
        link["address"].partition("/")[0],
    ):
        assert word in shown.text, word
    rig("down", "tiny")
    link = rig.json("network", "list")[0]
    assert (link["state"], link["published"]) == ("down", [])
    rig("down", "tiny", "--remove")
    empty = rig("network", "list")
    assert (empty.out, "roost up" in empty.said) == (b"", True)


def test_a_check_names_the_hop_and_repair_sets_it_right(rig: BootRig) -> None:
    """The server of names does not answer in this test: it is the last hop, and fails alone."""
    assert failed(rig) == ["names"]
    rig.inside("ip route del default")
    rig.host.here.run("nft", "flush", "ruleset")
    assert failed(rig, "tiny")[:2] == ["route", "firewall"]
    shown = rig("network", "check")
    assert "failed" in shown.text
    assert "roost network repair" in shown.text
    done = rig("network", "repair")
    assert "tiny: route: " in done.said
    assert "tiny: firewall: " in done.said
    assert failed(rig) == ["names"]
    rig.inside("nc -l -p 80 -e /bin/true >/dev/null 2>&1 &")
    assert rig.host.wan.reaches(UPLINK, 8080)
    rig.inside("ip route del default")
    (told,) = json.loads(rig("network", "repair", "--json").out)
    assert [hop["name"] for hop in told["repaired"]] == ["route"]
    assert [hop["name"] for hop in told["hops"] if hop["state"] == "failed"] == ["names"]


def test_a_name_that_is_no_machine(rig: BootRig) -> None:
    done = rig("network", "check", "tinny")
    assert done.status == 6
    assert "tinny" in done.said
    assert "with one: tiny" in done.said


def test_repair_gives_another_address_when_the_host_has_it_now(rig: BootRig) -> None:
    old = rig.json("network", "list")[0]["address"]
    rig("down", "tiny")
    rig.host.here.ip(f"route add 10.213.0.0/16 via {WAN}")
    refused = rig("up", "tiny")
    assert refused.status == 1
    assert "roost network repair tiny" in refused.said
    done = rig("network", "repair", "tiny")
    assert "gets another address" in done.said
    rig.up()
    new = rig.json("network", "list")[0]["address"]
    assert new != old
    assert failed(rig) == ["names"]


def test_what_a_dead_process_left_is_cleared(rig: BootRig) -> None:
    """As after a kill: the record is there, the machine is not."""
    run = f"/run/roost/network-{os.fstat(rig.host.here.fd).st_ino}/attached"
    with open(f"{run}/ro-tiny") as stream:
        text = stream.read()
    with open(f"{run}/ro-ghost", "w") as stream:
        stream.write(text.replace("tiny", "ghost"))
    assert "the network of ghost" in rig("network", "list").said
    assert os.listdir(run) == ["ro-tiny"]
    with netlink.inside(rig.host.here.fd):
        assert "ro-tiny" in netlink.interfaces()
