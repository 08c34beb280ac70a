"""What machines with a private network can reach, and who can reach them: proven by connections that are made."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from roost.definition.model import NetworkTerms
from roost.errors import HostError
from roost.host import syscalls
from roost.network import Network, names, netlink
from system.network_rig import QUICK, UPLINK, UPLINK6, WAN, WAN6, Host, Space, peer_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from roost.network import Link

OUTSIDE = (WAN, WAN6)


def own(link: Link) -> tuple[str, str]:
    """Both addresses of a machine."""
    return link.address.partition("/")[0], link.address6.partition("/")[0]


def answers(space: Space, address: str, door: socket.socket) -> bool:
    """Whether a datagram from there comes to a socket and its answer back."""
    with netlink.inside(space.fd):
        asker = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with asker:
        asker.settimeout(QUICK)
        door.settimeout(QUICK)
        try:
            asker.sendto(b"ask", (address, door.getsockname()[1] if address in OUTSIDE else 53))
            _, peer = door.recvfrom(100)
            door.sendto(b"answer", peer)
            return asker.recv(100) == b"answer"
        except OSError:
            return False


@contextlib.contextmanager
def hosts_file(tmp_path: Path, text: str) -> Iterator[None]:
    """Another /etc/hosts for programs that look names up; the tests have a mount namespace of their own."""
    for name, content in (("hosts", text), ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")):
        (tmp_path / name).write_text(content)
        syscalls.mount(str(tmp_path / name), f"/etc/{name}", flags=syscalls.MS_BIND)
    try:
        yield
    finally:
        syscalls.umount("/etc/hosts")
        syscalls.umount("/etc/resolv.conf")


def test_a_machine_gets_out_as_the_host(net: Host) -> None:
    """The outside has no route back, so that the host's address is the only one that can be answered."""
    _, machine = net.up("db")
    with net.wan.listen(80) as door:
        machine.connect(WAN, 80).close()
        assert peer_of(door) == UPLINK
        machine.connect(WAN6, 80).close()
        assert peer_of(door) == UPLINK6
    with net.wan.listen(4000, kind=socket.SOCK_DGRAM) as door:
        assert answers(machine, WAN, door)
        assert answers(machine, WAN6, door)


def test_nobody_outside_gets_in(net: Host) -> None:
    link, machine = net.up("db")
    net.wan.ip(f"route add {link.address.partition('/')[0]} via {UPLINK}")
    net.wan.ip(f"route add {link.address6.partition('/')[0]} via {UPLINK6}")
    with machine.listen(80):
        for address in own(link):
            assert net.here.reaches(address, 80)
            assert not net.wan.reaches(address, 80)


def test_a_published_port_leads_to_the_machine(net: Host) -> None:
    terms = NetworkTerms(publish=("8080:80", "5353:53/udp"))
    link, machine = net.up("web", terms)
    _, other = net.up("other")
    with machine.listen(80) as door:
        for address, seen in ((UPLINK, WAN), (UPLINK6, WAN6)):
            net.wan.connect(address, 8080).close()
            assert peer_of(door) == seen, "the machine sees who asks"
        for address in (UPLINK, UPLINK6, "127.0.0.1", link.gateway):
            assert net.here.reaches(address, 8080), address
        assert other.reaches(UPLINK, 8080)
        assert machine.reaches(UPLINK, 8080), "a machine reaches itself by the host's address"
        assert not net.wan.reaches(UPLINK, 80)
    with machine.listen(53, kind=socket.SOCK_DGRAM) as door, netlink.inside(net.wan.fd):
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asker:
            asker.sendto(b"ask", (UPLINK, 5353))
            assert door.recvfrom(100)[0] == b"ask"


def test_a_port_published_on_one_address_is_there_alone(net: Host) -> None:
    _, machine = net.up("web", NetworkTerms(publish=("127.0.0.1:2222:22", f"{UPLINK}:8080:80", f"[{UPLINK6}]:8081:80")))
    with machine.listen(22), machine.listen(80):
        assert net.here.reaches("127.0.0.1", 2222)
        assert not net.here.reaches(UPLINK, 2222)
        assert not net.wan.reaches(UPLINK, 2222)
        assert net.wan.reaches(UPLINK, 8080)
        assert not net.here.reaches("127.0.0.1", 8080)
        assert net.wan.reaches(UPLINK6, 8081)
        assert not net.wan.reaches(UPLINK, 8081)


def test_machines_reach_each_other_unless_one_is_isolated(net: Host) -> None:
    one, first = net.up("one")
    two, second = net.up("two")
    alone, third = net.up("alone", NetworkTerms(isolated=True))
    with first.listen(80), second.listen(80), third.listen(80), net.wan.listen(80):
        for address in own(two):
            assert first.reaches(address, 80)
        for address in own(one):
            assert second.reaches(address, 80)
            assert not third.reaches(address, 80)
        for address in own(alone):
            assert not first.reaches(address, 80)
            assert net.here.reaches(address, 80)
        assert third.reaches(WAN, 80)


def test_an_egress_list_is_all_that_can_be_reached(net: Host) -> None:
    other, neighbour = net.up("other")
    terms = NetworkTerms(egress=(f"{WAN}:80/tcp", f"[{WAN6}]:80", "203.0.113.0/24", "other:81"))
    _, machine = net.up("build", terms)
    for address in ("203.0.113.7", "203.0.114.7"):
        net.wan.ip(f"address add {address}/32 dev wan0")
    with contextlib.ExitStack() as stack:
        for port in (80, 81):
            stack.enter_context(net.wan.listen(port))
            stack.enter_context(neighbour.listen(port))
        assert machine.reaches(WAN, 80)
        assert machine.reaches(WAN6, 80)
        assert not machine.reaches(WAN, 81)
        assert not machine.reaches(WAN6, 81)
        assert machine.reaches("203.0.113.7", 81)
        assert not machine.reaches("203.0.114.7", 81)
        for address in own(other):
            assert machine.reaches(address, 81)
            assert not machine.reaches(address, 80)
        assert neighbour.reaches("203.0.114.7", 81), "the list is one machine's"


def test_names_in_an_egress_list_are_looked_up(net: Host, tmp_path: Path) -> None:
    with hosts_file(tmp_path, f"{WAN}\tmirror.example\n{WAN6}\tmirror.example\n"):
        _, machine = net.up("build", NetworkTerms(egress=("mirror.example:80",)))
        with net.wan.listen(80), net.wan.listen(81):
            assert machine.reaches(WAN, 80)
            assert machine.reaches(WAN6, 80)
            assert not machine.reaches(WAN, 81)


def test_a_name_without_an_address_is_left_out_until_it_has_one(net: Host, tmp_path: Path) -> None:
    """As after the host's own start, while no server of names answers yet. A run is refused: nobody repairs it."""
    terms = NetworkTerms(egress=("mirror.example:80", f"{WAN}:81", "never.example"))
    with net.wan.listen(80), net.wan.listen(81):
        with hosts_file(tmp_path, "127.0.0.1\tlocalhost\n"):
            link, machine = net.up("build", terms)
            assert machine.reaches(WAN, 81)
            assert not machine.reaches(WAN, 80)
            found = next(hop for hop in net.network.check(link, machine.fd) if hop.state == "warning")
            assert "mirror.example, never.example" in found.found
            with pytest.raises(HostError) as caught:
                net.network.attach(net.network.lend("abcdef", terms), terms, machine.fd)
            net.network.close()
            assert "mirror.example" in caught.value.brief
        with hosts_file(tmp_path, f"{WAN}\tmirror.example\n"):
            net.network.repair(link, machine.fd)
        assert machine.reaches(WAN, 80)
        assert machine.reaches(WAN, 81)
        found = next(hop for hop in net.network.check(link, machine.fd) if hop.state == "warning")
        assert found.found.endswith(": never.example")


def test_names_are_looked_up_side_by_side(net: Host, tmp_path: Path) -> None:
    """This server answers the first one when it has heard of the last: whoever asks one after another waits in vain."""
    every = {b"one", b"two", b"six"}
    ended = threading.Event()

    def serve(door: socket.socket) -> None:
        heard: list[tuple[bytes, Any]] = []
        known: set[bytes] = set()
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                heard.append(door.recvfrom(512))
                known.add(heard[-1][0][13:16])
            if every <= known:
                for data, peer in heard:  # RFC 1035: the question again, and WAN for its A record
                    four = data[-4:] == b"\0\1\0\1"
                    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(WAN) if four else b""
                    door.sendto(data[:2] + b"\x81\x80\0\1" + bytes([0, four]) + b"\0\0\0\0" + data[12:] + record, peer)
                heard.clear()

    with hosts_file(tmp_path, ""), net.here.listen(53, "127.0.0.1", kind=socket.SOCK_DGRAM) as door:
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:1\n")
        door.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(door,))
        thread.start()
        found = names.resolve(tuple(f"{word.decode()}.example" for word in every))
        ended.set()
        thread.join()
    assert found == {f"{word.decode()}.example": [WAN] for word in every}


def test_an_empty_egress_list_lets_nothing_out_not_even_questions(net: Host) -> None:
    _, closed = net.up("closed", NetworkTerms(egress=()))
    _, named = net.up("named", NetworkTerms(egress=("any",)))
    with net.wan.listen(80), net.wan.listen(53, kind=socket.SOCK_DGRAM) as server:
        assert not closed.reaches(WAN, 80)
        assert not answers(closed, WAN, server)
        assert named.reaches(WAN, 80)
        assert named.reaches(WAN6, 80)
        assert answers(named, WAN, server)


def test_what_nftables_service_flushes_comes_back(net: Host, tmp_path: Path) -> None:
    """Debian's /etc/nftables.conf begins with it, and without a table nothing is closed."""
    net.write("run/systemd/system/some.service", "")
    net.write("usr/lib/systemd/system/nftables.service", "")
    before = net.state()
    net.network = Network(f"{net.directory}/state/network", root=net.root)  # where a unit of the host looks, too
    _, machine = net.up("closed", NetworkTerms(egress=()))
    unit = net.read("etc/systemd/system/nftables.service.d/50-roost.conf")
    again = dict(line.split("=", 1) for line in unit.splitlines() if line.startswith("Exec"))
    assert again["ExecReload"] == again["ExecStartPost"]
    with net.here.listen(22), net.wan.listen(80), hosts_file(tmp_path, "127.0.0.1\tlocalhost\n"):
        net.here.run("nft", "flush", "ruleset")
        assert machine.reaches(UPLINK, 22), "else this proves nothing"
        net.here.run(*shlex.split(again["ExecReload"].removeprefix("-")))
        assert not machine.reaches(UPLINK, 22)
        assert not machine.reaches(WAN, 80)
    net.down("closed")
    assert net.state() == before
    assert not os.path.exists(f"{net.root}/etc/systemd/system/nftables.service.d")


def test_services_of_the_host_are_closed_to_machines(net: Host) -> None:
    link, machine = net.up("db")
    opened, special = net.up("special", NetworkTerms(egress=("any", "host:4444")))
    with net.here.listen(4444), net.here.listen(22), net.wan.listen(80):
        for address in (link.gateway, link.gateway6, UPLINK, UPLINK6):
            assert not machine.reaches(address, 4444)
        for address in (opened.gateway, opened.gateway6, UPLINK, UPLINK6):
            assert special.reaches(address, 4444), address
            assert not special.reaches(address, 22)
        assert special.reaches(WAN, 80)


def test_the_hosts_loopback_is_its_own(net: Host) -> None:
    """A published port lets packets of 127.0.0.0/8 through a link; a machine that sends such is not heard."""
    link, machine = net.up("bad", NetworkTerms(publish=("8080:80",)))
    machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    machine.ip("route del table local 127.0.0.0/8 dev lo")
    machine.ip(f"route add 127.0.0.0/8 via {link.gateway}")
    with net.here.listen(4444, "127.0.0.1") as door, netlink.inside(net.here.fd):
        with contextlib.suppress(OSError):
            machine.connect("127.0.0.1", 4444).close()
        door.settimeout(0.1)
        with pytest.raises(TimeoutError):
            door.accept()


def test_a_machine_cannot_take_the_address_of_another(net: Host) -> None:
    free, _ = net.up("free")
    _, machine = net.up("limited", NetworkTerms(egress=()))
    address = free.address.partition("/")[0]
    machine.ip(f"address add {address}/32 dev host0")
    with net.wan.listen(4000, WAN, kind=socket.SOCK_DGRAM) as door, netlink.inside(machine.fd):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.bind((address, 0))
            sender.sendto(b"forged", (WAN, 4000))
        door.settimeout(0.3)
        with pytest.raises(TimeoutError):
            door.recv(100)


def test_a_resolver_of_the_hosts_loopback_is_asked_through_the_gateway(net: Host) -> None:
    net.write("etc/resolv.conf", "nameserver 127.0.0.53\nsearch example.org\n")
    link, machine = net.up("db")
    _, closed = net.up("closed", NetworkTerms(egress=()))
    assert net.network.resolv_conf(link) == f"nameserver {link.gateway}\nsearch example.org\n".encode()
    with net.here.listen(53, "127.0.0.53", kind=socket.SOCK_DGRAM) as server:
        assert answers(machine, link.gateway, server)
        assert not answers(closed, link.gateway, server)
    with net.here.listen(53, "127.0.0.53") as door:
        machine.connect(link.gateway, 53).close()
        assert peer_of(door) == "127.0.0.1", "resolvers answer nobody else there"


def test_a_resolver_on_an_address_of_the_host_is_asked(net: Host) -> None:
    net.write("etc/resolv.conf", f"nameserver {UPLINK}\n")
    _, machine = net.up("db")
    with net.here.listen(53), net.here.listen(54):
        assert machine.reaches(UPLINK, 53)
        assert not machine.reaches(UPLINK, 54)


def test_machines_on_a_bridge_are_neighbours(net: Host) -> None:
    shared = NetworkTerms(bridge="lab")
    one, first = net.up("one", shared)
    two, second = net.up("two", shared)
    alone, third = net.up("alone", NetworkTerms(bridge="lab", isolated=True))
    assert one.bridge == two.bridge == alone.bridge
    assert one.gateway == two.gateway
    with first.listen(80), second.listen(80), third.listen(80), net.wan.listen(80) as outside, net.here.listen(81):
        for address in own(two):
            assert first.reaches(address, 80)
            assert not third.reaches(address, 80)
        for address in own(alone):
            assert not first.reaches(address, 80)
            assert net.here.reaches(address, 80)
        for machine in (first, third):
            machine.connect(WAN, 80).close()
            assert peer_of(outside) == UPLINK
            machine.connect(WAN6, 80).close()
            assert peer_of(outside) == UPLINK6
            assert not machine.reaches(one.gateway, 81)


def test_an_address_on_a_bridge_is_not_taken_from_a_neighbour(net: Host) -> None:
    shared = NetworkTerms(bridge="lab")
    one, _ = net.up("one", shared)
    two, second = net.up("two", shared)
    _, bad = net.up("bad", NetworkTerms(bridge="lab", egress=(f"{WAN}:80",)))
    stolen = one.address.partition("/")[0]
    net.down("one")
    net.up("one", shared)
    bad.ip(f"address add {stolen}/24 dev host0")
    with net.wan.listen(81) as door, netlink.inside(bad.fd):
        thief = socket.socket()
        with thief:
            thief.settimeout(QUICK)
            thief.bind((stolen, 0))
            with pytest.raises(OSError):  # noqa: PT011  # refused, or never answered
                thief.connect((WAN, 81))
        door.settimeout(0.1)
        with pytest.raises(TimeoutError):
            door.accept()
    with second.listen(80):
        assert not bad.reaches(two.address.partition("/")[0], 80), (
            "what is not listed is not reached on a bridge either"
        )


def test_a_bridge_publishes_too(net: Host) -> None:
    _, machine = net.up("one", NetworkTerms(bridge="lab", publish=("8080:80",)))
    _, neighbour = net.up("two", NetworkTerms(bridge="lab"))
    with machine.listen(80):
        assert net.wan.reaches(UPLINK, 8080)
        assert net.here.reaches("127.0.0.1", 8080)
        assert neighbour.reaches(UPLINK, 8080)
    net.down("one")
    assert os.listdir(f"{net.directory}/run/attached") == ["ro-two"]
    assert net.here.run("cat", "/proc/sys/net/ipv4/conf/ro-b_lab/route_localnet") == "0\n"
