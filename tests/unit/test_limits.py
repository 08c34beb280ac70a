"""Limits as values: how they are written, replaced and told."""

from __future__ import annotations

import pytest

from roost.definition import checks
from roost.engine.limits import told
from roost.engine.spec import Limits
from roost.results import Result, ending, exit_status


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("memory", "512M", 512 << 20), ("memory", 4 << 20, 4 << 20), ("disk", "10G", 10 << 30), ("disk", str(8 << 20), 8 << 20),
        ("output", "1", 1), ("output", "3K", 3072), ("time", "90", 90), ("time", "1.5", 1.5), ("time", "15m", 900), ("time", "2h", 7200),
        ("time", 0.5, 0.5), ("time", "10s", 10), ("cpus", "0.5", 0.5), ("cpus", 2, 2), ("tasks", "100", 100), ("tasks", 1, 1),
    ],
)  # fmt: skip
def test_a_limit_as_it_is_written(name: str, written: str | float, value: float) -> None:
    assert checks.limit(name, written) == (value, "")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("memory", "1M"), ("memory", float("nan")), ("disk", float("inf")),
        ("memory", "-1"), ("memory", ""), ("memory", "2 G"), ("memory", "9" * 30), ("disk", "1M"), ("disk", "2048T"),
        ("output", 0), ("output", "K"), ("time", 0), ("time", "-1"), ("time", "inf"), ("time", "nan"), ("time", "m"), ("time", "1d"),
        ("time", "1e99"), ("cpus", "0"), ("cpus", "nan"), ("cpus", "inf"), ("tasks", "0"), ("tasks", "1.5"), ("tasks", "nan"),
        ("tasks", "inf"), ("tasks", "x"), ("tasks", 1 << 23),
    ],
)  # fmt: skip
def test_what_is_no_limit(name: str, written: str | float) -> None:
    value, wrong = checks.limit(name, written)
    assert wrong
    assert isinstance(value, int | float)


def test_limits_are_told_as_they_would_be_written() -> None:
    limits = Limits(memory=512 << 20, tasks=1000000, disk=1536 << 20, time=5400, output=1000)
    said = "memory limit 512M, tasks limit 1000000, disk limit 1536M, time limit 90m, output limit 1000 bytes"
    assert told(limits, ["memory", "tasks", "disk", "time", "output"]) == said
    assert [told(Limits(time=time), ["time"]) for time in (0.5, 90, 3600, 36000)] == [
        "time limit 0.5s", "time limit 90s", "time limit 1h", "time limit 10h",
    ]  # fmt: skip
    assert told(limits, []) == ""


def test_a_run_replaces_and_lifts_limits_of_its_machine() -> None:
    limits = Limits(memory=1 << 30, tasks=10).changed({"tasks": 20, "memory": None, "time": 5})
    assert limits == Limits(tasks=20, time=5)
    assert limits.changed({}) == limits


@pytest.mark.parametrize(
    ("more", "words", "status"),
    [
        ({"state": "killed", "signal": "SIGKILL", "limit": "memory limit 512M"}, "killed: memory limit 512M", 137),
        ({"state": "timed-out", "limit": "time limit 15m"}, "timed out: time limit 15m", 124),
        ({"state": "failed", "status": 2, "limit": "tasks limit 9"}, "exit status 2, tasks limit 9 reached", 2),
        ({"state": "passed", "status": 0, "limit": "disk limit 1G"}, "passed, disk limit 1G reached", 0),
        ({"state": "killed", "signal": "SIGSEGV"}, "killed by SIGSEGV", 139),
    ],
)
def test_the_end_of_a_run_names_its_limit(more: dict[str, object], words: str, status: int) -> None:
    result = Result(machine="sid", command=("make",), **more)  # type: ignore[arg-type]
    assert ending(result) == words
    assert exit_status([result]) == status
