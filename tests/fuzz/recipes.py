"""A recipe beside a definition: what is one can be planned, with commands of whole lines, and the rest is told at its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import roost
from fuzz import checks
from roost import commands, facts
from roost.errors import DefinitionError
from roost.plan import Known, make

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = """
[machines.a]
distribution = "mine"
release = "duke"
architecture = "amd64"
packages = ["@ours", "@tools", "libfoo1"]
"""


def recipe(data: bytes, place: Path) -> None:
    """No text of a recipe makes a second line in a command or in a configuration file."""
    (place / "recipes").mkdir(exist_ok=True)
    (place / "recipes/mine.toml").write_bytes(data)
    (place / "roost.toml").write_text(DEFINITION)
    try:
        loaded = roost.load(place / "roost.toml")
    except DefinitionError as e:
        checks.told(e)
        return
    plan = make(list(loaded.machines.values()), Known(present=(), last={}, names={}), facts.versions)
    for shown in commands.of_plan(plan, lambda family: family.read_host(root=str(place))):
        for note in shown.notes:
            assert "\n" not in note
        for command in shown.commands:
            assert "\0" not in "".join(command.argv)
    assert list(plan.machines) == list(
        make([one.machine for one in plan.machines], Known(present=(), last={}, names={}), facts.versions).machines
    )
