"""OpenPGP signatures, by gpgv: what it says of each counts, as its exit status is 0 for keys that were revoked or have expired."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from roost.bases.streams import BLOCK, Digested
from roost.errors import CommandError, StoreError
from roost.host import files, runner

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roost.bases.streams import Readable

_GOOD = "GOODSIG"
# GnuPG's doc/DETAILS, "Status messages". What comes first tells more: others may follow it.
_BAD = (
    (
        "REVKEYSIG",
        "the key that signed it was revoked",
        "who has such a key may not be its owner: take what its makers have signed with another one, and that one's keyring",
    ),
    (
        "EXPKEYSIG",
        "the key that signed it has expired",
        "a newer keyring may know a later date: get it anew, or update the package that has it",
    ),
    (
        "EXPSIG",
        "it was good until a day that has passed",
        "get a newer one, with what it signs; a mirror may be out of date",
    ),
    (
        "BADSIG",
        "it is one of another content",
        "is it the signature of this file? one of both is damaged, or was changed on the way",
    ),
    (
        "NO_PUBKEY",
        "it is by another key",
        "has its key changed? see what its makers publish; the keyring may be too old",
    ),
    ("ERRSIG", "it cannot be checked", "see what its makers publish"),
)
_NONE = ("there is none", "is it the signature of this file? see what its makers publish")


def check(
    stream: Readable, signature: bytes, keys: bytes, private: str, *, brief: str, algorithm: str = "sha256"
) -> str:
    """The digest of a whole stream, when ``signature`` is a good one of it by one of the ``keys`` (binary).

    Raises StoreError, which begins with ``brief``, when it is not; HostError without gpgv. ``private`` is a directory of
    the caller's.
    """
    raw = Digested(stream, algorithm)
    _write(f"{private}/signature", signature)
    _verify(("--", f"{private}/signature", "-"), iter(lambda: raw.read(BLOCK), b""), keys, private, brief)
    return raw.to_the_end()


def text(signed: bytes, keys: bytes, private: str, *, brief: str) -> bytes:
    """What is signed of a clear-signed text (RFC 9580, 7), and nothing else of it. Raises as ``check`` does."""
    _write(f"{private}/signed", signed)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{private}/text")  # gpgv writes over nothing
    _verify(("--output", f"{private}/text", "--", f"{private}/signed"), (), keys, private, brief)
    with open(f"{private}/text", "rb") as stream:
        return stream.read()


def _verify(words: tuple[str, ...], blocks: Iterable[bytes], keys: bytes, private: str, brief: str) -> None:
    _write(f"{private}/keys.gpg", keys)
    argv = ("gpgv", "--homedir", private, "--status-fd", "1", "--keyring", f"{private}/keys.gpg", *words)
    said, details = b"", ""
    with runner.filtered(argv, blocks) as stream:
        try:
            while data := stream.read(BLOCK):
                said += data
        except CommandError as e:
            details = e.details or e.brief
    lines = [line.split() for line in said.decode(errors="replace").splitlines() if line.startswith("[GNUPG:] ")]
    found = {line[1]: " ".join(line[1:]) for line in lines if len(line) > 1}
    for word, reason, hint in _BAD:
        if word in found:
            raise StoreError(f"{brief}: {reason}", details=details[-2000:] or found[word], hint=hint)
    if details or _GOOD not in found:
        reason, hint = _NONE
        raise StoreError(f"{brief}: {reason}", details=details[-2000:], hint=hint)


def _write(path: str, content: bytes) -> None:
    files.write_atomic(path, content, mode=0o600)
