"""A mirror of Gentoo as the tests make it: a stage3 with the real portage and this host's programs, an ebuild repository of
a few packages, and binary packages that the real emerge has built and signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from system.rpm_rig import Key, closure, files_of, filesystem, run, without_agent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STAMP = "20261120T170000Z"
STAGE3 = f"stage3-amd64-systemd-{STAMP}.tar.zst"  # xz takes half a minute
BUILDS = "releases/amd64/autobuilds"
POINTER = f"{BUILDS}/latest-stage3-amd64-systemd.txt"
PACKAGES = "releases/amd64/binpackages/23.0/x86-64"
SNAPSHOT = "snapshots/gentoo-latest.tar.xz"

_PROGRAMS = (
    "bash", "coreutils", "python3", "gpg", "gpg-agent", "passwd", "tar", "findutils", "grep", "sed", "mawk", "wget", "util-linux",
    "xz-utils", "zstd", "gzip", "bzip2", "libc-bin", "systemd",
)  # fmt: skip
_PROFILE = {
    "profiles/repo_name": "gentoo\n",
    "profiles/arch.list": "amd64\n",
    "profiles/categories": "app-misc\nsys-apps\n",
    "profiles/eapi": "8\n",
    "profiles/license_groups": "FREE MIT\nEULA none\n",
    "profiles/profiles.desc": "amd64 base stable\n",
    "profiles/base/eapi": "8\n",
    "profiles/base/packages": "*sys-apps/portage\n",
    "profiles/base/make.defaults": 'ARCH="amd64"\nACCEPT_KEYWORDS="amd64"\nCHOST="x86_64-pc-linux-gnu"\nKERNEL="linux"\nELIBC="glibc"\n',
    "metadata/layout.conf": "masters =\nthin-manifests = true\n",
}
_EBUILD = 'EAPI=8\nDESCRIPTION="{0}"\nSLOT="0"\nLICENSE="MIT"\nKEYWORDS="amd64"\nS="${{WORKDIR}}"\n'
_INTO_SHARE = "src_install() {{ insinto /usr/share; echo {0} >{1}; doins {1}; }}\n"
EBUILDS = {
    "app-misc/greeting-1": _INTO_SHARE.format("1", "greeting"),
    "app-misc/greeting-2": _INTO_SHARE.format("2", "greeting"),
    "app-misc/other-1": _INTO_SHARE.format("other", "other"),
    "app-misc/hello-1": 'RDEPEND="app-misc/greeting"\n'
    "src_install() { printf '#!/bin/sh\\ncat /usr/share/greeting /etc/hello-post\\n' >hello; dobin hello; }\n"
    'pkg_postinst() { echo "post of ${PV}" >"${EROOT}/etc/hello-post"; }\n',
}
_INSTALLED = {
    "CATEGORY": "sys-apps", "PF": "portage-3.0.83", "SLOT": "0", "EAPI": "8", "repository": "gentoo", "KEYWORDS": "amd64",
    "LICENSE": "GPL-2", "CONTENTS": "", "COUNTER": "1", "BUILD_TIME": "1700000000", "DEFINED_PHASES": "-", "IUSE": "", "USE": "",
}  # fmt: skip
# Inside the tree, in namespaces of its own: /dev as every session has it.
_ENTER = """mount -t proc proc "$0/proc"
mount -t tmpfs -o mode=0755 none "$0/dev"
for node in null zero urandom random tty; do : >"$0/dev/$node"; mount --bind "/dev/$node" "$0/dev/$node"; done
ln -s /proc/self/fd "$0/dev/fd"
mkdir "$0/dev/shm"
exec chroot "$0" env -i PATH=/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8 "$@"
"""
_UNCONFINED = (
    "-sandbox -usersandbox -userpriv -network-sandbox -pid-sandbox -ipc-sandbox -news -strict -binpkg-logs nostrip"
)


class Gentoo(NamedTuple):
    """A mirror: its directory, the key that signed everything in it, and where it is served."""

    directory: Path
    key: Key
    tree: Path
    url: str = ""
    served: Path = Path()
    asked: Sequence[str] = ()

    def definition(self, more: str = "", *, url: str = "", key: Path | None = None, name: str = "m") -> str:
        """A machine of this mirror."""
        return (
            f'[machines.{name}]\ndistribution = "gentoo"\nrelease = "rolling"\narchitecture = "amd64"\n'
            f'mirror = "{url or self.url}"\nkeyring = "{key or self.key.public}"\n{more}\n'
        )

    def copied(self, place: Path) -> Path:
        """A mirror of one's own to spoil: files are links, and are to be replaced, not written into."""
        subprocess.run(("cp", "-al", self.directory, place), check=True)
        return place

    @contextlib.contextmanager
    def replaced(self, directory: Path) -> Iterator[None]:
        """Serves another directory at the mirror's address."""
        self.served.unlink()
        self.served.symlink_to(directory)
        try:
            yield
        finally:
            self.served.unlink()
            self.served.symlink_to(self.directory)


def wheel(name: str) -> Path:
    """What `make test` has downloaded for the machines of tests (requirements-guests.lock)."""
    [found] = (Path(sys.prefix) / "guests").glob(f"{name}-*.whl")
    return found


def make_mirror(place: Path, key: Key) -> Gentoo:
    """A stage3, a snapshot of the ebuild repository, and binary packages."""
    tree, repository, mirror = place / "tree", place / f"gentoo-{STAMP[:8]}", place / "mirror"
    _make_tree(tree)
    for name, text in _PROFILE.items():
        _write(repository / name, text)
    for name, text in EBUILDS.items():
        package = name.rpartition("-")[0]
        _write(repository / package / f"{name.partition('/')[2]}.ebuild", _EBUILD.format(package) + text)
    build(tree, repository, key, mirror / PACKAGES, *(f"={name}" for name in EBUILDS))
    _archive(tree, mirror / BUILDS / STAMP / STAGE3, ".")
    _archive(repository, mirror / SNAPSHOT, repository.name)
    finish_mirror(mirror, key)
    return Gentoo(mirror, key, tree)


def finish_mirror(mirror: Path, key: Key) -> None:
    """Signs what is signed, as it is now."""
    stage3 = mirror / BUILDS / STAMP / STAGE3
    for path, ending in ((stage3, ".asc"), (mirror / SNAPSHOT, ".gpgsig")):
        sign(key, path, path.with_name(path.name + ending), "--detach-sign")
    with open(stage3, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").hexdigest()
    clearsign(key, stage3.with_name(f"{STAGE3}.DIGESTS"), f"# SHA512 HASH\n{digest}  {STAGE3}\n")
    clearsign(key, mirror / POINTER, f"# Latest as of today\n# ts=1\n{STAMP}/{STAGE3} {stage3.stat().st_size}\n")


def sign(key: Key, path: Path, target: Path, *how: str) -> None:
    """Writes a signature anew."""
    target.unlink(missing_ok=True)
    run("gpg", "--homedir", key.home, "--batch", "--quiet", "--yes", "--armor", "--output", target, *how, path)
    without_agent(key.home)


def clearsign(key: Key, target: Path, text: str) -> None:
    """Writes a text that is signed itself."""
    source = target.with_name("text")
    source.write_text(text)
    sign(key, source, target, "--clearsign")
    source.unlink()


def build(tree: Path, repository: Path, key: Key | None, target: Path, *packages: str) -> None:
    """Binary packages by the real emerge in the tree, signed or not, with their index; the tree stays as it was."""
    place = tree / "var/db/repos/gentoo"
    shutil.copytree(repository, place)
    features, words = _UNCONFINED, {}
    if key:
        shutil.copytree(key.home, tree / "root/sign", ignore=shutil.ignore_patterns("S.*"))
        run("gpg", "--homedir", tree / "root/sign", "--batch", "--quiet", "--check-trustdb")
        listed = run("gpg", "--homedir", key.home, "--batch", "--with-colons", "--list-keys")
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        features += " binpkg-signing"
        words = {
            "BINPKG_GPG_SIGNING_GPG_HOME": "/root/sign", "BINPKG_GPG_VERIFY_GPG_HOME": "/root/sign", "GPG_VERIFY_USER_DROP": "",
            "GPG_VERIFY_GROUP_DROP": "", "BINPKG_GPG_SIGNING_KEY": fingerprint,
        }  # fmt: skip
    env = [f"{name}={value}" for name, value in {"FEATURES": features, **words}.items()]
    _inside(tree, *env, "sh", "-ec", 'for one; do emerge --buildpkgonly --nodeps --quiet "$one"; done', "sh", *packages)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tree / "var/cache/binpkgs", target)
    for name in ("var/db/repos", "root/sign", "var/cache/edb", "var/log", "var/tmp", "var/lib/portage"):
        shutil.rmtree(tree / name, ignore_errors=True)
    for name in ("var/log", "var/tmp"):
        (tree / name).mkdir()


def _inside(tree: Path, *argv: str) -> None:
    run("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "sh", "-ec", _ENTER, tree, *argv)


def _make_tree(tree: Path) -> None:
    tree.mkdir()
    filesystem(tree)
    shutil.rmtree(tree / "etc/dnf")
    for path in files_of(tuple(sorted(closure(_PROGRAMS)))):
        target = tree / path.lstrip("/")
        if not target.exists() and not target.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
    for name, target_name in (("sh", "bash"), ("awk", "mawk"), ("python", "python3")):
        (tree / "usr/bin" / name).symlink_to(target_name)
    _portage(tree)
    for name, text in {
        "etc/os-release": "ID=gentoo\nNAME=Gentoo\n",
        "etc/portage/make.conf": 'CHOST="x86_64-pc-linux-gnu"\n',
        "etc/portage/binrepos.conf/gentoobinhost.conf": "[gentoobinhost]\nsync-uri = http://mirror.invalid/\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nportage:x:250:250::/var/lib/portage/home:/bin/false\n"
        "nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
        "etc/group": "root:x:0:\nportage:x:250:portage\nnogroup:x:65533:\nnobody:x:65534:\n",
        "etc/hostname": "builder\n",
        "usr/share/zoneinfo/Europe/Berlin": "TZif2 of no use\n",
        **{f"var/db/pkg/sys-apps/portage-3.0.83/{key}": f"{value}\n" for key, value in _INSTALLED.items()},
    }.items():
        _write(tree / name, text)
    (tree / "etc/portage/make.profile").symlink_to("../../var/db/repos/gentoo/profiles/base")
    (tree / "run/lock").mkdir(parents=True)


def _portage(tree: Path) -> None:
    """portage from its wheel, where meson installs it: the wheel says that it is only a module of some Python."""
    modules = tree / "usr/lib/python3/dist-packages"
    with zipfile.ZipFile(wheel("portage")) as archive:
        for entry in archive.infolist():
            place, _, rest = entry.filename.partition(".data/data/")
            aim = modules / entry.filename
            if rest.startswith(("share/portage/config/", "lib/")):
                aim = tree / "usr" / rest
            elif rest or ".dist-info/" in place or "/tests/" in place or ".data/" in place:
                continue
            aim.parent.mkdir(parents=True, exist_ok=True)
            aim.write_bytes(archive.read(entry))
            if rest.startswith("lib/"):
                aim.chmod(0o755)
    installation, const = modules / "portage/installation.py", modules / "portage/const.py"
    installation.write_text(installation.read_text().replace('"MODULE" ==', '"SYSTEM" =='))
    text = const.read_text()
    for name, path in (("PORTAGE_BASE_PATH", "/usr/lib/portage"), ("PORTAGE_BIN_PATH", "/usr/lib/portage/bin")):
        text = text.replace(f'{name} = """"""', f'{name} = "{path}"')
    const.write_text(text)
    for name in ("emerge", "portageq", "env-update"):
        (tree / "usr/bin" / name).symlink_to(f"../lib/portage/bin/{name}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _archive(source: Path, target: Path, name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    directory, what = (source, ".") if name == "." else (source.parent, name)
    run(
        "tar",
        "-cf",
        target,
        "-I",
        "zstd -1" if target.suffix == ".zst" else "xz -0",
        "--numeric-owner",
        "-C",
        directory,
        what,
        **dict(os.environ),
    )
