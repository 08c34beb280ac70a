"""Processors by Debian's names: which this host is, and which one a program is made for.

The numbers are those of elf(5) and of the processors' supplements to it; the names of QEMU's emulators are those of its
linux-user targets.
"""

from __future__ import annotations

import os
from typing import Literal

from roost.structs import Struct

HEADER = 64
"""Bytes of an ELF header that are looked at."""
_HARD_FLOAT, _SOFT_FLOAT = 0x400, 0x200  # e_flags of 32-bit ARM: EF_ARM_ABI_FLOAT_HARD and _SOFT
_MACHINES = {  # uname(2)'s words
    "x86_64": "amd64", "i686": "i386", "i586": "i386", "aarch64": "arm64", "armv7l": "armhf", "armv8l": "armhf", "ppc64le": "ppc64el",
    "loongarch64": "loong64",
}  # fmt: skip


class Processor(Struct, frozen=True, kw_only=True):
    """``bits`` and byte ``order`` of its programs, their e_machine, and what QEMU calls it."""

    bits: int
    order: Literal["little", "big"]
    machine: int
    qemu: str


PROCESSORS: dict[str, Processor] = {
    name: Processor(bits=bits, order="big" if order == "big" else "little", machine=machine, qemu=qemu)
    for name, bits, order, machine, qemu in (
        ("amd64", 64, "little", 62, "x86_64"),
        ("i386", 32, "little", 3, "i386"),
        ("arm64", 64, "little", 183, "aarch64"),
        ("armhf", 32, "little", 40, "arm"),
        ("armel", 32, "little", 40, "arm"),
        ("riscv64", 64, "little", 243, "riscv64"),
        ("ppc64el", 64, "little", 21, "ppc64le"),
        ("s390x", 64, "big", 22, "s390x"),
        ("loong64", 64, "little", 258, "loongarch64"),
        ("mips64el", 64, "little", 8, "mips64el"),
        ("mipsel", 32, "little", 8, "mipsel"),
        ("mips", 32, "big", 8, "mips"),
        ("ppc64", 64, "big", 21, "ppc64"),
        ("powerpc", 32, "big", 20, "ppc"),
        ("sparc64", 64, "big", 43, "sparc64"),
        ("m68k", 32, "big", 4, "m68k"),
        ("hppa", 32, "big", 15, "hppa"),
        ("alpha", 64, "little", 0x9026, "alpha"),
        ("sh4", 32, "little", 42, "sh4"),
    )
}


def of_host() -> str:
    """This host's; one that Debian has no name for by the kernel's."""
    word = os.uname().machine
    return _MACHINES.get(word, word)


def of_program(head: bytes) -> tuple[str, ...]:
    """Which a program is made for, from its first bytes; several where its header does not tell, none for no program."""
    if len(head) < HEADER or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return ()
    bits = 32 * head[4]
    order: Literal["little", "big"] = "little" if head[5] == 1 else "big"
    machine = int.from_bytes(head[18:20], order)
    flags = int.from_bytes(head[36:40] if bits == 32 else head[48:52], order)
    found = tuple(n for n, p in PROCESSORS.items() if (p.bits, p.order, p.machine) == (bits, order, machine))
    if "armhf" in found:
        return ("armhf",) if flags & _HARD_FLOAT else ("armel",) if flags & _SOFT_FLOAT else found
    return found


def interpreter(head: bytes) -> str:
    """What the kernel starts for a program: of a script by its first line, of an ELF file by PT_INTERP, or nothing."""
    if head.startswith(b"#!"):
        return os.fsdecode(head[2:].split(b"\n", 1)[0].strip().partition(b" ")[0])
    if head[:4] != b"\x7fELF" or len(head) < HEADER:
        return ""
    wide = head[4] == 2
    order: Literal["little", "big"] = "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)

    start, size, count = (
        (number(32, 8), number(54, 2), number(56, 2)) if wide else (number(28, 4), number(42, 2), number(44, 2))
    )
    for header in range(start, start + size * count, size or 1):
        if number(header, 4) == 3:  # PT_INTERP
            at, length = (
                (number(header + 8, 8), number(header + 32, 8))
                if wide
                else (number(header + 4, 4), number(header + 16, 4))
            )
            return os.fsdecode(head[at : at + min(length, 4096)].split(b"\0", 1)[0])
    return ""
