"""A mirror of Arch, made by pacman's own repo-add: signed packages with Debian's own programs in them.

There is no network to a real one. The packages have the names that the recipe asks for; what they hold is this host's bash,
pacman, gpg, shadow and systemd, so that the layers above a base are made by a real pacman inside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from system.rpm_rig import Key, Mirror, Workshop, filesystem, run, tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CORE, EXTRA = "core/os/x86_64", "extra/os/x86_64"
# As in Arch's archlinux-keyring.
_POPULATE = "post_install() {\n post_upgrade\n}\npost_upgrade() {\n pacman-key --populate archlinux\n}\n"
# Of Debian's makepkg pacman-key needs no more than this.
_PARTS = ("usr/share/makepkg/util/message.sh", "usr/share/makepkg/util/parseopts.sh", "usr/bin/vercmp")
_PROGRAMS = ("pacman-package-manager", "bash", "libc-bin", "gpg", "gpg-agent", "gpgconf")
_INFO = "pkgname = {name}\npkgbase = {name}\npkgver = {version}-1\npkgdesc = {name}\nurl = https://example.org\nbuilddate = 1700000000\n"
_LOCALES = "# what there is\n#en_US.UTF-8 UTF-8  \n#de_DE.UTF-8 UTF-8  \n"


class Packer(Workshop):
    """Makes packages for pacman; ``scripts`` are functions of its install file (PKGBUILD(5))."""

    def make(
        self, name: str, version: str = "1", *, files: Path | None = None, requires: str = "", provides: str = "", scripts: str = ""
    ) -> Path:  # fmt: skip
        """An unsigned package, from a directory with what it brings."""
        content = files or self._place / f"none-{name}-{version}"
        content.mkdir(parents=True, exist_ok=True)
        info = _INFO.format(name=name, version=version) + "packager = Nobody\nsize = 1\narch = x86_64\nlicense = MIT\n"
        info += "".join(f"depend = {one}\n" for one in requires.split())
        info += "".join(f"provides = {one}\n" for one in provides.split())
        if (content / "etc/pacman.conf").exists():
            info += "backup = etc/pacman.conf\n"
        (content / ".PKGINFO").write_text(info)
        if scripts:
            (content / ".INSTALL").write_text(scripts)
        for path in content.iterdir():
            if path.is_symlink() and name != "filesystem":  # two packages cannot bring the same
                path.unlink()
        made = self._place / f"{name}-{version}-1-x86_64.pkg.tar.zst"
        heads = sorted(path.name for path in content.iterdir() if path.name.startswith("."))
        others = sorted(path.name for path in content.iterdir() if not path.name.startswith("."))
        options = ("--uid", "0", "--gid", "0", "--options", "zstd:compression-level=1")
        run("bsdtar", "-c", "--zstd", *options, "-f", made, "-C", content, *heads, *others)
        return made

    def keyring(self, version: str, files: Path) -> Path:
        """The package archlinux-keyring with these files. Debian's pacman-key looks for them in another directory."""
        content = self._place / f"keyring-{version}"
        target = content / "usr/share/pacman/keyrings"
        target.mkdir(parents=True)
        for path in files.parent.glob("archlinux*"):
            shutil.copy(path, target)
        (content / "usr/share/keyrings").symlink_to("pacman/keyrings")
        return self.make("archlinux-keyring", version, files=content, requires="pacman", scripts=_POPULATE)

    def pacman(self) -> Path:
        """pacman itself, with its pacman-key."""
        for path in _PARTS:
            target = self._place / "host-pacman" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(f"/{path}", target)
        return self.of_host("pacman", _PROGRAMS, requires="coreutils")


class Ring:
    """Keys of a test's own, in the directory of another one (whose owner ends its agent)."""

    def __init__(self, key: Key) -> None:
        self._gpg = ("gpg", "--homedir", key.home, "--batch", "--quiet", "--yes", "--passphrase", "")
        self._home = key.home

    def make(self, name: str) -> str:
        """A key; its fingerprint."""
        run(*self._gpg, "--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "default", "never")
        listed = run(*self._gpg, "--with-colons", "--list-keys", f"={name} <{name}@example.org>")
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def certify(self, whom: str, by: Iterable[str]) -> None:
        """Signs a key with others."""
        for one in by:
            run(*self._gpg, "--default-key", one, "--quick-sign-key", whom)

    def export(self, *keys: str) -> bytes:
        """Their public parts."""
        return subprocess.run((*self._gpg, "--export", *keys), check=True, capture_output=True).stdout

    def fingerprint(self, name: str) -> str:
        """That of a key that there is."""
        listed = run(*self._gpg, "--with-colons", "--list-keys", name)
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def sign(self, by: str, *packages: Path) -> None:
        """Writes a signature beside each."""
        for package in packages:
            run(*self._gpg, "--default-key", by, "--detach-sign", "-o", f"{package}.sig", package)
        subprocess.run(("gpgconf", "--homedir", self._home, "--kill", "all"), check=True)


def index(repository: Path, packages: Sequence[Path], *, signatures: bool = True) -> None:
    """Puts packages and their signatures into a repository; ``signatures``: into its list as well, as Arch had it before 2024."""
    repository.mkdir(parents=True, exist_ok=True)
    names = []
    for package in packages:
        for path in (package, Path(f"{package}.sig")):
            if path.exists():
                (repository / path.name).unlink(missing_ok=True)
                os.link(path, repository / path.name)
        names.append(repository / package.name)
    held = repository.parent / "signatures"
    held.mkdir(exist_ok=True)
    if not signatures:
        for path in repository.glob("*.sig"):
            path.rename(held / path.name)
    run("repo-add", "-q", repository / f"{repository.parts[-3]}.db.tar.gz", *names)
    for path in held.glob("*.sig"):
        path.rename(repository / path.name)


def keyring_files(place: Path, ring: Ring, packagers: Sequence[str], masters: Sequence[str], revoked: str = "") -> Path:
    """A keyring as Arch has it: master keys that are trusted, and packagers' keys that these have signed."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "archlinux.gpg").write_bytes(ring.export(*masters, *packagers, *([revoked] if revoked else [])))
    (place / "archlinux-trusted").write_text("".join(f"{one}:4:\n" for one in masters))
    (place / "archlinux-revoked").write_text(f"{revoked}\n" if revoked else "")
    return place / "archlinux.gpg"


def make_arch(place: Path, key: Key, keyring: Path) -> Mirror:
    """Everything that the tests install, signed by ``key``; ``keyring`` is what archlinux-keyring brings."""
    shop = Packer(place / "shop")
    (place / "shop").mkdir(parents=True)
    root = filesystem(place / "filesystem")
    (root / "etc/os-release").write_text('NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n')
    (root / "etc/locale.gen").write_text(_LOCALES)
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    hosts = ("passwd", "login")
    core = [
        shop.make("filesystem", files=root),
        shop.make("coreutils", files=tools(place / "tools"), requires="filesystem", provides="sh"),
        shop.pacman(),
        shop.of_host("shadow", hosts, _PROGRAMS, requires="pacman"),
        shop.of_host("systemd", ("systemd",), (*_PROGRAMS, *hosts), requires="pacman"),
        shop.of_host("systemd-sysvcompat", ("systemd-sysv",), (*_PROGRAMS, *hosts, "systemd"), requires="systemd"),
        shop.keyring("1", keyring),
        shop.make("base", requires="filesystem coreutils pacman shadow archlinux-keyring ca-certificates tzdata"),
        shop.small("tzdata", usr__share__zoneinfo__Europe__Berlin="TZif2 of no use\n"),
        shop.small("ca-certificates", **{"etc__ssl__certs__ca-certificates.crt": "none\n"}),
        shop.small("util-linux"),
    ]
    hello = "#!/bin/sh\ncat /usr/share/greeting /etc/hello-post\n"
    script = "post_install() {\n echo post of $1 >/etc/hello-post\n}\n"
    extra = [
        shop.small("hello", requires="greeting", scripts=script, usr__bin__hello=hello),
        shop.small("greeting"),
        shop.small("other"),
        shop.small("dbus"),
        shop.small("sudo", usr__bin__sudo="#!/bin/sh\n", usr__bin__visudo="#!/bin/sh\n"),
    ]
    Ring(key).sign("lab", *core, *extra)
    mirror = place / "mirror"
    index(mirror / CORE, core)
    index(mirror / EXTRA, extra, signatures=False)
    return Mirror(mirror, key)
