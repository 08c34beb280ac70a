"""A recipe beside a definition: what is one can be planned, with commands of whole lines, and the rest is told at its line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import roost
from fuzz import checks
from roost import commands, facts
from roost.distro.own import read
from roost.errors import DefinitionError
from roost.plan import Known, make

if TYPE_CHECKING:
    from pathlib import Path

MOST = 6
"""Releases that are planned: a shipped recipe that is extended has dozens."""
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
    _every_base(place)
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


def _every_base(place: Path) -> None:
    """What is taken is shown with the commands of each family, release and bootstrap that it has."""
    file = str(place / "recipes/mine.toml")
    try:
        found, _ = read(file, file)
    except DefinitionError as e:
        checks.told(e)
        return
    machines = [
        {
            "distribution": "mine", "release": name, "bootstrap": bootstrap,
            "architecture": (release.architectures or found.architectures)[-1],
            **({"variant": variant} if variant else {}),
        }
        for name, release in list(found.releases.items())[:MOST]
        for bootstrap in dict.fromkeys(found.bootstraps)
        for variant in dict.fromkeys(found.variants or [""])
    ]  # fmt: skip
    tables = (
        f"[machines.m{number}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in machine.items())
        for number, machine in enumerate(machines)
    )
    (place / "roost.toml").write_text("".join(tables))
    try:
        loaded = roost.load(place / "roost.toml")
    except DefinitionError as e:
        checks.told(e)
        return
    plan = make(list(loaded.machines.values()), Known(present=(), last={}, names={}), facts.versions)
    shown = list(commands.of_plan(plan, lambda family: family.read_host(root=str(place))))
    assert len(shown) == len(plan.layers)
    for one in shown:
        assert one.commands or one.notes
        for command in one.commands:
            assert "\0" not in "".join(command.argv)
