"""The way from a record to nspawn: mounts a machine's tree in a namespace of its own, and says how nspawn is called.

It is the same with and without systemd. What nspawn starts is roost-init, which fills the machine's /run with what it is
given (nspawn would make directories there that belong to nobody) and then becomes the machine's init.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from msgspec import MsgspecError, json
from msgspec.structs import asdict

from roost.boot import firstboot, wiring
from roost.boot.settings import INIT, POWER_OFF, Inside, environment, is_emulated, options, settings
from roost.engine.launch import mount_tree, place_emulator
from roost.engine.spec import Bound, Spec, emulated
from roost.errors import HostError
from roost.host import files, runner, syscalls
from roost.session.overlay import lower_names
from roost.sessions import init_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from roost.boot.record import Booted
    from roost.host.ranges import Range
    from roost.store import Store

MS_SLAVE = 1 << 19  # mount(2)
_INITS = ("usr/lib/systemd/systemd", "lib/systemd/systemd", "sbin/init")  # as nspawn looks for them with --boot
_RESOLVED = "/run/systemd/resolve/"


def spec_of(store: Store, record: Booted, held: Range | None) -> Spec:
    """What is mounted for a machine."""
    directory = store.running_directory(record.name) if record.boot.ephemeral else store.session_directory(record.name)
    return Spec(
        machine=record.name, layers=tuple(store.tree(digest) for digest in reversed(record.layers)), directory=directory,
        mount_point=store.mount_point, init=init_path(), command=(), base=held.base if held else 0,
        userns=held.userns if held else None, volatile=record.boot.ephemeral, network="private",
        emulated=emulated(record.architecture, private_users=record.private_users),
        bound=tuple(Bound(source=b.source, target=b.target, read_only=b.read_only) for b in record.binds),
    )  # fmt: skip


def private_mounts(*, new_processes: bool) -> None:
    """A mount namespace of this process's own, which still sees what the host unmounts: a machine may run for months.

    ``new_processes``: it is the first of a pid namespace, so that /proc has to be another.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | MS_SLAVE)
    if new_processes:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("proc", "/proc", "proc", flags=flags)


def mount_machine(spec: Spec, given: Mapping[str, bytes], *, hosts: str, resolv_conf: bytes) -> Inside:
    """In a private mount namespace: the tree at ``merged`` below the mount point, and the machine's files beside it.

    ``given`` are files below /run, by their path inside. Raises OSError or HostError.
    """
    mount_tree(spec)
    for name, source in (("init", spec.init), ("hosts", hosts)):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        syscalls.mount(source, name, flags=syscalls.MS_BIND)
    place_emulator(spec, always=True)
    with open("resolv.conf", "xb") as stream:  # the machine may write it, as far as this file system is large
        stream.write(resolv_conf)
        os.fchown(stream.fileno(), spec.base, spec.base)
        os.fchmod(stream.fileno(), 0o644)
    os.mkdir("given", 0o755)
    for path, content in given.items():
        place = f"given/{path.removeprefix('/run/')}"
        os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
        if path.endswith(".wants"):  # links to units, one a line
            os.makedirs(place, exist_ok=True)
            for unit in content.decode().split():
                os.symlink(f"../{unit}", f"{place}/{unit}")
            continue
        with open(place, "wb") as stream:
            stream.write(content)
            os.fchown(stream.fileno(), spec.base, spec.base)
            os.fchmod(stream.fileno(), 0o600 if "system-connections" in path else 0o644)
    return look_inside("merged")


def look_inside(tree: str) -> Inside:
    """What a start has to know of a mounted tree. Raises HostError when nothing in it can be its init."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = [path for path in _INITS if _is_executable(root, path)]
        if not found:
            raise HostError(
                "it has no init: none of /sbin/init, /usr/lib/systemd/systemd and /lib/systemd/systemd is there",
                hint="give the machine `boot = {}`, or install one (systemd-sysv), then `roost build`",
            )
        return Inside(init=_kind(root, found[0]), own_resolver=_own_resolver(root), systemd=_systemd_version(root))
    finally:
        os.close(root)


def _is_executable(root: int, path: str) -> bool:
    try:
        fd = syscalls.openat2(path, os.O_PATH, root=root)
    except OSError:
        return False
    try:
        return bool(os.fstat(fd).st_mode & 0o111)
    finally:
        os.close(fd)


def _kind(root: int, path: str) -> str:
    fd = syscalls.openat2(path, os.O_PATH, root=root)
    try:
        real = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)
    return real if real in ("systemd", "busybox") else "other"


def _own_resolver(root: int) -> bool:
    try:
        fd = syscalls.openat2("etc", os.O_PATH, root=root)
    except OSError:
        return False
    try:
        target = os.readlink("resolv.conf", dir_fd=fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return _RESOLVED in f"/{target}"


def _systemd_version(root: int) -> int:
    """From the name of its private library, which is also what nspawn goes by; 0 when there is none."""
    found = [0]
    triplets = [name for name in _names(root, "usr/lib") if "-linux-" in name]  # Debian's, since its 252
    for directory in ("usr/lib", "lib", "usr/lib64", *(f"usr/lib/{name}" for name in triplets)):
        names = _names(root, f"{directory}/systemd")
        found += [int(m[1]) for name in names if (m := re.fullmatch(r"libsystemd-shared-(\d+).*\.so", name))]
    return max(found)


def _names(root: int, directory: str) -> list[str]:
    """What is in a directory of a tree; nothing where there is none."""
    try:
        fd = syscalls.openat2(directory, os.O_PATH | os.O_DIRECTORY, root=root)
    except OSError:
        return []
    try:
        return os.listdir(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def mount_for(store: Store, record: Booted, spec: Spec) -> Inside:
    """In a private mount namespace: mounts a machine with all that it is given. Raises OSError or HostError."""
    hosts = wiring.hosts_file(store, record)
    os.chown(hosts, spec.base, spec.base)
    given = {**wiring.guest_files(store, record), **firstboot.files_of(record.firstboot)}
    if is_emulated(record, spec.emulated.personality):
        given |= POWER_OFF
    return mount_machine(spec, given, hosts=hosts, resolv_conf=wiring.resolv_conf(store, record))


def argv(
    record: Booted, spec: Spec, inside: Inside, *, directory: str, systemd: bool, controllers: Sequence[str] = ()
) -> list[str]:
    """nspawn's command line. With systemd the settings are in the machine's nspawn file, which is read by its name.

    ``controllers`` are those of v1 that the machine may use for limits of its own.
    """
    words = ["systemd-nspawn", "--quiet", "--keep-unit", f"--machine={record.name}", f"--directory={directory}"]
    if spec.base:
        words += [f"--private-users={spec.base}:65536", "--private-users-ownership=off"]
    if systemd:
        return [*words, "--settings=override", "--console=read-only"]
    found = settings(record, spec.mount_point, inside, systemd=False)
    return [
        *words,
        "--register=no",
        "--settings=no",
        "--console=read-only",
        *options(found),
        "--",
        INIT,
        "--boot",
        *controllers,
    ]


def nspawn_environment(record: Booted, inside: Inside) -> dict[str, str]:
    """The variables of nspawn's own."""
    unified = os.path.isdir("/sys/fs/cgroup/unified") or os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return environment(record, inside, unified=unified)


def inside_of(store: Store, record: Booted) -> Inside:
    """What a start has to know of a machine's layers, without a start. Raises HostError as ``look_inside``."""
    known = f"{store.state}/booted/{record.name}/inside.json"
    with contextlib.suppress(OSError, MsgspecError), open(known, "rb") as stream:
        layers, found = json.decode(stream.read(), type=tuple[tuple[str, ...], Inside])
        if layers == record.layers:
            return found
    trees = [store.tree(digest) for digest in reversed(record.layers)]

    def look() -> dict[str, Any]:
        tree = trees[0]
        if len(trees) > 1:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.mount("roost", store.mount_point, "tmpfs", options="mode=0755")
            os.chdir(store.mount_point)
            for name, tree in zip(lower_names(len(trees)), trees, strict=True):  # short names: the options have a limit
                os.mkdir(name)
                syscalls.mount(tree, name, flags=syscalls.MS_BIND)
            os.mkdir("merged")
            syscalls.mount("overlay", "merged", "overlay", options=f"lowerdir={':'.join(lower_names(len(trees)))}")
            tree = "merged"
        return asdict(look_inside(tree))

    found = Inside(**runner.in_child(look))
    with contextlib.suppress(OSError):
        files.write_atomic(known, json.encode((record.layers, found)), staging=f"{store.state}/staging")
    return found
