"""``make bench-peers``: Roost beside the tools that people use for the same, on the same trees, in one interleaved run.

Prints tables; ``--write`` makes docs/peers.md of them, ``--quick`` takes few runs, ``--no-base`` makes no bases.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tools import peers, peers_base
from tools.bench import groups
from tools.peers import COVERED, RELEASES, WAYS, Place, Way
from tools.peers_page import COMMAND, LIBRARY, NONE, Figure, Found, as_text, page

import roost
from roost.host import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
JOB = """set -e
cd /tmp
cat > job.c <<'END'
#include <stdio.h>
#include <stdlib.h>
int main(void) { for (int i = 0; i < 3; i++) printf("%d\\n", abs(-i)); return 0; }
END
gcc -O1 -o job job.c
./job
"""
PROBE = """set -u
echo release "$(grep -c . /etc/os-release)"
read -r map < /proc/self/uid_map; echo map $map
grep -E '^(Seccomp|CapBnd|NoNewPrivs):' /proc/self/status
for n in pid ipc uts cgroup net; do echo ns-$n "$(readlink /proc/self/ns/$n)"; done
: > /roost-probe && echo wrote
"""


class Budget(NamedTuple):
    """How many rounds of each kind; ``slow`` is for what takes seconds."""

    start: int
    job: int
    matrix: int
    slow: int
    base: int


FULL = Budget(start=20, job=10, matrix=5, slow=3, base=2)
QUICK = Budget(start=5, job=3, matrix=2, slow=1, base=1)


class Attempt(NamedTuple):
    """One try: seconds, and the last line of what went wrong."""

    seconds: float
    error: str = ""


def attempt(argv: Sequence[str], *, timeout: float = 300.0) -> Attempt:
    """Runs a command line to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return Attempt(time.perf_counter() - began, str(e))
    seconds = time.perf_counter() - began
    if done.returncode == 0:
        return Attempt(seconds)
    said = [line.strip() for line in (done.stdout + done.stderr).decode(errors="replace").splitlines() if line.strip()]
    text = next((line for line in said if "error" in line.lower() or "sorry" in line or "not available" in line), "")
    return Attempt(seconds, text or (said[-1] if said else f"exit status {done.returncode}"))


class Bench:
    """All measurements of one place."""

    def __init__(self, at: Place, manager: roost.Manager, budget: Budget) -> None:
        self.at = at
        self.manager = manager
        self.budget = budget
        self.broken: dict[str, str] = {}

    def prepare(self) -> None:
        """What each tool makes once; one that cannot is left out, with its words."""
        for way in WAYS:
            if way.prepare is None:
                continue
            say(f"preparing {way.name}")
            try:
                way.prepare(self.at)
            except (OSError, subprocess.CalledProcessError) as e:
                said = (getattr(e, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
                self.broken[way.name] = said[-1] if said else str(e)

    def provided(self) -> dict[str, Found]:
        """What each way gives the command, as the command itself sees it."""
        found = {}
        for way in WAYS:
            if way.name not in self.broken:
                done = self._probe(way)
                if isinstance(done, str):
                    self.broken[way.name] = done
                else:
                    found[way.name] = done
        found[LIBRARY] = found[COMMAND]
        return found

    def _probe(self, way: Way) -> Found | str:
        argv = way.argv(self.at, "bookworm", ("/bin/sh", "-c", PROBE))
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300)
        facts: dict[str, str] = {}
        for line in done.stdout.splitlines():
            name, _, value = (
                line.replace(":", " ", 1).partition(" ") if not line.startswith("ns-") else line.partition(" ")
            )
            facts[name] = value.strip()
        if not facts.get("map"):
            return attempt(argv).error or f"/proc cannot be read: {(done.stderr or done.stdout)[-200:]}"
        tree = f"{self.at.tree('bookworm')}/roost-probe"
        stays = os.path.exists(tree)
        if stays:
            os.unlink(tree)
        own = [
            n
            for n in ("pid", "ipc", "uts", "cgroup")
            if facts.get(f"ns-{n}") not in (None, "", os.readlink(f"/proc/self/ns/{n}"))
        ]
        inside, outside, count = (int(part) for part in facts["map"].split())
        mapped = NONE if outside == inside else ("one id" if count == 1 else f"{count} ids")
        if outside == inside and count == 1:
            mapped = "root only"
        writes = "stay" if stays else ("thrown away" if "wrote" in facts else "refused")
        return Found(
            writes=writes, users=mapped, seccomp=facts.get("Seccomp") == "2", capabilities=int(facts["CapBnd"], 16).bit_count(),
            namespaces=own,
        )  # fmt: skip

    # measuring

    def rounds(self, kind: str, ways: dict[str, tuple[Callable[[], Attempt], bool]]) -> dict[str, Figure]:
        """Every way once in each round, so that a machine whose speed drifts does so for all; slow ones in few."""
        times: dict[str, list[float]] = {name: [] for name in ways}
        errors = dict(self.broken)
        count = getattr(self.budget, kind)
        for name, (run, slow) in ways.items():  # once unmeasured: caches; they matter little where seconds pass
            if name not in errors and not slow and (error := run().error):
                errors[name] = error
        for number in range(count):
            for name, (run, slow) in ways.items():
                if name in errors or (slow and number >= self.budget.slow):
                    continue
                done = run()
                if done.error:
                    errors[name] = done.error
                times[name].append(done.seconds)
            say(f"{kind}: round {number + 1} of {count}")
        return {
            name: Figure(error=self.at.shown([errors[name]]).strip("'"))
            if name in errors
            else Figure(seconds=statistics.median(times[name]), runs=len(times[name]))
            for name in ways
        }

    def single(self, kind: str, command: Sequence[str]) -> dict[str, Figure]:
        """One command on bookworm: a session's whole life."""
        ways: dict[str, tuple[Callable[[], Attempt], bool]] = {LIBRARY: (self._library(command), False)}
        for way in WAYS:
            ways[way.name] = (self._once(way, command), way.slow)
        return self.rounds(kind, ways)

    def _once(self, way: Way, command: Sequence[str]) -> Callable[[], Attempt]:
        return lambda: attempt(way.argv(self.at, "bookworm", command))

    def _library(self, command: Sequence[str]) -> Callable[[], Attempt]:
        run = roost.Run(command=tuple(command))

        def once() -> Attempt:
            began = time.perf_counter()
            result = self.manager.run("bookworm", run)
            return Attempt(time.perf_counter() - began, "" if result.passed else result.error or result.tail)

        return once

    def matrix(self) -> dict[str, Figure]:
        """The job on four releases, two at a time."""
        command = ("/bin/sh", "-c", JOB)
        run = roost.Run(command=command)

        def library() -> Attempt:
            began = time.perf_counter()
            results = self.manager.matrix(["*"], run, jobs=2)
            bad = [result for result in results if not result.passed]
            return Attempt(time.perf_counter() - began, bad[0].error or bad[0].tail if bad else "")

        whole = (self.at.roost, "-q", "-f", self.at.definition, "run", "--all", "-j", "2", "--", *command)
        ways: dict[str, tuple[Callable[[], Attempt], bool]] = {LIBRARY: (library, False)}
        ways[COMMAND] = (lambda: attempt(whole), False)
        for way in WAYS[1:]:
            ways[way.name] = (self._loop(way, command), way.slow)
        return self.rounds("matrix", ways)

    def _loop(self, way: Way, command: Sequence[str]) -> Callable[[], Attempt]:
        def four() -> Attempt:
            began = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                done = list(pool.map(lambda release: attempt(way.argv(self.at, release, command)), RELEASES))
            return Attempt(time.perf_counter() - began, next((each.error for each in done if each.error), ""))

        return four

    def bases(self) -> dict[str, dict[str, Figure]]:
        """A base from nothing, and again, by each tool's own way."""
        peers_base.prepare(self.at)
        makers = peers_base.makers(self.at)
        cold: dict[str, list[float]] = {maker.name: [] for maker in makers}
        warm: dict[str, list[float]] = {maker.name: [] for maker in makers}
        errors: dict[str, str] = {}
        for number in range(self.budget.base):
            for maker in makers:
                say(f"bases: round {number + 1} of {self.budget.base}: {maker.name}")
                for times, argv in ((cold, maker.cold), (warm, maker.warm)):
                    if argv and maker.name not in errors:
                        done = attempt(argv, timeout=600)
                        errors.update({maker.name: done.error} if done.error else {})
                        times[maker.name].append(done.seconds)
                if not maker.keep:
                    peers_base.clear(self.at)
        tables = {}
        for kind, times in (("base", cold), ("again", warm)):
            tables[kind] = {
                name: Figure(error=errors[name])
                if name in errors
                else Figure(seconds=statistics.median(values), runs=len(values))
                for name, values in times.items()
                if values or name in errors
            }
        return tables


def say(text: str, end: str = "\n") -> None:
    """Progress, which is no result."""
    print(f"{text:60}", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def covered(work: str) -> Iterator[None]:
    """A tmpfs over every directory that a tool writes to by itself; those that were not there go afterwards."""
    made = []
    try:
        for path in COVERED:
            above = [path]
            while not os.path.exists(os.path.dirname(above[-1])):
                above.append(os.path.dirname(above[-1]))
            for each in reversed(above):
                if not os.path.exists(each):
                    os.mkdir(each)
                    made.append(each)
            subprocess.run(("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path), check=True)
        ids = f"{work}/subid"
        Path(ids).write_text("root:100000:65536\n", encoding="ascii")  # what unshare modes map to
        for path in ("/etc/subuid", "/etc/subgid"):
            subprocess.run(("mount", "--bind", ids, path), check=True)
        os.mkdir(f"{work}/ram", 0o755)
        subprocess.run(("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{work}/ram"), check=True)
        yield
    finally:
        for path in (*reversed(COVERED), f"{work}/ram", "/etc/subuid", "/etc/subgid"):
            subprocess.run(("umount", "-R", path), check=False, capture_output=True)
        for path in reversed(made):
            with contextlib.suppress(OSError):  # somebody else may use it by now
                os.rmdir(path)


def definitions(work: str) -> tuple[str, str]:
    """The four machines with a compiler, as in the README; the same with what debspawn wants inside."""
    text = '[defaults]\ndistribution = "debian"\nprofiles = ["compiler"]\n\n[profiles.compiler]\n'
    text += 'packages = ["gcc", "libc6-dev", "make"]\nuser = { name = "builder", uid = 883 }\n'
    more = (
        text.replace('["compiler"]', '["compiler", "debspawn"]')
        + '\n[profiles.debspawn]\npackages = ["python3-minimal", "eatmydata"]\n'
    )
    paths = (f"{work}/roost.toml", f"{work}/debspawn-roost.toml")
    for path, start, suffix in ((paths[0], text, ""), (paths[1], more, "-debspawn")):
        machines = "".join(f'\n[machines.{name}{suffix}]\nrelease = "{name}"\n' for name in RELEASES)
        Path(path).write_text(start + machines, encoding="utf-8")
    return paths


def layers_of(path: str) -> dict[str, list[str]]:
    """Each machine's trees, topmost first; made when missing."""
    manager = roost.Manager(roost.load(path))
    plan = manager.build()
    return {
        item.machine.name: [manager.store.tree(digest) for digest in reversed(item.layers)] for item in plan.machines
    }


def clear_groups(before: set[str]) -> None:
    """Removes the control groups that bare nspawn and podman leave, unless somebody else had them before."""
    for path in sorted(_groups() - before, reverse=True):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _groups() -> set[str]:
    return groups() | {
        str(path)
        for pattern in ("*/libpod_parent", "*/libpod_parent/*")
        for path in Path("/sys/fs/cgroup").glob(pattern)
        if path.is_dir()
    }


def facts(at: Place) -> list[tuple[str, str]]:
    """What the figures depend on."""
    here = os.statvfs(at.work)
    kind = subprocess.run(
        ("stat", "-f", "-c", "%T", at.work), capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        ("date", time.strftime("%Y-%m-%d")),
        ("kernel", platform.release()),
        ("cores", str(os.cpu_count())),
        ("file system", f"{kind}, {here.f_bavail * here.f_frsize >> 30} GiB free"),
        ("roost", roost.__version__),
        *peers.versions(at),
    ]


def measure(at: Place, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as a document."""
    own = layers_of(at.definition)
    more = layers_of(f"{at.work}/debspawn-roost.toml")
    say("the same trees for the peers")
    peers.make_trees(at, {**own, **more})
    bench = Bench(at, roost.Manager(roost.load(at.definition)), QUICK if options.quick else FULL)
    bench.prepare()
    found = bench.provided()
    document: dict[str, Any] = {
        "facts": facts(at),
        "found": found,
        "notes": {way.name: way.note for way in WAYS},
        "lines": {way.name: at.shown(way.argv(at, "bookworm", ("/bin/true",))) for way in WAYS},
    }
    if not options.only_base:
        document["start"] = bench.single("start", ("/bin/true",))
        document["job"] = bench.single("job", ("/bin/sh", "-c", JOB))
        document["matrix"] = bench.matrix()
    if not options.no_base:
        document |= bench.bases()
        document["makers"] = {
            maker.name: (at.shown(maker.cold), at.shown(maker.warm), maker.note) for maker in peers_base.makers(at)
        }
    return document


def main() -> int:
    """In a mount namespace of its own, so that what the tools mount and keep is gone with it."""
    parser = argparse.ArgumentParser(description="Roost beside its peers")
    parser.add_argument("--write", action="store_true", help="write docs/peers.md")
    parser.add_argument("--quick", action="store_true", help="few runs: to see that all works")
    parser.add_argument("--no-base", action="store_true", help="make no bases: they take most of the time")
    parser.add_argument("--only-base", action="store_true", help="make bases, and run nothing in them")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench-peers: run it as root", file=sys.stderr)
        return 1
    if not os.environ.get("ROOST_STATE"):
        print("bench-peers: ROOST_STATE says where layers are kept; `make bench-peers` sets it", file=sys.stderr)
        return 1
    if os.environ.get("ROOST_BENCH_INSIDE") != "1":
        os.environ["ROOST_BENCH_INSIDE"] = "1"
        os.execvp(
            "unshare",
            ("unshare", "-m", "--propagation", "private", sys.executable, "-m", "tools.bench_peers", *sys.argv[1:]),
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was made is cleared then too
    before = _groups()
    work = tempfile.mkdtemp(prefix="roost-peers-", dir="/var/tmp")
    os.chmod(work, 0o755)  # unshare modes come as another user
    try:
        with covered(work):
            at = Place(work, str(BIN / "roost"), definitions(work)[0])
            document = measure(at, options)
    finally:
        clear_groups(before)
        files.remove_tree(work)
    print(as_text(document))
    if options.write:
        (ROOT / "docs/peers.md").write_text(page(document), encoding="utf-8")
        say("docs/peers.md is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
