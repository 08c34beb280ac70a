"""`roost plan -v`: every layer with what it runs, in the terminal's width, and nothing that is secret."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING, Any

import pytest

import roost
from roost import commands, facts
from roost.cli.planned import words, wrapped
from roost.distro.recipe import RECIPES
from roost.plan import Known, Plan, make

if TYPE_CHECKING:
    from roost.distro.recipe import Family

ALL = Path(__file__).parents[2] / "examples/all-distributions.toml"
SECRET = "S3cretTok3n"
TEXT = f"""
[machines.a]
distribution  = "debian"
release       = "bookworm"
architecture  = "amd64"
packages      = ["@build-essential", "libgit2-24"]
user          = {{ name = "sai", uid = 883 }}
root-password = "$6$saltsalt${"x" * 86}"
files         = {{ "/etc/token" = {{ content = "{SECRET}" }} }}
scripts       = ["echo {SECRET}\\n"]
[machines.f]
distribution  = "fedora"
release       = "32"
architecture  = "amd64"
"""


def plan(path: Path, text: str = TEXT) -> Plan:
    (path / "roost.toml").write_text(text)
    return make(
        list(roost.load(path / "roost.toml").machines.values()), Known(present=(), last={}, names={}), facts.versions
    )


def call(path: Path, *options: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = (
        sys.executable,
        "-m",
        "roost",
        "plan",
        "-f",
        str(file or path / "roost.toml"),
        "--state",
        str(path / "s"),
        *options,
    )
    return subprocess.run(words, capture_output=True, text=True, check=True)


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    """Of a host whose mirror and proxy need a password: not in a word of any command, nor in a note."""
    host = tmp_path / "host"
    for name, text in {
        "etc/apt/apt.conf": f'Acquire::https::Proxy "http://user:{SECRET}@proxy.example:8080";',
        "etc/apt/sources.list": f"deb https://user:{SECRET}@own.example/debian bookworm main\n",
        "etc/apt/auth.conf": f"machine own.example login user password {SECRET}\n",
        "etc/dnf/dnf.conf": f"[main]\nproxy=http://user:{SECRET}@proxy.example/\n",
        "etc/os-release": "ID=debian\n",
    }.items():
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text(text)

    def read(family: Family) -> Any:
        return family.read_host(root=str(host))

    shown = list(commands.of_plan(plan(tmp_path), read))
    assert any("own.example" in word for one in shown for c in one.commands for word in c.argv), (
        "the host's mirror counts"
    )
    assert SECRET in str([command.env for one in shown for command in one.commands]), "the proxy is used"
    for one in shown:
        assert SECRET not in " ".join(one.notes)
        assert not [word for command in one.commands for word in command.argv if SECRET in word]


def test_files_and_scripts_are_counted_not_shown(tmp_path: Path) -> None:
    plan(tmp_path)
    for options in (("-v",), ("-v", "--json")):
        done = call(tmp_path, *options)
        assert SECRET not in done.stdout + done.stderr
        assert "$6$saltsalt" not in done.stdout + done.stderr


def test_each_layer_has_its_commands(tmp_path: Path) -> None:
    plan(tmp_path)
    done = call(tmp_path, "-v")
    said = done.stdout
    assert "\n  mmdebstrap\n    mmdebstrap --mode=root " in said
    assert re.search(r"\n  install 4 packages \(inside\)\n    /bin/sh -c <\d+ lines> install build-essential ", said)
    assert "add-user sai 883 nogroup /home/sai /bin/sh" in said
    assert "\n  - updates: https://archives.fedoraproject.org/pub/archive/fedora/linux/updates/32/" in said
    assert "\n  - archived in May 2021: no more updates\n" in said
    assert "libgit2-24 is not in debian bookworm: libgit2-dev instead" in " ".join(said.split())
    assert "libgit2-24 is not in debian bookworm" in done.stderr
    assert "mmdebstrap" not in call(tmp_path).stdout


def test_the_document_has_the_commands_too(tmp_path: Path) -> None:
    plan(tmp_path)
    document = json.loads(call(tmp_path, "--json", "-v").stdout)
    digests = [layer["digest"] for layer in document["layers"]]
    assert [command["layer"] for command in document["commands"] if command["host"]] == [digests[0], digests[2]]
    assert next(c for c in document["commands"] if c["step"].startswith("install"))["argv"][-1] == "libgit2-dev"
    assert "commands" not in json.loads(call(tmp_path, "--json").stdout)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_the_terminal(tmp_path: Path, width: int) -> None:
    """But for single words that are longer than that."""
    plan(tmp_path)
    above, below = pty.openpty()
    ioctl(below, TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    argv = (
        sys.executable,
        "-m",
        "roost",
        "plan",
        "-v",
        "-f",
        str(tmp_path / "roost.toml"),
        "--state",
        str(tmp_path / "s"),
    )
    env = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen(argv, stdout=below, stderr=subprocess.DEVNULL, env=env) as child:
        os.close(below)
        text = b""
        while True:
            try:
                data = os.read(above, 65536)
            except OSError:  # how a terminal ends
                break
            text += data
        assert child.wait() == 0
    os.close(above)
    lines = text.decode().replace("\r\n", "\n").partition("\n\n")[2].split("\n")
    assert len(lines) > 30
    assert [line for line in lines if len(line) > width and len(line.split()) > 2] == []


def test_words_are_a_shell_s() -> None:
    assert words(("a", "b c", "--hook=x\ny", "x\ny\n", "")) == ["a", "'b c'", "--hook=<2 lines>", "<2 lines>", "''"]
    assert words(("\x1b[31m",)) == ["'\\x1b[31m'"]
    assert list(wrapped(["aaaa", "bbbb", "cccc"], 14, "  ")) == ["  aaaa bbbb \\", "      cccc"]


def test_all_distributions_are_planned_with_their_commands(tmp_path: Path) -> None:
    said = call(tmp_path, "-v", file=ALL).stdout
    for name in RECIPES:
        assert f"\nbase {name} " in said
    for tree in ("tar:", "oci:", "mkosi:"):
        assert f"\nbase {tree}" in said
    assert "build-essential" in said
    assert "of @lws its cmake (3.5) lacks parts of CTest" in " ".join(said.split())
    assert "Traceback" not in said
