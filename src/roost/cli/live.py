"""The live table of a terminal: a line for each layer being made and each machine, repainted in place.

rich moves the cursor, nothing more, and is imported by the first repaint: by then the first child is at work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from roost.cli.output import LastLine
from roost.cli.render import QuietMonitor, layer_ended, machine_text, step_text, verify_text, warning
from roost.cli.table import STATES, Style, clean, columns, cut, duration, terminal_size
from roost.events import (
    LayerEnded,
    LayerOutput,
    LayerStarted,
    LayerStep,
    MachineEnded,
    MachineStarted,
    RunEnded,
    RunOutput,
    RunStarted,
    VerifyEnded,
    VerifyStarted,
    Warned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from roost.events import Event

INTERVAL = 0.1
CALM = 0.2
"""What is over sooner than this (seconds) is never drawn: no flash."""

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_SPINNER = "|/-\\"
BUSY = ("making", "verifying", "running")

# What is shown first when not all fit.
ORDER = {
    "making": 0,
    "verifying": 0,
    "running": 1,
    "failed": 2,
    "killed": 2,
    "timed-out": 2,
    "error": 2,
    "interrupted": 2,
}


class Row:
    """One line of the table. ``since`` is when it started, on the monitor's clock; ``seconds`` once it has ended."""

    def __init__(self, name: str, state: str, since: float = 0.0) -> None:
        self.name = name
        self.state = state
        self.since = since
        self.seconds: float | None = None
        self.step = ""
        self.output = LastLine()

    def detail(self) -> str:
        """What it is doing, or was doing last."""
        if self.state == "passed":
            return ""
        return " · ".join(part for part in (self.step, self.output.text()) if part)


class LiveMonitor(QuietMonitor):
    """Draws at most ten times a second, on events and on ``tick()``; what is finished for good scrolls away above.

    The table is gone when the monitor stops, so that a summary can take its place.
    """

    interval: float | None = INTERVAL

    def __init__(
        self, stream: TextIO, *, style: Style, machines: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, style=style)
        self._clock = clock
        self._began = self._painted = clock()
        self._layers: dict[str, Row] = {}
        self._runs = {name: Row(name, "waiting") for name in machines}
        self._history: list[str] = []  # lines for above the table, not written yet
        self._live: Any = None  # a rich.live.Live, once one is needed
        self._stopped = False

    def __call__(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, LayerStarted):
            self._layers[event.layer] = Row(clean(event.name), "making", now)
        elif isinstance(event, LayerStep | LayerOutput):
            self._layer(event)
        elif isinstance(event, LayerEnded):
            self._layers.pop(event.layer, None)
            state, words = layer_ended(event)
            symbol = self._style.paint(self._style.symbol(state), STATES[state][0])
            self._history.append(f"{symbol} {clean(event.name)}  {self._style.paint(words, 'dim')}")
        elif isinstance(event, VerifyStarted):
            self._layers[event.layer] = Row(clean(event.name), "verifying", now)
        elif isinstance(event, VerifyEnded):
            self._layers.pop(event.layer, None)
            if event.state != "whole":
                self._history.append(verify_text(event, style=self._style))
        elif isinstance(event, MachineStarted):
            self._layers[f"machine {event.machine}"] = Row(event.machine, "at work", now)
        elif isinstance(event, MachineEnded):
            self._layers.pop(f"machine {event.machine}", None)
            self._history.append(machine_text(event, style=self._style))
        elif isinstance(event, Warned):
            self._history.append(warning(event.message, event.machine, style=self._style))
        else:
            self._run(event, now)
        self.tick()

    def tick(self) -> None:
        """Repaint, when it is time to."""
        now = self._clock()
        if self._stopped:
            self._write_history()
        elif now - self._painted >= (INTERVAL if self._live is not None else CALM):
            self._painted = now
            self._paint(now)

    def stop(self) -> None:
        """Take the table off the screen, and give the cursor back."""
        self._stopped = True
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        self._write_history()

    def _layer(self, event: LayerStep | LayerOutput) -> None:
        row = self._layers.get(event.layer)
        if row is None:
            return  # it has ended, and this is the rest of its output
        if isinstance(event, LayerStep):
            row.step = step_text(event)
        else:
            row.output.feed(event.data)

    def _run(self, event: RunStarted | RunOutput | RunEnded, now: float) -> None:
        row = self._runs.setdefault(event.machine, Row(event.machine, "waiting"))
        if isinstance(event, RunStarted):
            row.state, row.since = "running", now
        elif isinstance(event, RunOutput):
            row.output.feed(event.data)
        else:
            row.state, row.seconds = event.state, event.seconds

    def _write_history(self) -> None:
        lines, self._history = self._history, []
        self._write(lines)

    def _paint(self, now: float) -> None:
        from rich.text import Text

        if self._live is None:
            self._live = self._start()
        console = self._live.console
        width, height = terminal_size(self._stream)
        console.size = (width, height)
        if self._history:
            lines, self._history = self._history, []
            console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
        rows = [*self._layers.values(), *self._runs.values()]
        lines = frame(rows, width=width, height=height, style=self._style, now=now)
        lines.append(cut(self._counts(now), width, ellipsis=self._style.ellipsis))
        self._live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def _start(self) -> Any:
        from rich.console import Console
        from rich.live import Live

        console = Console(
            file=self._stream,
            force_terminal=True,
            color_system="standard" if self._style.colour else None,
            highlight=False,
            markup=False,
            emoji=False,
        )
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        live.start()
        return live

    def _counts(self, now: float) -> str:
        """``3/4 done · 1 running · 0 failed · 12 s``."""
        runs = self._runs.values()
        words = []
        if runs:
            over = [row for row in runs if row.seconds is not None]
            words += [
                f"{len(over)}/{len(runs)} done",
                f"{sum(row.state == 'running' for row in runs)} running",
                f"{sum(row.state != 'passed' for row in over)} failed",
            ]
        for state, what in (("making", "being made"), ("verifying", "being verified")):
            if count := sum(row.state == state for row in self._layers.values()):
                words.append(f"{count} layer{'s' * (count > 1)} {what}")
        words.append(duration(now - self._began, whole=True))
        return self._style.dot.join(words)


def frame(rows: Sequence[Row], *, width: int, height: int, style: Style, now: float) -> list[str]:
    """The table's lines, for a screen of ``width`` and ``height``; one line is left for the counts, one for a prompt.

    When not all rows fit, those at work come first, then the failed ones; the rest are counted.
    """
    room = max(height - 2, 1)
    hidden: Sequence[Row] = ()
    if len(rows) > room:
        ordered = sorted(rows, key=lambda row: ORDER.get(row.state, 3 if row.state == "waiting" else 4))
        rows, hidden = ordered[: room - 1], ordered[room - 1 :]
    names = min(max((columns(row.name) for row in rows), default=0), max(width * 2 // 5, 12))
    states = max((len(row.state) for row in rows), default=0)
    times = [_time(row, now) for row in rows]
    clocks = max(map(len, times), default=0)
    lines = []
    for row, clock in zip(rows, times, strict=True):
        name = cut(row.name, names, ellipsis=style.ellipsis)
        name += " " * (names - columns(name))
        tone = STATES[row.state][0] if row.state in STATES else ""
        state = f"{row.state.replace('-', ' '):{states}}"
        room = width - names - states - clocks - 8
        detail = cut(row.detail(), room, ellipsis=style.ellipsis) if room > 3 else ""
        line = f"{style.paint(_symbol(row, style, now), tone or 'bold')} {name}  {style.paint(state, tone)}"
        lines.append(f"{line}  {clock:>{clocks}}  {style.paint(detail, 'dim')}".rstrip())
    if hidden:
        counted = {state: sum(row.state == state for row in hidden) for state in dict.fromkeys(r.state for r in hidden)}
        words = ", ".join(f"{number} {state.replace('-', ' ')}" for state, number in counted.items())
        lines.append(style.paint(cut(f"{style.ellipsis} and {words}", width, ellipsis=style.ellipsis), "dim"))
    return lines


def _time(row: Row, now: float) -> str:
    if row.seconds is not None:
        return duration(row.seconds, whole=True)
    return duration(now - row.since, whole=True) if row.state in BUSY else ""


def _symbol(row: Row, style: Style, now: float) -> str:
    if row.state in STATES:
        return style.symbol(row.state)
    spinner = SPINNER if style.unicode else PLAIN_SPINNER
    return spinner[int(now / INTERVAL) % len(spinner)]
