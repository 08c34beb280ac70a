"""Private networks on hosts with systemd, beside each network manager and firewall that hosts have: real connections."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from system.lab import LabHost

UPLINK, FAR = "198.51.100.1", "198.51.100.2"
MACHINES = """
[machines.web]
boot = { enable = true }
network = { publish = ["8080:80"] }

[machines.client]
boot = { enable = true }

[machines.alone]
boot = { enable = true }
network = { isolated = true }
"""
# What is behind the host: it knows no way back, so that only NAT can work. It says who is seen to have called.
_WAN = {
    "/root/wan": f"""#!/bin/sh
umount /etc/resolv.conf; ip link del wan0; ip netns del wan
set -e
ip netns add wan
ip link add wan0 type veth peer name far0 netns wan
ip -n wan link set lo up
ip -n wan address add {FAR}/24 dev far0
ip -n wan link set far0 up
""",
    "/etc/systemd/system/wan.service": """[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup.service
Before=network-pre.target systemd-networkd.service NetworkManager.service uplink.service
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /root/wan
[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/wan-names.service": f"""[Unit]
BindsTo=wan.service
After=wan.service
[Service]
NetworkNamespacePath=/run/netns/wan
ExecStart=/usr/sbin/dnsmasq --keep-in-foreground --user=root --conf-file=/dev/null --no-resolv --no-hosts --address=/git.example/{FAR}
[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/wan-door.service": """[Unit]
BindsTo=wan.service
After=wan.service
[Service]
NetworkNamespacePath=/run/netns/wan
ExecStart=/usr/bin/socat TCP-LISTEN:8080,fork,reuseaddr "SYSTEM:echo $$SOCAT_PEERADDR"
[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/own-door.service": """[Service]
ExecStart=/usr/bin/socat TCP-LISTEN:9999,fork,reuseaddr "SYSTEM:echo the host"
[Install]
WantedBy=multi-user.target
""",
}
_UNITS = "wan.service wan-names.service wan-door.service own-door.service"
# The uplink of a host that sets it up by a script of its own.
_PLAIN = {
    "/etc/systemd/system/uplink.service": f"""[Unit]
After=wan.service
Requires=wan.service
Before=network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip address add {UPLINK}/24 dev wan0; ip link set wan0 up; ip route add default via {FAR}'
[Install]
WantedBy=multi-user.target
""",
    "/etc/resolv.conf": f"nameserver {FAR}\n",
}


class Stack(NamedTuple):
    """What manages a host's network: its files, its units, and what its administrators do while machines run."""

    files: dict[str, str]
    units: str
    meddling: tuple[str, ...]


STACKS = {
    "networkd": Stack(
        {
            "/etc/systemd/network/20-wan.network": (
                f"[Match]\nName=wan0\n[Network]\nAddress={UPLINK}/24\nGateway={FAR}\nDNS={FAR}\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
            ),
            "/etc/resolv.conf": "",
        },
        "systemd-networkd.service",
        ("networkctl reload", "systemctl restart systemd-networkd"),
    ),
    "NetworkManager": Stack(
        {
            "/etc/NetworkManager/conf.d/wan.conf": (
                "[main]\ndns=default\nrc-manager=file\n[device-wan]\nmatch-device=interface-name:wan0\nmanaged=1\n"
            ),
            "/etc/NetworkManager/system-connections/wan0.nmconnection": (
                "[connection]\nid=wan0\ntype=ethernet\ninterface-name=wan0\n"
                f"[ipv4]\nmethod=manual\naddress1={UPLINK}/24,{FAR}\ndns={FAR};\n[ipv6]\nmethod=disabled\n"
            ),
        },
        "NetworkManager.service firewalld.service",
        ("systemctl restart NetworkManager", "firewall-cmd --reload", "systemctl restart firewalld"),
    ),
    "firewalld": Stack(_PLAIN, "uplink.service firewalld.service", ("firewall-cmd --complete-reload",)),
    "nftables": Stack(
        _PLAIN, "uplink.service nftables.service", ("systemctl restart nftables", "systemctl reload nftables")
    ),
}


@contextlib.contextmanager
def stack(host: LabHost, name: str) -> Iterator[Stack]:
    """A host whose network is managed so; afterwards it has none again."""
    found = STACKS[name]
    files = _WAN | found.files
    try:
        host("umount /etc/resolv.conf; rm -f /etc/resolv.conf")
        for path, text in files.items():
            host.put(path, text)
        host.ok("chmod -f 600 /etc/NetworkManager/system-connections/*; systemctl daemon-reload")
        if name == "networkd":
            host.ok("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
        else:
            host.ok("systemctl disable --now --quiet systemd-resolved")
        host.ok(f"systemctl enable --quiet {_UNITS} {found.units}; systemctl restart {_UNITS} {found.units}")
        host.ok(
            f"until ip route get {FAR} 2>&1 | grep -q wan0 && getent hosts git.example; do sleep 0.05; done", timeout=20
        )
        if "firewalld" in found.units:
            host.ok("until firewall-cmd --state; do sleep 0.05; done", timeout=20)
        yield found
    finally:
        host(
            f"systemctl disable --now --quiet {found.units} {_UNITS}; systemctl stop systemd-networkd.socket systemd-networkd"
        )
        host(
            f"systemctl enable --now --quiet systemd-resolved; ip link del wan0; ip netns del wan; rm -f {' '.join(files)}"
        )
        host("systemctl daemon-reload")


def said(host: LabHost, calls: dict[str, tuple[str, str, int]]) -> dict[str, str]:
    """What is said at the other ends of connections: (from where, address, port), all at once; nothing where there is none.

    From where: the host, outside (wan), or a machine.
    """
    lines = ["cd $(mktemp -d)"]
    for number, (where, address, port) in enumerate(calls.values()):
        front = {"host": "", "wan": "nsenter --net=/run/netns/wan"}.get(
            where, f"nsenter --all --target $(machinectl show {where} -p Leader --value)"
        )
        lines.append(
            f"{front} timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{port} && cat <&3' >{number} 2>/dev/null &"
        )
    lines.append(f'wait; for number in $(seq 0 {len(calls) - 1}); do echo "$(cat $number)"; done; rm -r $PWD')
    return dict(zip(calls, host.ok("\n".join(lines)).split("\n"), strict=True))


def address_of(host: LabHost, name: str) -> str:
    """A machine's address, as the host finds it."""
    return host.ok(f"getent ahostsv4 {name} | head -1 | cut -d' ' -f1")


def open_doors(host: LabHost) -> None:
    """Lets two machines listen, and waits until they do."""
    for name in ("web", "alone"):
        host.ok(f"systemd-run -M {name} --quiet socat TCP-LISTEN:80,fork,reuseaddr 'SYSTEM:echo $$SOCAT_PEERADDR'")
        door = f"exec 3<>/dev/tcp/{address_of(host, name)}/80"
        host.ok(f"until timeout 1 bash -c '{door}' 2>/dev/null; do sleep 0.05; done", timeout=20)


def expect_all(host: LabHost) -> None:
    """NAT, names, published ports, isolation, and no way in."""
    web, client = address_of(host, "web"), address_of(host, "client")
    gateway = host.ok("roost exec client -- ip -4 route show default").split()[2]
    found = said(
        host,
        {
            "to a machine by its name": ("client", "web", 80),
            "out by address": ("client", FAR, 8080),
            "out by name": ("client", "git.example", 8080),
            "out of the isolated one": ("alone", FAR, 8080),
            "from the host by its name": ("host", "web", 80),
            "in by a published port": ("wan", UPLINK, 8080),
            "in by a route": ("wan", web, 80),
            "to the host": ("client", gateway, 9999),
            "to the isolated one": ("client", "alone", 80),
            "from the isolated one": ("alone", "web", 80),
            "the end": ("host", "127.0.0.1", 9999),
        },
    )
    assert found.pop("from the host by its name")
    assert found.pop("in by a published port")
    assert found == {
        "to a machine by its name": client,
        "out by address": UPLINK,
        "out by name": UPLINK,
        "out of the isolated one": UPLINK,
        "in by a route": "",
        "to the host": "",
        "to the isolated one": "",
        "from the isolated one": "",
        "the end": "the host",
    }


def expect_agreement(host: LabHost) -> None:
    """The machine's own networkd has read what is set from outside, and calls it configured."""
    host.ok("roost exec client -- systemctl restart systemd-networkd")
    shown = "roost exec client -- networkctl --no-pager status host0"
    host.ok(f"until {shown} | grep -q '(configured)'; do sleep 0.1; done", timeout=20)
    assert "/run/systemd/network/10-roost-host0.network" in host.ok(shown)


@pytest.mark.parametrize(
    ("host", "name"),
    [("bookworm", "networkd"), ("trixie", "NetworkManager"), ("sid", "firewalld"), ("bookworm", "nftables")],
    indirect=["host"],
)
def test_machines_reach_what_they_may_beside_what_manages_the_network(host: LabHost, name: str) -> None:
    before = host.ok("nft list ruleset | wc -l; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward")
    with stack(host, name) as found:
        quiet = host.ok("nft -s list ruleset | sed 's/counter packets.*bytes [0-9]*//' | sort")
        host.define(MACHINES)
        host.roost("up", "web", "client", "alone")
        expect_agreement(host)
        open_doors(host)
        host.ok(f"ip -n wan route add {address_of(host, 'web')} via {UPLINK}")
        expect_all(host)
        for meddle in found.meddling:
            host.ok(meddle)
            host.roost("network", "check")
        expect_all(host)
        assert "Traceback" not in host.ok("journalctl --boot --no-pager --quiet -u nftables.service")
        host.ok("nft flush ruleset")
        assert "inet roost" in host.roost("network", "check", status=1).text
        host.roost("network", "repair")
        host.roost("network", "check")
        expect_all(host)
        host.reboot()
        for machine in ("web", "client", "alone"):
            host.ok(f"until systemctl -M {machine} is-system-running --wait 2>/dev/null; do sleep 0.05; done")
        open_doors(host)
        host.ok(f"ip -n wan route add {address_of(host, 'web')} via {UPLINK}")
        expect_all(host)
        host.roost("down", "web", "client", "alone", "--remove")
        assert host.left() == ""
        assert host.ok("nft -s list ruleset | sed 's/counter packets.*bytes [0-9]*//' | sort") == quiet
    assert host.ok("nft list ruleset | wc -l; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward") == before
