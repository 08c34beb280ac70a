"""System calls that Python does not have, under the kernel's names; an OSError with the path when one fails.

Constants are those of Linux's include/uapi headers, the same on every architecture; system call numbers above 424 are
too (arch/*/syscall.tbl share them since Linux 5.1).

Each call that changes something outside this process raises an audit event (PEP 578) before it, as Python's own do for
what they change: docs/design.md lists them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
_AGAIN = 1000  # openat2(2): tries, when the kernel cannot be sure that a path stayed inside

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_SET_SECUREBITS = 28
SECCOMP_MODE_FILTER = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_DETACH = 17
PTRACE_SECCOMP_GET_FILTER = 0x420C

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_CLONE3 = 435
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_QUOTACTL_FD = 443

_libc = ctypes.CDLL(None, use_errno=True)
_libc_holding_gil = ctypes.PyDLL(None, use_errno=True)
_libc_holding_gil.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.syncfs.argtypes = (ctypes.c_int,)
_libc.personality.argtypes = (ctypes.c_ulong,)
_libc.setfsuid.argtypes = (ctypes.c_uint,)
_libc.setfsgid.argtypes = (ctypes.c_uint,)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long
_libc.syscall.restype = ctypes.c_long


def _check(result: int, name: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def mount(source: str, target: str, fstype: str = "", *, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    sys.audit("roost.mount", target, source, fstype)
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), fstype.encode(), flags, os.fsencode(options)),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    sys.audit("roost.umount", target)
    _check(_libc.umount2(os.fsencode(target), flags), target)


def unshare(flags: int) -> None:
    """unshare(2)."""
    sys.audit("roost.unshare", flags)
    _check(_libc.unshare(flags))


def clone3(flags: int, *, cgroup: int = 0) -> int:
    """clone3(2) as fork(2): 0 in the child, which goes on as this interpreter does after os.fork().

    Only for a process with one thread: the C library is not told, and would leave another thread's locks held.
    """
    sys.audit("roost.clone3", flags)
    # struct clone_args, linux/sched.h: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    # set_tid_size, cgroup
    arguments = struct.pack("11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _libc_holding_gil.syscall(_SYS_CLONE3, arguments, ctypes.c_size_t(len(arguments)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, os.strerror(code))
    return pid


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    sys.audit("roost.setns", kind)
    _check(_libc.setns(fd, kind))


def personality(kind: int) -> None:
    """personality(2)."""
    sys.audit("roost.personality", kind)
    _check(_libc.personality(kind))


def syncfs(fd: int) -> None:
    """syncfs(2): everything dirty in the file system of ``fd`` reaches the disk."""
    sys.audit("roost.syncfs", fd)
    _check(_libc.syncfs(fd))


def prctl(option: int, value: int) -> None:
    """prctl(2) with one number."""
    _check(_libc.prctl(option, value, None, 0, 0))


def set_name(name: str) -> None:
    """The name that ps shows for this process, at most 15 bytes."""
    text = ctypes.create_string_buffer(os.fsencode(name)[:15])
    _check(_libc.prctl(PR_SET_NAME, ctypes.addressof(text), None, 0, 0))


def set_fs_ids(uid: int, gid: int) -> None:
    """setfsuid(2) and setfsgid(2) of this thread."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def open_tree(path: str, *, clone: bool = True, dir_fd: int = AT_FDCWD, recursive: bool = False) -> int:
    """open_tree(2): a descriptor of a (cloned, unattached) mount of ``path``; an empty path means ``dir_fd`` itself."""
    sys.audit("roost.open_tree", path)
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return _check(_libc.syscall(_SYS_OPEN_TREE, dir_fd, os.fsencode(path), flags), path)


def move_mount(fd: int, target: str) -> None:
    """move_mount(2): attaches the mount ``fd`` at the path ``target``."""
    sys.audit("roost.move_mount", target)
    result = _libc.syscall(_SYS_MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    _check(result, target)


def mount_setattr(fd: int, *, attributes: int, userns_fd: int | None = None, name: str = "") -> None:
    """mount_setattr(2) on the mount ``fd``; with a ``userns_fd`` its ids are mapped as that namespace maps them."""
    sys.audit("roost.mount_setattr", name)
    # struct mount_attr, linux/mount.h: attr_set, attr_clr, propagation, userns_fd
    attr = struct.pack("QQQQ", attributes | (0 if userns_fd is None else MOUNT_ATTR_IDMAP), 0, 0, userns_fd or 0)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, attr, ctypes.c_size_t(len(attr))), name)


def openat2(path: str, flags: int, *, root: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """openat2(2): opens ``path`` as if the directory ``root`` were /; no link in it leads out.

    Magic links (/proc/self/fd and the like) are never followed. Raises OSError.

    The kernel gives up with EAGAIN on a ``..`` when anything is renamed or mounted on the host meanwhile.
    """
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not flags & os.O_PATH:
        sys.audit("open", path, None, flags)  # as of os.open
    # struct open_how, linux/openat2.h: flags, mode, resolve
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve | RESOLVE_NO_MAGICLINKS)
    found = -1
    for _ in range(_AGAIN):
        found = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), how, ctypes.c_size_t(len(how)))
        if found >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
        os.sched_yield()
    return _check(found, path)


def quotactl_fd(fd: int, command: int, identity: int, block: bytearray) -> None:
    """quotactl_fd(2): quotactl(2) on the file system of ``fd``; ``block`` is given to it and filled by it."""
    sys.audit("roost.quotactl", command, identity)
    address = (ctypes.c_char * len(block)).from_buffer(block)
    _check(_libc.syscall(_SYS_QUOTACTL_FD, fd, ctypes.c_uint(command), ctypes.c_uint(identity), address))


def install_seccomp_filter(program: bytes) -> None:
    """Installs a classic BPF program (an array of struct sock_filter) for this process and its children.

    Needs CAP_SYS_ADMIN; sets no_new_privs neither here nor there.
    """
    sys.audit("roost.seccomp", len(program))
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog, linux/filter.h: the number of instructions (eight bytes each), and where they are
    prog = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(prog), 0, 0))


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """ptrace(2)."""
    sys.audit("roost.ptrace", request, pid)
    return _check(_libc.ptrace(request, pid, address, data))


def seccomp_filter_of(pid: int, index: int) -> bytes:
    """The ``index``-th seccomp program of the stopped tracee ``pid``, the oldest first.

    Raises OSError: ENOENT past the last, EINVAL or ENODEV where the kernel cannot tell (no CONFIG_CHECKPOINT_RESTORE).
    """
    length = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, index, 0)
    code = ctypes.create_string_buffer(length * 8)
    ptrace(PTRACE_SECCOMP_GET_FILTER, pid, index, ctypes.addressof(code))
    return code.raw
