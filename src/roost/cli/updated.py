"""How a person is told what an update has changed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from roost.cli.common import print_table, say
from roost.cli.table import Painted, clean, cut, style_of, terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.cli.table import Cell
    from roost.updates import Change, Updated

_NAMED = 4  # machines of a layer that are named; the others are counted


def tell(updated: Sequence[Updated]) -> None:
    """The packages that changed, for each layer once, on stdout; what it comes to on stderr."""
    style, width = style_of(sys.stdout, os.environ), terminal_width(sys.stdout)
    for one in updated:
        if one.changes:
            title = clean(f"{one.layer}, for {_names(one.machines)}")
            print(style.paint(title if width is None else cut(title, width, ellipsis=style.ellipsis), "bold"))
            print_table(["package", "from", "to"], [_row(change) for change in one.changes], empty="")
            print()
    sys.stdout.flush()
    say(summary(updated))


def _names(machines: Sequence[str]) -> str:
    more = len(machines) - _NAMED
    return f"{', '.join(machines[:_NAMED])} and {more} more" if more > 0 else ", ".join(machines)


def _row(change: Change) -> list[Cell]:
    before: Cell = change.before or Painted("added", "good")
    return [change.name, before, change.after or Painted("removed", "bad")]


def summary(updated: Sequence[Updated]) -> str:
    """One line."""
    changes = [change for one in updated for change in one.changes]
    added, removed = sum(not one.before for one in changes), sum(not one.after for one in changes)
    counts = {"changed": len(changes) - added - removed, "added": added, "removed": removed}
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    if parts:
        layers = sum(bool(one.changes) for one in updated)
        return f"packages: {', '.join(parts)}, in {_count(layers)}"
    new = sum(not one.compared for one in updated)
    if new:
        return f"{_count(new)} made for the first time, or in the place of what has no list of packages: nothing to compare"
    if updated:
        return f"no package changed; {_count(len(updated))} may differ otherwise, by scripts or settings"
    return "nothing changed: the layers that were there stay"


def _count(layers: int) -> str:
    return f"{layers} {'layer' if layers == 1 else 'layers'}"
