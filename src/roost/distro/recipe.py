"""A distribution is data, a family is code: the shapes of both, and how the shipped data is read."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, convert

from roost.definition import families
from roost.definition.model import Obsolete  # noqa: TC001  # msgspec reads it
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from roost.definition.model import Base, RepositoryKeys, User

RECIPES = ("debian", "ubuntu", "fedora", "centos", "almalinux", "rockylinux", "opensuse", "arch", "gentoo", "alpine")
FAMILIES = {
    "apt": "roost.distro.apt", "dnf": "roost.distro.dnf", "zypper": "roost.distro.zypper", "pacman": "roost.distro.pacman",
    "apk": "roost.distro.apk", "portage": "roost.distro.portage",
}  # fmt: skip
VERSIONS = {"apt": 1, "dnf": 1, "zypper": 1, "pacman": 1, "apk": 1, "portage": 1}
"""Part of every layer's identity, known without importing a family: raised when what it does must rebuild layers."""


class Suite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One suite of a release: ``name`` as in sources.list, or the repository's; ``mirror`` is a key of the recipe's
    ``mirrors``. ``path`` is where it is below the mirror, for families whose suites do not say so by their names, with
    ``{release}``, ``{version}``, ``{architecture}`` (by the distribution's name) and ``{variant}`` in it.
    """

    name: str
    mirror: str = "main"
    path: str = ""


class Release(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A release; in the apt family its first suite bears its name.

    ``mirrors`` override the recipe's and the host's own (archived releases, which other mirrors do not have).
    ``architectures`` empty: all the recipe's. ``keyring`` and ``debootstrap_script`` empty: the recipe's.
    ``expired_keys``: the keys that signed it have expired since, and are good for it all the same.
    ``mmdebstrap_hooks`` are directories of hooks that mmdebstrap needs for it. ``packages`` instead of the recipe's.
    ``archived``: no living mirror has it. Of rpm distributions: ``signed_metadata``: not only the packages are signed;
    ``options`` are what its package manager is told in ``[main]``. ``notes`` are for people.
    """

    version: str = ""
    suites: list[Suite] = []
    mirrors: dict[str, str] = {}
    architectures: list[str] = []
    check_valid_until: bool = True
    keyring: str = ""
    expired_keys: bool = False
    debootstrap_script: str = ""
    mmdebstrap_hooks: list[str] = []
    packages: dict[str, list[str]] = {}
    sets: dict[str, list[str]] = {}
    obsolete: dict[str, Obsolete] = {}
    archived: bool = False
    signed_metadata: bool = False
    options: dict[str, str] = {}
    notes: list[str] = []


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A distribution. ``version`` is part of every base layer's identity: raise it when a change must rebuild them.

    ``architectures`` are Debian's names; ``architecture_names`` has the distribution's own, where they differ.
    ``keyring`` is the path that ``keyring_package`` gives it, on the host and in a tree, with ``{release}`` in it where each
    has its own; ``keyring_source`` is where to get it on a host without that package. ``ports_mirrors`` are those of
    ``ports_architectures``. ``bootstraps`` and ``variants``: what a definition may choose, the default bootstrap first.
    ``components`` are apt's. ``packages`` of a variant are what a base is made of, where no program knows that by itself.
    ``sets`` are what ``@NAME`` among a definition's packages stands for (see ``roost.definition.package_sets``), ``obsolete``
    are names of packages of another time, with what is installed instead; a release's own come before these.
    ``mirrors_of`` is the distribution whose mirrors these are, when it has another name: the host's own serve it then.
    """

    name: str
    version: int
    family: str
    architectures: list[str]
    architecture_names: dict[str, str] = {}
    mirrors: dict[str, str]
    ports_mirrors: dict[str, str] = {}
    ports_architectures: list[str] = []
    keyring: str
    keyring_package: str
    keyring_source: str = ""
    components: list[str] = []
    bootstraps: list[str]
    variant: str = ""
    variants: list[str] = []
    packages: dict[str, list[str]] = {}
    sets: dict[str, list[str]] = {}
    obsolete: dict[str, Obsolete] = {}
    debootstrap_script: str = ""
    mirrors_of: str = ""
    releases: dict[str, Release]


class Inside(Struct, frozen=True, kw_only=True):
    """A command for the inside of a layer that is being made, run as its root; ``stdin`` is fed to it."""

    argv: tuple[str, ...]
    stdin: bytes = b""


class Archive(Struct, frozen=True, kw_only=True):
    """An archive that a distribution releases itself, on its mirror; Roost downloads, verifies and unpacks it.

    ``url`` is its address. With ``pointer``, a regular expression of one group, it is that of a text whose first match is
    where the archive is, relative to it; ``clearsigned``: that text must be signed itself, or is refused. ``signature`` is
    what the address of the archive's own signature ends in beside the archive's. ``digests``: the same of a file with its
    digests, as sha256sum(1) or sha512sum(1) write them (clear-signed, if the pointer is). ``keys`` is the keyring that
    must have signed, binary.
    ``place`` is where in the tree it goes, without its first directory; empty: it is the tree. Of its content only what
    is at or below the paths ``only``, unless that is empty.
    ``proxies`` (scheme → address) and the file ``certificates`` are the host's, by which the mirror is reached.
    """

    url: str
    keys: bytes
    signature: str
    pointer: str = ""
    clearsigned: bool = False
    digests: str = ""
    place: str = ""
    only: tuple[str, ...] = ()
    proxies: dict[str, str] = {}
    certificates: str = ""


class Bootstrap(Struct, frozen=True, kw_only=True):
    """How a base layer is made on the host.

    ``archives`` are unpacked into ``target`` first. ``argv``, unless it is empty, fills ``target``, which does not exist or
    is empty, in a mount namespace of its own: what it mounts below ``target`` must vanish with it. ``env`` is added to the
    built environment. ``files`` (name → content) are written, mode 0600, into a private directory (``private``, 0700)
    before ``argv`` starts and are gone afterwards.
    """

    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    files: dict[str, bytes] = {}
    archives: tuple[Archive, ...] = ()


class Provision(Struct, frozen=True, kw_only=True):
    """What a layer's steps may see while they run, and no longer.

    ``files`` (name → content) appear below ``/run/roost/provision`` inside; ``env`` is set for every step;
    ``cache`` is the directory inside where downloaded packages are kept; ``cache_key`` names what may share them
    (packages signed by the same keys from the same mirrors). ``binds`` are directories of the host that are seen,
    read-only, at the same place inside (a mirror on this disk).
    """

    files: dict[str, bytes] = {}
    env: dict[str, str] = {}
    cache: str = ""
    cache_key: str = ""
    binds: tuple[str, ...] = ()


class Origin(Struct, frozen=True, kw_only=True):
    """A repository that layers have beside the base's own: its address, and the SHA-256 of the keys that sign it."""

    url: str
    keys: str


class Package(Struct, frozen=True, kw_only=True):
    """An installed package; ``source`` is what it was built from ("NAME VERSION"), where that is called otherwise.

    ``build`` tells apart what was built again as the same version, where the manager's versions do not.
    """

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    build: str = ""


class Family(Protocol):
    """A package manager's world. A family is a module with these names.

    ``host`` is what ``read_host`` returned: nobody else looks inside it, and it may hold secrets. Except for
    ``read_host``, and for the keyring that ``bootstrap``, ``finish`` and ``provision`` read, everything follows from
    the arguments alone.
    """

    NAME: str
    NOBODY_GROUP: str
    ARCHIVE_ENDINGS: tuple[str, ...]
    """What the names of downloaded packages end in: these are kept in the cache."""
    STATUS_PATH: str
    """Where a tree keeps the list of its packages, relative to its root."""

    def read_host(self, root: str = "/") -> Any:
        """What the host's own package manager is told: sources, options, credentials. Never raises."""

    def mistakes(self, base: Base, recipe: Recipe) -> tuple[str, ...]:
        """Why this base cannot be made, a line for each reason; empty when it can be tried."""

    def bootstrap(
        self, base: Base, recipe: Recipe, *, host: Any, target: str | Path, private: str | Path, archives: str | Path
    ) -> Bootstrap:
        """How the base's tree is made. Raises HostError for a keyring that the host lacks.

        It runs where programs of ``base.architecture`` can be executed, if need be in a user namespace, where no device
        can be made: the family only tells its tools which one is meant.
        """

    def finish(self, base: Base, recipe: Recipe, *, host: Any) -> Inside:
        """The last step of a base: nothing of the host, of credentials or of the bootstrap itself stays."""

    def provision(
        self, base: Base, recipe: Recipe | None, *, host: Any, repositories: Sequence[Origin] = ()
    ) -> Provision:
        """What the steps of layers over this base need; ``recipe`` None: a committed layer, of unknown origin.

        ``repositories`` are those of the layer and of all below it.
        """

    def add_repository(self, repository: RepositoryKeys) -> Inside:
        """Writes a repository and its keys. Raises HostError for a file without keys.

        They are trusted for it alone where the package manager can tell (apt); else for all: rpm, pacman, apk, portage.
        """

    def install(self, packages: Sequence[str], *, init: bool = False) -> Inside:
        """Installs packages, and leaves no lists or downloaded files. Without any, the repositories are looked at only.

        ``init``: also what the machine lacks to boot, unless one of ``packages`` is an init itself.
        """

    def remove(self, packages: Sequence[str]) -> Inside:
        """Removes packages, with their settings and what nothing needs any more. What is not installed is no error.

        What needs them goes as well or fails the step, as the package manager has it.
        """

    def upgrade(self) -> Inside:
        """Brings every installed package up to what the repositories have, and leaves no lists or downloaded files.

        A tree that lacks the package manager or its repositories, as images may, stays as it is.
        """

    def set_locale(self, name: str) -> Inside:
        """Makes a locale and the machine's default of it."""

    def set_timezone(self, name: str) -> Inside:
        """Sets the clock's zone, by its name in the tz database."""

    def set_root_password(self, hashed: str) -> Inside:
        """Root's password, as crypt(5) stores it; empty: none is asked for."""

    def enable(self, services: Sequence[str]) -> Inside:
        """Has units start with the machine; those that are not there fail the step."""

    def ready_to_boot(self) -> Inside:
        """The last step of a machine that boots: it has an init, and no identity that others would share."""

    def add_user(self, user: User) -> Inside:
        """Makes an account; nothing happens when it is there already as asked for."""

    def list_packages(self) -> Inside | None:
        """Writes ``STATUS_PATH`` anew, after scripts that may have installed something; None: the manager keeps it itself."""

    def packages(self, status: bytes) -> dict[str, str]:
        """Name → version of what is installed, from the content of ``STATUS_PATH``."""

    def unreachable(self, output: str) -> str:
        """The mirror that a failed step could not reach, from its output; empty when it failed for another reason."""

    def explain(self, output: str) -> tuple[str, str]:
        """Why a step failed and what to try (brief, hint), from its output; both empty when it is not known."""


def inventory(manager: Family, status: bytes) -> list[Package]:
    """The installed packages, from the content of ``STATUS_PATH``.

    A family whose list tells more than names and versions has a function ``inventory`` of its own.
    """
    own: Callable[[bytes], list[Package]] | None = getattr(manager, "inventory", None)
    if own is not None:
        return own(status)
    return [Package(name=name, version=version) for name, version in manager.packages(status).items()]


@cache
def recipe(name: str) -> Recipe:
    """The shipped recipe of a distribution, read once: it is a constant, only kept in a file.

    Raises DefinitionError when there is none of that name.
    """
    if name not in RECIPES:
        raise DefinitionError(f"unknown distribution {name!r}", hint=f"one of {', '.join(RECIPES)}")
    # Beside this file, without importlib.resources: it takes 6 ms to import, and every verb reads a recipe.
    with open(path_of(name), "rb") as stream:
        return convert(tomllib.load(stream), Recipe)


def families_path() -> str:
    """The file that the families' versions are in."""
    return __file__


def path_of(name: str) -> str:
    """The file that a shipped recipe is in."""
    return os.path.join(os.path.dirname(__file__), "recipes", f"{name}.toml")


def unmanaged() -> Family:
    """The family of trees whose package manager nobody drives, and who needs none; it refuses what only one can do."""
    module: Family = import_module("roost.distro.unmanaged")
    return module


def family_of_tree(name: str) -> Family:
    """The family of a tree that no recipe made; when Roost does not drive its package manager, ``unmanaged``."""
    return family(name) if is_driven(name) else unmanaged()


def is_driven(name: str) -> bool:
    """Whether there is a family of this name that drives a package manager, shipped or added."""
    return name in FAMILIES or _is_added(name)


def _is_added(name: str) -> bool:
    return name not in FAMILIES and name not in ("", "none") and name in families.added()


def file_of(name: str) -> str:
    """The file that a family that was added is in; empty for those of Roost, whose versions are here."""
    return getattr(family(name), "__file__", "") if _is_added(name) else ""


def version_of(name: str) -> int:
    """A family's version, which is part of every layer's identity; 0 of those that drive nothing, or are gone."""
    if not _is_added(name):
        return VERSIONS.get(name, 0)
    version: int = getattr(family(name), "VERSION")  # noqa: B009  # shipped families have theirs in VERSIONS
    return version


def family(name: str) -> Family:
    """The module of a family, imported now and not before.

    Raises DefinitionError when there is none of that name, or an added one that is no family.
    """
    if name == "none":
        return unmanaged()
    if _is_added(name):
        from roost.distro.added import load

        return load(families.added()[name])
    if name not in FAMILIES:
        raise DefinitionError(f"unknown family {name!r}", hint=f"one of {', '.join(sorted(FAMILIES))}")
    module: Family = import_module(FAMILIES[name])  # import_module is Any-free: the protocol is checked by tests
    return module
