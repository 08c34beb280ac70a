"""32 processes build, run, keep, commit, collect, remove, and boot machines in one store: nothing is lost, nobody waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = int(os.environ.get("ROOST_SEED", "0")) or int.from_bytes(os.urandom(3))


def test_a_crowd(new_store: Callable[[], str], tmp_path: Path) -> None:
    command = (sys.executable, "-m", "system.crowd", "--state", new_store(), "--directory", tmp_path)
    done = subprocess.run(
        (*command, "--seconds", "20", "--seed", str(SEED)),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert not report["wrong"], (f"ROOST_SEED={SEED}", report["wrong"])
    for kind in ("run", "keep", "commit", "gc", "use", "session-remove", "layer-remove", "up", "down"):
        assert report["done"].get(kind), report
