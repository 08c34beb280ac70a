"""Programs of other processors: whose they are, and what the kernel is told of an emulator."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import pytest
from definition_facts import load_text, mistakes

from roost.engine.spec import EMULATOR, REGISTRATION, Emulated, Spec, nspawn_argv
from roost.host import architectures, foreign
from roost.structs import replace

if TYPE_CHECKING:
    from pathlib import Path


def header(bits: int, word: Literal["little", "big"], machine: int, flags: int = 0) -> bytes:
    """An ELF header with that in it."""
    start = b"\x7fELF" + bytes((bits // 32, 1 if word == "little" else 2, 1)) + bytes(9)
    rest = (2).to_bytes(2, word) + machine.to_bytes(2, word) + bytes(16 if bits == 32 else 28) + flags.to_bytes(4, word)
    return (start + rest).ljust(64, b"\0")


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (header(64, "little", 62), ("amd64",)),
        (header(32, "little", 3), ("i386",)),
        (header(64, "little", 183), ("arm64",)),
        (header(64, "big", 22), ("s390x",)),
        (header(64, "little", 21), ("ppc64el",)),
        (header(64, "big", 21), ("ppc64",)),
        (header(32, "little", 40, 0x5000400), ("armhf",)),
        (header(32, "little", 40, 0x5000200), ("armel",)),
        (header(32, "little", 40), ("armhf", "armel")),
        (header(64, "little", 0x1234), ()),
        (b"#!/bin/sh\n", ()),
        (b"\x7fELF", ()),
        (b"\x7fELF\x07\x09".ljust(64, b"\0"), ()),
    ],
)
def test_whose_a_program_is(head: bytes, names: tuple[str, ...]) -> None:
    assert architectures.of_program(head) == names


def test_this_very_program_is_the_hosts() -> None:
    with open(sys.executable, "rb") as stream:
        head = stream.read(architectures.HEADER)
    assert architectures.of_program(head) == (architectures.of_host(),)


def test_an_emulator_is_registered_as_debian_does() -> None:
    """With /usr/lib/binfmt.d/qemu-aarch64.conf of the package qemu-user-static beside it: the same bytes and flags."""
    line = foreign.Way(architecture="arm64").registration("/run/roost-emulator").decode()
    magic = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    assert line == f":qemu-aarch64:M::{magic}:{mask}:/run/roost-emulator:FOP"
    big = foreign.Way(architecture="s390x").registration("/x").decode()
    assert big.split(":")[4].endswith(r"\x00\x02\x00\x16")
    assert big.split(":")[5].endswith(r"\xff\xfe\xff\xff")


AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


@pytest.mark.parametrize(
    ("text", "architecture", "said"),
    [
        (AARCH64.format(flags="POF"), "arm64", ""),
        (AARCH64.format(flags="POF"), "riscv64", None),
        (AARCH64.format(flags="PO"), "arm64", "without the flag F"),
        (AARCH64.format(flags=""), "arm64", "without the flag F"),
        (AARCH64.format(flags="POF").replace("enabled", "disabled"), "arm64", "is disabled"),
        ("enabled\ninterpreter /usr/bin/cli\nflags: \noffset 0\nmagic 4d5a\n", "arm64", None),
        ("enabled\ninterpreter /usr/bin/jar\nflags: \nextension .jar\n", "arm64", None),
        ("enabled\ninterpreter /x\nflags: \noffset 0\nmagic zz\n", "arm64", None),
        ("", "arm64", None),
    ],
)
def test_what_an_entry_of_the_kernels_means(text: str, architecture: str, said: str | None) -> None:
    found = foreign.matches(text, architecture)
    assert found == said if not said else said in (found or "")


def test_an_unknown_processor_has_its_names() -> None:
    assert "arm64" in foreign.remedy("aarch64")
    assert foreign.emulator("aarch64") == ""


def test_the_container_is_told() -> None:
    """A personality, or what roost-init registers: never both, and neither for the host's own."""
    plain = Spec(machine="m", layers=(), directory="/d", mount_point="/mnt", init="/init", command=("true",))
    argv = nspawn_argv(plain)
    assert not [word for word in argv if "personality" in word or EMULATOR in word]
    old = nspawn_argv(replace(plain, emulated=Emulated(personality="x86")))
    assert "--personality=x86" in old
    arm = nspawn_argv(replace(plain, emulated=Emulated(emulator="/usr/bin/qemu-aarch64-static", registration=b":")))
    assert f"--bind-ro=/mnt/emulator:{EMULATOR}" in arm
    assert f"--bind-ro=/mnt/binfmt:{REGISTRATION}" in arm
    assert arm[arm.index("--") + 4] == "4", "roost-init's flag"


def test_an_architecture_beside_another_source(tmp_path: Path) -> None:
    """It is what the tree is checked against; of an image, which one is meant. Its name is Debian's."""
    text = '[machines.a]\nfrom = "{source}"\narchitecture = "arm64"\n'
    for source in ("dir:tree", "tar:file.tar", "mkosi:dir", "oci:example.org/image"):
        loaded = load_text(tmp_path, text.format(source=source))
        assert loaded.machines["a"].base.architecture == "arm64"
    plain = '[machines.a]\nfrom = "dir:tree"\n'
    assert load_text(tmp_path, plain).machines["a"].base.architecture == ""
    (line,) = mistakes(tmp_path, plain + 'architecture = "aarch64"\n')
    assert "there is no architecture 'aarch64': one of amd64, i386, arm64" in line
    (line,) = mistakes(tmp_path, '[machines.a]\nfrom = "layer:x"\narchitecture = "arm64"\n')
    assert "leave out architecture" in line
