"""Roost is killed at every named point in turn: nothing is left, nothing is lost, and the next command works."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from system.faults import Worker
from system.scenes import DEFINITION, SCENES, World, kill_at, points_of, wrong

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from system.rig import Rig
    from system.scenes import Scene

ALL = os.environ.get("ROOST_FAULTS") == "all"
SEED = int(os.environ.get("ROOST_SEED", "0")) or int.from_bytes(os.urandom(4))
SIDE_BY_SIDE = 2
SAMPLE = 32  # points of a scene, for each worker one half


def _kill(scene: Scene, points: list[tuple[str, int]], dice: random.Random) -> int:
    reached = 0
    for point, ordinal in points:
        try:
            reached += kill_at(scene, point, ordinal, dice)
        except AssertionError as e:
            raise AssertionError(f"killed at {point!r}, time {ordinal} (ROOST_SEED={SEED}): {e}") from e
    return reached


@pytest.mark.parametrize("kind", SCENES, ids=lambda kind: kind.name)
def test_killed_at_any_point(new_store: Callable[[], str], tmp_path: Path, kind: type[Scene]) -> None:
    """ROOST_FAULTS=all: at every point; else at some, which ROOST_SEED chooses."""
    dice = random.Random(SEED)
    with contextlib.ExitStack() as stack:
        scenes = []
        for number in range(SIDE_BY_SIDE):
            worker = Worker()
            stack.callback(worker.close)
            (tmp_path / str(number)).mkdir()
            scenes.append(kind(World(worker, new_store(), tmp_path / str(number))))
        pool = stack.enter_context(ThreadPoolExecutor(SIDE_BY_SIDE))
        points, *_ = pool.map(points_of, scenes)
        chosen = points if ALL or len(points) <= SAMPLE else dice.sample(points, SAMPLE)
        parts = [chosen[number::SIDE_BY_SIDE] for number in range(SIDE_BY_SIDE)]
        reached = pool.map(_kill, scenes, parts, [random.Random(SEED + n) for n in range(SIDE_BY_SIDE)])
        assert sum(reached) >= len(chosen) * 0.7, "most points are reached again"


def test_a_base_is_killed(new_store: Callable[[], str], tmp_path: Path, layers: dict[str, tuple[str, ...]]) -> None:
    """Before mmdebstrap starts and while it works; with ROOST_FAULTS=all also later, which takes its time."""
    with contextlib.closing(Worker()) as worker:
        world = World(worker, new_store(), tmp_path)
        (tmp_path / "roost.toml").write_text(
            DEFINITION + '[machines.base]\ndistribution = "debian"\nrelease = "bookworm"\n', encoding="utf-8"
        )
        _give_packages(world.state)
        late = ("roost.umount S/staging/stage-ID/archives/merged", "os.rename S/staging/stage-ID -> S/layers/ID")
        for point in ("subprocess.Popen setpriv", "", *(late if ALL else ())):
            killed = world("build", "base", kill=point, timeout=300 if point else 4)
            assert killed.killed or not point, killed
            assert killed.status == -9
            assert not killed.lingering
            recovered = world("layer", "list")
            assert recovered.status == 0
            assert "cleared" in recovered.said, point
            assert not wrong(world.state)
            assert world.listed("layers") == {"7" * 64}


def _give_packages(state: str) -> None:
    cached = f"{os.environ.get('ROOST_STATE', '/var/cache/roost-dev')}/cache/packages"
    if os.path.isdir(cached):
        subprocess.run(("cp", "-alT", cached, f"{state}/cache/packages"), check=True)


def test_the_launcher_kills_and_records(tiny: Rig, tmp_path: Path) -> None:
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = {**tiny.environment(), "PYTHONPATH": tests}
    command = (sys.executable, "-m", "system.faults")
    run = ("--", "roost", "run", "tiny", "--", "echo", "said")
    log = tmp_path / "points"
    done = subprocess.run(
        (*command, "--record", log, *run), cwd=tiny.directory, env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"said\n"
    assert "os.mkdir S/running/tiny-ID" in log.read_text().splitlines()
    done = subprocess.run(
        (*command, "--kill", "os.mkdir S/running/tiny-ID/work", *run),
        cwd=tiny.directory,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (137, b"")
    assert len(tiny.sessions()) == 1
    assert "cleared" in tiny("session", "list").said
    assert tiny.sessions() == []


def test_another_groups_control_group_is_found(tiny: Rig, tmp_path: Path) -> None:
    """Whoever was killed had been started somewhere else: its record says where."""
    with contextlib.closing(Worker()) as worker:
        (tmp_path / "other").mkdir()
        world = World(worker, tiny.state, tmp_path / "other")
        killed = world("run", "tiny", "--", "true", kill="roost.mount merged")
        assert killed.groups
        shown = {check["name"]: check for check in tiny.json("doctor")}["leftovers"]
        assert "control group tiny-" in shown["found"], shown
        assert "doctor --repair" in shown["remedy"]
        said = tiny("layer", "list").said
        assert "control group tiny-" in said
        assert not any(os.path.isdir(text.split()[-1]) for text in killed.groups)
    assert {check["name"]: check for check in tiny.json("doctor")}["leftovers"]["state"] == "ok"
