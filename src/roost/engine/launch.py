"""The child's side of a run: from a fresh process to nspawn, inside namespaces that vanish with it.

Everything is mounted in a private mount namespace below a tmpfs, and the process is number 1 of a pid namespace of its
own. Whichever process is killed, the kernel ends the container and unmounts all of it; the host never sees a mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time

from roost.engine import moments
from roost.engine.spec import nspawn_argv
from roost.errors import HostError, exhausted
from roost.host import cgroups, files, idmap, runner, syscalls
from roost.session.overlay import Overlay, acting_as, lower_names, mount_overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.engine.spec import Overlaid, Spec
    from roost.host.cgroups import Group
    from roost.host.idmap import Extent

LISTEN_FIRST = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
_PASSWD_MAX = 1 << 20  # bytes: a tree may hold anything
_NOGROUP = 65534
_HIGH = 64  # above every descriptor that is being put in its place


def mount_all(spec: Spec) -> None:
    """Makes a private mount namespace with all that ``spec`` needs, and changes to its mount point.

    Raises OSError or HostError; the namespace goes with the process, so that nothing needs undoing.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    # first of all: process numbers of this pid namespace mean something else in another's /proc
    syscalls.mount("proc", "/proc", "proc", flags=syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    mount_tree(spec)
    runner.die_with_parent()  # again: the kernel forgets it whenever a process's file system ids change (commit_creds)


def mount_tree(spec: Spec) -> None:
    """In a private mount namespace: mounts all that ``spec`` needs, and changes to its mount point."""
    # machines that boot may write a file of it
    syscalls.mount("roost", spec.mount_point, "tmpfs", options="mode=0755,size=64M")
    os.chdir(spec.mount_point)
    names = lower_names(len(spec.layers))
    for name, layer in zip(names, spec.layers, strict=True):
        os.mkdir(name)
        idmap.mount_mapped(layer, name, spec.userns)
    if spec.disk:
        from roost.session import disk  # few sessions have one

        os.mkdir("disk")
        disk.mount(spec.disk, "disk", ["", *(item.name for item in spec.overlaid)])
    os.mkdir("rw")
    idmap.mount_mapped(_written(spec), "rw", spec.userns)
    os.mkdir("merged")
    overlay = Overlay(lower=tuple(names), upper="rw/upper", work="rw/work", volatile=spec.volatile)
    # in a user namespace nobody makes a device, so none in a tree is what it seems
    mount_overlay(overlay, "merged", owner=spec.base, flags=syscalls.MS_NODEV if spec.base else 0)
    if spec.overlaid or spec.bound:
        _mount_given(spec)
    _make_mount_points(spec)


def _written(spec: Spec) -> str:
    """Where the upper directories are."""
    return "disk" if spec.disk else spec.directory


def _mount_given(spec: Spec) -> None:
    """The caller's directories, each with its owner shown as the session's user."""
    uid, gid, _ = account(spec.user)
    for number, item in enumerate(spec.overlaid):
        _mount_overlaid(spec, number, item, *((uid, gid) if item.give else (0, 0)))
    for number, bound in enumerate(spec.bound):
        name = f"b{number}"
        info = _stat_given(bound.source)
        if os.path.isdir(bound.source):
            os.mkdir(name)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        attributes = syscalls.MOUNT_ATTR_RDONLY if bound.read_only else 0
        uids, gids = idmap.only(info.st_uid, uid, spec.base), idmap.only(info.st_gid, gid, spec.base)
        try:
            _mount_as(bound.source, name, uids, gids, attributes=attributes)
        except HostError:  # sockets, devices, file systems without ids: shown as they are
            idmap.mount_mapped(bound.source, name, None, attributes=attributes)


def _stat_given(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise HostError(
            f"{path}, which the session is to show, does not exist", hint="make it, or do without"
        ) from None


def _mount_as(source: str, target: str, uids: Sequence[Extent], gids: Sequence[Extent], *, attributes: int = 0) -> None:
    plain = all(shown == disk for disk, shown, _ in (*uids, *gids))
    userns = None if plain else idmap.user_namespace(uids, gids)
    try:
        idmap.mount_mapped(source, target, userns, attributes=attributes)
    finally:
        if userns is not None:
            os.close(userns)


def _mount_overlaid(spec: Spec, number: int, item: Overlaid, uid: int, gid: int) -> None:
    info = _stat_given(item.source)
    lower, merged, changes = f"ol{number}", f"o{number}", f"rw/{item.name}"
    os.mkdir(lower)
    os.mkdir(merged)
    uids, gids = idmap.given_to(info.st_uid, uid, spec.base), idmap.given_to(info.st_gid, gid, spec.base)
    _mount_as(item.source, lower, uids, gids)
    # the root of an overlay has its upper directory's owner and mode
    upper = f"{_written(spec)}/{item.name}/upper"
    os.chown(upper, uid, gid)
    os.chmod(upper, info.st_mode & 0o7777)
    overlay = Overlay(lower=(lower,), upper=f"{changes}/upper", work=f"{changes}/work", volatile=spec.volatile)
    mount_overlay(overlay, merged, owner=spec.base)


_NSPAWN_OWN = ("/dev/", "/proc/", "/run/", "/sys/")  # file systems that nspawn mounts, and fills itself


def _make_mount_points(spec: Spec) -> None:
    """Makes what nspawn would bind onto: as the host's root it owns nothing that an id-mapped tree can hold."""
    wanted = [("/etc/hosts", False)]
    wanted += [(item.target, True) for item in spec.overlaid]
    wanted += [(item.target, os.path.isdir(item.source)) for item in spec.bound]
    elsewhere = (*_NSPAWN_OWN, "/tmp/") if spec.tmpfs_tmp else _NSPAWN_OWN  # noqa: S108
    root = os.open("merged", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with acting_as(spec.base):
            _make_top(root)
            if spec.network != "none" and _lacks_resolv_conf(root):
                wanted.append(("/etc/resolv.conf", False))
            for target, directory in wanted:
                if not f"{target}/".startswith(elsewhere):
                    make_mount_point(root, target, directory=directory)
    finally:
        os.close(root)


def _make_top(root: int) -> None:
    """The directories that nspawn would make, as the host's root, which it cannot in an id-mapped tree.

    Raises HostError where the tree would lead nspawn out of it, which fills /dev and /run, and reads /etc/machine-id, by
    their paths.
    """
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
        try:
            info = os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=root)
            continue
        if f"/{name}/" in (*_NSPAWN_OWN, "/etc/") and not stat.S_ISDIR(info.st_mode):
            raise _no_mount_point(f"/{name}", "it is not a directory")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat("etc/machine-id", dir_fd=root, follow_symlinks=False).st_mode):
            raise HostError(
                "/etc/machine-id of this machine is not a regular file",
                hint="nspawn would read what it leads to: remove it",
            )
    for name in ("bin", "lib", "sbin"):
        if not _is_there(root, name) and _is_there(root, f"usr/{name}"):
            os.symlink(f"usr/{name}", name, dir_fd=root)


def _lacks_resolv_conf(root: int) -> bool:
    """Also where it is a link into /run, as images for systemd-resolved have it: a session's /run is empty."""
    path = "etc/resolv.conf"
    if not _is_there(root, path):
        return True
    try:
        target = os.readlink(path, dir_fd=root)
    except OSError:  # it is a file
        return False
    if not os.path.normpath(os.path.join("/etc", target)).startswith("/run/"):
        return False
    os.unlink(path, dir_fd=root)
    return True


def _is_there(root: int, name: str) -> bool:
    try:
        os.close(syscalls.openat2(name, os.O_PATH | os.O_NOFOLLOW, root=root))
    except FileNotFoundError:
        return False
    except OSError:  # something else than a directory is on the way
        pass
    return True


def make_mount_point(root: int, target: str, *, directory: bool) -> None:
    """Makes ``target`` below the directory ``root`` unless it exists; no link in the tree leads out of it.

    Raises HostError when the tree has something in its way.
    """
    parts = [part for part in target.split("/") if part]
    try:
        for count in range(1, len(parts) + 1):
            path, wanted = "/" + "/".join(parts[:count]), directory or count < len(parts)
            try:
                there = syscalls.openat2(path, os.O_PATH, root=root)
            except FileNotFoundError:
                _make_at(root, path, directory=wanted)
                continue
            try:
                if stat.S_ISDIR(os.fstat(there).st_mode) != wanted:
                    raise _no_mount_point(path, "it is not a directory" if wanted else "it is a directory")
            finally:
                os.close(there)
    except OSError as e:
        raise _no_mount_point(target, "a link is in its way" if e.errno == errno.EEXIST else e.strerror or "") from e


def _make_at(root: int, path: str, *, directory: bool) -> None:
    above, name = os.path.split(path)
    parent = syscalls.openat2(above, os.O_PATH | os.O_DIRECTORY, root=root)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    finally:
        os.close(parent)


def _no_mount_point(path: str, why: str) -> HostError:
    return HostError(
        f"nothing can be mounted at {path} of this machine: {why}",
        hint="the machine's own tree is like that: make its layer anew, or name another place",
    )


def account(user: str) -> tuple[int, int, str]:
    """User id, group id and home of a name, from the mounted machine's own /etc/passwd.

    A name that is not there is root's here; roost-init, which reads the same in the same way, refuses it.
    """
    number = _id(user)
    wanted = user if number is None else number
    with contextlib.suppress(OSError):
        for line in files.read_inside("merged", "/etc/passwd", most=_PASSWD_MAX).split(b"\n"):
            field = os.fsdecode(line.partition(b"\0")[0]).split(":")
            if len(field) >= 7 and (uid := _id(field[2])) is not None and wanted in (field[0], uid):
                gid = _id(field[3])
                return uid, _NOGROUP if gid is None else gid, field[5] or ("/" if uid else "/root")
    number = wanted if isinstance(wanted, int) else 0
    return number, number, "/" if number else "/root"


def _id(text: str) -> int | None:
    """A user's or group's number as roost-init reads it; None when it is none."""
    if not text.isascii() or not text.isdecimal() or len(text.lstrip("0")) > 5:
        return None
    return int(text) if int(text) < idmap.RANGE else None


def become_nspawn(
    spec: Spec, *, group: Group, go: int, filters: Sequence[bytes], fds: Sequence[int], messages: int, problem: int,
    room: int | None,
) -> None:  # fmt: skip
    """Turns this process, number 1 of its pid namespace, into nspawn with ``fds`` passed on to the payload.

    ``messages`` takes nspawn's own words, ``problem`` the moments of this way (roost.engine.moments); ``room``, a socket,
    a descriptor of where the session writes. Returns, or raises OSError or HostError, only when it could not; it waits for
    a byte from ``go`` before nspawn starts, and gives up at its end.
    """
    mount_all(spec)
    if room is not None:
        _show_room(room)
    _place_files(spec)
    _write("moves", b"")
    cgroups.mask(group, "moves")
    # nspawn keeps locks and sockets by machine name there: ours are private, so names never clash and nothing is left
    os.makedirs("/run/systemd/nspawn", exist_ok=True)
    syscalls.mount("roost", "/run/systemd/nspawn", "tmpfs", options="mode=0755")
    env = {"LISTEN_FDS": str(len(fds)), "LISTEN_PID": "1", "SYSTEMD_NSPAWN_TMPFS_TMP": "1" if spec.tmpfs_tmp else "0"}
    if group.born:
        # cgroup v2 inside wherever the host has it: else nspawn copies the group to v1, and waits for the move
        env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    mounted = time.monotonic()
    if filters:
        env["SYSTEMD_SECCOMP"] = "0"
    for program in filters:
        syscalls.install_seccomp_filter(program)
    # first: one of them may have a number that is about to be given away
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in fds]
    if not spec.terminal:
        os.setsid()  # a key pressed on the caller's terminal is the caller's to handle
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(messages, 1)
        os.dup2(messages, 2)
    for number, fd in enumerate(high, LISTEN_FIRST):
        os.dup2(fd, number, inheritable=True)
    if not os.read(go, 1):  # the parent is gone
        return
    os.write(problem, moments.packed(mounted, time.monotonic()))
    try:
        os.execvpe("systemd-nspawn", nspawn_argv(spec), runner.child_env(env))  # noqa: S606
    except FileNotFoundError:
        raise HostError("systemd-nspawn is not installed", hint="apt install systemd-container") from None


def _show_room(room: int) -> None:
    """Lets the parent, which sees none of our mounts, ask how much is left in the session's own file system."""
    import socket

    fd = os.open("disk", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(fileno=room) as channel:
        socket.send_fds(channel, [b"d"], [fd])
    os.close(fd)


def _place_files(spec: Spec) -> None:
    """What is bound into the container and is no part of its tree."""
    _write("init", b"")
    syscalls.mount(spec.init, "init", flags=syscalls.MS_BIND)
    place_emulator(spec)
    environment = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in spec.env.items())
    _write("environment", environment, owner=spec.base, mode=0o400)
    name = spec.machine.encode()
    _write(
        "hosts",
        b"127.0.0.1 localhost\n127.0.1.1 " + name + b"\n::1 localhost ip6-localhost ip6-loopback\n" + spec.hosts,
        owner=spec.base,
        mode=0o644,
    )
    if spec.network == "private":
        _write("resolv.conf", spec.resolv_conf, owner=spec.base, mode=0o644)
    if not spec.provision:
        return
    os.mkdir("provision", 0o700)
    os.chown("provision", spec.base, spec.base)
    for path, content in spec.provision.items():
        _write(f"provision/{path}", content, owner=spec.base, mode=0o700 if content[:2] == b"#!" else 0o600)


def place_emulator(spec: Spec, *, always: bool = False) -> None:
    """What roost-init registers with the container's own binfmt_misc, in the working directory; ``always``: if only nothing."""
    if spec.emulated.emulator or always:
        _write("emulator", b"")
        _write("binfmt", spec.emulated.registration, owner=spec.base, mode=0o400)
    if spec.emulated.emulator:
        syscalls.mount(spec.emulated.emulator, "emulator", flags=syscalls.MS_BIND)


def _write(path: str, content: bytes, *, owner: int = 0, mode: int = 0o600) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as stream:
        stream.write(content)
        os.fchown(fd, owner, owner)
        os.fchmod(fd, mode)


def describe(error: OSError) -> HostError:
    """What a failed system call of ``mount_all`` means to a person."""
    hints = {
        errno.EPERM: "Roost needs root with all capabilities: run it with sudo, or see `roost doctor`",
        errno.EBUSY: "another session uses the same directory",
        errno.ENOENT: "a layer is gone: `roost build` makes it again",
    }
    if known := exhausted(error):
        return HostError(f"the session could not be set up: {known.brief}", hint=known.hint)
    where = f" at {os.fsdecode(error.filename)}" if error.filename else ""
    brief = f"the session could not be set up: {error.strerror}{where}"
    return HostError(brief, hint=hints.get(error.errno or 0, "`roost doctor` tries what this host can do"))
