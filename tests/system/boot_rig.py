"""Machines that boot on a host without systemd, in network namespaces of the tests' own."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from roost.network import netlink
from roost.records import LayerRecord
from roost.store import Store
from system.rig import Done, Rig, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from system.network_rig import Host

# a host whose /etc/hosts and /etc/resolv.conf may be changed; machines outlive the command, and keep these
OWN_FILES = 'mount --bind "$0/hosts" /etc/hosts; mount --bind "$0/resolv.conf" /etc/resolv.conf; exec "$@"'
BOOTY = "8" * 64
INITTAB = "::sysinit:/bin/sh /etc/rc\n::respawn:/bin/sleep 1000\n"
RC = "#!/bin/sh\necho booted on the console\ndate >> /var/boots\ntouch /run/ready\n"
# one that ends at once when it is asked to: busybox's own takes two seconds
QUICK_INIT = "#!/bin/sh\ntrap 'exit 0' PWR\n/bin/sh /etc/rc\nwhile :; do sleep 1000 & wait $!; done\n"
BOOT = """
[machines.tiny]
from = "layer:booty"
"""


class BootRig(Rig):
    """The command on such a host. ``booty`` is the layer ``tiny`` with busybox's init."""

    def __init__(self, state: str, directory: Path, host: Host, definition: str = BOOT) -> None:
        super().__init__(state, directory, definition)
        self.host = host

    def __call__(self, *words: str, **more: Any) -> Done:
        own = ("unshare", "--mount", "--propagation=private", "sh", "-c", OWN_FILES, f"{self.host.root}/etc")
        with netlink.inside(self.host.here.fd):
            return super().__call__(*words, prefix=own, **more)

    def up(self, *words: str) -> dict[str, Any]:
        """``roost up tiny`` and its outcome; it succeeds."""
        done = self("--json", "up", "tiny", *words)
        assert done.status == 0, done
        found: list[dict[str, Any]] = json.loads(done.out)
        return found[0]

    def status(self, machine: str = "tiny") -> dict[str, Any]:
        """``roost status`` of one."""
        found: list[dict[str, Any]] = self.json("status")
        return next(one for one in found if one["machine"] == machine)

    def inside(self, script: str, machine: str = "tiny", *options: str) -> Done:
        """``roost exec``."""
        return self("exec", machine, *options, "--", "sh", "-c", script)

    def nspawn(self, machine: str = "tiny") -> int:
        """nspawn's process id."""
        with open(f"{self.state}/run/booted/{machine}/run.json", encoding="ascii") as stream:
            found: int = json.load(stream)["pid"]
        return found

    def supervisor(self, machine: str = "tiny") -> int:
        """The supervisor's process id."""
        with open(f"{self.state}/run/booted/{machine}/supervisor", encoding="ascii") as stream:
            return int(stream.read().split()[0])

    def close(self) -> None:
        """No machine stays up."""
        self("down", "--remove", "*")
        wait_for(lambda: not os.path.isdir(f"{self.state}/run/booted") or not os.listdir(f"{self.state}/run/booted"))


def make_booty(state: str, *, name: str = "booty", digest: str = BOOTY, rc: str = "", quick: bool = False) -> None:
    """The committed layer ``booty``: what the layer ``tiny`` lacks to boot by busybox's init; ``rc`` is run last.

    ``quick``: its init is a script.
    """
    store = Store(state)
    tiny = store.layer(store.named("tiny"))
    record = LayerRecord(
        digest=digest, parents=(tiny.digest,), kind="committed", name=f"layer {name}", family="apt", facts={}, created=time.time()
    )  # fmt: skip
    with store.staged("stage") as stage:
        for directory in ("etc", "sbin", "var"):
            os.makedirs(f"{stage}/tree/{directory}")
        if quick:
            with open(
                os.open(f"{stage}/tree/sbin/init", os.O_WRONLY | os.O_CREAT, 0o755), "w", encoding="ascii"
            ) as stream:
                stream.write(QUICK_INIT)
        else:
            os.symlink("../bin/busybox", f"{stage}/tree/sbin/init")
        for path, text in {"etc/inittab": INITTAB, "etc/rc": RC + rc, "var/boots": ""}.items():
            with open(f"{stage}/tree/{path}", "w", encoding="ascii") as stream:
                stream.write(text)
        store.publish(stage, record)
    store.set_name(name, record.digest)
