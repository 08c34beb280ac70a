"""Addresses and interface names: allotted to a machine once and remembered, or lent to a throwaway session.

The first three quarters of a pool are for machines, the last one is for sessions, so that neither has to know of the
other's. Where machines begin is another place for each store, so that two stores on one host seldom want the same.
"""

from __future__ import annotations

import contextlib
import os
import zlib

from roost.errors import DefinitionError, HostError
from roost.host import files
from roost.network import netlink
from roost.network.addresses import (
    CANDIDATES,
    LINK,
    LINK6,
    SHARED,
    Block,
    block_of,
    first_overlap,
    number_of,
    own_prefix6,
    pool_of,
    text_of,
)
from roost.network.records import PREFIX, Link, link_from
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.definition.model import NetworkTerms
    from roost.network.records import Terms

NAME_MOST = 15  # IFNAMSIZ less the final zero, linux/if.h
WIDEST = {32: 8, 128: 16}  # wider routes are ways to everywhere, which every network lies in


class Shared(Struct, frozen=True):
    """A bridge: its name in the definition, its interface and its networks (``block6`` empty: no IPv6)."""

    name: str
    interface: str
    block: str
    block6: str


class Places(Struct):
    """A pool to take networks from. ``taken`` is what the host and other machines have already."""

    pool: Block
    pool6: Block | None
    taken: list[Block]

    @property
    def count(self) -> int:
        """How many links it has room for."""
        return self.pool.parts(LINK)

    @property
    def machines(self) -> int:
        """How many of them are for machines."""
        return self.count - self.count // 4

    def free(self, number: int, length: int = LINK) -> tuple[Block, Block | None] | None:
        """The ``number``-th networks of both families, unless somebody has one of them."""
        block = self.pool.part(number, length)
        block6 = self.pool6.part(number << (LINK - length), LINK6) if self.pool6 else None
        if first_overlap(block, self.taken) or (block6 and first_overlap(block6, self.taken)):
            return None
        return block, block6

    def find(self, start: int, length: int = LINK) -> tuple[Block, Block | None]:
        """The first free ones for a machine. Raises HostError when there are none."""
        unit = 1 << max(0, LINK - length)
        room = self.machines // unit
        for step in range(room):
            found = self.free((start // unit + step) % room, length)
            if found:
                return found
        raise used_up(self.pool)


def used_up(pool: Block) -> HostError:
    """No address is left."""
    return HostError(
        f"the pool of addresses is used up: {pool}",
        hint='`roost network list` shows who has them; give more: [network] pool = "10.80.0.0/16"',
    )


class Allotments:
    """What a store has allotted, in ``STATE/network/allotted``: one line for each machine and each bridge."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = f"{directory}/allotted"
        self.links: dict[str, Link] = {}
        self.bridges: dict[str, Shared] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[Allotments]:
        """Held and read; nobody else changes it meanwhile."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        with files.locked(f"{self._directory}/lock", seconds=30):
            yield self.read()

    def read(self) -> Allotments:
        """As it is now. A line that cannot be read is nobody's."""
        self.links, self.bridges = {}, {}
        with contextlib.suppress(FileNotFoundError), open(self._path, encoding="ascii", errors="replace") as stream:
            for line in stream.read().splitlines():
                kind, _, rest = line.partition(" ")
                words = ["" if word == "-" else word for word in rest.split(" ")]
                if kind == "machine" and (link := link_from(rest)):
                    self.links[link.machine] = link
                elif kind == "bridge" and len(words) == 4 and block_of(words[2]):
                    self.bridges[words[0]] = Shared(*words)
        return self

    def write(self) -> None:
        """It is on the disk when this returns."""
        bridges = (f"bridge {b.name} {b.interface} {b.block} {b.block6 or '-'}" for b in self.bridges.values())
        lines = (*bridges, *(f"machine {link.to_line()}" for link in self.links.values()))
        text = "".join(f"{line}\n" for line in lines)
        staging = f"{os.path.dirname(self._directory)}/staging"  # the store's, where parts are cleared
        files.write_in_any_case(
            self._path, text.encode(), durable=True, staging=staging if os.path.isdir(staging) else ""
        )

    def blocks(self) -> list[Block]:
        """The networks that are allotted."""
        texts = [text for link in self.links.values() if not link.bridge for text in (link.address, link.address6)]
        texts += [text for bridge in self.bridges.values() for text in (bridge.block, bridge.block6)]
        return [block for block in map(block_of, texts) if block is not None]

    def start(self) -> int:
        """Where this store's search begins: at a multiple of 64 links, which is a /24."""
        return zlib.crc32(os.path.realpath(self._directory).encode(errors="surrogateescape")) % 65536 << 6


def places(pool: str | None, pool6: str | None, own: list[Block]) -> Places:
    """The pools to use now, and what is taken in them: what the host has a route to, and ``own``. Raises HostError."""
    routes, ours = host_blocks()
    every = [*routes, *ours, *own]
    if pool is None:
        usable = (block for text in CANDIDATES if (block := block_of(text)) and not first_overlap(block, routes))
        chosen = next(usable, None)
        if chosen is None:
            raise HostError(
                "the host has a route to each of the networks that machines get their addresses from",
                details=", ".join(CANDIDATES),
                hint='name a network that nobody uses: [network] pool = "10.80.0.0/16"',
            )
    else:
        chosen = pool_of(pool, bits=32)
    chosen6 = pool_of(pool6, bits=128) if pool6 else own_prefix6(_identity()) if has_ipv6() else None
    if chosen6 and chosen6.parts(LINK6) < chosen.parts(LINK):
        raise DefinitionError(
            f"pool6 has {chosen6.parts(LINK6)} networks, pool has {chosen.parts(LINK)}",
            hint=f"a pool6 of /{LINK6 - (chosen.parts(LINK) - 1).bit_length()} is large enough",
        )
    return Places(chosen, chosen6, every)


def host_blocks() -> tuple[list[Block], list[Block]]:
    """What the host has ways to: of its own, and those to machines."""
    names = {interface.index: interface.name for interface in netlink.interfaces().values()}
    found: tuple[list[Block], list[Block]] = ([], [])
    for route in netlink.routes():
        if route.block.length >= WIDEST[route.block.bits]:
            found[names.get(route.index, "").startswith(PREFIX)].append(route.block)
        if route.gateway:
            found[0].append(Block(route.block.bits, route.gateway, route.block.bits))
    return found


def has_ipv6() -> bool:
    """Whether new interfaces of the host get IPv6 addresses."""
    try:
        for name in ("all", "default"):
            with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", encoding="ascii") as stream:
                if stream.read().strip() != "0":
                    return False
    except FileNotFoundError:
        return False
    return True


def _identity() -> bytes:
    try:
        with open("/etc/machine-id", "rb") as stream:
            return stream.read().strip()
    except OSError:
        return os.uname().nodename.encode()


def fixed(address: str) -> tuple[Block, int]:
    """The network and the address that a definition gives to a machine. Raises DefinitionError."""
    text, slash, _ = address.partition("/")
    found, block = number_of(text), block_of(address)
    if found is None or block is None or found[0] != 32 or (slash and not 8 <= block.length < 32):
        raise DefinitionError(f"not an address for a machine: {address}", hint='write it as in address = "10.80.0.2"')
    value = found[1]
    if not slash:  # in a /30 the first and the last are no hosts; in a /31 both are (RFC 3021)
        length = LINK if value % 4 in (1, 2) else 31
        block = Block(32, value >> (32 - length) << (32 - length), length)
    if block.length < 31 and value in (block.first, block.first + block.size - 1):
        raise DefinitionError(f"{address} is no machine's: it stands for the whole network")
    return block, value


def pair(block: Block, value: int | None = None) -> tuple[str, str]:
    """(the machine's address with the length, the gateway's) of a network; ``value`` is the machine's when it is fixed."""
    first = block.first + (block.bits - block.length > 1)
    own = first + 1 if value is None else value
    gateway = first if own != first else first + 1
    return f"{text_of(block.bits, own)}/{block.length}", text_of(block.bits, gateway)


def name_for(machine: str, used: set[str], infix: str = "") -> str:
    """An interface name of at most 15 characters that nobody uses: the machine's own, or its beginning and a hash."""
    plain = f"{PREFIX}{infix}{machine}"
    if len(plain) <= NAME_MOST and plain not in used:
        return plain
    number = 0
    while True:
        word = f"-{zlib.crc32(f'{machine} {number or str()}'.encode()) & 0xFFFF:04x}"
        name = plain[: NAME_MOST - len(word)] + word
        if name not in used:
            return name
        number += 1


def shared_for(allotments: Allotments, terms: NetworkTerms | Terms, where: Places, used: set[str]) -> Shared:
    """The bridge that terms name, allotted when it is new."""
    found = allotments.bridges.get(terms.bridge)
    if found:
        return found
    if terms.address:
        block, value = fixed(terms.address)
        if block.length > SHARED:
            block = Block(32, value >> 8 << 8, SHARED)
        block6 = where.pool6.part(zlib.crc32(str(block).encode()) % where.machines, LINK6) if where.pool6 else None
    elif where.pool.length > SHARED:
        raise HostError(f"{where.pool} has no room for a bridge", hint=f"a bridge is a network of /{SHARED}")
    else:
        block, block6 = where.find(allotments.start(), SHARED)
    made = Shared(terms.bridge, name_for(terms.bridge, used, "b_"), str(block), str(block6 or ""))
    allotments.bridges[terms.bridge] = made
    return made


def fits(old: Link, terms_: NetworkTerms | Terms, book: Allotments, pool: str | None) -> bool:
    """Whether what was allotted is what is wanted now."""
    shared = book.bridges.get(terms_.bridge)
    if old.bridge != (shared.interface if shared else "") or (terms_.bridge and not shared):
        return False
    if terms_.address:
        return old.address.partition("/")[0] == terms_.address.partition("/")[0]
    own = block_of(old.address)
    return not pool or bool(old.bridge) or (own is not None and pool_of(pool, bits=32).covers(own))


def used_names(book: Allotments) -> set[str]:
    allotted = (link.interface for link in book.links.values())
    return {*netlink.interfaces(), *allotted, *(bridge.interface for bridge in book.bridges.values())}


def new_link(
    machine: str, name: str, terms_: NetworkTerms | Terms, book: Allotments, where: Places, used: set[str]
) -> Link:
    if terms_.bridge:
        shared = shared_for(book, terms_, where, {*used, name})
        taken = {link.address.partition("/")[0] for link in book.links.values() if link.bridge == shared.interface}
        number = next(iter(places_on(shared, terms_, taken, lent=False)), None)
        if number is None:
            raise HostError(f"the network of the bridge {terms_.bridge} is used up: {shared.block}")
        return on_bridge(machine, name, shared, number)
    if terms_.address:
        block, value = fixed(terms_.address)
        refuse_taken(block, where.taken)
        six = None
        if where.pool6:
            start = zlib.crc32(str(block).encode())
            tries = (where.pool6.part((start + step) % where.machines, LINK6) for step in range(where.machines))
            six = next((part for part in tries if not first_overlap(part, where.taken)), None)
        return Link(machine, name, *pair(block, value), *(pair(six) if six else ()))
    block, block6 = where.find(book.start())
    return Link(machine, name, *pair(block), *(pair(block6) if block6 else ()))


def refuse_taken(block: Block, taken: list[Block]) -> None:
    other = first_overlap(block, taken)
    if other is not None:
        raise HostError(
            f"the network {block} overlaps {other}, which the host or another machine has",
            hint="`ip route` and `roost network list` show what is there; choose another address",
        )


def places_on(shared: Shared, terms_: NetworkTerms | Terms, taken: set[str], *, lent: bool) -> list[int]:
    """The free places on a bridge, as distances from its first address: its first three quarters are for machines."""
    block = block_of(shared.block)
    assert block is not None
    if terms_.address:
        _, value = fixed(terms_.address)
        inside = block.first + 1 < value < block.first + block.size - 1
        if not inside or text_of(32, value) in taken:
            why = "in use" if inside else f"not in its network {block}"
            raise HostError(f"{terms_.address} on the bridge {shared.name} is {why}", hint="choose another address")
        return [value - block.first]
    middle = block.size - block.size // 4
    numbers = range(middle, block.size - 1) if lent else range(2, middle)
    return [number for number in numbers if block.host(number) not in taken]


def on_bridge(machine: str, name: str, shared: Shared, number: int) -> Link:
    block, block6 = block_of(shared.block), block_of(shared.block6) if shared.block6 else None
    assert block is not None
    six = (f"{block6.host(number)}/{block6.length}", block6.host(1)) if block6 else ("", "")
    return Link(machine, name, f"{block.host(number)}/{block.length}", block.host(1), *six, bridge=shared.interface)
