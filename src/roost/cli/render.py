"""What people see: the monitors of the command line, and an error's three parts. Results are ``roost.cli.summary``'s.

Monitors write to stderr; stdout is for results. All of them are context managers (whatever happens inside, the
terminal is as before) and have ``tick()``, which the event loop calls every ``interval`` seconds; there are no threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.cli.output import Lines, prefixed
from roost.cli.table import SGR, STATES, Style, clean, columns, duration, style_of
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
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self, TextIO

    from roost.errors import Error
    from roost.events import Event

OUTCOMES = {
    "built": ("made", "made in {}"),
    "reused": ("made", "made by another roost meanwhile"),
    "failed": ("failed", "failed after {}"),
    "skipped": ("skipped", "not made: what it stands on failed"),
}
"""A layer's outcome → the state whose tone and symbol it has, and the words for it."""


class QuietMonitor:
    """Shows warnings and nothing else; what the other monitors are made from."""

    interval: float | None = None
    """How often ``tick`` wants to be called, in seconds; None: never."""

    def __init__(self, stream: TextIO, *, style: Style) -> None:
        self._stream = stream
        self._style = style

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Warned):
            self._write([warning(event.message, event.machine, style=self._style)])

    def tick(self) -> None:
        """Repaint what changes with time."""

    def stop(self) -> None:
        """Leave the terminal to somebody else; later events are shown as plain lines."""

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()


class PlainMonitor(QuietMonitor):
    """One line for each thing that happens, for pipes, CI logs and ``-v``.

    ``verbose`` adds the output of the steps that make layers. A run's output is shown with its machine's name before
    each line; ``machines`` gives those names the same width. ``keep_colours``: colours in that output stay.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        style: Style,
        verbose: bool = False,
        machines: Sequence[str] = (),
        keep_colours: bool = True,
    ) -> None:
        super().__init__(stream, style=style)
        self._verbose = verbose
        self._keep_colours = keep_colours
        self._width = max(map(len, machines), default=0)
        self._names: dict[str, str] = {}  # layer → what people call it
        self._lines: dict[tuple[str, int], Lines] = {}  # (who, stream) → its unfinished line

    def __call__(self, event: Event) -> None:
        if isinstance(event, LayerStarted | LayerStep | LayerOutput | LayerEnded):
            self._layer(event)
        elif isinstance(event, VerifyEnded):
            self._write([verify_text(event, style=self._style)])
        elif isinstance(event, VerifyStarted | MachineStarted):
            pass
        elif isinstance(event, RunOutput):
            lines = self._lines.setdefault((event.machine, event.stream), Lines()).feed(event.data)
            self._prefixed(event.machine, lines)
        elif isinstance(event, MachineEnded):
            self._write([machine_text(event, style=self._style)])
        elif isinstance(event, RunStarted):
            self._write([f"{event.machine}: started"])
        elif isinstance(event, RunEnded):
            self._finish(event.machine)
            word = self._style.paint(event.state.replace("-", " "), STATES[event.state][0])
            self._write([f"{event.machine}: {word} after {duration(event.seconds)}"])
        else:
            super().__call__(event)

    def stop(self) -> None:
        """Show what has no newline yet."""
        for who in dict.fromkeys(who for who, _stream in self._lines):
            self._finish(who)

    def _layer(self, event: LayerStarted | LayerStep | LayerOutput | LayerEnded) -> None:
        if isinstance(event, LayerStarted):
            self._names[event.layer] = clean(event.name)
        name = self._names.get(event.layer) or clean(getattr(event, "name", event.layer))
        if isinstance(event, LayerStarted):
            self._write([f"{name}: making ({clean(event.reason)})"])
        elif isinstance(event, LayerStep):
            self._write([f"{name}: {self._style.paint(step_text(event), 'dim')}"])
        elif isinstance(event, LayerEnded):
            self._finish(name)
            state, words = layer_ended(event)
            self._write([f"{name}: {self._style.paint(words, STATES[state][0])}"])
        elif self._verbose:
            self._prefixed(name, self._lines.setdefault((name, 1), Lines()).feed(event.data))

    def _prefixed(self, who: str, lines: Sequence[str]) -> None:
        if lines:
            prefix = f"{who:{self._width}} {self._style.paint('|', 'dim')} "
            self._stream.write(prefixed(lines, prefix, colour=self._keep_colours))
            self._stream.flush()

    def _finish(self, who: str) -> None:
        for key in [key for key in self._lines if key[0] == who]:
            self._prefixed(who, self._lines.pop(key).end())


class SingleMonitor(QuietMonitor):
    """One machine's run: ``inner`` shows how its layers are made, then the command has the terminal to itself.

    Its output, when it comes as events, is passed on as it came, byte for byte.
    """

    def __init__(self, inner: QuietMonitor, *, stdout: TextIO, stderr: TextIO) -> None:
        self._inner = inner
        self._streams = {1: stdout, 2: stderr}
        self.interval = inner.interval

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunOutput):
            _pass_on(self._streams[event.stream], event.data)
        elif isinstance(event, RunStarted):
            self._inner.stop()
        elif not isinstance(event, RunEnded):
            self._inner(event)

    def tick(self) -> None:
        self._inner.tick()

    def stop(self) -> None:
        self._inner.stop()


def choose(
    stderr: TextIO,
    stdout: TextIO,
    *,
    env: Mapping[str, str],
    quiet: bool = False,
    verbose: bool = False,
    machines: Sequence[str] = (),
    json: bool = False,
) -> QuietMonitor:
    """The monitor for these streams. ``machines``: those that will run a command; none for a build.

    ``json``: stdout is for one document, so a single machine's output goes to stderr.
    """
    style = style_of(stderr, env)
    many = machines if len(machines) > 1 else ()
    if quiet:
        monitor = QuietMonitor(stderr, style=style)
    elif stderr.isatty() and not verbose and env.get("TERM", "dumb") not in {"", "dumb"} and not env.get("CI"):
        from roost.cli.live import LiveMonitor

        monitor = LiveMonitor(stderr, style=style, machines=many)
    else:
        keep_colours = not env.get("NO_COLOR")
        monitor = PlainMonitor(stderr, style=style, verbose=verbose, machines=many, keep_colours=keep_colours)
    if len(machines) == 1:
        return SingleMonitor(monitor, stdout=stderr if json else stdout, stderr=stderr)
    return monitor


def warning(message: str, machine: str = "", *, style: Style) -> str:
    """The line for a warning."""
    return f"{style.paint('warning:', 'warn')} {f'{machine}: ' if machine else ''}{clean(message)}"


def step_text(event: LayerStep) -> str:
    """``step 2 of 5: install packages``."""
    return f"step {event.number} of {event.total}: {clean(event.step)}"


def machine_text(event: MachineEnded, *, style: Style) -> str:
    """A line for a machine that was brought up or down."""
    tone = {"failed": "bad", "unchanged": "dim"}.get(event.action, "good")
    state = f", {clean(event.state)}" if event.state else ""
    return f"{clean(event.machine)}: {style.paint(event.action, tone)}{state} after {duration(event.seconds)}"


def verify_text(event: VerifyEnded, *, style: Style) -> str:
    """``base debian bookworm amd64: whole, read in 0.2 s``."""
    tone = "good" if event.state == "whole" else "bad"
    return f"{clean(event.name)}: {style.paint(event.state.replace('-', ' '), tone)}, read in {duration(event.seconds)}"


def layer_ended(event: LayerEnded) -> tuple[str, str]:
    """How the making of a layer ended: the state that it looks like, and words: ``made in 12 s``."""
    state, words = OUTCOMES[event.outcome]
    return state, words.format(duration(event.seconds))


def error_text(error: Error, *, style: Style, width: int | None = None) -> str:
    """An error's three parts: what happened, the details indented, a line for each hint. Ends with a newline."""
    lines = _hanging("error: ", "error", clean(error.brief), style=style, width=width)
    details = clean(SGR.sub("", error.details).strip("\n"), keep="\n\t")
    lines += [f"  {line}".rstrip() for line in details.splitlines()]
    log = getattr(error, "log", "")
    if log and log not in error.details:
        lines.append(f"  log: {clean(log)}")
    for hint in error.hint.splitlines():
        lines += _hanging("hint: ", "bold", clean(hint), style=style, width=width)
    return "".join(f"{line}\n" for line in lines)


def _hanging(title: str, tone: str, text: str, *, style: Style, width: int | None) -> list[str]:
    """``text`` behind a title, broken between words, the later lines indented."""
    if width is None:
        return [f"{style.paint(title.rstrip(), tone)} {text}"]
    rows, row = [], ""
    for word in text.split(" "):
        longer = f"{row} {word}" if row else word
        if row and columns(title) + columns(longer) > width:
            rows.append(row)
            row = word
        else:
            row = longer
    rows.append(row)
    return [style.paint(title.rstrip(), tone) + " " + rows[0], *(" " * len(title) + row for row in rows[1:])]


def _pass_on(stream: TextIO, data: bytes) -> None:
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(data.decode(errors="replace"))
    else:
        stream.flush()
        binary.write(data)
    stream.flush()
