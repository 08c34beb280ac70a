"""What network managers inside a machine read, so that they agree with what is set from outside."""

from __future__ import annotations

from roost.network.links import mac_of
from roost.network.records import INSIDE, Link

_NETWORKD = "/run/systemd/network/10-roost-host0.network"
_MANAGER = "/run/NetworkManager/system-connections/roost-host0.nmconnection"


def files_for(link: Link, servers: list[str]) -> dict[str, bytes]:
    """Paths in the machine below /run, with their content. NetworkManager's has to be readable by root alone (0600)."""
    return {_NETWORKD: _networkd(link, servers).encode(), _MANAGER: _network_manager(link, servers).encode()}


def _networkd(link: Link, servers: list[str]) -> str:
    """systemd.network(5). What is there already is kept, also when the machine's networkd is restarted."""
    lines = [
        "# Written by Roost: the network of this machine is set up from outside, and this is what it is.",
        "[Match]", f"Name={INSIDE}", "", "[Link]", "RequiredForOnline=yes", "", "[Network]", "DHCP=no", "IPv6AcceptRA=no",
        "LinkLocalAddressing=ipv6", "KeepConfiguration=yes", f"Address={link.address}", f"Gateway={link.gateway}",
        *([f"Gateway={link.gateway6}"] if link.address6 else []), *(f"DNS={server}" for server in servers),
        # nobody else has it, and who connects meanwhile would wait for seconds
        *(["", "[Address]", f"Address={link.address6}", "DuplicateAddressDetection=none"] if link.address6 else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _network_manager(link: Link, servers: list[str]) -> str:
    """nm-settings-keyfile(5)."""
    four, six = [text for text in servers if ":" not in text], [text for text in servers if ":" in text]
    lines = [
        "# Written by Roost: the network of this machine is set up from outside, and this is what it is.",
        "[connection]", "id=roost-host0", f"uuid={_uuid(link)}", "type=ethernet", f"interface-name={INSIDE}", "autoconnect=true", "",
        "[ethernet]", "", "[ipv4]", "method=manual", f"address1={link.address},{link.gateway}",
        *([f"dns={''.join(f'{text};' for text in four)}"] if four else []), "", "[ipv6]",
        *(["method=manual", "may-fail=true", f"address1={link.address6},{link.gateway6}"] if link.address6 else ["method=link-local"]),
        *([f"dns={''.join(f'{text};' for text in six)}"] if six and link.address6 else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _uuid(link: Link) -> str:
    """One that stays the same for a machine."""
    word = (mac_of(link.machine, "uuid") + mac_of(link.machine, "again") + mac_of(link.machine, "more")).replace(
        ":", ""
    )
    return f"{word[:8]}-{word[8:12]}-4{word[13:16]}-8{word[17:20]}-{word[20:32]}"
