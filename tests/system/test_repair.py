"""What `roost doctor` finds after a crash, and what --repair does about it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from system.rig import TINY

if TYPE_CHECKING:
    from system.rig import Rig


def leftovers(rig: Rig) -> str:
    """What `roost doctor` says of them."""
    found: str = next(check["found"] for check in rig.json("doctor") if check["name"] == "leftovers")
    return found


def repaired(rig: Rig, *, status: int = 0) -> list[dict[str, Any]]:
    """What --repair did."""
    done = rig("doctor", "--repair", "--json")
    assert done.status == status, done
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def made(rig: Rig) -> str:
    """A layer above tiny."""
    rig.define(TINY + '[machines.top]\nfrom = "layer:tiny"\nscripts = ["echo x > /x"]\n')
    before = set(os.listdir(f"{rig.state}/layers"))
    assert rig("build").status == 0
    [digest] = set(os.listdir(f"{rig.state}/layers")) - before
    return digest


def test_a_store_that_is_well(tiny: Rig) -> None:
    tiny.kept("true")
    assert leftovers(tiny) == "none"
    done = tiny("doctor", "--repair")
    assert (done.status, done.out) == (0, b"")
    assert "nothing to repair" in done.said


def test_what_a_killed_process_left(tiny: Rig) -> None:
    for path in ("running/tiny-abcdef/upper/x", "staging/stage-0123456789abcdef/tree/usr", "staging/part-01234567"):
        os.makedirs(os.path.dirname(f"{tiny.state}/{path}"), exist_ok=True)
        Path(f"{tiny.state}/{path}").touch()
    said = leftovers(tiny)
    for text in ("session tiny-abcdef", "half-made layer 0123456789abcdef", "half-written file part-01234567"):
        assert text in said
    assert os.path.isdir(f"{tiny.state}/running/tiny-abcdef")  # looking changes nothing
    assert {item["state"] for item in repaired(tiny)} == {"cleared"}
    assert os.listdir(f"{tiny.state}/running") == os.listdir(f"{tiny.state}/staging") == []
    assert repaired(tiny) == []


def test_a_name_that_means_nothing(tiny: Rig) -> None:
    Path(f"{tiny.state}/names/gone").write_text("c" * 64)
    assert "name gone" in leftovers(tiny)
    [item] = repaired(tiny)
    assert (item["kind"], item["name"], item["state"]) == ("name", "gone", "cleared")
    assert os.listdir(f"{tiny.state}/names") == ["tiny"]


def test_references_are_made_anew(tiny: Rig) -> None:
    session = tiny.kept("true")
    reference = f"{tiny.state}/references/{'7' * 64}"
    os.rename(f"{reference}/{session}", f"{reference}/tiny-fedcba")
    os.mkdir(f"{tiny.state}/references/{'8' * 64}")
    assert {item["kind"] for item in repaired(tiny)} == {"reference"}
    assert os.listdir(reference) == [session]
    assert not os.path.exists(f"{tiny.state}/references/{'8' * 64}")
    assert repaired(tiny) == []


def test_a_session_without_a_record_is_told_and_stays(tiny: Rig) -> None:
    session = tiny.kept("echo mine > /mine")
    os.unlink(f"{tiny.state}/sessions/{session}/session.json")
    assert session in leftovers(tiny)
    items = repaired(tiny, status=1)
    assert [(item["name"], item["state"]) for item in items] == [(session, "stays")]
    assert session in tiny("doctor", "--repair").text
    assert Path(f"{tiny.upper(session)}/mine").read_text() == "mine\n"
    assert tiny("session", "remove", session).status == 0  # what it advises
    assert repaired(tiny)[0]["kind"] == "reference"
    assert repaired(tiny) == []


def test_a_session_whose_layer_is_gone(tiny: Rig) -> None:
    digest = made(tiny)
    session = tiny.kept("true", machine="top")
    shutil.rmtree(f"{tiny.state}/layers/{digest}")
    [item] = repaired(tiny, status=1)
    assert (item["kind"], item["name"], item["state"]) == ("session", session, "stays")
    assert digest[:12] in item["found"]
    assert tiny("build").status == 0  # what it advises
    assert repaired(tiny) == []


def test_a_damaged_record_of_a_layer(tiny: Rig) -> None:
    digest = made(tiny)
    Path(f"{tiny.state}/layers/{digest}/layer.json").write_text('{"digest": ')
    [item] = repaired(tiny)
    assert (item["kind"], item["name"], item["state"]) == ("layer", digest[:12], "cleared")
    assert tiny.run("cat /x", machine="top").text == "x\n"  # made again
    session = tiny.kept("true", machine="top")
    Path(f"{tiny.state}/layers/{digest}/layer.json").write_text("")
    [item] = repaired(tiny, status=1)
    assert item["state"] == "stays"
    assert session in item["found"]
    assert os.path.isdir(f"{tiny.state}/layers/{digest}/tree")


def test_a_layer_whose_parent_is_gone(tiny: Rig) -> None:
    digest = made(tiny)
    os.rename(f"{tiny.state}/layers/{'7' * 64}", f"{tiny.state}/aside")
    assert {(item["kind"], item["name"]) for item in repaired(tiny)} == {("layer", digest[:12]), ("name", "tiny")}
    os.rename(f"{tiny.state}/aside", f"{tiny.state}/layers/{'7' * 64}")


def test_a_damaged_record_of_a_definition(tiny: Rig) -> None:
    assert tiny("build").status == 0
    [name] = os.listdir(f"{tiny.state}/machines")
    Path(f"{tiny.state}/machines/{name}").write_bytes(b"\0" * 100)
    [item] = repaired(tiny)
    assert (item["kind"], item["state"]) == ("record", "cleared")
    assert tiny("build").status == 0
    assert repaired(tiny) == []
