"""Files with keys: which one signs a release, and those that a definition names, as they were when it was read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from roost.definition import keyrings
from roost.errors import DefinitionError, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roost.definition.model import Base
    from roost.distro.recipe import Recipe


def words(recipe: Recipe, release: str, architecture: str = "", variant: str = "") -> dict[str, str]:
    """What stands in a recipe's paths as ``{release}`` and so on."""
    return {
        "release": release, "version": recipe.releases[release].version or release, "variant": variant,
        "architecture": recipe.architecture_names.get(architecture, architecture),
    }  # fmt: skip


def keyring_path(recipe: Recipe, release: str, architecture: str = "", variant: str = "") -> str:
    """The keyring of a release, its own or the recipe's, as a path of the host's; in the dnf family several, apart by blanks."""
    path = recipe.releases[release].keyring or recipe.keyring
    return path.format(**words(recipe, release, architecture, variant))


def of_base(recipe: Recipe, base: Base) -> str:
    """``keyring_path`` of a base's release."""
    return keyring_path(recipe, base.release, base.architecture, base.variant)


def given(base: Base, trusted: Mapping[str, bytes] | None = None) -> bytes:
    """The content of the keyring that the definition names; ``trusted`` are the files beside it that count with it.

    Raises HostError when it cannot be read, DefinitionError when it is another one than when the definition was read.
    """
    content = read(base.keyring)
    wanted = base.keyring_digest.rpartition(":")[2]
    if wanted and keyrings.digest(hashlib.sha256(content).hexdigest(), trusted or {}) != wanted:
        raise DefinitionError(f"the keyring changed since the definition was read: {base.keyring}", hint="start again")
    return content


def read(path: str) -> bytes:
    """A file with keys. Raises HostError."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as e:
        why = "is not on this host" if isinstance(e, FileNotFoundError) else f"cannot be read: {e.strerror}"
        raise HostError(f"the keyring {path} {why}", hint="check the path") from None
