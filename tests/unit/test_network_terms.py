"""What a definition says of private networks, read; addresses as numbers; texts that others read."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.definition import network_checks
from roost.definition.model import NetworkTerms
from roost.errors import DefinitionError
from roost.network import addresses, firewall, guests, managers, names, others, pools, terms
from roost.network.records import Attached, Link, attached_from, link_from
from roost.network.terms import Port, Reach, Target

LINK = Link("db", "ro-db", "10.213.0.2/30", "10.213.0.1", "fd00:1::2/64", "fd00:1::1")
BLOCKS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(lambda length: f"{ip}/{length}")
)


@given(BLOCKS, BLOCKS)
def test_networks_are_those_of_the_standard_library(one: str, other: str) -> None:
    first, second = addresses.block_of(one), addresses.block_of(other)
    assert first is not None
    assert second is not None
    left, right = ipaddress.ip_network(one, strict=False), ipaddress.ip_network(other, strict=False)
    assert ipaddress.ip_network(str(first)) == left  # which writes ::ffff:0.0.0.0 in another way
    assert first.overlaps(second) == (left.version == right.version and left.overlaps(right))
    assert addresses.number_of(str(left[0])) == (left.max_prefixlen, int(left[0]))


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/33", "10.0.0/8", "10.0.0.1/", "::1/129", "10.0.0.1/8x", "host", "10.0.0.1/-1", "1.2.3.4/²"]
)
def test_what_is_no_network(text: str) -> None:
    assert addresses.block_of(text) is None


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port("", 8080, 80, "tcp")),
        ("80", Port("", 80, 80, "tcp")),
        ("0.0.0.0:80:80", Port("", 80, 80, "tcp")),
        ("53:5353/udp", Port("", 53, 5353, "udp")),
        ("127.0.0.1:2222:22/tcp", Port("127.0.0.1", 2222, 22, "tcp")),
        ("[2001:DB8::1]:80:81", Port("2001:db8::1", 80, 81, "tcp")),
        ("[::]:80:81", Port("", 80, 81, "tcp")),
    ],
)  # fmt: skip
def test_published_ports(text: str, port: Port) -> None:
    found = terms.published(text)
    assert found == port
    assert terms.published(str(found)).clashes(port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "80:",
        ":80",
        "0:80",
        "70000:80",
        "80:80/sctp",
        "a:b",
        "1.2.3:80:80",
        "80:80:80:80",
        "[::1]80:80",
        "localhost:80:80",
    ],
)
def test_what_is_no_published_port(text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        terms.published(text)
    assert text in caught.value.brief
    assert "8080:80" in caught.value.hint


def test_ports_that_clash() -> None:
    every, one, two = (terms.published(text) for text in ("80", "127.0.0.1:80:1", "127.0.0.2:80:1"))
    assert every.clashes(one)
    assert one.clashes(every)
    assert not one.clashes(two)
    assert not every.clashes(terms.published("80/udp"))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("any", Target("any")),
        ("host:4444", Target("host", "", 4444)),
        ("host", Target("host")),
        ("192.0.2.1", Target("network", "192.0.2.1")),
        ("192.0.2.0/24:443/tcp", Target("network", "192.0.2.0/24", 443, "tcp")),
        ("198.51.100.0/24", Target("network", "198.51.100.0/24")),
        ("2001:db8::/32", Target("network", "2001:db8::/32")),
        ("[2001:db8::1]:22", Target("network", "2001:db8::1", 22)),
        ("example.org:443/udp", Target("name", "example.org", 443, "udp")),
        ("my-mirror", Target("name", "my-mirror")),
    ],
)  # fmt: skip
def test_what_may_be_reached(text: str, target: Target) -> None:
    assert terms.target(text) == target


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a:", "a:0", "a:70000", "a/tcp", "a:80/icmp", "exa mple.org", "a..b", "http://example.org", "a;b"],
)
def test_what_cannot_be_said_of_reaching(text: str) -> None:
    with pytest.raises(DefinitionError):
        terms.target(text)


PLACES = st.one_of(
    BLOCKS,
    BLOCKS.map(lambda text: text.partition("/")[0]),
    st.from_regex(r"[a-z0-9_-]{1,6}(\.[a-z]{1,3}\.?)?", fullmatch=True),
    st.sampled_from(["any", "host"]),
)
PORTS = st.sampled_from(["", ":80", ":0", ":80:81", ":080", ":65536", "8080:80", "80"])
WORDS = st.tuples(st.sampled_from(["{}", "[{}]", ""]), PLACES, PORTS, st.sampled_from(["", "/tcp", "/udp", "/x"]))


@given(WORDS)
def test_what_a_definition_may_say_is_understood(words: tuple[str, str, str, str]) -> None:
    text = words[0].format(words[1]) + words[2] + words[3]
    if not network_checks.egress(text):
        assert terms.target(text).kind in ("any", "host", "network", "name")
    found, wrong = network_checks.publish(text)
    if not wrong:
        assert found is not None
        assert terms.published(text) == Port(found.address, found.host, found.machine, found.protocol)


def test_targets_become_networks_none_within_another() -> None:
    """The kernel takes no two elements that overlap."""
    every = [
        terms.target(text) for text in ("192.0.2.0/24", "192.0.2.7:80", "db:80", "mirror:80/tcp", "mirror:80", "host:1")
    ]
    found, unknown = terms.reaches(
        every, {"db": ["10.0.0.1"]}, lambda names: {name: ["192.0.3.1", "2001:db8::1"] for name in names}
    )
    assert {(str(one.block), one.protocol, one.port) for one in found} == {
        ("192.0.2.0/24", "", 0),
        ("10.0.0.1/32", "tcp", 80), ("10.0.0.1/32", "udp", 80),
        ("192.0.3.1/32", "tcp", 80), ("192.0.3.1/32", "udp", 80),
        ("2001:db8::1/128", "tcp", 80), ("2001:db8::1/128", "udp", 80),
    }  # fmt: skip
    assert unknown == ()
    found, _ = terms.reaches([terms.target("any")], {}, lambda _: {})
    assert {str(one.block) for one in found} == {"0.0.0.0/0", "::/0"}
    both = [terms.target("nowhere:80"), terms.target("192.0.2.7")]
    found, unknown = terms.reaches(both, {}, lambda names: {name: [] for name in names})
    assert [str(one.block) for one in found] == ["192.0.2.7/32"]
    assert unknown == ("nowhere",)


@given(st.lists(st.tuples(BLOCKS, st.sampled_from(["", "tcp", "udp"]), st.integers(0, 3)), max_size=12))
def test_what_is_left_of_targets_says_the_same(wanted: list[tuple[str, str, int]]) -> None:
    targets = [Target("network", text, port, protocol if port else "") for text, protocol, port in wanted]
    found, _ = terms.reaches(targets, {}, lambda _: {})
    for one in found:
        assert not any(other != one and other.covers(one) for other in found)
    for item in targets:
        block = addresses.block_of(item.value)
        assert block is not None
        for protocol in (item.protocol,) if item.protocol else ("tcp", "udp"):
            assert any(one.covers(Reach(block, protocol, item.port)) for one in found)


@pytest.mark.parametrize("text", ["", "10.0.0.0/31", "10.0.0.0/4", "fd00::/48", "somewhere"])
def test_what_is_no_pool(text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        addresses.pool_of(text, bits=32)
    assert caught.value.hint


@pytest.mark.parametrize(("address", "pair"), [
    ("192.0.2.1", ("192.0.2.1/30", "192.0.2.2")), ("192.0.2.2", ("192.0.2.2/30", "192.0.2.1")),
    ("192.0.2.4", ("192.0.2.4/31", "192.0.2.5")), ("192.0.2.7", ("192.0.2.7/31", "192.0.2.6")),
    ("192.0.2.77/24", ("192.0.2.77/24", "192.0.2.1")), ("192.0.2.1/24", ("192.0.2.1/24", "192.0.2.2")),
])  # fmt: skip
def test_the_gateway_of_a_fixed_address(address: str, pair: tuple[str, str]) -> None:
    assert pools.pair(*pools.fixed(address)) == pair


@pytest.mark.parametrize(
    "address", ["", "192.0.2.0/24", "192.0.2.255/24", "192.0.2.1/32", "192.0.2.1/2", "fd00::1", "db"]
)
def test_what_is_no_address_of_a_machine(address: str) -> None:
    with pytest.raises(DefinitionError):
        pools.fixed(address)


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,40}", fullmatch=True), unique=True, max_size=40))
def test_interface_names_are_the_kernels_and_each_is_one_machines(machines: list[str]) -> None:
    used: set[str] = set()
    for machine in machines:
        name = pools.name_for(machine, used)
        assert len(name) <= 15
        assert name.startswith("ro-")
        assert name not in used
        used.add(name)


def test_records_are_read_as_they_were_written() -> None:
    for link in (
        LINK,
        Link("db", "ro-db", "10.213.0.2/30", "10.213.0.1"),
        Link("a", "ro-a", "1.1.1.2/24", "1.1.1.1", bridge="ro-b_x"),
    ):
        assert link_from(link.to_line()) == link
        one = Attached(
            link, ('inet roost links { "ro-db" }', "x"), ("8080/tcp",), "/s", ("a.example:80", "any"), ("a.example",)
        )
        assert attached_from(one.to_text()) == one


@given(st.text())
def test_a_record_that_is_not_whole_is_none(text: str) -> None:
    found = attached_from(text)
    assert found is None or found.link.machine
    whole = Attached(LINK).to_text()
    assert attached_from(whole[: len(text) % len(whole)]) is None


def test_a_hosts_file_keeps_what_is_not_ours() -> None:
    old = b"127.0.0.1 localhost\n# BEGIN roost\n10.0.0.1 old\n# END roost\n192.0.2.1 printer"
    new = names.merged(old, names.block([("10.0.0.2", "db")]))
    assert new == b"127.0.0.1 localhost\n192.0.2.1 printer\n# BEGIN roost\n10.0.0.2\tdb\n# END roost\n"
    assert names.merged(new, b"") == b"127.0.0.1 localhost\n192.0.2.1 printer\n"
    for text in (b"a\n# BEGIN roost\ntheirs", b"a\n# END roost\ntheirs", b"# BEGIN roost\ntheirs\n"):
        assert names.merged(text, b"") == text, "who has removed one mark keeps the lines"
        assert names.merged(names.merged(text, new), b"").startswith(text)


@given(
    st.binary(),
    st.lists(st.tuples(st.ip_addresses().map(str), st.from_regex(r"[a-z]{1,9}", fullmatch=True)), max_size=4),
)
def test_a_block_is_put_in_and_taken_out(old: bytes, entries: list[tuple[str, str]]) -> None:
    bare = names.merged(old, b"")
    block = names.block(entries)
    assert names.merged(names.merged(old, block), b"").rstrip(b"\n") == bare.rstrip(b"\n")
    assert names.merged(bare, block).endswith(block)


def test_the_servers_that_machines_ask(tmp_path: object) -> None:
    def write(path: str, text: str) -> None:
        import os

        os.makedirs(os.path.dirname(f"{tmp_path}/{path}"), exist_ok=True)
        with open(f"{tmp_path}/{path}", "w") as stream:
            stream.write(text)

    root = str(tmp_path)
    assert names.resolvers(root) == ([], "")
    write("etc/resolv.conf", "nameserver 127.0.0.53\nnameserver ::1\noptions edns0 trust-ad\n")
    assert names.resolvers(root) == ([], "127.0.0.53")
    assert names.resolv_conf(LINK, root) == b"nameserver 10.213.0.1\noptions edns0 trust-ad\n"
    write("run/NetworkManager/no-stub-resolv.conf", "nameserver 192.0.2.9\n")
    assert names.resolvers(root) == (["192.0.2.9"], "")
    write(
        "run/systemd/resolve/resolv.conf",
        "nameserver fe80::1%eth0\nnameserver 2001:DB8::1\nnameserver 192.0.2.53\nsearch example.org\n",
    )
    assert names.resolvers(root) == (["2001:db8::1", "192.0.2.53"], "")
    assert names.resolv_conf(LINK, root) == b"nameserver 2001:db8::1\nnameserver 192.0.2.53\nsearch example.org\n"
    write("etc/resolv.conf", "nameserver 192.0.2.1\n")
    assert names.resolvers(root) == (["192.0.2.1"], ""), "what the host itself asks"


def test_what_network_managers_in_a_machine_read() -> None:
    found = guests.files_for(LINK, ["192.0.2.53", "2001:db8::53"])
    assert sorted(found) == [
        "/run/NetworkManager/system-connections/roost-host0.nmconnection",
        "/run/systemd/network/10-roost-host0.network",
    ]
    networkd = found["/run/systemd/network/10-roost-host0.network"].decode().splitlines()
    for line in (
        "Name=host0",
        "Address=10.213.0.2/30",
        "Gateway=10.213.0.1",
        "Address=fd00:1::2/64",
        "Gateway=fd00:1::1",
        "DNS=192.0.2.53",
        "DHCP=no",
    ):
        assert line in networkd
    keyfile = found["/run/NetworkManager/system-connections/roost-host0.nmconnection"].decode().splitlines()
    for line in (
        "interface-name=host0",
        "address1=10.213.0.2/30,10.213.0.1",
        "address1=fd00:1::2/64,fd00:1::1",
        "dns=192.0.2.53;",
        "dns=2001:db8::53;",
    ):
        assert line in keyfile
    uuid = next(line for line in keyfile if line.startswith("uuid="))
    assert [len(part) for part in uuid.removeprefix("uuid=").split("-")] == [8, 4, 4, 4, 12]


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("[Match]\nName=en*\n[Network]\nDHCP=yes\n", False),
        ("[Match]\nName=*\n", True),
        ("[Match]\nType=ether\n", True),
        ("[Network]\nDHCP=yes\n", True),
        ("[Match]\nName=!en* ro-*\n", False),
        ("[Match]\nName=!en*\n", True),
        ("[Match]\nName=en* ro-*\n", True),
        ("[Match]\n#Name=en*\nKind=veth\n", True),
        ("[Match]\nMACAddress=02:00:00:00:00:01\n", False),
        ("[Match]\nName=ve-*\nDriver=veth\n", False),
    ],
)  # fmt: skip
def test_files_of_networkd_that_may_mean_a_link(text: str, matches: bool) -> None:
    assert managers.may_match(text) is matches


def test_the_files_of_managers_have_roost_in_their_names() -> None:
    for manager in managers.EVERY:
        for path, text in manager.files:
            assert "roost" in path.rpartition("/")[2]
            assert "ro-" in text or 'name="roost"' in text or manager is managers.NFTABLES


def test_both_families_have_the_same_rules() -> None:
    text = firewall.tables(bridge=False)
    for line in text.splitlines():
        if "ip saddr @isolated4" in line or "@members4" in line or "@allowed4" in line:
            assert line.replace("ip saddr", "ip6 saddr").replace("ip daddr", "ip6 daddr").replace("4", "6") in text, (
                line
            )


def test_elements_of_a_machine() -> None:
    own = NetworkTerms(
        isolated=True, publish=("8080:80", "127.0.0.1:22:22", "[::1]:22:22"), egress=("host:4444", "192.0.2.1:443")
    )
    found = firewall.elements_of(
        LINK, own, [terms.published(text) for text in own.publish], [Reach(addresses.Block(32, 0xC0000201, 32), "tcp", 443)],
        [("tcp", 4444), ("udp", 4444)], names=False, resolvers=["192.0.2.53"], local_resolver="",
    )  # fmt: skip
    for element in (
        'inet roost links { "ro-db" }', 'inet roost members6 { "ro-db" . fd00:1::2 }', "inet roost isolated4 { 10.213.0.2 }",
        "inet roost published4 { tcp . 8080 : 10.213.0.2 . 80 }", "inet roost published6 { tcp . 8080 : fd00:1::2 . 80 }",
        "inet roost published_at4 { 127.0.0.1 . tcp . 22 : 10.213.0.2 . 22 }",
        "inet roost published_at6 { ::1 . tcp . 22 : fd00:1::2 . 22 }",
        "inet roost allowed_ports4 { 10.213.0.2 . 192.0.2.1/32 . tcp . 443 }", "inet roost host_ports4 { 10.213.0.2 . udp . 4444 }",
    ):  # fmt: skip
        assert element in found, element
    assert not any("naming" in element for element in found)


def test_a_rule_for_a_firewall_of_somebody_else() -> None:
    text = others.insertion(others.Chain("ip", "filter", "FORWARD", "forward"))
    assert text.splitlines() == [
        'insert rule ip filter FORWARD iifname "ro-*" accept comment "roost"',
        'insert rule ip filter FORWARD oifname "ro-*" accept comment "roost"',
    ]
