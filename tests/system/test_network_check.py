"""`roost network check` follows a packet and names the hop where it is lost; `repair` sets right what can be."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from roost.definition.model import NetworkTerms
from system.network_rig import UPLINK, WAN, Host, Space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.network import Hop, Link

ORDER = """link, address, route, gateway, forwarding, firewall, other firewalls, network managers, way out, host, outside,
names""".replace("\n", " ").split(", ")
CLOSED = """table inet filter {
  chain forward { type filter hook forward priority 0; policy drop; }
  chain input { type filter hook input priority 0; policy drop; }
}"""


@contextlib.contextmanager
def names_at(door: socket.socket) -> Iterator[None]:
    """A server of names that answers each question with the same two bytes that it began with."""
    door.settimeout(0.05)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):  # nothing yet, or no way back
                data, peer = door.recvfrom(2048)
                door.sendto(data[:2] + b"\x80\x00" + data[4:], peer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    ended.set()
    thread.join()
    door.close()


@pytest.fixture
def served(net: Host) -> Iterator[Host]:
    """A host whose outside has a server of names."""
    with names_at(net.wan.listen(53, WAN, kind=socket.SOCK_DGRAM)):
        yield net


def failing(host: Host, link: Link) -> list[str]:
    """The hops that are not ok, in order."""
    return [hop.name for hop in hops(host, link) if hop.state != "ok"]


def hops(host: Host, link: Link) -> list[Hop]:
    """The hops of a machine."""
    return host.network.check(link, host.machines[link.machine].fd)


def test_a_whole_way_is_ok_from_one_end_to_the_other(served: Host) -> None:
    link, _ = served.up("db")
    found = hops(served, link)
    assert [hop.name for hop in found] == ORDER
    assert {hop.state for hop in found} == {"ok"}, found
    assert [hop.remedy for hop in found if hop.remedy] == []
    shared, _ = served.up("web", NetworkTerms(bridge="lab", isolated=True, egress=(f"{WAN}:80",), publish=("8080:80",)))
    assert failing(served, shared) == []
    assert [hop.name for hop in served.network.check()] == [name for name in ORDER[4:] if name != "host"]


INSIDE = {
    "link set host0 down": "link",
    "address flush dev host0 scope global": "address",
    "route del default": "route",
}  # fmt: skip


@pytest.mark.parametrize("words", INSIDE)
def test_what_is_wrong_in_the_machine_is_named_and_repaired(served: Host, words: str) -> None:
    link, machine = served.up("db")
    machine.ip(words)
    assert failing(served, link)[0] == INSIDE[words]
    assert INSIDE[words] in [hop.name for hop in served.network.repair(link, machine.fd)]
    assert failing(served, link) == []


OUTSIDE = {
    "ip link set ro-db down": "link",
    "ip address flush dev ro-db": "gateway",
    "echo 0 > /proc/sys/net/ipv4/ip_forward": "forwarding",
    "nft flush ruleset": "firewall",
    "nft flush chain inet roost leaving": "firewall",
    "nft flush set inet roost machines4": "firewall",
    "nft flush map inet roost published4": "firewall",
    f"nft '{CLOSED}'": "other firewalls",
}  # fmt: skip


@pytest.mark.parametrize("words", OUTSIDE)
def test_what_is_wrong_on_the_host_is_named_and_repaired(served: Host, words: str) -> None:
    link, machine = served.up("db", NetworkTerms(publish=("8080:80",)))
    served.here.run("sh", "-c", words)
    found = [hop for hop in hops(served, link) if hop.state != "ok"]
    assert found[0].name == OUTSIDE[words], found
    assert found[0].remedy
    served.network.repair(link, machine.fd)
    assert failing(served, link) == []
    with served.wan.listen(80), machine.listen(80):
        assert machine.reaches(WAN, 80)
        assert served.wan.reaches(UPLINK, 8080)


def test_what_is_wrong_beyond_the_machine_is_named(served: Host) -> None:
    link, _ = served.up("db")
    served.wan.ip("link set wan0 down")
    assert failing(served, link) == ["way out"]
    served.wan.ip("link set wan0 up")
    served.here.ip("route del default")
    assert failing(served, link)[0] == "way out"


def test_a_server_of_names_that_is_silent_is_named(net: Host) -> None:
    link, _ = net.up("db")
    found = hops(net, link)
    assert [hop.name for hop in found if hop.state == "failed"] == ["names"]
    assert WAN in found[-1].found


def test_a_resolver_on_loopback_is_asked_from_the_machine(net: Host) -> None:
    net.write("etc/resolv.conf", "nameserver 127.0.0.53\n")
    link, _ = net.up("db")
    assert failing(net, link) == ["names"]
    with names_at(net.here.listen(53, "127.0.0.53", kind=socket.SOCK_DGRAM)):
        assert failing(net, link) == []


def test_a_firewall_that_knows_no_machines_lets_them_through(served: Host) -> None:
    """As ufw's, docker's and many an administrator's: what was put there is taken out again."""
    served.here.run("nft", "-f", "-", stdin=CLOSED)
    served.here.run("nft", "add rule inet filter input iif lo accept")
    before = served.state()
    link, machine = served.up("db", NetworkTerms(publish=("8080:80",)))
    with served.wan.listen(80), machine.listen(80):
        assert machine.reaches(WAN, 80)
        assert served.wan.reaches(UPLINK, 8080)
    assert failing(served, link) == []
    assert 'comment "roost"' in served.state()["rules"]
    served.down("db")
    assert served.state() == before


def test_a_machine_that_is_down_has_no_link(net: Host) -> None:
    link = net.network.allot("db", NetworkTerms())
    found = net.network.check(link)
    assert (found[0].name, found[0].state) == ("attached", "failed")
    assert "roost up db" in found[0].remedy


def test_a_machine_whose_address_is_the_hosts_now_gets_another(net: Host) -> None:
    link = net.network.allot("db", NetworkTerms())
    net.here.ip(f"route add 10.213.0.0/16 via {WAN}")
    net.network.repair(link)
    other, machine = net.up("db")
    assert other.address != link.address
    with net.wan.listen(80):
        assert machine.reaches(WAN, 80)


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("systemd-networkd", "run/systemd/network/10-roost.network"),
        ("NetworkManager", "run/NetworkManager/conf.d/90-roost.conf"),
        ("firewalld", "etc/firewalld/zones/roost.xml"),
    ],
)
def test_a_network_manager_is_told_while_there_are_links(served: Host, unit: str, path: str) -> None:
    served.write(f"sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs", "1\n")
    before = served.state()
    link, _ = served.up("db")
    assert "ro-" in served.read(path)
    served.write(path, "something else")
    found = next(hop for hop in hops(served, link) if hop.state != "ok")
    assert (found.name, path in found.found) == ("network managers", True)
    served.network.repair()
    assert failing(served, link) == []
    served.down("db")
    assert served.state() == before


def test_a_run_does_not_have_firewalld_read_a_zone(served: Host) -> None:
    """That takes longer than many a run: links are put into a zone that it has."""
    served.write("sys/fs/cgroup/system.slice/firewalld.service/cgroup.procs", "1\n")
    before = served.state()
    space = Space()
    link = served.network.lend("abcdef", NetworkTerms())
    served.network.attach(link, NetworkTerms(), space.fd)
    assert not os.path.exists(f"{served.root}/etc/firewalld")
    assert os.path.exists(f"{served.directory}/run/trusted")
    served.up("db")
    assert "ro-" in served.read("etc/firewalld/zones/roost.xml")
    assert not os.path.exists(f"{served.directory}/run/trusted"), "a machine's zone has them all"
    served.down("db")
    space.close()
    served.network.detach(link, ended=True)
    served.network.close()
    assert served.state() == before
