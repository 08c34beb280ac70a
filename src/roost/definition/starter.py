"""The file that `roost init` writes."""

from __future__ import annotations

from importlib import resources


def starter() -> str:
    """A commented definition that can be used as it is."""
    return resources.files("roost.definition").joinpath("starter.toml").read_text("utf-8")
