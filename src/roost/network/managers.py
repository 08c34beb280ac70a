"""The host's own network managers, told to leave links alone and to let them through; found by looking at what runs.

Each is a few files with roost in their names, and a command that has it read them again. The files are there as long as
a link is. What links need is set up by Roost itself: these only have to keep out of the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys

from roost.errors import HostError
from roost.host import files, netns, runner
from roost.network import writing
from roost.network.records import PREFIX
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TIMEOUT = 60.0
_GROUPS = ("sys/fs/cgroup", "sys/fs/cgroup/systemd", "sys/fs/cgroup/unified")
_SECTIONS = ("etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network", "lib/systemd/network")

_UNITS = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


class Manager(Struct, frozen=True):
    """A network manager: the ``unit`` it runs as, ``files`` by path (without the first /), how it is made to read them."""

    name: str
    unit: str
    files: tuple[tuple[str, str], ...]
    reload: tuple[str, ...]


_UNMANAGED = f"""\
# Roost sets these interfaces up itself.
[Match]
Name={PREFIX}*

[Link]
Unmanaged=yes
"""
_KEYFILE = f"""\
# Roost sets these interfaces up itself.
[keyfile]
unmanaged-devices+=interface-name:{PREFIX}*
"""
# firewalld.zone(5), firewalld.policies(5). Its rules and Roost's are both asked, and one refusal is enough: what machines
# may do is in Roost's table.
_ZONE = f"""\
<?xml version="1.0" encoding="utf-8"?>
<zone target="ACCEPT">
  <short>roost</short>
  <description>Machines of Roost. The nftables table inet roost says what they may do.</description>
  <interface name="{PREFIX}+"/>
</zone>
"""
_POLICY = """\
<?xml version="1.0" encoding="utf-8"?>
<policy target="ACCEPT">
  <short>roost</short>
  <description>Machines of Roost. The nftables table inet roost says what they may do.</description>
  <ingress-zone name="{}"/>
  <egress-zone name="{}"/>
</policy>
"""
# for nothing where no link is, and then not even a Python is started: nftables.service runs early in a host's boot
_AGAIN = (
    f"-/bin/sh -c 'ls -d {netns.TOP}/network* >/dev/null 2>&1 || exit 0; exec \"$0\" -I -m roost.network'"
    f" {shlex.quote(sys.executable)}"
)
_AFTERWARDS = f"""\
# Roost's table is made again when nftables.service has flushed all of them.
[Service]
ExecStartPost={_AGAIN}
ExecReload={_AGAIN}
"""
# what firewall-cmd does, which is a Python program and takes ten times as long
_FIREWALLD = ("busctl", "call", "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1")
NETWORKD = Manager(
    "systemd-networkd",
    "systemd-networkd.service",
    (("run/systemd/network/10-roost.network", _UNMANAGED),),
    ("networkctl", "reload"),
)
NETWORK_MANAGER = Manager(
    "NetworkManager",
    "NetworkManager.service",
    (("run/NetworkManager/conf.d/90-roost.conf", _KEYFILE),),
    ("nmcli", "general", "reload", "conf"),
)
FIREWALLD = Manager(
    "firewalld",
    "firewalld.service",
    (
        ("etc/firewalld/zones/roost.xml", _ZONE),
        ("etc/firewalld/policies/roost-out.xml", _POLICY.format("roost", "ANY")),
        ("etc/firewalld/policies/roost-in.xml", _POLICY.format("ANY", "roost")),
    ),
    (*_FIREWALLD, "org.fedoraproject.FirewallD1", "reload"),
)
# loads rules and ends: what its file begins with, `flush ruleset`, takes everybody's tables
NFTABLES = Manager(
    "nftables.service",
    "nftables.service",
    (("etc/systemd/system/nftables.service.d/50-roost.conf", _AFTERWARDS),),
    ("systemctl", "daemon-reload"),
)
EVERY = (NETWORKD, NETWORK_MANAGER, FIREWALLD, NFTABLES)


def running(root: str) -> list[Manager]:
    """Those that run, as the control groups of their units tell: asking them would take a process each.

    nftables.service has no process: it may be started where systemd runs and knows it.
    """
    found = [manager for manager in EVERY if any(_has_processes(f"{root}/{top}", manager.unit) for top in _GROUPS)]
    return [*found, NFTABLES] if _has_nftables(root) else found


def _has_nftables(root: str) -> bool:
    known = any(os.path.lexists(f"{root}/{directory}/{NFTABLES.unit}") for directory in _UNITS)
    return known and os.path.isdir(f"{root}/run/systemd/system")


def write_afterwards(root: str = "") -> bool:
    """Writes what nftables.service is told, where systemd knows it; whether systemd has to read its units again.

    That takes longer than a link: who writes a machine's unit does it there, and no start of the machine has to.
    """
    return _has_nftables(root) and bool(_write(NFTABLES, root))


def remove_afterwards(root: str = "") -> None:
    """Removes it, unless a machine has a unit yet. Missing is fine."""
    with _lock(root):
        if not _has_units(root):
            _remove(NFTABLES, root)


@contextlib.contextmanager
def _lock(root: str) -> Iterator[None]:
    """Machines come and go side by side, and with them what the managers read: one at a time writes it.

    The directory of units itself is what is locked: nothing of it can be left behind.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"{root}/etc/systemd/system", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def _write(manager: Manager, root: str) -> list[str]:
    """Writes what a manager reads; the paths of what was not there."""
    with _lock(root):
        changed = [(path, text) for path, text in manager.files if _content(f"{root}/{path}") != text]
        for path, text in changed:
            os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
            writing.write(f"{root}/{path}", text.encode())
        return [path for path, _ in changed]


def _has_units(root: str) -> bool:
    """Whether a machine's unit is written, of whichever store: it needs no link to be there."""
    top = f"{root}/etc/systemd/system"
    units = (name for name in files.names_in(top) if name.startswith("systemd-nspawn@"))
    return any(os.path.lexists(f"{top}/{name}/50-roost.conf") for name in units)


def _remove(manager: Manager, root: str) -> None:
    for path, _ in manager.files:
        writing.remove(f"{root}/{path}")
        if os.path.dirname(path).endswith(".d"):  # of a unit: nobody else has made it, unless it has more
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(f"{root}/{path}"))


def _has_processes(top: str, unit: str) -> bool:
    try:
        with open(f"{top}/system.slice/{unit}/cgroup.procs", "rb") as stream:
            return bool(stream.read(1))
    except OSError:
        return False


def concern_us(root: str) -> bool:
    """Whether our network is the one that the host's managers see."""
    try:
        return bool(root) or os.path.samestat(os.stat("/proc/1/ns/net"), os.stat("/proc/self/ns/net"))
    except OSError:
        return False


def needed(manager: Manager, root: str, *, lent: bool, bridge: bool) -> bool:
    """Whether a manager has to be told of a link.

    A throwaway session's comes and goes with a command: networkd matters only where one of its files speaks of every
    interface, NetworkManager leaves each veth alone (its udev rule 85-nm-unmanaged), but not bridges, and firewalld has
    a quicker way (``trust``). Having systemd read its units again would take longer than many a run.
    """
    if not lent:
        return True
    if manager in (FIREWALLD, NFTABLES):
        return False
    return bridge if manager is NETWORK_MANAGER else _matched_by_another(root)


def _matched_by_another(root: str) -> bool:
    for directory in _SECTIONS:
        for name in files.names_in(f"{root}/{directory}"):
            if name.endswith(".network") and "roost" not in name:
                with (
                    contextlib.suppress(OSError),
                    open(f"{root}/{directory}/{name}", encoding="utf-8", errors="replace") as stream,
                ):
                    if may_match(stream.read()):
                        return True
    return False


def may_match(text: str) -> bool:
    """Whether the [Match] section of a systemd.network(5) file may mean a link: when in doubt, it may."""
    import fnmatch  # which loads re

    section, names, others = "", [], 0
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Match]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            names += value.split() if key.strip() == "Name" else []
            others += key.strip() in ("MACAddress", "PermanentMACAddress", "Path", "SSID", "BSSID", "WLANInterfaceType")
    if others:
        return False
    if not names:
        return True
    if names[0].startswith("!"):
        return not any(fnmatch.fnmatchcase(f"{PREFIX}x", name.lstrip("!")) for name in names)
    return any(fnmatch.fnmatchcase(f"{PREFIX}x", name) or name.startswith(PREFIX) for name in names)


def tell(found: Iterable[Manager], root: str) -> None:
    """Writes what they read, and has each read it unless it was there. Raises HostError.

    Below a ``root`` of somebody's own are only files: whoever runs there reads them when it starts.
    """
    for manager in found:
        if _write(manager, root) and not root:
            _ask(manager, manager.reload)


def trust(memory: str, root: str) -> None:
    """Links are in firewalld's zone for what is trusted, until it is restarted; noted in the file ``memory``.

    For throwaway sessions alone: reading a zone of their own would take longer than many a run. Raises HostError.
    """
    if FIREWALLD in running(root) and not os.path.lexists(f"{root}/{FIREWALLD.files[0][0]}"):
        writing.write(memory, b"firewalld\n", mode=0o600)
        if not root:
            _ask(FIREWALLD, _trusted("addInterface"), "ZONE_ALREADY_SET")


def distrust(memory: str, root: str) -> None:
    """Takes links out of that zone. Raises HostError."""
    if os.path.lexists(memory):
        if not root and FIREWALLD in running(root):
            _ask(FIREWALLD, _trusted("removeInterface"), "UNKNOWN_INTERFACE")
        writing.remove(memory)


def _trusted(what: str) -> tuple[str, ...]:
    return (*_FIREWALLD, "org.fedoraproject.FirewallD1.zone", what, "ss", "trusted", f"{PREFIX}+")


def lacking(root: str) -> list[tuple[Manager, str]]:
    """(manager, path) of what those that run should have been told, and was not."""
    return [(m, path) for m in running(root) for path, text in m.files if _content(f"{root}/{path}") != text]


def told(root: str) -> bool:
    """Whether something is there that they were told."""
    return any(os.path.lexists(f"{root}/{path}") for manager in _of_links(root) for path, _ in manager.files)


def _of_links(root: str) -> list[Manager]:
    """Those whose files are there for links alone."""
    return [manager for manager in EVERY if manager is not NFTABLES or not _has_units(root)]


def withdraw(root: str) -> None:
    """Removes all that they were told of links; those that run read it again. Raises HostError."""
    for manager in _of_links(root):
        there = [path for path, _ in manager.files if os.path.lexists(f"{root}/{path}")]
        _remove(manager, root)
        if there and not root and manager in running(root):
            _ask(manager, manager.reload)


def _ask(manager: Manager, argv: tuple[str, ...], but: str = "") -> None:
    """Tells a manager something; ``but`` is a word of the answer that is as good as none. Raises HostError."""
    done = runner.run(runner.Command(argv=argv, timeout=_TIMEOUT))
    if done.status and (not but or but.encode() not in done.output):
        raise HostError(
            f"{manager.name} could not be told of Roost's interfaces",
            details=done.output.decode(errors="replace").strip()[-2000:],
            hint=f"try `{' '.join(argv)}`, or stop {manager.name} if it is not what sets the network up",
        )


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None
