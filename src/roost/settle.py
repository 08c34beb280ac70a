"""Before a plan can be carried out: what sources of bases are that only asking tells, and whose trees they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.bases.known import Origins
from roost.definition.package_sets import has_open
from roost.errors import Error, of_os

if TYPE_CHECKING:
    from collections.abc import Callable

    from roost.build import Builder
    from roost.definition.model import Base
    from roost.plan import Plan
    from roost.store import Store


def settle(
    store: Store, plan: Callable[[], Plan], builder: Callable[[], Builder], *, update: bool
) -> tuple[dict[str, Error], set[str]]:
    """Asks for what a plan could not know; then makes the bases without whose tree nobody knows the family of a machine.

    The errors by layer, and what was made; the machines on others are not kept from being made.
    """
    origins = Origins(store)
    errors: dict[str, Error] = {}
    settled: set[Base] = set()
    for item in plan().machines:
        base = item.machine.base
        if (
            base.source
            and base not in settled
            and ((update and origins.is_elsewhere(base)) or not origins.find(base).layers)
        ):
            settled.add(base)
            try:
                origins.settle(base)
            except Error as e:
                errors[item.layers[0]] = type(e)(
                    f"machine {item.machine.name}: {e.brief}", details=e.details, hint=e.hint
                )
            except OSError as e:
                errors[item.layers[0]] = of_os(e)
    now = plan()
    open_ = [
        item
        for item in now.machines
        if item.machine.base.source and (not item.machine.family or has_open(item.machine))
    ]
    wanted = {digest for item in open_ for digest in item.layers}
    made = {layer.digest for layer in now.layers if layer.is_given and layer.verb == "build"}
    if not made & wanted:
        return errors, set()
    errors |= builder().build(now, failed=errors, sources=True)
    return errors, {digest for digest in made if store.has(digest)}
