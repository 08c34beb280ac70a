"""Which trees run a command, and which boot: the rules of systemd-nspawn, over stacks of layers, without leaving them."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from roost.trees import problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOADER = "/lib64/ld-linux-x86-64.so.2"


def elf(interpreter: str = "") -> bytes:
    """The beginning of a 64-bit little-endian program (elf(5)): a file header, and a program header when it has a loader."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = 1 if interpreter else 0
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    raw = interpreter.encode() + b"\0"
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(raw), len(raw), 1)
    return ident + header + segment + raw


WHOLE: dict[str, bytes | str | None] = {
    "usr/lib/os-release": b"ID=x\n",
    "etc/os-release": "../usr/lib/os-release",
    "usr/sbin/init": "/lib/systemd/systemd",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "sbin": "usr/sbin",
    "usr/lib64/ld-linux-x86-64.so.2": elf(),
    "usr/lib/systemd/systemd": elf(LOADER),
}


def grow(tree: Path, files: Mapping[str, bytes | str | None]) -> str:
    """A tree of files (bytes), links (text) and directories (None)."""
    tree.mkdir(exist_ok=True)
    for name, what in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, str):
            path.symlink_to(what)
        elif what is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(what)
            path.chmod(0o755)
    return str(tree)


def missing(*trees: str) -> dict[str, str]:
    return {one.path: f"{one.needed}: {one.found}" for one in problems(trees)}


def test_a_whole_tree_lacks_nothing(tmp_path: Path) -> None:
    assert problems([grow(tmp_path / "t", WHOLE)]) == ()


def test_an_empty_directory_runs_nothing(tmp_path: Path) -> None:
    assert missing(grow(tmp_path / "t", {})) == {
        "/usr": "run: it is not there",
        "/etc/os-release": "boot: it is not there, nor is /usr/lib/os-release",
        "/sbin/init": "boot: it is not there, nor is /usr/lib/systemd/systemd",
    }


def test_what_runs_need_not_boot(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {"usr": None})
    assert {text.split(":")[0] for text in missing(tree).values()} == {"boot"}
    remedies = [one.remedy for one in problems([tree])]
    assert any("boot = {}" in remedy for remedy in remedies)
    assert any("os-release(5)" in remedy for remedy in remedies)


@pytest.mark.parametrize("init", ["usr/lib/systemd/systemd", "lib/systemd/systemd", "sbin/init", "usr/sbin/init"])
def test_an_init_in_any_of_the_places(tmp_path: Path, init: str) -> None:
    assert missing(grow(tmp_path / "t", {"usr": None, "etc/os-release": b"", init: elf()})) == {}


@pytest.mark.parametrize(
    ("init", "why"),
    [
        (b"#!/bin/nosh\n", "needs /bin/nosh"),
        (elf(LOADER), f"needs {LOADER}, which is not there"),
        ("/nowhere", "link to nothing in this tree"),
        ("init", "link to nothing in this tree"),
        (None, "is no regular file"),
    ],
)
def test_an_init_that_cannot_start_is_none(tmp_path: Path, init: bytes | str | None, why: str) -> None:
    tree = grow(tmp_path / "t", {"usr": None, "etc/os-release": b"", "sbin/init": init})
    assert list(missing(tree)) == ["/sbin/init"]
    assert why in missing(tree)["/sbin/init"]


def test_an_init_that_is_not_executable(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {"usr": None, "etc/os-release": b"", "sbin/init": elf()})
    os.chmod(f"{tree}/sbin/init", 0o644)
    assert "is not executable" in missing(tree)["/sbin/init"]


def test_no_link_is_followed_out_of_the_tree(tmp_path: Path) -> None:
    grow(tmp_path, {"init": elf(), "release": b"ID=x\n"})
    files: dict[str, bytes | str | None] = {
        "usr": None,
        "sbin/init": "../../init",
        "etc/os-release": str(tmp_path / "release"),
    }
    found = missing(grow(tmp_path / "t", files))
    assert set(found) == {"/etc/os-release", "/sbin/init"}
    inside = grow(tmp_path / "u", {**files, "init": elf(), f"{str(tmp_path)[1:]}/release": b"ID=x\n"})
    assert missing(inside) == {}, "'..' ends at the root of the tree, and '/' is that root"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    circle: dict[str, bytes | str | None] = {
        "usr": None,
        "etc/os-release": "b",
        "etc/b": "os-release",
        "sbin/init": "x/../x/../init",
        "sbin/x": "../sbin",
    }
    assert set(missing(grow(tmp_path / "t", circle))) == {"/etc/os-release", "/sbin/init"}


def test_many_links_cost_little(tmp_path: Path) -> None:
    long = "/".join(["a", ".."] * 400)
    assert "/sbin/init" in missing(grow(tmp_path / "t", {"usr": None, "a": None, "sbin/init": f"/{long}/sbin/init"}))


@pytest.mark.parametrize("name", ["proc", "dev", "run", "sys", "etc"])
def test_what_nspawn_mounts_over_is_no_link(tmp_path: Path, name: str) -> None:
    assert f"/{name}" in missing(grow(tmp_path / "t", {"usr": None, name: "/tmp"}))
    assert missing(grow(tmp_path / "u", {"usr": None, name: b""}))[f"/{name}"] == "run: it is no directory"


def test_machine_id_is_a_file(tmp_path: Path) -> None:
    assert "/etc/machine-id" in missing(grow(tmp_path / "t", {**WHOLE, "etc/machine-id": "/etc/hostname"}))


def test_a_stack_is_one_tree(tmp_path: Path) -> None:
    half = {name: what for name, what in WHOLE.items() if "systemd" not in name and name != "lib"}
    below = grow(tmp_path / "base", {name: what for name, what in WHOLE.items() if name not in half or "ld-" in name})
    above = grow(tmp_path / "top", half)
    assert missing(above, below) == {}
    assert "/sbin/init" in missing(above)
    assert "/sbin/init" in missing(below)


def test_what_a_layer_removed_is_not_there(tmp_path: Path) -> None:
    below = grow(tmp_path / "base", WHOLE)
    above = tmp_path / "top"
    grow(above, {"usr/lib/systemd": None})
    os.mknod(above / "usr/lib/systemd/systemd", 0o20000, 0)
    assert set(missing(str(above), below)) == {"/sbin/init"}


def test_a_directory_made_anew_hides_what_was_in_it(tmp_path: Path) -> None:
    below = grow(tmp_path / "base", WHOLE)
    above = grow(tmp_path / "top", {"usr/lib": None})
    assert missing(above, below) == {}
    os.setxattr(f"{above}/usr/lib", "trusted.overlay.opaque", b"y")
    assert set(missing(above, below)) == {"/etc/os-release", "/sbin/init"}


def test_a_file_in_place_of_a_directory_hides_it(tmp_path: Path) -> None:
    below = grow(tmp_path / "base", WHOLE)
    assert missing(grow(tmp_path / "top", {"usr": b""}), below)["/usr"] == "run: it is no directory"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    tree = grow(tmp_path / "t", {"usr": None, "sbin": None, "etc": None})
    os.mkfifo(f"{tree}/sbin/init", 0o755)
    os.mkfifo(f"{tree}/etc/os-release")
    assert missing(tree)["/etc/os-release"] == "boot: it is no regular file"
