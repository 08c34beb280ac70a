"""The verbs about machines that boot: up, down, restart, rollback, remove, status, enable, disable."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import roost
from roost.cli.common import definition, definition_if_any, print_json, print_table, say, watched
from roost.cli.table import Painted, duration, style_of, terminal_width
from roost.errors import Error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from roost.boot.manage import Machines, Outcome
    from roost.cli.table import Cell
    from roost.updates import Updated

_TONES = {"failed": "bad", "unchanged": "dim", "degraded": "warn", "down": "dim", "running": "good", "up": "good"}


def up(options: argparse.Namespace) -> int:
    """``roost up``: 0 when every machine is up and ready."""
    with watched(options) as (watch, _):
        if options.enabled:
            outcomes = roost.Manager(state=options.state, watch=watch).start_enabled()
            if not outcomes:
                say("no machine is enabled: `roost enable MACHINE`")
            return _told(outcomes, options)
        manager = roost.Manager(definition(options), state=options.state, watch=watch)
        outcomes = manager.up(
            options.machines,
            wait=not options.no_wait,
            ephemeral=True if options.ephemeral else None,
            update=options.update,
            jobs=options.jobs,
        )
    return _told(outcomes, options, manager.updated)


def down(options: argparse.Namespace) -> int:
    """``roost down``: 0 when none of the machines runs any more."""
    with watched(options) as (watch, _):
        manager = roost.Manager(definition_if_any(options), state=options.state, watch=watch)
        outcomes = manager.down(options.machines, remove=options.remove)
    return _told(outcomes, options)


def restart(options: argparse.Namespace) -> int:
    """``roost restart``."""
    with watched(options) as (watch, _):
        manager = roost.Manager(definition_if_any(options), state=options.state, watch=watch)
        outcomes = manager.restart(options.machines)
    return _told(outcomes, options)


def rollback(options: argparse.Namespace) -> int:
    """``roost rollback``."""
    manager = roost.Manager(definition_if_any(options), state=options.state)
    return _told([manager.rollback(options.machine)], options)


def enable(options: argparse.Namespace) -> int:
    """``roost enable`` and ``roost disable``."""
    manager = roost.Manager(definition_if_any(options), state=options.state)
    from roost.boot.units import booted

    enabled = options.verb_name == "enable"
    names = manager.enable(options.machines, enabled=enabled)
    if options.json:
        print_json([{"machine": name, "enabled": enabled} for name in names])
    for name in [] if options.json else names:
        how = "comes up with the host" if enabled else "does not come up with the host any more"
        say(f"{name}: {how}")
    if enabled and not booted():
        say("this host has no systemd: let its own start call `roost up --enabled`")
    return 0


def exec_(options: argparse.Namespace) -> int:
    """``roost exec``."""
    from roost.cli.booted import exec_command

    return exec_command(options, _machine(options).leader)


def login(options: argparse.Namespace) -> int:
    """``roost login``."""
    from roost.cli.booted import login as log_in

    return log_in(options, _machine(options).leader)


def shell(options: argparse.Namespace) -> int:
    """``roost shell --running``."""
    from roost.cli.booted import shell as open_shell

    return open_shell(options, _machine(options).leader)


def logs(options: argparse.Namespace) -> int:
    """``roost logs``."""
    from roost.cli.booted import logs as show

    machines = _boots(options)
    record = machines.records.read(options.machine)
    return show(
        options,
        lambda name: machines.leader(name) if machines.is_up(name) else None,
        lambda _name: machines.console_file(record),
        lambda name: machines.host.console(name, lines=options.lines),
    )


def _boots(options: argparse.Namespace) -> Machines:
    manager = roost.Manager(state=options.state)
    manager.prepare()
    return manager.boots()


def _machine(options: argparse.Namespace) -> Machines:
    """The machines of the store; the one that was asked for gives its environment."""
    machines = _boots(options)
    record = machines.records.read(options.machine)
    if hasattr(options, "env"):
        options.env = [*(f"{name}={value}" for name, value in record.environment.items()), *options.env]
    return machines


def _told(outcomes: Sequence[Outcome], options: argparse.Namespace, updated: Sequence[Updated] | None = None) -> int:
    """Prints what became of the machines; the status of the command."""
    from roost.cli.render import error_text, warning

    failed = [outcome for outcome in outcomes if outcome.action == "failed"]
    if options.json:
        print_json(outcomes if updated is None else _with_packages(outcomes, updated))
        return 1 if failed else 0
    if updated is not None and not options.quiet:
        from roost.cli.updated import tell

        tell(updated)
    rows: list[list[Cell]] = []
    for outcome in outcomes:
        state = outcome.state or ("down" if outcome.action == "stopped" else "")
        rows.append(
            [
                outcome.machine,
                Painted(outcome.action, _TONES.get(outcome.action, "good")),
                Painted(state, _TONES.get(state, "warn")),
                outcome.address,
                duration(outcome.seconds),
                "; ".join(outcome.changes),
            ]
        )
    if not options.quiet:
        headers = ["machine", "action", "state", "address", "time", "changes"]
        kept = [number for number in range(6) if number in (0, 1) or any(_text(row[number]) for row in rows)]
        print_table(
            [headers[n] for n in kept], [[row[n] for n in kept] for row in rows], empty="no machine was brought up"
        )
    style, width = style_of(sys.stderr, os.environ), terminal_width(sys.stderr)
    for outcome in failed:
        _, brief, details, hint, *_ = outcome.error
        named = brief if brief.startswith(f"{outcome.machine} ") else f"{outcome.machine}: {brief}"
        say(f"\n{error_text(Error(named, details=details, hint=hint), style=style, width=width)}".rstrip("\n"))
    for outcome in outcomes:
        for text in outcome.warnings:
            say(warning(text, outcome.machine, style=style))
    return 1 if failed else 0


def _with_packages(outcomes: Sequence[Outcome], updated: Sequence[Updated]) -> list[dict[str, object]]:
    """Each machine's outcome with the packages that an update has changed in its layers."""
    import msgspec

    return [
        {
            **msgspec.to_builtins(outcome),
            "packages": [
                {"layer": one.layer, **msgspec.to_builtins(change)}
                for one in updated
                if outcome.machine in one.machines
                for change in one.changes
            ],
        }
        for outcome in outcomes
    ]


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Painted) else str(cell)


def status(options: argparse.Namespace) -> int:
    """``roost status``: 0 when every machine that was asked for is up."""
    from roost.boot.units import booted

    manager = roost.Manager(definition_if_any(options), state=options.state)
    found = manager.status(options.machines)
    if options.json:
        print_json(found)
    else:
        rows: list[list[Cell]] = []
        for one in found:
            notes = [
                *(["ephemeral"] if one.ephemeral else []),
                *([f"definition changed: {'; '.join(one.outdated)}"] if one.outdated else []),
            ]
            since = duration(time.time() - one.since) if one.since else ""
            with_host = "with the host" if booted() else "by `roost up --enabled`"
            rows.append(
                [
                    one.machine,
                    Painted(one.state, _TONES.get(one.state, "warn")),
                    since,
                    one.address,
                    with_host if one.enabled else "by hand",
                    ", ".join(notes),
                ]
            )
        headers = ["machine", "state", "for", "address", "starts", "notes"]
        kept = [number for number in range(6) if number in (0, 1) or any(_text(row[number]) for row in rows)]
        empty = "no machine was brought up: `roost up MACHINE`"
        print_table([headers[n] for n in kept], [[row[n] for n in kept] for row in rows], empty=empty)
    return 0 if not options.machines or all(one.state != "down" for one in found) else 1
