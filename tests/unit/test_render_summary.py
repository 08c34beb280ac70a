"""The end of a matrix: what failed stands last, with why and what to do."""

from __future__ import annotations

import pytest

from roost.cli.summary import closing, note, summary
from roost.cli.table import SGR, Style, columns
from roost.results import Artifact, Result

LOGS = "/var/lib/roost/results/7"


def result(machine: str, state: str, **more: object) -> Result:
    facts: dict[str, object] = {
        "command": ("make", "check"), "started": 1000.0, "seconds": 12.0, "user_seconds": 20.0, "max_rss": 512 << 20,
        "log": f"{LOGS}/{machine}/log",
    }  # fmt: skip
    return Result(machine=machine, state=state, **{**facts, **more})  # type: ignore[arg-type]


PASSED = result(
    "bookworm", "passed", status=0, artifacts=(Artifact(path="/out/b/x.deb", source="x.deb", size=2 << 20),)
)
FAILED = result(
    "sid", "failed", status=2, kept="sid-3f2a", warnings=("no file matches '*.deb'",), seconds=41.0,
    tail="".join(f"line {at}\n" for at in range(20)) + "\x1b[31mError 2\x1b[0m\n",
)  # fmt: skip
KILLED = result("trixie", "killed", signal="SIGSEGV", tail="")
ERROR = result("noble", "error", error="no session: disk full", hint="roost gc", seconds=0.0, log="")
SKIPPED = [
    result(name, "skipped", error="--fail-fast", seconds=0.0, started=0.0, log="") for name in ("focal", "jammy")
]
ALL = [FAILED, PASSED, KILLED, ERROR, *SKIPPED]


def shown(results: list[Result], width: int | None = 80, *, style: Style = Style()) -> str:  # noqa: B008
    return summary(results, style=style, width=width)


def test_all_passed_is_short() -> None:
    assert shown([PASSED, result("trixie", "passed", status=0, seconds=62.0, user_seconds=0.0)]).splitlines() == [
        "MACHINE   STATE     STATUS        TIME   CPU   MEMORY  ARTIFACTS",
        "bookworm  ✓ passed       0        12 s  20 s  512.0 M  1 (2.0 M)",
        "trixie    ✓ passed       0  1 min 02 s        512.0 M",
        "",
        "logs in /var/lib/roost/results/7",
        "artifacts in /out/b",
        "",
        "2 passed in 1 min 02 s",
    ]


def test_failures_come_last_in_the_table_and_after_it() -> None:
    text = shown(ALL)
    order = [line.split()[0] for line in text.splitlines()[1:7]]
    assert order == ["bookworm", "focal", "jammy", "sid", "trixie", "noble"]
    assert (
        text.index("logs in")
        < text.index("✗ sid  exit status 2 after 41 s")
        < text.index("✗ trixie  killed by SIGSEGV")
    )


def test_a_failure_says_what_to_do() -> None:
    text = shown([PASSED, FAILED])
    assert "line 11\n" in text
    assert "line 10\n" not in text
    assert "  │ Error 2\n" in text
    assert "  warning: no file matches '*.deb'\n" in text
    assert f"  log: {LOGS}/sid/log\n" in text
    assert "  look into it: roost session shell sid-3f2a\n" in text
    assert "--keep" not in text
    assert text.endswith("\n1 passed, 1 failed (sid: exit status 2) in 41 s\n")


def test_what_was_not_kept_can_be_kept_next_time() -> None:
    assert shown([FAILED, KILLED]).count("--keep=on-failure") == 1
    assert "--keep" not in shown([PASSED, ERROR])


def test_roosts_own_failure_has_its_hint() -> None:
    assert "✗ noble  could not be run\n  no session: disk full\n  hint: roost gc\n" in shown([ERROR])


def test_skipped_machines_are_named_with_the_reason() -> None:
    assert "skipped: focal, jammy: --fail-fast\n" in shown(ALL)


def test_a_passed_machine_may_have_warnings_and_be_kept() -> None:
    text = shown([result("a", "passed", warnings=("no file matches",), kept="a-1"), PASSED])
    assert "warning: a: no file matches\n" in text
    assert "roost session shell a-1" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_fits(width: int) -> None:
    long = result("sid", "failed", status=1, tail="x" * 5000 + "\n日本" * 500)
    lines = shown([PASSED, long], width).splitlines()
    table = lines[: lines.index("")]
    assert max(map(columns, table)) <= width + 6 * (width < 50)  # the numbers are never cut
    assert max(columns(line) for line in lines if "│" in line) <= width


def test_colour_and_ascii() -> None:
    assert SGR.sub("", shown(ALL, style=Style(colour=True))) == shown(ALL)
    shown(ALL, style=Style(unicode=False)).encode("ascii")


def test_nothing_in_it_can_act_on_the_terminal() -> None:
    evil = "\x1b[2J\x07\x9b"
    text = shown([result("sid", "error", tail=evil, error=evil, hint=evil, warnings=(evil,), log=f"/x/{evil}")])
    assert not set("\x1b\x07\x9b") & set(text)


def test_the_closing_line_does_not_list_twenty() -> None:
    many = [result(f"m{at}", "failed", status=1) for at in range(20)]
    assert closing(many, style=Style(), seconds=3) == (
        "0 passed, 20 failed (m0: exit status 1, m1: exit status 1, m2: exit status 1, 17 more) in 3.0 s\n"
    )
    assert closing([PASSED, *SKIPPED], style=Style(), seconds=3) == "1 passed, 2 skipped in 3.0 s\n"


def test_after_a_single_run() -> None:
    assert note(PASSED, style=Style()) == ""
    assert note(result("sid", "failed", status=3), style=Style()) == ""
    assert note(KILLED, style=Style()) == "trixie: killed by SIGSEGV after 12 s\n"
    assert note(ERROR, style=Style()) == "noble: could not be run\n  no session: disk full\n  hint: roost gc\n"
    assert note(FAILED, style=Style()).endswith("session kept: roost session shell sid-3f2a\n")


def many(failing: dict[str, str]) -> list[Result]:
    """582 runs on 30 machines; ``failing`` has the state of some by their names."""
    variants = [(f"m{at:02}", str(number)) for number in range(20) for at in range(30 if number < 19 else 12)]
    return [
        result(
            machine,
            failing.get(f"{machine}.{variant}", "passed"),
            variant=variant,
            status=0,
            seconds=1.0,
            tail="no space\n",
        )
        for machine, variant in variants
    ]


def test_582_runs_fit_on_a_screen() -> None:
    text = shown(many({}), 100)
    assert text.count("\n") < 40
    assert "m29      ✓ 19 of 19 passed" in text
    assert text.splitlines()[-1].startswith("582 passed")


def test_failures_that_are_alike_are_shown_once() -> None:
    text = shown(many({f"m07.{number}": "killed" for number in range(9)} | {"m03.1": "timed-out"}), 100)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[29:31]] == ["m03", "m07"]  # those with failures last
    assert "✗ 11 of 20 passed, 9 killed" in next(line for line in lines if line.startswith("m07"))
    assert text.count("│ no space") == 2
    assert "  the same: m07.1, m07.2, m07.3, m07.4, m07.5, m07.6 and 2 more\n" in text
    assert text.count("\n") < 55
    assert text.splitlines()[-1].startswith("572 passed, 10 failed (")


def test_a_matrix_that_fails_everywhere_in_its_own_way_is_still_short() -> None:
    runs = [result(f"m{at}", "failed", variant="x", status=at + 1, tail=f"{at}\n") for at in range(30)]
    text = shown(runs, 100)
    assert text.count("✗ m") == 6
    assert "failed otherwise: m0.x, m1.x, m2.x, m3.x, m4.x, m5.x and 18 more\n" in text


def test_what_was_skipped_is_counted() -> None:
    text = shown(many({f"m01.{number}": "skipped" for number in range(12)}), 100)
    assert "· 8 of 20 passed, 12 skipped" in text
    assert "skipped: m01.0, m01.1, m01.2, m01.3, m01.4, m01.5 and 6 more: not started" in text
