"""How a machine's container shall be, said once: as an nspawn file for a host with systemd, else as nspawn's options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.engine.spec import EMULATOR, REGISTRATION, emulated, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from roost.boot.record import Booted

INIT = "/run/roost-init"  # what the container starts: it fills /run, and becomes the machine's own init
GIVEN = "/run/roost-given"  # what it fills /run with
_SIGNALS = {"systemd": "SIGRTMIN+3", "busybox": "SIGUSR2", "other": "SIGPWR"}
"""Asks for an orderly end: systemd(1), SIGNALS; busybox's init.c; sysvinit and OpenRC take SIGPWR for a failing supply."""


POWER_OFF = {
    "/run/systemd/system/sigpwr.target": b"[Unit]\nDescription=End of the machine, asked for by the host\n"
    b"DefaultDependencies=no\nRequires=poweroff.target\nAfter=poweroff.target\n"
}
"""What an emulated systemd does upon SIGPWR, which starts this target: by itself nothing."""


class Setting(Struct, frozen=True):
    """One line of a section of systemd.nspawn(5), and the option of systemd-nspawn(1) that says the same."""

    section: str
    key: str
    value: str
    option: str


class Inside(Struct, frozen=True, kw_only=True):
    """What a start has to know of the tree: its ``init`` (systemd, busybox, other), and whether its /etc/resolv.conf is
    its own resolver's (then nothing is put above it). ``systemd``: the version of its systemd, 0 when it is not known."""

    init: str
    own_resolver: bool
    systemd: int = 0


def settings(record: Booted, here: str, inside: Inside, *, systemd: bool) -> list[Setting]:
    """All of a machine; ``here`` is where its files and its tree are mounted, ``systemd`` whether the host runs it."""
    personality = emulated(record.architecture, private_users=record.private_users).personality
    # an emulator has real-time signals of its own, and those of its program are others than the host's
    signal = "SIGPWR" if is_emulated(record, personality) and inside.init == "systemd" else _SIGNALS[inside.init]
    found = [
        Setting("Exec", "Boot", "no", ""),
        Setting("Exec", "Parameters", f"{INIT} --boot", ""),
        Setting("Exec", "KillSignal", signal, f"--kill-signal={signal}"),
        Setting("Exec", "Hostname", record.boot.hostname, f"--hostname={record.boot.hostname}"),
        Setting("Exec", "MachineID", record.uuid, f"--uuid={record.uuid}"),
        Setting("Exec", "ResolvConf", "off", "--resolv-conf=off"),
        Setting("Exec", "Timezone", "off", "--timezone=off"),
    ]
    journal = record.boot.link_journal if systemd else "no"
    found.append(Setting("Exec", "LinkJournal", journal, f"--link-journal={journal}"))
    if more := capabilities(record):
        found.append(Setting("Exec", "Capability", " ".join(more), f"--capability={','.join(more)}"))
    if record.no_new_privileges:
        found.append(Setting("Exec", "NoNewPrivileges", "yes", "--no-new-privileges=yes"))
    found += [_bind(f"{here}/init", INIT, read_only=True), _bind(f"{here}/given", GIVEN, read_only=True)]
    if personality:
        found.append(Setting("Exec", "Personality", personality, f"--personality={personality}"))
    elif is_emulated(record, personality):  # always: these lines are for each start, also one where the host runs its
        # programs itself. The files are empty then, and roost-init leaves the host's own binfmt_misc in place
        found += [
            _bind(f"{here}/emulator", EMULATOR, read_only=True),
            _bind(f"{here}/binfmt", REGISTRATION, read_only=True),
        ]
    found.append(_bind(f"{here}/hosts", "/etc/hosts"))
    if not inside.own_resolver:
        found.append(_bind(f"{here}/resolv.conf", "/etc/resolv.conf"))
    for number, bound in enumerate(record.binds):
        found.append(_bind(f"{here}/b{number}", bound.target, read_only=bound.read_only))
    found += [_bind(path, path) for path in devices(record)]
    if record.network == "host":
        found.append(Setting("Network", "VirtualEthernet", "no", ""))
    else:
        found.append(Setting("Network", "Private", "yes", "--private-network"))
    return found


def is_emulated(record: Booted, personality: str) -> bool:
    """Whether its programs are not run by the processor itself."""
    return bool(record.architecture) and not personality


def _bind(source: str, target: str, *, read_only: bool = False) -> Setting:
    key, option = ("BindReadOnly", "--bind-ro") if read_only else ("Bind", "--bind")
    value = f"{escape(source)}:{escape(target)}"
    return Setting("Files", key, value, f"{option}={value}")


def capabilities(record: Booted) -> tuple[str, ...]:
    """Beyond what nspawn leaves a machine; all of them to one that runs containers itself."""
    return ("all",) if record.boot.nested else record.capabilities


def devices(record: Booted) -> list[str]:
    """Nodes that containers inside a machine need: overlays and tunnels of their own."""
    wanted = ("/dev/fuse", "/dev/net/tun", "/dev/loop-control") if record.boot.nested else ()
    return [path for path in wanted if os.path.exists(path)]


def nspawn_file(found: Iterable[Setting]) -> str:
    """The text of /etc/systemd/nspawn/NAME.nspawn."""
    lines = ["# Written by `roost up`, which replaces it: change the machine's definition instead."]
    section = ""
    for item in sorted(found, key=lambda one: ("Exec", "Files", "Network").index(one.section)):
        if item.section != section:
            section = item.section
            lines += ["", f"[{section}]"]
        lines.append(f"{item.key}={item.value}")
    return "\n".join(lines) + "\n"


def options(found: Sequence[Setting]) -> list[str]:
    """The same for a command line."""
    return [item.option for item in found if item.option]


def environment(record: Booted, inside: Inside, *, unified: bool) -> dict[str, str]:
    """What nspawn itself is told by variables. ``unified``: the host has control groups v2 to give.

    A guest's systemd before 232 knows v1 only, and from 256 on v2 only (their NEWS); nspawn guesses with less. Where
    the host has both, one that runs machines itself keeps v1 as long as it can: all controllers are there.
    """
    env = {}
    least = 256 if record.boot.nested else 232
    if unified and (inside.systemd >= least or inside.init != "systemd"):
        env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    if record.boot.nested:
        # all of /proc/sys, or with a user namespace what nspawn lets one have: its network's
        env["SYSTEMD_NSPAWN_API_VFS_WRITABLE"] = "network" if record.private_users else "1"
        env["SYSTEMD_SECCOMP"] = "0"
    return env
