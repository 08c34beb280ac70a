"""Whom a keyring of pacman's trusts: files beside it, which count as its keys do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from roost.definition.parts import SOURCE_MOST, read_regular

if TYPE_CHECKING:
    from collections.abc import Mapping


def trusted(path: str) -> dict[str, str]:
    """The files of a keyring NAME.gpg that say which of its keys are trusted, by their endings: NAME-trusted, and
    NAME-revoked where there is one. None without NAME-trusted: then all of its keys are.
    """
    stem = path.removesuffix(".gpg")
    if not os.path.lexists(f"{stem}-trusted"):
        return {}
    return {ending: f"{stem}{ending}" for ending in ("-trusted", "-revoked") if os.path.lexists(f"{stem}{ending}")}


def read_trusted(path: str) -> dict[str, bytes]:
    """Their content. Raises OSError."""
    return {ending: read_regular(name, most=SOURCE_MOST) for ending, name in trusted(path).items()}


def digest(keys: str, more: Mapping[str, bytes]) -> str:
    """What stands for a keyring: the SHA-256 of its keys, or of that and of the files beside it that count with it."""
    from hashlib import sha256  # OpenSSL costs milliseconds, and few definitions have a keyring

    if not more:
        return keys
    lines = [keys, *(f"{sha256(content).hexdigest()} {ending}" for ending, content in sorted(more.items()))]
    return sha256("\n".join(lines).encode()).hexdigest()
