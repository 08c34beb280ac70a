"""The command line as values, read from Roost's own parser: what the man page and the completions are made from."""
# ruff: noqa: SLF001  # argparse has no public way to ask a parser what it knows

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # this checkout's Roost, whatever else is installed

from roost.cli.parser import parse, parser  # noqa: E402


class Option(NamedTuple):
    """``names`` the short one first; ``value`` is what the help calls its value, empty for a flag.

    ``bare``: a value may follow after ``=`` only, and is not needed.
    """

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    bare: bool
    help: str

    @property
    def long(self) -> str:
        """The name without its dashes."""
        return self.names[-1].lstrip("-")


class Positional(NamedTuple):
    """``value`` is its name in the help; ``many``: more than one may follow."""

    value: str
    needed: bool
    many: bool
    help: str


class Verb(NamedTuple):
    """One verb, with the options that only it has. ``words``: one, or two as in ``session list``."""

    words: tuple[str, ...]
    summary: str
    usage: str
    positionals: tuple[Positional, ...]
    options: tuple[Option, ...]
    takes_command: bool


class CommandLine(NamedTuple):
    """``common`` options may stand before or after every verb; ``groups`` have verbs of their own: name → summary."""

    common: tuple[Option, ...]
    verbs: tuple[Verb, ...]
    groups: dict[str, str]


def read() -> CommandLine:
    """The command line of this checkout."""
    top = parser()
    common = tuple(_option(action) for action in _options(top) if action.dest not in ("help", "version"))
    shared = {name for option in common for name in option.names}
    verbs: list[Verb] = []
    groups: dict[str, str] = {}
    for name, summary, below in _verbs(top):
        inner = _verbs(below)
        if inner:
            groups[name] = summary
            verbs += [_verb((name, second), text, one, shared) for second, text, one in inner]
        else:
            verbs.append(_verb((name,), summary, below, shared))
    return CommandLine(common, tuple(verbs), groups)


def _verbs(top: argparse.ArgumentParser) -> list[tuple[str, str, argparse.ArgumentParser]]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return [(name, summaries[name], below) for name, below in action.choices.items()]
    return []


def _verb(words: tuple[str, ...], summary: str, below: argparse.ArgumentParser, shared: set[str]) -> Verb:
    positionals = tuple(_positional(action) for action in below._actions if not action.option_strings)
    options = tuple(
        _option(action)
        for action in _options(below)
        if action.dest != "help" and action.option_strings[-1] not in shared
    )
    values = [f"{p.value} ..." if p.many else p.value for p in positionals]
    values = [value if p.needed else f"[{value}]" for value, p in zip(values, positionals, strict=True)]
    usage = (below.usage or " ".join(["roost", *words, *(["[options]"] if options else []), *values])).removeprefix(
        "roost "
    )
    return Verb(words, summary, usage, positionals, options, bool(below.get_default("takes_command")))


def _options(of: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in of._actions if action.option_strings]


def _option(action: argparse.Action) -> Option:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    names = tuple(action.option_strings)
    choices = tuple(map(str, action.choices or ()))
    return Option(names, value, choices, bool(choices) and _stands_alone(names[-1]), action.help or "")


def _positional(action: argparse.Action) -> Positional:
    return Positional(
        str(action.metavar), action.nargs not in ("?", "*"), action.nargs in ("*", "+"), action.help or ""
    )


def _stands_alone(name: str) -> bool:
    """Whether an option that takes a value may also be written without one, as plain ``--keep``."""
    try:
        parse(["run", "x", name, "--", "true"])
    except SystemExit:
        return False
    return True


def generate(files: dict[str, str], *, check: bool) -> int:
    """Writes files (path below the checkout → content), or with ``check`` says which are not up to date; the status."""
    stale = [path for path, text in files.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    for path in stale:
        if check:
            print(f"{path} is not up to date: `make docs` writes it", file=sys.stderr)
        else:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(files[path])
            print(f"wrote {path}")
    return 1 if check and stale else 0
