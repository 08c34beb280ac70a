"""OpenPGP keyrings as values, in the one form that every gpgv and every apt reads: binary, without armour."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from roost.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)


UNKNOWN = b"\x99\x00\x00"
"""Stands for keys that are not there, in what is only shown: a public-key packet of no length."""


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


def armoured(content: bytes, name: str) -> bytes:
    """The keys of a file as rpm and every dnf read them: each key in an armour of its own (RFC 9580, 6.2).

    Raises HostError as ``binary`` does.
    """
    keys: list[list[bytes]] = []
    for kind, packet in packets(binary(content, name), name):
        if kind == PUBLIC_KEY or not keys:
            keys.append([])
        keys[-1].append(packet)
    table = _crc_table()
    return b"".join(_armour(b"".join(key), table) for key in keys)


PUBLIC_KEY = 6
"""The packet that a key begins with (RFC 9580, 5)."""


def packets(content: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Every packet of a binary keyring with its kind.

    Raises HostError for a file that ends in the middle of one, or holds something else.
    """
    at = 0
    while at < len(content):
        kind, header, size = _header(content, at)
        end = at + header + size
        if not content[at] & 0x80 or end > len(content):
            raise HostError(f"{name} holds no whole OpenPGP keys", hint=f"write it with 'gpg --export KEY > {name}'")
        yield kind, content[at:end]
        at = end


def body(packet: bytes) -> bytes:
    """A packet without its header."""
    _, header, _ = _header(packet, 0)
    return packet[header:]


def _header(content: bytes, at: int) -> tuple[int, int, int]:
    """Kind, length of the header, length of the rest, by RFC 9580, 4.2; a key has no packets of unknown length."""
    head, rest = content[at], content[at + 1 : at + 6]
    if head & 0x40:
        kind, first = head & 0x3F, rest[0] if rest else 255
        if first < 192:
            return kind, 2, first
        if first < 224:
            return kind, 3, ((first - 192) << 8) + int.from_bytes(rest[1:2], "big") + 192
        return kind, 6, int.from_bytes(rest[1:5], "big") if first == 255 else len(content)
    width = 1 << (head & 3)
    return (head >> 2) & 0x0F, 1 + width, int.from_bytes(rest[:width], "big") if width < 8 else len(content)


def _crc_table() -> list[int]:
    """CRC-24 of each octet (RFC 9580, 6.1.1). rpm wants the checksum, which newer programs leave out."""
    table = []
    for octet in range(256):
        crc = octet << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
        table.append(crc)
    return table


def _armour(key: bytes, table: list[int]) -> bytes:
    crc = 0xB704CE
    for octet in key:
        crc = (crc << 8) & 0xFFFFFF ^ table[(crc >> 16) ^ octet]
    text = base64.b64encode(key)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    ends = b"-----%s PGP PUBLIC KEY BLOCK-----"
    check = b"=" + base64.b64encode(crc.to_bytes(3, "big"))
    return b"\n".join((ends % b"BEGIN", b"", *lines, check, ends % b"END", b""))
