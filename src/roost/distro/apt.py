"""The apt family: Debian, Ubuntu and what is made from them. What is returned here is carried out by the engine."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from roost.distro import apt_auth, apt_gpgv, apt_inside, apt_sources
from roost.distro.apt_inside import install, remove, upgrade
from roost.distro.apt_output import explain, unreachable
from roost.distro.apt_system import add_repository, enable, ready_to_boot, set_locale, set_root_password, set_timezone
from roost.distro.recipe import Bootstrap, Inside, Package, Provision
from roost.errors import DefinitionError, HostError
from roost.host import apt as host_apt
from roost.host import apt_conf

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from roost.definition.model import Base, User
    from roost.distro.apt_sources import Sources
    from roost.distro.recipe import Origin, Recipe
    from roost.host.apt import HostApt

__all__ = [
    "ARCHIVE_ENDINGS", "NAME", "NOBODY_GROUP", "STATUS_PATH", "add_repository", "add_user", "bootstrap", "enable", "explain", "finish",
    "install", "inventory", "list_packages", "mistakes", "packages", "provision", "read_host", "ready_to_boot", "remove", "set_locale",
    "set_root_password", "set_timezone", "unreachable", "upgrade",
]  # fmt: skip

NAME = "apt"
NOBODY_GROUP = "nogroup"
ARCHIVE_ENDINGS: tuple[str, ...] = (".deb",)
STATUS_PATH = "var/lib/dpkg/status"

PROVISION = "/run/roost/provision"
"""Where the files of a Provision are seen inside."""
ARCHIVES = "/var/cache/apt/archives"
_CERTIFICATES = "certificates.pem"  # for trees that have none, see apt_inside.APT

# debootstrap's word for each variant that it has; none for what it makes without one.
_DEBOOTSTRAP_VARIANTS = {"minbase": "minbase", "buildd": "buildd", "important": ""}

# $1 what an archived release is told, or nothing; $2 the tree. debootstrap writes what its programs say into a file of
# the tree: nothing else tells why it failed.
_WITH_LOG = """\
archived=$1 log=$2/debootstrap/debootstrap.log
shift 2
"$@" && exit
status=$?
if [ -f "$log" ] && [ ! -L "$log" ] && [ ! -L "${log%/*}" ]; then tail -n 60 "$log"; fi
[ -z "$archived" ] || echo "roost: archived: $archived"
exit "$status"
"""

# $1 the private directory, which has a gpgv that does as apt does.
_DEBOOTSTRAP = """\
chmod 0700 "$1/gpgv"
export PATH="$1:$PATH"
shift
exec debootstrap "$@"
"""

# A mirror on this disk is taken out of the tree again, with the directories that were made for it alone.
_UNBIND = """\
below={path}
umount "$1$below"
while [ -n "$below" ] && ! dpkg-query --root="$1" -S "$below" >/dev/null 2>&1 && rmdir "$1$below" 2>/dev/null; do
    below=${{below%/*}}
done"""

# Every program that a layer runs sees the same: no questions, no language but the C library's own.
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true", "LC_ALL": "C.UTF-8"}


def read_host(root: str = "/") -> HostApt:
    """What the host's own apt is told. Never raises; see its ``problems``."""
    return host_apt.read(root)


def mistakes(base: Base, recipe: Recipe) -> tuple[str, ...]:
    """Why this base cannot be made, a line for each reason; empty when it can be tried."""
    release = recipe.releases.get(base.release)
    if release is None:
        return (f"{recipe.name} has no release {base.release!r}: one of {', '.join(recipe.releases)}",)
    found = []
    if base.architecture not in (known := release.architectures or recipe.architectures):
        system = f"{recipe.name} {base.release}"
        found.append(f"{system} has no architecture {base.architecture!r}: one of {', '.join(known)}")
    if base.bootstrap not in recipe.bootstraps:
        found.append(f"unknown bootstrap {base.bootstrap!r}: one of {', '.join(recipe.bootstraps)}")
    variants = list(_DEBOOTSTRAP_VARIANTS) if base.bootstrap == "debootstrap" else recipe.variants
    if base.variant not in variants:
        found.append(f"{base.bootstrap} has no variant {base.variant!r}: one of {', '.join(variants)}")
    if not base.components or any(not re.fullmatch(r"[a-z0-9][a-z0-9/.-]*", c) for c in base.components):
        found.append(f"not components: {', '.join(base.components) or 'none'}")
    return tuple(found)


def _resolve(base: Base, recipe: Recipe, host: HostApt) -> Sources:
    if found := mistakes(base, recipe):
        raise DefinitionError(f"{recipe.name} {base.release} cannot be made", details="\n".join(found))
    return apt_sources.resolve(base, recipe, host)


# -- the base


class _Places(Struct, frozen=True):
    target: str
    private: str
    archives: str


def bootstrap(
    base: Base, recipe: Recipe, *, host: HostApt, target: str | Path, private: str | Path, archives: str | Path
) -> Bootstrap:
    """The command that makes a base's tree. To be run as root in a mount namespace of its own.

    Packages found in ``archives`` are not downloaded, and downloaded ones are put there (as ``*.deb``; the rest of
    what is left there is apt's own). mmdebstrap installs updates and security updates at once; debootstrap knows one
    suite only, so what it makes gets them with its first ``apt-get upgrade``.
    Raises HostError for a keyring that the host lacks, or a path that its configuration files cannot hold;
    DefinitionError for a base that ``mistakes`` has something to say about.
    """
    places = _Places(os.fspath(target), os.fspath(private), os.fspath(archives))
    sources = _resolve(base, recipe, host)
    mirrors = _local(line.uri for line in sources.lines)
    for path in (places.target, places.private, places.archives, *mirrors):
        if not re.fullmatch(r"/[\w./+@%=~-]*", path):  # they are put into scripts and configuration files
            hint = "a mirror with another path, or by http" if path in mirrors else "choose another --state directory"
            raise HostError(f"apt's files cannot hold this path: {path!r}", hint=hint)
    if base.bootstrap == "debootstrap":
        return _debootstrap(base, recipe, sources, places)
    return _mmdebstrap(base, recipe, sources, places, host)


def _mmdebstrap(base: Base, recipe: Recipe, sources: Sources, places: _Places, host: HostApt) -> Bootstrap:
    release = recipe.releases[base.release]
    settings = [("Acquire::Retries", "1"), *sources.acquire]
    if release.expired_keys:  # comes with mmdebstrap; any other failure of gpgv stays one
        settings.append(("Apt::Key::gpgvcommand", "/usr/libexec/mmdebstrap/gpgvnoexpkeysig"))
    settings.append(("Dir::Etc::netrc", f"{places.private}/auth.conf"))
    files = {"apt.conf": apt_conf.dump(settings).encode(), "auth.conf": apt_auth.apt_text(sources.credentials)}
    # Inside the tree while it is made, because apt's own user, who checks signatures, cannot read ``private``.
    setup = [
        "set -e",
        # APT_CONFIG of all of mmdebstrap's apts; it is read first, and deleted by mmdebstrap in the end.
        f"""printf '#include "%s";\\n' {places.private}/apt.conf >>"$MMDEBSTRAP_APT_CONFIG\"""",
        f'mkdir -p "$1{ARCHIVES}" "$1/etc/apt/keyrings"',
        f'mount --bind {places.archives} "$1{ARCHIVES}"',
        'echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/roost-bootstrap"',
    ]
    for number, keyring in enumerate(sources.keyrings):
        if not keyring.shipped:
            files[f"keyring-{number}.gpg"] = keyring.content
            setup.append(f'install -m 0644 {places.private}/keyring-{number}.gpg "$1{keyring.inside}"')
    done = ["set -e", f'umount "$1{ARCHIVES}"', 'rm -f "$1/etc/dpkg/dpkg.cfg.d/roost-bootstrap"']
    for path in _local(line.uri for line in sources.lines):  # dpkg opens packages of a file: mirror inside the tree
        setup += [f'mkdir -p "$1{path}"', f'mount --bind -o ro {path} "$1{path}"']
        done.append(_UNBIND.format(path=path))
    lines = (line.text(line.keyring.host or f"{places.target}{line.keyring.inside}") for line in sources.lines)
    # Debian's apt is required; that of Ubuntu, and of Debian before 10, is only important, and minbase goes without it.
    included = [] if base.variant in ("essential", "apt") else ["apt"]
    if _https(sources):
        included.append("ca-certificates")
    archived = _archived(recipe, base)
    argv = (
        *(("/bin/sh", "-c", _WITH_LOG, "sh", archived, places.target) if archived else ()),
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        f"--variant={base.variant}",
        f"--architectures={base.architecture}",
        f"--components={','.join(base.components)}",
        "--skip=essential/unlink",  # or they would not stay in archives
        # whether this host runs them was tried; mmdebstrap would want arch-test for it, and an emulator in the tree
        *(("--skip=check/qemu",) if base.architecture != host.architecture else ()),
        *(f"--hook-dir={folder}" for folder in release.mmdebstrap_hooks),
        "--setup-hook=" + "\n".join(setup),
        *((f"--include={','.join(included)}",) if included else ()),
        "--customize-hook=" + "\n".join(done),
        base.release,
        places.target,
        *lines,
    )
    return Bootstrap(argv=argv, env=_ENVIRONMENT, files=files)


def _debootstrap(base: Base, recipe: Recipe, sources: Sources, places: _Places) -> Bootstrap:
    release = recipe.releases[base.release]
    line = sources.lines[0]
    variant = _DEBOOTSTRAP_VARIANTS[base.variant]
    script = release.debootstrap_script or recipe.debootstrap_script
    argv = (
        "/bin/sh",
        "-c",
        _WITH_LOG,
        "sh",
        _archived(recipe, base),
        places.target,
        "/bin/sh",
        "-c",
        _DEBOOTSTRAP,
        "sh",
        places.private,
        f"--arch={base.architecture}",
        *((f"--variant={variant}",) if variant else ()),
        f"--components={','.join(base.components)}",
        f"--keyring={places.private}/keyring.gpg",
        "--force-check-gpg",
        f"--cache-dir={places.archives}",
        *(("--include=ca-certificates",) if _https(sources) else ()),
        base.release,
        places.target,
        line.uri,
        *((script,) if script else ()),
    )
    # Its downloads are wget's.
    env = {**_ENVIRONMENT, "HOME": places.private, "WGETRC": f"{places.private}/wgetrc"}
    wgetrc = ["tries = 2\n"]
    options = {key.lower(): value for key, value in sources.acquire}
    for scheme in ("http", "https", "ftp"):
        place = urlsplit(line.uri).hostname
        proxy = options.get(f"acquire::{scheme}::proxy::{place}", options.get(f"acquire::{scheme}::proxy", ""))
        if proxy.lower() in ("direct", "false"):
            env[f"{scheme}_proxy"] = ""
        elif proxy:
            env[f"{scheme}_proxy"] = proxy
    for option, name in (("cainfo", "ca_certificate"), ("sslcert", "certificate"), ("sslkey", "private_key")):
        if value := options.get(f"acquire::https::{option}"):
            wgetrc.append(f"{name} = {value}\n")
    if options.get("acquire::https::verify-peer", "").lower() in ("no", "false"):
        wgetrc.append("check_certificate = off\n")
    old = ("check-valid-until", "no") in line.options
    files = {
        "keyring.gpg": line.keyring.content,
        "gpgv": apt_gpgv.for_debootstrap(expired_keys=release.expired_keys, old_release_files=old),
        "wgetrc": "".join(wgetrc).encode(),
        ".netrc": apt_auth.wget_text(sources.credentials),
    }
    return Bootstrap(argv=argv, env=env, files=files)


def _archived(recipe: Recipe, base: Base) -> str:
    """Where the archive is of a release that other mirrors do not have; nothing of the others."""
    mirrors = recipe.releases[base.release].mirrors
    main = {**recipe.mirrors, **mirrors}["main"]
    return f"{recipe.name} {base.release} is archived, and at {main}" if mirrors else ""


def _local(uris: Iterable[str]) -> tuple[str, ...]:
    """The directories of mirrors that are on this disk, as apt reads their addresses."""
    found = (os.path.normpath(unquote(urlsplit(uri).path)) for uri in uris if uri.startswith(("file:", "copy:")))
    return tuple(dict.fromkeys(found))


def _https(sources: Sources) -> bool:
    return any(line.uri.startswith("https:") for line in sources.lines)


def finish(base: Base, recipe: Recipe, *, host: HostApt) -> Inside:
    """The last step of a base, run inside it: its sources as they will be used, and nothing of the host.

    ``/etc/apt/sources.list`` names clean addresses and a keyring in the tree. What differs from one making to the next
    (logs, caches, machine-id) is emptied. Nothing may be mounted over files of ``/etc`` while it runs.
    """
    sources = _resolve(base, recipe, host)
    kinds = ("deb", "deb-src") if base.source_packages else ("deb",)
    lines = [line.text(line.keyring.inside, kind=kind) for line in sources.lines for kind in kinds]
    keyrings = {keyring.inside: keyring.content for keyring in sources.keyrings if not keyring.shipped}
    return apt_inside.finish("".join(f"{line}\n" for line in lines), keyrings)


# -- the layers above it


def provision(base: Base, recipe: Recipe | None, *, host: HostApt, repositories: Sequence[Origin] = ()) -> Provision:
    """What the steps of layers over this base need to reach its mirrors; nothing of it may stay in a layer.

    ``recipe`` None: a committed layer whose mirrors are not known; it gets the host's proxies and certificates, and a
    package cache of its own. So does what has further repositories: apt takes a package from the cache by its name and
    size, and another's must not pass for the distribution's.
    """
    sources = _resolve(base, recipe, host) if recipe else apt_sources.connection(host)
    uris = [origin.url for origin in repositories]
    sources = apt_sources.reaching(sources, uris, host)
    sources = apt_sources.in_private(sources, PROVISION)
    settings = [("Acquire::Retries", "1")]
    # A program of the host that finds a proxy is not there inside.
    settings += [s for s in sources.acquire if "auto-detect" not in s[0].lower() and "autodetect" not in s[0].lower()]
    settings += [
        ("Acquire::Languages", "none"),
        ("APT::Keep-Downloaded-Packages", "true"),
        ("Binary::apt::APT::Keep-Downloaded-Packages", "true"),
        # Files below PROVISION are for root only, and so may be the cache.
        ("APT::Sandbox::User", "root"),
        ("Dpkg::Use-Pty", "0"),
        ("DPkg::Options::", "--force-unsafe-io"),  # the layer is synced as a whole before it gets its name
        ("DPkg::Options::", "--force-confdef"),
        ("DPkg::Options::", "--force-confold"),  # a file that a definition put there is meant
        ("Dir::Etc::netrc", f"{PROVISION}/auth.conf"),
    ]
    files = dict(sources.files)
    if recipe and recipe.releases[base.release].expired_keys:
        files["gpgv"] = apt_gpgv.for_expired_keys()
        # Dir::Bin::gpg is what apt 1.0 calls; since 1.1 it is the other.
        settings += [("Apt::Key::gpgvcommand", f"{PROVISION}/gpgv"), ("Dir::Bin::gpg", f"{PROVISION}/gpgv")]
    files |= {"apt.conf": apt_conf.dump(settings).encode(), "auth.conf": apt_auth.apt_text(sources.credentials)}
    set_already = any(name.lower() == "acquire::https::cainfo" for name, _ in settings)
    if host.ca_bundle and not set_already and (recipe is None or any(uri.startswith("https:") for uri in uris)):
        files[_CERTIFICATES] = host.files[host.ca_bundle]
    env = {**_ENVIRONMENT, "APT_CONFIG": f"{PROVISION}/apt.conf"}
    uris += [line.uri for line in sources.lines]
    key = sources.cache_key if recipe else apt_sources.digest("apt", "committed", base.from_layer or base.source)
    if repositories:
        key = apt_sources.digest(key, sorted([origin.url, origin.keys] for origin in repositories))
    return Provision(files=files, env=env, cache=ARCHIVES, cache_key=key, binds=_local(uris))


def add_user(user: User) -> Inside:
    """Makes an account, and sudo for it. The same account already there is left alone; another one fails the step."""
    return apt_inside.add_user(user, NOBODY_GROUP)


def list_packages() -> None:
    """dpkg keeps its list itself."""


def packages(status: bytes) -> dict[str, str]:
    """Name → version of the installed packages, from the content of ``STATUS_PATH``.

    A second architecture of the same package is called ``NAME:ARCHITECTURE``.
    """
    found: dict[str, str] = {}
    for one in inventory(status):
        found[f"{one.name}:{one.architecture}" if one.name in found else one.name] = one.version
    return found


def inventory(status: bytes) -> list[Package]:
    """The installed packages, with what dpkg knows of them."""
    found = []
    for stanza in status.decode("utf-8", "replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[:1].strip())
        if not fields.get("Status", "").endswith(" installed") or "Package" not in fields:
            continue
        version = fields.get("Version", "")
        name, _, own = fields.get("Source", "").partition(" (")  # deb-src-control(5): the version where it is another
        found.append(
            Package(
                name=fields["Package"],
                version=version,
                architecture=fields.get("Architecture", ""),
                source=f"{name} {own.rstrip(')') or version}" if name else "",
            )
        )
    return found
