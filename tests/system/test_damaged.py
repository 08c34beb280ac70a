"""What is damaged on the disk, odd in a tree, or odd on the command line: told in words, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.rig import TINY

if TYPE_CHECKING:
    from system.rig import Rig

DIGEST = "7" * 64


def test_a_layer_with_a_damaged_record_can_be_removed(tiny: Rig) -> None:
    record = Path(tiny.state, "layers", DIGEST, "layer.json")
    record.unlink()  # it has a name in other stores too
    record.write_bytes(b"\0" * 100)
    assert tiny.json("layer", "list") == []
    told = tiny("layer", "show", "tiny")
    assert told.status == 6
    assert "damaged" in told.said
    assert f"roost layer remove {DIGEST[:12]}" in told.said
    assert "Traceback" not in told.said + tiny("gc", "--dry-run").said + tiny("list").said
    removed = tiny("layer", "remove", DIGEST[:12])
    assert removed.status == 0, removed.said
    assert not record.exists()


def test_a_session_with_a_damaged_record_can_be_removed(tiny: Rig) -> None:
    session = tiny.kept("echo one > /new")
    Path(tiny.state, "sessions", session, "session.json").write_bytes(b'{"id":"\xff')
    assert tiny.json("session", "list") == []
    told = tiny("session", "diff", session)
    assert told.status == 6
    assert f"roost session remove {session}" in told.said
    assert tiny("session", "remove", session).status == 0
    assert tiny.sessions() == []


def test_damaged_filters_are_made_anew(tiny: Rig) -> None:
    assert tiny.run("true").status == 0
    (kept,) = Path(tiny.state).glob("seccomp-*")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:200] + bytes(len(whole) - 200))
    assert (
        tiny.run("grep Seccomp_filters: /proc/self/status").text
        == tiny.run("grep Seccomp_filters: /proc/self/status").text
    )
    assert kept.read_bytes() == whole


@pytest.mark.parametrize(
    "made", ["mkfifo /etc/passwd", "mkdir /etc/passwd", "ln -s /dev/zero /etc/passwd", "ln -s /dev/tty /etc/passwd"]
)
def test_a_tree_whose_list_of_users_has_no_end(made: str, tiny: Rig) -> None:
    session = tiny.kept(f"rm /etc/passwd /etc/group; {made}; mkfifo /etc/group")
    assert tiny("session", "commit", session, "odd").status == 0
    tiny("session", "remove", session)
    tiny.define(TINY.replace("tiny", "odd"))
    who, limit = "grep Uid: /proc/self/status", ("--timeout", "20")
    assert tiny.run(who, *limit, machine="odd").text.split()[1] == "0"
    assert tiny.run(who, "-u", "1000", *limit, machine="odd").text.split()[1] == "1000"
    refused = tiny.run("true", "-u", "user", "--source", ".", *limit, machine="odd")
    assert refused.status == 125
    assert "no user user" in refused.said


def test_a_time_that_never_comes(tiny: Rig) -> None:
    assert tiny.run("echo done", "--timeout", "1000h").text == "done\n"


def test_a_signal_without_a_name_is_the_status(tiny: Rig) -> None:
    assert tiny.run("kill -35 $$").status == 128 + 35


def test_a_command_line_that_is_not_utf8(tiny: Rig) -> None:
    odd = os.fsdecode(b"\xff\x1b[2J")
    for words in (("-u", odd), ("--source", f".:/{odd}"), ("--keep", "--bind", f"/tmp:/{odd}")):
        done = tiny.run("true", *words)
        assert done.status == 125
        assert done.said.startswith("error: ")
        assert "\x1b" not in done.said
        assert "Traceback" not in done.said
    assert tiny("run", "tiny", "--", "echo", odd).out == b"\xff\x1b[2J\n"
