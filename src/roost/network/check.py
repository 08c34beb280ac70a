"""Where a packet of a machine gets lost: each hop on its way out, in order, as it is now."""

from __future__ import annotations

import contextlib

from roost.network import firewall, managers, names, netlink, others, probes, sysctls
from roost.network.addresses import text_of
from roost.network.records import INSIDE, Attached, Hop, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_REPAIR = "`roost network repair` sets it again"


class Check:
    """The hops of one link, or those that all links share."""

    def __init__(self, every: list[Attached], link: Link | None, netns: int | None, root: str, *, told: bool) -> None:
        self._every = every
        self._link = link
        self._netns = netns
        self._root = root
        self._told = told
        self._own = next((one for one in every if link is not None and one.link.interface == link.interface), None)

    def hops(self) -> list[Hop]:
        """Every hop that can be judged: packets are sent only where nothing before is known to stop them."""
        looks: list[Callable[[], Hop | None]] = [
            self._attached, self._link_inside, self._addresses, self._routes, self._gateway, self._forwarding, self._table,
            self._egress, self._others, self._managers, self._way_out,
        ]  # fmt: skip
        found = [hop for look in looks if (hop := look()) is not None]
        for send in (self._answer, self._outside, self._names):
            if any(hop.state == "failed" for hop in found):
                break
            hop = send()
            found += [hop] if hop is not None else []
        return found

    def _attached(self) -> Hop | None:
        link = self._link
        if link is None or self._own is not None:
            return None
        return Hop("attached", "failed", f"{link.machine} has no link now", f"start it: `roost up {link.machine}`")

    def _link_inside(self) -> Hop | None:
        if self._link is None or self._netns is None:
            return None
        with netlink.inside(self._netns):
            inside = netlink.interfaces().get(INSIDE)
        outside = netlink.interfaces().get(self._link.interface)
        if inside is None:
            return Hop(
                "link",
                "failed",
                f"the machine has no interface {INSIDE}",
                f"restart it: `roost restart {self._link.machine}`",
            )
        if outside is None or inside.peer != outside.index:
            found = f"the other end of its {INSIDE} is not {self._link.interface}"
            return Hop("link", "failed", found, f"restart it: `roost restart {self._link.machine}`")
        for end in (inside, outside):
            if not end.running:
                return Hop("link", "failed", f"{end.name} is down", _REPAIR)
        return Hop("link", "ok", f"{INSIDE} is joined to {outside.name}")

    def _addresses(self) -> Hop | None:
        if self._link is None or self._netns is None:
            return None
        with netlink.inside(self._netns):
            found = _addresses_on(INSIDE)
        lacking = [text for text in (self._link.address, self._link.address6) if text and text not in found]
        if lacking:
            more = f", only {', '.join(sorted(found))}" if found else ""
            return Hop(
                "address", "failed", f"{INSIDE} in the machine does not have {', '.join(lacking)}{more}", _REPAIR
            )
        return Hop("address", "ok", " ".join(filter(None, (self._link.address, self._link.address6))))

    def _routes(self) -> Hop | None:
        if self._link is None or self._netns is None:
            return None
        with netlink.inside(self._netns):
            found = {text_of(route.block.bits, route.gateway) for route in _default_routes()}
        lacking = [text for text in (self._link.gateway, self._link.gateway6) if text and text not in found]
        if lacking:
            more = f", but to {', '.join(sorted(found))}" if found else ""
            return Hop(
                "route", "failed", f"the machine's default route does not lead to {', '.join(lacking)}{more}", _REPAIR
            )
        return Hop("route", "ok", f"by {self._link.gateway}")

    def _gateway(self) -> Hop | None:
        link = self._link
        if link is None or self._own is None:
            return None
        known = netlink.interfaces()
        device = known.get(link.device)
        if device is None or link.interface not in known:
            return Hop(
                "gateway",
                "failed",
                f"the host has no interface {link.device}",
                f"restart it: `roost restart {link.machine}`",
            )
        if link.bridge and known[link.interface].master != device.index:
            return Hop("gateway", "failed", f"{link.interface} is not on the bridge {link.bridge}", _REPAIR)
        found = {text.partition("/")[0] for text in _addresses_on(link.device)}
        lacking = [text for text in (link.gateway, link.gateway6) if text and text not in found]
        if lacking or not device.up:
            why = f"does not have {', '.join(lacking)}" if lacking else "is down"
            return Hop("gateway", "failed", f"{link.device} on the host {why}", _REPAIR)
        return Hop("gateway", "ok", f"{link.device} has {link.gateway}")

    def _answer(self) -> Hop | None:
        if self._link is None or self._netns is None or self._own is None:
            return None
        silent = [
            text for text in (self._link.gateway, self._link.gateway6) if text and not probes.echo(text, self._netns)
        ]
        if silent:
            return Hop(
                "host",
                "failed",
                f"the host does not answer the machine at {', '.join(silent)}",
                "see the hops around it",
            )
        return Hop("host", "ok", "answers the machine")

    def _forwarding(self) -> Hop:
        six = any(one.link.address6 for one in self._every)
        for name, value in sysctls.wanted(ipv6=six).items():
            if sysctls.read(name) != value:
                return Hop(
                    "forwarding",
                    "failed",
                    f"net.{name.replace('/', '.')} is {sysctls.read(name)}, not {value}",
                    _REPAIR,
                )
        return Hop("forwarding", "ok", "on")

    def _table(self) -> Hop:
        lacking = firewall.lacking(self._every)
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            return Hop("firewall", "failed", f"Roost's table lacks {'; '.join(lacking[:3])}{more}", _REPAIR)
        return Hop("firewall", "ok", "the table inet roost is whole" if self._every else "no link, no table")

    def _egress(self) -> Hop | None:
        """The list of one machine, or of all: whoever repairs the host's side looks every name up again."""
        every = self._every if self._link is None else [self._own] if self._own is not None else []
        unknown = list(dict.fromkeys(name for one in every for name in one.unknown))
        if not unknown:
            return None
        found = f"without an address, so not reached: {', '.join(unknown)}"
        return Hop("egress", "warning", found, f"see `getent ahosts {unknown[0]}`; {_REPAIR}")

    def _others(self) -> Hop:
        chains = others.blocking() if self._every else []
        if chains:
            told = "; ".join(
                others.insertion(chain).replace("insert", "nft insert").strip().replace("\n", "; ") for chain in chains
            )
            found = f"chains that drop what they do not know: {', '.join(map(str, chains))}"
            remedy = f"`roost network repair` names links there, or: {told}"
            return Hop(
                "other firewalls", "failed" if any(c.hook == "forward" for c in chains) else "warning", found, remedy
            )
        with contextlib.suppress(OSError), open("/proc/net/ip_tables_names", encoding="ascii") as stream:
            if "filter" in stream.read().split():
                return Hop(
                    "other firewalls",
                    "warning",
                    "rules of iptables-legacy, which nft does not see",
                    "see `iptables-legacy -S FORWARD`",
                )
        return Hop("other firewalls", "ok", "none in the way")

    def _managers(self) -> Hop | None:
        if not self._told or not any(not one.link.lent for one in self._every):
            return None
        lacking = managers.lacking(self._root)
        if lacking:
            found = ", ".join(f"{manager.name} has no /{path}" for manager, path in lacking)
            return Hop("network managers", "failed", found, _REPAIR)
        running = ", ".join(manager.name for manager in managers.running(self._root))
        return Hop("network managers", "ok", running or "none runs")

    def _way_out(self) -> Hop:
        ways = [route for route in _default_routes() if route.block.bits == 32]
        if not ways:
            return Hop(
                "way out", "failed", "the host has no default route", "connect the host: `ip route` shows its ways"
            )
        names_ = {interface.index: interface for interface in netlink.interfaces().values()}
        device = names_.get(ways[0].index)
        if device is None or not device.running:
            return Hop(
                "way out",
                "failed",
                f"{device.name if device else 'its interface'} is down",
                "connect the host: `ip link`",
            )
        return Hop("way out", "ok", f"by {device.name}")

    def _outside(self) -> Hop | None:
        """The first router outside: the machine's packet has come back through masquerading when it answers."""
        gateway = next((route.gateway for route in _default_routes() if route.block.bits == 32 and route.gateway), 0)
        if not gateway or self._restricted():
            return None
        address = text_of(32, gateway)
        inside = self._netns if self._own is not None else None
        if probes.echo(address, inside):
            return Hop("outside", "ok", f"{address} answers")
        if inside is not None and probes.echo(address, None):
            found = f"{address} answers the host, but not the machine"
            return Hop("outside", "failed", found, "`nft list ruleset` has all rules of the host")
        found = f"{address} does not answer the host"
        return Hop("outside", "warning", found, "it may not answer anybody; else see to the host's own network")

    def _names(self) -> Hop | None:
        usable, local = names.resolvers(self._root)
        if not usable and not local:
            return Hop("names", "failed", "the host has no server of names", "see /etc/resolv.conf of the host")
        if self._netns is None or self._own is None or self._link is None:
            servers, netns = usable or [local], None
        elif not any(" naming" in element for element in self._own.elements):
            return Hop("names", "ok", "not asked for: the egress list has no names")
        else:
            servers, netns = usable or [self._link.gateway], self._netns
        silent = [server for server in servers if not probes.asks(server, netns)]
        if len(silent) == len(servers):
            return Hop(
                "names",
                "failed",
                f"no answer from {', '.join(silent)}",
                "see /etc/resolv.conf of the host, and the hops above",
            )
        if silent:
            return Hop(
                "names",
                "warning",
                f"no answer from {', '.join(silent)}",
                "each question waits for it first, or the other way round",
            )
        return Hop("names", "ok", f"{', '.join(servers)} answers")

    def _restricted(self) -> bool:
        return self._own is not None and any(" limited" in element for element in self._own.elements)


def _default_routes() -> list[netlink.Route]:
    return [
        route for route in netlink.routes() if not route.block.length and route.table == netlink.MAIN and route.index
    ]


def _addresses_on(device: str) -> set[str]:
    interface = netlink.interfaces().get(device)
    index = interface.index if interface else -1
    return {f"{text_of(a.block.bits, a.value)}/{a.block.length}" for a in netlink.addresses() if a.index == index}
