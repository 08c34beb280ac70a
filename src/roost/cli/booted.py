"""The verbs that do something in machines that run already: exec, login, shell --running, logs."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from roost.cli.running import SHELL, absolute, user_of, variable
from roost.cli.streams import pass_on, restored_terminal, standard_input, stopping
from roost.errors import HostError, Interrupted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from roost.boot.leader import Leader
    from roost.engine.execute import Ended
    from roost.results import Result

_TAIL = 65536  # bytes of output that a result keeps


def exec_command(options: argparse.Namespace, running_leader: Callable[[str], Leader]) -> int:
    """``roost exec``: ends as ``roost run`` does, with the command's own status."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not options.json
    return _run(options, running_leader, tuple(options.command), terminal=terminal, timeout=options.timeout)


def shell(options: argparse.Namespace, running_leader: Callable[[str], Leader]) -> int:
    """``roost shell --running``: in the machine itself, not in a session of its own."""
    return _run(options, running_leader, SHELL, terminal=sys.stdin.isatty() and sys.stdout.isatty())


def login(options: argparse.Namespace, running_leader: Callable[[str], Leader]) -> int:
    """``roost login``: the machine's own login(1) asks who it is."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostError("login needs a terminal", hint="`roost exec MACHINE -- COMMAND` needs none")
    options.user, options.directory, options.env = "root", "/", []
    return _run(options, running_leader, ("login",), terminal=True)


def logs(
    options: argparse.Namespace, running_leader: Callable[[str], Leader | None], console: Callable[[str], str],
    kept: Callable[[str], str] = lambda _name: "",
) -> int:  # fmt: skip
    """``roost logs``: ``running_leader`` says None for a machine that is down, ``console`` where its console is kept,
    ``kept`` what of it the host's journal has."""
    from roost.boot.readiness import logs as show
    from roost.cli.output import Lines, prefixed

    lines = Lines() if sys.stdout.isatty() else None  # whoever reads it there is not to be misled by the machine

    def output(block: bytes) -> None:
        pass_on(1, block if lines is None else prefixed(lines.feed(block), "", colour=False).encode())

    with stopping() as stop:
        show(
            running_leader(options.machine), follow=options.follow, lines=options.lines, console=console(options.machine),
            on_output=output, stop_fd=stop.fd, kept=lambda: kept(options.machine),
        )  # fmt: skip
    if lines is not None:
        pass_on(1, prefixed(lines.end(), "", colour=False).encode())
    return Interrupted.exit_code if stop.level and not options.follow else 0


def _run(
    options: argparse.Namespace, running_leader: Callable[[str], Leader], command: tuple[str, ...], *, terminal: bool,
    timeout: float | None = None,
) -> int:  # fmt: skip
    from roost.boot.inside import run_inside
    from roost.engine.execute import Streams
    from roost.results import as_json, exit_status

    user, directory = user_of(options.user), absolute(options.directory, "-w")
    environment = dict(variable(text) for text in options.env)
    leader = running_leader(options.machine)
    tail = bytearray()

    def output(stream: int, data: bytes) -> None:
        pass_on(2 if options.json else stream, data)
        tail.extend(data)
        del tail[:-_TAIL]

    began = time.time()
    with stopping() as stop, restored_terminal():
        ended = run_inside(
            leader, command, user=user, directory=directory, environment=environment, terminal=terminal,
            streams=Streams(on_output=output, stdin=standard_input()), stop_fd=stop.fd, timeout=timeout,
        )  # fmt: skip
    result = _result(options.machine, command, ended, began, bytes(tail))
    if options.json:
        sys.stdout.flush()
        sys.stdout.buffer.write(as_json([result], seconds=ended.seconds) + b"\n")
    else:
        _explain(result)
    return exit_status([result])


def _result(machine: str, command: tuple[str, ...], ended: Ended, began: float, tail: bytes) -> Result:
    from roost.host.runner import signal_name
    from roost.results import Result

    if ended.error:
        state = "error"
    elif ended.stopped:
        state = "timed-out" if ended.stopped == "time" else "interrupted"
    elif ended.signal:
        state = "killed"
    else:
        state = "failed" if ended.status else "passed"
    return Result(
        machine=machine, command=command, state=state, status=ended.status if state in ("passed", "failed") else None,
        signal=signal_name(ended.signal) if ended.signal else "", started=began, seconds=ended.seconds,
        user_seconds=ended.user_seconds, system_seconds=ended.system_seconds, max_rss=ended.max_rss,
        tail=tail.decode(errors="replace"), error=ended.error, hint=ended.hint,
    )  # fmt: skip


def _explain(result: Result) -> None:
    if result.state in ("passed", "failed"):
        return
    from roost.cli.common import say
    from roost.cli.summary import note
    from roost.cli.table import style_of

    say(note(result, style=style_of(sys.stderr, os.environ)).rstrip("\n"))
