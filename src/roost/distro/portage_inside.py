"""What the portage family runs inside a layer: scripts for any ``sh``, with everything that varies given as an argument.

A tree keeps its keys as text in ``/etc/portage``: GnuPG's own files, of its version then and with times in them, are
made where nothing of them stays, for each step that installs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from roost.distro import apt_inside, keyring
from roost.distro.recipe import Inside
from roost.distro.releases import check_names, check_repository
from roost.distro.shell import FAIL, HOSTS, READY, SET_ROOT, TIMEZONE, TRAPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import RepositoryKeys, User

LIST = "var/lib/roost/packages"
"""Where a tree keeps its packages' names with their versions, slots, and times of being built: a directory each of portage's
own says it.
"""
PROVISION = "/run/roost/provision"
CACHE = "/var/cache/binpkgs"
"""PKGDIR, make.globals."""
CONFIGURATION = "/etc/portage"

# What differs from one making of a layer to the next and is of no use in it; and the list of packages.
TIDY = f"""
tidy() {{
    rm -rf /var/cache/edb /var/log/portage /var/tmp/portage /var/tmp/.keep_sys-apps_portage-0
    rm -f /var/log/emerge.log /var/log/emerge-fetch.log /var/cache/ldconfig/aux-cache /run/lock/portage-binpkg-gpg.lock
    mkdir -p /{LIST.rpartition("/")[0]}
    for place in /var/db/pkg/*/*/; do
        [ -d "$place" ] || continue
        place=${{place%/}}
        name=${{place#/var/db/pkg/}}
        case ${{name#*/}} in -*) continue ;; esac
        slot= built=
        [ ! -e "$place/SLOT" ] || IFS= read -r slot <"$place/SLOT" || true
        [ ! -e "$place/BUILD_TIME" ] || IFS= read -r built <"$place/BUILD_TIME" || true
        printf '%s\\t%s\\t%s\\n' "$name" "$slot" "$built"
    done | LC_ALL=C sort >/{LIST}
}}
"""

_NO_SANDBOXES = "-sandbox -usersandbox -network-sandbox -pid-sandbox -ipc-sandbox -mount-sandbox"

# emerge(1), make.conf(5). What a step may do is decided by the layer's own confinement, in which portage's sandboxes cannot
# be made; GnuPG runs as root as the layer's root is nobody outside. The helper that fetches keys asks key servers.
PORTAGE = (
    TIDY
    + FAIL
    + f"""
shadow=sys-apps/shadow zones=sys-libs/timezone-data
used=
private=/run/roost-portage
keys() {{
    command -v emerge >/dev/null || fail "there is no emerge in this machine"
    command -v gpg >/dev/null || fail "there is no gpg in this machine: the signatures of packages cannot be verified"
    mkdir -p "$private/gnupg"
    chmod 0700 "$private" "$private/gnupg"
    for file in {CONFIGURATION}/roost-keys*.asc; do
        [ ! -e "$file" ] || gpg --homedir "$private/gnupg" --batch --quiet --no-autostart --import "$file"
    done
    wanted=
    gpg --homedir "$private/gnupg" --batch --no-autostart --with-colons --list-keys |
        while IFS=: read -r kind _ _ _ _ _ _ _ _ fingerprint _; do
            case $kind in
            pub) wanted=yes ;;
            fpr)
                [ -z "$wanted" ] || printf '%s:6:\\n' "$fingerprint"
                wanted=
                ;;
            esac
        done >"$private/trust"
    gpg --homedir "$private/gnupg" --batch --quiet --no-autostart --import-ownertrust <"$private/trust"
    gpg --homedir "$private/gnupg" --batch --quiet --no-autostart --check-trustdb
    export BINPKG_GPG_VERIFY_GPG_HOME="$private/gnupg" GPG_VERIFY_USER_DROP= GPG_VERIFY_GROUP_DROP= PORTAGE_TRUST_HELPER=
    export FEATURES="getbinpkg binpkg-request-signature -news -binpkg-logs {_NO_SANDBOXES}"
}}
manage() {{
    [ -n "$used" ] || keys
    used=yes
    emerge --ask=n --color=n --nospinner --quiet --getbinpkg --usepkgonly --with-bdeps=n "$@" </dev/null
}}
get() {{
    manage --noreplace "$@"
}}
end() {{
    status=$?
    trap - EXIT
    rm -rf "$private"
    [ -z "$used" ] && [ -e /{LIST} ] || tidy
    exit "$status"
}}
"""
    + TRAPS
)

# With nothing to install, emerge still reads what each place has; it goes on without one that cannot be reached.
_INSTALL = """
if [ $# -gt 0 ]; then
    get "$@"
else
    output=$(manage --pretend --noreplace sys-apps/portage 2>&1) || true
    printf '%s\\n' "$output"
    case $output in *"rror fetching"*) exit 1 ;; esac
fi
"""

# What others need stays, and emerge says so without failing.
_REMOVE = """
there=
for name; do
    found=$(portageq match / "$name" || true)
    [ -z "$found" ] || there="$there $name"
done
[ -n "$there" ] || exit 0
manage --depclean $there
for name in $there; do
    [ -z "$(portageq match / "$name" || true)" ] || fail "$name is needed by others, and stays"
done
manage --depclean
"""

# A tree that somebody else made has no keys for binary packages, until a layer of Roost's brings some.
_UPGRADE = f"""
for file in {CONFIGURATION}/roost-keys*.asc; do
    if [ ! -e "$file" ]; then
        echo "this machine has no keys for binary packages: nothing is upgraded"
        exit 0
    fi
done
manage --update --deep --complete-graph=y @world
"""

# $1 the address of the binary packages; the keys are on standard input. A tree that is unpacked has no /dev/null yet.
_FINISH = (
    "set -eu\numask 022\n"
    + TIDY
    + f"""
rm -rf {CONFIGURATION}/binrepos.conf {CONFIGURATION}/gnupg
mkdir -p {CONFIGURATION}/binrepos.conf {CACHE}
cat >{CONFIGURATION}/roost-keys.asc
printf '[roost]\\npriority = 1\\nsync-uri = %s\\nlocation = {CACHE}\\nverify-signature = true\\n' "$1" \\
    >{CONFIGURATION}/binrepos.conf/roost.conf
printf '%s' "$2" >/etc/hosts
rm -f /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id
: >/etc/resolv.conf
: >/etc/machine-id
rm -rf /tmp/* /var/tmp/*
tidy
"""
)

# $1 name, $2 address, $3 whether there are keys, on standard input
_REPOSITORY = f"""set -eu
umask 022
mkdir -p {CONFIGURATION}/binrepos.conf
printf '[%s]\\npriority = 2\\nsync-uri = %s\\nlocation = {CACHE}/%s\\nverify-signature = true\\n' "$1" "$2" "$1" \\
    >"{CONFIGURATION}/binrepos.conf/$1.conf"
if [ "$3" = yes ]; then cat >"{CONFIGURATION}/roost-keys-$1.asc"; fi
"""

_LOCALE = """
locale=$1
usable() { [ -z "$(LC_ALL=$locale locale charmap 2>&1 >/dev/null)" ]; }
case $locale in
C | POSIX | C.UTF-8) ;;
*)
    if ! usable; then
        command -v locale-gen >/dev/null || fail "there is no locale-gen in this machine"
        charset=
        while read -r name its _; do
            [ "$name" != "$locale" ] || charset=$its
        done </usr/share/i18n/SUPPORTED
        [ -n "$charset" ] || fail "no locale is called $locale here: /usr/share/i18n/SUPPORTED names them"
        printf '%s %s\\n' "$locale" "$charset" >>/etc/locale.gen
        locale-gen
        usable || fail "the locale $locale was made, and still cannot be used"
    fi
    ;;
esac
mkdir -p /etc/env.d
printf 'LANG=%s\\n' "$locale" >/etc/locale.conf
printf 'LANG="%s"\\n' "$locale" >/etc/env.d/02locale
if command -v env-update >/dev/null; then env-update --no-ldconfig; fi
"""

_TIMEZONE = (
    TIMEZONE
    + """\
printf '%s\\n' "$zone" >/etc/timezone
"""
)


_ENABLE = (
    "set -eu\nexport SYSTEMD_OFFLINE=1\n"
    + FAIL
    + """
for unit; do
    if command -v systemctl >/dev/null; then
        systemctl enable "$unit"
    elif command -v rc-update >/dev/null; then
        rc-update add "${unit%.service}" default
    else
        fail "there is neither systemctl nor rc-update in this machine"
    fi
done
"""
)


def _script(body: str, *words: str, stdin: bytes = b"") -> Inside:
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{PORTAGE}{body}", "layer", *words), stdin=stdin)


def finish(packages: str, keys: bytes) -> Inside:
    """Empties what must not stay, and writes what must be there: ``packages`` is the address of the binary ones."""
    return Inside(argv=("/bin/sh", "-c", _FINISH, "finish", packages, HOSTS), stdin=keys)


def add_repository(repository: RepositoryKeys) -> Inside:
    """A place with binary packages, and its keys. Portage has one set of keys: it trusts these for every place.

    Raises HostError when the key file holds none.
    """
    name = repository.name
    check_repository(repository, "roost")
    keys = keyring.armoured(repository.key, f"{name}.asc") if repository.key else b""
    words = (name, repository.url, "yes" if keys else "no")
    return Inside(argv=("/bin/sh", "-c", _REPOSITORY, "repository", *words), stdin=keys)


def _check(packages: Sequence[str]) -> None:
    check_names(
        packages,
        r"([A-Za-z0-9_][A-Za-z0-9+_.-]*/)?[A-Za-z0-9_][A-Za-z0-9+_.-]*(=[A-Za-z0-9+_.-]+)?(:[A-Za-z0-9+_./-]+)?",
        "NAME, CATEGORY/NAME, CATEGORY/NAME=VERSION or CATEGORY/NAME:SLOT",
    )


def install(packages: Sequence[str]) -> Inside:
    """Installs binary packages; raises DefinitionError for what cannot be a package's name."""
    _check(packages)
    return _script(_INSTALL, *(re.sub(r"^([^=<>~]+)=(.+)$", r"=\1-\2", name) for name in packages))


def remove(packages: Sequence[str]) -> Inside:
    """Removes packages, with what nothing needs any more; a name that is not installed is no error."""
    _check(packages)
    return _script(_REMOVE, *packages)


def upgrade() -> Inside:
    """Brings every installed package up to what the binary packages' place has."""
    return _script(_UPGRADE)


def set_locale(name: str) -> Inside:
    """Makes a locale and the machine's default of it."""
    return _script(_LOCALE, name)


def set_timezone(name: str) -> Inside:
    """Sets the clock's zone, with the package ``sys-libs/timezone-data`` when the machine lacks it."""
    return _script(_TIMEZONE, name)


def set_root_password(hashed: str) -> Inside:
    """Root's password, as crypt(5) stores it; empty: none is asked for."""
    return _script(SET_ROOT, stdin=f"{hashed}\n".encode())


def enable(services: Sequence[str]) -> Inside:
    """Has units start with the machine, by systemctl or, where there is none, by rc-update."""
    return Inside(argv=("/bin/sh", "-c", _ENABLE, "enable", *services))


def ready_to_boot() -> Inside:
    """Sees that there is an init, and takes away the identity that others would share."""
    return Inside(argv=("/bin/sh", "-c", READY, "ready"))


def add_user(user: User, nobody_group: str) -> Inside:
    """Makes an account; raises DefinitionError for names and paths that its files cannot hold."""
    return apt_inside.add_user(user, nobody_group, f"set -eu\numask 022\n{PORTAGE}")


def list_packages() -> Inside:
    """Writes the list anew: portage keeps a directory for each package."""
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{TIDY}tidy\n", "list"))
