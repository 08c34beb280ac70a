"""Roost's own nftables tables: what machines may do is in ``inet roost``, what they do on a bridge in ``bridge roost``.

The rules are the same for every machine; a machine is elements of their sets. So a link comes and goes without a rule
being touched, and all tables together are replaced in one transaction when somebody has removed them.
"""

from __future__ import annotations

from roost.errors import HostError
from roost.host import runner
from roost.network import others as other_firewalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from roost.definition.model import NetworkTerms
    from roost.network.records import Attached, Link, Terms
    from roost.network.terms import Port, Reach

TABLES = ("inet roost", "bridge roost")
_TIMEOUT = 30.0

_SETS = """
  set links { type ifname; }
  set members{n} { type ifname . {addr}; }
  set machines{n} { type {addr}; }
  set isolated{n} { type {addr}; }
  set limited{n} { type {addr}; }
  set naming{n} { type {addr}; }
  set resolvers{n} { type {addr}; }
  set allowed{n} { type {addr} . {addr}; flags interval; }
  set allowed_ports{n} { type {addr} . {addr} . inet_proto . inet_service; flags interval; }
  set host{n} { type {addr}; }
  set host_ports{n} { type {addr} . inet_proto . inet_service; }
  map published{n} { type inet_proto . inet_service : {addr} . inet_service; }
  map published_at{n} { type {addr} . inet_proto . inet_service : {addr} . inet_service; }
"""

# {ip} is the protocol, {n} the number in the names of its sets: each such line is there for IPv4 and for IPv6.
# guard: 127.0.0.0/8 is let in from links by route_localnet, for what the host sends to a published port of its own
# loopback; nobody else may use it. From there a packet is the gateway's, so that the answer comes back.
_CHAINS = """
  map resolver { type ipv4_addr : ipv4_addr; }
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname @links ip daddr 127.0.0.0/8 drop
    iifname @links ip saddr 127.0.0.0/8 drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname @links jump from_machine
    oifname @links jump to_machine
  }
  chain from_machine {
    meta nfproto {family} iifname . {ip} saddr != @members{n} drop
    ct state established,related accept
    ct state invalid drop
    oifname @links {ip} saddr @isolated{n} goto refuse
    oifname @links {ip} daddr @isolated{n} goto refuse
    {ip} saddr @limited{n} goto listed
    accept
  }
  chain listed {
    {ip} saddr . {ip} daddr @allowed{n} accept
    {ip} saddr . {ip} daddr . meta l4proto . th dport @allowed_ports{n} accept
    {ip} saddr @naming{n} {ip} daddr @resolvers{n} meta l4proto { tcp, udp } th dport 53 accept
    goto refuse
  }
  chain to_machine {
    ct state established,related accept
    ct status dnat accept
    drop
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname @links goto to_host
  }
  chain to_host {
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
    meta nfproto {family} iifname . {ip} saddr != @members{n} drop
    {ip} saddr @naming{n} {ip} daddr @resolvers{n} meta l4proto { tcp, udp } th dport 53 accept
    {ip} saddr @naming{n} ct status dnat meta l4proto { tcp, udp } th dport 53 accept
    {ip} saddr . meta l4proto . th dport @host_ports{n} accept
    {ip} saddr @host{n} accept
    goto refuse
  }
  chain refuse {
    reject with icmpx admin-prohibited
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    iifname @links ip saddr @naming4 meta l4proto { tcp, udp } th dport 53 dnat ip to ip daddr map @resolver
    fib daddr type local dnat {ip} to meta l4proto . th dport map @published{n}
    dnat {ip} to {ip} daddr . meta l4proto . th dport map @published_at{n}
  }
  chain from_host {
    type nat hook output priority -100; policy accept;
    {ip} daddr != {loopback} fib daddr type local dnat {ip} to meta l4proto . th dport map @published{n}
    ip daddr 127.0.0.1 dnat ip to meta l4proto . th dport map @published4
    dnat {ip} to {ip} daddr . meta l4proto . th dport map @published_at{n}
  }
  chain to_resolver {
    type nat hook input priority 100; policy accept;
    iifname @links ip daddr 127.0.0.0/8 snat ip to 127.0.0.1
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @links ip saddr 127.0.0.0/8 masquerade
    oifname @links {ip} saddr @machines{n} ct status dnat masquerade
    oifname != @links {ip} saddr @machines{n} masquerade
  }
"""

# A machine has all rights inside and could take its neighbour's address; what is on a bridge is not routed, so the
# other table does not see it.
_BRIDGE = """
  set ports { type ifname; }
  set alone { type ifname; }
  set sources4 { type ifname . ipv4_addr; }
  set sources6 { type ifname . ipv6_addr; }
  chain sent {
    type filter hook prerouting priority filter; policy accept;
    iifname @ports ether type ip iifname . ip saddr != @sources4 drop
    iifname @ports ether type arp iifname . arp saddr ip != @sources4 drop
    iifname @ports ether type ip6 ip6 saddr != { ::, fe80::/10 } iifname . ip6 saddr != @sources6 drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname @alone drop
    oifname @alone drop
  }
"""

_FAMILIES = (
    {"{n}": "4", "{ip}": "ip", "{addr}": "ipv4_addr", "{family}": "ipv4", "{loopback}": "127.0.0.0/8"},
    {"{n}": "6", "{ip}": "ip6", "{addr}": "ipv6_addr", "{family}": "ipv6", "{loopback}": "::1"},
)


def tables(*, bridge: bool) -> str:
    """The whole tables, without an element."""
    lines = "\n".join(_both(_SETS + _CHAINS))
    return f"table inet roost {{\n{lines}\n}}\n" + (f"table bridge roost {{{_BRIDGE}}}\n" if bridge else "")


def _both(template: str) -> Iterator[str]:
    for line in template.strip("\n").split("\n"):
        for family in _FAMILIES if any(word in line for word in _FAMILIES[0]) else _FAMILIES[:1]:
            text = line
            for word, value in family.items():
                text = text.replace(word, value)
            yield text


def chains() -> dict[str, int]:
    """The chains of ``inet roost``, each with how many rules it has."""
    found: dict[str, int] = {}
    name = ""
    for line in _both(_CHAINS):
        words = line.split()
        if words[0] == "chain":
            name = words[1]
            found[name] = 0
        elif line.startswith("    ") and words[0] != "type":
            found[name] += 1
    return found


def elements_of(
    link: Link, terms: NetworkTerms | Terms, ports: Iterable[Port], reach: Iterable[Reach], host_ports: Iterable[tuple[str, int]],
    *, names: bool, resolvers: Iterable[str], local_resolver: str,
) -> tuple[str, ...]:  # fmt: skip
    """All that makes a machine in the tables.

    ``host_ports`` are (protocol, port) of the host's own services that it may use, ("", 0) for all of them; ``names``
    says whether it may ask the ``resolvers``, and ``local_resolver`` is the host's own that stands behind the gateway.
    """
    device = link.device
    found = [f'inet roost links {{ "{device}" }}']
    host_ports = tuple(host_ports)
    for n, text in (("4", link.address), ("6", link.address6)):
        own = text.partition("/")[0]
        if not own:
            continue
        found += [f'inet roost members{n} {{ "{device}" . {own} }}', f"inet roost machines{n} {{ {own} }}"]
        found += [f"inet roost isolated{n} {{ {own} }}"] if terms.isolated else []
        found += [f"inet roost limited{n} {{ {own} }}"] if terms.egress is not None else []
        found += [f"inet roost naming{n} {{ {own} }}"] if names else []
        for protocol, port in host_ports:
            place = f"host_ports{n} {{ {own} . {protocol} . {port} }}" if port else f"host{n} {{ {own} }}"
            found.append(f"inet roost {place}")
        for port_ in ports:
            found += _publishing(n, own, port_)
        found += [f"inet roost resolvers{n} {{ {text} }}" for text in resolvers if (":" in text) == (n == "6")]
    found += reaching(link, reach)
    if local_resolver:
        found.append(f"inet roost resolver {{ {link.gateway} : {local_resolver} }}")
    if link.bridge:
        found += _on_bridge(link, alone=terms.isolated or terms.egress is not None)
    return tuple(found)


def reaching(link: Link, reach: Iterable[Reach]) -> list[str]:
    """The elements that let a machine reach what its list names."""
    found = []
    for one in reach:
        n, text = ("4", link.address) if one.block.bits == 32 else ("6", link.address6)
        if own := text.partition("/")[0]:
            place = f"allowed_ports{n} {{ {own} . {one.block} . {one.protocol} . {one.port} }}"
            found.append(f"inet roost {place if one.port else f'allowed{n} {{ {own} . {one.block} }}'}")
    return found


def reaching_anew(elements: Iterable[str], link: Link, reach: Iterable[Reach]) -> tuple[str, ...]:
    """A machine's elements with others of those."""
    return (*(text for text in elements if not text.startswith("inet roost allowed")), *reaching(link, reach))


def _publishing(n: str, own: str, port: Port) -> list[str]:
    key, value = f"{port.protocol} . {port.port}", f"{own} . {port.inside}"
    if not port.address:
        return [f"inet roost published{n} {{ {key} : {value} }}"]
    if (":" in port.address) != (n == "6"):
        return []
    return [f"inet roost published_at{n} {{ {port.address} . {key} : {value} }}"]


def _on_bridge(link: Link, *, alone: bool) -> list[str]:
    found = [f'bridge roost ports {{ "{link.interface}" }}']
    found += [f'bridge roost alone {{ "{link.interface}" }}'] if alone else []
    for n, text in (("4", link.address), ("6", link.address6)):
        found += [f'bridge roost sources{n} {{ "{link.interface}" . {text.partition("/")[0]} }}'] if text else []
    return found


def add(new: Attached, others: Iterable[Attached]) -> None:
    """Adds a link's elements to what is there, or makes all of it when it is not. Raises HostError."""
    others = tuple(others)
    if not others:  # nothing is there to be deleted, for which the kernel would wait
        done = _try(_create((new,)))
    else:
        known = {element for other in others for element in other.elements}
        text = "".join(f"add element {element}\n" for element in new.elements if element not in known)
        bridge = any(element.startswith("bridge") for element in new.elements)
        had_bridge = any(element.startswith("bridge") for element in known)
        done = (had_bridge or not bridge) and _try(text)
    if not done:
        replace((*others, new))


def remove(old: Attached, others: Iterable[Attached]) -> None:
    """Removes a link's elements that no other link has; with the last one, the tables. Raises HostError."""
    others = tuple(others)
    known = {element for other in others for element in other.elements}
    text = "".join(f"delete element {_key(element)}\n" for element in old.elements if element not in known)
    if not others or not _try(text):
        replace(others)


def is_there() -> bool:
    """Whether one of the tables is."""
    done = runner.run(runner.Command(argv=("nft", "list", "tables"), timeout=_TIMEOUT))
    return any(f"table {name}" in done.output.decode(errors="replace").splitlines() for name in TABLES)


def _key(element: str) -> str:
    """An element of a map is deleted by its key."""
    front, colon, _ = element.partition(" : ")
    return f"{front} }}" if colon else element


def replace(every: Iterable[Attached]) -> None:
    """Makes the tables anew, in one transaction; without a link there are none. Raises HostError."""
    every = tuple(every)
    text = "".join(f"add table {name}\ndelete table {name}\n" for name in TABLES) + (_create(every) if every else "")
    done = runner.run(runner.Command(argv=("nft", "-f", "-"), stdin=text.encode(), timeout=_TIMEOUT))
    if done.status:
        raise HostError(
            "the firewall of the host refused Roost's table",
            details=done.output.decode(errors="replace").strip()[-2000:],
            hint="`nft list ruleset` shows what is there; the kernel needs nf_tables with nat, reject and fib",
        )


def _create(every: Iterable[Attached]) -> str:
    """The tables with their elements, for where none of them is."""
    elements = list(dict.fromkeys(element for one in every for element in one.elements))
    bridge = any(element.startswith("bridge") for element in elements)
    created = "".join(f"create table {name}\n" for name in (TABLES if bridge else TABLES[:1]))
    return created + tables(bridge=bridge) + "".join(f"add element {element}\n" for element in elements)


def _try(text: str) -> bool:
    if not text:
        return True
    done = runner.run(runner.Command(argv=("nft", "-f", "-"), stdin=text.encode(), timeout=_TIMEOUT))
    return done.status == 0


def lacking(every: Iterable[Attached]) -> list[str]:
    """What the tables should have and do not: chains with all their rules, and each element of each link."""
    every = tuple(every)
    if not every:
        return []
    objects = [item for name in TABLES for item in other_firewalls.listing("table", *name.split())]
    rules: dict[str, int] = {}
    for item in objects:
        if "chain" in item and item["chain"]["family"] == "inet":
            rules.setdefault(item["chain"]["name"], 0)
        elif "rule" in item and item["rule"]["family"] == "inet":
            rules[item["rule"]["chain"]] = rules.get(item["rule"]["chain"], 0) + 1
    if not rules:
        return ["everything: there is no table inet roost"]
    found = [f"rules of the chain {name}" for name, count in chains().items() if rules.get(name, 0) < count]
    there = {key for item in objects for key in _keys_in(item)}
    wanted = dict.fromkeys(element for one in every for element in one.elements)
    return [*found, *(element for element in wanted if _plain(element) not in there)]


def _plain(element: str) -> str:
    """An element as ``_keys_in`` has it: a network of one address is that address."""
    return element.replace('"', "").replace("/32 ", " ").replace("/128 ", " ")


def _keys_in(item: dict[str, Any]) -> Iterator[str]:
    """The elements of a set or a map that nft lists, written as ``elements_of`` does."""
    for kind in ("set", "map"):
        for element in item.get(kind, {}).get("elem", ()):
            parts = element if isinstance(element, list) else [element]
            text = " : ".join(
                " . ".join(map(_word, part["concat"] if isinstance(part, dict) and "concat" in part else [part]))
                for part in parts
            )
            yield f"{item[kind]['family']} roost {item[kind]['name']} {{ {text} }}"


def _word(part: Any) -> str:
    if isinstance(part, dict) and "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    return str(part)


def needs_localnet(device: str, every: Iterable[Attached]) -> bool:
    """Whether the host's loopback has to do with a link: a port is published there, or its resolver is asked."""
    words = ("inet roost published4 ", "inet roost published_at4 { 127.", "inet roost resolver ")
    return any(element.startswith(words) for one in every if one.link.device == device for element in one.elements)
