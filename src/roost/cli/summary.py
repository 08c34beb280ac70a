"""How a matrix ended, for people: a table, then what failed and how to look into it, then one line.

With several runs on a machine, the table has a line for each machine, and failures that are alike are shown once: what
hundreds of jobs have to say fits on a screen or two.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from roost.cli.output import last_lines
from roost.cli.render import warning
from roost.cli.table import STATES, Painted, Style, clean, duration, fold, plain, size, table
from roost.results import FAILED, ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.cli.table import Cell
    from roost.results import Result

TAIL = 10
"""Lines of a failed run's output that are shown."""

RANK = {"passed": 0, "skipped": 1, "interrupted": 2}  # all others are failures, and come last
ALIKE = 6
"""Kinds of failures that are shown; runs that are named for each kind."""

NARROW = 70
"""Below this many columns, the table has only what matters most."""


def summary(results: Sequence[Result], *, style: Style, width: int | None = None, seconds: float | None = None) -> str:
    """The whole summary, ready to print. ``width`` None: nothing is shortened.

    ``seconds`` is how long all of it took; by default from the first start to the last end.
    """
    ordered = sorted(results, key=lambda result: RANK.get(result.state, 3))
    bad = [result for result in ordered if result.state in FAILED]
    several = any(result.variant for result in results)
    shown = _by_machine if several else _table
    parts = [shown(ordered, style=style, width=width), _below(ordered, bad, style=style)]
    parts += (
        _failures(bad, style=style, width=width)
        if several
        else [_failure(each, style=style, width=width) for each in bad]
    )
    if any(result.state != "error" and not result.kept for result in bad):
        hint = "run again with --keep=on-failure to look into a session that failed"
        parts.append(f"{style.paint('hint:', 'bold')} {hint}\n")
    parts.append(closing(ordered, style=style, seconds=_span(results) if seconds is None else seconds))
    return "\n".join(part for part in parts if part)


def note(result: Result, *, style: Style) -> str:
    """What to say after a single run, whose output has just been seen: why it ended when its status does not say,
    warnings, the kept session. Empty when there is nothing to add."""
    lines = []
    if result.limit or result.state not in {"passed", "failed"}:
        text = f"{result.machine}: {_ended(result)}"
        lines.append(style.paint(text, style.state(result.state).tone))
        lines += _explained(result, style=style)
    lines += [warning(text, result.machine, style=style) for text in result.warnings]
    if result.kept:
        lines.append(f"session kept: roost session shell {result.kept}")
    return "".join(f"{line}\n" for line in lines)


def closing(results: Sequence[Result], *, style: Style, seconds: float) -> str:
    """``3 passed, 1 failed (sid: exit status 2) in 41 s``."""
    passed = [result for result in results if result.state == "passed"]
    bad = [result for result in results if result.state in FAILED]
    words = [style.paint(f"{len(passed)} passed", "good" if passed else "")]
    if bad:
        named = [f"{result.name}: {ending(result)}" for result in bad[:3]]
        if len(bad) > 3:
            named.append(f"{len(bad) - 3} more")
        words.append(f"{style.paint(f'{len(bad)} failed', 'bad')} ({', '.join(named)})")
    others = [result.state for result in results if result.state in {"interrupted", "skipped"}]
    words += [style.paint(f"{others.count(state)} {state}", "warn") for state in sorted(set(others))]
    return f"{', '.join(words)} in {duration(seconds)}\n"


def _table(results: Sequence[Result], *, style: Style, width: int | None) -> str:
    """One line for each machine; columns that nobody fills are left out."""
    wide = width is None or width >= NARROW
    headers = ["machine", "state", "status", "time"]
    if wide:
        headers += ["cpu", "memory"]
    if any(result.limit for result in results):
        headers.append("limit")
    files = wide and any(result.artifacts for result in results)
    if files:
        headers.append("artifacts")
    rows = []
    for result in results:
        ran = result.state not in {"skipped", "error"} or result.seconds > 0
        row: list[Cell] = [result.machine, style.state(result.state), _status(result)]
        row.append(duration(result.seconds) if ran else None)
        if wide:
            row.append(duration(cpu) if (cpu := result.user_seconds + result.system_seconds) else None)
            row.append(size(result.max_rss) if result.max_rss else None)
        if "limit" in headers:
            row.append(result.limit or None)
        if files:
            total = sum(artifact.size for artifact in result.artifacts)
            row.append(f"{len(result.artifacts)} ({size(total)})" if result.artifacts else None)
        rows.append(row)
    numbers = ("status", "time", "cpu", "memory", "artifacts")
    return table(headers, rows, width=width, style=style, right=numbers, fixed=("state",))


def _by_machine(results: Sequence[Result], *, style: Style, width: int | None) -> str:
    """One line for each machine and its runs, those with failures last, as close as can be to what failed."""
    machines: dict[str, list[Result]] = {}
    for result in results:
        machines.setdefault(result.machine, []).append(result)
    rows: list[list[Cell]] = []
    for name, own in sorted(machines.items(), key=lambda item: (_worst(item[1]), item[0])):
        count = {state: sum(result.state == state for result in own) for state in dict.fromkeys(r.state for r in own)}
        worst = max(own, key=lambda result: RANK.get(result.state, 3)).state
        others = ", ".join(
            f"{number} {state.replace('-', ' ')}" for state, number in count.items() if state != "passed"
        )
        text = f"{style.symbol(worst)} {count.get('passed', 0)} of {len(own)} passed" + (
            f", {others}" if others else ""
        )
        row: list[Cell] = [name, Painted(text, STATES[worst][0]), duration(max(result.seconds for result in own))]
        if width is None or width >= NARROW:
            row.append(duration(sum(result.user_seconds + result.system_seconds for result in own)))
            row.append(size(max(result.max_rss for result in own)))
        rows.append(row)
    headers = ["machine", "runs", "longest", "cpu", "memory"][: len(rows[0])]
    return table(headers, rows, width=width, style=style, right=("longest", "cpu", "memory"), fixed=("runs",))


def _worst(results: Sequence[Result]) -> int:
    return max(RANK.get(result.state, 3) for result in results)


def _failures(bad: Sequence[Result], *, style: Style, width: int | None) -> list[str]:
    """One of each kind of failure, with the names of the others: alike is what ends alike, with the same last line."""
    kinds: dict[tuple[str, str, str], list[Result]] = {}
    for result in bad:
        last = "".join(last_lines(result.tail, 1))
        kinds.setdefault((ending(result), result.error, last), []).append(result)
    ordered = sorted(kinds.values(), key=len)
    hidden, shown = ordered[:-ALIKE], ordered[-ALIKE:]
    parts = []
    if hidden:
        names = _named([result for kind in hidden for result in kind])
        parts.append(f"{style.paint('failed otherwise:', 'bold')} {names}\n")
    for kind in shown:
        text = _failure(kind[0], style=style, width=width)
        if len(kind) > 1:
            text += f"  {style.paint('the same:', 'bold')} {_named(kind[1:])}\n"
        parts.append(text)
    return parts


def _named(results: Sequence[Result]) -> str:
    """``a.1, a.2, b.1 and 12 more``."""
    names = ", ".join(clean(result.name) for result in results[:ALIKE])
    more = len(results) - ALIKE
    return f"{names} and {more} more" if more > 0 else names


def _status(result: Result) -> str:
    return result.signal or ("" if result.status is None else str(result.status))


def _below(results: Sequence[Result], bad: Sequence[Result], *, style: Style) -> str:
    """Where everything is, why machines were skipped, and the warnings of those that did not fail."""
    lines = []
    artifacts = [artifact.path for result in results for artifact in result.artifacts]
    for title, paths in (("logs", [result.log for result in results if result.log]), ("artifacts", artifacts)):
        if paths and (folder := _common(paths)):
            lines.append(f"{style.paint(f'{title} in', 'dim')} {clean(folder)}")
    skipped: dict[str, list[Result]] = {}
    for result in results:
        if result.state == "skipped":
            skipped.setdefault(result.error or "not started", []).append(result)
    lines += [f"{style.paint('skipped:', 'dim')} {_named(those)}: {clean(why)}" for why, those in skipped.items()]
    for result in results:
        if result not in bad:
            lines += [warning(text, result.name, style=style) for text in result.warnings]
            lines += [f"{style.paint('kept:', 'dim')} roost session shell {result.kept}"] if result.kept else []
    return "".join(f"{line}\n" for line in lines)


def _common(paths: Sequence[str]) -> str:
    """The directory that holds all of them; empty when that says nothing."""
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # some absolute, some not
        return ""
    return "" if folder in {"", "/"} else folder


def _failure(result: Result, *, style: Style, width: int | None) -> str:
    """A title, the tail of the log, and what to do next."""
    symbol = style.paint(f"{style.symbol(result.state)} {result.name}", "error")
    lines = [f"{symbol}  {_ended(result)}"]
    bar = style.paint("│" if style.unicode else "|", "dim")
    for line in last_lines(result.tail, TAIL):
        rows = [line] if width is None else fold(line, max(width - 4, 16), rows=3, ellipsis=style.ellipsis)
        lines += [f"  {bar} {row}".rstrip() for row in rows]
    lines += _explained(result, style=style)
    lines += [f"  {warning(text, style=style)}" for text in result.warnings]
    if result.log:
        lines.append(f"  {style.paint('log:', 'dim')} {clean(result.log)}")
    if result.kept:
        lines.append(f"  {style.paint('look into it:', 'dim')} roost session shell {result.kept}")
    return "".join(f"{line}\n" for line in lines)


def _ended(result: Result) -> str:
    """``exit status 2 after 12 s``."""
    return f"{ending(result)} after {duration(result.seconds)}" if result.seconds else ending(result)


def _explained(result: Result, *, style: Style) -> list[str]:
    """Roost's own words about a result."""
    lines = [f"  {plain(line)}" for line in result.error.splitlines()]
    return lines + [f"  {style.paint('hint:', 'bold')} {plain(line)}" for line in result.hint.splitlines()]


def _span(results: Sequence[Result]) -> float:
    ran = [result for result in results if result.started]
    if not ran:
        return 0.0
    return max(result.started + result.seconds for result in ran) - min(result.started for result in ran)
