"""What the loader has to know of distributions, taken from their recipes; and the host's own architecture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from roost import plan as planner
from roost.definition.model import DistributionFacts
from roost.distro.recipe import RECIPES, VERSIONS, families_path, path_of, recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

# uname(2)'s words → Debian's (dpkg's cputable)
_ARCHITECTURES = {
    "x86_64": "amd64", "i686": "i386", "aarch64": "arm64", "armv7l": "armhf", "ppc64le": "ppc64el", "s390x": "s390x",
    "riscv64": "riscv64",
}  # fmt: skip


def architecture() -> str:
    """The host's, by Debian's name; an unknown one by the kernel's."""
    word = os.uname().machine
    return _ARCHITECTURES.get(word, word)


def of_distribution(name: str) -> DistributionFacts | None:
    """The facts of a distribution, None when there is no recipe for it."""
    if name not in RECIPES:
        return None
    data = recipe(name)
    return DistributionFacts(
        family=data.family,
        architectures=data.architectures,
        releases=list(data.releases),
        release_architectures={n: r.architectures for n, r in data.releases.items() if r.architectures},
        components=data.components,
        bootstraps=data.bootstraps,
        bootstrap=data.bootstraps[0],
        variants=data.variants,
        variant=data.variant,
        keyring=data.keyring,
    )


def inputs(distributions: Iterable[str]) -> set[str]:
    """The files of this package that decide which layers the machines of these distributions have."""
    return {*(path_of(name) for name in distributions if name in RECIPES), planner.__file__, families_path()}


def versions(distribution: str, family: str) -> list[int]:
    """The versions that are part of a layer's identity: the recipe's (of a base) and the family's."""
    own = [recipe(distribution).version] if distribution else []
    return [*own, VERSIONS[family]] if family else own
