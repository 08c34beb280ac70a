"""What the explanations of package managers' output have in common: the tables are each family's own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# what a bootstrap says before it begins (``apt``, ``dnf_inside``)
_ARCHIVED = re.compile(r"^roost: archived: (?P<what>.+), and at (?P<where>\S+)$", re.MULTILINE)


def explained(output: str, known: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """The brief and the hint of the first of (pattern, brief, hint) that is found; both empty when none is.

    A brief may have ``{what}``, which is the last group of the pattern that holds anything, and its named groups.
    """
    for pattern, brief, hint in known:
        if match := re.search(pattern, output):
            what = next((group for group in reversed(match.groups()) if group), "").strip().rstrip(".,:")
            return brief.format(what=what, **match.groupdict()), hint
    return "", ""


def archive(output: str) -> str:
    """Where an archived release is, for a hint; empty when it is none."""
    found = _ARCHIVED.search(output)
    return f"{found['what']}: its mirror is {found['where']}; leave mirror out, or name a copy" if found else ""


def mirror(url: str, below: str) -> str:
    """A mirror's address without what is from the directories ``below`` (a pattern) on, and without a login."""
    base = re.split(f"/(?:{below})/", url, maxsplit=1)[0].rstrip("/.,")
    return re.sub(r"//[^/@]*@", "//", base)
