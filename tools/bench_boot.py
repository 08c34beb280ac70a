"""The part of ``make bench`` about machines that boot: until ready against bare nspawn, ten at once, a run's own network.

It runs in network and mount namespaces of its own, so that nothing of this computer's network is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import roost
from roost.boot.leader import leader_of

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = 9
OVERHEAD_MOST = 150  # milliseconds beyond bare nspawn, until the machine is ready
MACHINES = 10
ROOST = str(Path(sys.executable).parent / "roost")
TEXT = """
[defaults]
distribution = "debian"
release      = "bookworm"
boot         = {}
""" + "".join(f"[machines.m{number}]\n" for number in range(MACHINES))
PLAIN = '\n[machines.open]\nboot = {}\n[machines.closed]\nboot = {}\nnetwork = { mode = "private" }\n'


def milliseconds(began: float) -> float:
    """Since then."""
    return (time.perf_counter() - began) * 1000


class Host:
    """A host of the benchmark's own, and a definition in it."""

    def __init__(self, directory: str, layers: list[str]) -> None:
        self.file = f"{directory}/roost.toml"
        self.layers = layers
        self.directory = directory

    def roost(self, *words: str) -> str:
        """The command; it must succeed."""
        done = subprocess.run((ROOST, "-f", self.file, *words), check=True, capture_output=True, text=True)
        return done.stdout

    def ours(self) -> float:
        """`roost up` of a made machine until it is ready."""
        began = time.perf_counter()
        self.roost("-q", "up", "m0")
        taken = milliseconds(began)
        self.roost("-q", "down", "--remove", "m0")
        return taken

    def bare(self) -> float:
        """nspawn over the same layers, until the same question has the same answer."""
        began = time.perf_counter()
        with self._nspawn() as pid:
            while (leader := leader_of(pid)) is None:
                time.sleep(0.002)
            ask = ("nsenter", "-t", str(leader.pid), "-a", "systemctl", "is-system-running", "--wait")
            while subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() not in (
                "running",
                "degraded",
            ):
                time.sleep(0.01)
            return milliseconds(began)

    @contextlib.contextmanager
    def _nspawn(self) -> Iterator[int]:
        work = tempfile.mkdtemp(prefix="bare-", dir=self.directory)
        for name in ("upper", "work", "merged"):
            os.mkdir(f"{work}/{name}")
        options = f"lowerdir={':'.join(self.layers)},upperdir={work}/upper,workdir={work}/work"
        group = f"/sys/fs/cgroup/unified/roost-bench-{os.getpid()}"
        script = (
            f"mkdir -p {group} {group.replace('unified', 'systemd')};"
            f" echo 0 > {group}/cgroup.procs; echo 0 > {group.replace('unified', 'systemd')}/cgroup.procs;"
            f" mount -t overlay overlay -o {options} {work}/merged;"
            f" exec systemd-nspawn -q -b --keep-unit --register=no --private-network -M bare --console=read-only -D {work}/merged"
        )
        running = subprocess.Popen(
            ("unshare", "--mount", "sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield running.pid
        finally:
            running.terminate()
            running.wait()
            for top in (group, group.replace("unified", "systemd")):
                for where, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(where)
            shutil.rmtree(work, ignore_errors=True)

    def together(self) -> float:
        """All machines, with one command, until the last is ready."""
        names = [f"m{number}" for number in range(MACHINES)]
        began = time.perf_counter()
        self.roost("-q", "up", *names)
        taken = milliseconds(began)
        self.roost("-q", "down", "--remove", "*")
        return taken

    def run(self, machine: str) -> float:
        """A throwaway run of `true`."""
        began = time.perf_counter()
        self.roost("run", machine, "--", "true")
        return milliseconds(began)


def measure() -> None:
    """Inside the namespaces."""
    subprocess.run(("mount", "--make-rprivate", "/"), check=True)
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    with tempfile.TemporaryDirectory(prefix="roost-bench-", dir=os.environ["ROOST_STATE"]) as directory:
        for name in ("hosts", "resolv.conf"):
            shutil.copy(f"/etc/{name}", directory)
            subprocess.run(("mount", "--bind", f"{directory}/{name}", f"/etc/{name}"), check=True)
        Path(f"{directory}/roost.toml").write_text(TEXT + PLAIN, encoding="utf-8")
        manager = roost.Manager(roost.load(f"{directory}/roost.toml"))
        layers = [manager.store.tree(digest) for digest in reversed(manager.plan(["m0"]).machines[0].layers)]
        host = Host(directory, layers)
        host.ours()
        host.bare()
        pairs = [(host.ours(), host.bare()) for _ in range(RUNS)]
        mine, other = (statistics.median(one[side] for one in pairs) for side in (0, 1))
        verdict = "ok" if mine - other <= OVERHEAD_MOST else "OVER"
        what = "a machine up and ready, and systemd-nspawn -b"
        print(f"{what:58} {mine:8.1f} {other:8.1f} ms {mine - other:+7.0f}  <= +{OVERHEAD_MOST} {verdict}")
        print(f"{MACHINES} machines up and ready, with one command{'':14} {host.together() / 1000:8.1f}          s")
        host.run("open"), host.run("closed")
        runs = [(host.run("closed"), host.run("open")) for _ in range(3 * RUNS)]
        closed, opened = (statistics.median(one[side] for one in runs) for side in (0, 1))
        print(
            f"a run with a private network, and with the host's{'':9} {closed:8.1f} {opened:8.1f} ms {closed - opened:+7.0f}"
        )
        left = json.loads(host.roost("--json", "status"))
        assert not left, left


def main() -> None:
    """Makes the layers with this computer's network, then measures without it."""
    if "--inside" in sys.argv:
        measure()
        return
    with tempfile.TemporaryDirectory() as directory:
        Path(f"{directory}/roost.toml").write_text(TEXT + PLAIN, encoding="utf-8")
        roost.Manager(roost.load(f"{directory}/roost.toml")).build()
    subprocess.run(("unshare", "--net", "--mount", sys.executable, "-m", "tools.bench_boot", "--inside"), check=True)


if __name__ == "__main__":
    main()
