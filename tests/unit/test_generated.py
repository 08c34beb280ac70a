"""The man page and the completions are what the parser says, and work in the shell that they are for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEFINITION = """
[machines.bookworm]
[machines.bullseye.network]
[machines."trixie"]
[profiles.builder]
"""


@pytest.mark.parametrize("tool", ["man.py", "completions.py"])
def test_generated_files_are_up_to_date(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def complete(*words: str, directory: Path) -> list[str]:
    """What bash would offer for the last of the words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _roost; printf "%s\\n" "${COMPREPLY[@]}"'
    completion = ROOT / "data" / "completions" / "roost.bash"
    done = subprocess.run(
        [bash, "--norc", "-c", script, completion, "roost", *words], capture_output=True, text=True, check=True, cwd=directory,
        env={"PATH": "/usr/bin:/bin", "ROOST_STATE": str(directory / "state")},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "roost.toml").write_text(DEFINITION)
    (tmp_path / "other.toml").write_text("[machines.sid]\n")
    (tmp_path / "checkout").mkdir()
    for name in ("sessions/bookworm-12ab34", "names/prepared", "layers/0123456789"):
        (tmp_path / "state" / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ru"], ["run"]),
        (["run", "b"], ["bookworm", "bullseye"]),
        (["run", "bookworm,tr"], ["bookworm,trixie"]),
        (["run", "--all", "-u", "builder", "tr"], ["trixie"]),
        (["-f", "other.toml", "shell", ""], ["sid"]),
        (["run", "--fail"], ["--fail-fast"]),
        (["run", "--keep", "=", "on"], ["on-failure"]),
        (["run", "--source", "check"], ["checkout"]),
        (["run", "-f", "oth"], ["other.toml"]),
        (["run", "bookworm", "--", "ma"], []),
        (["session", "re"], ["remove"]),
        (["session", "shell", ""], ["bookworm-12ab34"]),
        (["layer", "show", "p"], ["prepared"]),
        (["layer", "show", "01"], ["0123456789"]),
        (["gc", "--d"], ["--dry-run"]),
        (["gc", "--qui"], ["--quiet"]),
    ],
    ids=" ".join,
)
def test_bash_offers(words: list[str], offered: list[str], place: Path) -> None:
    assert complete(*words, directory=place) == offered


def test_the_man_page_has_no_markup_mistake() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    page = ROOT / "data" / "man" / "roost.1"
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-ww", page], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    for verb in ("run MACHINES", "session commit SESSION NAME", "gc"):
        assert f"roost {verb}" in done.stdout
