"""The quick way to run a machine that is ready is the long way, sooner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cli.parser import parse
from roost.cli.quick import recognise
from system.rig import TINY, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from system.rig import Done, Rig

LOADED = """
import os, sys
before = set(sys.modules)
sys.argv = ["roost", *sys.argv[1:]]
end = os._exit
os._exit = lambda status: (print(*(set(sys.modules) - before), file=sys.stderr), sys.stderr.flush(), end(status))
from roost.cli import run
run()
"""


HEAVY = {
    "argparse",
    "datetime",
    "fnmatch",
    "hashlib",
    "json",
    "msgspec",
    "re",
    "shutil",
    "subprocess",
    "tomllib",
    "typing",
}


def loaded(tiny: Rig, *words: str) -> set[str]:
    """The modules that a run loads."""
    done = subprocess.run(
        (sys.executable, "-c", LOADED, *words), cwd=tiny.directory, env=tiny.environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


def is_quick(tiny: Rig, *words: str) -> bool:
    """Whether this goes the quick way, which plans nothing."""
    return "roost.plan" not in loaded(tiny, *words)


def ready(tiny: Rig) -> None:
    """Until the machine is known: a definition that was written only just now is not trusted."""

    def known() -> bool:
        assert tiny.run("true").status == 0
        return is_quick(tiny, "run", "tiny", "--", "true")

    wait_for(known)


def test_it_loads_next_to_nothing(tiny: Rig) -> None:
    """See docs/design.md, "How a start stays quick"."""
    ready(tiny)
    assert sorted(loaded(tiny, "run", "tiny", "--", "true") & HEAVY) == []


def both(tiny: Rig, *command: str, stdin: bytes = b"") -> tuple[Done, Done]:
    """The same by the quick way, and by the long way (a user given, which the quick way leaves alone)."""
    return tiny("run", "tiny", "--", *command, stdin=stdin), tiny(
        "run", "tiny", "-u", "root", "--", *command, stdin=stdin
    )


@pytest.mark.parametrize(
    "script",
    [
        "echo out; echo err >&2",
        "exit 7",
        "kill -9 $$",
        "cat",
        "nosuchcommand",
        "pwd; id; env | grep -v container_uuid | sort",
        "head -c 300000 /dev/zero",
    ],
)
def test_it_ends_and_prints_as_the_long_way(tiny: Rig, script: str) -> None:
    ready(tiny)
    quick, long = both(tiny, "sh", "-c", script, stdin=b"given\n")
    assert quick.status == long.status
    assert quick.out == long.out
    assert [line for line in quick.said.splitlines() if "killed" not in line] == [
        line for line in long.said.splitlines() if "killed" not in line
    ]


def test_a_command_that_is_not_there(tiny: Rig) -> None:
    ready(tiny)
    quick, long = both(tiny, "nosuchcommand")
    assert (quick.status, quick.said) == (long.status, long.said)
    assert quick.status == 127


@pytest.mark.parametrize("change", ["definition", "source", "layer", "name", "damage"])
def test_it_is_given_up_when_anything_has_changed(tiny: Rig, tmp_path: Path, change: str) -> None:
    (tmp_path / "motd").write_text("first\n")
    tiny.define(TINY + 'files = { "/etc/motd" = { source = "motd" } }\n')
    ready(tiny)
    assert tiny.run("cat /etc/motd").text == "first\n"
    if change == "definition":
        tiny.define(TINY + 'files = { "/etc/motd" = { content = "second\\n" } }\n')
    elif change == "source":
        (tmp_path / "motd").write_text("other\n")
    elif change == "layer":
        top = next(name for name in os.listdir(f"{tiny.state}/layers") if name != "7" * 64)
        assert tiny("layer", "remove", top[:16]).status == 0
    elif change == "name":
        os.utime(f"{tiny.state}/names/tiny")
    else:
        for name in os.listdir(f"{tiny.state}/ready"):
            os.truncate(f"{tiny.state}/ready/{name}", 20)
    expected = {"definition": "second\n", "source": "other\n"}.get(change, "first\n")
    assert tiny.run("cat /etc/motd").text == expected


def test_the_memory_is_trusted_only_once_its_inputs_have_settled(tiny: Rig) -> None:
    for number in range(5):
        tiny.define(TINY + f'files = {{ "/n" = {{ content = "{number}" }} }}\n')
        assert tiny.run("cat /n").text == str(number)
        time.sleep(0.01)


WORDS = st.sampled_from(
    [
        "run",
        "tiny",
        "a",
        "-q",
        "--quiet",
        "-f",
        "x.toml",
        "--file",
        "--state",
        "/s",
        "--json",
        "--all",
        "-u",
        "--",
        "true",
        "",
        "list",
        "--keep",
    ]
)


@given(st.lists(WORDS, max_size=8))
def test_what_it_recognises_is_what_the_parser_says(words: list[str]) -> None:
    found = recognise(words)
    if found is not None:
        options = parse(words)
        assert options.verb_name == "run"
        assert ([found[0]], *found[1:]) == (options.machines, options.file, options.state, options.command)
        plain = parse(["run", "m", "--", "true"])
        ignored = {"machines", "file", "state", "command", "quiet", "verb"}
        assert {k: v for k, v in vars(options).items() if k not in ignored and k != "parser"} == {
            k: v for k, v in vars(plain).items() if k not in ignored and k != "parser"
        }


def test_a_definition_that_changed_after_it_was_read_is_not_remembered(tiny: Rig) -> None:
    tiny.define(TINY + 'files = { "/n" = { content = "old" } }\n')
    manager = tiny.manager()
    time.sleep(0.1)
    tiny.define(TINY + 'files = { "/n" = { content = "new" } }\n')
    time.sleep(0.1)
    manager.build()
    manager.close()
    assert tiny.run("cat /n").text == "new"
