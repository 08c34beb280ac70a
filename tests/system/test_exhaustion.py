"""The computer has no more of something: one clear error, nothing lost, and with room again the next command goes on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.disk import Disk
from system.rig import TINY, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from system.rig import Done

BUILT = TINY + 'scripts = ["echo made > /made"]\n'
TINY_LAYER = "7" * 64
KEPT = "echo x > /x; head -c 2000000 /dev/zero > /zeros; mkdir /many; for n in $(seq 60); do : > /many/$n; done"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Small, and with few inodes."""
    made = Disk(tmp_path, "ext4", "-N", "640", "-m", "0", size=40 << 20)
    yield made
    made.unmount()


@pytest.fixture
def rig(disk: Disk, tiny_state: str, tmp_path: Path) -> Rig:
    """The command with its store on that disk."""
    subprocess.run(("cp", "-a", tiny_state, disk.place / "state"), check=True)
    return Rig(str(disk.place / "state"), tmp_path)


def full(disk: Disk) -> Callable[[], object]:
    ballast = disk.fill()
    return lambda: os.unlink(ballast)


def almost_full(disk: Disk) -> Callable[[], object]:
    """Room for a few small files: it ends somewhere in the middle."""
    ballast = disk.fill(left=20000)
    return lambda: os.unlink(ballast)


def no_inodes(disk: Disk) -> Callable[[], object]:
    many = disk.place / "many"
    many.mkdir()
    made = 0
    try:
        while True:
            (many / f"{made}").touch()
            made += 1
    except OSError:
        assert made
    return lambda: subprocess.run(("rm", "-r", many), check=True)


def read_only(disk: Disk) -> Callable[[], object]:
    disk.remount("ro")
    return lambda: disk.remount("rw")


WAYS = {
    "full": (full, ("the disk is full",)),
    "almost full": (almost_full, ("the disk is full",)),
    "no inodes": (no_inodes, ("no inodes", "the disk is full")),
    "read-only": (read_only, ("the file system is read-only",)),
}


def is_clear(done: Done, words: tuple[str, ...]) -> None:
    """One error with its hint, that names what there is no more of."""
    text = done.said + done.text
    assert done.status != 0, done
    assert any(word in text for word in words), done
    assert text.count("error: ") == 1 or "could not be run" in text, done
    assert "hint: " in text, done
    assert "Traceback" not in text, done


def goes_on(rig: Rig, session: str) -> None:
    """With room again nothing is missing, and nothing is in the way."""
    assert rig("session", "shell", session, stdin=b"cat /x; wc -c < /zeros\n").text == "x\n2000000\n"
    assert rig.run("cat /made").text == "made\n"
    assert rig("layer", "verify").status == 0
    assert rig("session", "commit", session, "late").status == 0
    assert rig("session", "remove", session).status == 0
    assert os.listdir(f"{rig.state}/staging") == os.listdir(f"{rig.state}/running") == []


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_with_no_room(rig: Rig, disk: Disk, way: str) -> None:
    session = rig.kept(KEPT)
    rig.define(BUILT)
    fill, words = WAYS[way]
    empty = fill(disk)
    for verb in (
        ("build",),
        ("run", "tiny", "--", "echo", "ran"),
        ("run", "--all", "--", "echo", "ran"),
        ("run", "tiny", "--keep", "--", "sh", "-c", "echo x > /x"),
        ("session", "commit", session, "mine"),
        ("session", "shell", session),
    ):
        done = rig(*verb)
        if verb[:2] == ("session", "shell") and done.status == 0:
            continue  # nothing was written
        is_clear(done, words)
    for reading in (("session", "list"), ("layer", "list"), ("layer", "verify"), ("plan",), ("gc", "--dry-run")):
        assert rig(*reading).status == 0, reading  # what only reads goes on
    assert rig.sessions() == [session]
    empty()
    goes_on(rig, session)


@pytest.mark.parametrize("way", ["full", "almost full", "no inodes"])
@pytest.mark.parametrize("verb", ["gc", "session remove", "layer remove"])
def test_what_makes_room_needs_none(rig: Rig, disk: Disk, way: str, verb: str) -> None:
    session = rig.kept(KEPT)
    assert rig("session", "commit", session, "mine").status == 0
    if verb == "gc":
        Path(f"{rig.state}/names/mine").unlink()
    fill, _ = WAYS[way]
    fill(disk)
    words = {
        "gc": ("gc",),
        "session remove": ("session", "remove", session),
        "layer remove": ("layer", "remove", "mine"),
    }
    done = rig(*words[verb])
    assert done.status == 0, done
    if verb == "session remove":
        assert rig.sessions() == []
    else:
        assert os.listdir(f"{rig.state}/layers") == [TINY_LAYER]
    assert rig.run("true").status == 0  # which needs a little room


@pytest.mark.parametrize("how", ["fallocate", "inodes"])
def test_a_run_fills_the_disk_and_is_kept(rig: Rig, disk: Disk, how: str) -> None:
    """What it has written is not lost: keeping it needs no more room."""
    assert rig.run("true").status == 0  # the filters are there
    script = {
        "fallocate": "echo x > /x; cat /dev/zero > /big; while echo 12345 >> /more; do :; done",
        "inodes": "echo x > /x; mkdir /d; n=0; while : > /d/$n; do n=$((n+1)); done",
    }[how]
    done = rig.run(f"({script}) 2> /dev/null; exit 3", "--keep")
    assert done.status == 3, done
    [session] = rig.sessions()
    assert f"roost session shell {session}" in done.said, done
    [item] = rig.json("session", "list")
    assert item["kept"]
    assert "/x" in {change["path"] for change in rig.json("session", "diff", session)}
    assert rig("session", "remove", session).status == 0
    assert rig.run("echo works").text == "works\n"


def test_a_matrix_whose_logs_find_no_room(rig: Rig, disk: Disk) -> None:
    """The results are told, although neither they nor the logs could be written."""
    rig.define("".join(f'[machines.m{n}]\nfrom = "layer:tiny"\n' for n in range(2)))
    assert rig("run", "--all", "--", "true").status == 0
    script = "cat /dev/zero > /big 2> /dev/null; while :; do echo a line of output; done | head -n 20000; exit 4"
    done = rig("run", "--all", "-j", "1", "--json", "--", "sh", "-c", script)
    assert done.status == 1, done
    results = json.loads(done.out)["results"]
    assert [(item["state"], item["status"]) for item in results] == [("failed", 4)] * 2
    assert all("its log is not whole: the disk is full" in " ".join(item["warnings"]) for item in results)
    assert all(item["tail"].endswith("a line of output\n") for item in results)
    assert rig("gc").status == 0


def test_what_goes_elsewhere_finds_no_room(tiny: Rig, disk: Disk) -> None:
    """Artifacts, the JUnit file and a new definition; the run itself is told as ever."""
    disk.fill()
    out = str(disk.place)
    script = "head -c 2000000 /dev/zero > /root/a; echo ran; exit 5"
    done = tiny.run(script, "--artifact", "a", "--output", out)
    assert (done.status, done.text) == (5, "ran\n"), done
    assert "the disk is full" in done.said or "No space left" in done.said, done
    done = tiny.run("echo ran; exit 5", "--junit", f"{out}/junit.xml")
    assert (done.status, done.text) == (125, "ran\n"), done
    assert f"the disk is full: {out}/junit.xml" in done.said
    done = tiny("init", f"{out}/roost.toml")
    assert done.status in (0, 2), done  # the name may have found a place, and the text have not
    assert "Traceback" not in done.said
    assert [path.name for path in disk.place.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("count", [8, 20, 100])
def test_too_few_open_files(tiny: Rig, count: int) -> None:
    session = tiny.kept(KEPT)
    tiny.define(BUILT)
    for verb in (
        ("build",), ("run", "tiny", "--", "echo", "ran"), ("session", "commit", session, "mine"), ("gc",), ("layer", "verify"),
        ("session", "remove", session),
    ):  # fmt: skip
        done = tiny(*verb, prefix=("prlimit", f"--nofile={count}"))
        is_clear(done, ("no more files may be opened",))
        assert "ulimit -n" in done.said
    goes_on(tiny, session)


def test_a_matrix_of_more_jobs_than_files(tiny: Rig) -> None:
    tiny.define("".join(f'[machines.m{n}]\nfrom = "layer:tiny"\n' for n in range(60)))
    done = tiny("run", "--all", "-j", "60", "--", "sleep", "1", prefix=("prlimit", "--nofile=128"))
    is_clear(done, ("no more files may be opened",))
    # a job that could open nothing more could not clear up either: the next start does
    assert tiny("run", "m1", "--", "echo", "works").text == "works\n"
    assert tiny.sessions() == []


@pytest.mark.parametrize("mebibytes", [16, 20, 24, 28])
def test_too_little_memory(tiny: Rig, mebibytes: int) -> None:
    """Wherever it is that memory ends: an error of its own, or the work is done."""
    session = tiny.kept(KEPT)
    tiny.define(BUILT)
    limit = ("prlimit", f"--as={mebibytes << 20}")
    for verb in (
        ("build",),
        ("run", "tiny", "--", "true"),
        ("session", "commit", session, "mine"),
        ("layer", "verify"),
    ):
        done = tiny(*verb, prefix=limit)
        text = done.said
        if "shared libraries" in text or "Fatal Python error" in text or "init_fs_encoding" in text:
            continue  # it is the interpreter that does not start
        assert "Traceback" not in text, done
        assert done.status == 0 or "error: " in text or "could not be run" in text, done
    goes_on(tiny, session)


def test_no_more_processes(tiny: Rig) -> None:
    """As in a service with TasksMax: fork(2) says EAGAIN."""
    session = tiny.kept(KEPT)
    tiny.define(BUILT)
    group = f"/sys/fs/cgroup/pids{_own('pids')}/few" if os.path.isdir("/sys/fs/cgroup/pids") else ""
    group = group or f"/sys/fs/cgroup{_own('')}/few"
    os.mkdir(group)
    try:
        for most in (1, 2, 3):
            Path(group, "pids.max").write_text(f"{most + 1}")
            enter = ("sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', group)
            for verb in (("build",), ("session", "commit", session, "mine")):
                done = tiny(*verb, prefix=enter)
                assert "Traceback" not in done.said, done
                assert done.status == 0 or "error: " in done.said, done
    finally:
        os.rmdir(group)
    goes_on(tiny, session)


def _own(controller: str) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller == controllers:
            return path
    return ""
