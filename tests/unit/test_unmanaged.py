"""Trees whose package manager nobody drives: a new member of the protocol is theirs too."""

from __future__ import annotations

import pytest

from roost.definition.model import Contents
from roost.distro import unmanaged
from roost.distro.recipe import Family
from roost.errors import DefinitionError

REFUSED = {"add_repository", "set_locale", "set_timezone", "set_root_password", "enable", "add_user"}
OF_BASES = {"mistakes", "bootstrap", "finish"}


def test_every_member_is_there_but_for_what_is_refused() -> None:
    members = {name for name in (*vars(Family), *Family.__annotations__) if not name.startswith("_")}
    assert members - set(vars(unmanaged)) == REFUSED | OF_BASES


def test_packages_are_neither_removed_nor_upgraded() -> None:
    with pytest.raises(DefinitionError, match="no package manager"):
        unmanaged.remove(["git"])
    with pytest.raises(DefinitionError, match="no package manager"):
        unmanaged.upgrade()
    with pytest.raises(DefinitionError, match=r"remove-packages cannot be had on dir:/srv/tree"):
        unmanaged.refuse(Contents(name="", remove_packages=("git",)), "", "dir:/srv/tree")
