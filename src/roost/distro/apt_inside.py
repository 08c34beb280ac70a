"""What the apt family runs inside a layer: scripts for any ``sh``, with everything that varies given as an argument."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from roost.distro.recipe import Inside
from roost.distro.shell import HOSTS, SUDO, TRAPS
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from roost.definition.model import User

# Times of files that are written the same way every time; zip cannot hold an earlier one.
_TIME = 315532800  # 1980-01-01

# What differs from one making of a layer to the next and is of no use in it.
_TIDY = """
tidy() {
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old
    rm -f /var/log/dpkg.log /var/log/bootstrap.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
}
"""

# Many images have no certificates: for an https mirror those that the host trusts stand in.
# Updating is once per script, and only when something is missing. No daemon is started or stopped: the layer is no
# running system (https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt).
APT = (
    _TIDY
    + """
used=
updated=
policy=
trusted=
host=/run/roost/provision/certificates.pem
if [ -e "$host" ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then trusted=-oAcquire::https::CaInfo=$host; fi
begin() {
    [ -z "$used" ] || return 0
    used=yes
    if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ] && [ ! -L /usr/sbin/policy-rc.d ]; then
        policy=yes
        printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
        chmod 0755 /usr/sbin/policy-rc.d
    fi
}
update() {
    [ -z "$updated" ] || return 0
    updated=yes
    begin
    # Without the option, which old versions do not know, a list that cannot be downloaded is no failure.
    apt-get -q -o APT::Update::Error-Mode=any $trusted update
}
get() {
    update
    apt-get -q -y --no-install-recommends $trusted install -- "$@" </dev/null
}
end() {
    status=$?
    trap - EXIT
    [ -z "$policy" ] || rm -f /usr/sbin/policy-rc.d
    [ -z "$used" ] || tidy
    exit "$status"
}
"""
    + TRAPS
)

_INSTALL = "set -eu" + APT + 'get "$@"\n'

# What a tree lacks to boot: another init stays what it is. dbus is how machinectl reaches a machine, libpam-systemd how
# a login becomes a session of it.
_INSTALL_INIT = (
    "set -eu"
    + APT
    + """
wanted=
[ -e /sbin/init ] || [ -L /sbin/init ] || wanted=systemd-sysv
case $wanted$(readlink /sbin/init || true) in *systemd*) wanted="$wanted dbus libpam-systemd login" ;; esac
for package in $wanted; do
    [ -n "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -x installed)" ] || set -- "$@" "$package"
done
[ $# -eq 0 ] || get "$@"
"""
)
_INITS = frozenset({"sysvinit-core", "runit-init", "dinit", "busybox-init"})
"""Packages that bring an init other than systemd."""

# What was installed for these alone goes, too. Their settings go, as nobody of this layer has written any yet.
_REMOVE = (
    "set -eu"
    + APT
    + """
for package; do
    shift
    if dpkg-query -W -f '${db:Status-Status}\\n' "$package" 2>/dev/null | grep -qx installed; then
        set -- "$@" "$package"
    else
        echo "$package is not installed"
    fi
done
if [ $# -gt 0 ]; then
    begin
    apt-get -q -y --purge --auto-remove remove -- "$@" </dev/null
fi
"""
)

_UPGRADE = (
    "set -eu"
    + APT
    + """
if command -v apt-get >/dev/null; then
    update
    apt-get -q -y --no-install-recommends $trusted dist-upgrade </dev/null
fi
"""
)

_FINISH = (
    "set -eu"
    + _TIDY
    + """
rm -rf /etc/apt/sources.list.d/* /etc/apt/auth.conf /etc/apt/auth.conf.d/*
rm -f /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id
rm -f /etc/apt/apt.conf.d/*mmdebstrap /etc/dpkg/dpkg.cfg.d/*mmdebstrap /etc/dpkg/dpkg.cfg.d/roost-bootstrap
rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/* /tmp/* /var/tmp/*
tidy
tar -x -f - -C / --no-same-owner
"""
)

# $1 name, $2 uid or nothing, $3 group, $4 home, $5 shell, $6 other groups, $7 sudo: no or nopasswd, $8 its file. Before it
# a family says how it gets a package, and in $shadow the name of the one that has useradd.
_ADD_USER = (
    """
name=$1 uid=$2 group=$3 home=$4 shell=$5 groups=$6 sudo=$7 sudoers=$8
fail() { echo "$1" >&2; exit 1; }
command -v useradd >/dev/null || get "$shadow"
if ! getent group "$group" >/dev/null; then
    echo "new group: $group"
    if [ -n "$uid" ] && [ "$uid" -ge 1000 ]; then groupadd "$group"; else groupadd -r "$group"; fi
fi
gid=$(getent group "$group" | cut -d: -f3)
if there=$(getent passwd "$name"); then
    is=$(printf '%s' "$there" | cut -d: -f3,4,6,7)
    wanted="${uid:-$(printf '%s' "$there" | cut -d: -f3)}:$gid:$home:$shell"
    [ "$is" = "$wanted" ] || fail "user $name exists already, as uid:gid:home:shell $is, not $wanted"
else
    if [ -n "$uid" ] && taken=$(getent passwd "$uid"); then
        fail "uid $uid of $name belongs to ${taken%%:*} already"
    fi
    set -- -g "$group" -m -d "$home" -s "$shell"
    if [ -n "$uid" ]; then
        set -- "$@" -u "$uid"
        [ "$uid" -ge 1000 ] || set -- "$@" -r
    fi
    useradd "$@" -- "$name"
fi
for other in $groups; do
    if ! getent group "$other" >/dev/null; then
        echo "new group: $other"
        groupadd -r "$other"
    fi
    case " $(id -Gn "$name") " in *" $other "*) ;; *) usermod -a -G "$other" "$name" ;; esac
done
"""
    + SUDO
    + """\
    visudo -c -q || { rm -f "/etc/sudoers.d/$sudoers"; fail "sudo does not accept its configuration"; }
fi
"""
)


def finish(sources_list: str, keyrings: Mapping[str, bytes]) -> Inside:
    """Empties what must not stay, and writes what must be there. Files come as a tar on standard input."""
    files = {
        "/etc/apt/sources.list": sources_list.encode(),
        "/etc/hosts": HOSTS.encode(),
        "/etc/machine-id": b"",
        "/etc/resolv.conf": b"",
        **keyrings,
    }
    return Inside(argv=("/bin/sh", "-c", _FINISH, "finish"), stdin=_tar(files))


def install(packages: Sequence[str], *, init: bool = False) -> Inside:
    """Updates the lists, installs packages without those they only recommend, and deletes the lists again.

    A name may carry a version (``cmake=3.25.1-1``) or a suite (``cmake/bookworm-updates``). With ``init`` the machine
    gets systemd and what reaching it takes (dbus, libpam-systemd), unless it has another init.
    """
    for name in packages:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+.:~_-]*([=/][A-Za-z0-9+.:~_-]+)?", name) or name.endswith("-"):
            raise DefinitionError(f"not the name of a package: {name!r}", hint="NAME, NAME=VERSION or NAME/SUITE")
    script = (
        _INSTALL_INIT if init and not _INITS.intersection(re.split("[:=/]", name)[0] for name in packages) else _INSTALL
    )
    return Inside(argv=("/bin/sh", "-c", script, "install", *packages))


def remove(packages: Sequence[str]) -> Inside:
    """Removes packages, with their settings and what was installed for them alone; a name may have an architecture."""
    for name in packages:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*(:[a-z0-9-]+)?", name) or name.endswith("-"):
            raise DefinitionError(f"not the name of a package to remove: {name!r}", hint="NAME or NAME:ARCHITECTURE")
    return Inside(argv=("/bin/sh", "-c", _REMOVE, "remove", *packages))


def upgrade() -> Inside:
    """Upgrades every package to the newest version that the suites have, by ``apt-get dist-upgrade``."""
    return Inside(argv=("/bin/sh", "-c", _UPGRADE, "upgrade"))


def add_user(user: User, nobody_group: str, preamble: str = f"set -eu{APT}shadow=passwd\n") -> Inside:
    """Makes an account; ``preamble`` is what the script of another family begins with. Raises as ``account_words`` does."""
    words = account_words(user, nobody_group)
    return Inside(argv=("/bin/sh", "-c", preamble + _ADD_USER, "add-user", *words))


def account_words(user: User, nobody_group: str) -> tuple[str, ...]:
    """What a script that makes an account is told: its name, uid, group, home, shell, further groups, sudo, sudo's file.

    Raises DefinitionError for names and paths that its files cannot hold.
    """
    home = user.home or f"/home/{user.name}"
    group = user.group or nobody_group
    for what, name in (("user", user.name), *(("group", g) for g in (group, *user.groups))):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", name):
            raise DefinitionError(f"not the name of a {what}: {name!r}", hint="letters, digits, '_', '-'; at most 32")
    for what, path in (("home", home), ("shell", user.shell)):
        if not re.fullmatch(r"/[^:\s]*", path):
            raise DefinitionError(f"not a {what} of user {user.name}: {path!r}", hint="an absolute path without ':'")
    uid = "" if user.uid is None else str(user.uid)
    # sudo does not read files with a dot in their name
    sudoers = f"roost-{user.name.replace('.', '_')}"
    return (user.name, uid, group, home, user.shell, " ".join(user.groups), user.sudo, sudoers)


def _tar(files: Mapping[str, bytes]) -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(files.items()):
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode, info.mtime = len(content), 0o644, _TIME
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
