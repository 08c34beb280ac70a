"""Many machines, many runs, and a store that has grown: everything is there, and nothing is looked at that need not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tools import scale_store

from system.rig import TINY

if TYPE_CHECKING:
    from system.rig import Rig

MACHINES = 30
LAYERS, KEPT = 200, 500


def machines(count: int) -> str:
    """Machines over one tree, each with a small layer of its own."""
    return "".join(
        f'[machines.m{at:02}]\nfrom = "layer:tiny"\nfiles = {{ "/etc/platform" = {{ content = "m{at:02}\\n" }} }}\n'
        for at in range(count)
    )


def test_30_machines_with_several_runs_each(tiny: Rig) -> None:
    tiny.define(machines(MACHINES))
    script = 'echo "$(cat /etc/platform) $KIND $JOB"; test "$(cat /etc/platform).$KIND.$JOB" != m07.b.2'
    words = ("--all", "--matrix", "KIND=a,b", "--matrix", "JOB=1,2", "-j", "4", "--json", "--junit", "junit.xml")
    done = tiny("run", *words, "--", "sh", "-c", script)
    assert done.status == 1, done.said
    results = json.loads(done.out)["results"]
    expected = [(f"m{at:02}", f"{kind}.{job}") for at in range(MACHINES) for kind in "ab" for job in "12"]
    assert [(result["machine"], result["variant"]) for result in results] == expected
    assert [result["variant"] for result in results if result["state"] != "passed"] == ["b.2"]
    for result in results:  # each has its own output, in its result and in its log
        words_of = f"{result['machine']} {result['variant'].replace('.', ' ')}\n"
        assert result["tail"] == words_of
        with open(result["log"], encoding="ascii") as stream:
            assert stream.read() == words_of
    assert (tiny.directory / "junit.xml").read_text().count("<testcase ") == MACHINES * 4
    summary = tiny("-q", "run", "--all", "--matrix", "JOB=1,2", "--", "sh", "-c", "echo broken; test $JOB = 1").text
    lines = summary.splitlines()
    assert len(lines) < MACHINES + 20
    assert next(line for line in lines if line.startswith("m29")).split()[:6] == ["m29", "✗", "1", "of", "2", "passed,"]
    assert "  the same: m01.2, m02.2, m03.2, m04.2, m05.2, m06.2 and 23 more" in lines
    assert lines[-1].startswith(f"{MACHINES} passed, {MACHINES} failed (")
    assert os.listdir(f"{tiny.state}/running") == []
    assert tiny.sessions() == []


def test_artifacts_of_several_runs_do_not_meet(tiny: Rig) -> None:
    done = tiny("run", "tiny", "--matrix", "KIND=a,b", "--artifact", "*.txt", "--", "sh", "-c", "echo $KIND > k.txt")
    assert done.status == 0, done
    assert [(tiny.directory / f"artifacts/{kind}/tiny/root/k.txt").read_text() for kind in "ab"] == ["a\n", "b\n"]


def test_the_manager_keeps_no_memory_for_a_run(tiny: Rig) -> None:
    code = (
        "import sys, resource, os, roost\n"
        "manager = roost.Manager(roost.load(sys.argv[1]), state=sys.argv[2])\n"
        "def some(count):\n"
        "    results = manager.matrix(['*'], roost.Run(command=('sh', '-c', 'seq 9')), jobs=4, times=count)\n"
        "    assert len(results) == count and all(r.passed for r in results)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(os.listdir('/proc/self/fd'))\n"
        "print(*some(5), *some(60))\n"
    )
    argv = (sys.executable, "-c", code, str(tiny.file), tiny.state)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=tiny.environment())
    few, open_few, many, open_many = map(int, done.stdout.split())
    assert many - few < 2048, f"{few} KiB after 5 runs, {many} KiB after 65"
    assert open_many == open_few


@pytest.fixture
def grown(tiny: Rig) -> Rig:
    """A store with many layers and kept sessions, of which some cannot be read without waiting for ever."""
    scale_store.grow(tiny.state, layers=LAYERS, sessions=KEPT)
    return tiny


def block(path: str) -> None:
    """Makes a file one that blocks whoever reads it."""
    os.unlink(path)
    os.mkfifo(path)


def test_a_run_looks_at_no_other_layer_and_no_kept_session(grown: Rig) -> None:
    for number in range(0, KEPT, 100):
        block(f"{grown.state}/sessions/grown-{number:06x}/session.json")
    for number in range(0, LAYERS, 50):
        block(f"{grown.state}/layers/{scale_store.digest_of(number)}/layer.json")
    assert "tiny" in grown("list", timeout=30).text
    assert grown("plan", timeout=30).status == 0
    done = grown.run("echo works", timeout=30)
    assert (done.status, done.out) == (0, b"works\n"), done.said
    done = grown("run", "--all", "--", "true", timeout=30)
    assert done.status == 0, done.said
    assert grown.kept("echo x > /x").startswith("tiny-")


def test_a_grown_store_answers_in_full(grown: Rig) -> None:
    assert len(grown.json("session", "list")) == KEPT
    assert len(grown.json("layer", "list")) == LAYERS + 1
    before = sorted(os.listdir(f"{grown.state}/layers"))
    assert grown("gc", "--dry-run").status == 0
    assert grown("gc").status == 0
    assert sorted(os.listdir(f"{grown.state}/layers")) == before  # every layer has a name and most have sessions
    grown.define(TINY.replace("tiny", "grown-7"))
    assert grown.json("plan")["machines"]
