"""Where a base's packages come from and which keys sign them: the definition, else the host's apt, else the recipe."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from roost.distro import apt_auth, keyring, keyring_files
from roost.errors import DefinitionError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from roost.definition.model import Base
    from roost.distro.apt_auth import Credential
    from roost.distro.recipe import Recipe, Release, Suite
    from roost.host.apt import Entry, HostApt

Option = tuple[str, str]

# What says how old a Release file may be belongs to a mirror: it is taken from the host with the host's mirror only.
_AGE = frozenset({"check-valid-until", "check-date", "max-validtime", "min-validtime", "max-futuretime"})
# Per source: the same, and what describes the mirror. Never taken: trusted, allow-insecure, allow-weak,
# allow-downgrade-to-insecure.
_ENTRY_OPTIONS = frozenset({
    "by-hash",
    "check-date",
    "check-valid-until",
    "date-max-future",
    "inrelease-path",
    "pdiffs",
    "valid-until-max",
    "valid-until-min",
})  # fmt: skip
# A release's pockets: bookworm-updates and bookworm/updates are bookworm's.
_POCKET = re.compile(r"^(?P<release>[a-z0-9]+)(?P<pocket>[-/][a-z-]+)?$")
_ALIASES = frozenset({"stable", "testing", "unstable", "oldstable", "oldoldstable", "devel"})
_NO = frozenset({"no", "false", "without", "off", "disable", "0"})


class Keyring(Struct, frozen=True, kw_only=True):
    """Keys that a mirror's Release files must be signed with.

    ``host`` is their path on the host, ``inside`` in the tree. When they are ``shipped``, a package of the distribution
    puts them there; else ``content`` has to be written.
    """

    inside: str
    content: bytes
    host: str = ""
    shipped: bool = False


class Line(Struct, frozen=True, kw_only=True):
    """One line of sources.list. ``uri`` has no credentials in it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: Keyring
    options: tuple[Option, ...] = ()

    def text(self, signed_by: str, *, kind: str = "deb") -> str:
        """As in sources.list(5), without a line end."""
        options = " ".join(f"{name}={value}" for name, value in (("signed-by", signed_by), *self.options))
        return f"{kind} [{options}] {self.uri} {self.suite} {' '.join(self.components)}"


class Sources(Struct, frozen=True, kw_only=True):
    """All that a download needs. ``acquire`` are settings of apt.conf; ``files`` the content of those they name."""

    lines: tuple[Line, ...]
    acquire: tuple[Option, ...] = ()
    credentials: tuple[Credential, ...] = ()
    files: dict[str, bytes] = {}

    @property
    def keyrings(self) -> tuple[Keyring, ...]:
        """Those of the lines, each once."""
        return tuple({line.keyring.inside: line.keyring for line in self.lines}.values())

    @property
    def cache_key(self) -> str:
        """What shares downloaded packages: the same keys and the same mirrors."""
        uris = sorted({line.uri.rstrip("/") for line in self.lines})
        keys = sorted({hashlib.sha256(line.keyring.content).hexdigest() for line in self.lines})
        return digest("apt", uris, keys)


def digest(*parts: object) -> str:
    """A short name for a value: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(base: Base, recipe: Recipe, host: HostApt) -> Sources:
    """The sources of a base. Reads its keyrings, and nothing else.

    With a mirror in the definition, the suites that the recipe gets from its ``main`` mirror come from there and no
    others: security suites are often somewhere else, and a mirror need not have them.
    Raises HostError for a keyring that the host lacks, DefinitionError for one that changed since it was loaded.
    """
    release = recipe.releases[base.release]
    keys = _Keys(base, recipe, host)
    lines: list[Line] = []
    credentials: list[Credential] = []
    own: list[bool] = []
    for suite in release.suites:
        if base.mirror and suite.mirror != "main":
            continue
        entry = None if base.mirror else _host_entry(base, recipe, release, host, suite)
        url = base.mirror or (_uri(entry) if entry else _recipe_mirror(base, recipe, release, suite))
        uri, credential = apt_auth.split(url)
        _check_uri(uri)
        credentials += [credential] if credential else []
        own.append(entry is not None)
        options = _line_options(base, release, host, entry)
        line = Line(uri=uri, suite=suite.name, components=base.components, keyring=keys.of(entry), options=options)
        lines.append(line)
    wanted = apt_auth.hosts(line.uri for line in lines)
    credentials += [c for c in apt_auth.parse(host.auth) if c.host in wanted]
    acquire = _acquire(host, lines, own_mirror=any(own))
    needed = {value for _, value in acquire}
    return Sources(
        lines=tuple(lines),
        acquire=acquire,
        credentials=tuple(dict.fromkeys(credentials)),
        files={path: content for path, content in host.files.items() if path in needed},
    )


def connection(host: HostApt) -> Sources:
    """How the host reaches mirrors, for a tree whose mirrors are not known. No credentials: for which would they be?"""
    acquire = _acquire(host, (), own_mirror=False)
    needed = {value for _, value in acquire}
    return Sources(lines=(), acquire=acquire, files={p: c for p, c in host.files.items() if p in needed})


def reaching(sources: Sources, uris: Sequence[str], host: HostApt) -> Sources:
    """The same with the credentials that the host has for further addresses."""
    wanted = apt_auth.hosts(uris)
    credentials = [c for c in apt_auth.parse(host.auth) if c.host in wanted]
    return replace(sources, credentials=tuple(dict.fromkeys((*sources.credentials, *credentials))))


# -- which mirror


def _recipe_mirror(base: Base, recipe: Recipe, release: Release, suite: Suite) -> str:
    ports = recipe.ports_mirrors if base.architecture in recipe.ports_architectures else {}
    mirrors = {**recipe.mirrors, **ports, **release.mirrors}
    return mirrors[suite.mirror]


def _host_entry(base: Base, recipe: Recipe, release: Release, host: HostApt, suite: Suite) -> Entry | None:
    """The host's entry whose mirror also has ``suite``, when there is one.

    An archived release is not on the host's mirror, and ports are not where the main architectures are.
    """
    ports = recipe.ports_architectures
    if host.distribution not in (base.distribution, recipe.mirrors_of) or release.mirrors:
        return None
    if (base.architecture in ports) != (host.architecture in ports):
        return None
    security = suite.mirror == "security"
    usable = [e for e in host.entries if _serves(e, base, recipe, security=security)]
    return min(usable, key=lambda entry: _doubt(entry, recipe), default=None)


def _serves(entry: Entry, base: Base, recipe: Recipe, *, security: bool) -> bool:
    if "deb" not in entry.types or "main" not in entry.components or not _uri(entry):
        return False
    if entry.architectures and base.architecture not in entry.architectures:
        return False
    pockets = [match for match in map(_POCKET.match, entry.suites) if match]
    known = [m["pocket"] or "" for m in pockets if m["release"] in recipe.releases or m["release"] in _ALIASES]
    return any(("security" in pocket or pocket == "/updates") == security for pocket in known)


def _doubt(entry: Entry, recipe: Recipe) -> tuple[bool, int]:
    """Other archives (of vendors, say) use a distribution's suite names too; the least doubtful entry is taken."""
    usual = os.path.basename(entry.file).partition(".")[0] in ("sources", recipe.name)
    if any(_same_name(path, recipe.keyring) for path in entry.signed_by):
        return not usual, 0
    return not usual, 2 if entry.signed_by or entry.key else 1


def _uri(entry: Entry) -> str:
    return next((uri for uri in entry.uris if uri.startswith(("http://", "https://"))), "")


def _check_uri(uri: str) -> None:
    if not re.fullmatch(r"(https?|ftp|file|copy)://?[^\s\[\]\"]+", uri):
        raise DefinitionError(f"not a mirror's address: {uri!r}", hint="http://HOST/PATH, https://... or file:///PATH")


# -- which options


def _line_options(base: Base, release: Release, host: HostApt, entry: Entry | None) -> tuple[Option, ...]:
    options: dict[str, str] = {}
    if not release.check_valid_until:
        options["check-valid-until"] = "no"
    if entry:
        general = {key.lower(): value.lower() for key, value in host.options}
        for name in ("check-valid-until", "check-date"):
            if general.get(f"acquire::{name}") in _NO:
                options[name] = "no"
        plain = ((n, v) for n, v in entry.options if n in _ENTRY_OPTIONS and not re.search(r"[\s\[\]]", v))
        options.update(plain)
    if base.check_valid_until is False:
        options["check-valid-until"] = "no"
    # What apt does anyway. Without check-date it would not look at the end either.
    checked = ("check-valid-until", "check-date") if base.check_valid_until else ()
    return tuple(sorted((n, v) for n, v in options.items() if n not in checked))


def _acquire(host: HostApt, lines: Iterable[Line], *, own_mirror: bool) -> tuple[Option, ...]:
    chosen = []
    for key, value in host.options:
        name = key.lower().split("::")[1]
        # Whether Release files are checked is said line by line, languages are none (see apt.py).
        if name in ("check-valid-until", "check-date", "languages") or (name in _AGE and not own_mirror):
            continue
        chosen.append((key, value))
    # For apt before 1.5, which does not know these options of a line.
    lines = tuple(lines)
    for name, key in (("check-valid-until", "Acquire::Check-Valid-Until"), ("check-date", "Acquire::Check-Date")):
        if lines and all((name, "no") in line.options for line in lines):
            chosen.append((key, "false"))
    # A new tree has no certificates of its own: those that the host trusts stand in.
    https = any(line.uri.startswith("https:") for line in lines)
    if https and host.ca_bundle and not any(key.lower() == "acquire::https::cainfo" for key, _ in chosen):
        chosen.append(("Acquire::https::CaInfo", host.ca_bundle))
    return tuple(chosen)


# -- which keys


class _Keys:
    """The keyring of each line: the definition's, else the one of the host's entry in use, else the recipe's."""

    def __init__(self, base: Base, recipe: Recipe, host: HostApt) -> None:
        self._base = base
        self._recipe = recipe
        self._host = host
        self._path = self._there(keyring_files.of_base(recipe, base))
        words = keyring_files.words(recipe, base.release, base.architecture, base.variant)
        self._inside = recipe.keyring.format(**words)  # a release's own may be of the past, and not in its tree
        self._added: list[Keyring] = []

    def of(self, entry: Entry | None) -> Keyring:
        if self._base.keyring:
            return self._add(self._of_definition())
        if entry and entry.key:
            return self._add(keyring.binary(entry.key.encode(), f"the key in {entry.file}"))
        if entry and entry.signed_by and not any(_same_name(path, self._path) for path in entry.signed_by):
            return self._add(b"".join(keyring.binary(self._read(p), p) for p in entry.signed_by))
        content = keyring.binary(self._read(self._path, package=self._recipe.keyring_package), self._path)
        return Keyring(inside=self._inside, content=content, host=self._host_path(self._path), shipped=True)

    def _of_definition(self) -> bytes:
        return keyring.binary(keyring_files.given(self._base), self._base.keyring)

    def _add(self, content: bytes) -> Keyring:
        for known in self._added:
            if known.content == content:
                return known
        number = f"-{len(self._added) + 1}" if self._added else ""
        added = Keyring(inside=f"/etc/apt/keyrings/roost{number}.gpg", content=content)
        self._added.append(added)
        return added

    def _there(self, path: str) -> str:
        """The path, with the other ending when only that is on the host; see ``_same_name``."""
        stem = os.path.splitext(path)[0]
        there = (p for p in (path, f"{stem}.pgp", f"{stem}.gpg") if os.path.exists(self._host_path(p)))
        return next(there, path)

    def _host_path(self, path: str, root: str | None = None) -> str:
        return (self._host.root.rstrip("/") if root is None else root) + path

    def _read(self, path: str, *, package: str = "", root: str | None = None) -> bytes:
        try:
            with open(self._host_path(path, root), "rb") as stream:
                return stream.read()
        except OSError as e:
            if self._host.only_shown:
                return keyring.UNKNOWN
            hint = f"apt install {package}" if package else "check the path"
            if package:
                hint += ', or name a keyring in the definition: keyring = "PATH"'
            why = "is not on this host" if isinstance(e, FileNotFoundError) else f"cannot be read: {e.strerror}"
            raise HostError(f"the keyring {path} {why}", details=f"it signs {self._recipe.name}", hint=hint) from None


def _same_name(one: str, other: str) -> bool:
    """Debian is renaming its keyrings from .gpg to .pgp: the same path but for that is the same keyring."""
    return os.path.splitext(one)[0] == os.path.splitext(other)[0]


def in_private(sources: Sources, folder: str) -> Sources:
    """The same sources for a place that does not have the host's files: options name those in ``folder`` instead."""
    names = {path: f"{folder}/{_file_name(number, path)}" for number, path in enumerate(sorted(sources.files))}
    acquire = tuple((key, names.get(value, value)) for key, value in sources.acquire)
    files = {os.path.basename(names[path]): content for path, content in sources.files.items()}
    return replace(sources, acquire=acquire, files=files)


def _file_name(number: int, path: str) -> str:
    return f"file-{number}-{re.sub(r'[^A-Za-z0-9.]', '-', os.path.basename(path))}"
