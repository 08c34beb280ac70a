"""Debian's package sets on its real mirror: the oldest and the newest release that it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost import facts
from roost.definition.package_sets import replaced, sets_of

if TYPE_CHECKING:
    from system.rig import Rig


def test_every_package_of_debian_s_sets_can_be_installed(farm: Rig) -> None:
    known = facts.of_distribution("debian")
    assert known is not None
    script = "apt-get -q update >/dev/null && apt-get -q -s install --no-install-recommends $PACKAGES >/dev/null"
    for release in ("bullseye", "sid"):
        sets = sets_of("debian", known, release, "amd64")
        assert replaced(["libgit2-24"], sets).packages == ("libgit2-dev",)
        wanted = replaced([*(f"@{name}" for name in sets.sets), *sets.obsolete], sets)
        assert not wanted.unknown
        result = farm.result(script, "--env", f"PACKAGES={' '.join(wanted.packages)}", machine=release)
        assert result["state"] == "passed", result
