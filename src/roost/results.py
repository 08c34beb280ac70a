"""How a run ended, and how that is told to people (a table is the command line's) and to programs (JSON, JUnit)."""

from __future__ import annotations

import os

from roost.errors import of_os
from roost.structs import Struct, asdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self
    from xml.etree.ElementTree import Element

STATES = ("passed", "failed", "killed", "timed-out", "interrupted", "error", "skipped")

FAILED = frozenset({"failed", "killed", "timed-out", "error"})
"""The states that are somebody's fault: neither passed, nor stopped, nor never started."""

TIMED_OUT = 124
"""As timeout(1) of coreutils ends; 125 is its (and Docker's) own failure, 128 + n a shell's word for a signal."""
OWN_FAILURE = 125
INTERRUPTED = 130

LOG_END = 65536
"""How much of a log (bytes) goes into a JUnit file: CI servers keep these files whole, in memory."""


class Log:
    """A run's output on disk. That it cannot be written ends the log and not the run: ``problem`` says so."""

    def __init__(self, path: str) -> None:
        self._stream = open(path, "ab", buffering=0)  # noqa: SIM115  # closed below
        self.problem = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> None:
        """Adds all of it."""
        rest = memoryview(b"" if self.problem else data)
        try:
            while rest:
                rest = rest[self._stream.write(rest) or 0 :]
        except OSError as e:
            self.problem = of_os(OSError(e.errno, e.strerror, os.fsdecode(self._stream.name))).brief


class Artifact(Struct, frozen=True, kw_only=True):
    """A file copied out of a session: ``path`` on the host, ``source`` inside, ``size`` in bytes."""

    path: str
    source: str
    size: int


class Result(Struct, frozen=True, kw_only=True):
    """One run.

    ``state``: passed, failed (a status other than 0), killed (by a signal), timed-out, interrupted, error (Roost's own
    failure; ``error`` has it) or skipped (never started: ``--fail-fast``, or its layers could not be made).
    ``status`` is the command's exit status, None when it has none; ``signal`` is a name such as SIGSEGV. ``limit`` names
    the limits that were reached, whoever of the run's processes did: ``memory limit 512M``.
    ``started`` is seconds since the epoch; ``seconds``, ``user_seconds`` and ``system_seconds`` are durations,
    ``max_rss`` is bytes. ``timings``: seconds of each phase of a
    session, see ``roost run --timings``. ``variant``: which of a machine's several runs. ``kept`` is the session's id when it was kept.
    ``tail`` is the last of the output.
    """

    machine: str
    command: tuple[str, ...]
    state: str
    status: int | None = None
    signal: str = ""
    limit: str = ""
    started: float = 0.0
    seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    max_rss: int = 0
    timings: dict[str, float] = {}
    session: str = ""
    kept: str = ""
    log: str = ""
    tail: str = ""
    error: str = ""
    hint: str = ""
    warnings: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        """The machine, and the variant after a dot."""
        return f"{self.machine}.{self.variant}" if self.variant else self.machine

    @property
    def passed(self) -> bool:
        """Whether the command ran and ended with status 0."""
        return self.state == "passed"


def plain(result: Result) -> dict[str, Any]:
    """A result as values that every format has."""
    return {**asdict(result), "artifacts": [asdict(artifact) for artifact in result.artifacts]}


def of_plain(values: dict[str, Any]) -> Result:
    """The result that ``plain`` was given."""
    listed = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Result(**{**values, **listed, "artifacts": tuple(Artifact(**item) for item in values["artifacts"])})


def ending(result: Result) -> str:
    """How a run ended, in words: ``exit status 2``, ``killed by SIGSEGV``, ``killed: memory limit 512M``, ``timed out``."""
    if result.state == "error":
        return "could not be run"
    if result.limit and result.state in ("killed", "timed-out"):
        return f"{result.state.replace('-', ' ')}: {result.limit}"
    if result.state == "killed":
        return f"killed by {result.signal or 'a signal'}"
    failed = result.state == "failed" and result.status is not None
    words = f"exit status {result.status}" if failed else result.state.replace("-", " ")
    return f"{words}, {result.limit} reached" if result.limit else words


def overall(results: Sequence[Result]) -> str:
    """The state of a matrix: interrupted when any run was, passed when all did, else failed."""
    if any(result.state == "interrupted" for result in results):
        return "interrupted"
    return "passed" if all(result.passed for result in results) else "failed"


def exit_status(results: Sequence[Result], *, matrix: bool | None = None) -> int:
    """What ``roost run`` ends with.

    A single run: the command's own status, 128 + n for a signal, 124 timed out, 125 Roost's own failure, 130
    interrupted. A matrix: 0 when all passed, 130 when interrupted, else 1. ``matrix`` None: several results are one.
    """
    if len(results) != 1 if matrix is None else matrix:
        return {"passed": 0, "interrupted": INTERRUPTED}.get(overall(results), 1)
    result = results[0]
    if result.state == "failed":
        return result.status or 1
    if result.state == "killed":
        return 128 + signal_number(result.signal)
    return {"passed": 0, "timed-out": TIMED_OUT, "interrupted": INTERRUPTED}.get(result.state, OWN_FAILURE)


def signal_number(name: str) -> int:
    """The number of a signal such as ``SIGSEGV`` or ``SIGRTMIN+3``; KILL's when there is none of that name."""
    from signal import Signals  # makes enums: 1 ms that only this needs

    if name[3:].isdecimal() and name[:3] == "SIG" and len(name) < 6:  # one without a name, as runner.signal_name has it
        return int(name[3:])
    base, _, offset = name.partition("+")
    try:
        return Signals[base].value + int(offset or 0)
    except (KeyError, ValueError):
        return Signals.SIGKILL.value


def as_dict(results: Sequence[Result], *, seconds: float, started: float | None = None) -> dict[str, Any]:
    """The document of ``--json``: its keys are stable, all of them always there.

    ``started`` (seconds since the epoch) is by default when the first run started; ``seconds`` is how long all took.
    """
    from roost.version import __version__

    if started is None:
        started = min((result.started for result in results if result.started), default=0.0)
    counts = {state: sum(result.state == state for result in results) for state in STATES}
    document = {
        "roost": __version__,
        "state": overall(results),
        "started": started,
        "seconds": seconds,
        "counts": {"total": len(results), **counts},
        "results": [plain(result) for result in results],
    }
    return {key: _unicode(value) for key, value in document.items()}


def as_json(results: Sequence[Result], *, seconds: float, started: float | None = None) -> bytes:
    """``as_dict`` as text, indented, with a newline at its end."""
    from msgspec import json

    return json.format(json.encode(as_dict(results, seconds=seconds, started=started)), indent=2) + b"\n"


def _unicode(value: Any) -> Any:
    """``value`` without lone surrogates: arguments and paths may hold bytes that are no UTF-8, JSON may not."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, list | tuple):
        return [_unicode(each) for each in value]
    if isinstance(value, dict):
        return {key: _unicode(each) for key, each in value.items()}
    return value


def junit(results: Sequence[Result], *, suite: str = "roost", seconds: float | None = None) -> bytes:
    """A JUnit XML file: a test case for each machine, with the end of its log as ``system-out``.

    A run that failed, was killed or timed out is a failure; Roost's own failure and an interruption are errors. The
    format is that of Jenkins' junit-10.xsd, which GitLab and GitHub's actions read too.
    """
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    if seconds is None:
        ends = [result.started + result.seconds for result in results if result.started]
        seconds = max(ends, default=0.0) - min((r.started for r in results if r.started), default=0.0)
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(_junit_kind(result) == "failure" for result in results)),
        "errors": str(sum(_junit_kind(result) == "error" for result in results)),
        "time": f"{seconds:.3f}",
    }
    root = Element("testsuites", {"name": _xml(suite), **counts})
    skipped = str(sum(_junit_kind(result) == "skipped" for result in results))  # the format has it here only
    top = SubElement(root, "testsuite", {"name": _xml(suite), **counts, "skipped": skipped})
    if starts := [result.started for result in results if result.started]:
        top.set("timestamp", _iso(min(starts)))
    for result in results:
        top.append(_testcase(result, suite))
    indent(root)
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _junit_kind(result: Result) -> str:
    kinds = {"passed": "", "skipped": "skipped", "error": "error", "interrupted": "error"}
    return kinds.get(result.state, "failure")


def _testcase(result: Result, suite: str) -> Element:
    from xml.etree.ElementTree import Element, SubElement

    case = Element("testcase", classname=_xml(suite), name=_xml(result.name), time=f"{result.seconds:.3f}")
    if kind := _junit_kind(result):
        why = result.error.partition("\n")[0] if result.error else ending(result)
        child = SubElement(case, kind, message=_xml(why))
        if kind != "skipped":
            child.set("type", result.state)
        facts = [ending(result), f"$ {_shell(result.command)}", result.error, result.hint and f"hint: {result.hint}"]
        facts += [f"log: {result.log}" if result.log else "", f"session: {result.kept}" if result.kept else ""]
        child.text = _xml("\n".join(fact for fact in facts if fact))
    if output := _log_end(result):
        SubElement(case, "system-out").text = _xml(output)
    if result.warnings:
        SubElement(case, "system-err").text = _xml("\n".join(f"warning: {text}" for text in result.warnings))
    return case


def _log_end(result: Result) -> str:
    """The end of the log, from a line's start; what the result itself holds when there is no log to read."""
    try:
        with open(result.log, "rb") as log:
            length = log.seek(0, os.SEEK_END)
            log.seek(max(0, length - LOG_END))
            data = log.read(LOG_END)
    except (OSError, ValueError):  # a path with a NUL is a ValueError
        return result.tail
    if length > LOG_END:
        data = b"[the log's end; all of it: " + os.fsencode(result.log) + b"]\n" + data[data.find(b"\n") + 1 :]
    return data.decode(errors="replace")


def _xml(text: str) -> str:
    """``text`` without colours and without the characters that XML 1.0 (section 2.2, Char) forbids."""
    import re  # JUnit alone needs it

    text = re.sub(r"\x1b\[[0-9;:]*[mK]", "", text)
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _shell(command: Sequence[str]) -> str:
    from shlex import join

    return join(command)


def _iso(seconds: float) -> str:
    """ISO 8601 in UTC, as the format wants it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
