"""The linters, as tests: `make lint` runs these alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINTERS = ("ruff check", "ruff format --check src tests tools", "mypy", "lint-imports", "codespell")


@pytest.mark.parametrize("linter", LINTERS)
def test_is_clean(linter: str) -> None:
    name, *options = linter.split()
    program = Path(sys.executable).parent / name
    assert program.exists(), f"{name} is missing: `make setup` installs it"
    done = subprocess.run((str(program), *options), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{linter}\n{done.stdout}{done.stderr}"
