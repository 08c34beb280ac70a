"""The family of trees whose package manager Roost does not drive: files and scripts work, the rest is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roost.distro.recipe import Inside, Provision
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import Contents

NAME = "none"
NOBODY_GROUP = "nogroup"
ARCHIVE_ENDINGS: tuple[str, ...] = ()
STATUS_PATH = "."
_NO_INIT = "roost: there is no init"
_HINT = 'files and scripts work; write `family = "apt"` (or another one) when there is one after all'
_HAS_INIT = f"""for init in /usr/lib/systemd/systemd /lib/systemd/systemd /sbin/init; do [ -x "$init" ] && exit 0; done
echo "{_NO_INIT}" >&2
exit 1"""


def read_host(root: str = "/") -> Any:
    """Nothing of the host is needed."""


def provision(*_given: Any, **_more: Any) -> Provision:
    """Steps see nothing of the host, and keep no packages."""
    return Provision()


def refuse(contents: Contents, family: str, source: str) -> None:
    """Raises DefinitionError for what only a family can do; ``family`` may be one that was added and is gone."""
    words = {
        "packages": contents.packages or any(contents.choices.values()),
        "remove-packages": contents.remove_packages or any(contents.remove_choices.values()),
        "user": contents.users, "repositories": contents.repositories,
        "services": contents.services, "locale": contents.locale, "timezone": contents.timezone,
        "root-password": contents.root_password is not None,
    }  # fmt: skip
    if found := [word for word, there in words.items() if there]:
        if family not in ("", NAME):
            raise DefinitionError(
                f"{', '.join(found)} cannot be had on {source}: the family {family} is gone",
                details="it is none of Roost's own: an installed Python package has brought it, and does so no more",
                hint=f"install the package with the entry point {family!r} of the group roost.families again",
            )
        raise DefinitionError(
            f"{', '.join(found)} cannot be had on {source}: no package manager that Roost knows was found in it",
            hint=_HINT,
        )


def install(_packages: Sequence[str], *, init: bool = False) -> Inside:
    """Nothing can be installed; a machine that boots has to have its init."""
    return Inside(argv=("sh", "-c", _HAS_INIT if init else ":"))


def remove(packages: Sequence[str]) -> Inside:
    """Raises DefinitionError: nobody can remove packages."""
    raise DefinitionError(f"{packages[0]} cannot be removed: there is no package manager that Roost drives", hint=_HINT)


def upgrade() -> Inside:
    """Raises DefinitionError: nobody can upgrade packages."""
    raise DefinitionError("nothing can be upgraded: there is no package manager that Roost drives", hint=_HINT)


def ready_to_boot() -> Inside:
    """No identity that others would share: machine-id(5)."""
    return Inside(argv=("sh", "-c", "if [ -e /etc/machine-id ]; then : > /etc/machine-id; fi"))


def list_packages() -> None:
    """There is no list."""


def packages(_status: bytes) -> dict[str, str]:
    """Nobody knows."""
    return {}


def unreachable(_output: str) -> str:
    """No mirror is used."""
    return ""


def explain(output: str) -> tuple[str, str]:
    """The only thing that is looked for is an init."""
    if _NO_INIT in output:
        return "this tree has no init, and nobody can install one", "leave `boot` out, or use another tree"
    return "", ""
