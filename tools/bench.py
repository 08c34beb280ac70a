"""``make bench``: what Roost costs, as ratios against the bare tools, each pair taken in turn in one go.

Medians of interleaved runs: a ratio holds when the machine's speed drifts, the milliseconds beside it do not.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import roost

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DEFINITION = """
[machines.bullseye]
distribution = "debian"
release = "bullseye"
[machines.bookworm]
distribution = "debian"
release = "bookworm"
[machines.trixie]
distribution = "debian"
release = "trixie"
[machines.sid]
distribution = "debian"
release = "sid"
"""
BARE = ("systemd-nspawn", "--keep-unit", "--register=no", "-q")


def timed(function: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000


def command(*argv: str, **env: str) -> Callable[[], object]:
    """A program as a whole process, its output thrown away; it must succeed."""
    environment = {**os.environ, **env}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return lambda: subprocess.run(
        argv,
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def pair(
    what: str, ours: Callable[[], object], theirs: Callable[[], object], *, runs: int, most: float, unit: str = "ms"
) -> tuple[float, float]:
    """Prints the medians and their ratio, beside the bound that the project sets itself."""
    ours()
    theirs()
    mine, other = [], []
    for _ in range(runs):
        mine.append(timed(ours))
        other.append(timed(theirs))
    a, b = statistics.median(mine), statistics.median(other)
    scale = 1000 if unit == "s" else 1
    verdict = "ok" if a / b <= most else "OVER"
    print(f"{what:58} {a / scale:8.1f} {b / scale:8.1f} {unit:2} {a / b:7.3f}  <= {most:<5g} {verdict}", flush=True)
    return a, b


def sessions(manager: roost.Manager, tree: str) -> None:
    """Create, run /bin/true, destroy; against nspawn alone, which has no overlay and no user namespace."""
    true = roost.Run(command=("/bin/true",))

    def session() -> None:
        assert manager.run("bookworm", true).passed

    bare = command(*BARE, "-D", tree, "/bin/true")
    pair("session through the API / nspawn", session, bare, runs=40, most=0.33)
    cli = command(str(BIN / "roost"), "-f", str(manager.definition.path), "run", "bookworm", "--", "/bin/true")  # type: ignore[union-attr]
    pair("session through the command / nspawn", cli, bare, runs=30, most=1.0)
    pair(
        "session through the API / nspawn -x (copies the tree)",
        session,
        command(*BARE, "-x", "-D", tree, "/bin/true"),
        runs=3,
        most=0.05,
    )
    with tempfile.TemporaryDirectory(dir=manager.store.state) as scratch:
        archive = f"{scratch}/tree.tar"
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
        script = f"mkdir {scratch}/t && tar -C {scratch}/t -xf {archive} && {' '.join(BARE)} -D {scratch}/t /bin/true && rm -rf {scratch}/t"
        pair("session through the API / untar, nspawn, rm", session, command("sh", "-c", script), runs=3, most=0.05)


def start(manager: roost.Manager) -> None:
    """How long `roost list` takes beyond the interpreter itself."""
    lister = command(str(BIN / "roost"), "-f", str(manager.definition.path), "list")  # type: ignore[union-attr]
    bare = command(sys.executable, "-c", "pass")
    lister()
    mine, other = [], []
    for _ in range(20):
        mine.append(timed(lister))
        other.append(timed(bare))
    over = statistics.median(mine) - statistics.median(other)
    print(
        f"{'roost list, over the bare interpreter':58} {over:8.1f} {'':8} ms {'':7}  <= 45    {'ok' if over <= 45 else 'OVER'}",
        flush=True,
    )


def many(definition: str, state: str) -> None:
    """200 runs of true on four machines, two at a time: what each costs, and what the manager takes."""
    code = (
        "import roost, sys, time, resource\n"
        "m = roost.Manager(roost.load(sys.argv[1]), state=sys.argv[2])\n"
        "began = time.perf_counter()\n"
        "r = m.matrix(['*'], roost.Run(command=('true',)), jobs=2, times=50)\n"
        "assert all(x.passed for x in r) and len(r) == 200\n"
        "print((time.perf_counter() - began) * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, definition, state], check=True, capture_output=True, text=True)
    total, memory = done.stdout.split()
    print(
        f"200 runs of true on 4 machines, -j 2: {float(total) / 1000:.1f} s, {float(total) / 200:.1f} ms each; "
        f"the manager's peak memory {int(memory) / 1024:.0f} MiB",
        flush=True,
    )


def bases(definition: str) -> None:
    """A base from nothing, against plain mmdebstrap; then with the packages in the cache."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        plain = f"{scratch}/plain"

        def mmdebstrap() -> None:
            command("mmdebstrap", "--variant=minbase", "bookworm", plain)()

        def base() -> None:
            roost.Manager(roost.load(definition), state=f"{scratch}/state").build(["bookworm"])

        cold, warm, other = [], [], []
        for _ in range(3):
            cold.append(timed(base))
            shutil.rmtree(f"{scratch}/state/layers")
            warm.append(timed(base))
            shutil.rmtree(f"{scratch}/state")
            other.append(timed(mmdebstrap))
            shutil.rmtree(plain)
        a, b, c = (statistics.median(figures) / 1000 for figures in (cold, other, warm))
        print(
            f"{'base, nothing cached / plain mmdebstrap':58} {a:8.1f} {b:8.1f} s  {a / b:7.3f}  <= 1.1   {'ok' if a / b <= 1.1 else 'OVER'}"
        )
        print(f"{'base, packages cached / plain mmdebstrap':58} {c:8.1f} {b:8.1f} s  {c / b:7.3f}", flush=True)


def groups() -> set[str]:
    """The control groups that bare nspawn leaves behind."""
    return {str(path) for part in ("payload", "supervisor") for path in Path("/sys/fs/cgroup").glob(f"*/{part}")}


def main() -> int:
    """Everything, in about three minutes."""
    if os.geteuid() != 0:
        print("bench: run it as root", file=sys.stderr)
        return 1
    before = groups()
    try:
        measure()
    finally:
        for path in groups() - before:
            os.rmdir(path)
    return 0


def measure() -> None:
    """All tables."""
    with tempfile.TemporaryDirectory() as scratch:
        definition = f"{scratch}/roost.toml"
        Path(definition).write_text(DEFINITION, encoding="utf-8")
        manager = roost.Manager(roost.load(definition))
        print("making the four machines, unless they are there", flush=True)
        manager.build()
        item = manager.plan(["bookworm"]).machines[0]
        print(f"{'':58} {'roost':>8} {'bare':>8}    {'ratio':>7}  bound", flush=True)
        sessions(manager, manager.store.tree(item.layers[0]))
        start(manager)
        many(definition, manager.store.state)
        for part in ("bench_boot", "bench_lab"):  # each a process: the first leaves this computer's network
            subprocess.run((sys.executable, "-m", f"tools.{part}"), check=True)
        if "--no-base" not in sys.argv:
            bases(definition)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"(this process: {own / 1024:.0f} MiB at most)")


if __name__ == "__main__":
    sys.exit(main())
