"""What stands in for gpgv: where debootstrap asks less than apt does, and where keys have expired that a release was signed by."""

from __future__ import annotations

# It is in a directory that is first in PATH. The Release file is its last argument.
_CALL = """\
#!/bin/sh
for release; do :; done
PATH=${PATH#*:}
said=$(gpgv "$@")
status=$?
refuse() { echo "$1" >&2; echo "[GNUPG:] BADSIG ${2:-0000000000000000}"; exit 1; }
said_of() { printf '%s\\n' "$said" | sed -n "s/^\\[GNUPG:\\] $1 \\([^ ]*\\).*/\\1/p" | head -n 1; }
"""
# As apt has it: one good signature will do, whatever the others are.
_KEYS = """\
good=
for kind in {good}; do good=$good$(said_of "$kind"); done
if [ -z "$good" ]; then
    for kind in REVKEYSIG EXPKEYSIG EXPSIG; do
        key=$(said_of "$kind")
        [ -z "$key" ] || refuse "$kind $key" "$key"
    done
fi
"""
_DATES = """\
until=$(sed -n 's/^Valid-Until: //p' "$release" | head -n 1)
if [ -n "$until" ] && [ "$(date -d "$until" +%s)" -lt "$(date +%s)" ]; then
    refuse "Release file for $(basename "$release") is expired (Valid-Until: $until)"
fi
"""
_END = """\
printf '%s\\n' "$said"
exit "$status"
"""

_OF_OLD = b"""\
#!/bin/sh
fd=1 last=
for word; do
    [ "$last" != --status-fd ] || fd=$word
    last=$word
done
case $fd in *[!0-9]*) exit 1 ;; esac
eval 'gpgv "$@" '"$fd>&1" | sed -e '/^.GNUPG:. KEYEXPIRED /d' -e 's/^\\(.GNUPG:.\\) EXPKEYSIG /\\1 GOODSIG /' >&"$fd"
"""


def for_debootstrap(*, expired_keys: bool, old_release_files: bool) -> bytes:
    """A gpgv that calls bad what apt would refuse: debootstrap itself asks neither what became of a key nor when a Release
    file ends. ``expired_keys`` are good ones; those that were revoked are not, but of one that has expired gpgv says no more.
    """
    keys = _KEYS.format(good="GOODSIG EXPKEYSIG" if expired_keys else "GOODSIG")
    return (_CALL + keys + ("" if old_release_files else _DATES) + _END).encode()


def for_expired_keys() -> bytes:
    """A gpgv for a tree's own apt that takes a signature for good though its key has expired since, as mmdebstrap's own."""
    return _OF_OLD
