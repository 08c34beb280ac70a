"""Machines on a host with systemd: what is written for each, and systemctl(1), which starts and ends it.

    /etc/systemd/nspawn/NAME.nspawn
    /etc/systemd/system/systemd-nspawn@NAME.service.d/50-roost.conf
    /var/lib/machines/NAME               an empty directory: machinectl knows names by it

Limits and administration are systemd's: `systemctl`, `machinectl` and `journalctl` work on these machines as on any other.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from roost.boot import start
from roost.boot.enter import IMAGES
from roost.boot.settings import nspawn_file, settings
from roost.errors import BusyError, HostError, StoreError
from roost.host import files, runner
from roost.network import managers

if TYPE_CHECKING:
    from roost.boot.record import Booted
    from roost.store import Store

NSPAWN = "/etc/systemd/nspawn"
SYSTEM = "/etc/systemd/system"
_MARK = "# Written by `roost up`"
_STATE = "# State directory: "
_ONLINE = f"{SYSTEM}/machines.target.d/50-roost.conf"
_ONLINE_TEXT = "# Written by Roost, for machines that come up with the host.\n[Unit]\nWants=network-online.target\n"
_ENOUGH = 30.0  # seconds beyond a machine's own times
_CLOSED = 5.0  # seconds until systemd has let go of a machine's locks


class Units:
    """Starts and ends machines by their units."""

    systemd = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def expect(self, _name: str) -> None:
        """Nothing of Roost's is running for a start."""

    def forget(self) -> None:
        """Nothing was begun."""

    def refuse(self, name: str) -> None:
        """Raises StoreError when somebody else's machine has the name."""
        for path in (_nspawn_file_of(name), _drop_in_of(name)):
            if (old := _read(path)) and not old.startswith(_MARK):
                raise StoreError(
                    f"{path} is there, and not Roost's", hint="move it away, or give the machine another name"
                )
        lines = _read(_drop_in_of(name)).splitlines()
        if lines and f"{_STATE}{self._store.state}" not in lines:
            other = next((line.removeprefix(_STATE) for line in lines if line.startswith(_STATE)), "")
            raise StoreError(
                f"this host has a machine {name} of another state directory: {other}",
                hint=f"give this one another name, or `roost --state {other} down --remove {name}`",
            )
        image = f"{IMAGES}/{name}"
        if files.names_in(image) or os.path.lexists(f"{image}.raw"):
            raise StoreError(
                f"{image} holds a machine that is not Roost's", hint=f"`machinectl remove {name}`, or another name"
            )
        known = os.path.isdir(f"{self._store.state}/booted/{name}")  # whoever took its drop-in away
        if not (lines or known) and (
            systemctl("is-enabled", "--quiet", unit_of(name), check=False).status == 0
            or _state(unit_of(name)) == "active"
        ):
            raise StoreError(
                f"{unit_of(name)} is somebody else's: it is enabled or runs", hint="give the machine another name"
            )

    def install(self, record: Booted) -> list[str]:
        """Writes a machine's files; those that changed. Raises StoreError as ``refuse`` does."""
        name = record.name
        self.refuse(name)
        inside = start.inside_of(self._store, record)
        found = settings(record, self._store.mount_point, inside, systemd=True)
        texts = {_nspawn_file_of(name): nspawn_file(found), _drop_in_of(name): drop_in(record, self._store.given)}
        changed = []
        for path, text in texts.items():
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            if _read(path) != text:
                files.write_atomic(path, text.encode(), durable=True)
                changed.append(path)
        with contextlib.suppress(FileExistsError):
            os.makedirs(f"{IMAGES}/{name}", mode=0o700)
        if (record.network == "private" and managers.write_afterwards()) or changed:
            systemctl("daemon-reload")
        return changed

    def uninstall(self, name: str) -> None:
        """Removes what ``install`` wrote."""
        for path in (_nspawn_file_of(name), _drop_in_of(name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        for directory in (f"{SYSTEM}/{unit_of(name)}.d", f"{IMAGES}/{name}"):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        managers.remove_afterwards()
        systemctl("reset-failed", unit_of(name), check=False)
        systemctl("daemon-reload")

    def start(self, record: Booted) -> None:
        """Starts the unit; returns when the machine's init runs and its network is up. Raises HostError."""
        unit = unit_of(record.name)
        # one that is active and is not known to be up has lost what it was started with: a start would do nothing
        done = systemctl("restart", unit, check=False, timeout=record.boot.timeout + _ENOUGH)
        if done.status != 0 and "repeated too quickly" in self.console(
            record.name, lines=5
        ):  # by itself, after crashes
            systemctl("reset-failed", unit)
            done = systemctl("restart", unit, check=False, timeout=record.boot.timeout + _ENOUGH)
        if done.status != 0:
            raise HostError(
                f"{record.name} did not start: {unit} failed",
                details="\n".join(filter(None, (self._errors(unit), self.console(record.name)))),
                hint=f"`systemctl status {unit}` and `journalctl -u {unit}` say more",
            )

    def _errors(self, unit: str) -> str:
        """What Roost's own programs said was wrong in the last start: after it the machine has said more on its console."""
        last = systemctl("show", "--property=InvocationID", "--value", unit, check=False).output.decode().strip()
        argv = (
            "journalctl",
            "--no-pager",
            "--quiet",
            "--output=cat",
            "--priority=err",
            f"_SYSTEMD_INVOCATION_ID={last}",
        )
        return (
            runner.run(runner.Command(argv=argv, timeout=20)).output.decode(errors="replace").rstrip() if last else ""
        )

    def settle(self, name: str) -> None:
        """Waits for a start that is under way; one that is about to follow an end or a crash is brought forward."""
        unit = unit_of(name)
        deadline = time.monotonic() + _ENOUGH
        while time.monotonic() < deadline and _state(unit) in ("activating", "deactivating"):
            systemctl("start", unit, check=False, timeout=_ENOUGH)  # an automatic restart cancels it: once more then

    def stop(self, record: Booted) -> None:
        """Stops the unit: an orderly end first, a firm one when its time is over."""
        timeout = record.boot.stop_timeout + _ENOUGH
        done = systemctl("stop", unit_of(record.name), check=False, timeout=timeout)
        if done.status != 0:
            raise BusyError(
                f"{record.name} does not stop",
                details=done.output.decode(errors="replace"),
                hint="`systemctl kill -s KILL`",
            )
        deadline = time.monotonic() + _CLOSED
        while self._store.is_alive(record.name) and time.monotonic() < deadline:
            time.sleep(0.005)  # systemd closes what it has kept in a thread of its own

    def is_enabled(self, name: str) -> bool:
        """Whether it comes up with the host."""
        return systemctl("is-enabled", "--quiet", unit_of(name), check=False).status == 0

    def enable(self, name: str) -> None:
        """Lets it come up with the host, once that is online: its name servers and routes are known then."""
        if _read(_ONLINE) != _ONLINE_TEXT:
            os.makedirs(os.path.dirname(_ONLINE), mode=0o755, exist_ok=True)
            files.write_atomic(_ONLINE, _ONLINE_TEXT.encode(), durable=True)
        systemctl("enable", "--quiet", "machines.target", unit_of(name))

    def disable(self, name: str) -> None:
        """The contrary of ``enable``; machines.target stays, others may need it."""
        systemctl("disable", "--quiet", unit_of(name))
        wanted = files.names_in(f"{SYSTEM}/machines.target.wants")
        if not any(os.path.exists(f"{SYSTEM}/{unit}.d/50-roost.conf") for unit in wanted):
            with contextlib.suppress(OSError):
                os.unlink(_ONLINE)
                os.rmdir(os.path.dirname(_ONLINE))
            systemctl("daemon-reload")

    def console(self, name: str, *, lines: int = 20) -> str:
        """The last lines that the unit said."""
        argv = ("journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", f"--unit={unit_of(name)}")
        return (
            runner.run(runner.Command(argv=argv, timeout=20)).output.decode(errors="replace").replace("\r", "").rstrip()
        )


def _nspawn_file_of(name: str) -> str:
    return f"{NSPAWN}/{name}.nspawn"


def _drop_in_of(name: str) -> str:
    return f"{SYSTEM}/{unit_of(name)}.d/50-roost.conf"


def unit_of(name: str) -> str:
    """The unit of a machine: systemd's own template."""
    return f"systemd-nspawn@{name}.service"


def _state(unit: str) -> str:
    done = systemctl("show", "--property=ActiveState", "--value", unit, check=False)
    return done.output.decode(errors="replace").strip()


def systemctl(*words: str, check: bool = True, timeout: float = 60.0) -> runner.Finished:
    """systemctl(1). Raises CommandError unless it succeeds or need not."""
    done = runner.run(runner.Command(argv=("systemctl", *words), timeout=timeout))
    return runner.check(done) if check else done


def drop_in(record: Booted, state: str) -> str:
    """50-roost.conf: what is different from systemd-nspawn@.service."""
    program, machine = f"{_word(sys.executable)} -I -m roost.boot", f"{_word(state)} {record.name}"
    state = state or "/var/lib/roost"
    lines = [
        f"{_MARK}, which replaces it: change the machine's definition instead.",
        f"{_STATE}{state}",
        "[Unit]",
        "After=network-online.target firewalld.service nftables.service NetworkManager.service systemd-networkd.service",
        "After=dbus.service systemd-machined.service",
        f"RequiresMountsFor={_path(state)} {_path(os.path.dirname(sys.executable))} {_path(os.path.dirname(__file__))}",
        "",
        "[Service]",
        "# mounts the layers and the machine's changes where only it sees them, then becomes systemd-nspawn",
        "ExecStart=",
        f"ExecStart={program} enter {machine}",
        *([f"ExecStartPost={program} attach {machine} $MAINPID"] if record.network == "private" else []),
        f"ExecStopPost={program} leave {machine}",
        "# the locks of its session and of its id range",
        "FileDescriptorStoreMax=4",
        "SyslogIdentifier=systemd-nspawn",
        "Restart=on-failure",
        "RestartSec=2",
        f"TimeoutStopSec={record.boot.stop_timeout:g}",
        *_limits(record),
    ]
    if record.boot.nested:
        lines += ["DevicePolicy=auto", "DeviceAllow="]
    return "\n".join(lines) + "\n"


def _path(text: str) -> str:
    """A path in a list of them, as systemd.syntax(7) and systemd.unit(5) have it: quoted, '%' begins a specifier."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if set(text) & set(" \t\"'\\;") else escaped


def _word(text: str) -> str:
    """A word of a command line, in which systemd would replace variables too (systemd.service(5))."""
    return _path(text).replace("$", "$$") or '""'


def _limits(record: Booted) -> list[str]:
    limits = record.limits
    found = []
    if limits.memory is not None:
        found += [f"MemoryMax={limits.memory}", "MemorySwapMax=0"]
    if limits.cpus is not None:
        found.append(f"CPUQuota={limits.cpus * 100:g}%")
    if limits.tasks is not None:
        found.append(f"TasksMax={limits.tasks}")
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def booted() -> bool:
    """Whether systemd is this host's init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")
