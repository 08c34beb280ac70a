"""Two distributions for the tests of definitions, and the shortest way to load a text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from roost.definition import Loaded, load
from roost.definition.model import DistributionFacts
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN = DistributionFacts(
    family="apt",
    architectures=["amd64", "arm64", "i386", "armhf"],
    releases=["bullseye", "bookworm", "trixie", "sid"],
    release_architectures={"sid": ["amd64", "arm64"]},
    components=["main"],
    bootstraps=["mmdebstrap", "debootstrap"],
    bootstrap="mmdebstrap",
    variants=["minbase", "buildd"],
    variant="minbase",
)
UBUNTU = DistributionFacts(
    family="apt",
    architectures=["amd64", "arm64", "i386"],
    releases=["focal", "jammy", "noble"],
    components=["main", "universe"],
    bootstraps=["mmdebstrap", "debootstrap"],
    bootstrap="mmdebstrap",
    variants=["minbase"],
    variant="minbase",
)
FEDORA = DistributionFacts(
    family="dnf",
    architectures=["amd64", "arm64"],
    releases=["41", "42"],
    components=["fedora"],
    bootstraps=["dnf"],
    bootstrap="dnf",
    variants=["minimal"],
    variant="minimal",
)
FACTS = {"debian": DEBIAN, "ubuntu": UBUNTU, "fedora": FEDORA}


def load_file(
    path: str | os.PathLike[str] | None, *, architecture: str = "amd64", machines: str = "/nowhere"
) -> Loaded:
    return load(path, facts=FACTS.get, known=list(FACTS), architecture=architecture, machines=machines)


def load_text(directory: Path, text: str, *, architecture: str = "amd64") -> Loaded:
    """Load a definition from ``directory/roost.toml``; the lines of its mistakes begin with ``roost.toml:``."""
    path = directory / "roost.toml"
    path.write_text(text)
    before = os.getcwd()
    os.chdir(directory)
    try:
        return load_file(None, architecture=architecture)
    finally:
        os.chdir(before)


def mistakes(directory: Path, text: str, *, architecture: str = "amd64") -> list[str]:
    """The lines that a wrong definition is answered with."""
    with pytest.raises(DefinitionError) as caught:
        load_text(directory, text, architecture=architecture)
    lines = caught.value.details.splitlines()
    assert caught.value.brief == f"roost.toml: {len(lines)} mistake{'s' * (len(lines) != 1)}"
    assert caught.value.hint
    return lines
