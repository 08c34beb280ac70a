"""What a machine's unit runs on a host with systemd: mounts its tree, and becomes nspawn. No process of Roost's stays.

    python -m roost.boot enter STATE NAME     ExecStart= of systemd-nspawn@NAME.service
    python -m roost.boot attach STATE NAME $MAINPID     ExecStartPost=: the network, once the machine's init runs
    python -m roost.boot leave STATE NAME      ExecStopPost=: takes from the host what was the running machine's

The locks of the session and of its id range are kept by nspawn, and by systemd (its file descriptor store) while the unit
starts nspawn again: so whoever asks the store sees that the machine is in use. systemd alone would not do: it closes
them when somebody takes the drop-in away (`systemctl revert`) under a machine that runs.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from roost.boot import start, wiring
from roost.boot.leader import leader_of
from roost.boot.record import Records
from roost.boot.sessions import begin_anew
from roost.engine.launch import describe
from roost.errors import BusyError, HostError, of_os
from roost.host import files, idmap, runner, syscalls
from roost.host.ranges import FIRST, Range
from roost.store import Store

if TYPE_CHECKING:
    from roost.boot.record import Booted

IMAGES = "/var/lib/machines"  # where machinectl(1) looks for names
_REGISTERED = "/run/systemd/machines"  # systemd-machined's own records
_FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START


def enter(store: Store, record: Booted) -> None:
    """Becomes nspawn; returns only when it could not. Raises OSError or Error."""
    name = record.name
    kept = _kept_descriptors()
    if "lock" not in kept:
        lock = files.try_lock(f"{store.run}/locks/{name}")
        if lock is None:
            raise BusyError(f"{name} is in use", hint="`roost status` and `roost session list` say by whom")
        _keep("lock", lock)
        kept["lock"] = lock
    held = _range(store, record, kept) if record.private_users else None
    if record.boot.ephemeral:
        begin_anew(store, record)
    records = Records(store)
    records.make_run(name)
    spec = start.spec_of(store, record, held)
    start.private_mounts(new_processes=False)
    inside = start.mount_for(store, record, spec)
    directory = f"{IMAGES}/{name}"
    syscalls.mount("merged", directory, flags=syscalls.MS_BIND | syscalls.MS_REC)
    words = start.argv(record, spec, inside, directory=directory, systemd=True)
    records.set_running(name, os.getpid(), time.time())
    env = {**runner.child_env({}), **start.nspawn_environment(record, inside)}
    env |= {
        key: os.environ[key]
        for key in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "INVOCATION_ID")
        if key in os.environ
    }
    os.chdir("/")
    for lock in (kept["lock"], *([held.lock] if held else [])):
        os.set_inheritable(lock, True)  # noqa: FBT003  # by nspawn alone: it closes what it does not know in the machine
    os.execvpe("systemd-nspawn", words, env)  # noqa: S606


def _kept_descriptors() -> dict[str, int]:
    """What systemd has kept of this unit's last start (sd_pid_notify_with_fds(3), FDSTORE=1), by name."""
    count, owner = int(os.environ.get("LISTEN_FDS", "0")), os.environ.get("LISTEN_PID", "")
    if owner != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for number in range(count):
        os.set_inheritable(_FIRST_FD + number, False)  # noqa: FBT003  # its own
        found[names[number].removeprefix("roost-") if number < len(names) else str(number)] = _FIRST_FD + number
    return found


def _keep(name: str, fd: int) -> None:
    """Gives systemd a copy of a descriptor: a lock is held as long as any copy of its descriptor is open."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        raise HostError("NOTIFY_SOCKET is not set", hint="this is for the unit alone: `roost up`")
    import socket  # once for each machine that comes up: not when it starts again

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address[0] == "@" else address)
        socket.send_fds(channel, [f"FDSTORE=1\nFDNAME=roost-{name}".encode()], [fd])


def _range(store: Store, record: Booted, kept: dict[str, int]) -> Range:
    if "range" in kept:
        slot = int(os.path.basename(os.readlink(f"/proc/self/fd/{kept['range']}")))
        base = FIRST + slot * idmap.RANGE
        return Range(base, kept["range"], idmap.user_namespace(idmap.shifted(base), idmap.shifted(base)))
    held = store.ranges.take(record.name)
    _keep("range", held.lock)
    return held


def attach(store: Store, record: Booted, pid: int) -> None:
    """Connects the machine of the nspawn ``pid``. Raises Error."""
    leader = leader_of(pid)
    if leader is None:
        raise HostError(
            f"{record.name} has ended already", hint=f"`journalctl -u systemd-nspawn@{record.name}` says why"
        )
    wiring.attach(store, record, leader)


def leave(store: Store, record: Booted) -> None:
    """Takes from the host what belonged to the running machine."""
    if os.path.exists(f"{_REGISTERED}/{record.name}"):
        # nspawn was killed; machined keeps the name while the unit starts again, and nobody else may have it
        where = ("org.freedesktop.machine1", "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager")
        runner.run(
            runner.Command(
                argv=("busctl", "--quiet", "call", *where, "UnregisterMachine", "s", record.name), timeout=10
            )
        )
    link = wiring.known_link(store, record.name)
    if link is not None:
        wiring.detach(store, link)
    Records(store).end_run(record.name)
    if record.boot.ephemeral:
        store.discard(record.name)


def act(what: str, state: str, name: str, pid: int = 0) -> None:
    """What the unit asks for: "enter", "attach" (the machine of the nspawn ``pid``) or "leave". Raises Error."""
    store = Store(state or None)
    record = Records(store).read(name)
    store.prepare()  # /run is empty after a reboot
    try:
        if what == "enter":
            enter(store, record)
        elif what == "attach":
            attach(store, record, pid)
        else:
            leave(store, record)
    except OSError as e:
        raise (describe(e) if what == "enter" else of_os(e)) from e
