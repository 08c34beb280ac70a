"""Trees of other processors, as small as they can be: Debian's static busybox of each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from roost.definition.model import Base
from roost.distro import apt_sources, family, recipe
from system.boot_rig import INITTAB
from system.sources_rig import call, make_tree

APT = """
Dir::State "{place}";
Dir::State::status "/dev/null";
Dir::Cache "{place}";
Dir::Etc::sourcelist "{place}/sources";
Dir::Etc::sourceparts "-";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "i386"; }};
APT::Sandbox::User "root";
"""


def mirror() -> str:
    """Where this host has its bookworm from; the security updates there may lack other architectures."""
    base = Base(distribution="debian", release="bookworm", architecture="amd64", components=("main",))
    return apt_sources.resolve(base, recipe("debian"), family("apt").read_host()).lines[0].uri


def busyboxes(cached: str) -> dict[str, Path]:
    """arm64's and i386's, downloaded once by an apt with a configuration of its own."""
    place = Path(cached) / "tests" / "busybox"
    found = {name: place / name for name in ("arm64", "i386")}
    if all(path.exists() for path in found.values()):
        return found
    shutil.rmtree(place, ignore_errors=True)
    for name in ("lists/partial", "archives/partial"):
        (place / name).mkdir(parents=True)
    (place / "sources").write_text(f"deb [signed-by={recipe('debian').keyring}] {mirror()} bookworm main\n")
    (place / "apt.conf").write_text(APT.format(place=place))
    env = {**os.environ, "APT_CONFIG": str(place / "apt.conf")}
    call("apt-get", "--quiet", "update", env=env)
    for name, path in found.items():
        call("apt-get", "--quiet", "download", f"busybox-static:{name}", env=env, cwd=place / "archives")
        (deb,) = (place / "archives").glob(f"busybox-static_*_{name}.deb")
        call("dpkg-deb", "--extract", deb, place / f"{name}.tree")
        os.rename(place / f"{name}.tree/bin/busybox", path)
    shutil.rmtree(place / "lists")
    return found


def tree_of(path: Path, program: Path) -> Path:
    """A tree with that busybox, which can boot by it."""
    make_tree(path)
    shutil.copy(program, path / "bin/busybox")
    for name in ("uname", "sleep", "kill", "dd", "date", "touch", "hostname", "init"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "sbin").mkdir()
    (path / "sbin/init").symlink_to("../bin/busybox")
    (path / "etc/inittab").write_text(INITTAB)
    (path / "etc/rc").write_text("#!/bin/sh\nuname -m > /run/booted-on\n")
    return path
