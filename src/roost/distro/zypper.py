"""The zypper family: openSUSE. A base is made by the host's dnf, as its repositories are of the same kind; layers above by zypper.

zypp checks the signature of a repository's metadata, and by it all that is in it; packages' own signatures are checked too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from roost.distro import dnf, dnf_inside, dnf_repos
from roost.distro.dnf import (
    bootstrap,
    enable,
    inventory,
    list_packages,
    mistakes,
    packages,
    read_host,
    ready_to_boot,
    unreachable,
)  # fmt: skip
from roost.distro.dnf_inside import LIST, PROVISION, TIDY
from roost.distro.recipe import Inside, Provision
from roost.distro.shell import FAIL, HOSTS, TRAPS
from roost.distro.zypper_output import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import Base, RepositoryKeys, User
    from roost.distro.recipe import Origin, Recipe
    from roost.host.dnf import HostDnf

__all__ = [
    "ARCHIVE_ENDINGS", "NAME", "NOBODY_GROUP", "STATUS_PATH", "add_repository", "add_user", "bootstrap", "enable", "explain", "finish",
    "install", "inventory", "list_packages", "mistakes", "packages", "provision", "read_host", "ready_to_boot", "remove",
    "set_locale", "set_root_password", "set_timezone", "unreachable", "upgrade",
]  # fmt: skip

NAME = "zypper"
NOBODY_GROUP = "nobody"
ARCHIVE_ENDINGS: tuple[str, ...] = (".rpm",)
STATUS_PATH = LIST

CACHE = "/var/cache/zypp/packages"
REPOS = "/etc/zypp/repos.d"

# Repositories are written again where nothing of them stays: with logins, and kept packages. 102 and 103 say that
# something is to be restarted.
_ZYPPER = (
    TIDY
    + FAIL
    + f"""
refresh=refresh shadow=shadow zones=timezone inits="systemd dbus-1 util-linux-systemd"
locales() {{ echo glibc-locale; }}
used=
private=/run/roost-repos
with_credentials() {{
    tab=$(printf '\\t')
    mkdir -p "$private/repos"
    chmod 0700 "$private"
    for file in {REPOS}/*.repo; do
        while IFS= read -r line || [ -n "$line" ]; do
            while IFS=$tab read -r url whole; do
                [ "$line" != "baseurl=$url" ] || line="baseurl=$whole"
            done <{PROVISION}/credentials
            printf '%s\\n' "$line"
            case $line in baseurl=*) echo keeppackages=1 ;; esac
        done <"$file" >"$private/repos/${{file##*/}}"
    done
}}
manage() {{
    command -v zypper >/dev/null || fail "there is no zypper in this machine"
    [ -n "$used" ] || with_credentials
    used=yes
    status=0
    zypper --non-interactive --reposd-dir "$private/repos" --cache-dir "$private/cache" --pkg-cache-dir {CACHE} "$@" \\
        </dev/null || status=$?
    case $status in 0 | 102 | 103) ;; *) return "$status" ;; esac
}}
get() {{
    [ -n "$used" ] || manage refresh
    manage --no-refresh install --no-recommends --auto-agree-with-licenses "$@"
}}
drop() {{ manage --no-refresh --disable-repositories remove --clean-deps "$@"; }}
bring_up() {{
    command -v zypper >/dev/null || return 0
    for file in {REPOS}/*.repo; do
        [ -e "$file" ] || return 0
    done
    manage refresh
    manage --no-refresh dist-upgrade --no-recommends --auto-agree-with-licenses
}}
end() {{
    status=$?
    trap - EXIT
    rm -rf "$private"
    [ -z "$used" ] || tidy
    exit "$status"
}}
"""
    + TRAPS
)

# $1 name, $2 the file's text, $3 whether there are keys, on standard input
_REPOSITORY = f"""set -eu
umask 022
mkdir -p {REPOS} {dnf_repos.KEYS}
printf '%s' "$2" >"{REPOS}/$1.repo"
if [ "$3" = yes ]; then
    cat >"{dnf_repos.KEYS}/RPM-GPG-KEY-$1"
    rpm --import "{dnf_repos.KEYS}/RPM-GPG-KEY-$1"
fi
"""


def finish(base: Base, recipe: Recipe, *, host: HostDnf) -> Inside:
    """The last step of a base, run inside it: its repositories as they will be used, and nothing of the host."""
    repos = dnf_repos.resolve(base, recipe, host)
    text = repos.text(f"{dnf_repos.KEYS}/RPM-GPG-KEY-roost", "pkg_gpgcheck=1\nautorefresh=1\ntype=rpm-md\n")
    return dnf_inside.finish(text, HOSTS, repos.keys, places=(REPOS, CACHE), trust=True)


def provision(base: Base, recipe: Recipe | None, *, host: HostDnf, repositories: Sequence[Origin] = ()) -> Provision:
    """What the steps of layers over this base need to reach its mirrors; nothing of it may stay in a layer."""
    found = dnf.provision(base, recipe, host=host, repositories=repositories)
    lines = []
    for line in found.files["credentials"].decode().splitlines():
        url, login, password = line.split("\t")
        parts = urlsplit(url)
        place = f"{quote(login, safe='')}:{quote(password, safe='')}@{parts.netloc}"
        lines.append(f"{url}\t{urlunsplit((parts.scheme, place, parts.path, parts.query, parts.fragment))}\n")
    files = {"credentials": "".join(lines).encode()}
    return Provision(files=files, env=found.env, cache=CACHE, cache_key=found.cache_key, binds=found.binds)


def add_repository(repository: RepositoryKeys) -> Inside:
    """A file in repos.d and one with its keys. rpm knows one set of keys: it trusts these for every repository."""
    made = dnf_inside.add_repository(repository)
    *_, name, text, keys = made.argv
    more = "pkg_gpgcheck=1\nautorefresh=1\ntype=rpm-md\n"
    text = text.replace("repo_gpgcheck=0\n", "") + more
    return Inside(argv=("/bin/sh", "-c", _REPOSITORY, "repository", name, text, keys), stdin=made.stdin)


def install(packages: Sequence[str], *, init: bool = False) -> Inside:
    """Installs packages without those they only recommend."""
    return dnf_inside.install(packages, init=init, manager=_ZYPPER)


def remove(packages: Sequence[str]) -> Inside:
    """Removes packages and what was installed for them alone."""
    return dnf_inside.remove(packages, manager=_ZYPPER)


def upgrade() -> Inside:
    """Brings every package to the version that the repositories have, by ``zypper dist-upgrade``."""
    return dnf_inside.upgrade(_ZYPPER)


def set_locale(name: str) -> Inside:
    """Makes a locale, with the package ``glibc-locale`` when glibc lacks it, and the machine's default of it."""
    return dnf_inside.set_locale(name, _ZYPPER)


def set_timezone(name: str) -> Inside:
    """Sets the clock's zone, with the package ``timezone`` when the machine lacks it."""
    return dnf_inside.set_timezone(name, _ZYPPER)


def set_root_password(hashed: str) -> Inside:
    """Root's password, as crypt(5) stores it; empty: none is asked for."""
    return dnf_inside.set_root_password(hashed, _ZYPPER)


def add_user(user: User) -> Inside:
    """Makes an account, and sudo for it. The same account already there is left alone; another one fails the step."""
    return dnf_inside.add_user(user, NOBODY_GROUP, _ZYPPER)
