"""Which distribution a layer is: what its base was made from, else what its os-release says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.bases import recognise
from roost.definition.package_sets import Sets, sets_of
from roost.errors import DefinitionError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from roost.definition.model import DistributionFacts
    from roost.store import Store

_NAMES = {"rocky": "rockylinux", "opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse"}
"""ID in os-release(5), where a recipe has another name."""


def distribution_of(store: Store, digest: str) -> str:
    """The distribution that a layer's base was made of; empty for one that no recipe made. Raises StoreError."""
    layer = store.layer(digest)
    base = store.layer(layer.parents[0]) if layer.parents else layer
    return str(base.facts.get("distribution", ""))


def sets_in(
    store: Store, digest: str, facts_of: Callable[[str], DistributionFacts | None], architecture: str
) -> tuple[Sets, str]:
    """The package sets of a layer's distribution, or why nobody knows them. Raises nothing.

    ``facts_of`` gives the facts of a distribution, shipped or the definition's own, None when there is no recipe for it.
    Of a derivative without a recipe (ID_LIKE) they are those of what it is like, without any release's own.
    """
    try:
        layer = store.layer(digest)
        base = store.layer(layer.parents[0]) if layer.parents else layer
    except StoreError:
        return Sets(), "its distribution is known once its base is made"
    if name := base.facts.get("distribution"):
        try:
            facts = facts_of(name)
        except DefinitionError as e:  # of a recipe that came with the definition
            return Sets(), e.brief
        if facts is None:
            return Sets(), f"{name} is a distribution of another definition's"
        return sets_of(name, facts, base.facts.get("release", ""), base.facts.get("architecture", architecture)), ""
    trees = [store.tree(one) for one in (digest, *reversed(layer.parents))]
    fields = recognise.fields(trees)
    for word in recognise.words(fields):
        name = _NAMES.get(word, word)
        if (facts := facts_of(name)) is not None:
            own = word == fields.get("ID", "").lower()
            return sets_of(name, facts, _release(fields, word, facts) if own else "", architecture), ""
    says = fields.get("PRETTY_NAME") or fields.get("ID") or "nothing"
    return Sets(), f"its os-release says {says!r}, which no recipe is for"


def _release(fields: Mapping[str, str], word: str, facts: DistributionFacts) -> str:
    version, stream = fields.get("VERSION_ID", ""), "stream" in fields.get("NAME", "").lower()
    numbers = version.split(".")
    wanted = (
        f"{version}-stream" if stream else "", fields.get("VERSION_CODENAME", ""), version, ".".join(numbers[:2]), numbers[0],
        word.rpartition("-")[2],
    )  # fmt: skip
    known = facts.releases
    return next((one for one in wanted if one and one in known), known[0] if len(known) == 1 else "")
