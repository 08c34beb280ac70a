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
"""
_KEYS = """\
case $said in
*'[GNUPG:] GOODSIG '*) ;;
*'[GNUPG:] EXPKEYSIG '*) key=${said#*EXPKEYSIG }; refuse "EXPKEYSIG ${key%% *}" "${key%% *}" ;;
esac
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
    """A gpgv that calls bad what apt would refuse: debootstrap itself asks neither when a key nor when a Release file ends."""
    return (_CALL + ("" if expired_keys else _KEYS) + ("" if old_release_files else _DATES) + _END).encode()


def for_expired_keys() -> bytes:
    """A gpgv for a tree's own apt that takes a signature for good though its key has expired since, as mmdebstrap's own."""
    return _OF_OLD
