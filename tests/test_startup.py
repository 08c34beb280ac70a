"""`roost list` loads what it needs and nothing else: that is what makes it quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "asyncio", "dataclasses", "difflib", "email", "http", "inspect", "logging", "rich", "shutil", "ssl", "subprocess", "tempfile",
    "threading", "unicodedata", "urllib", "urllib3", "xml",
}  # fmt: skip
COMMAND = """
import sys
before = set(sys.modules)
from roost.cli import main
main(sys.argv[1:])
print("|".join(set(sys.modules) - before))
"""


def loaded(*words: str) -> set[str]:
    """The modules that a command loads, beside those that a bare interpreter has."""
    done = subprocess.run((sys.executable, "-c", COMMAND, *words), cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split("|"))


@pytest.mark.parametrize("words", [("list",), ("plan",)])
def test_a_listing_loads_nothing_heavy(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = loaded(*words, "-f", "tests/system/farm.toml", "--state", str(tmp_path))
    assert sorted({name.partition(".")[0] for name in found} & HEAVY) == []
    for name in ("build", "sessions", "matrix", "engine", "pool", "doctor", "artifacts", "host.runner"):
        assert f"roost.{name}" not in found


def test_the_way_to_a_run_loads_next_to_nothing() -> None:
    """What `roost run` of a ready machine imports: see docs/design.md, "How a start stays quick"."""
    names = "roost.cli.quick, roost.ready, roost.cli.streams, roost.host.ranges"
    code = f"import sys; before = set(sys.modules); import {names}; print(*(set(sys.modules) - before))"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = HEAVY | {"msgspec", "typing", "re", "argparse", "json", "hashlib", "tomllib", "datetime", "fnmatch"}
    assert sorted(found & heavy) == []
    for name in ("api", "plan", "definition", "artifacts", "pool", "cli.parser", "cli.render"):
        assert f"roost.{name}" not in done.stdout.split()


def test_the_package_itself_is_a_name() -> None:
    code = "import sys; before = set(sys.modules); import roost; print(roost.__version__, *(set(sys.modules) - before))"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    _, *names = done.stdout.split()
    assert {name for name in names if name.startswith("roost")} <= {"roost", "roost.version"}
