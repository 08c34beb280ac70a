"""Roost and the supervisors of machines are killed at named points: nothing is left, and the machine comes up again."""

from __future__ import annotations

import contextlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from roost.network import netlink
from system.boot_scenes import BOOT_SCENES, BootWorld, kill_at, points_of, worker_prefix
from system.faults import Worker
from system.network_rig import host_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from system.boot_scenes import BootScene

ALL = os.environ.get("ROOST_FAULTS") == "all"
SEED = int(os.environ.get("ROOST_SEED", "0")) or int.from_bytes(os.urandom(4))
SIDE_BY_SIDE = 2
SAMPLE = 4  # points of a scene


def _kill(scene: BootScene, points: list[tuple[str, int]], dice: random.Random) -> tuple[int, list[str]]:
    """How many points were reached, and what was wrong after which."""
    reached, wrong = 0, []
    for point, ordinal in points:
        try:
            reached += kill_at(scene, point, ordinal, dice)
        except AssertionError as e:
            wrong.append(f"killed at {point!r}, time {ordinal} (ROOST_SEED={SEED}): {str(e)[:2000]}")
            scene.world("down", "--remove", "*")
    return reached, wrong


@pytest.mark.parametrize("kind", BOOT_SCENES, ids=lambda kind: kind.name)
def test_killed_at_any_point(new_store: Callable[[], str], tmp_path: Path, kind: type[BootScene]) -> None:
    """ROOST_FAULTS=all: at every point; else at some, which ROOST_SEED chooses."""
    dice = random.Random(SEED)
    with contextlib.ExitStack() as stack:
        scenes = []
        for number in range(SIDE_BY_SIDE):
            (tmp_path / str(number)).mkdir()
            host = stack.enter_context(host_at(str(tmp_path / f"{number}/host")))
            with netlink.inside(host.here.fd):
                worker = Worker(worker_prefix(host))
            world = BootWorld(worker, new_store(), tmp_path / str(number), host)
            stack.callback(world.close)
            scenes.append(kind(world))
        pool = stack.enter_context(ThreadPoolExecutor(SIDE_BY_SIDE))
        points, *_ = pool.map(points_of, scenes)
        chosen = points if ALL or len(points) <= SAMPLE else dice.sample(points, SAMPLE)
        parts = [chosen[number::SIDE_BY_SIDE] for number in range(SIDE_BY_SIDE)]
        done = list(pool.map(_kill, scenes, parts, [random.Random(SEED + n) for n in range(SIDE_BY_SIDE)]))
        assert not (wrong := [text for _, texts in done for text in texts]), "\n".join(wrong)
        assert sum(reached for reached, _ in done) >= len(chosen) * 0.7, "most points are reached again"
