"""``make bench-scale``: 582 jobs on 30 machines, 5,000 sessions, and a store with 2,000 layers and 10,000 kept sessions.

Every measurement is a process of its own, so that its memory is its own. Everything is made in a state directory beside
ROOST_STATE, whose layers are linked into it, and removed afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools import scale_store
from tools.bench import BIN, command, groups, timed

import roost
from roost.host import files
from roost.matrix import Matrix
from roost.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASES = ("bullseye", "bookworm", "trixie", "sid")
MACHINES = 30
JOBS = 582
CORES = len(os.sched_getaffinity(0))

# A small C program of three files, as one test of a library is: it sorts, formats and checks.
FILES = {
    "item.h": """#include <stddef.h>
struct item { char name[16]; unsigned key; };
unsigned mix(unsigned x);
void fill(struct item *items, size_t count);
void sort(struct item *items, size_t count);
""",
    "fill.c": """#include <stdio.h>
#include "item.h"
unsigned mix(unsigned x) { x ^= x >> 16; x *= 0x7feb352dU; x ^= x >> 15; x *= 0x846ca68bU; return x ^ x >> 16; }
void fill(struct item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        items[i].key = mix((unsigned)i);
        snprintf(items[i].name, sizeof items[i].name, "%08x", items[i].key);
    }
}
""",
    "sort.c": """#include <stdlib.h>
#include "item.h"
static int by_key(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}
void sort(struct item *items, size_t count) { qsort(items, count, sizeof items[0], by_key); }
""",
    "job.c": """#include <stdio.h>
#include <string.h>
#include "item.h"
enum { COUNT = 100000 };
static struct item items[COUNT];
int main(void) {
    fill(items, COUNT);
    sort(items, COUNT);
    for (size_t i = 1; i < COUNT; i++)
        if (items[i - 1].key > items[i].key || strcmp(items[i - 1].name, items[i].name) > 0) { puts("not sorted"); return 1; }
    printf("sorted %s to %s\\n", items[0].name, items[COUNT - 1].name);
    return 0;
}
""",
}
JOB = (
    'set -e\nd=$(mktemp -d); cd "$d"\n'
    + "".join(f"cat > {name} <<'END'\n{text}END\n" for name, text in FILES.items())
    + 'for f in fill sort job; do gcc -O2 -Wall -Wextra -Werror -c $f.c; done\ngcc -o job *.o\n./job\ncd /; rm -r "$d"\n'
)


def definition(machines: int = MACHINES) -> str:
    """Machines over four releases, one shared layer with a compiler each, and a small layer of their own."""
    text = '[defaults]\ndistribution = "debian"\nprofiles = ["compiler"]\n\n[profiles.compiler]\n'
    text += 'packages = ["gcc", "libc6-dev", "make"]\nuser = { name = "builder", uid = 883 }\n'
    for number in range(machines):
        name = f"{RELEASES[number % 4]}-{number // 4 + 1}"
        text += f'\n[machines.{name}]\nrelease = "{RELEASES[number % 4]}"\nfiles = {{ "/etc/platform" = {{ content = "{name}\\n" }} }}\n'
    return text


def variants(jobs: int, names: list[str]) -> list[roost.Variant]:
    """As many runs on each machine as make ``jobs`` of all; the last few on some machines only."""
    whole, rest = divmod(jobs, len(names))
    found = [roost.Variant(name=str(number + 1), environment={"JOB": str(number + 1)}) for number in range(whole)]
    return [*found, roost.Variant(name=str(whole + 1), machines=tuple(names[:rest]))] if rest else found


# in a process of its own: what `inside` runs


def matrix(state: str, path: str, jobs: int, script: str) -> dict[str, Any]:
    """One matrix: wall time, memory, CPU, and whether all that was asked for is there."""
    manager = roost.Manager(roost.load(path), state=state)
    names = [machine.name for machine in manager.machines()]
    manager.build()
    before = len(os.listdir("/proc/self/fd"))
    began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    results = manager.matrix(["*"], roost.Run(command=("sh", "-c", script)), jobs=CORES, variants=variants(jobs, names))
    seconds = time.perf_counter() - began
    manager.close()
    after, mine = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "results": len({result.name for result in results}),
        "passed": sum(result.passed for result in results),
        "logs": sum(os.path.getsize(result.log) > 0 for result in results),
        "first": next((f"{r.name}: {r.state} {r.error}{r.tail}" for r in results if not r.passed), ""),
        "jobs_cpu": sum(result.user_seconds + result.system_seconds for result in results),
        "all_cpu": _cpu(after) - _cpu(cpu) + _cpu(mine) - _cpu(own),
        "manager_cpu": _cpu(mine) - _cpu(own),
        "memory": mine.ru_maxrss,
        "descriptors": len(os.listdir("/proc/self/fd")) - before,
    }


def profile(state: str, path: str, jobs: int, script: str) -> dict[str, Any]:
    """Where the time goes during a matrix: the manager's own, and that of the process that each job has."""
    import cProfile
    import io
    import pstats

    once = Matrix._once  # noqa: SLF001  # in the job's process: the life of its session

    with tempfile.TemporaryDirectory() as scratch:

        def profiled(self: Matrix, *arguments: Any) -> Any:
            own = cProfile.Profile()
            try:
                return own.runcall(once, self, *arguments)
            finally:
                own.dump_stats(f"{scratch}/{os.getpid()}")

        text = io.StringIO()
        manager = cProfile.Profile()
        document: dict[str, Any] = manager.runcall(matrix, state, path, jobs, script)
        pstats.Stats(manager, stream=text).strip_dirs().sort_stats("tottime").print_stats(16)
        Matrix._once = profiled  # type: ignore[method-assign]  # noqa: SLF001
        matrix(state, path, jobs, script)
        taken = sorted(os.scandir(scratch), key=lambda entry: entry.name)
        stats = pstats.Stats(taken[0].path, stream=io.StringIO())
        stats.add(*(entry.path for entry in taken[1:]))
        stats.files, stats.stream = [], text  # type: ignore[attr-defined]  # their names say nothing
        stats.strip_dirs().sort_stats("tottime").print_stats(24)
    return {**document, "profile": text.getvalue()}


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def inside(what: str, state: str, path: str, jobs: int, script: str = JOB) -> dict[str, Any]:
    """The document of ``matrix`` or ``profile``, from a process of its own."""
    argv = (sys.executable, "-m", "tools.bench_scale", "--inside", what, state, path, str(jobs), script)
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} of {jobs} jobs ended with {done.returncode}:\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


# the same job without Roost


def bare(tree: str, jobs: int, prefix: str) -> tuple[float, float]:
    """Seconds and CPU seconds of the job in a plain loop, as many at a time: ``prefix`` is what starts it in ``tree``."""
    loop = f"seq {jobs} | xargs -P {CORES} -I N {prefix} /bin/sh -c {shlex.quote(JOB)}"
    script = (
        'mount -t tmpfs tmpfs "$2" && mkdir "$2/u" "$2/w" "$2/m" && '
        'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/u,workdir=$2/w" "$2/m" && '
        f'cd "$2/m" && mount -t proc proc proc && mount --bind /dev dev && {loop}'
    )
    with tempfile.TemporaryDirectory() as empty:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        argv = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", tree, empty)
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"the bare loop ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, _cpu(resource.getrusage(resource.RUSAGE_CHILDREN)) - _cpu(before)


NSPAWN = "systemd-nspawn --keep-unit --register=no -q --volatile=overlay -D"


def left(state: str) -> list[str]:
    """What a run should not have left: sessions, processes, mounts, control groups, loop devices."""
    store = Store(state)
    found = [f"{part}/{name}" for part in ("running", "sessions", "staging") for name in os.listdir(f"{state}/{part}")]
    found += [
        f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if state in line
    ]
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"control group {directory}/{name}" for name in names if name.startswith(store.group_prefix)]
        if directory.count("/") > 5:
            names.clear()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() and int(entry.name) != os.getpid() else b""
            found += [f"process {entry.name}"] if os.fsencode(state) in words else []
    return found


# what is printed


def headline(state: str, path: str, jobs: int) -> None:
    """The matrix, a tenth of it, and the same jobs without Roost."""
    few = max(jobs // 10, 1)
    small = inside("matrix", state, path, few)
    large = inside("matrix", state, path, jobs)
    for document, number in ((small, few), (large, jobs)):
        if document["passed"] != number or document["results"] != number or document["logs"] != number:
            raise SystemExit(f"{document['passed']} of {number} passed; the first that did not: {document['first']}")
    manager = roost.Manager(roost.load(path), state=state)
    item = manager.plan(["bookworm-1"]).machines[0]
    with flat(manager, item.layers) as tree:
        chroot = bare(tree, jobs, "chroot .")
        nspawn = bare(tree, few, f"{NSPAWN} {tree}")
    wall, alone = large["seconds"], chroot[1]
    print(
        f"{jobs} jobs on {MACHINES} machines, -j {CORES}: {wall:.1f} s, all {large['passed']} passed, {large['logs']} logs"
    )
    print(
        f"  a job: {wall / jobs * CORES * 1000:.0f} ms of one core; chroot loop {chroot[0] / jobs * CORES * 1000:.0f} ms, ",
        end="",
    )
    print(f"nspawn --volatile=overlay loop {nspawn[0] / few * CORES * 1000:.0f} ms")
    print(
        f"  over the chroot loop: {(wall - chroot[0]) / jobs * CORES * 1000:.1f} ms a job; wall time {wall / chroot[0]:.3f} of it"
    )
    print(
        f"  CPU: the jobs alone {alone:.1f} s (chroot loop), {large['jobs_cpu']:.1f} s (as their sessions say); ",
        end="",
    )
    print(f"all processes {large['all_cpu']:.1f} s, of which the manager {large['manager_cpu']:.2f} s")
    print(f"  CPU of the jobs alone / (wall * cores): {alone / (wall * CORES):.1%}; the chroot loop's own: ", end="")
    print(f"{alone / (chroot[0] * CORES):.1%}; cores busy at all: {large['all_cpu'] / (wall * CORES):.1%}")
    over = (large["all_cpu"] - alone) / jobs * 1000
    print(
        f"  CPU of the jobs alone / CPU of all processes: {alone / large['all_cpu']:.1%}, {over:.1f} ms over it for each job"
    )
    print(
        f"  linear: {few} jobs {small['seconds'] / few * 1000:.1f} ms each, {jobs} jobs {wall / jobs * 1000:.1f} ms each"
    )
    print(
        f"  the manager's peak memory: {small['memory'] / 1024:.1f} MiB with {few} jobs, {large['memory'] / 1024:.1f} MiB with {jobs}; ",
        end="",
    )
    print(f"descriptors left open: {large['descriptors']}; left behind: {left(state) or 0}", flush=True)


@contextlib.contextmanager
def flat(manager: roost.Manager, layers: tuple[str, ...]) -> Iterator[str]:
    """A machine's layers as one plain directory."""
    with tempfile.TemporaryDirectory(dir=manager.store.state) as scratch:
        trees = ":".join(manager.store.tree(digest) for digest in reversed(layers))
        script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && cp -a "$2/." "$3"'
        os.mkdir(f"{scratch}/empty")
        os.mkdir(f"{scratch}/tree")
        argv = (
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
            trees,
            f"{scratch}/empty",
            f"{scratch}/tree",
        )
        subprocess.run(argv, check=True)
        yield f"{scratch}/tree"
        files.remove_tree(f"{scratch}/tree")


def sessions(state: str, path: str, count: int) -> None:
    """Many sessions of true."""
    document = inside("matrix", state, path, count, "true; echo done")
    if document["passed"] != count:
        raise SystemExit(f"{document['passed']} of {count} passed; {document['first']}")
    print(
        f"{count} sessions of true, -j {CORES}: {document['seconds']:.1f} s, {document['seconds'] / count * 1000:.1f} ms each; ",
        end="",
    )
    print(
        f"the manager's peak memory {document['memory'] / 1024:.1f} MiB, CPU {document['manager_cpu'] / count * 1000:.2f} ms each; ",
        end="",
    )
    print(f"descriptors left open: {document['descriptors']}; left behind: {left(state) or 0}", flush=True)


VERBS = {
    "roost list": ("list",),
    "roost plan": ("plan",),
    "roost run": ("run", "bookworm-1", "--", "true"),
    "roost gc --dry-run": ("gc", "--dry-run"),
    "roost layer list": ("layer", "list"),
    "roost session list": ("session", "list"),
}


def grown(place: str, source: str, path: str, *, layers: int, kept: int) -> None:
    """The verbs on a small store and on one that has grown."""
    states = (f"{place}/few", f"{place}/many")
    digests = needed(source, path)
    for state, number, more in zip(states, (20, layers), (20, kept), strict=True):
        scale_store.link_layers(source, state, digests)
        began = time.perf_counter()
        scale_store.grow(state, layers=number, sessions=more)
        roost.Manager(roost.load(path), state=state).build(["bookworm-1"])
        print(
            f"(a store with {number} layers and {more} kept sessions: made in {time.perf_counter() - began:.0f} s)",
            flush=True,
        )
    print(f"{'':24} {'20':>10} {f'{layers} layers':>12}   ratio\n{'':24} {'':>10} {f'{kept} kept':>12}")
    for what, words in VERBS.items():
        runs = [command(str(BIN / "roost"), "--state", state, "-f", path, *words) for state in states]
        if what == "roost run":
            runs = [command(str(BIN / "roost"), "-f", path, "--state", state, *words) for state in states]
        times: list[list[float]] = [[], []]
        for run in runs:
            run()
        for _ in range(9):
            for run, taken in zip(runs, times, strict=True):
                taken.append(timed(run))
        few, many = (statistics.median(taken) for taken in times)
        print(f"{what:24} {few:7.0f} ms {many:9.0f} ms {many / few:7.2f}", flush=True)
    for state in states:
        files.remove_tree(state)


def needed(source: str, path: str) -> tuple[str, ...]:
    """The layers of the first four machines but for their own ones, made in ``source`` when they are missing."""
    with tempfile.TemporaryDirectory() as scratch:
        shared = f"{scratch}/roost.toml"
        text = Path(path).read_text(encoding="utf-8")
        Path(shared).write_text(
            "\n".join(line for line in text.splitlines() if not line.startswith("files =")), encoding="utf-8"
        )
        manager = roost.Manager(roost.load(shared), state=source)
        plan = manager.build([f"{release}-1" for release in RELEASES])
    return tuple(dict.fromkeys(digest for item in plan.machines for digest in item.layers))


def main() -> int:
    """Everything; ``--quick`` is a tenth of it."""
    if sys.argv[1:2] == ["--inside"]:
        what, state, path, jobs, script = sys.argv[2:]
        print(json.dumps({"matrix": matrix, "profile": profile}[what](state, path, int(jobs), script)))
        return 0
    parser = argparse.ArgumentParser(description="Roost at scale")
    parser.add_argument("--quick", action="store_true", help="a tenth of it: to see that all works")
    parser.add_argument("--profile", action="store_true", help="only: where the time goes during 582 runs of true")
    parser.add_argument("--only", choices=("jobs", "sessions", "store"), help="only this part")
    options = parser.parse_args()
    source = os.environ.get("ROOST_STATE", "")
    if os.geteuid() != 0 or not source:
        print("bench-scale: run it as root, by `make bench-scale`, which sets ROOST_STATE", file=sys.stderr)
        return 1
    factor = 10 if options.quick else 1
    before = groups()
    place = tempfile.mkdtemp(prefix="roost-scale-", dir=os.path.dirname(os.path.abspath(source)))
    try:
        parts(options, source, place, factor)
    finally:
        files.remove_tree(place)
        for path in groups() - before:
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return 0


def parts(options: argparse.Namespace, source: str, place: str, factor: int) -> None:
    """What was asked for, in ``place``."""
    path, state = f"{place}/roost.toml", f"{place}/state"
    Path(path).write_text(definition(), encoding="utf-8")
    if options.only != "store":
        scale_store.link_layers(source, state, needed(source, path))
        began = time.perf_counter()
        roost.Manager(roost.load(path), state=state).build()
        print(f"{MACHINES} machines, their own layers made in {time.perf_counter() - began:.1f} s", flush=True)
    if options.profile:
        print(inside("profile", state, path, JOBS // factor, "true; echo done")["profile"])
        return
    if options.only in (None, "jobs"):
        headline(state, path, JOBS // factor)
    if options.only in (None, "sessions"):
        sessions(state, path, 5000 // factor)
    if options.only in (None, "store"):
        grown(place, source, path, layers=2000 // factor, kept=10000 // factor)


if __name__ == "__main__":
    sys.exit(main())
