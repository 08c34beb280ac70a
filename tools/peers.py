"""The peers of ``make bench-peers``: how each one is configured, and the command line that runs a command with it.

Whatever a tool keeps outside the directory that it was given is covered by a tmpfs in a mount namespace of the
benchmark's own, so that nothing of it reaches the host.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PACKAGES = (
    "podman", "crun", "conmon", "schroot", "debspawn", "sbuild", "mmdebstrap", "debootstrap", "bubblewrap", "uidmap", "zstd",
)  # fmt: skip
RELEASES = ("bullseye", "bookworm", "trixie", "sid")

# What the tools write outside of what they are told: covered in the private mount namespace.
COVERED = (
    "/run/libpod", "/run/crun", "/run/containers", "/run/netns", "/var/lib/containers", "/var/lib/cni", "/etc/cni/net.d", "/dev/shm",
    "/run/systemd/nspawn", "/etc/schroot/chroot.d", "/var/lib/schroot", "/run/schroot", "/var/lib/debspawn", "/var/tmp/debspawn",
)  # fmt: skip

NSPAWN = ("systemd-nspawn", "--keep-unit", "--register=no", "-q")

# sbuild has no verb for a command of one's own in a fresh session; these are the calls that a build makes.
SBUILD = r"""
use strict; use warnings;
use Sbuild::Conf; use Sbuild::Utility ();
my $conf = Sbuild::Conf::new(); my $suite = shift @ARGV;
my $session = Sbuild::Utility::setup('chroot', $suite, $conf) or die "no session";
$session->run_command({ COMMAND => [@ARGV], USER => 'root', DIR => '/', PRIORITY => 0 });
my $status = $? >> 8; Sbuild::Utility::cleanup($conf); exit $status;
"""


class Place:
    """Where everything of one benchmark is: below ``work``, on disk; ``ram`` is a tmpfs for what is thrown away."""

    def __init__(self, work: str, roost: str, definition: str) -> None:
        self.work = work
        self.roost = roost
        self.definition = definition
        self.ram = f"{work}/ram"
        self.architecture = subprocess.run(
            ("dpkg", "--print-architecture"), check=True, capture_output=True, text=True
        ).stdout.strip()

    def tree(self, release: str) -> str:
        """The release's base and compiler as one plain directory."""
        return f"{self.work}/trees/{release}"

    def archive(self, release: str) -> str:
        """The same as a tar file, where sbuild looks for it."""
        return f"{self.work}/cache/sbuild/{release}-{self.architecture}.tar"

    def scratch(self) -> str:
        """A name in the tmpfs that nothing else has."""
        return f"{self.ram}/{os.urandom(4).hex()}"

    def shown(self, argv: Sequence[str]) -> str:
        """A command line for the documentation: directories of this run have names in place of their paths."""
        text = shlex.join(argv).replace(self.roost, "roost").replace(self.definition, "roost.toml")
        text = text.replace(f"{self.work}/trees/", "TREES/").replace(self.ram, "RAM").replace(self.work, "WORK")
        return text.replace(" -f roost.toml", "")


class Way(NamedTuple):
    """One way to run a command: its name, and the command line for a release.

    ``slow``: a run takes seconds, so that few are measured. ``prepare`` makes what the tool needs, once.
    """

    name: str
    argv: Callable[[Place, str, Sequence[str]], tuple[str, ...]]
    package: str
    slow: bool = False
    prepare: Callable[[Place], None] | None = None
    note: str = ""


def _shell(script: str, *words: str) -> tuple[str, ...]:
    return ("sh", "-c", script, "sh", *words)


def _roost(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    return (at.roost, "-f", at.definition, "run", release, "--", *command)


def _nspawn(*options: str) -> Callable[[Place, str, Sequence[str]], tuple[str, ...]]:
    return lambda at, release, command: (*NSPAWN, *options, "-D", at.tree(release), *command)


def _nspawn_overlay(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    upper = at.scratch()
    argv = shlex.join((*NSPAWN, f"--overlay=+/:{upper}/upper:/", "-D", at.tree(release), *command))
    return ("sh", "-c", f"mkdir -p {upper}/upper; {argv}; s=$?; rm -rf {upper}; exit $s")


BWRAP = ("bwrap", "--unshare-all", "--share-net", "--die-with-parent", "--proc", "/proc", "--dev", "/dev")


def _bwrap(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    return (*BWRAP[:4], "--ro-bind", at.tree(release), "/", *BWRAP[4:], "--tmpfs", "/tmp", *command)


# One overlay on a tmpfs in a private mount namespace, by hand; $1 is the tree, $2 an empty directory.
_OVERLAY = (
    'set -e; tree=$1; d=$2; shift 2; mount -t tmpfs tmpfs "$d"; mkdir "$d/u" "$d/w" "$d/m"; '
    'mount -t overlay overlay -o "lowerdir=$tree,upperdir=$d/u,workdir=$d/w" "$d/m"; '
)


def _bwrap_overlay(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    script = f'{_OVERLAY} exec {shlex.join(BWRAP[:4])} --bind "$d/m" / {shlex.join(BWRAP[4:])} "$@"'
    return ("unshare", "--mount", *_shell(script, at.tree(release), f"{at.work}/empty", *command))


def _by_hand(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    script = f'{_OVERLAY} mount -t proc proc "$d/m/proc"; exec chroot "$d/m" "$@"'
    return (
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        *_shell(script, at.tree(release), f"{at.work}/empty", *command),
    )


def _podman(*options: str, rootfs: bool = False) -> Callable[[Place, str, Sequence[str]], tuple[str, ...]]:
    def argv(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
        image = ("--rootfs", f"{at.tree(release)}:O") if rootfs else (f"localhost/{release}",)
        return (
            *podman(at),
            "run",
            "--rm",
            "--network=host",
            "--log-driver=none",
            *_ulimits(),
            *options,
            *image,
            *command,
        )

    return argv


def podman(at: Place) -> tuple[str, ...]:
    """The tool with its directories, the native overlay driver, and no daemon or journal that is not here."""
    store = (f"--root={at.work}/podman/root", f"--runroot={at.ram}/podman", f"--tmpdir={at.ram}/libpod")
    return (
        *_crun_prefix(), "podman", *store, "--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--runtime=crun",
        "--events-backend=none",
    )  # fmt: skip


def _crun_prefix() -> tuple[str, ...]:
    """crun refuses a hybrid cgroup set-up with controllers on v2: there it gets a mount namespace without v2."""
    try:
        mixed = Path("/sys/fs/cgroup/unified/cgroup.controllers").read_text(encoding="ascii").strip()
    except OSError:
        return ()
    return ("unshare", "-m", *_shell('umount /sys/fs/cgroup/unified; exec "$@"')) if mixed else ()


def _ulimits() -> tuple[str, ...]:
    """podman raises these limits by default, which takes CAP_SYS_RESOURCE; without it, those that there are."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    if effective >> 24 & 1:  # CAP_SYS_RESOURCE, linux/capability.h
        return ()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    tasks = min(resource.getrlimit(resource.RLIMIT_NPROC)[1] % (1 << 63), 32768)  # podman has lowered its own by then
    return (f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={tasks}:{tasks}")


def _prepare_podman(at: Place) -> None:
    for release in RELEASES:
        subprocess.run((*podman(at), "import", "-q", at.archive(release), release), check=True, capture_output=True)


def _schroot(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG001
    return ("schroot", "-c", f"bench-{release}", "-d", "/tmp", "--", *command)


def _prepare_schroot(at: Place) -> None:
    for part in ("session", "union/underlay", "union/overlay", "unpack"):
        os.makedirs(f"/var/lib/schroot/{part}", exist_ok=True)
    os.makedirs("/run/schroot/mount", exist_ok=True)
    for release in RELEASES:
        text = f"[bench-{release}]\ntype=directory\ndirectory={at.tree(release)}\nunion-type=overlay\nprofile=minimal\nroot-users=root\n"
        Path(f"/etc/schroot/chroot.d/bench-{release}").write_text(text, encoding="utf-8")


def _sbuild(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    environment = (f"SBUILD_CONFIG={at.work}/sbuild.conf", f"XDG_CACHE_HOME={at.work}/cache")
    return ("env", *environment, "perl", f"{at.work}/session.pl", f"{release}-{at.architecture}", *command)


def _prepare_sbuild(at: Place) -> None:
    Path(f"{at.work}/session.pl").write_text(SBUILD, encoding="utf-8")
    template = f"{at.ram}/sbuild.XXXXXXXXXX"
    text = f"$chroot_mode = 'unshare';\n$unshare_tmpdir_template = '{template}';\n1;\n"
    Path(f"{at.work}/sbuild.conf").write_text(text, encoding="utf-8")


def _mmdebstrap(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    tree = at.scratch()
    unpack = (
        f"mkdir {tree} && tar -C {tree} --exclude=./dev/* -xf {at.archive(release)} && mount -t proc proc {tree}/proc"
    )
    inside = f"{unpack} && chroot {tree} {shlex.join(command)}; s=$?; umount {tree}/proc; rm -rf {tree}; exit $s"
    return ("mmdebstrap", "--unshare-helper", "sh", "-c", inside)


def _debspawn(at: Place, release: str, command: Sequence[str]) -> tuple[str, ...]:
    shim = f"PATH={at.work}/shim:/usr/sbin:/usr/bin:/sbin:/bin"
    return (
        "env",
        shim,
        "debspawn",
        "--config",
        f"{at.work}/debspawn.toml",
        "run",
        "--variant=buildd",
        release,
        "--",
        *command,
    )


def _prepare_debspawn(at: Place) -> None:
    """Its images from the same layers, with the two packages on top that it wants inside; where there is no system
    bus, an nspawn that asks for none."""
    images = f"{at.work}/debspawn/images"
    os.makedirs(images)
    parts = {"OSImagesDir": "images", "ResultsDir": "results", "APTCacheDir": "apt", "InjectedPkgsDir": "injected"}
    lines = [f'{key} = "{at.work}/debspawn/{name}"' for key, name in parts.items()]
    lines += [f'TempDir = "{at.ram}/debspawn"', 'BootstrapTool = "mmdebstrap"']
    Path(f"{at.work}/debspawn.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.makedirs(f"{at.work}/shim")
    bare = os.path.exists("/run/dbus/system_bus_socket")
    options = "" if bare else "--keep-unit --register=no "
    Path(f"{at.work}/shim/systemd-nspawn").write_text(
        f'#!/bin/sh\nexec /usr/bin/systemd-nspawn {options}"$@"\n', encoding="utf-8"
    )
    os.chmod(f"{at.work}/shim/systemd-nspawn", 0o755)
    for release in RELEASES:
        name = f"{release}-buildd-{at.architecture}"
        subprocess.run(
            ("tar", "-C", f"{at.work}/trees/{release}-debspawn", "-I", "zstd -T0 -1", "-cf", f"{images}/{name}.tar.zst", "."),
            check=True,
        )  # fmt: skip
        facts = {
            "Name": name,
            "Suite": release,
            "Architecture": at.architecture,
            "Variant": "buildd",
            "BaseSuite": None,
            "CustomName": None,
        }
        Path(f"{images}/{name}.json").write_text(json.dumps(facts), encoding="utf-8")


UNPACKED = "unpacks a tar file for each run, here into a tmpfs"

WAYS = (
    Way("roost run", _roost, "", note="the command, Python's start included"),
    Way("nspawn -D", _nspawn(), "systemd-container", note="what is written stays in the tree"),
    Way("nspawn -U -D", _nspawn("-U", "--private-users-ownership=map"), "systemd-container", note="what is written stays in the tree"),
    Way("nspawn --volatile=overlay", _nspawn("--volatile=overlay"), "systemd-container"),
    Way("nspawn --overlay", _nspawn_overlay, "systemd-container"),
    Way("nspawn -U --volatile=overlay", _nspawn("-U", "--private-users-ownership=map", "--volatile=overlay"), "systemd-container"),
    Way("nspawn -x", _nspawn("-x"), "systemd-container", slow=True, note="copies the tree (a snapshot on btrfs)"),
    Way("nspawn -x -U", _nspawn("-x", "-U", "--private-users-ownership=map"), "systemd-container", slow=True, note="copies the tree"),
    Way("bwrap", _bwrap, "bubblewrap", note="the tree is read-only, /tmp a tmpfs"),
    Way("bwrap over an overlay by hand", _bwrap_overlay, "bubblewrap", note="bubblewrap before 0.11 has no --overlay"),
    Way("unshare, mount, chroot by hand", _by_hand, "util-linux", note="the floor: a shell, three mounts"),
    Way("podman run", _podman(), "podman", prepare=_prepare_podman),
    Way("podman run, fewest features", _podman("--cgroups=disabled", "--no-hosts", rootfs=True), "podman"),
    Way("podman run --uidmap", _podman("--uidmap=0:1000000:65536"), "podman"),
    Way("schroot, overlay", _schroot, "schroot", prepare=_prepare_schroot, note="profile `minimal`, overlays on a tmpfs"),
    Way("sbuild's unshare mode", _sbuild, "sbuild", slow=True, prepare=_prepare_sbuild, note=UNPACKED),
    Way("mmdebstrap --unshare-helper", _mmdebstrap, "mmdebstrap", slow=True, note=UNPACKED),
    Way("debspawn run", _debspawn, "debspawn", slow=True, prepare=_prepare_debspawn, note=f"{UNPACKED}, and updates it with apt"),
)  # fmt: skip


def make_trees(at: Place, layers: dict[str, list[str]]) -> None:
    """Plain directories of Roost's own layers (machine → trees, topmost first), and tar files of the releases'."""
    os.makedirs(f"{at.work}/cache/sbuild")
    os.makedirs(f"{at.work}/empty")
    for machine, trees in layers.items():
        os.makedirs(at.tree(machine))
        script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && cp -a "$2/." "$3"'
        words = (":".join(trees), f"{at.work}/empty", at.tree(machine))
        subprocess.run(("unshare", "-m", *_shell(script, *words)), check=True)
        if machine in RELEASES:
            subprocess.run(("tar", "-C", at.tree(machine), "-cf", at.archive(machine), "."), check=True)


def versions(at: Place) -> list[tuple[str, str]]:
    """Each package and its version; crun and conmon decide what podman costs."""
    found = []
    for name in ("systemd-container", *PACKAGES):
        done = subprocess.run(("dpkg-query", "-W", "-f=${Version}", name), capture_output=True, text=True, check=False)
        found.append((name, done.stdout.strip() or "not there"))
    store = shutil.which("podman") and subprocess.run(
        (*podman(at), "info", "--format={{.Store.GraphDriverName}}"), capture_output=True, text=True, check=False
    )
    if store:
        found.append(("podman's storage driver", store.stdout.strip()))
    return found
