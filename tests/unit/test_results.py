"""How results are told to programs: exit status, JSON, JUnit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from roost.results import STATES, Artifact, Result, as_json, ending, exit_status, junit

if TYPE_CHECKING:
    from pathlib import Path


def result(state: str, **more: object) -> Result:
    return Result(machine=str(more.pop("machine", "sid")), command=("make", "a b"), state=state, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "status"),
    [
        (result("passed", status=0), 0),
        (result("failed", status=3), 3),
        (result("failed", status=127), 127),
        (result("killed", signal="SIGSEGV"), 139),
        (result("killed", signal="SIGKILL"), 137),
        (result("killed", signal="SIGRTMIN+3"), 128 + 37),
        (result("timed-out", signal="SIGKILL"), 124),
        (result("interrupted"), 130),
        (result("error"), 125),
        (result("skipped"), 125),
    ],
)
def test_a_single_run_ends_as_its_command_did(one: Result, status: int) -> None:
    assert exit_status([one]) == status


def test_a_matrix_ends_with_0_or_1() -> None:
    passed, failed = result("passed", status=0), result("failed", status=3)
    assert exit_status([passed, passed]) == 0
    assert exit_status([passed, failed]) == 1
    assert exit_status([failed], matrix=True) == 1
    assert exit_status([passed, result("skipped")]) == 1
    assert exit_status([passed, failed, result("interrupted")]) == 130


def test_every_state_has_words() -> None:
    assert ending(result("failed", status=2)) == "exit status 2"
    assert ending(result("killed", signal="SIGSEGV")) == "killed by SIGSEGV"
    assert all(ending(result(state)) for state in STATES)


def test_json_has_all_its_keys_and_one_newline_at_its_end() -> None:
    artifact = Artifact(path="/out/x", source="x", size=3)
    text = as_json([result("passed", status=0, started=50.0, artifacts=(artifact,)), result("error")], seconds=1.5)
    assert text.endswith(b"}\n")
    document = json.loads(text)
    assert list(document) == ["roost", "state", "started", "seconds", "counts", "results"]
    assert (document["state"], document["started"], document["seconds"]) == ("failed", 50.0, 1.5)
    assert document["counts"] == {
        "total": 2, "passed": 1, "failed": 0, "killed": 0, "timed-out": 0, "interrupted": 0, "error": 1, "skipped": 0,
    }  # fmt: skip
    first, second = document["results"]
    assert first["command"] == ["make", "a b"]
    assert first["artifacts"] == [{"path": "/out/x", "source": "x", "size": 3}]
    assert second["status"] is None
    assert set(first) == set(second) == set(vars(Result)["_fields"])


def test_json_takes_what_is_not_unicode() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    document = json.loads(as_json([result("passed", log=f"/x/{name}", tail="\x00\x1b")], seconds=0))
    assert document["results"][0]["log"] == "/x/caf\ufffd"
    assert document["results"][0]["tail"] == "\x00\x1b"


def parsed(*results: Result, **more: object) -> ET.Element:
    return ET.fromstring(junit(results, **more))  # type: ignore[arg-type]


def test_junit_counts_and_places_every_kind() -> None:
    everything = [result(state, machine=f"m-{state}", status=2, signal="SIGSEGV") for state in STATES]
    root = parsed(*everything, suite="zstd & co", seconds=3.0)
    suite = root.find("testsuite")
    assert suite is not None
    for element in (root, suite):
        assert element.get("name") == "zstd & co"
        assert [element.get(key) for key in ("tests", "failures", "errors", "time")] == ["7", "3", "2", "3.000"]
    assert (root.get("skipped"), suite.get("skipped")) == (None, "1")  # junit-10.xsd has it in the suite only
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    assert kinds == {
        "m-passed": [], "m-failed": ["failure"], "m-killed": ["failure"], "m-timed-out": ["failure"],
        "m-interrupted": ["error"], "m-error": ["error"], "m-skipped": ["skipped"],
    }  # fmt: skip


def test_junit_tells_why_and_where(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"filling\n" * 20_000 + b"\x1b[31mError\x1b[0m caf\xe9 \x00\x07\n")
    root = parsed(
        result("failed", status=2, log=str(log), warnings=("no *.deb",), kept="sid-1", started=1e9, seconds=1.0)
    )
    case = root.find("testsuite/testcase")
    assert case is not None
    failure, out, err = case
    assert (failure.get("message"), failure.get("type")) == ("exit status 2", "failed")
    assert "$ make 'a b'" in (failure.text or "")
    assert f"log: {log}" in (failure.text or "")
    assert (out.text or "").rstrip().endswith("Error caf\ufffd \ufffd\ufffd")
    assert "first" not in (out.text or "")
    assert len(out.text or "") < 70_000
    assert err.text == "warning: no *.deb"
    assert root.find("testsuite[@timestamp='2001-09-09T01:46:40']") is not None


def test_junit_without_a_log_has_the_tail() -> None:
    root = parsed(result("error", error="no session\nmore", hint="roost gc", tail="last words"))
    error = root.find("testsuite/testcase/error")
    assert error is not None
    assert error.get("message") == "no session"
    assert "hint: roost gc" in (error.text or "")
    assert root.findtext("testsuite/testcase/system-out") == "last words"


@pytest.mark.parametrize("evil", ["\x00\x0b\x1b", "\ufffe\uffff", b"\xff".decode(errors="surrogateescape"), "]]>&<\"'"])
def test_junit_is_xml_whatever_the_output(evil: str) -> None:
    parsed(result("error", error=evil, tail=evil, hint=evil, warnings=(evil,), log=f"/nowhere/{evil}"), suite=evil)


def test_results_import_nothing_heavy() -> None:
    code = "import sys, msgspec; before = set(sys.modules); import roost.results; print(*(set(sys.modules) - before))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not {"xml", "xml.etree", "datetime", "dataclasses", "subprocess", "json", "rich", "logging"} & loaded


def test_a_signal_without_a_name_has_its_number() -> None:
    assert exit_status([Result(machine="a", command=("x",), state="killed", signal="SIG35")]) == 163
