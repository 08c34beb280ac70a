"""The part of ``make bench`` about hosts with systemd: in a lab host, `roost up` beside `machinectl start` of the same tree.

Both until the machine's own systemd says that it is up; the pairs are taken in turn, as in ``tools.bench``.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from system.lab import Lab, LabHost

if TYPE_CHECKING:
    from collections.abc import Sequence

MACHINES = """
[machines.quiet]
boot = {}
network = { mode = "none" }

[machines.joined]
boot = {}

""" + "".join(f"[machines.m{number}]\nboot = {{}}\n" for number in range(10))
# What `machinectl clone` or a bootstrap gives: one plain tree. The ids in it are made the machine's by nspawn once.
STOCK = """
set -e
mkdir -p /var/lib/roost/plain /var/lib/machines/plain /etc/systemd/nspawn
for digest in $(roost plan quiet --json | python3 -c 'import json, sys; print(*(one["digest"] for one in json.load(sys.stdin)["layers"]))')
do cp -a /var/lib/roost/layers/$digest/tree/. /var/lib/roost/plain
done
mount --bind /var/lib/roost/plain /var/lib/machines/plain
printf '[Network]\\nVirtualEthernet=no\\nPrivate=yes\\n' > /etc/systemd/nspawn/plain.nspawn
"""
READY = "until systemctl -M {0} is-system-running --wait >/dev/null 2>&1; do sleep 0.005; done"
MOST = 150.0  # milliseconds that `roost up` may add


def milliseconds(host: LabHost, script: str) -> float:
    """How long a script takes in a host, by the host's own clock."""
    text = host.ok(
        f"began=$(date +%s%N); {script} >/dev/null 2>&1; echo $(( ($(date +%s%N) - began) / 1000 ))", timeout=120
    )
    return int(text) / 1000


def median(figures: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(figures)


def starts(host: LabHost, runs: int) -> None:
    """A made machine, from down to ready."""
    ours, joined, theirs = [], [], []
    for _ in range(runs + 1):
        ours.append(milliseconds(host, "roost up quiet"))
        host.ok("roost down quiet")
        joined.append(milliseconds(host, "roost up joined"))
        host.ok("roost down joined")
        theirs.append(milliseconds(host, f"machinectl start plain; {READY.format('plain')}"))
        host.ok(
            "machinectl poweroff plain; until [ $(systemctl is-active systemd-nspawn@plain) = inactive ]; do sleep 0.02; done"
        )
    a, b, c = median(ours[1:]), median(joined[1:]), median(theirs[1:])  # the first of each made what the others find
    verdict = "ok" if a - c <= MOST else "OVER"
    print(
        f"{'up until ready / machinectl start, without a network':58} {a:8.0f} {c:8.0f} ms {a - c:+7.0f}  <= {MOST:g} {verdict}"
    )
    print(f"{'up until ready, with a private network':58} {b:8.0f} {c:8.0f} ms {b - c:+7.0f}", flush=True)


def many(host: LabHost) -> None:
    """Ten machines with private networks, until the last is ready."""
    names = " ".join(f"m{number}" for number in range(10))
    host.ok(f"roost up {names}; roost down {names}", timeout=120)
    up = milliseconds(host, f"roost up {names}")
    down = milliseconds(host, f"roost down {names}")
    print(
        f"ten machines at once: up in {up / 1000:.1f} s, down in {down / 1000:.1f} s, {os.cpu_count()} processors",
        flush=True,
    )
    host.ok(f"roost down --remove {names}", timeout=120)


def measure(runs: int = 9) -> None:
    """All of it, in about a minute once the lab's layers are made."""
    cached = os.environ.get("ROOST_STATE", "/var/cache/roost-dev")
    with tempfile.TemporaryDirectory(prefix="roost-bench-", dir=os.path.dirname(cached)) as place:
        lab = Lab(place, cached, [])
        try:
            host = lab.host("bookworm")
            host.define(MACHINES)
            host.ok(STOCK, timeout=120)
            starts(host, runs)
            many(host)
        finally:
            lab.close()


if __name__ == "__main__":
    measure()
