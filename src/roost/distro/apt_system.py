"""What the apt family makes of the rest of a system: repositories, language, time, root's password, services, an init.

As in ``apt_inside``: scripts for any ``sh``, with everything that varies given as an argument or on standard input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.distro import keyring
from roost.distro.apt_inside import APT
from roost.distro.recipe import Inside
from roost.distro.releases import check_repository
from roost.distro.shell import FAIL, READY
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import RepositoryKeys


# $1 name, $2 address, $3 suites, $4 components, $5 whether its keys are on standard input. apt knows "Signed-By" and
# ".sources" since 1.1: an older one trusts each key for every repository. Without keys it is signed by the distribution's.
_REPOSITORY = (
    "set -eu\numask 022\n"
    + FAIL
    + """
name=$1 address=$2 suites=$3 components=$4 keys=$5
version=$(dpkg-query -W -f '${Version}' apt) || fail "there is no apt in this machine"
file=/etc/apt/sources.list.d/$name
keyring=
case $version in 0.* | 1.0 | 1.0[!0-9]*) old=yes ;; *) old=no ;; esac
if [ "$old" = no ]; then
    if [ "$keys" = yes ]; then
        keyring=/etc/apt/keyrings/$name.gpg
    else
        keyring=$(sed -n 's/^deb .*signed-by=\\([^] ]*\\).*/\\1/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
    fi
    {
        printf 'Types: deb\\nURIs: %s\\nSuites: %s\\n' "$address" "$suites"
        [ -z "$components" ] || printf 'Components: %s\\n' "$components"
        [ -z "$keyring" ] || printf 'Signed-By: %s\\n' "$keyring"
    } >"$file.sources"
else
    [ "$keys" = no ] || keyring=/etc/apt/trusted.gpg.d/$name.gpg
    for suite in $suites; do
        echo "deb $address $suite $components"
    done >"$file.list"
fi
if [ "$keys" = yes ]; then
    mkdir -p "${keyring%/*}"
    cat >"$keyring"
    chmod 0644 "$keyring"
fi
"""
)

# glibc has C, POSIX and (as Debian and Ubuntu build it) C.UTF-8 itself. Debian 13 has made one file a link to the other.
_LOCALE = (
    "set -eu\numask 022\n"
    + APT
    + FAIL
    + """
locale=$1
usable() { [ -z "$(LC_ALL=$locale locale charmap 2>&1 >/dev/null)" ]; }
case $locale in
C | POSIX | C.UTF-8) ;;
*)
    { [ -e /usr/share/i18n/SUPPORTED ] && command -v locale-gen; } >/dev/null || get locales
    charset=
    while read -r name its _; do
        [ "$name" != "$locale" ] || charset=$its
    done </usr/share/i18n/SUPPORTED
    [ -n "$charset" ] || fail "no locale is called $locale here: /usr/share/i18n/SUPPORTED names them"
    grep -qxF "$locale $charset" /etc/locale.gen 2>/dev/null || printf '%s %s\\n' "$locale" "$charset" >>/etc/locale.gen
    locale-gen
    usable || locale-gen "$locale"
    usable || fail "the locale $locale was made, and still cannot be used"
    ;;
esac
mkdir -p /etc/default
[ -L /etc/locale.conf ] || printf 'LANG=%s\\n' "$locale" >/etc/locale.conf
[ -L /etc/default/locale ] || printf 'LANG=%s\\n' "$locale" >/etc/default/locale
"""
)

# Newer releases have the old names of zones in a package of their own.
_TIMEZONE = (
    "set -eu\numask 022\n"
    + APT
    + FAIL
    + """
zone=$1
file=/usr/share/zoneinfo/$zone
[ -f "$file" ] || get tzdata
if [ ! -f "$file" ] && { update; apt-cache show tzdata-legacy >/dev/null 2>&1; }; then get tzdata-legacy; fi
[ -f "$file" ] || fail "no time zone is called $zone here: /usr/share/zoneinfo has them"
ln -sfn "$file" /etc/localtime
printf '%s\\n' "$zone" >/etc/timezone
"""
)

# The hash is on standard input: everybody may read a command line.
_ROOT_PASSWORD = (
    "set -eu"
    + APT
    + """
{ command -v chpasswd && command -v passwd; } >/dev/null || get passwd
IFS= read -r hash || true
if [ -n "$hash" ]; then printf 'root:%s\\n' "$hash" | chpasswd -e; else passwd -q -d root; fi
"""
)

# Nothing is started: the layer is no running system. A layer below the one with the init has no systemctl yet, and
# deb-systemd-helper, which packages use themselves, follows a unit's [Install] without it.
_ENABLE = (
    "set -eu\nexport SYSTEMD_OFFLINE=1 DPKG_MAINTSCRIPT_PACKAGE=roost\n"
    + FAIL
    + """
for unit; do
    case $unit in
    *.service | *.socket | *.timer | *.path | *.target | *.mount | *.automount | *.swap | *.slice) ;;
    *) unit=$unit.service ;;
    esac
    name=${unit%.service}
    if command -v systemctl >/dev/null; then
        systemctl enable "$unit"
        continue
    fi
    done=
    for directory in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
        [ -e "$directory/$unit" ] && command -v deb-systemd-helper >/dev/null || continue
        deb-systemd-helper unmask "$unit"
        deb-systemd-helper enable "$unit"
        done=yes
        break
    done
    if [ -x "/etc/init.d/$name" ] && command -v update-rc.d >/dev/null; then
        update-rc.d "$name" defaults
        update-rc.d "$name" enable
        done=yes
    fi
    [ -n "$done" ] || fail "Failed to enable unit: Unit file $unit does not exist, and there is no systemctl to look further."
done
"""
)


def add_repository(repository: RepositoryKeys) -> Inside:
    """A file in sources.list.d and one with its keys, which are trusted for it alone (by apt since 1.1).

    Raises HostError when the key file holds none.
    """
    name = repository.name
    check_repository(repository)
    if not any(repository.suites):  # a machine made from an archive or an image says no release
        raise DefinitionError(f"repository '{name}' needs suites", hint='suites = ["NAME"], as in sources.list')
    keys = keyring.binary(repository.key, f"{name}.gpg") if repository.key else b""
    words = (
        name,
        repository.url,
        " ".join(repository.suites),
        " ".join(repository.components),
        "yes" if keys else "no",
    )
    return Inside(argv=("/bin/sh", "-c", _REPOSITORY, "repository", *words), stdin=keys)


def set_locale(name: str) -> Inside:
    """Makes a locale, with the package ``locales`` unless glibc has it itself, and the machine's default of it."""
    return Inside(argv=("/bin/sh", "-c", _LOCALE, "locale", name))


def set_timezone(name: str) -> Inside:
    """Sets the clock's zone, with the package ``tzdata`` when the machine lacks it."""
    return Inside(argv=("/bin/sh", "-c", _TIMEZONE, "timezone", name))


def set_root_password(hashed: str) -> Inside:
    """Root's password, as crypt(5) stores it; empty: none is asked for."""
    return Inside(argv=("/bin/sh", "-c", _ROOT_PASSWORD, "root-password"), stdin=f"{hashed}\n".encode())


def enable(services: Sequence[str]) -> Inside:
    """Has units start with the machine: by systemctl, else by what packages use (deb-systemd-helper, update-rc.d)."""
    return Inside(argv=("/bin/sh", "-c", _ENABLE, "enable", *services))


def ready_to_boot() -> Inside:
    """Sees that there is an init, and takes away the machine-id that packages have made."""
    return Inside(argv=("/bin/sh", "-c", READY, "ready"))
