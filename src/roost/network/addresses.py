"""Networks as numbers. The standard library's ipaddress takes as long to load as a link takes to make."""

from __future__ import annotations

import socket

from roost.errors import DefinitionError
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 1918: ranges that few others use; the first that the host has no way to is taken
CANDIDATES = ("10.213.0.0/16", "10.117.0.0/16", "172.29.0.0/16", "172.22.0.0/16", "192.168.208.0/20")
LINK = 30  # a host's end and a machine's
SHARED = 24  # a bridge
LINK6 = 64  # RFC 4291: what interfaces have


class Block(Struct, frozen=True):
    """A network: ``bits`` 32 or 128, its ``first`` address as a number, the ``length`` of its prefix."""

    bits: int
    first: int
    length: int

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (self.bits - self.length)

    def overlaps(self, other: Block) -> bool:
        """Whether an address is in both."""
        return (
            self.bits == other.bits and self.first < other.first + other.size and other.first < self.first + self.size
        )

    def covers(self, other: Block) -> bool:
        """Whether every address of the other is in this one."""
        return self.length <= other.length and self.overlaps(other)

    def part(self, number: int, length: int) -> Block:
        """The ``number``-th network of that length in it."""
        return Block(self.bits, self.first + (number << (self.bits - length)), length)

    def parts(self, length: int) -> int:
        """How many networks of that length it has."""
        return 1 << (length - self.length) if length >= self.length else 0

    def host(self, number: int) -> str:
        """The address that many above the first."""
        return text_of(self.bits, self.first + number)

    def __str__(self) -> str:
        return f"{self.host(0)}/{self.length}"


def text_of(bits: int, value: int) -> str:
    """How an address is written."""
    family = socket.AF_INET if bits == 32 else socket.AF_INET6
    return socket.inet_ntop(family, value.to_bytes(bits // 8, "big"))


def number_of(text: str) -> tuple[int, int] | None:
    """(bits, value) of an address; None when it is none."""
    for family, bits in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
        try:
            return bits, int.from_bytes(socket.inet_pton(family, text), "big")
        except (OSError, ValueError):
            continue
    return None


def block_of(text: str) -> Block | None:
    """The network of an address, with the length of the prefix or without; None when it is not written as one."""
    address, slash, length = text.partition("/")
    found = number_of(address)
    if found is None or (slash and not (length.isascii() and length.isdecimal())):
        return None
    bits, value = found
    prefix = int(length) if slash else bits
    if prefix > bits:
        return None
    room = bits - prefix
    return Block(bits, value >> room << room, prefix)


def pool_of(text: str, *, bits: int) -> Block:
    """The pool that a definition names. Raises DefinitionError when it is none."""
    found = block_of(text)
    least, most = (LINK, 8) if bits == 32 else (LINK6, 16)
    if found is None or found.bits != bits:
        key, example = ("pool", "10.80.0.0/16") if bits == 32 else ("pool6", "fd12:3456:789a::/48")
        raise DefinitionError(f"{key} is not a network: {text}", hint=f'write it as in {key} = "{example}"')
    if not most <= found.length <= least:
        raise DefinitionError(f"{text} has no room for machines", hint=f"a pool is a network of /{most} to /{least}")
    return found


def own_prefix6(identity: bytes) -> Block:
    """A unique local prefix of the host's own (RFC 4193: fd, then 40 bits that nobody else is likely to have)."""
    import zlib

    word = zlib.crc32(b"roost " + identity) << 8 | zlib.crc32(identity + b" roost") & 0xFF
    return Block(128, (0xFD << 40 | word) << 80, 48)


def first_overlap(block: Block, taken: Iterable[Block]) -> Block | None:
    """What of ``taken`` shares an address with the block."""
    return next((other for other in taken if block.overlaps(other)), None)
