"""Every example of the documentation is run, as a reader would run it, on real machines."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from roost.network import netlink
from system.boot_rig import OWN_FILES
from system.network_rig import host_at

ROOT = Path(__file__).parents[2]
STATE = os.environ.get("ROOST_STATE", "/var/cache/roost-dev")
MAKEFILE = "test: test-add\n\t./test-add | tee test.log\ntest-add: add.c test.c\n\t$(CC) -O2 -o $@ add.c test.c\n"
ADD = "int add(int a, int b) { return a + b; }\n"
TEST = '#include <stdio.h>\nint add(int, int);\nint main(void) { puts("add: ok"); return add(2, 2) != 4; }\n'


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a page in one language, each with the line that it starts on."""
    text = (ROOT / page).read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small C library with a test, and Roost's state where built layers are."""
    place = tmp_path / "libadd"
    place.mkdir()
    for name, text in (("Makefile", MAKEFILE), ("add.c", ADD), ("test.c", TEST)):
        (place / name).write_text(text)
    monkeypatch.setenv("ROOST_STATE", STATE)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return place


def test_the_library_page(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout.parent)
    [(_, definition)] = blocks("docs/api.md", "toml")
    Path("roost.toml").write_text(definition)
    names: dict[str, object] = {}
    for line, code in blocks("docs/api.md", "python"):
        exec(compile("\n" * (line - 1) + code, "docs/api.md", "exec"), names)  # so that a traceback has the page's line


def test_the_readme_tour(checkout: Path) -> None:
    """Each `sh` block is typed into one shell, in the checkout; each command of it must pass unless it says otherwise."""
    definition = "\n".join(text for _, text in blocks("README.md", "toml"))
    [(_, program)] = blocks("README.md", "python")
    (checkout / "roost.toml").write_text(definition)
    (checkout / "nightly.py").write_text(program)
    for line, code in blocks("README.md", "sh"):
        if "make demo" in code:  # `make test` is what runs this
            continue
        script = shell_script(code)
        done = on_another_host(script, checkout) if "roost up" in script else typed(script, checkout)
        assert done.returncode == 0, f"README.md:{line}\n{script}\n{done.stdout}\n{done.stderr}"
    done = subprocess.run(
        [sys.executable, "nightly.py"], cwd=checkout, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout


def typed(script: str, where: Path, *own: str) -> subprocess.CompletedProcess[str]:
    """A script in a shell of its own."""
    argv = (*own, "sh", "-c", script)
    return subprocess.run(argv, cwd=where, capture_output=True, text=True, timeout=600, check=False)


def on_another_host(script: str, where: Path) -> subprocess.CompletedProcess[str]:
    """The same where machines may boot: in namespaces of the test's own, with layers that were made before."""
    made = typed("roost build builder", where)
    assert made.returncode == 0, made.stderr
    with host_at(str(where.parent / "host")) as host, netlink.inside(host.here.fd):
        own = ("unshare", "--mount", "--propagation=private", "sh", "-c", OWN_FILES, f"{host.root}/etc")
        try:
            return typed(script, where, *own)
        finally:
            typed("roost down --remove builder", where, *own)


def shell_script(code: str) -> str:
    """The commands of a block: what root would type; the session is the one that the tour has kept."""
    newest = "import json, sys; print([s['id'] for s in json.load(sys.stdin) if s['kept'] and s['machine'] == 'bookworm'][-1])"
    session = f'$(roost session list --json | python3 -c "{newest}")'
    lines = ["set -e", "exec </dev/null"]
    for line in code.splitlines():
        command = re.sub(r"\s+#.*", "", line).removeprefix("sudo ")
        command = command.replace("bookworm-4f2a91", session)
        if command == "roost gc":
            command = "roost gc --dry-run"  # other tests' layers are here
        command = command.replace("up --update", "up")  # no mirror is reached from where it boots; test_boot.py has it
        lines.append(command)
    return "\n".join(lines)


def accepted(words: list[str]) -> bool:
    from roost.cli.parser import parse

    try:
        parse(words)
    except SystemExit as error:
        return error.code == 0  # --help
    return True


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/definition.md", "docs/design.md"])
def test_every_command_in_the_text_is_one_that_roost_has(page: str) -> None:
    for code in re.findall(r"`(?:sudo )?(roost [^`]*)`", (ROOT / page).read_text()):
        words = shlex.split(code.replace("…", "-- x"))[1:]
        named_only = words in (["run"], ["shell"], ["session", "commit"], ["layer", "remove"], ["adopt"])
        assert named_only or (words[0] == "run" and "--" not in words) or accepted(words), code
