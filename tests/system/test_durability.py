"""The power is cut: what was said to be done is there, what was not is not there by half, and the next command works.

The file system is one that drops what was not synced (the shutdown ioctl of ext4 and xfs), mounted again afterwards.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.disk import Disk
from system.rig import TINY, Rig, below, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILT = TINY + 'scripts = ["echo made > /made; head -c 3000000 /dev/zero > /zeros"]\n'
TINY_LAYER = "7" * 64
SOAK = int(os.environ.get("ROOST_TEST_CUTS", "0"))  # moments for each kind of work, and then on all ways
CUTS = SOAK or 2


# what is on the disk of that which nobody synced: nothing, or names without their content
WAYS = [("ext4", False), ("xfs", True), *([("ext4", True), ("xfs", False)] if SOAK else [])]


@pytest.fixture(params=WAYS, ids=[f"{kind}-{'names' if journal else 'nothing'}" for kind, journal in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, bool]:
    found: tuple[str, bool] = request.param
    return found


@pytest.fixture
def journal(way: tuple[str, bool]) -> bool:
    return way[1]


@pytest.fixture
def disk(way: tuple[str, bool], tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, way[0])
    yield made
    made.unmount()


@pytest.fixture
def rig(disk: Disk, tiny_state: str, tmp_path: Path) -> Rig:
    """The command with its store on the disk."""
    subprocess.run(("cp", "-a", tiny_state, disk.place / "state"), check=True)
    found = Rig(str(disk.place / "state"), tmp_path)
    assert found.run("true").status == 0  # the filters are there
    subprocess.run(("sync", "--file-system", disk.place), check=True)
    return found


def after_the_cut(rig: Rig, disk: Disk) -> str:
    """The power comes back; nothing of what is there may be a part of something. What the first command said."""
    disk.back()
    said = rig("session", "list").said
    assert "Traceback" not in said
    done = rig("layer", "verify", "--json")
    assert done.status == 0, done
    whole = {item["digest"] for item in json.loads(done.out)["layers"]}
    assert whole == set(os.listdir(f"{rig.state}/layers"))
    for name in os.listdir(f"{rig.state}/names"):
        assert Path(f"{rig.state}/names/{name}").read_text() in whole, name
    manager = rig.manager()
    for name in os.listdir(f"{rig.state}/sessions"):
        with manager.open_session(name) as session:
            list(session.changes())
    manager.close()
    assert os.listdir(f"{rig.state}/running") == os.listdir(f"{rig.state}/staging") == []
    parts = [path for path in Path(rig.state).rglob("*.part") if "/layers/" not in str(path)]
    assert parts == []
    assert rig.run("echo works").text == "works\n"
    return said


def kill(child: subprocess.Popen[bytes]) -> None:
    """As the power does it: everything at once."""
    for pid in (child.pid, *below(child.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    child.wait(5)


def test_the_disk_forgets_what_was_not_synced(disk: Disk, journal: bool) -> None:
    """Else the tests here would prove nothing."""
    (disk.place / "forgotten").write_text("x")
    with (disk.place / "kept").open("w") as stream:
        stream.write("x")
        stream.flush()
        os.fsync(stream.fileno())
    (disk.place / "late").write_text("x")
    disk.cut(journal=journal)
    disk.back()
    assert (disk.place / "kept").read_text() == "x"
    assert (disk.place / "late").exists() == journal
    assert not journal or (disk.place / "late").read_text() == ""


def test_what_was_built(rig: Rig, disk: Disk, journal: bool) -> None:
    rig.define(BUILT)
    assert rig("build").status == 0
    disk.cut(journal=journal)
    disk.back()
    other = rig.directory / "other"  # gc of a directory that knows nothing of this definition
    other.mkdir()
    assert Rig(rig.state, other, '[machines.x]\nfrom = "layer:tiny"\n')("gc").status == 0
    assert {item["verb"] for item in rig.json("plan")["layers"]} == {"reuse"}
    after_the_cut(rig, disk)
    done = rig.run("cat /made; wc -c < /zeros")
    assert (done.text, "making" in done.said) == ("made\n3000000\n", False), done


def test_what_was_kept_and_committed(rig: Rig, disk: Disk, journal: bool) -> None:
    session = rig.kept("echo x > /x; head -c 3000000 /dev/zero > /zeros; rm /etc/motd")
    disk.cut(journal=journal)
    after_the_cut(rig, disk)
    found = {item["path"]: item["size"] for item in rig.json("session", "diff", session)}
    assert found == {"/etc/motd": 0, "/x": 2, "/zeros": 3000000}
    assert rig("session", "commit", session, "mine").status == 0
    disk.cut(journal=journal)
    after_the_cut(rig, disk)
    rig.define(TINY.replace("layer:tiny", "layer:mine"))
    assert rig.run("cat /x; wc -c < /zeros; ls /etc/motd").text == "x\n3000000\n"
    done = rig("session", "shell", session, stdin=b"echo more > /x; head -c 1000000 /dev/zero > /zeros\n")
    assert done.status == 0, done
    disk.cut(journal=journal)
    after_the_cut(rig, disk)
    done = rig("session", "shell", session, stdin=b"cat /x; wc -c < /zeros\n")
    assert done.text == "more\n1000000\n", done


def test_a_session_that_was_opened_again_is_not_lost(rig: Rig, disk: Disk, journal: bool) -> None:
    session = rig.kept("echo x > /x")
    with rig.started("session", "shell", session, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"echo begun\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"begun\n"
        disk.cut(journal=journal)
        kill(child)
    after_the_cut(rig, disk)
    assert rig("session", "shell", session, stdin=b"cat /x\n").text == "x\n"


def test_one_that_somebody_asked_to_keep(rig: Rig, disk: Disk, journal: bool) -> None:
    with rig.started("run", "tiny", "--", "sh", "-c", "echo x > /x; echo ready; cat", stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        [item] = rig.json("session", "list")
        assert rig("session", "keep", item["id"]).status == 0
        child.communicate(b"", timeout=20)
    disk.cut(journal=journal)
    after_the_cut(rig, disk)
    assert rig("session", "shell", item["id"], stdin=b"cat /x\n").text == "x\n"


def test_what_a_failed_layer_has_so_far(rig: Rig, disk: Disk, journal: bool) -> None:
    rig.define(TINY + 'scripts = ["head -c 3000000 /dev/zero > /zeros; exit 1"]\n')
    assert rig("build", "--keep-failed").status == 10
    disk.cut(journal=journal)
    rig.define(TINY)
    after_the_cut(rig, disk)
    [item] = rig.json("session", "list")
    assert rig("session", "shell", item["id"], stdin=b"wc -c < /zeros\n").text == "3000000\n"


def test_what_was_removed(rig: Rig, disk: Disk, journal: bool) -> None:
    session = rig.kept("echo x > /x")
    assert rig("session", "commit", session, "mine").status == 0
    assert rig("session", "remove", session).status == 0
    assert rig("layer", "remove", "mine").status == 0
    disk.cut(journal=journal)
    after_the_cut(rig, disk)  # what of it came back is whole, and goes again
    for kept in rig.sessions():
        assert rig("session", "remove", kept).status == 0
    if "mine" in os.listdir(f"{rig.state}/names"):
        assert rig("layer", "remove", "mine").status == 0
    assert rig("gc").status == 0
    assert os.listdir(f"{rig.state}/layers") == [TINY_LAYER]


WORK = {
    "build": ("build",),
    "run --keep": ("run", "tiny", "--keep", "--", "sh", "-c", "echo x > /x; head -c 2000000 /dev/zero > /y"),
    "commit": ("session", "commit", "{session}", "mine"),
    "remove": ("session", "remove", "{session}"),
    "gc": ("gc",),
}


@pytest.mark.parametrize(
    ("work", "way"),
    [
        (work, (kind, False))
        for n, work in enumerate(WORK)
        for kind in (("ext4", "xfs") if SOAK else ("ext4", "xfs")[n % 2 :][:1])
    ],
    ids=str,
)
def test_in_the_middle(rig: Rig, disk: Disk, work: str) -> None:
    """At moments spread over the time that it takes, and one after it has said that it is done."""
    rig.define(BUILT)
    chance = random.Random(work)
    took = 0.6
    for number in range(CUTS):
        session = rig.kept(f"echo {number} > /x; head -c 2000000 /dev/zero > /z") if "{session}" in WORK[work] else ""
        if work == "gc":
            assert rig("build").status == 0
            rig.define(TINY)
            assert rig("list").status == 0
        began = time.monotonic()
        with rig.started(*(word.format(session=session) for word in WORK[work])) as child:
            time.sleep(took * chance.random())
            disk.cut(journal=chance.random() < 0.5)
            done = child.poll() == 0
            if child.poll() is None:
                kill(child)
        took = min(took, time.monotonic() - began) if done else took
        after_the_cut(rig, disk)
        if done and work == "build":
            assert {item["verb"] for item in rig.json("plan")["layers"]} == {"reuse"}
        elif done and work == "commit":
            assert "mine" in os.listdir(f"{rig.state}/names")
        if work in ("commit", "run --keep"):
            assert not session or session in rig.sessions()
        rig.define(BUILT.replace("echo made", f"echo {number}"))
    wait_for(lambda: rig("build").status == 0)
    assert rig.run("echo works").text == "works\n"
