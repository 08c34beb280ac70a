"""A family that an installed package brings: found by its entry point, held against the protocol, part of identities."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from stored_layers import put

from roost.store import Store

if TYPE_CHECKING:
    from pathlib import Path

MODULE = '''
"""dnf's ways, under another name."""
from roost.distro.dnf import *
from roost.distro.dnf import ARCHIVE_ENDINGS, NOBODY_GROUP, STATUS_PATH
NAME = "slack"
VERSION = 3
'''
RECIPE = """
family = "slack"
architectures = ["amd64"]
mirrors = { main = "https://mirror.example/slack" }
keyring = "/usr/share/keys/slack.asc"
keyring-package = "slack-keys"
bootstraps = ["dnf"]
variant = "minimal"
variants = ["minimal"]
packages = { minimal = ["bash"] }
[releases.15]
suites = [{ name = "base", path = "{release}/" }]
"""
DEFINITION = """
[machines.a]
distribution = "slackware"
release = "15"
architecture = "amd64"
packages = { slack = ["git"], apt = ["other"] }
"""
PLAN = "import roost; m = roost.Manager(roost.load('roost.toml')); print(*(x.digest for x in m.plan().layers))"


def installed(path: Path, module: str = MODULE, value: str = "roost_slack") -> None:
    """As pip leaves it: a module, and its .dist-info beside it."""
    (path / "roost_slack.py").write_text(module)
    about = path / "roost_slack-1.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: roost-slack\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[roost.families]\nslack = {value}\n")
    (path / "recipes").mkdir(exist_ok=True)
    (path / "recipes/slackware.toml").write_text(RECIPE)
    (path / "roost.toml").write_text(DEFINITION)


def python(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin", "ROOST_STATE": str(path / "state")}
    return subprocess.run((sys.executable, "-c", code), cwd=path, env=env, capture_output=True, text=True, check=False)


def roost(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin", "ROOST_STATE": str(path / "state")}
    return subprocess.run(
        (sys.executable, "-m", "roost", *words), cwd=path, env=env, capture_output=True, text=True, check=False
    )


def test_its_machines_are_planned_with_its_commands(tmp_path: Path) -> None:
    installed(tmp_path)
    done = roost(tmp_path, "plan", "-v")
    assert done.returncode == 0, done.stderr
    assert "base slackware 15 amd64" in done.stdout
    assert "  install git (inside)" in done.stdout
    assert "2 to make" in done.stderr


def test_its_version_is_part_of_every_layer(tmp_path: Path) -> None:
    installed(tmp_path)
    first = python(tmp_path, PLAN).stdout.split()
    assert len(first) == 2
    installed(tmp_path, MODULE.replace("VERSION = 3", "VERSION = 14"))
    second = python(tmp_path, PLAN).stdout.split()
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("VERSION = 3", ""), "VERSION: a whole number from 1 on"),
        (('NAME = "slack"', 'NAME = "slak"'), "NAME: it is 'slak', and its entry point 'slack'"),
        (("VERSION = 3", "VERSION = 3\ndel add_user"), "add_user: missing"),
        (("VERSION = 3", "VERSION = 3\ndef install(names): ..."), "install: it is called with (packages, init=): got an unexpected"),
        (("VERSION = 3", "VERSION = 3\nenable = 1"), "enable: not a function"),
        (("VERSION = 3", "VERSION = 3\nARCHIVE_ENDINGS = '.rpm'"), "ARCHIVE_ENDINGS: not a tuple"),
        (("VERSION = 3", "raise OSError('no')"), "OSError: no"),
    ],
)  # fmt: skip
def test_what_is_no_family_is_refused_in_words(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    installed(tmp_path, MODULE.replace(*change))
    done = roost(tmp_path, "plan")
    assert done.returncode == 2, done
    assert says in done.stderr
    assert "roost_slack" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_mistake_of_a_family_is_told_at_once(tmp_path: Path) -> None:
    installed(tmp_path, "NAME = 'slack'\n")
    said = roost(tmp_path, "plan").stderr
    for name in ("VERSION", "bootstrap: missing", "install: missing", "read_host: missing", "STATUS_PATH: missing"):
        assert name in said


def test_without_the_package_the_family_is_unknown(tmp_path: Path) -> None:
    installed(tmp_path)
    (tmp_path / "roost_slack-1.0.dist-info/entry_points.txt").write_text("")
    said = roost(tmp_path, "plan").stderr
    assert "recipes/slackware.toml:2: family: unknown family of distributions" in said


def test_on_a_layer_of_a_family_that_is_gone_scripts_work_and_packages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "state/names").mkdir(parents=True)
    (tmp_path / "state/names/kept").write_text(put(Store(str(tmp_path / "state")), "kept", family="slack"))
    (tmp_path / "roost.toml").write_text('[machines.a]\nfrom = "layer:kept"\nscripts = ["true"]\n')
    assert "script 1 (inside)" in roost(tmp_path, "plan", "-v").stdout
    (tmp_path / "roost.toml").write_text('[machines.a]\nfrom = "layer:kept"\npackages = ["git"]\n')
    done = roost(tmp_path, "plan", "-v")
    assert "packages cannot be had on layer:kept: the family slack is gone" in done.stdout + done.stderr


def test_families_of_roost_never_look_for_packages(tmp_path: Path) -> None:
    """Which takes as long as everything else of a plan."""
    (tmp_path / "roost.toml").write_text(
        '[machines.a]\ndistribution = "debian"\nrelease = "sid"\narchitecture = "amd64"\n'
    )
    done = python(tmp_path, f"{PLAN}; import sys; print('importlib.metadata' in sys.modules)")
    assert done.stdout.split()[-1] == "False", done
