"""Families of distributions by name: those of Roost, and those that an installed package brings.

Such a package has an entry point of the group "roost.families" whose name is the family's and whose value is a module
with the names of the protocol ``roost.distro.recipe.Family``, and ``VERSION``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from roost.definition.checks import FAMILIES

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "roost.families"


@cache
def added() -> dict[str, EntryPoint]:
    """The families of installed packages. It takes 30 ms: to be asked for a name that Roost itself does not know."""
    from importlib.metadata import entry_points

    return {one.name: one for one in entry_points(group=GROUP)}


def is_family(name: str) -> bool:
    """Whether there is such a family, whoever brings it."""
    return name in FAMILIES or name in added()
