"""What the host's own apt is told: sources, Acquire options, credentials. Files are read, no process is started.

A host without apt gives an empty value. Formats: apt.conf(5), sources.list(5), apt_auth.conf(5), os-release(5).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.host import apt_conf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from roost.host.apt_conf import Setting

# What `uname -m` says → what Debian calls it.
_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "i386",
    "i586": "i386",
    "armv7l": "armhf",
    "armv8l": "armhf",
    "ppc64le": "ppc64el",
}

# Options of Acquire that decide how, and how late, something is downloaded. Those that accept what is not signed
# (AllowInsecureRepositories, AllowWeakRepositories, AllowDowngradeToInsecureRepositories) are not among them: what the
# host puts up with for itself is not what a layer is made of.
_ACQUIRE = frozenset({
    "by-hash",
    "check-date",
    "check-valid-until",
    "forceipv4",
    "forceipv6",
    "languages",
    "max-futuretime",
    "max-validtime",
    "min-validtime",
    "pdiffs",
    "queue-mode",
    "retries",
    "source-symlinks",
})  # fmt: skip
_SCHEMES = frozenset({"http", "https", "ftp"})
# Leaves of Acquire::https (and of Acquire::https::HOST) whose value is a file.
_FILE_OPTIONS = frozenset({"cainfo", "sslcert", "sslkey", "crlfile", "issuercert"})
# Where systems keep the certificates that they trust, the usual place of Debian first.
_CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)  # fmt: skip
# deb822 field → option of the one-line format (sources.list(5), "THE DEB AND DEB-SRC TYPES: OPTIONS").
_ONE_LINE_NAMES = {"architectures": "arch", "languages": "lang", "targets": "target"}
_MAIN_FIELDS = frozenset({"types", "uris", "suites", "components", "enabled", "signed-by", "architectures"})


class Entry(Struct, frozen=True, kw_only=True):
    """One entry of the host's sources. ``file`` is where it was read, with a path below the host's root.

    ``signed_by`` are paths; ``key`` is the text of a key given in the entry itself. ``options`` are the rest, with
    their one-line names: ``(("check-valid-until", "no"),)``.
    """

    file: str
    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    key: str = ""
    options: tuple[tuple[str, str], ...] = ()


class HostApt(Struct, frozen=True, kw_only=True):
    """What the host's apt is told. ``auth`` and some ``options`` are secret: they never go into a tree or a log.

    ``root`` is where it was read. ``options`` are the host's own settings below ``Acquire`` that matter to a download.
    ``files`` are those that options name, path → content; ``ca_bundle`` is the path of the certificates that the host
    trusts (also in ``files``), or empty. ``problems`` name the files that could not be used, and why. ``only_shown``: what
    follows is shown and not carried out, so that a keyring may be missing.
    """

    root: str = "/"
    distribution: str = ""
    release: str = ""
    architecture: str = ""
    entries: tuple[Entry, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    auth: str = ""
    files: dict[str, bytes] = {}
    ca_bundle: str = ""
    problems: tuple[str, ...] = ()
    only_shown: bool = False

    def __repr__(self) -> str:
        return f"HostApt(root={self.root!r}, distribution={self.distribution!r}, {len(self.entries)} entries)"


def read(root: str = "/") -> HostApt:
    """What the apt of the system at ``root`` is told. Nothing that is wrong there raises: see ``problems``."""
    problems: list[str] = []
    reader = _Reader(root, problems)
    os_release = _os_release(reader.text("/etc/os-release") or reader.text("/usr/lib/os-release"))
    options = _acquire(reader)
    files = {}
    for key, value in options:
        if key.lower().rpartition("::")[2] in _FILE_OPTIONS and (content := reader.bytes(value, wanted=True)):
            files[value] = content
    ca_bundle = next((path for path in _CA_BUNDLES if os.path.isfile(reader.path(path))), "")
    if ca_bundle:
        files[ca_bundle] = reader.bytes(ca_bundle)
    auth = [
        reader.text(name) for name in ("/etc/apt/auth.conf", *reader.names("/etc/apt/auth.conf.d", r"[^.].*\.conf"))
    ]
    machine = os.uname().machine
    return HostApt(
        root=root,
        distribution=os_release.get("ID", ""),
        release=os_release.get("VERSION_CODENAME", ""),
        architecture=_MACHINES.get(machine, machine),
        entries=tuple(_entries(reader)),
        options=options,
        auth="".join(text if text.endswith("\n") else f"{text}\n" for text in auth if text),
        files=files,
        ca_bundle=ca_bundle,
        problems=tuple(problems),
    )


class _Reader:
    """Reads files below a root; what cannot be read becomes a problem, what does not exist is empty."""

    def __init__(self, root: str, problems: list[str]) -> None:
        self._root = root.rstrip("/")
        self._problems = problems

    def path(self, name: str) -> str:
        return self._root + name

    def bytes(self, name: str, *, wanted: bool = False) -> bytes:
        try:
            with open(self.path(name), "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            if wanted:
                self.problem(name, "does not exist")
        except (OSError, ValueError) as e:  # ValueError: a NUL in the name
            self.problem(name, str(e))
        return b""

    def text(self, name: str) -> str:
        return self.bytes(name).decode("utf-8", "replace")

    def names(self, folder: str, pattern: str) -> list[str]:
        """The regular files of a folder whose name is all of ``pattern``, in apt's order: by bytes."""
        try:
            with os.scandir(self.path(folder)) as listing:
                names = [e.name for e in listing if re.fullmatch(pattern, e.name) and e.is_file()]
        except FileNotFoundError:
            return []
        except OSError as e:
            self.problem(folder, str(e))
            return []
        return [f"{folder}/{name}" for name in sorted(names, key=os.fsencode)]

    def problem(self, name: str, why: str) -> None:
        self._problems.append(f"{name}: {why}")


def _os_release(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def _acquire(reader: _Reader) -> tuple[Setting, ...]:
    # The order of apt.conf(5): the parts, then the main file. Parts have no extension, or "conf".
    parts = reader.names("/etc/apt/apt.conf.d", r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
    settings: list[Setting] = []
    for name in (*parts, "/etc/apt/apt.conf"):
        if os.path.splitext(name)[1] not in ("", ".conf"):
            continue
        try:
            settings = apt_conf.apply(settings, apt_conf.parse(reader.text(name)))
        except ValueError as e:
            reader.problem(name, str(e))
    found = [(key, value) for key, value in settings if value and _matters(key)]
    for key, _ in (odd := [setting for setting in found if not apt_conf.can_be_said(setting)]):
        reader.problem("/etc/apt", f"{key} cannot be written down again, so it is left out")
    return tuple(setting for setting in found if setting not in odd)


def _matters(key: str) -> bool:
    top, *rest = key.lower().rstrip(":").split("::")
    if top != "acquire" or not rest:
        return False
    return (rest[0] in _SCHEMES and len(rest) > 1) or rest[0] in _ACQUIRE


def _entries(reader: _Reader) -> Iterator[Entry]:
    for name in ("/etc/apt/sources.list", *reader.names("/etc/apt/sources.list.d", r"[A-Za-z0-9_.-]+\.(list|sources)")):
        parse: Callable[[str, str], Iterable[Entry]] = _deb822 if name.endswith(".sources") else _one_line
        try:
            yield from list(parse(name, reader.text(name)))
        except ValueError as e:
            reader.problem(name, str(e))


def _one_line(file: str, text: str) -> Iterator[Entry]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        match = re.fullmatch(r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)", line)
        if not match:
            raise ValueError(f"line {number} is not of the form 'deb [OPTIONS] URI SUITE COMPONENT...'")
        kind, options, uri, suite, components = match.groups()
        pairs = {}
        for option in (options or "").split():
            name, _, value = option.partition("=")
            pairs[name.rstrip("+-").lower()] = value
        yield Entry(
            file=file,
            types=(kind,),
            uris=(uri,),
            suites=(suite,),
            components=tuple(components.split()),
            architectures=tuple(pairs.pop("arch", "").replace(",", " ").split()),
            signed_by=_paths(pairs.pop("signed-by", "")),
            options=tuple(pairs.items()),
        )


def _deb822(file: str, text: str) -> Iterator[Entry]:
    for fields in _stanzas(text):
        if fields.get("enabled", "yes").strip().lower() in ("no", "false", "off", "without", "0"):
            continue
        missing = [name for name in ("types", "uris", "suites") if not fields.get(name, "").strip()]
        if missing:
            raise ValueError(f"an entry without {', '.join(missing)}")
        signed_by = fields.get("signed-by", "").strip()
        inline = "-----BEGIN" in signed_by
        others = {n.rstrip("+-"): " ".join(v.split()) for n, v in fields.items() if n not in _MAIN_FIELDS}
        yield Entry(
            file=file,
            types=tuple(fields["types"].split()),
            uris=tuple(fields["uris"].split()),
            suites=tuple(fields["suites"].split()),
            components=tuple(fields.get("components", "").split()),
            architectures=tuple(fields.get("architectures", "").split()),
            signed_by=() if inline else _paths(signed_by),
            key=_inline_key(signed_by) if inline else "",
            options=tuple((_ONE_LINE_NAMES.get(name, name), value) for name, value in others.items()),
        )


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, list[str]] = {}
    last = ""
    for line in (*text.splitlines(), ""):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield {name: "\n".join(lines) for name, lines in fields.items()}
            fields, last = {}, ""
        elif line[0] in " \t":
            if not last:
                raise ValueError(f"a continuation of nothing: {line.strip()[:40]!r}")
            fields[last].append(line)
        else:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"not a field: {line[:40]!r}")
            last = name.strip().lower()
            fields[last] = [value]


def _inline_key(value: str) -> str:
    lines = [line.strip() for line in value.strip().splitlines()]
    return "".join("\n" if line == "." else f"{line}\n" for line in lines)


def _paths(value: str) -> tuple[str, ...]:
    """The paths of a Signed-By; fingerprints, which it may have instead, name no file and are left out."""
    return tuple(part for part in re.split(r"[\s,]+", value) if part.startswith("/"))
