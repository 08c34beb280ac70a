"""A machine as written above its defaults, with the place of each key: what both the base and the contents come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from roost.definition.mistakes import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.definition.mistakes import Document
    from roost.definition.model import DistributionFacts, Machine
    from roost.definition.parts import Part

BASE_KEYS = (
    "distribution",
    "release",
    "architecture",
    "bootstrap",
    "variant",
    "mirror",
    "components",
    "keyring",
    "check_valid_until",
    "source_packages",
)


class World(Struct, frozen=True, kw_only=True):
    """What every machine of a load shares. ``facts`` and ``known`` are of the distributions of a document."""

    facts: Callable[[Document, str], DistributionFacts | None]
    known: Callable[[Document], Sequence[str]]
    architecture: str
    profiles: dict[str, tuple[Place, Part]]
    unique: dict[str, str]


class Layered(Struct, frozen=True, kw_only=True):
    """A machine above its defaults, with the place to tell a mistake for each key."""

    name: str
    place: Place
    own: Machine
    defaults: Machine
    part: Part
    below: Part

    def get(self, key: str) -> object:
        """The machine's value, else that of the defaults, else None."""
        if (own := getattr(self.own, key)) is not None:
            return own
        return None if self._set_aside(key) else getattr(self.defaults, key)

    def text(self, key: str) -> str:
        """A value that is a string or not written."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def where(self, *keys: str) -> Place:
        """Where the first of the keys is written that the machine itself writes; else the defaults' first."""
        for key in keys:
            if getattr(self.own, key) is not None or self.place.at(written(key)).skipped:
                return self.place.at(written(key))
        for key in keys:
            if getattr(self.defaults, key) is not None:
                return Place(self.place.document, ("defaults", written(key)))
        return self.place

    def told(self, key: str) -> bool:
        """A mistake in this key, of the machine or the defaults, was told already: do not call it missing."""
        defaults = Place(self.place.document, ("defaults", written(key)))
        return self.place.at(written(key)).skipped or defaults.skipped

    def _set_aside(self, key: str) -> bool:
        if key in BASE_KEYS:
            return self.own.from_ is not None
        return key == "from_" and self.own.distribution is not None


def written(key: str) -> str:
    """A key as the file has it."""
    return "from" if key == "from_" else key.replace("_", "-")
