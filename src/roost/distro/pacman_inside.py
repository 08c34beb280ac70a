"""What the pacman family runs: on the host for a base, inside for what is above. Scripts for any ``sh``, everything that
varies is an argument.

Arch supports no partial upgrades: whatever installs upgrades all the rest with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from roost.distro import pacman_keys
from roost.distro.pacman_keys import GNUPG, KEYRINGS, KEYS
from roost.distro.recipe import Inside
from roost.distro.releases import MOUNTS, check_repository
from roost.distro.shell import FAIL, TRAPS
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import RepositoryKeys

LIST = "var/lib/roost/packages"
"""Where a tree keeps the names and versions of its packages: pacman's own database is a directory with a file for each."""
PROVISION = "/run/roost/provision"
CACHE = "/var/cache/pacman/pkg"
CERTIFICATES = "certificates.pem"
# The machine's own, less the user that downloads are made as: see pacman._OPTIONS.
_CONFIGURATION = "/run/roost-pacman.conf"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # what Arch's libcurl is built to read

# A package that a crash has cut short in the cache is refused, and removed from there: then it is downloaded again.
_FETCH = """
fetch() {
    set -- -S -w --needed "$@"
    before=$(ls "$cache" | wc -l)
    manage "$@" || {
        [ "$(ls "$cache" | wc -l)" -lt "$before" ] || return 1
        manage "$@"
    }
}
"""

# $1 the tree, $2 the private directory, $3 where packages are kept, then the packages' names. gpg's agent has sockets,
# whose paths must be short, in gpg's directory: one in memory is mounted where nothing is that pacman needs.
BOOTSTRAP = (
    "set -eu\numask 022\n"
    + FAIL
    + KEYS
    + _FETCH
    + f"""
tree=$1 private=$2 cache=$3
shift 3
for tool in pacman gpg gpg-agent gpgconf; do
    command -v "$tool" >/dev/null || fail "roost: there is no $tool on this host"
done
mkdir -p "$tree/dev" "$tree/run" "$tree/etc" "$tree/var/lib/pacman" "$tree/var/log" "$tree{CACHE}"
mkdir -p -m 0555 "$tree/proc" "$tree/sys"
mkdir -p -m 1777 "$tree/tmp"
"""
    + MOUNTS
    + f"""\
ln -s /proc/self/fd "$tree/dev/fd"
mount -t tmpfs -o nosuid,nodev,mode=0755 none "$tree/run"
mount -t tmpfs -o nosuid,nodev,mode=1777 none "$tree/tmp"
home=/dev/shm
case "$tree $(cat "$private/pacman.conf")" in */dev/shm/*) home=/mnt ;; esac
[ -d "$home" ] || home=/mnt
mount -t tmpfs -o nosuid,nodev,noexec,mode=0700,size=64m none "$home"
open_keys
trust "$private" keys
gpgconf --homedir "$home" --kill all
rm -f "$home"/S.*
mkdir -p "$tree{GNUPG}"
cp -a "$home/." "$tree{GNUPG}/"
chmod 0755 "$tree{GNUPG}"
home=$tree{GNUPG}
without_net
manage() {{
    pacman --config "$private/pacman.conf" --root "$tree" --dbpath "$tree/var/lib/pacman" --cachedir "$cache" \\
        --hookdir "$tree/etc/pacman.d/hooks" --gpgdir "$home" --logfile "$private/log" --noconfirm --noprogressbar \\
        "$@" </dev/null
}}
manage -S -y
fetch -- "$@"
HOME=/root
manage -S --needed -- "$@"
with_net
close_keys
"""
)

TIDY = f"""
tidy() {{
    rm -rf /var/lib/pacman/sync
    rm -f /var/log/pacman.log /var/lib/pacman/db.lck /etc/pacman.conf.pacnew /var/cache/ldconfig/aux-cache
    command -v pacman >/dev/null || return 0
    mkdir -p /{LIST.rpartition("/")[0]}
    pacman -Q >/{LIST}.new 2>/dev/null
    mv -f /{LIST}.new /{LIST}
}}
"""

# What is needed to install: `get` and, for other families' scripts, the names of packages. Logins are for downloads alone,
# as are the host's certificates, which stand in place of the machine's own meanwhile.
PACMAN = (
    TIDY
    + FAIL
    + KEYS
    + _FETCH
    + f"""
shadow=shadow zones=tzdata
home={GNUPG} cache={CACHE}
used=
opened=
options=
manage() {{
    if [ -z "$options" ]; then
        options="--noconfirm --noprogressbar --config {_CONFIGURATION} --logfile /run/pacman.log"
        case $(pacman -S --help) in *--disable-sandbox*) options="$options --disable-sandbox" ;; esac
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in *DownloadUser*) ;; *) printf '%s\\n' "$line" ;; esac
        done </etc/pacman.conf >{_CONFIGURATION}
    fi
    pacman --cachedir "$cache" $options "$@" </dev/null
}}
own_certificates() {{
    if [ -e {_BUNDLE}.roost ] || [ -L {_BUNDLE}.roost ]; then mv -f {_BUNDLE}.roost {_BUNDLE}; fi
}}
download() {{
    if [ -s {PROVISION}/{CERTIFICATES} ] && [ -e {_BUNDLE} ]; then
        mv {_BUNDLE} {_BUNDLE}.roost
        cat {PROVISION}/{CERTIFICATES} >{_BUNDLE}
    fi
    own=$HOME
    [ ! -s {PROVISION}/.netrc ] || HOME={PROVISION}
    "$@"
    HOME=$own
    own_certificates
}}
with_keys() {{
    opened=yes
    new=
    [ -s "$home/trustdb.gpg" ] || new=yes
    open_keys
    [ -n "$new" ] || return 0
    # a tree that somebody else has made, and nobody has used yet
    for one in {KEYRINGS}/*-trusted; do
        one=${{one%-trusted}}
        [ ! -s "$one.gpg" ] || trust {KEYRINGS} "${{one##*/}}"
    done
}}
synchronise() {{
    [ -z "$used" ] || return 0
    command -v pacman >/dev/null || fail "there is no pacman in this machine"
    used=yes
    [ -s "$home/trustdb.gpg" ] || with_keys
    without_net
    mkdir -p "$cache"
    download manage -S -y
    # what the newest packagers have signed cannot be installed without their keys
    newer=
    for one in $(pacman -Qqo {KEYRINGS}/*.gpg 2>/dev/null); do
        case " $newer " in *" $one "*) continue ;; esac
        if pacman -Qqu "$one" >/dev/null 2>&1; then newer="$newer $one"; fi
    done
    if [ -n "$newer" ]; then
        with_keys
        download fetch $newer
        manage -S --needed $newer
    fi
}}
get() {{
    synchronise
    download fetch -u "$@"
    manage -S -u --needed "$@"
}}
end() {{
    status=$?
    trap - EXIT
    own_certificates
    with_net
    [ -z "$opened" ] || close_keys
    [ -z "$used" ] || tidy
    exit "$status"
}}
"""
    + TRAPS
)

_INSTALL = 'if [ $# -gt 0 ]; then get "$@"; else synchronise; fi\n'

# What a tree lacks to boot. dbus is how machinectl reaches a machine, util-linux has login and agetty.
_INSTALL_INIT = """
init=systemd-sysvcompat
[ ! -e /sbin/init ] && [ ! -L /sbin/init ] || init=
for package in $(pacman -T $init systemd dbus util-linux); do set -- "$@" "$package"; done
[ $# -eq 0 ] || get "$@"
"""

# A bootstrap tarball has no mirrors: a layer above it brings them, and upgrades all when it installs something.
_UPGRADE = """
command -v pacman >/dev/null || exit 0
servers=
for repository in $(pacman-conf --repo-list); do
    servers=$servers$(pacman-conf --repo "$repository" Server)
done
if [ -n "$servers" ]; then get; else echo "this machine's pacman has no mirrors: nothing is upgraded"; fi
"""

# What is installed under another name, or not at all, stays as it is.
_REMOVE = """
for wanted; do
    shift
    [ "$(pacman -Qq "$wanted" 2>/dev/null)" != "$wanted" ] || set -- "$@" "$wanted"
done
used=yes
[ $# -eq 0 ] || manage -R -n -s "$@"
"""

# $1 pacman.conf, $2 the hosts file
_FINISH = (
    "set -eu\numask 022\n"
    + TIDY
    + f"""
printf '%s' "$1" >/etc/pacman.conf
printf '%s' "$2" >/etc/hosts
rm -f /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id
: >/etc/resolv.conf
: >/etc/machine-id
rm -rf {CACHE} /tmp/* /var/tmp/*
mkdir -p {CACHE}
tidy
"""
)

# $1 name, $2 address, $3 the fingerprints of its keys, which are on standard input; none: the distribution's are meant.
# A section of the same name in pacman.conf is replaced: so a tree gets mirrors that came with none.
_REPOSITORY = f"""
name=$1 address=$2 trusted=$3
if [ -n "$trusted" ]; then
    mkdir -p {KEYRINGS}
    cat >{KEYRINGS}/roost-$name.gpg
    printf '%s' "$trusted" >{KEYRINGS}/roost-$name-trusted
    with_keys
    [ -n "$new" ] || trust {KEYRINGS} "roost-$name"
fi
section=
while IFS= read -r line || [ -n "$line" ]; do
    case $line in '['*']'*) section=$line ;; esac
    [ "$section" = "[$name]" ] || printf '%s\\n' "$line"
done </etc/pacman.conf >/etc/pacman.conf.new
printf '\\n[%s]\\nServer = %s\\n' "$name" "$address" >>/etc/pacman.conf.new
mv -f /etc/pacman.conf.new /etc/pacman.conf
"""

# glibc has C, POSIX and (as Arch builds it) C.UTF-8 itself. /etc/locale.gen names all others, in comments.
_LOCALE = """
locale=$1
usable() { [ -z "$(LC_ALL=$locale locale charmap 2>&1 >/dev/null)" ]; }
case $locale in
C | POSIX | C.UTF-8) ;;
*)
    charset=
    while read -r name its _; do
        [ "${name#\\#}" != "$locale" ] || charset=$its
    done </etc/locale.gen
    [ -n "$charset" ] || fail "no locale is called $locale here: /etc/locale.gen names them"
    grep -qxF "$locale $charset" /etc/locale.gen || printf '%s %s\\n' "$locale" "$charset" >>/etc/locale.gen
    locale-gen
    usable || fail "the locale $locale was made, and still cannot be used"
    ;;
esac
printf 'LANG=%s\\n' "$locale" >/etc/locale.conf
"""


def _script(body: str, *words: str, stdin: bytes = b"") -> Inside:
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{PACMAN}{body}", "layer", *words), stdin=stdin)


def list_packages() -> Inside:
    """Writes the list anew: pacman's own database is a directory."""
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{TIDY}tidy\n", "list"))


def finish(configuration: str, hosts: str) -> Inside:
    """Empties what must not stay, and writes what must be there."""
    return Inside(argv=("/bin/sh", "-c", _FINISH, "finish", configuration, hosts))


def install(packages: Sequence[str], *, init: bool = False) -> Inside:
    """Installs packages, and upgrades all that is there. Raises DefinitionError for what cannot be a package's name."""
    return _script(_INSTALL_INIT if init else _INSTALL, *_names(packages))


def remove(packages: Sequence[str]) -> Inside:
    """Removes packages, with what nothing needs any more. One that others need fails the step: they would go as well."""
    return _script(_REMOVE, *_names(packages))


def upgrade() -> Inside:
    """Brings every installed package up to what the repositories have."""
    return _script(_UPGRADE)


def _names(packages: Sequence[str]) -> Sequence[str]:
    for name in packages:
        if not re.fullmatch(r"([a-z0-9][a-z0-9_-]*/)?[A-Za-z0-9@_+][A-Za-z0-9@._+-]*", name):
            raise DefinitionError(
                f"not the name of a package: {name!r}", hint="NAME, REPOSITORY/NAME or a group's name"
            )
    return packages


def add_repository(repository: RepositoryKeys) -> Inside:
    """A section of pacman.conf, and a keyring beside the distribution's. pacman knows one set of keys: these count for all.

    Raises HostError when the key file holds none.
    """
    name = repository.name
    check_repository(repository, "options", "local")
    if not repository.key:
        return _script(_REPOSITORY, name, repository.url, "")
    files = pacman_keys.of_file(repository.key, f"{name}.gpg")
    return _script(_REPOSITORY, name, repository.url, files["-trusted"].decode(), stdin=files[".gpg"])


def set_locale(name: str) -> Inside:
    """Makes a locale, by locale-gen, and the machine's default of it."""
    return _script(_LOCALE, name)
