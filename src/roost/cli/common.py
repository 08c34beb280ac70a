"""What the verbs share: a manager from the options, a monitor, signals, and how tables and documents are printed."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import roost
from roost.cli.streams import stopping
from roost.cli.table import Cell, style_of, table, terminal_width

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from roost.definition import Loaded


def definition(options: argparse.Namespace) -> Loaded:
    """The definition that was asked for."""
    return roost.load(options.file)


def definition_if_any(options: argparse.Namespace) -> Loaded | None:
    """The definition, for verbs that can do without one that nobody named."""
    if options.file is None and not os.path.lexists("roost.toml"):
        return None
    return roost.load(options.file)


@contextlib.contextmanager
def watched(options: argparse.Namespace, machines: Sequence[str] = ()) -> Iterator[tuple[Any, roost.Stop]]:
    """A watch for a manager, and the stop that Ctrl-C asks: once to end cleanly, twice to kill."""
    from roost.cli.render import choose

    with stopping() as stop:
        monitor = choose(
            sys.stderr,
            sys.stdout,
            env=os.environ,
            quiet=options.quiet,
            verbose=options.verbose,
            machines=machines,
            json=options.json,
        )
        with monitor:
            yield roost.Watch(monitor=monitor, tick=monitor.tick, interval=monitor.interval, stop=stop), stop


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, empty: str, **more: Any) -> None:
    """A table on stdout; with no rows, what there is to say instead on stderr."""
    if not rows:
        print(empty, file=sys.stderr)
        return
    text = table(headers, rows, width=terminal_width(sys.stdout), style=style_of(sys.stdout, os.environ), **more)
    print(text.rstrip("\n"))


def print_json(document: object) -> None:
    """One document on stdout."""
    import json

    import msgspec

    print(json.dumps(msgspec.to_builtins(document), indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)
