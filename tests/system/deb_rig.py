"""A mirror of Debian and Ubuntu releases, made by the real tools: signed, with this host's own programs in tiny packages.

There is no network to Ubuntu's. The packages have the names that mmdebstrap and debootstrap ask for; what they hold is this
host's apt, dpkg and shadow, so that the layers above a base are made by a real apt inside it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from system.rpm_rig import closure, files_of, run, without_agent  # what this host has is the same for both

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DIRECTORIES = (
    "boot", "dev", "home", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/lib/dpkg", "var/lib/apt", "var/log", "var/cache",
    "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "opt", "etc/apt/apt.conf.d", "etc/apt/trusted.gpg.d",
    "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/dpkg/dpkg.cfg.d", "var/lib/dpkg/info",
)  # fmt: skip
_TOP = ("bin", "sbin", "lib", "lib64")
_USERS = "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n"
_ACCOUNTS = {
    "etc/passwd": _USERS + "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nadm:x:4:\ntty:x:5:\ndialout:x:20:\nshadow:x:42:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:18000:0:99999:7:::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
}
_BASIC = ("libc-bin", "tar", "bash", "dpkg", "coreutils", "sed", "grep", "findutils", "diffutils")
_WITHOUT = frozenset(
    {"base-files", "perl", "perl-base", "debconf", "init-system-helpers", "debianutils", "adduser", "gnupg"}
)


class Key(NamedTuple):
    """A key that signs: GnuPG's directory, the file with its public part, and when it was good (seconds, 0: now)."""

    home: Path
    public: Path
    when: int = 0


@contextmanager
def throwaway_key(name: str, place: Path, *, expired: bool = False) -> Iterator[Key]:
    """A key that is gone afterwards; ``expired``: it was good in the first month of 2020 alone."""
    home = Path(tempfile.mkdtemp(prefix="roost-gpg-", dir="/tmp"))  # a socket's path must be short
    when = 1578000000 if expired else 0  # 2020-01-02
    try:
        faked = ("--faked-system-time", f"{when}!") if when else ()
        gpg = ("gpg", "--homedir", home, "--batch", "--quiet", *faked)
        until = "2020-02-01" if expired else "never"
        run(*gpg, "--passphrase", "", "--quick-generate-key", f"{name} <{name}@example.org>", "rsa2048", "sign", until)
        public = place / f"{name}.gpg"
        public.write_text(run(*gpg, "--armor", "--export"))
        without_agent(home)
        yield Key(home, public, when)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def revoke(key: Key) -> None:
    """By the certificate that gpg has made with it; what was signed before stays."""
    faked = ("--faked-system-time", f"{key.when}!") if key.when else ()
    [file] = (key.home / "openpgp-revocs.d").iterdir()
    file.write_text(file.read_text().replace("\n:---", "\n---"))  # the colon is there lest it is taken by mistake
    gpg = ("gpg", "--homedir", key.home, "--batch", "--quiet", *faked)
    run(*gpg, "--import", file)
    key.public.write_text(run(*gpg, "--armor", "--export"))
    without_agent(key.home)


class Archive:
    """A mirror in ``directory``, whose packages are made once and whose suites may be written anew."""

    def __init__(self, directory: Path, work: Path) -> None:
        self.directory = directory
        self._work = work
        self._index: dict[str, str] = {}
        (directory / "pool").mkdir(parents=True)

    @property
    def url(self) -> str:
        """Its address on this disk."""
        return f"file://{self.directory}"

    def adopt(self, other: Archive) -> None:
        """Another's packages, as links: they are to be replaced, not written into."""
        self._index = dict(other._index)
        for path in (other.directory / "pool").iterdir():
            os.link(path, self.directory / "pool" / path.name)

    def package(
        self, name: str, content: Path | None = None, *, version: str = "1", essential: bool = False, priority: str = "required",
        depends: str = "", scripts: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Makes a package of a directory; what a suite calls it."""
        called = f"{name}_{version}"
        tree = self._work / called
        tree.mkdir()
        if content is not None:
            content.rename(tree / "data")
        root = tree / "data"
        (root / "DEBIAN").mkdir(parents=True)
        fields = {
            "Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "nobody <nobody@example.org>",
            "Priority": priority, "Section": "misc", "Essential": "yes" if essential else "", "Depends": depends,
            "Description": name,
        }  # fmt: skip
        control = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
        (root / "DEBIAN/control").write_text(control)
        for script, text in (scripts or {}).items():
            (root / "DEBIAN" / script).write_text(text)
            (root / "DEBIAN" / script).chmod(0o755)
        file = self.directory / f"pool/{called}_amd64.deb"
        run("dpkg-deb", "--root-owner-group", "-Znone", "--build", root, file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        place = f"Filename: pool/{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n"
        self._index[called] = control.replace("Description:", f"{place}Description:")
        shutil.rmtree(tree)
        return called

    def suite(self, name: str, packages: Sequence[str], key: Key | None, *, days: int = 0) -> None:
        """Writes a suite; without a key unsigned. ``days``: how long its Release file is good, from now on."""
        place = self.directory / "dists" / name
        shutil.rmtree(place, ignore_errors=True)
        lines = [f"Origin: Lab\nLabel: Lab\nSuite: {name}\nCodename: {name.partition('-')[0]}\nArchitectures: amd64\n"]
        lines.append("Components: main universe\n")
        now = time.time()
        lines.append(f"Date: {formatdate((key.when if key else 0) or now - 86400 * 30, usegmt=True)}\n")
        if days:
            lines.append(f"Valid-Until: {formatdate(now + 86400 * days, usegmt=True)}\n")
        lines.append("SHA256:\n")
        for component, names in (("main", packages), ("universe", ())):
            file = place / component / "binary-amd64/Packages"
            file.parent.mkdir(parents=True)
            file.write_text("".join(f"{self._index[one]}\n" for one in names))
            content = file.read_bytes()
            lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {file.relative_to(place)}\n")
        (place / "Release").write_text("".join(lines))
        if key:
            faked = ("--faked-system-time", f"{key.when}!") if key.when else ()
            gpg = ("gpg", "--homedir", key.home, "--batch", "--quiet", "--yes", *faked)
            run(*gpg, "--clearsign", "--output", place / "InRelease", place / "Release")
            without_agent(key.home)

    def machine(
        self, distribution: str, release: str, key: Key, more: str = "", *, name: str = "", mirror: str = ""
    ) -> str:
        """A machine of this mirror."""
        return (
            f'[machines.{name or release}]\ndistribution = "{distribution}"\nrelease = "{release}"\narchitecture = "amd64"\n'
            f'components = ["main"]\nmirror = "{mirror or self.url}"\nkeyring = "{key.public}"\n{more}\n'
        )


class Content:
    """Makes what packages bring. ``merged``: everything is below /usr, as in releases since 2021."""

    def __init__(self, place: Path, *, merged: bool) -> None:
        self._place = place
        self._merged = merged

    def written(self, files: Mapping[str, str]) -> Path:
        """Text files: path → content."""
        for name, text in files.items():
            (self._place / name).parent.mkdir(parents=True, exist_ok=True)
            (self._place / name).write_text(text)
            (self._place / name).chmod(0o755 if "bin/" in name else 0o644)
        return self._place

    def of_host(self, debian: set[str]) -> Path:
        """The files of this host's packages."""
        for path in files_of(tuple(sorted(debian)), merged_usr=self._merged):
            target = self._place / path.lstrip("/")
            if path.count("/") > 1 and not target.exists() and not target.is_symlink():  # this host's /bin is a link
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target, follow_symlinks=False)
        return self._place

    def shell(self) -> Path:
        """sh, which is bash here."""
        place = self._place / ("usr/bin" if self._merged else "bin")
        place.mkdir(parents=True)
        (place / "sh").symlink_to("bash")
        return self._place

    def skeleton(self, distribution: str, release: str, version: str) -> Path:
        """The directories, and what the release is called."""
        for name in (*_DIRECTORIES, *(() if self._merged else _TOP)):
            (self._place / name).mkdir(parents=True, exist_ok=True)
        (self._place / "tmp").chmod(0o1777)
        if self._merged:
            for name in _TOP:
                (self._place / name).symlink_to(f"usr/{name}")
        names = f'ID={distribution}\nVERSION_ID="{version}"\nVERSION_CODENAME={release}\n'
        self.written({"usr/lib/os-release": names})
        (self._place / "etc/os-release").symlink_to("../usr/lib/os-release")
        return self._place


def common(archive: Archive, work: Path, *, merged: bool) -> list[str]:
    """The packages that a base is made of but for ``base-files``, and one to install."""
    make = Content(work / "content", merged=merged)
    mark = "2" if merged else "1"
    low = closure(_BASIC, _WITHOUT)
    apt = closure(("apt", "gpgv"), _WITHOUT) - low
    users = closure(("passwd", "login"), _WITHOUT) - low - apt

    def package(name: str, content: Path | None = None, **more: Any) -> str:
        return archive.package(name, content, version=mark, **more)

    return [
        package("base-passwd", make.written(_ACCOUNTS), essential=True),
        package("libc6", make.of_host(low - {"dpkg", "tar"})),
        package("dpkg", make.of_host({"dpkg", "tar"}), essential=True, depends="libc6, dash"),
        package("dash", make.shell(), essential=True, depends="libc6"),
        package("apt", make.of_host(apt), priority="important", depends="libc6"),
        package("passwd", make.of_host(users), priority="optional"),
        *(package(name) for name in ("perl-base", "mawk", "debconf")),
        package(
            "hello", make.written({"usr/bin/hello": "#!/bin/sh\ncat /etc/hello-post\n"}), priority="optional", depends="greeting",
            scripts={"postinst": "#!/bin/sh\nset -e\necho post $1 >/etc/hello-post\n"},
        ),
        package("greeting", priority="optional"),
    ]  # fmt: skip


def with_init(archive: Archive, work: Path) -> list[str]:
    """systemd with all that a login needs, in a layout in which /lib is not /usr/lib."""
    there = closure((*_BASIC, "apt", "gpgv"), _WITHOUT)
    wanted = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "login", "passwd", "util-linux", "mount")
    content = Content(work / "content", merged=False).of_host(closure(wanted, _WITHOUT) - there)
    empty = (archive.package(name, priority="optional") for name in ("dbus", "libpam-systemd", "login"))
    return [archive.package("systemd-sysv", content, priority="optional"), *empty]


def base_files(archive: Archive, work: Path, distribution: str, release: str, version: str, *, merged: bool) -> str:
    """The package in which a release differs from others."""
    content = Content(work / "content", merged=merged).skeleton(distribution, release, version)
    return archive.package("base-files", content, version=f"{version}{distribution}", essential=True)
