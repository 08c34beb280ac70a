"""What the apk family runs: scripts for busybox's ``sh`` inside a layer, and the one that makes a base on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.distro.apt_inside import account_words
from roost.distro.recipe import Inside
from roost.distro.releases import MOUNTS, check_names, check_repository
from roost.distro.shell import FAIL, HOSTS, READY, SUDO, TRAPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import RepositoryKeys, User

LIST = "var/lib/roost/packages"
"""Where a tree keeps the names and versions of its packages: apk's own list is at another place since Alpine 3.23."""
PROVISION = "/run/roost/provision"
CACHE = "/var/cache/apk"

# $1 the tree, $2 the private directory, $3 packages that are there already, $4 the architecture, then packages.
BOOTSTRAP = (
    """\
set -eu
tree=$1 private=$2 archives=$3 architecture=$4
shift 4
fail() { echo "$1" >&2; exit 1; }
tool=
for one in apk apk.static; do
    if [ -z "$tool" ] && command -v "$one" >/dev/null; then tool=$one; fi
done
[ -n "$tool" ] || fail "roost: there is no apk on this host"
mkdir -p "$private/keys" "$tree/proc" "$tree/dev"
for file in "$private"/key:*; do mv "$file" "$private/keys/${file##*/key:}"; done
"""
    + MOUNTS
    + """\
case $("$tool" --version) in "apk-tools 2"*) keep= ;; *) keep=--cache-packages ;; esac
"$tool" --root "$tree" --initdb --arch "$architecture" --keys-dir "$private/keys" --no-progress $keep \\
    --repositories-file "$private/repositories" --cache-dir "$archives" --update-cache add -- "$@" </dev/null
"""
)

# What differs from one making of a layer to the next and is of no use in it; and the list of packages.
TIDY = f"""
tidy() {{
    rm -f /var/log/apk.log /lib/apk/db/lock /usr/lib/apk/db/lock
    mkdir -p /{LIST.rpartition("/")[0]}
    for file in /usr/lib/apk/db/installed /lib/apk/db/installed; do
        [ ! -e "$file" ] || break
    done
    [ -e "$file" ] || return 0
    awk '/^P:/ {{ name = substr($0, 3) }} /^V:/ {{ print name "\\t" substr($0, 3) }}' "$file" | LC_ALL=C sort >/{LIST}
}}
"""

# apk goes on without a repository that it cannot reach, or whose index nobody has signed: both only warn.
APK = (
    TIDY
    + FAIL
    + f"""
used=
manage() {{
    command -v apk >/dev/null || fail "there is no apk in this machine"
    if [ -z "$used" ]; then
        used=yes
        case $(apk --version) in "apk-tools 2"*) keep= ;; *) keep=--cache-packages ;; esac
        output=$(apk --no-progress --cache-dir {CACHE} update 2>&1 </dev/null) || {{
            printf '%s\\n' "$output"
            return 1
        }}
        printf '%s\\n' "$output"
        case $output in *WARNING:* | *ERROR:*) return 1 ;; esac
    fi
    apk --no-progress --cache-dir {CACHE} $keep "$@" </dev/null
}}
get() {{
    manage add "$@"
}}
end() {{
    status=$?
    trap - EXIT
    [ -z "$used" ] && [ -e /{LIST} ] || tidy
    exit "$status"
}}
"""
    + TRAPS
)

_INSTALL = 'if [ $# -gt 0 ]; then get "$@"; else manage update; fi\n'

# What a tree lacks to boot: alpine-base has OpenRC and what it takes to start with it; another init stays what it is.
_INSTALL_INIT = """
{ command -v openrc || command -v runit || command -v s6-svscan || command -v dinit; } >/dev/null || set -- "$@" alpine-base
if [ $# -gt 0 ]; then get "$@"; fi
"""

# What others need stays, and apk says so without failing.
_REMOVE = """
there=
is_there() { apk info --installed "$1" >/dev/null 2>&1; }
for name; do
    if is_there "$name"; then there="$there $name"; fi
done
[ -n "$there" ] || exit 0
manage del $there
for name in $there; do
    ! is_there "$name" || fail "$name is needed by others, and stays"
done
"""

# $1 the repositories, $2 the hosts file, $3 the name of a key that is on standard input, or nothing. A tree that was
# unpacked has no /dev/null yet.
_FINISH = (
    "set -eu\numask 022\n"
    + TIDY
    + f"""
mkdir -p /etc/apk/keys {CACHE}
printf '%s' "$1" >/etc/apk/repositories
printf '%s' "$2" >/etc/hosts
if [ -n "$3" ]; then
    cat >"/etc/apk/keys/$3"
    chmod 0644 "/etc/apk/keys/$3"
fi
rm -f /etc/hostname /etc/resolv.conf
: >/etc/resolv.conf
: >/etc/machine-id
rm -rf {CACHE}/* /tmp/* /var/tmp/*
tidy
"""
)

# $1 name, $2 address, $3 whether its key is on standard input. A signature names the file of its key: the first entry of
# an index is called .SIGN.RSA.FILE, or RSA256, RSA512.
_REPOSITORY = (
    "set -eu\numask 022\n"
    + FAIL
    + """
name=$1 address=$2
mkdir -p /etc/apk/keys
if [ "$3" = yes ]; then
    index=$address/$(apk --print-arch)/APKINDEX.tar.gz
    case $index in
    /*) file=$index ;;
    *)
        file=/run/roost-index
        wget -q -O "$file" "$index" || fail "roost: cannot get $index"
        ;;
    esac
    signature=$(tar -tzf "$file" | head -n 1)
    case $signature in
    .SIGN.RSA*.*) key=${signature#.SIGN.RSA*.} ;;
    *) fail "roost: unsigned: $index" ;;
    esac
    case $key in *[!A-Za-z0-9@._+-]* | .* | "") fail "the signature of $index names no file: $key" ;; esac
    cat >/run/roost-key
    if [ -e "/etc/apk/keys/$key" ] && ! cmp -s /run/roost-key "/etc/apk/keys/$key"; then
        fail "this machine has another key of the name $key already"
    fi
    cp /run/roost-key "/etc/apk/keys/$key"
    chmod 0644 "/etc/apk/keys/$key"
    rm -f /run/roost-index /run/roost-key
fi
grep -qxF "$address" /etc/apk/repositories || printf '%s\\n' "$address" >>/etc/apk/repositories
"""
)

# musl knows C, POSIX and C.UTF-8 itself, and translations of messages from MUSL_LOCPATH.
_LOCALE = """
locale=$1
where=/usr/share/i18n/locales/musl
case $locale in
C | POSIX | C.UTF-8) ;;
*)
    [ -e "$where/$locale" ] || get musl-locales
    [ -e "$where/$locale" ] || fail "no locale is called $locale here: $where has them"
    ;;
esac
mkdir -p /etc/profile.d
printf 'LANG=%s\\n' "$locale" >/etc/locale.conf
printf 'export LANG=%s\\nexport MUSL_LOCPATH=%s\\n' "$locale" "$where" >/etc/profile.d/00roost-locale.sh
"""

_TIMEZONE = """
zone=$1
file=/usr/share/zoneinfo/$zone
[ -f "$file" ] || get tzdata
[ -f "$file" ] || fail "no time zone is called $zone here: /usr/share/zoneinfo has them"
ln -sfn "../usr/share/zoneinfo/$zone" /etc/localtime
printf '%s\\n' "$zone" >/etc/timezone
"""

# The hash is on standard input: everybody may read a command line.
_SET_ROOT = """
IFS= read -r hash || true
if [ -n "$hash" ]; then printf 'root:%s\\n' "$hash" | chpasswd -e; else passwd -d root; fi
"""

_ENABLE = (
    "set -eu\n"
    + FAIL
    + """
command -v rc-update >/dev/null || fail "there is no OpenRC in this machine: packages = [\\"openrc\\"] brings it"
for service; do rc-update add "${service%.service}" default; done
"""
)

# The terminals of a computer are not there, and init would start a getty for each of them again and again.
_READY = (
    READY
    + """
if [ -f /etc/inittab ]; then
    sed -i 's/^tty[0-9]/#&/' /etc/inittab
    grep -q '^console::' /etc/inittab || echo 'console::respawn:/sbin/getty 38400 console' >>/etc/inittab
fi
"""
)

# The words are those of account_words; busybox has adduser(8), and need not have getent.
_ADD_USER = (
    """
name=$1 uid=$2 group=$3 home=$4 shell=$5 groups=$6 sudo=$7 sudoers=$8
entry() { awk -F: -v column="$2" -v value="$3" '$column == value { print; exit }' "/etc/$1"; }
[ -n "$(entry group 1 "$group")" ] || {
    echo "new group: $group"
    if [ -n "$uid" ] && [ "$uid" -ge 1000 ]; then addgroup "$group"; else addgroup -S "$group"; fi
}
gid=$(entry group 1 "$group" | cut -d: -f3)
there=$(entry passwd 1 "$name")
[ -x "$shell" ] || [ "$shell" != /bin/bash ] || get bash
if [ -n "$there" ]; then
    is=$(printf '%s' "$there" | cut -d: -f3,4,6,7)
    wanted="${uid:-$(printf '%s' "$there" | cut -d: -f3)}:$gid:$home:$shell"
    [ "$is" = "$wanted" ] || fail "user $name exists already, as uid:gid:home:shell $is, not $wanted"
else
    taken=
    [ -z "$uid" ] || taken=$(entry passwd 3 "$uid")
    [ -z "$taken" ] || fail "uid $uid of $name belongs to ${taken%%:*} already"
    mkdir -p "${home%/*}/"
    set -- -D -g '' -G "$group" -h "$home" -s "$shell"
    if [ -n "$uid" ]; then
        set -- "$@" -u "$uid"
        [ "$uid" -ge 1000 ] || set -- "$@" -S
    fi
    adduser "$@" "$name"
fi
for other in $groups; do
    [ -n "$(entry group 1 "$other")" ] || {
        echo "new group: $other"
        addgroup -S "$other"
    }
    case " $(id -Gn "$name") " in *" $other "*) ;; *) addgroup "$name" "$other" ;; esac
done
"""
    + SUDO
    + """\
fi
"""
)


def address(url: str) -> str:
    """A repository's address as apk reads it: what is on this disk is a path."""
    return url.removeprefix("file://").removeprefix("file:") if url.startswith("file:") else url


def _script(body: str, *words: str, stdin: bytes = b"") -> Inside:
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{APK}{body}", "layer", *words), stdin=stdin)


def finish(repositories: str, name: str, key: bytes) -> Inside:
    """Empties what must not stay, and writes what must be there."""
    return Inside(argv=("/bin/sh", "-c", _FINISH, "finish", repositories, HOSTS, name), stdin=key)


def add_repository(repository: RepositoryKeys, key: bytes) -> Inside:
    """Writes a repository and its key, by the name that its index has for it."""
    name = repository.name
    check_repository(repository)
    words = (name, address(repository.url.rstrip("/")), "yes" if key else "no")
    return Inside(argv=("/bin/sh", "-c", _REPOSITORY, "repository", *words), stdin=key)


def _check(packages: Sequence[str]) -> None:
    check_names(
        packages,
        r"[A-Za-z0-9_.][A-Za-z0-9+_.:-]*([=<>~]{1,2}[A-Za-z0-9+_.-]+)?(@[A-Za-z0-9_-]+)?",
        "NAME, NAME=VERSION or NAME~VERSION",
    )


def install(packages: Sequence[str], *, init: bool = False) -> Inside:
    """Installs packages; a name may carry a version (``cmake=3.31.1-r0``, ``cmake~3.31``)."""
    _check(packages)
    return _script(_INSTALL_INIT if init else _INSTALL, *packages)


def remove(packages: Sequence[str]) -> Inside:
    """Removes packages, with what nothing needs any more; a name that is not installed is no error, one that others need is."""
    _check(packages)
    return _script(_REMOVE, *packages)


def upgrade() -> Inside:
    """Brings every installed package up to what the repositories have."""
    return _script("if command -v apk >/dev/null; then manage upgrade; fi\n")


def set_locale(name: str) -> Inside:
    """Makes the machine's default of a locale, with ``musl-locales`` for any but C, POSIX and C.UTF-8."""
    return _script(_LOCALE, name)


def set_timezone(name: str) -> Inside:
    """Sets the clock's zone, with the package ``tzdata`` when the machine lacks it."""
    return _script(_TIMEZONE, name)


def set_root_password(hashed: str) -> Inside:
    """Root's password, as crypt(5) stores it; empty: none is asked for."""
    return _script(_SET_ROOT, stdin=f"{hashed}\n".encode())


def enable(services: Sequence[str]) -> Inside:
    """Has OpenRC start services with the machine, in the runlevel ``default``."""
    return Inside(argv=("/bin/sh", "-c", _ENABLE, "enable", *services))


def ready_to_boot() -> Inside:
    """Sees that there is an init, whose terminal is the machine's console, and no identity that others would share."""
    return Inside(argv=("/bin/sh", "-c", _READY, "ready"))


def add_user(user: User, nobody_group: str) -> Inside:
    """Makes an account; raises DefinitionError for names and paths that its files cannot hold."""
    return _script(_ADD_USER, *account_words(user, nobody_group))


def list_packages() -> Inside:
    """Writes the list anew: apk's own is at one of two places, and in a form of its own."""
    return Inside(argv=("/bin/sh", "-c", f"set -eu\numask 022\n{TIDY}tidy\n", "list"))
