"""What the dnf family runs inside a layer: scripts for any ``sh``, with everything that varies given as an argument.

A small tree has neither tar nor sed nor grep: coreutils and the shell itself must do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from roost.distro import apt_inside, keyring
from roost.distro.dnf_repos import KEYS, Repo
from roost.distro.recipe import Inside
from roost.distro.releases import check_repository
from roost.distro.shell import FAIL, READY, SET_ROOT, TIMEZONE, TRAPS
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import RepositoryKeys, User

LIST = "var/lib/roost/packages"
"""Where a tree keeps the names and versions of its packages: rpm's own database has another form in every generation."""
PROVISION = "/run/roost/provision"
CACHE = "/var/cache/dnf"
REPOS = "/etc/yum.repos.d"

# What differs from one making of a layer to the next and is of no use in it; and the list of packages.
TIDY = f"""
tidy() {{
    rm -f /var/log/dnf*.log* /var/log/hawkey.log* /var/log/yum.log /var/log/dnf5.log* /var/log/zypper.log /var/log/zypp/history
    rm -f /var/lib/rpm/__db.* /var/lib/rpm/.rpm.lock /usr/lib/sysimage/rpm/.rpm.lock /var/cache/ldconfig/aux-cache
    command -v rpm >/dev/null || return 0
    mkdir -p /{LIST.rpartition("/")[0]}
    rpm -qa --queryformat '%{{NAME}}\\t%|EPOCH?{{%{{EPOCH}}:}}:{{}}|%{{VERSION}}-%{{RELEASE}}\\t%{{ARCH}}\\n' >/{LIST}.new
    LC_ALL=C sort /{LIST}.new >/{LIST}
    rm -f /{LIST}.new
}}
"""

# Repositories with credentials are written again where nothing of them stays, with those added.
DNF = (
    TIDY
    + FAIL
    + f"""
refresh=makecache shadow=shadow-utils zones=tzdata inits="systemd dbus util-linux"
locales() {{ echo "glibc-langpack-${{1%%[_.@]*}}"; }}
used=
options=
manager=
for one in dnf5 dnf yum; do
    if [ -z "$manager" ] && command -v "$one" >/dev/null; then manager=$one; fi
done
private=/run/roost-repos
with_credentials() {{
    [ -s {PROVISION}/credentials ] || return 0
    tab=$(printf '\\t')
    mkdir -p "$private"
    chmod 0700 "$private"
    for file in {REPOS}/*.repo; do
        while IFS= read -r line || [ -n "$line" ]; do
            printf '%s\\n' "$line"
            while IFS=$tab read -r url login password; do
                [ "$line" != "baseurl=$url" ] || printf 'username=%s\\npassword=%s\\n' "$login" "$password"
            done <{PROVISION}/credentials
        done <"$file" >"$private/${{file##*/}}"
    done
    options=--setopt=reposdir=$private
}}
manage() {{
    [ -n "$manager" ] || fail "there is no dnf and no yum in this machine"
    [ -n "$used" ] || with_credentials
    used=yes
    "$manager" -y -c {PROVISION}/dnf.conf $options "$@" </dev/null
}}
get() {{
    manage install "$@"
    # yum succeeds when it finds some of them
    for wanted; do
        case $wanted in @* | */* | *'('*) continue ;; esac
        rpm -q --whatprovides "$wanted" >/dev/null 2>&1 || rpm -q "$wanted" >/dev/null || fail "No match for argument: $wanted"
    done
}}
drop() {{ manage remove "$@"; }}
bring_up() {{
    [ -n "$manager" ] || return 0
    for file in {REPOS}/*.repo; do
        if [ -e "$file" ]; then manage upgrade; return; fi
    done
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

_INSTALL = 'if [ $# -gt 0 ]; then get "$@"; else manage "$refresh"; fi\n'

_REMOVE = """
for package; do
    shift
    if rpm -q "$package" >/dev/null 2>&1; then set -- "$@" "$package"; else echo "$package is not installed"; fi
done
if [ $# -gt 0 ]; then drop "$@"; fi
"""

# What a tree lacks to boot. dbus is how machinectl reaches a machine, util-linux has login and agetty.
_INSTALL_INIT = """
[ ! -e /sbin/init ] && [ ! -L /sbin/init ] || inits=${inits#systemd }
for package in $inits; do
    rpm -q --whatprovides "$package" >/dev/null 2>&1 || set -- "$@" "$package"
done
if [ $# -gt 0 ]; then get "$@"; fi
"""

# $1 the repositories, $2 the hosts file, $3 where repositories are kept, $4 where packages are, $5 whether rpm
# is told the keys; they are on standard input. What packages have brought stays as an empty
# file: an update leaves a file alone that was changed, and would bring one back that is gone.
_FINISH = (
    "set -eu\numask 022\n"
    + TIDY
    + f"""
for file in "$3"/*.repo; do
    if [ -e "$file" ]; then echo '# roost.repo has the repositories of this machine' >"$file"; fi
done
mkdir -p "$3" {KEYS}
printf '%s' "$1" >"$3/roost.repo"
printf '%s' "$2" >/etc/hosts
cat >{KEYS}/RPM-GPG-KEY-roost
chmod 0644 "$3/roost.repo" {KEYS}/RPM-GPG-KEY-roost /etc/hosts
rm -f /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id
: >/etc/resolv.conf
: >/etc/machine-id
rm -rf /var/cache/dnf /var/cache/libdnf5 /var/cache/yum /var/cache/zypp /tmp/* /var/tmp/*
mkdir -p "$4"
[ "$5" = no ] || rpm --import {KEYS}/RPM-GPG-KEY-roost
tidy
"""
)

# $1 name, $2 the file's text; the keys are on standard input.
_REPOSITORY = f"""set -eu
umask 022
mkdir -p {REPOS} {KEYS}
printf '%s' "$2" >"{REPOS}/$1.repo"
if [ "$3" = yes ]; then cat >"{KEYS}/RPM-GPG-KEY-$1"; fi
"""

# glibc before 2.34 has no C.UTF-8 that programs find everywhere, but Fedora and its kin have added it since 2013.
_LOCALE = """
locale=$1
usable() { [ -z "$(LC_ALL=$locale locale charmap 2>&1 >/dev/null)" ]; }
case $locale in
C | POSIX | C.UTF-8) ;;
*)
    usable || get "$(locales "$locale")"
    usable || fail "no locale is called $locale here"
    ;;
esac
printf 'LANG=%s\\n' "$locale" >/etc/locale.conf
"""


_ENABLE = (
    "set -eu\nexport SYSTEMD_OFFLINE=1\n"
    + FAIL
    + """
command -v systemctl >/dev/null || fail "there is no systemctl in this machine: packages = [\\"systemd\\"] brings it"
for unit; do systemctl enable "$unit"; done
"""
)


def list_packages() -> Inside:
    """Writes the list anew: rpm's own database has another form in every generation."""
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{TIDY}tidy\n", "list"))


def finish(
    repos: str, hosts: str, keys: bytes, *, places: tuple[str, str] = (REPOS, CACHE), trust: bool = False
) -> Inside:
    """Empties what must not stay, and writes what must be there. ``trust``: rpm is told the keys, not the manager alone."""
    words = (repos, hosts, *places, "yes" if trust else "no")
    return Inside(argv=("/bin/sh", "-c", _FINISH, "finish", *words), stdin=keys)


def _script(body: str, manager: str, *words: str, stdin: bytes = b"") -> Inside:
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{manager}{body}", "layer", *words), stdin=stdin)


def install(packages: Sequence[str], *, init: bool = False, manager: str = DNF) -> Inside:
    """Installs packages; ``manager`` is the script that says how. Raises DefinitionError for what cannot be a package's name."""
    for name in packages:
        if not re.fullmatch(r"[@A-Za-z0-9/_][A-Za-z0-9+.:~^_/@()-]*", name):
            raise DefinitionError(
                f"not the name of a package: {name!r}", hint="NAME, NAME-VERSION, NAME.ARCHITECTURE or @GROUP"
            )
    return _script(_INSTALL_INIT if init else _INSTALL, manager, *packages)


def remove(packages: Sequence[str], *, manager: str = DNF) -> Inside:
    """Removes packages and what was installed for them alone; a name may carry a version or an architecture."""
    for name in packages:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9+.:~^_-]*", name):
            raise DefinitionError(
                f"not the name of a package to remove: {name!r}", hint="NAME, NAME-VERSION or NAME.ARCHITECTURE"
            )
    return _script(_REMOVE, manager, *packages)


def upgrade(manager: str = DNF) -> Inside:
    """Upgrades every package to the newest version that the repositories have."""
    return _script("bring_up\n", manager)


def add_repository(repository: RepositoryKeys) -> Inside:
    """A file in yum.repos.d and one with its keys. rpm knows one set of keys: it trusts these for every repository.

    Raises HostError when the key file holds none.
    """
    name = repository.name
    check_repository(repository, "roost")
    keys = keyring.armoured(repository.key, f"{name}.gpg") if repository.key else b""
    text = Repo(name=name, url=repository.url).text(f"{KEYS}/RPM-GPG-KEY-{name if keys else 'roost'}")
    return Inside(argv=("/bin/sh", "-c", _REPOSITORY, "repository", name, text, "yes" if keys else "no"), stdin=keys)


def set_locale(name: str, manager: str = DNF) -> Inside:
    """Makes a locale, with its ``glibc-langpack`` when glibc lacks it, and the machine's default of it."""
    return _script(_LOCALE, manager, name)


def set_timezone(name: str, manager: str = DNF) -> Inside:
    """Sets the clock's zone, with the package ``tzdata`` when the machine lacks it."""
    return _script(TIMEZONE, manager, name)


def set_root_password(hashed: str, manager: str = DNF) -> Inside:
    """Root's password, as crypt(5) stores it; empty: none is asked for."""
    return _script(SET_ROOT, manager, stdin=f"{hashed}\n".encode())


def enable(services: Sequence[str]) -> Inside:
    """Has units start with the machine, by systemctl."""
    return Inside(argv=("/bin/sh", "-c", _ENABLE, "enable", *services))


def ready_to_boot() -> Inside:
    """Sees that there is an init, and takes away the machine-id that packages have made."""
    return Inside(argv=("/bin/sh", "-c", READY, "ready"))


def add_user(user: User, nobody_group: str, manager: str = DNF) -> Inside:
    """Makes an account; raises DefinitionError for names and paths that its files cannot hold."""
    return apt_inside.add_user(user, nobody_group, f"set -eu\n{manager}")
