"""What people see while things happen, in a pipe and in a CI log, and when something went wrong."""

from __future__ import annotations

import io

import pytest

from roost.cli.live import LiveMonitor
from roost.cli.render import PlainMonitor, QuietMonitor, SingleMonitor, choose, error_text
from roost.cli.table import Style
from roost.errors import DefinitionError, Error, StepError
from roost.events import (
    Event,
    LayerEnded,
    LayerOutput,
    LayerStarted,
    LayerStep,
    RunEnded,
    RunOutput,
    RunStarted,
    Warned,
)

BUILD: list[Event] = [
    LayerStarted("d1", "base debian bookworm amd64", "not made yet"),
    LayerStep("d1", "install packages", 2, 3),
    LayerOutput("d1", b"Unpacking gcc\nSetting up"),
    LayerEnded("d1", "base debian bookworm amd64", "built", 12.3),
]
RUN: list[Event] = [
    RunStarted("sid", "sid-1", ""),
    RunOutput("sid", 1, b"one\ntw"),
    RunStarted("bookworm", "bookworm-1", ""),
    RunOutput("bookworm", 1, b"caf\xe9\n"),
    RunOutput("sid", 2, b"oops\n"),
    RunOutput("sid", 1, b"o\nno newline"),
    RunEnded("sid", "timed-out", 61.0),
    RunEnded("bookworm", "passed", 12.0),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen(events: list[Event], *, verbose: bool = False, machines: tuple[str, ...] = (), colour: bool = False) -> str:
    stream = io.StringIO()
    with PlainMonitor(stream, style=Style(colour=colour), verbose=verbose, machines=machines) as monitor:
        for event in events:
            monitor(event)
    return stream.getvalue()


def test_a_build_in_a_pipe() -> None:
    assert seen(BUILD).splitlines() == [
        "base debian bookworm amd64: making (not made yet)",
        "base debian bookworm amd64: step 2 of 3: install packages",
        "base debian bookworm amd64: made in 12 s",
    ]


def test_verbose_adds_the_steps_output_to_the_last_byte() -> None:
    lines = seen(BUILD, verbose=True).splitlines()
    assert lines[2:4] == [
        "base debian bookworm amd64 | Unpacking gcc",
        "base debian bookworm amd64 | Setting up",
    ]
    assert lines[4].endswith("made in 12 s")


@pytest.mark.parametrize(
    ("outcome", "words"), [("failed", "failed after 12 s"), ("reused", "another roost"), ("skipped", "not made")]
)
def test_other_ends_of_a_layer(outcome: str, words: str) -> None:
    assert words in seen([LayerEnded("d1", "base", outcome, 12.3)])


def test_a_matrix_in_a_pipe() -> None:
    assert seen(RUN, machines=("sid", "bookworm")).splitlines() == [
        "sid: started",
        "sid      | one",
        "bookworm: started",
        "bookworm | caf\ufffd",
        "sid      | oops",
        "sid      | two",
        "sid      | no newline",
        "sid: timed out after 1 min 01 s",
        "bookworm: passed after 12 s",
    ]


def test_what_is_unfinished_when_all_stops_is_shown() -> None:
    assert seen([RunOutput("sid", 1, b"half a li")], machines=("sid", "b")) == "sid | half a li\n"


def test_no_colour_in_a_pipe_of_our_own() -> None:
    assert "\x1b" not in seen(BUILD + RUN)
    assert "\x1b[32mpassed\x1b[0m" in seen(RUN, colour=True)


def test_quiet_shows_warnings_only() -> None:
    stream = io.StringIO()
    with QuietMonitor(stream, style=Style()) as monitor:
        for event in [*BUILD, *RUN, Warned("no file matches '*.deb'\x1b[2J", "sid"), Warned("low space")]:
            monitor(event)
    assert stream.getvalue() == "warning: sid: no file matches '*.deb'\\x1b[2J\nwarning: low space\n"


def test_one_machine_has_its_output_untouched() -> None:
    out, err = io.BytesIO(), io.BytesIO()
    stdout, stderr = io.TextIOWrapper(out, encoding="ascii"), io.TextIOWrapper(err, encoding="utf-8")
    with choose(stderr, stdout, env={}, machines=("sid",)) as monitor:
        monitor(RunStarted("sid", "sid-1", ""))
        monitor(RunOutput("sid", 1, b"\x00\xff\x1b[2J no newline"))
        monitor(RunOutput("sid", 2, b"to the other\r\n"))
        monitor(RunEnded("sid", "failed", 1.0))
    assert out.getvalue() == b"\x00\xff\x1b[2J no newline"
    assert err.getvalue() == b"to the other\r\n"


def test_json_leaves_stdout_to_the_document() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    choose(stderr, stdout, env={}, machines=("sid",), json=True)(RunOutput("sid", 1, b"text"))
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "text")


@pytest.mark.parametrize(
    ("stream", "env", "options", "kind"),
    [
        (io.StringIO(), {"TERM": "xterm"}, {}, PlainMonitor),
        (Terminal(), {"TERM": "xterm"}, {}, LiveMonitor),
        (Terminal(), {"TERM": "dumb"}, {}, PlainMonitor),
        (Terminal(), {"TERM": "xterm", "CI": "true"}, {}, PlainMonitor),
        (Terminal(), {"TERM": "xterm"}, {"verbose": True}, PlainMonitor),
        (Terminal(), {"TERM": "xterm"}, {"quiet": True}, QuietMonitor),
    ],
)
def test_the_right_monitor(stream: io.StringIO, env: dict[str, str], options: dict[str, bool], kind: type) -> None:
    assert type(choose(stream, io.StringIO(), env=env, machines=("a", "b"), **options)) is kind
    assert type(choose(stream, io.StringIO(), env=env, machines=("a",), **options)) is SingleMonitor


def test_an_error_has_three_parts() -> None:
    error = DefinitionError(
        "roost.toml: 2 mistakes", details="line 3: one\nline 9: two", hint="run roost schema\nor ask"
    )
    assert error_text(error, style=Style()) == (
        "error: roost.toml: 2 mistakes\n"
        "  line 3: one\n"
        "  line 9: two\n"
        "hint: run roost schema\n"
        "hint: or ask\n"
    )  # fmt: skip


def test_an_error_without_more_is_one_line() -> None:
    assert error_text(Error("no"), style=Style()) == "error: no\n"


def test_an_error_fits_the_terminal_and_cannot_act_on_it() -> None:
    error = Error("a name \x1b[2J and many words " * 4, details="\x1b[31mred\x1b[0m\x07", hint="more words " * 12)
    shown = error_text(error, style=Style(), width=40)
    assert max(map(len, shown.splitlines())) <= 40
    assert "\x1b" not in shown
    assert "  red\\x07\n" in shown


def test_a_failed_step_names_its_log() -> None:
    error = StepError("step 2 failed", step="install", log="/var/lib/roost/logs/x", details="E: no such package")
    assert error_text(error, style=Style()).splitlines()[-1] == "  log: /var/lib/roost/logs/x"
