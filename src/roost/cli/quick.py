"""``roost run MACHINE -- COMMAND`` of a machine that is ready: as the long way does it, loading a third as much.

The parser, msgspec, the definition and the planner cost as much as the interpreter and the session itself. Nothing of
them is needed when nothing has changed since the last plan (``roost.ready``). Whatever is out of the ordinary, in the
words or in the store, goes the long way. A test holds the two ways against each other.
"""

from __future__ import annotations

import os
import sys

from roost.cli.clock import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.ready import Ready
    from roost.results import Result
    from roost.store import Store

_VALUES = {"-f": "file", "--file": "file", "--state": "state"}
_FLAGS = {"-q", "--quiet", "--timings"}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")


def recognise(argv: Sequence[str]) -> tuple[str, str | None, str | None, tuple[str, ...]] | None:
    """Machine, file, state and command of the plainest form of a run; None for everything else."""
    if "--" not in argv:
        return None
    at = list(argv).index("--")
    values: dict[str, str | None] = {"file": None, "state": None}
    plain = []
    words = iter(argv[:at])
    for word in words:
        if word in _VALUES:
            value = next(words, "-")
            if value.startswith("-"):
                return None
            values[_VALUES[word]] = value
        elif word not in _FLAGS:
            plain.append(word)
    command = tuple(argv[at + 1 :])
    if len(plain) != 2 or plain[0] != "run" or not plain[1] or not set(plain[1]) <= _NAME or not command:
        return None
    return plain[1], values["file"], values["state"], command


def run(argv: Sequence[str]) -> int | None:
    """The exit status; None when it has to go the long way, with nothing done."""
    plain = recognise(argv)
    if plain is None or os.geteuid() != 0:
        return None
    machine, file, state, command = plain
    definition = os.path.abspath("roost.toml" if file is None else file)
    clock = Clock()
    from roost import ready
    from roost.errors import LayerGone
    from roost.host import netns
    from roost.store import Store

    clock.lap("imports")
    store = Store(state or os.environ.get("ROOST_STATE"))
    store.prepare()  # first of all: it looks whose directory this is
    known = ready.find(store, definition, machine)
    if known is None:
        return None
    if netns.has_dead_loans(netns.directory()):
        return None  # the long way clears networks too
    clock.lap("definition")
    for cleared in store.sweep():
        print(f"cleared what a killed process left: {cleared}", file=sys.stderr)
    clock.lap("store")
    try:
        result = _run(store, known, command)
    except LayerGone:
        return None
    status = _told(result)
    if "--timings" in argv[: list(argv).index("--")]:
        clock.show([result])
    return status


def _run(store: Store, known: Ready, command: tuple[str, ...]) -> Result:
    from roost.cli.streams import pass_on, restored_terminal, standard_input, stopping
    from roost.sessions import Run, run_once

    with stopping() as stop, restored_terminal():
        return run_once(
            store, known.record, known.terms, Run(command=command), terminal=sys.stdin.isatty() and sys.stdout.isatty(),
            on_output=pass_on, stdin=standard_input(), stop_fd=stop.fd,
        )  # fmt: skip


def _told(result: Result) -> int:
    from roost.results import exit_status

    if not result.passed or result.warnings or result.limit or result.kept:
        from roost.cli.summary import note
        from roost.cli.table import style_of

        if text := note(result, style=style_of(sys.stderr, os.environ)):
            print(text.rstrip("\n"), file=sys.stderr)
    return exit_status([result])
