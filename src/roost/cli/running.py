"""The verbs that run something: ``run`` and ``shell``."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import roost
from roost.cli.clock import Clock
from roost.cli.common import definition, say, watched
from roost.cli.streams import restored_terminal, standard_input
from roost.cli.table import style_of, terminal_width
from roost.definition import checks
from roost.engine.spec import Bound
from roost.errors import DefinitionError
from roost.events import RunEnded, RunOutput, RunStarted
from roost.results import exit_status

if TYPE_CHECKING:
    import argparse

    from roost.definition import Loaded

_TOLD = ("warnings", "kept", "artifacts", "limit")
SHELL = ("sh", "-c", 'exec "${SHELL:-/bin/sh}" -l')


def run(options: argparse.Namespace) -> int:
    """``roost run``."""
    clock = Clock()
    if not options.machines and not options.all and not options.profile:
        raise DefinitionError(
            "no machine was named", hint="name machines, or say --all: `roost run --all -- make test`"
        )
    if options.machines and options.all:
        raise DefinitionError("--all and names of machines exclude each other", hint="leave one of them out")
    loaded = definition(options)
    manager = roost.Manager(loaded, state=options.state)
    names = [machine.name for machine in manager.machines(options.machines, profile=options.profile)]
    what = run_of(options)
    clock.lap("definition")
    if options.junit:
        _check_file(options.junit)
    single = len(names) == 1 and not (options.all or options.profile or options.matrix) and names == options.machines
    began = time.monotonic()
    results = [_single(options, loaded, names[0], what)] if single else _matrix(options, loaded, names, what)
    seconds = time.monotonic() - began
    if options.json:
        from roost.results import as_json

        sys.stdout.flush()
        sys.stdout.buffer.write(as_json(results, seconds=seconds) + b"\n")
    elif single and results[0].passed and not any(getattr(results[0], name) for name in _TOLD):
        pass  # its output has said all
    elif single:
        from roost.cli.summary import note

        if text := note(results[0], style=style_of(sys.stderr, os.environ)):
            say(text.rstrip("\n"))
    else:
        from roost.cli.summary import summary

        say("")
        print(
            summary(
                results, style=style_of(sys.stdout, os.environ), width=terminal_width(sys.stdout), seconds=seconds
            ).rstrip("\n")
        )
    if options.junit:
        from roost.host.files import write_atomic
        from roost.results import junit

        write_atomic(os.path.realpath(options.junit), junit(results, seconds=seconds))
    if options.timings:
        clock.show(results)
    return exit_status(results, matrix=not single)


def _single(options: argparse.Namespace, loaded: Loaded, name: str, what: roost.Run) -> roost.Result:
    """One machine: its streams are this process's own, as far as they can be."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not options.json
    with watched(options, [name]) as (watch, stop):
        manager = roost.Manager(loaded, state=options.state, watch=watch)
        monitor = watch.monitor

        def output(stream: int, data: bytes) -> None:
            monitor(RunOutput(machine=name, stream=stream, data=data))

        with restored_terminal():
            result = manager.run(
                name, what, keep=options.keep, jobs=options.jobs, verify=options.verify, terminal=terminal, on_output=output,
                stdin=standard_input(), stop_fd=stop.fd,
                on_start=lambda session: monitor(RunStarted(machine=name, session=session, log="")),
            )  # fmt: skip
        manager.close()
        monitor(RunEnded(machine=name, state=result.state, seconds=result.seconds))
    return result


def _check_file(path: str) -> None:
    """A mistake in ``--junit`` is told before the run, not after it."""
    if os.path.isdir(path):
        raise DefinitionError(f"--junit {path}: this is a directory", hint="name the file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DefinitionError(f"--junit {path}: this is no regular file", hint="name the file to write")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise DefinitionError(f"--junit {path}: its directory does not exist", hint="make it first")


def _matrix(options: argparse.Namespace, loaded: Loaded, names: list[str], what: roost.Run) -> list[roost.Result]:
    variants: list[roost.Variant] = []
    if options.matrix:
        from roost.matrix import axes

        variants = axes(options.matrix)
    rows = [f"{name}.{variant.name}" for name in names for variant in variants] or names
    with watched(options, rows if len(rows) > 1 else [rows[0], ""]) as (watch, _):
        manager = roost.Manager(loaded, state=options.state, watch=watch)
        return manager.matrix(
            names,
            what,
            jobs=options.jobs,
            keep=options.keep,
            fail_fast=options.fail_fast,
            variants=variants,
            verify=options.verify,
        )


def shell(options: argparse.Namespace) -> int:
    """``roost shell``."""
    if options.running:
        from roost.cli.machines import shell as running_shell

        return running_shell(options)
    options.artifact, options.output, options.timeout = [], "", None
    options.limit.insert(0, ("time", None))  # the definition's is for runs: a person may look around for longer
    options.command = SHELL
    options.jobs = None
    loaded = definition(options)
    manager = roost.Manager(loaded, state=options.state)
    names = [machine.name for machine in manager.machines([options.machine])]
    if len(names) != 1:
        raise DefinitionError(f"{options.machine!r} means {len(names)} machines", hint="a shell is opened in one")
    result = _single(options, loaded, names[0], run_of(options))
    if result.error or result.kept or result.limit:
        from roost.cli.summary import note

        say(note(result, style=style_of(sys.stderr, os.environ)).rstrip("\n"))
    return exit_status([result])


def run_of(options: argparse.Namespace) -> roost.Run:
    """What the options ask to be run. Raises DefinitionError for an option that cannot be meant."""
    return roost.Run(
        command=options.command,
        user=user_of(options.user),
        directory=absolute(options.directory, "-w"),
        environment=dict(variable(text) for text in options.env),
        sources=_sources(options.source),
        binds=tuple(_bind(text) for text in options.bind),
        artifacts=tuple(options.artifact),
        output=options.output,
        timeout=options.timeout,
        limits=dict(options.limit),
    )


def user_of(name: str) -> str:
    """The user of ``-u``. Raises DefinitionError."""
    if not name or ":" in name or not name.isprintable() or len(name) > 256:
        raise DefinitionError(
            f"-u {name[:40]!r} cannot be a user", hint="a name of the machine's /etc/passwd, or a number"
        )
    return name


def _target(path: str, option: str) -> str:
    """A place in the session for something of the caller's, in its only form."""
    path = "/" + os.path.normpath(absolute(path, option)).lstrip("/")
    if wrong := checks.bind_target(path):
        raise DefinitionError(f"{option} {path}: {wrong}", hint="name another place, like /src")
    return path


def absolute(path: str, option: str) -> str:
    """A path inside a machine. Raises DefinitionError."""
    if path and not path.startswith("/"):
        raise DefinitionError(f"{option} {path}: not an absolute path", hint="paths inside a machine start with /")
    return path


def variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME for the caller's. Raises DefinitionError."""
    name, given, value = text.partition("=")
    if not (name.isascii() and name.replace("_", "a").isalnum()) or name[:1].isdigit():
        raise DefinitionError(f"--env {text}: {name!r} cannot be a variable's name", hint="write --env NAME=VALUE")
    return name, value if given else os.environ.get(name, "")


def _sources(texts: list[str]) -> tuple[Any, ...]:
    found = []
    for number, text in enumerate(texts):
        directory, _, target = text.rpartition(":") if ":/" in text else (text, "", "")
        default = "/src" if number == 0 else f"/src{number + 1}"
        found.append(roost.Source(directory=os.path.abspath(directory), target=_target(target or default, "--source")))
    return tuple(found)


def _bind(text: str) -> Bound:
    source, *rest = text.split(":")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("rw", "ro")):
        raise DefinitionError(
            f"--bind {text}: not SRC[:DST[:rw]]", hint="a path that holds ':' can be bound in the definition"
        )
    source = os.path.abspath(source)
    if not os.path.exists(source):
        raise DefinitionError(f"--bind {text}: {source} does not exist", hint="bind something that is there")
    target = _target(rest[0] if rest and rest[0] else source, "--bind")
    return Bound(source=source, target=target, read_only=rest[1:] != ["rw"])
