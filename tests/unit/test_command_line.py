"""What people may write after `roost`, and what no command line may bring about."""

from __future__ import annotations

import os

import pytest

from roost.cli.parser import parse
from roost.cli.running import run_of
from roost.errors import DefinitionError


@pytest.mark.parametrize("columns", ["", "wide", "-5", "0", "1", "99999999999999999999", "٣"])
def test_help_is_as_wide_as_can_be(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    assert "VERB" in capsys.readouterr().out


def test_what_is_wrong_is_shown_and_does_not_act(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["list", "--\x1b[2Jx"])
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "--\\x1b[2Jx" in said


@pytest.mark.parametrize("count", ["0", "-1", "x", "9" * 5000])
def test_a_number_of_jobs_is_one(count: str) -> None:
    with pytest.raises(SystemExit):
        parse(["run", "a", f"-j={count}", "--", "true"])


@pytest.mark.parametrize(
    "words",
    [
        ["-u", os.fsdecode(b"\xff")], ["-u", ""], ["-u", "a:b"], ["-u", "a\nb"], ["-u", "x" * 300],
        ["--source", ".:/"], ["--source", ".:/proc"], ["--source", ".:/../sys/x"], ["--source", os.fsdecode(b".:/\xff")],
        ["--source", ".:/a\nb"], ["--bind", "/tmp:/proc/x"], ["--bind", "/tmp:/../"], ["--bind", os.fsdecode(b"/tmp:/\xff")],
        ["--source", ".:/" + "x" * 300], ["-w", "here"], ["--env", "1=2"],
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(words: list[str]) -> None:
    options = parse(["run", "a", *words, "--", "true"])
    with pytest.raises(DefinitionError) as caught:
        run_of(options)
    assert caught.value.hint


def test_a_place_in_the_session_is_in_its_only_form() -> None:
    run = run_of(
        parse(["run", "a", "--source", ".:/src/", "--source", ".:/a/../b//c", "--bind", "/tmp:/x/", "--", "true"])
    )
    assert [source.target for source in run.sources] == ["/src", "/b/c"]
    assert [bound.target for bound in run.binds] == ["/x"]
