"""Archives of others: what is in them is unpacked as it is, and nothing of it lands elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from roost.bases import streams
from roost.bases.unpack import unpack
from roost.errors import StoreError
from roost.session.changes import OPAQUE, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One file of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def packed(*entries: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty directory, with a file beside it that nobody may touch."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").write_text("untouched")
    return tmp_path / "tree"


def refused(tree: Path, data: bytes, **more: Any) -> str:
    """Why an archive is refused; nothing beside the tree has changed then."""
    with pytest.raises(StoreError) as caught:
        unpack(io.BytesIO(data), str(tree), **more)
    assert sorted(path.name for path in tree.parent.iterdir()) == ["outside", "tree"]
    assert (tree.parent / "outside").read_text() == "untouched"
    return caught.value.brief


def test_an_archive_is_unpacked_as_it_is(tree: Path) -> None:
    data = packed(
        entry("./", tarfile.DIRTYPE, mode=0o711),
        entry("etc/", tarfile.DIRTYPE, mtime=1000),
        entry("etc/shadow", data=b"secret", mode=0o640, uid=0, gid=42, mtime=2000),
        entry("/bin/sudo", data=b"x", mode=0o4755),
        entry("lib", tarfile.SYMTYPE, linkname="/usr/lib"),
        entry("etc/hard", tarfile.LNKTYPE, linkname="./etc/shadow"),
        entry("run/pipe", tarfile.FIFOTYPE),
        entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("a/very/deep/file", data=b"deep", pax_headers={"SCHILY.xattr.user.one": "two", "SCHILY.xattr.trusted.overlay.opaque": "y"}),
    )  # fmt: skip
    done = unpack(io.BytesIO(data), str(tree))
    assert (done.entries, done.devices) == (9, 1)
    shadow = os.stat(tree / "etc/shadow")
    assert (stat.S_IMODE(shadow.st_mode), shadow.st_gid, shadow.st_nlink, shadow.st_mtime) == (0o640, 42, 2, 2000)
    assert stat.S_IMODE(os.stat(tree).st_mode) == 0o711
    assert os.stat(tree / "etc").st_mtime == 1000
    assert stat.S_IMODE(os.stat(tree / "bin/sudo").st_mode) == 0o4755
    assert os.readlink(tree / "lib") == "/usr/lib"
    assert stat.S_ISFIFO(os.stat(tree / "run/pipe").st_mode)
    assert not (tree / "dev/null").exists()
    assert os.listxattr(tree / "a/very/deep/file") == ["user.one"]


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zst", "none"])
def test_the_compression_is_that_of_the_content(kind: str, tree: Path, tmp_path: Path) -> None:
    import bz2
    import gzip
    import lzma
    import subprocess

    pack: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "none": bytes,
        "zst": lambda data: subprocess.run(("zstd", "-cq"), input=data, capture_output=True, check=True).stdout,
    }  # fmt: skip
    whole = packed(entry("usr/big", data=os.urandom(1 << 20)), entry("usr/last", data=b"last"))
    compressed = pack[kind](whole)

    def opened(data: bytes) -> str:
        raw = streams.Digested(io.BytesIO(data))
        with streams.decompressed(raw) as stream:
            unpack(stream, str(tree))
        return raw.to_the_end()

    import hashlib

    assert opened(compressed) == hashlib.sha256(compressed).hexdigest()
    assert (tree / "usr/last").read_bytes() == b"last"
    from roost.errors import Error

    for cut in (len(compressed) // 2, len(compressed) - 20 if kind != "none" else len(compressed) - 10240):
        with pytest.raises(Error):
            opened(compressed[:cut])


def test_names_that_climb_out_are_refused(tree: Path) -> None:
    assert "climb out" in refused(tree, packed(entry("../outside", data=b"changed")))
    assert "climb out" in refused(tree, packed(entry("a/../../outside", data=b"changed")))
    assert "climb out" in refused(tree, packed(entry("link", tarfile.LNKTYPE, linkname="../outside")))


@pytest.mark.parametrize("target", ["{outside}", "..", "../..", "/", "{above}"])
def test_a_link_out_of_the_tree_leads_into_it(target: str, tree: Path) -> None:
    link = target.format(outside=tree.parent / "outside", above=tree.parent)
    data = packed(
        entry(str(tree.parent).strip("/"), tarfile.DIRTYPE),
        entry("link", tarfile.SYMTYPE, linkname=link),
        entry("link/outside", data=b"changed"),
    )
    with contextlib.suppress(StoreError):
        unpack(io.BytesIO(data), str(tree))
    assert (tree.parent / "outside").read_text() == "untouched"
    assert sorted(path.name for path in tree.parent.iterdir()) == ["outside", "tree"]


def test_a_link_is_replaced_and_not_written_through(tree: Path) -> None:
    outside = tree.parent / "outside"
    unpack(
        io.BytesIO(packed(entry("x", tarfile.SYMTYPE, linkname=str(outside)), entry("x", data=b"changed"))), str(tree)
    )
    assert outside.read_text() == "untouched"
    assert (tree / "x").read_text() == "changed"
    assert not (tree / "x").is_symlink()


def test_hard_links_to_the_outside_are_refused(tree: Path) -> None:
    outside = str(tree.parent / "outside")
    assert "not in the archive" in refused(tree, packed(entry("x", tarfile.LNKTYPE, linkname=outside)))
    through = packed(
        entry("d", tarfile.SYMTYPE, linkname=str(tree.parent)), entry("x", tarfile.LNKTYPE, linkname="d/outside")
    )
    assert "not in the archive" in refused(tree, through)
    to_link = packed(entry("s", tarfile.SYMTYPE, linkname=outside), entry("h", tarfile.LNKTYPE, linkname="s"))
    unpack(io.BytesIO(to_link), str(tree))
    assert (tree / "h").is_symlink()
    assert os.stat(outside).st_nlink == 1


def test_a_device_outside_of_dev_is_refused(tree: Path) -> None:
    assert "is a device" in refused(tree, packed(entry("srv/disk", tarfile.BLKTYPE, devmajor=8)))
    assert "is a device" in refused(tree, packed(entry("x", tarfile.CHRTYPE)))  # 0:0 would hide a name


def test_owners_that_no_session_has_are_refused(tree: Path) -> None:
    assert "owner" in refused(tree, packed(entry("x", uid=100000)))


def test_bombs_are_stopped(tree: Path) -> None:
    assert "more than 100 files" in refused(tree, packed(*(entry(f"f{n}") for n in range(200))), entries=100)
    assert "MiB" in refused(tree, packed(entry("zeros", data=bytes(5 << 20))), size=2 << 20)
    # a sparse file of a terabyte in a few hundred bytes: GNU format 0.1 in pax headers
    sparse = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{(1 << 40) - 1},1"}
    assert "MiB" in refused(tree, packed(entry("hole", data=b"x", pax_headers=sparse)))


def test_headers_without_an_end_are_not_read(tree: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    began = time.monotonic()
    endless = io.BufferedReader(_Endless(header.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(StoreError, match="headers"):
        unpack(endless, str(tree))
    assert time.monotonic() - began < 30


class _Endless(io.RawIOBase):
    def __init__(self, head: bytes) -> None:
        self._head = head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] if self._head else b"x" * len(buffer)
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def test_a_sparse_file_has_its_holes(tree: Path) -> None:
    sparse = {"GNU.sparse.size": str(8 << 20), "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{(8 << 20) - 1},1"}
    unpack(io.BytesIO(packed(entry("hole", data=b"x", pax_headers=sparse))), str(tree))
    info = os.stat(tree / "hole")
    assert (info.st_size, (tree / "hole").read_bytes()[-1:]) == (8 << 20, b"x")
    assert info.st_blocks * 512 < 1 << 20


def test_half_an_archive_is_refused(tree: Path) -> None:
    whole = packed(entry("a", data=b"1" * 5000), entry("b", data=b"2"))
    for cut in (0, 100, 512, 3000, 5632, 5632 + 300, 6144, 6400, 6656):
        refused(tree, whole[:cut])
    broken = bytearray(whole)
    broken[5632 + 20] ^= 0xFF  # in the name of b: its header's checksum
    refused(tree, bytes(broken))
    refused(tree, b"no archive at all" * 100)


@pytest.mark.parametrize(
    "name", ["x" * 300, "d/" * 3000 + "x", "\udcff\udcfe", "new\nline", "\x1b[31m", "a" * 256 + "/b"]
)
def test_hostile_names_are_made_or_refused(name: str, tree: Path) -> None:
    brief = ""
    try:
        unpack(io.BytesIO(packed(entry(name, data=b"x"))), str(tree))
    except StoreError as error:
        brief = error.brief
    assert "\x1b" not in brief
    assert len(brief) < 400


def test_the_same_name_twice(tree: Path) -> None:
    unpack(io.BytesIO(packed(entry("f", data=b"1"), entry("f", data=b"2"))), str(tree))
    assert (tree / "f").read_text() == "2"
    assert "twice" in refused(tree, packed(entry("d", tarfile.DIRTYPE), entry("d/x"), entry("d", data=b"2")))


def test_many_files_take_little_memory_and_time(tree: Path) -> None:
    import resource

    data = packed(*(entry(f"d{n // 1000}/f{n}") for n in range(20000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unpack(io.BytesIO(data), str(tree))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


# -- layers of images


def test_whiteouts_become_those_of_overlayfs(tree: Path, tmp_path: Path) -> None:
    below = tmp_path.parent / f"{tmp_path.name}-below"
    (below / "var/lib").mkdir(parents=True)
    os.chmod(below / "var/lib", 0o750)
    os.chown(below / "var", 5, 6)
    data = packed(
        entry("etc/.wh.gone"), entry("opt/.wh..wh..opq"), entry("opt/new", data=b"x"), entry(".wh..wh.plnk", tarfile.DIRTYPE),
        entry("srv/.wh.again"), entry("srv/again/", tarfile.DIRTYPE), entry("mnt/.wh.file"), entry("mnt/file", data=b"y"),
        entry("var/lib/state", data=b"s"),
    )  # fmt: skip
    unpack(io.BytesIO(data), str(tree), image=True, lowers=[str(below)])
    assert is_whiteout(os.lstat(tree / "etc/gone"))
    assert os.getxattr(tree / "opt", OPAQUE) == b"y"
    assert os.getxattr(tree / "srv/again", OPAQUE) == b"y"
    assert (tree / "mnt/file").read_text() == "y"
    assert sorted(path.name for path in tree.iterdir()) == ["etc", "mnt", "opt", "srv", "var"]
    assert stat.S_IMODE(os.stat(tree / "var/lib").st_mode) == 0o750
    assert (os.stat(tree / "var").st_uid, os.stat(tree / "var").st_gid) == (5, 6)


def test_whiteouts_without_a_name_are_refused(tree: Path) -> None:
    for name in (".wh.", ".wh..", ".wh..."):
        refused(tree, packed(entry(f"a/{name}")), image=True)


def test_whiteouts_mean_nothing_in_a_plain_archive(tree: Path) -> None:
    unpack(io.BytesIO(packed(entry("a/.wh.b", data=b"x"))), str(tree))
    assert (tree / "a/.wh.b").read_text() == "x"


def test_hard_links_to_what_is_in_layers_below_are_copied_up(tree: Path, tmp_path: Path) -> None:
    """A layer that gave an old file a new name has nothing but the new name."""
    top, base = tmp_path.parent / f"{tmp_path.name}-top", tmp_path.parent / f"{tmp_path.name}-base"
    for lower in (top, base):
        (lower / "usr/bin").mkdir(parents=True)
    (base / "usr/bin/sudo").write_bytes(b"old" * 1_000_000)
    os.chown(base / "usr/bin/sudo", 5, 6)
    os.chmod(base / "usr/bin/sudo", 0o4750)
    os.setxattr(base / "usr/bin/sudo", "user.one", b"1")
    os.utime(base / "usr/bin/sudo", ns=(1, 2_000_000_000))
    (base / "usr/bin/link").symlink_to("sudo")
    for name in ("gone", "hidden/file", "opaque/file"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("below")
    os.mknod(top / "gone", stat.S_IFCHR, 0)
    (top / "opaque").mkdir()
    os.setxattr(top / "opaque", OPAQUE, b"y")
    lowers = [str(top), str(base)]
    data = packed(
        entry("opt/first", tarfile.LNKTYPE, linkname="usr/bin/sudo"),
        entry("opt/second", tarfile.LNKTYPE, linkname="/usr/bin/sudo"),
        entry("opt/link", tarfile.LNKTYPE, linkname="usr/bin/link"),
    )
    unpack(io.BytesIO(data), str(tree), image=True, lowers=lowers)
    info = os.stat(tree / "usr/bin/sudo")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_nlink, info.st_mtime) == (5, 6, 0o4750, 3, 2)
    assert os.path.samefile(tree / "usr/bin/sudo", tree / "opt/second")
    assert (tree / "opt/first").read_bytes() == b"old" * 1_000_000
    assert os.getxattr(tree / "opt/first", "user.one") == b"1"
    assert os.readlink(tree / "opt/link") == "sudo"
    for name in ("gone", "opaque/file", "hidden/file", "usr/none", "usr/bin", "../base/hidden/file"):
        (tree / "again").mkdir(exist_ok=True)
        before = entry("hidden", data=b"x")
        with pytest.raises(StoreError, match=r"link to|climb out"):
            unpack(
                io.BytesIO(packed(before, entry("x", tarfile.LNKTYPE, linkname=name))),
                str(tree / "again"), image=True, lowers=lowers,
            )  # fmt: skip
    with pytest.raises(StoreError, match="not in the archive"):  # a plain archive has nothing below it
        unpack(
            io.BytesIO(packed(entry("x", tarfile.LNKTYPE, linkname="usr/bin/sudo"))), str(tree / "again"), lowers=lowers
        )
