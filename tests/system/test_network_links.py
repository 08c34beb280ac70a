"""Links come and go: addresses are nobody else's, nothing is left, and whoever is killed leaves nothing that lasts."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from roost.definition.model import NetworkTerms
from roost.errors import DefinitionError, HostError
from roost.host import runner, syscalls
from roost.network import Network, addresses, netlink
from system.network_rig import UPLINK, WAN, Host, Space
from system.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = NetworkTerms()
POINTS = ("open", "os.", "roost.", "subprocess.Popen", "fcntl.flock")


def in_children(work: list[Callable[[], object]]) -> list[int]:
    """The statuses of functions that run at once, each in a process of its own."""
    return [runner.reap(pid) or 0 for pid in [runner.fork(function) for function in work]]


def test_the_last_link_takes_everything_with_it(net: Host) -> None:
    before = net.state()
    net.up("one", NetworkTerms(publish=("8080:80",)))
    net.up("two", NetworkTerms(bridge="lab", isolated=True))
    net.up("three", NetworkTerms(bridge="lab", egress=(f"{WAN}:80",)))
    changed = net.state()
    assert "inet roost" in changed["rules"]
    assert changed["settings"].startswith("1\n")
    assert "# BEGIN roost" in changed["hosts"]
    for machine in ("one", "three", "two"):
        net.down(machine)
    assert net.state() == before


def test_a_link_that_is_attached_again_stays_as_it_is(net: Host) -> None:
    link, machine = net.up("db")
    with net.wan.listen(80):
        door = machine.connect(WAN, 80)
        before = net.state()
        net.another().attach(link, PLAIN, machine.fd)
        assert net.state() == before
        door.send(b"still there")
        door.close()
    machine.ip("address flush dev host0")
    net.another().attach(link, PLAIN, machine.fd)
    with net.wan.listen(80):
        assert machine.reaches(WAN, 80)


def test_a_machines_address_has_its_broadcast_address(net: Host) -> None:
    """The systemd-networkd of Debian 12 in the machine fails with one that has none."""
    link, machine = net.up("db")
    assert f"inet {link.address} brd {ipaddress.ip_interface(link.address).network.broadcast_address} " in machine.ip(
        "address show dev host0"
    )


def test_other_terms_take_effect(net: Host) -> None:
    link, machine = net.up("db")
    with net.wan.listen(80), net.wan.listen(81):
        net.network.attach(link, NetworkTerms(egress=(f"{WAN}:80",)), machine.fd)
        assert machine.reaches(WAN, 80)
        assert not machine.reaches(WAN, 81)
        net.network.attach(link, PLAIN, machine.fd)
        assert machine.reaches(WAN, 81)


def test_a_restarted_machine_gets_its_network_again(net: Host) -> None:
    """Its old network namespace may be there for a while, with the other end of the same link."""
    link, old = net.up("db")
    new = net.machines["db"] = Space()
    net.network.attach(link, PLAIN, new.fd)
    with net.wan.listen(80):
        assert new.reaches(WAN, 80)
    assert "host0" not in old.ip("-br link")
    old.close()


def test_an_address_is_allotted_once(net: Host) -> None:
    link = net.network.allot("db", PLAIN)
    assert net.network.allot("other", PLAIN).address != link.address
    assert net.another().allot("db", NetworkTerms(isolated=True)) == link
    net.network.release("db")
    assert [other.machine for other in net.network.links()] == ["other"]
    assert net.network.allot("db", PLAIN) == link


def test_two_stores_want_different_addresses(net: Host) -> None:
    first, second = net.network.allot("db", PLAIN), net.another("elsewhere").allot("db", PLAIN)
    assert first.address != second.address
    spaces = [Space(), Space()]
    second = net.another("elsewhere").allot("web", PLAIN)
    with net.wan.listen(80):
        for network, link, space in zip((net.network, net.another("elsewhere")), (first, second), spaces, strict=True):
            network.attach(link, PLAIN, space.fd)
        assert all(space.reaches(WAN, 80) for space in spaces)
        net.network.detach(first)
        assert spaces[1].reaches(WAN, 80), "one store's last link is not the host's"
    net.network.detach(second)
    for space in spaces:
        space.close()


@pytest.mark.parametrize("where", ["10.0.0.0/8", "10.213.0.0/16"])
def test_addresses_are_none_that_the_host_has_a_way_to(net: Host, where: str) -> None:
    net.here.ip(f"route add {where} via {WAN}")
    block = addresses.block_of(net.network.allot("db", PLAIN).address)
    taken = addresses.block_of(where)
    assert block is not None
    assert taken is not None
    assert not block.overlaps(taken)


def test_a_pool_is_used_up_and_given_back(net: Host) -> None:
    """Four links: three for machines, one for sessions."""
    links = [net.network.allot(f"m{number}", PLAIN, "192.0.2.0/28") for number in range(3)]
    assert len({link.address for link in links}) == 3
    with pytest.raises(HostError) as caught:
        net.network.allot("m3", PLAIN, "192.0.2.0/28")
    assert "192.0.2.0/28" in caught.value.brief
    assert "pool" in caught.value.hint
    lent = net.network.lend("first", PLAIN, "192.0.2.0/28")
    assert lent.address not in {link.address for link in links}
    with pytest.raises(HostError):
        net.another().lend("second", PLAIN, "192.0.2.0/28")
    net.network.give_back(lent)
    other = net.another()
    assert other.lend("second", PLAIN, "192.0.2.0/28").address == lent.address
    other.close()
    net.network.release("m1")
    assert net.network.allot("m3", PLAIN, "192.0.2.0/28").address == links[1].address


def test_a_lent_address_is_free_when_its_process_has_died(net: Host) -> None:
    def borrow() -> None:
        link = net.another().lend("killed", PLAIN, "192.0.2.0/30")
        space = Space()
        net.another().attach(link, PLAIN, space.fd)
        os._exit(9)

    before = net.state()
    in_children([borrow])
    wait_for(lambda: not any("_" in name for name in netlink.interfaces()))
    link = net.network.lend("next", PLAIN, "192.0.2.0/30")
    space = Space()
    net.network.attach(link, PLAIN, space.fd)
    with net.wan.listen(80):
        assert space.reaches(WAN, 80)
    space.close()
    net.network.detach(link, ended=True)
    net.network.give_back(link)
    assert net.network.attached() == []
    assert net.state() == before
    assert not os.path.exists(f"{net.directory}/run"), "what is attached and lent is recorded while there is something"


def test_sessions_on_a_bridge_get_addresses_of_it(net: Host) -> None:
    terms = NetworkTerms(bridge="lab")
    machine, _ = net.up("db", terms)
    networks = [net.another() for _ in range(3)]
    links = [network.lend(f"s{number}", terms) for number, network in enumerate(networks)]
    shared = addresses.block_of(machine.address)
    assert {str(addresses.block_of(link.address)) for link in links} == {str(shared)}
    assert len({link.address for link in (machine, *links)}) == 4
    assert len({link.interface for link in (machine, *links)}) == 4
    for network in networks:
        network.close()


def test_fixed_addresses(net: Host) -> None:
    link, machine = net.up("db", NetworkTerms(address="192.0.2.9"))
    assert link.address == "192.0.2.9/30"
    shared, _ = net.up("web", NetworkTerms(bridge="lab", address="192.0.3.77"))
    assert shared.address == "192.0.3.77/24"
    with net.wan.listen(80):
        assert machine.reaches(WAN, 80)
    for terms in (NetworkTerms(address="192.0.2.10"), NetworkTerms(bridge="lab", address="192.0.3.77")):
        with pytest.raises(HostError):
            net.network.allot("other", terms)
    with pytest.raises(HostError):
        net.network.allot("other", NetworkTerms(bridge="lab", address="192.0.4.1"))
    with pytest.raises(DefinitionError):
        net.network.allot("other", NetworkTerms(address="fd00::1"))


def test_interface_names_are_short_and_different(net: Host) -> None:
    names = ["a-very-long-name-of-a-machine-1", "a-very-long-name-of-a-machine-2", "short"]
    links = [net.up(name)[0] for name in names]
    assert len({link.interface for link in links}) == 3
    assert all(len(link.interface) <= 15 for link in links)
    assert links[2].interface == "ro-short"
    net.here.ip("link add ro-taken type bridge")
    assert net.network.allot("taken", PLAIN).interface not in ("ro-taken", *(link.interface for link in links))


def test_an_interface_of_somebody_else_is_left_alone(net: Host) -> None:
    link = net.network.allot("db", PLAIN)
    net.here.ip(f"link add {link.interface} type bridge")
    with pytest.raises(HostError) as caught:
        net.up("db")
    assert link.interface in caught.value.brief
    assert "bridge" in net.here.ip(f"-d link show {link.interface}")


def test_a_route_that_came_later_is_named(net: Host) -> None:
    link = net.network.allot("db", PLAIN)
    net.here.ip(f"route add 10.213.0.0/16 via {WAN}")
    with pytest.raises(HostError) as caught:
        net.up("db")
    assert "10.213.0.0/16 dev up0" in caught.value.brief
    assert link.interface not in net.here.ip("-br link")
    assert net.network.attached() == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_not_published(net: Host, kind: int) -> None:
    word = "/udp" if kind == socket.SOCK_DGRAM else ""
    with net.here.listen(8080, kind=kind):
        with pytest.raises(HostError) as caught:
            net.up("web", NetworkTerms(publish=(f"8080:80{word}",)))
        assert "8080" in caught.value.brief
        assert "ss " in caught.value.hint
    net.up("web", NetworkTerms(publish=(f"8080:80{word}",)))
    with pytest.raises(HostError) as caught:
        net.up("second", NetworkTerms(publish=(f"127.0.0.1:8080:81{word}",)))
    assert "web" in caught.value.brief
    assert [link.machine for link in net.network.attached()] == ["web"]


def test_many_at_once(net: Host) -> None:
    before = net.state()
    names = [f"m{number}" for number in range(6)]
    spaces = {name: Space() for name in names}

    def start(name: str) -> Callable[[], object]:
        terms = NetworkTerms(bridge="lab" if name in ("m1", "m2") else "")

        def work() -> None:
            network = net.another()
            network.attach(network.allot(name, terms), terms, spaces[name].fd)

        return work

    def end(name: str) -> Callable[[], object]:
        return lambda: net.another().detach(next(link for link in net.another().links() if link.machine == name))

    assert in_children([start(name) for name in names]) == [0] * 6
    assert len({link.address for link in net.network.links()}) == 6
    with net.wan.listen(80):
        assert all(space.reaches(WAN, 80) for space in spaces.values())
    assert in_children([end(name) for name in names]) == [0] * 6
    for space in spaces.values():
        space.close()
    assert net.state() == before


def test_whoever_comes_while_the_last_one_goes_finds_its_place(net: Host) -> None:
    """Each makes the directory of what is attached when it is missing, and removes it when nothing is left."""

    def come_and_go() -> None:
        network = net.another()
        for _ in range(500):
            network.restore()

    assert in_children([come_and_go] * 4) == [0] * 4
    assert not os.path.exists(f"{net.directory}/run")


def _killed_at(number: int, work: Callable[[], object]) -> bool:
    """Whether a child that does it dies at the ``number``-th thing that it changes."""
    count = 0

    def hook(event: str, _: object) -> None:
        nonlocal count
        if event.startswith(POINTS):
            count += 1
            if count == number:
                os._exit(9)

    def child() -> None:
        sys.addaudithook(hook)
        work()

    return in_children([child]) == [9]


@pytest.mark.parametrize("what", ["attach", "detach"])
def test_a_killed_process_leaves_nothing_that_lasts(net: Host, what: str) -> None:
    """Killed at one point after another: the machine gets its network all the same, or all of it goes with the machine."""
    terms = NetworkTerms(bridge="lab", publish=("8080:80",))
    link = net.network.allot("db", terms)
    before = net.state()
    number, killed = 0, True
    while killed:
        number += 3
        network, space = net.another(), Space()
        if what == "detach":
            network.attach(link, terms, space.fd)
        work = {"attach": partial(network.attach, link, terms, space.fd), "detach": partial(network.detach, link)}[what]
        killed = _killed_at(number, work)
        if number % 2:
            network.attach(link, terms, space.fd)
            with net.wan.listen(80):
                assert space.reaches(WAN, 80), number
            network.detach(link)
            space.close()
        else:
            space.close()
            wait_for(lambda: link.interface not in netlink.interfaces())  # which the kernel does in its own time
            network.sweep()
        assert differences(before, net.state()) == {}, number
        assert not os.path.exists(f"{net.directory}/run"), number
    assert number > 12


def test_killed_before_its_interface_says_whose_it_is(net: Host) -> None:
    """It cannot be told by its alias then; that somebody has begun with it is recorded."""
    link = net.network.allot("db", PLAIN)
    before = net.state()
    space = Space()

    def hook(event: str, words: tuple[object, ...]) -> None:
        if (event, words) == ("roost.netlink", ("describe",)):
            os._exit(9)

    def child() -> None:
        sys.addaudithook(hook)
        net.network.attach(link, PLAIN, space.fd)

    assert in_children([child]) == [9]
    assert link.interface in netlink.interfaces()
    net.another().attach(link, PLAIN, space.fd)
    with net.wan.listen(80):
        assert space.reaches(WAN, 80)
    net.another().detach(link)
    space.close()
    assert net.state() == before


def test_what_the_kernel_says_of_chains_is_what_nft_says(net: Host) -> None:
    net.up("db", NetworkTerms(bridge="lab"))
    more = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; chain plain { }; }\n"
    net.here.run(
        "nft",
        "-f",
        "-",
        stdin=f"{more}table netdev n {{ chain c {{ type filter hook ingress device up0 priority 0; }}; }}",
    )
    told = json.loads(net.here.run("nft", "-j", "list", "chains"))["nftables"]
    chains = [item["chain"] for item in told if "hook" in item.get("chain", {})]
    expected = [(*(raw[key] for key in ("family", "table", "name", "type")), raw["policy"] == "drop") for raw in chains]
    found = [(one.family, one.table, one.name, one.kind, one.drops) for one in netlink.base_chains()]
    assert sorted(found) == sorted(expected)
    hooks = {one.name: one.hook for one in netlink.base_chains() if one.family != "netdev"}
    assert hooks == {raw["name"]: raw["hook"] for raw in chains if raw["family"] != "netdev"}
    assert "FORWARD" in [one[2] for one in found if one[4]]
    net.down("db")


def differences(old: dict[str, str], new: dict[str, str]) -> dict[str, set[str]]:
    """The lines that only one of two states has."""
    found = {key: set(old[key].split("\n")) ^ set(new[key].split("\n")) for key in old}
    return {key: lines for key, lines in found.items() if lines}


def test_a_flushed_firewall_comes_back_with_the_next_link(net: Host) -> None:
    first, one = net.up("one", NetworkTerms(publish=("8080:80",)))
    net.here.run("nft", "flush", "ruleset")
    with net.wan.listen(80), one.listen(80):
        assert not one.reaches(WAN, 80)
        net.up("two")
        assert one.reaches(WAN, 80)
        assert net.wan.reaches(UPLINK, 8080)
    assert first in net.network.attached()


def test_settings_are_put_back_as_they_were(net: Host) -> None:
    path = "/proc/sys/net/ipv4/conf/all/accept_redirects"
    net.here.run("sh", "-c", f"echo 0 > {path}; echo 1 > /proc/sys/net/ipv6/conf/up0/accept_ra")
    net.here.ip("-6 route replace default via fe80::1 dev up0 proto ra")
    before = net.state()
    net.up("db")
    assert net.here.run("cat", "/proc/sys/net/ipv6/conf/up0/accept_ra") == "2\n", (
        "else a router's next word is not heard"
    )
    net.down("db")
    assert net.here.run("cat", "/proc/sys/net/ipv6/conf/up0/accept_ra", path) == "1\n0\n"
    assert net.state() == before


@pytest.mark.parametrize(
    "words",
    [
        ("link add docker0 type bridge",),
        ("link add vmbr0 type bridge", "address add 192.0.2.1/24 dev vmbr0", "link set vmbr0 up"),
        ("link add eth1 type veth peer name eth9", "link set eth1 up", "route add 192.0.2.0/24 dev eth1"),
    ],
)
def test_forwarding_stays_where_others_live_from_it(net: Host, words: tuple[str, ...]) -> None:
    net.up("db")
    for line in words:
        net.here.ip(line)
    net.down("db")
    assert net.here.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"


def test_forwarding_goes_where_a_second_interface_leads_nowhere(net: Host) -> None:
    net.up("db")
    net.here.ip("link add eth1 type veth peer name eth9")
    net.here.ip("link set eth9 up")
    net.here.ip("link set eth1 up")
    net.down("db")
    assert net.here.run("cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"


def test_names_of_machines_are_known(net: Host, tmp_path: object) -> None:
    net.write("etc/hosts", "127.0.0.1 localhost\n192.0.2.1 printer # ours\n")
    db, _ = net.up("db")
    net.up("printer")
    address, address6 = db.address.partition("/")[0], db.address6.partition("/")[0]
    text = net.read("etc/hosts")
    assert text.startswith("127.0.0.1 localhost\n192.0.2.1 printer # ours\n# BEGIN roost\n")
    assert f"{address}\tdb\n{address6}\tdb\n" in text
    assert text.count("printer") == 1, "a name that somebody else has is theirs"
    path = f"{tmp_path}/hosts-of-web"
    net.network.write_hosts("web", path)
    inode = os.stat(path).st_ino
    web = net.network.allot("web", PLAIN)
    net.network.release("printer")
    net.network.refresh_hosts({"web": path, "gone": f"{tmp_path}/nowhere"})
    with open(path) as stream:
        text = stream.read()
    assert os.stat(path).st_ino == inode
    assert f"{address}\tdb" in text
    assert "printer" not in text
    assert web.address.partition("/")[0] not in text, "its own name is its loopback's"
    for machine in ("db",):
        net.down(machine)
    net.network.detach(next(link for link in net.network.attached() if link.machine == "printer"))
    net.machines.pop("printer").close()
    assert net.read("etc/hosts") == "127.0.0.1 localhost\n192.0.2.1 printer # ours\n"


def test_a_hosts_file_that_is_a_mount_is_written_in_place(net: Host) -> None:
    """In a container /etc/hosts often is one: it cannot be replaced by a rename."""
    path = f"{net.root}/etc/hosts"
    source = f"{net.directory}/bound"
    with open(source, "w") as stream:
        stream.write("127.0.0.1 localhost\n" + "# long\n" * 50)
    syscalls.mount(source, path, flags=syscalls.MS_BIND)
    try:
        net.up("db")
        assert "\tdb\n" in net.read("etc/hosts")
        net.down("db")
        assert net.read("etc/hosts") == "127.0.0.1 localhost\n" + "# long\n" * 50
    finally:
        syscalls.umount(path)


def test_a_mark_without_its_end_takes_no_line_of_the_hosts(net: Host) -> None:
    """Somebody has removed the other mark: what follows is the host's, before and after machines come and go."""
    text = "127.0.0.1 localhost\n# BEGIN roost\n192.0.2.1 printer\n192.0.2.2 backup\n"
    net.write("etc/hosts", text)
    net.up("db")
    assert "\tdb\n" in net.read("etc/hosts")
    assert net.read("etc/hosts").startswith(text)
    net.up("web")
    net.down("web")
    net.down("db")
    assert net.read("etc/hosts") == text


def test_a_machine_that_holds_its_hosts_file_holds_nobody_up(net: Host, tmp_path: Path) -> None:
    """Its root may take a lease on what it owns; then every open waits until the kernel breaks it, which changes it too."""
    paths = {name: str(tmp_path / name) for name in ("bad", "other")}
    for name, path in paths.items():
        net.network.write_hosts(name, path)
    old = signal.signal(signal.SIGIO, signal.SIG_IGN)
    holder = os.open(paths["bad"], os.O_RDWR)
    try:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        net.up("db")
        net.network.refresh_hosts(paths)
        assert fcntl.fcntl(holder, fcntl.F_GETLEASE) != fcntl.F_UNLCK, "nobody has waited for its end"
        assert b"\tdb\n" not in os.pread(holder, 1000, 0)
        assert b"\tdb\n" in (tmp_path / "other").read_bytes()
    finally:
        os.close(holder)
        signal.signal(signal.SIGIO, old)
    net.network.refresh_hosts(paths)
    assert b"\tdb\n" in (tmp_path / "bad").read_bytes()


def test_an_interface_of_the_hosts_own_is_not_opened_by_its_name(net: Host) -> None:
    """Firewalls are told to let all that is called so through."""
    net.here.run(
        "nft", "-f", "-", stdin="table inet mine { chain in { type filter hook input priority 0; policy drop; }; }"
    )
    net.here.ip("link add ro-uplink type veth peer name eth9")
    before = net.state()
    with pytest.raises(HostError) as caught:
        net.up("db")
    assert "ro-uplink" in caught.value.brief
    assert "rename" in caught.value.hint
    assert net.state() == before
    net.here.ip("link set ro-uplink name up-uplink")
    net.up("db")
    net.up("web", NetworkTerms(bridge="lab"))
    net.up("other", NetworkTerms(bridge="lab"))


def test_a_host_without_ipv6_has_machines_without(net: Host) -> None:
    net.here.run("sh", "-c", "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done")
    link, machine = net.up("db")
    assert (link.address6, link.gateway6) == ("", "")
    with net.wan.listen(80):
        assert machine.reaches(WAN, 80)


def test_the_store_may_be_elsewhere_than_what_is_attached() -> None:
    """Which is one place for a network namespace."""
    own = Network("/nowhere")
    space = Space()
    with netlink.inside(space.fd):
        other = Network("/nowhere")
    space.close()
    assert own._run.startswith("/run/roost/network")
    assert own._run != other._run
