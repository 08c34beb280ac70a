"""Which keys pacman trusts: gpg's directory of its own, made as pacman-key(8) makes it, on the host and inside.

A key is trusted when it is signed by the local key, or by enough of those that are (Arch: three of its master keys).
What the local key can sign, pacman installs: so it is there only while something is to be signed, and in no layer.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from roost.definition import keyrings
from roost.distro import keyring, keyring_files
from roost.errors import HostError

if TYPE_CHECKING:
    from roost.definition.model import Base
    from roost.distro.recipe import Recipe
    from roost.host.dnf import HostDnf

GNUPG = "/etc/pacman.d/gnupg"
KEYRINGS = "/usr/share/pacman/keyrings"
"""Where a tree has keyrings: NAME.gpg, NAME-trusted (fingerprints and their owner trust) and NAME-revoked."""

# $home is gpg's directory. `trust DIRECTORY NAME` is pacman-key's --populate. A revoked key is deleted, where pacman-key
# disables it: that takes a moment for all of them, and not one for each.
KEYS = """
gnupg() { gpg --homedir "$home" --batch --no-tty --quiet --no-permission-warning --no-auto-check-trustdb "$@"; }
trust() {
    gnupg --import "$1/$2.gpg"
    while IFS=: read -r key _; do
        case $key in '' | '#'*) continue ;; esac
        gnupg --yes --quick-lsign-key "$key" >/dev/null || echo "roost: the key $key cannot be trusted"
    done <"$1/$2-trusted"
    gnupg --import-ownertrust "$1/$2-trusted"
    revoked=
    if [ -f "$1/$2-revoked" ]; then
        listed=$(gnupg --with-colons --list-keys)
        while read -r key; do
            case $key in '' | '#'*) continue ;; esac
            case $listed in *:"$key":*) revoked="$revoked $key" ;; esac
        done <"$1/$2-revoked"
    fi
    [ -z "$revoked" ] || gnupg --yes --delete-keys $revoked
    gnupg --check-trustdb
}
# pacman would ask servers for keys that are missing, and the net of whom to ask
without_net() {
    [ ! -e "$home/gpg.conf.roost" ] || return 0
    cp "$home/gpg.conf" "$home/gpg.conf.roost"
    echo disable-dirmngr >>"$home/gpg.conf"
}
with_net() { [ ! -e "$home/gpg.conf.roost" ] || mv -f "$home/gpg.conf.roost" "$home/gpg.conf"; }
open_keys() {
    mkdir -p "$home"
    [ -e "$home/pubring.gpg" ] || : >"$home/pubring.gpg"
    [ -e "$home/gpg.conf" ] || printf '%s\\n' no-greeting no-permission-warning lock-never >"$home/gpg.conf"
    [ -e "$home/gpg-agent.conf" ] || echo disable-scdaemon >"$home/gpg-agent.conf"
    [ -z "$(gnupg --with-colons --list-secret-keys)" ] || return 0
    gnupg --yes --passphrase '' --quick-generate-key 'Pacman Keyring Master Key <pacman@localhost>' ed25519 sign never
}
close_keys() {
    gpgconf --homedir "$home" --kill all || true
    rm -rf "$home/private-keys-v1.d" "$home/openpgp-revocs.d" "$home"/S.* "$home"/*~ "$home"/.#lk* "$home/tofu.db"
    chmod 0644 "$home/pubring.gpg" "$home/trustdb.gpg"
}
"""


def of_file(content: bytes, name: str) -> dict[str, bytes]:
    """A keyring all of whose keys are trusted, by the endings of its files. Raises HostError when it holds none."""
    keys = keyring.binary(content, name)
    return {".gpg": keys, "-trusted": "".join(f"{one}:4:\n" for one in fingerprints(keys, name)).encode()}


def fingerprints(keys: bytes, name: str) -> list[str]:
    """Those of the primary keys, by RFC 9580, 5.5.4. gpg knows no keys but those of version 4.

    Raises HostError for a key that is longer than such a fingerprint can say.
    """
    found = []
    for kind, packet in keyring.packets(keys, name):
        if kind == keyring.PUBLIC_KEY:
            body = keyring.body(packet)
            if len(body) > 0xFFFF:
                raise HostError(f"{name} holds a key that gpg cannot read: {len(body)} bytes", hint="check the file")
            found.append(hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper())  # noqa: S324  # a name
    return found


def of_base(base: Base, recipe: Recipe, host: HostDnf) -> dict[str, bytes]:
    """The keyring of a base, by the endings of its files.

    A file NAME.gpg with NAME-trusted beside it is one as distributions have it: those that it names are trusted, and
    whom they trust. Else every key of the file is.

    Raises HostError for one that the host lacks, DefinitionError for one that changed since the definition was read.
    """
    if base.keyring:
        trusted = _trusted(base.keyring)
        return _with_trust(base.keyring, keyring_files.given(base, trusted), trusted)
    # on a host of the same distribution pacman's own directory has it
    shipped = keyring_files.of_base(recipe, base)
    places = [host.root.rstrip("/") + path for path in (shipped, f"{KEYRINGS}/{os.path.basename(shipped)}")]
    path = next((place for place in places if os.path.exists(place)), "")
    if not path and host.only_shown:
        return {".gpg": keyring.UNKNOWN, "-trusted": b""}
    if not path:
        raise HostError(
            f"the keyring {shipped} is not on this host",
            details=f"it signs {recipe.name} {base.release}; the package {recipe.keyring_package} has it",
            hint=f"apt install {recipe.keyring_package}; newer ones are at {recipe.keyring_source}",
        )
    return _with_trust(path, keyring_files.read(path), _trusted(path))


def _with_trust(path: str, content: bytes, trusted: dict[str, bytes]) -> dict[str, bytes]:
    return {".gpg": content, **trusted} if trusted else of_file(content, path)


def _trusted(path: str) -> dict[str, bytes]:
    return {ending: keyring_files.read(name) for ending, name in keyrings.trusted(path).items()}
