"""How each peer makes a base of bookworm: from nothing, and again with what it kept."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NamedTuple

from roost.host import files

if TYPE_CHECKING:
    from tools.peers import Place

SUITE = "bookworm"


class Maker(NamedTuple):
    """``cold`` makes it from nothing; ``warm`` makes it again with what the tool kept, empty when it keeps nothing.

    ``keep``: what was made stays for the next maker.
    """

    name: str
    cold: tuple[str, ...]
    warm: tuple[str, ...] = ()
    note: str = ""
    keep: bool = False


_SPAWN_NOTE = "with python3 and eatmydata, compressed; again: with its package cache"


def makers(at: Place) -> tuple[Maker, ...]:
    """All of them; what they write is below ``bases``, and gone with ``clear``."""
    from tools.peers import podman

    top = f"{at.work}/bases"
    plain = ("mmdebstrap", "--variant=minbase")
    cached = (
        *plain, "--skip=essential/unlink", f"--setup-hook=mkdir -p {top}/debs \"$1\"/var/cache/apt/archives/",
        f"--setup-hook=sync-in {top}/debs /var/cache/apt/archives/", f"--customize-hook=sync-out /var/cache/apt/archives {top}/debs",
    )  # fmt: skip
    old = ("debootstrap", "--variant=minbase", f"--cache-dir={top}/debs", SUITE)
    pipe = f"{shlex.join((*plain, SUITE, '-'))} | {shlex.join((*podman(at), 'import', '-q', '-', 'made'))}"
    spawn = (
        "env",
        f"PATH={at.work}/shim:/usr/sbin:/usr/bin:/sbin:/bin",
        "debspawn",
        "--config",
        f"{at.work}/debspawn-base.toml",
    )
    return (
        Maker("roost build", _roost(at), _again(f"rm -rf {top}/state/layers", _roost(at)), "again: packages cached", keep=True),
        Maker("roost build, nothing changed", (), _again("", _roost(at)), "the same command a third time"),
        Maker("mmdebstrap", _in(top, (*plain, SUITE, f"{top}/plain")), note="keeps nothing by itself"),
        Maker("mmdebstrap with its cache hooks", _in(top, (*cached, SUITE, f"{top}/1")), (*cached, SUITE, f"{top}/2"), "its manual's"),
        Maker("mmdebstrap --mode=unshare", (*plain, "--mode=unshare", SUITE, f"{at.ram}/base.tar"), note="a tar file: sbuild's base"),
        Maker("debootstrap", _in(top, (*old, f"{top}/three")), (*old, f"{top}/four"), "with --cache-dir"),
        Maker("mmdebstrap and podman import", ("sh", "-c", pipe), note="keeps nothing of it for the next time"),
        Maker("debspawn create", _in(top, _spawn(at, spawn)), _spawn(at, spawn), _SPAWN_NOTE),
    )  # fmt: skip


def _roost(at: Place) -> tuple[str, ...]:
    return (at.roost, "-q", "--state", f"{at.work}/bases/state", "-f", f"{at.work}/base.toml", "build")


def _in(top: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    return ("sh", "-c", f"mkdir -p {top}/debs && {shlex.join(argv)}")


def _again(first: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    return ("sh", "-c", f"{first}; {shlex.join(argv)}".removeprefix("; "))


def _spawn(at: Place, spawn: tuple[str, ...]) -> tuple[str, ...]:
    top = f"{at.work}/bases/debspawn"
    return ("sh", "-c", f"rm -rf {top}/images; {shlex.join((*spawn, 'create', '--variant=minbase', SUITE))}")


def prepare(at: Place) -> None:
    """The configurations that the makers name."""
    with open(f"{at.work}/base.toml", "w", encoding="utf-8") as stream:
        stream.write(f'[machines.{SUITE}]\ndistribution = "debian"\nrelease = "{SUITE}"\n')
    with open(f"{at.work}/debspawn.toml", encoding="utf-8") as stream:
        text = stream.read()
    with open(f"{at.work}/debspawn-base.toml", "w", encoding="utf-8") as stream:
        stream.write(text.replace(f"{at.work}/debspawn/", f"{at.work}/bases/debspawn/"))


def clear(at: Place) -> None:
    """Removes what a maker has made and kept."""
    files.remove_tree(f"{at.work}/bases")
    if os.path.exists(f"{at.ram}/base.tar"):
        os.unlink(f"{at.ram}/base.tar")
