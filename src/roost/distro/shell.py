"""Pieces of sh that the scripts of several families are made of. They run inside, as root, with ``set -eu``.

A family's own pieces come before them: ``get`` installs packages, ``end`` is what is done at the end, however it comes.
"""

from __future__ import annotations

FAIL = 'fail() { echo "$1" >&2; exit 1; }\n'

TRAPS = """\
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
"""

HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""

# Every boot of a machine without an id gets one of its own (machine-id(5)); packages have made one for the layer.
READY = (
    "set -eu\n"
    + FAIL
    + """
[ -e /sbin/init ] || [ -L /sbin/init ] || fail "nothing has brought /sbin/init: this machine cannot boot"
: >/etc/machine-id
if [ -d /var/lib/dbus ]; then
    rm -f /var/lib/dbus/machine-id
    ln -s /etc/machine-id /var/lib/dbus/machine-id
fi
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
"""
)

# $1 the zone; $zones is the package that has them
TIMEZONE = """
zone=$1
file=/usr/share/zoneinfo/$zone
[ -f "$file" ] || get "$zones"
[ -f "$file" ] || fail "no time zone is called $zone here: /usr/share/zoneinfo has them"
ln -sfn "../usr/share/zoneinfo/$zone" /etc/localtime
"""

# The hash is on standard input: everybody may read a command line. $shadow is the package that has chpasswd.
SET_ROOT = """
command -v chpasswd >/dev/null || get "$shadow"
IFS= read -r hash || true
if [ -n "$hash" ]; then printf 'root:%s\\n' "$hash" | chpasswd -e; else usermod -p '' root; fi
"""

# $name may do what root may, when $sudo says so; the file is called $sudoers. What follows ends the `if`.
SUDO = """\
if [ "$sudo" = nopasswd ]; then
    { command -v sudo && command -v visudo; } >/dev/null || get sudo
    new=$(mktemp /etc/roost-sudoers.XXXXXX)
    printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\\n' "$name" >"$new"
    chmod 0440 "$new"
    visudo -c -q -f "$new" || { rm -f "$new"; fail "sudo does not accept the rule for $name"; }
    mkdir -p /etc/sudoers.d
    mv -f "$new" "/etc/sudoers.d/$sudoers"
"""
