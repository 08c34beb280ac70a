"""What the core tells whoever watches: values, never text on a terminal.

A monitor is any callable that takes an event. ``roost.cli.render`` has those of the command line.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class LayerStarted(Struct, frozen=True, tag="layer-started"):
    """A layer is being made. ``name`` is what a person calls it: ``base debian bookworm amd64``."""

    layer: str
    name: str
    reason: str


class LayerOutput(Struct, frozen=True, tag="layer-output"):
    """A piece of what a step printed, as it came."""

    layer: str
    data: bytes


class LayerStep(Struct, frozen=True, tag="layer-step"):
    """The next step of a layer: ``number`` of ``total``, counted from 1."""

    layer: str
    step: str
    number: int
    total: int


class LayerEnded(Struct, frozen=True, tag="layer-ended"):
    """``outcome``: built, reused (somebody else made it meanwhile), failed or skipped (what it stands on failed)."""

    layer: str
    name: str
    outcome: str
    seconds: float


class VerifyStarted(Struct, frozen=True, tag="verify-started"):
    """A layer is read, to be compared with its manifest."""

    layer: str
    name: str


class VerifyEnded(Struct, frozen=True, tag="verify-ended"):
    """``state``: whole, damaged or no-manifest."""

    layer: str
    name: str
    state: str
    seconds: float


class RunStarted(Struct, frozen=True, tag="run-started"):
    """A command starts in a session. ``log`` is where its whole output goes, empty when it is not kept."""

    machine: str
    session: str
    log: str


class RunOutput(Struct, frozen=True, tag="run-output"):
    """A piece of a run's output, as it came; ``stream`` is 1 or 2."""

    machine: str
    stream: int
    data: bytes


class RunEnded(Struct, frozen=True, tag="run-ended"):
    """``state`` is that of the run's result."""

    machine: str
    state: str
    seconds: float


class MachineStarted(Struct, frozen=True, tag="machine-started"):
    """A machine is being brought up or down."""

    machine: str


class MachineEnded(Struct, frozen=True, tag="machine-ended"):
    """It is done: ``action`` and ``state`` are those of the outcome."""

    machine: str
    action: str
    state: str
    seconds: float


class Warned(Struct, frozen=True, tag="warned"):
    """Something a person should know; nothing failed. ``machine`` may be empty."""

    message: str
    machine: str = ""


Event = (
    LayerStarted | LayerStep | LayerOutput | LayerEnded | VerifyStarted | VerifyEnded | RunStarted | RunOutput | RunEnded
    | MachineStarted | MachineEnded | Warned
)  # fmt: skip
Monitor = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The monitor of whoever does not watch."""
