"""The family of trees whose package manager Roost does not drive: files and scripts work, the rest is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roost.distro.recipe import Inside, Provision
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from roost.definition.model import Contents

NAME = "none"
NOBODY_GROUP = "nogroup"
STATUS_PATH = "."


def read_host(root: str = "/") -> Any:
    """Nothing of the host is needed."""


def provision(*_given: Any, **_more: Any) -> Provision:
    """Steps see nothing of the host, and keep no packages."""
    return Provision()


def refuse(contents: Contents, family: str, source: str) -> None:
    """Raises DefinitionError for what only a family can do."""
    words = {
        "packages": contents.packages or any(contents.choices.values()), "user": contents.users, "repositories": contents.repositories,
        "services": contents.services, "locale": contents.locale, "timezone": contents.timezone,
        "root-password": contents.root_password is not None, "boot": contents.init,
    }  # fmt: skip
    if found := [word for word, there in words.items() if there]:
        managed = f"its package manager, {family}, is none that Roost drives yet" if family not in ("", NAME) else (
            "no package manager that Roost knows was found in it"
        )  # fmt: skip
        raise DefinitionError(
            f"{', '.join(found)} cannot be had on {source}: {managed}",
            hint='files and scripts work; write `family = "apt"` (or another one) when there is one after all',
        )


def ready_to_boot() -> Inside:
    """Nothing to do: a tree boots, or it does not."""
    return Inside(argv=("true",))


def packages(_status: bytes) -> dict[str, str]:
    """Nobody knows."""
    return {}


def unreachable(_output: str) -> str:
    """No mirror is used."""
    return ""


def explain(_output: str) -> tuple[str, str]:
    """Nothing is known of it."""
    return "", ""
