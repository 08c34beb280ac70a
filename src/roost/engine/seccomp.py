"""nspawn's own seccomp filters, compiled once instead of at every start.

Four fifths of an nspawn start are libseccomp compiling the same programs again. So a stock nspawn is started once on an
empty tree, the kernel is asked for the programs that its payload runs under (PTRACE_SECCOMP_GET_FILTER), and they are
kept. A session's process installs them and then starts nspawn with SYSTEMD_SECCOMP=0: the payload runs under exactly
the programs that stock nspawn would have given it. The system tests compare the two, call by call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import time
import zlib

from roost.engine.spec import INIT, escape, filter_options
from roost.errors import HostError
from roost.host import cgroups, files, runner, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.engine.spec import Spec

_WALL = 0x40000000  # wait4(2): __WALL, any kind of child or tracee
_LIMIT = 64  # programs; nspawn 252 has five
_LENGTH = struct.Struct("=I")
_TRACED = 2.0  # seconds to wait while somebody else traces it
_PATIENCE = 5  # seconds for a process to stop; one that waits for a disk does not


def filters(spec: Spec, *, directory: str, name: str) -> list[bytes]:
    """The programs for ``spec``, from ``directory`` or made now; empty where the kernel cannot tell them.

    ``name`` is the control group to make them in, for that while.

    With none, nspawn compiles its own as ever: slower, never weaker. Raises HostError when nspawn does not start.
    """
    key = _key(filter_options(spec))
    path = os.path.join(directory, f"seccomp-{zlib.crc32(key):08x}")
    with contextlib.suppress(FileNotFoundError, _Other), open(path, "rb") as stream:
        return _read(key, stream.read())
    programs = [bytes.fromhex(text) for text in runner.in_child(lambda: _capture(spec, name))]
    files.write_atomic(path, _packed([key, *programs]), mode=0o600, staging=f"{directory}/staging")
    return programs


class _Other(Exception):
    """The file is damaged, or of another nspawn."""


def _packed(items: Sequence[bytes]) -> bytes:
    """Each with its length before it, and a checksum before all: read at every start, so nothing that must be imported."""
    data = b"".join(_LENGTH.pack(len(item)) + item for item in items)
    return _LENGTH.pack(zlib.crc32(data)) + data


def _read(key: bytes, packed: bytes) -> list[bytes]:
    items = []
    at = _LENGTH.size
    if len(packed) < at or _LENGTH.unpack_from(packed)[0] != zlib.crc32(packed[at:]):
        raise _Other
    while at < len(packed):
        end = at + _LENGTH.size + _LENGTH.unpack_from(packed, at)[0]
        items.append(packed[at + _LENGTH.size : end])
        at = end
    if items[:1] != [key]:
        raise _Other
    return items[1:]


def filters_of(pid: int) -> list[bytes]:
    """The programs that a process runs under now, the oldest first; it is stopped for that moment.

    Empty where the kernel cannot tell them, or when there are none. Raises HostError, also when it does not stop.
    """
    return [bytes.fromhex(text) for text in runner.in_child(lambda: _programs_soon(pid))]


def _programs_soon(pid: int) -> list[str]:
    signal.alarm(_PATIENCE)  # nothing handles it here: this process ends, and lets go of the other
    deadline = time.monotonic() + _TRACED
    while True:
        try:
            return _programs(pid)
        except PermissionError:  # somebody traces it, perhaps another of us for a moment
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _nspawn() -> str:
    for directory in runner.PATH.split(":"):
        if os.access(path := f"{directory}/systemd-nspawn", os.X_OK):
            return path
    raise HostError("systemd-nspawn is not installed", hint="apt install systemd-container")


def _key(options: tuple[str, ...]) -> bytes:
    """What the programs depend on: nspawn and libseccomp as installed, the kernel, and the options."""
    parts: list[object] = [os.uname().release, os.uname().machine, options]
    library = [f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib64", "/usr/lib"]
    for path in (_nspawn(), *(f"{place}/libseccomp.so.2" for place in library)):
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(path)
            parts.append((path, info.st_ino, info.st_size, info.st_mtime_ns))
    return repr(parts).encode()


def _capture(spec: Spec, name: str) -> list[str]:
    """Starts a stock nspawn in namespaces of its own and reads its payload's programs, as hexadecimal text.

    Runs in a child of its own: the tracee is waited for, and whatever is left ends with the pid namespace.
    """
    reader, writer = os.pipe()
    group = cgroups.create(name)
    pid, born = runner.fork_into(lambda: _stock(spec, group, writer), group.born)
    cgroups.enter(group, pid, born=born)
    try:
        os.close(writer)
        said = b""
        while b"ready" not in said and (block := os.read(reader, 4096)):
            said += block
        if b"ready" not in said:
            raise HostError(
                "systemd-nspawn does not start here", details=said.decode(errors="replace"), hint="see `roost doctor`"
            )
        return _programs(_leaf(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        cgroups.remove(group)


def _stock(spec: Spec, group: cgroups.Group, output: int) -> None:
    runner.die_with_parent()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("proc", "/proc", "proc")
    os.makedirs("/run/systemd/nspawn", exist_ok=True)
    for place in ("/run/systemd/nspawn", spec.mount_point):
        syscalls.mount("roost", place, "tmpfs", options="mode=0755")
    moves = f"{spec.mount_point}/moves"
    os.close(os.open(moves, os.O_CREAT | os.O_WRONLY, 0o600))
    cgroups.mask(group, moves)
    tree = f"{spec.mount_point}/tree"
    os.makedirs(f"{tree}/usr")
    argv = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--settings=no", f"--directory={tree}"]
    argv += ["--machine=roost-seccomp", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"]
    argv += [*filter_options(spec), f"--bind-ro={escape(spec.init)}:{INIT}", "--", INIT, "--pause"]
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # as for sessions: on a host with cgroup v2 alone nspawn would make a hierarchy of v1, and the group in it stays
    env = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"} if group.born else {}
    os.execvpe(argv[0], argv, runner.child_env(env))  # noqa: S606


def _leaf(pid: int) -> int:
    """The youngest descendant: the payload."""
    while True:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
            below = stream.read().split()
        if not below:
            return pid
        pid = int(below[-1])


def _programs(pid: int) -> list[str]:
    syscalls.ptrace(syscalls.PTRACE_SEIZE, pid)
    syscalls.ptrace(syscalls.PTRACE_INTERRUPT, pid)
    os.waitpid(pid, _WALL)
    found: list[str] = []
    try:
        while len(found) < _LIMIT:
            found.append(syscalls.seccomp_filter_of(pid, len(found)).hex())
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.EINVAL, errno.EIO, errno.EACCES):
            raise
        return found if e.errno == errno.ENOENT else []
    finally:
        syscalls.ptrace(syscalls.PTRACE_DETACH, pid)  # a tracee that is killed would wait for its tracer for ever
    return found
