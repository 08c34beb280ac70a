"""Many machines are asked how they are at the same time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from roost.boot.manage import Status
from roost.booting import looked_at
from roost.errors import StoreError
from system.rig import wait_for

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a", "b", "c")


def test_no_machine_waits_for_the_answer_of_another(tmp_path: Path) -> None:
    """Each answers only once all have been asked."""

    def answer(name: str) -> Status:
        (tmp_path / name).touch()
        wait_for(lambda: len(list(tmp_path.iterdir())) == len(NAMES))
        return Status(machine=name, state="running", enabled=False, outdated=(name,))

    found = looked_at({name: partial(answer, name) for name in NAMES})
    assert [(one.machine, one.state, one.outdated) for one in found] == [(name, "running", (name,)) for name in NAMES]


@pytest.mark.parametrize("names", [NAMES[:1], NAMES])
def test_what_is_wrong_with_one_is_told(names: tuple[str, ...]) -> None:
    def answer() -> Status:
        raise StoreError("its record is damaged", hint="remove it")

    with pytest.raises(StoreError, match="its record is damaged") as caught:
        looked_at(dict.fromkeys(names, answer))
    assert caught.value.hint == "remove it"
