"""Every error of Roost: what went wrong, the details, and what to try next.

The library raises, it never exits; ``roost.cli`` alone prints an error and turns it into an exit status.

    Error                     1
    ├── DefinitionError       2   a definition that cannot be used
    ├── HostError             3   this host lacks something, or refused something
    ├── CommandError          4   a program that Roost needed failed
    ├── StoreError            6   layers, sessions and results on disk
    │   └── LayerGone             a layer was removed while a session began
    ├── BusyError             7   somebody else holds it
    ├── NetworkDown           9   a mirror cannot be reached
    ├── StepError            10   a layer's step failed
    └── Interrupted         130   somebody asked for an end
"""

from __future__ import annotations


class Error(Exception):
    """The base of the tree.

    ``brief`` is one line without a full stop; ``details`` may have many lines; ``hint`` is the next thing to try.
    """

    exit_code = 1

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint


class DefinitionError(Error):
    """A definition that cannot be used; ``details`` has one line for every mistake."""

    exit_code = 2


class HostError(Error):
    """The host lacks an ability, a program or a right."""

    exit_code = 3


class CommandError(Error):
    """A program that Roost started for itself failed."""

    exit_code = 4


class StoreError(Error):
    """The store has no such thing, or cannot hold it."""

    exit_code = 6


class LayerGone(StoreError):
    """A layer was removed between the plan and the session; planning again helps."""


class BusyError(Error):
    """Somebody else is using it."""

    exit_code = 7


class NetworkDown(Error):
    """A mirror cannot be reached."""

    exit_code = 9


class StepError(Error):
    """A step of a layer failed; ``step`` names it, ``log`` is the path of the whole output."""

    exit_code = 10

    def __init__(self, brief: str, *, step: str, log: str, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.step = step
        self.log = log


class Interrupted(Error):
    """Somebody asked for an end before the work was done."""

    exit_code = 130


def to_parts(error: Error) -> list[str]:
    """An error as plain text, to be carried from one process to another."""
    more = [error.step, error.log] if isinstance(error, StepError) else []
    return [type(error).__name__, error.brief, error.details, error.hint, *more]


def from_parts(parts: list[str]) -> Error:
    """The error that ``to_parts`` took apart."""
    name, brief, details, hint, *more = parts
    if more:
        return StepError(brief, step=more[0], log=more[1], details=details, hint=hint)
    kind: type[Error] = globals().get(name, Error)
    return kind(brief, details=details, hint=hint)
