"""OpenPGP keyrings as values, in the one form that every gpgv and every apt reads: binary, without armour."""

from __future__ import annotations

import base64
import binascii
import re

from roost.errors import HostError

_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)


def binary(content: bytes, name: str) -> bytes:
    """The keys of a file, armoured (RFC 9580, 6.2) or not; ``name`` is for messages.

    Raises HostError for a file that holds no keys, or holds them in GnuPG's own keybox format.
    """
    hint = f"write it with 'gpg --export KEY > {name}'"
    if content[8:12] == b"KBXf":
        raise HostError(f"{name} is a GnuPG keybox, which apt cannot read", hint=hint)
    if b"-----BEGIN PGP" in content:
        content = b"".join(_dearmor(block, name, hint) for block in _BLOCK.findall(content))
    # The first octet of a packet has its top bit set (RFC 9580, 4.2).
    if not content or not content[0] & 0x80:
        raise HostError(f"{name} holds no OpenPGP keys", hint=hint)
    return content


def _dearmor(block: bytes, name: str, hint: str) -> bytes:
    lines = [line.strip() for line in block.splitlines()]
    if b"" in lines:  # headers such as "Version:" end with an empty line
        lines = lines[lines.index(b"") + 1 :]
    body = b"".join(line for line in lines if not line.startswith(b"="))  # "=XXXX" is the checksum
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as e:
        raise HostError(f"{name} cannot be read: {e}", hint=hint) from None
