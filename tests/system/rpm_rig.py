"""A mirror of rpm distributions, made by the real tools: signed packages and metadata, with Debian's own programs in them.

There is no network to a real one. The packages have the names that the recipes ask for; what they hold is this host's
bash, dnf, rpm, shadow and systemd, so that the layers above a base are made by a real dnf inside it.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from system.rig import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPEC = """
Name: {name}
Version: {version}
Release: 1
Summary: {name}
License: MIT
AutoReqProv: no
{relations}
%description
{name}
%install
mkdir -p %{{buildroot}}
cp -a {content}/. %{{buildroot}}/
{scripts}
%files
{files}
"""
_QUIET = {
    "__os_install_post": "%{nil}",
    "_build_id_links": "none",
    "debug_package": "%{nil}",
    "_binary_payload": "w0.ufdio",
    "__brp_mangle_shebangs": "%{nil}",
}
# What dpkg and its friends bring is not needed to run a program.
_WITHOUT = frozenset({
    "base-files", "perl", "perl-base", "debconf", "dpkg", "tar", "init-system-helpers", "debianutils", "apt", "ucf",
    "sensible-utils", "gnupg",
})  # fmt: skip
_BASIC = ("dnf", "rpm", "bash", "libc-bin", "gpg")
_NOT_NEEDED = re.compile(
    r"/usr/share/(doc|man|locale|info|bash-completion|zsh|lintian)/|/usr/lib/file/|/gconv/|/etc/(dnf|init\.d)/|/(test|lib2to3|idlelib)/"
)
_FILESYSTEM = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\nwheel:x:10:\n",
    "etc/shadow": "root:*:18000:0:99999:7:::\nnobody:*:18000:0:99999:7:::\n",
    "etc/gshadow": "root:*::\nnobody:*::\nwheel:*::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/dnf/dnf.conf": "[main]\ngpgcheck=1\n",
}
_DIRECTORIES = (
    "boot", "dev", "home", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/lib", "var/log", "var/cache", "usr/bin", "usr/sbin",
    "usr/lib", "usr/lib64", "usr/share", "opt", "etc/pki/rpm-gpg", "etc/yum.repos.d",
)  # fmt: skip
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_UPSTREAM = "[{0}]\nname={0} of long ago\nmirrorlist=http://mirror.invalid/{0}\ngpgcheck=0\n"


class Key(NamedTuple):
    """A throwaway key: GnuPG's directory, and the file with its public part."""

    home: Path
    public: Path


class Mirror(NamedTuple):
    """A mirror: its directory, and the key that signed everything in it."""

    directory: Path
    key: Key

    @property
    def url(self) -> str:
        """Its address on this disk."""
        return f"file://{self.directory}"

    def definition(self, distribution: str, release: str, more: str = "", name: str = "m", mirror: str = "") -> str:
        """A machine of this mirror."""
        return (
            f'[machines.{name}]\ndistribution = "{distribution}"\nrelease = "{release}"\narchitecture = "amd64"\n'
            f'mirror = "{mirror or self.url}"\nkeyring = "{self.key.public}"\n{more}\n'
        )

    def copied(self, place: Path) -> Mirror:
        """One of its own to spoil: files are links, and are to be replaced, not written into."""
        subprocess.run(("cp", "-al", self.directory, place), check=True)
        return Mirror(place, self.key)


def run(*argv: str | Path, **more: str) -> str:
    """A program's output; it must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **more}, check=False)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def throwaway_key(name: str, place: Path) -> Iterator[Key]:
    """A key that is gone afterwards, with the agent that GnuPG starts for it. (A socket's path must be short.)"""
    home = Path(tempfile.mkdtemp(prefix="roost-gpg-", dir="/tmp"))
    try:
        gpg = ("gpg", "--homedir", home, "--batch", "--quiet")
        run(
            *gpg, "--passphrase", "", "--quick-generate-key", f"{name} <{name}@example.org>", "rsa2048", "sign", "never"
        )
        public = place / f"RPM-GPG-KEY-{name}"
        public.write_text(run(*gpg, "--armor", "--export"))
        without_agent(home)
        yield Key(home, public)
    finally:
        shutil.rmtree(home, ignore_errors=True)


# -- packages


class Workshop:
    """Makes packages."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._made = 0

    def make(
        self, name: str, version: str = "1", *, files: Path | None = None, requires: str = "", provides: str = "", scripts: str = ""
    ) -> Path:  # fmt: skip
        """An unsigned package, from a directory with what it brings."""
        self._made += 1
        top = self._place / str(self._made)
        content = files or top / "content"
        content.mkdir(parents=True, exist_ok=True)
        found = []
        for directory, names, others in os.walk(content):
            below = Path("/") / Path(directory).relative_to(content)
            links = [one for one in names if os.path.islink(f"{directory}/{one}")]
            found += [str(below / one) for one in (*others, *links)]
            if not names and not others and directory != str(content):
                found.append(f"%dir {below}")
        relations = {"Requires": requires, "Provides": provides}
        text = _SPEC.format(
            name=name, version=version, content=content, scripts=scripts,
            relations="\n".join(f"{word}: {names}" for word, names in relations.items() if names),
            files="\n".join("%attr(-,root,root) " + one if " " not in one else one for one in found),
        )  # fmt: skip
        top.mkdir(exist_ok=True)
        (top / "spec").write_text(text)
        defines = [
            word for key, value in {**_QUIET, "_topdir": str(top)}.items() for word in ("--define", f"{key} {value}")
        ]
        run("rpmbuild", "-bb", "--quiet", "--target", "x86_64", *defines, top / "spec")
        [made] = top.glob("RPMS/*/*.rpm")
        shutil.rmtree(top / "BUILDROOT", ignore_errors=True)
        return made

    def small(
        self, name: str, version: str = "1", *, requires: str = "", provides: str = "", scripts: str = "", **files: str
    ) -> Path:
        """A package with a few text files: path with ``__`` for ``/``, → text; those in usr/bin are programs."""
        content = self._place / f"small-{name}-{version}"
        for path, text in {f"usr__share__{name}": f"{version}\n", **files}.items():
            file = content / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755 if "usr/bin" in str(file) else 0o644)
        return self.make(name, version, files=content, requires=requires, provides=provides, scripts=scripts)

    def of_host(self, name: str, debian: Sequence[str], without: Sequence[str] = (), requires: str = "") -> Path:
        """A package with the files of Debian's packages and of all that they need, at their merged places."""
        content = self._place / f"host-{name}"
        for path in files_of(tuple(sorted(closure(debian) - closure(without)))):
            target = content / path.lstrip("/")
            if not target.exists() and not target.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target, follow_symlinks=False)
        for link, aim in {"dnf": {"usr/bin/dnf": "dnf-3"}, "zypper": {"usr/bin/gpg2": "gpg"}}.get(name, {}).items():
            (content / link).unlink(missing_ok=True)
            (content / link).symlink_to(aim)
        return self.make(name, files=content, requires=requires)


@cache
def _installed() -> dict[str, list[str]]:
    """Debian's packages → for each thing that they need, the first that there is."""
    listed = run("dpkg-query", "-W", "-f", "${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n")
    needs: dict[str, str] = {}
    provided: dict[str, str] = {}
    for line in listed.splitlines():
        name, provides, depends = line.split("\t")
        needs[name] = depends
        provided |= {re.split(r"[ (]", one.strip())[0]: name for one in provides.split(",") if one.strip()}
    found = {}
    for name, depends in needs.items():
        groups = [[re.split(r"[ :(]", one.strip())[0] for one in group.split("|")] for group in depends.split(",")]
        known = [[one if one in needs else provided.get(one, "") for one in group] for group in groups]
        found[name] = [one for group in known for one in [next((one for one in group if one), "")] if one]
    return found


def closure(names: Sequence[str], without: frozenset[str] = _WITHOUT) -> set[str]:
    """Debian's packages and all that they need, as this host has them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in found and name not in without:
            found.add(name)
            waiting += _installed()[name]
    return found


def files_of(names: tuple[str, ...], *, merged_usr: bool = True) -> list[str]:
    """What Debian's packages bring, but for documentation; else than with ``merged_usr`` as it is called in them."""
    listed = run("dpkg", "-L", *names).splitlines()
    found = set()
    for path in listed:
        if not path.startswith("/") or _NOT_NEEDED.search(f"{path}/") or not os.path.lexists(path):
            continue
        folder = os.path.dirname(path)
        merged = os.path.join(os.path.realpath(folder) if merged_usr else folder, os.path.basename(path))
        if os.path.islink(merged) or os.path.isfile(merged):
            found.add(merged)
    compiled = {f"{os.path.dirname(path)}/__pycache__" for path in found if path.endswith(".py")}
    found |= {str(path) for directory in compiled for path in Path(directory).glob("*.pyc")}
    return sorted(found)


def filesystem(place: Path) -> Path:
    for name in _DIRECTORIES:
        (place / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        (place / name).symlink_to(target)
    for name, text in _FILESYSTEM.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / "etc/shadow").chmod(0o600)
    return place


def tools(place: Path) -> Path:
    """busybox for what coreutils does; a shell that is bash comes with dnf's package."""
    target = place / "usr/bin"
    target.mkdir(parents=True)
    shutil.copy2(BUSYBOX, target / "busybox")
    listing = run(BUSYBOX, "--list").split()
    without = {
        "busybox",
        "sh",
        "bash",
        "rpm",
        "rpm2cpio",
        "dpkg",
        "init",
        "su",
        "login",
        "passwd",
        "chpasswd",
        "mount",
        "umount",
    }
    for name in set(listing) - without:
        (target / name).symlink_to("busybox")
    (target / "sh").symlink_to("bash")
    return place


# -- repositories


def without_agent(home: Path) -> None:
    """Ends the agent that GnuPG has started."""
    subprocess.run(("gpgconf", "--homedir", home, "--kill", "all"), check=True)


def sign(key: Key, *packages: Path) -> None:
    """Signs packages where they are."""
    words = {"_gpg_name": "example.org", "_gpg_path": str(key.home), "__gpg": "/usr/bin/gpg"}
    defines = [word for name, value in words.items() for word in ("--define", f"{name} {value}")]
    run("rpm", *defines, "--addsign", *packages, GNUPGHOME=str(key.home))
    without_agent(key.home)


def index(key: Key, repository: Path) -> None:
    """Writes a repository's metadata, signed."""
    run("createrepo_c", "--quiet", "--cachedir", key.public.parent / "checksums", repository)
    data = repository / "repodata/repomd.xml"
    run("gpg", "--homedir", key.home, "--batch", "--quiet", "--yes", "--armor", "--detach-sign", data)
    without_agent(key.home)


FEDORA = ("releases/{0}/Everything/x86_64/os", "updates/{0}/Everything/x86_64")
CENTOS_8 = tuple(f"8.5.2111/{name}/x86_64/os" for name in ("BaseOS", "AppStream", "extras", "PowerTools"))
CENTOS_7 = tuple(f"7.9.2009/{name}/x86_64" for name in ("os", "updates", "extras"))


LEAP = ("distribution/leap/15.6/repo/oss", *(f"update/leap/15.6/{name}" for name in ("oss", "sle", "backports")))


def make_opensuse(place: Path, key: Key) -> Mirror:
    """Leap 15.6, with zypper."""
    shop = Workshop(place / "shop")
    (place / "shop").mkdir()
    needed = ("zypper", "libsolv-tools", "rpm", "bash", "libc-bin", "gpg")
    moved = {"etc__rpm__macros": "%_dbpath /usr/lib/sysimage/rpm\n"}
    packages = [
        shop.make("filesystem", files=filesystem(place / "filesystem")),
        shop.make("coreutils", files=tools(place / "tools"), requires="filesystem", provides="/bin/sh"),
        shop.of_host("zypper", needed, requires="coreutils"),
        shop.of_host("shadow", ("passwd", "login"), needed, requires="zypper"),
        shop.of_host("systemd", ("systemd", "systemd-sysv"), (*needed, "passwd"), requires="zypper"),
        shop.small("ca-certificates-mozilla"),
        shop.small("openSUSE-release", "15.6", **moved, **_release("opensuse", "15.6")),
        *_greeting(shop),
        shop.small("other"),
    ]
    updates = [shop.small("greeting", "2")]
    sign(key, *packages, *updates)
    mirror = place / "mirror"
    for path, content in zip(LEAP, (packages, updates, [], []), strict=True):
        _repository(mirror / path, content, key)
    return Mirror(mirror, key)


def _greeting(shop: Workshop) -> tuple[Path, Path]:
    """One package that needs another, and does something when it is installed."""
    script = "%post\necho post of $1 >/etc/hello-post\n"
    program = "#!/bin/sh\ncat /usr/share/greeting /etc/hello-post\n"
    return shop.small("hello", requires="greeting", scripts=script, usr__bin__hello=program), shop.small("greeting")


def make_mirror(place: Path, key: Key) -> Mirror:
    """Fedora 32 and 40, CentOS 7 and 8, and what goes wrong with some of their packages."""
    shop = Workshop(place / "shop")
    (place / "shop").mkdir()
    macros = {"etc__rpm__macros": "%_dbpath /var/lib/rpm\n"}
    moved = {"etc__rpm__macros": "%_dbpath /usr/lib/sysimage/rpm\n"}
    common = [
        shop.make("filesystem", files=filesystem(place / "filesystem")),
        shop.make("coreutils", files=tools(place / "tools"), requires="filesystem", provides="/bin/sh"),
        shop.of_host("dnf", _BASIC, requires="coreutils"),
        shop.of_host("shadow-utils", ("passwd", "login"), _BASIC, requires="dnf"),
        shop.small("passwd", requires="shadow-utils"),
        shop.of_host("systemd", ("systemd", "systemd-sysv"), (*_BASIC, "passwd"), requires="dnf"),
        shop.small("glibc-langpack-en"),
        shop.small("glibc-minimal-langpack"),
        *_greeting(shop),
        shop.small("other"),
        shop.small("dbus"),
        shop.small("util-linux"),
        shop.small("tzdata", usr__share__zoneinfo__Europe__Berlin="TZif2 of no use\n"),
        shop.small("sudo", usr__bin__sudo="#!/bin/sh\n", usr__bin__visudo="#!/bin/sh\n"),
    ]  # fmt: skip
    updates = [shop.small("greeting", "2")]
    releases = {
        "fedora": {
            one: [shop.small("fedora-release", one, provides=f"system-release = {one}", **where, **_release("fedora", one))]
            for one, where in (("32", macros), ("40", moved))
        },
        "centos": {
            "8": [shop.small("centos-linux-release", "8", provides="system-release = 8", **macros, **_release("centos", "8"))],
            "7": [shop.small("centos-release", "7", provides="system-release = 7", **macros, **_release("centos", "7")),
                  shop.small("yum", usr__bin__yum='#!/bin/sh\nexec dnf-3 "$@"\n', requires="dnf")],
        },
    }  # fmt: skip
    sign(key, *common, *updates, *(one for family in releases.values() for many in family.values() for one in many))
    mirror = place / "mirror"
    for one in ("32", "40"):
        main, second = (path.format(one) for path in FEDORA)
        _repository(mirror / main, [*common, *releases["fedora"][one]], key)
        _repository(mirror / second, updates, key)
    for one, paths in (("8", CENTOS_8), ("7", CENTOS_7)):
        _repository(mirror / paths[0], [*common, *releases["centos"][one]], key)
        _repository(mirror / paths[1], updates, key)
        for path in paths[2:]:
            _repository(mirror / path, [], key)
    return Mirror(mirror, key)


def _release(name: str, version: str) -> dict[str, str]:
    return {
        "etc__os-release": f'ID={name}\nVERSION_ID={version}\nPLATFORM_ID="platform:{name[0]}{version}"\n',
        f"etc__yum.repos.d__{name}.repo": _UPSTREAM.format(name),
    }


def _repository(place: Path, packages: Sequence[Path], key: Key) -> None:
    (place / "Packages").mkdir(parents=True)
    for package in packages:
        os.link(package, place / "Packages" / package.name)
    index(key, place)


# -- a mirror with a name


class Served(NamedTuple):
    """A mirror that is reached by http: its address, and what was asked of it."""

    url: str
    asked: list[str]


HOST_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def self_signed(place: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 with its key, for ``served``; and without, as those who trust it have it."""
    certificate, bundle = place / "server.pem", place / "trusted.crt"
    subject = ("-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "30", "-nodes")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", certificate, "-out", bundle)
    certificate.write_text(certificate.read_text() + bundle.read_text())
    return certificate, bundle


def bound(source: Path, target: str) -> tuple[str, ...]:
    """What a command begins with that sees something else of the host at ``target``."""
    script = f'mount --bind {source} {target} && exec "$@"'
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")


@contextlib.contextmanager
def served(directory: Path, login: str = "", certificate: Path | None = None) -> Iterator[Served]:
    """Serves a directory on this computer alone, to who says ``login`` (USER:PASSWORD) when there is one.

    With a ``certificate`` (of 127.0.0.1, with its key) by https.
    """
    asked: list[str] = []
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: object) -> None:
            super().__init__(*words, directory=str(directory))  # type: ignore[arg-type]  # what socketserver gives

        def do_GET(self) -> None:
            asked.append(self.path)
            if wanted and self.headers["Authorization"] != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with contextlib.suppress(ConnectionError):  # who asked was content with less
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Served(f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
