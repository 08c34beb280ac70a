"""How this host runs programs that are made for another processor.

Three ways, the first that works: the processor runs them itself (i386 on amd64); the kernel has an interpreter for them
(binfmt_misc, Documentation/admin-guide/binfmt-misc.rst) that was opened when it was registered, flag F, so that no tree
needs to have it; or the host has QEMU's static emulator, and Roost registers it where it is used and nowhere else: since
Linux 6.7 a user namespace has a binfmt_misc of its own.
"""

from __future__ import annotations

import contextlib
import os

from roost.errors import HostError
from roost.host import architectures, runner
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

REGISTERED = "/proc/sys/fs/binfmt_misc"
OWN_SINCE = "6.7"
_PERSONALITIES = {"i386": "x86"}  # systemd-nspawn(1), --personality=: what uname(2) says
_PER_LINUX32 = 8  # linux/personality.h
_NATIVE = {"amd64": ("i386",), "arm64": ("armhf", "armel")}  # that a processor may have: it is tried
# _exit(0): `mov eax, 1; xor ebx, ebx; int 0x80` and `mov r7, #1; mov r0, #0; svc 0`
_ARM_EXIT = bytes.fromhex("0170a0e30000a0e3000000ef")
_EXITS = {"i386": bytes.fromhex("b80100000031dbcd80"), "armhf": _ARM_EXIT, "armel": _ARM_EXIT}
_MFD_EXEC = 0x10  # linux/memfd.h; since Linux 6.3, where it is wanted if sysctl vm.memfd_noexec is set
_ADDRESS = 0x10000  # where that program is loaded: a page's beginning, however large pages are


class Way(Struct, frozen=True, kw_only=True):
    """How programs of ``architecture`` are run.

    ``personality`` is nspawn's word for that of a processor which runs them itself. ``emulator`` is the path of a static
    emulator that has to be registered where they run; without one nothing has to be done.
    """

    architecture: str
    personality: str = ""
    emulator: str = ""

    @property
    def is_special(self) -> bool:
        """Whether something has to be done for its programs to run as they should."""
        return bool(self.personality or self.emulator)

    def registration(self, path: str) -> bytes:
        """What binfmt_misc is told, for an emulator that is seen at ``path``.

        The flags are those that Debian's packages use: F opens it now, O gives it the program opened, P keeps argv[0].
        Not C, with which a set-user-id program would give its rights to the emulator, and this to who sets its variables.
        """
        processor = architectures.PROCESSORS[self.architecture]
        magic, mask = _header(self.architecture, 2), bytearray(b"\xff" * 20)
        mask[7:16] = b"\0" + b"\xff" * 8  # whatever its operating system's number
        mask[17 if processor.order == "big" else 16] = 0xFE  # ET_EXEC and ET_DYN
        words = [f"qemu-{processor.qemu}", "M", "", _escaped(magic), _escaped(bytes(mask)), path, "FOP"]
        return f":{':'.join(words)}".encode()


def find(architecture: str, *, private_users: bool = True) -> Way:
    """How programs of ``architecture`` are run in containers here; ``private_users``: in a user namespace.

    Raises HostError, with what is missing and how to get it.
    """
    host = architectures.of_host()
    if architecture in ("", host):
        return Way(architecture=architecture)
    if runs_natively(architecture):
        return Way(architecture=architecture, personality=_PERSONALITIES.get(architecture, ""))
    if not (wrong := registered_wrongly(architecture)):
        return Way(architecture=architecture)
    if private_users and (path := emulator(architecture)):
        return Way(architecture=architecture, emulator=path)
    raise _cannot(architecture, [wrong, _lack(architecture) if private_users else _NO_USERS])


_NO_USERS = "Roost registers none itself for `private-users = false`: what it registers is a user namespace's"


def check(architecture: str, *, private_users: bool = True) -> Way:
    """As ``find``, and tries what it can be tried without a program of that architecture: before anything is made."""
    way = find(architecture, private_users=private_users)
    if way.emulator and (wrong := own_instance()):
        raise _cannot(architecture, [registered_wrongly(architecture), wrong])
    return way


def _cannot(architecture: str, why: Sequence[str]) -> HostError:
    return HostError(
        f"this host ({architectures.of_host()}) cannot run programs of {architecture}",
        details="\n".join(filter(None, why)), hint=remedy(architecture),
    )  # fmt: skip


def remedy(architecture: str) -> str:
    """What to do, by what is there already."""
    processor = architectures.PROCESSORS.get(architecture)
    if processor is None:
        return f"architectures are called as Debian calls them: {', '.join(architectures.PROCESSORS)}"
    name = f"qemu-{processor.qemu}"
    line = f"/usr/lib/binfmt.d/{name}.conf"
    if os.path.exists(line):  # the package is there
        if os.path.isdir("/run/systemd/system"):
            return "`systemctl restart systemd-binfmt` registers what is installed"
        mount = "" if os.path.exists(f"{REGISTERED}/register") else f"mount -t binfmt_misc binfmt_misc {REGISTERED} && "
        return f"`{mount}cat {line} > {REGISTERED}/register`"
    return "apt install qemu-user-static (since Debian 13: qemu-user-binfmt)"


def _lack(architecture: str) -> str:
    processor = architectures.PROCESSORS.get(architecture)
    return "" if processor is None else f"there is no static qemu-{processor.qemu}-static, nor qemu-{processor.qemu}"


def runs_natively(architecture: str) -> bool:
    """Whether this processor and kernel run them: found by running one."""
    if architecture not in _NATIVE.get(architectures.of_host(), ()):
        return False
    program = _smallest(architecture)
    try:
        fd = os.memfd_create("roost-try", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("roost-try", os.MFD_CLOEXEC)
    try:
        os.write(fd, program)
        return runner.reap(runner.fork(lambda: _execute(fd))) == 0
    finally:
        os.close(fd)


def _execute(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.execve(fd, ["roost-try"], {})  # noqa: S606
    os._exit(1)


def _smallest(architecture: str) -> bytes:
    """A program that ends at once: a header, one segment, a few instructions."""
    code = _EXITS[architecture]
    size = 52 + 32 + len(code)  # Elf32_Ehdr, Elf32_Phdr
    flags = {"armhf": 0x5000400, "armel": 0x5000200}.get(architecture, 0)  # EABI 5, and how floats are passed
    header = _header(architecture, 2) + b"".join(
        number.to_bytes(width, "little")
        for number, width in (
            (1, 4), (_ADDRESS + 84, 4), (52, 4), (0, 4), (flags, 4), (52, 2), (32, 2), (1, 2), (0, 2), (0, 2), (0, 2)
        )
    )  # fmt: skip
    segment = b"".join(n.to_bytes(4, "little") for n in (1, 0, _ADDRESS, _ADDRESS, size, size, 5, 0x1000))
    return header + segment + code


def _header(architecture: str, kind: int) -> bytes:
    """The first 20 bytes of a program; ``kind`` is its e_type."""
    processor = architectures.PROCESSORS[architecture]
    start = b"\x7fELF" + bytes((processor.bits // 32, 1 if processor.order == "little" else 2, 1)) + bytes(9)
    return start + kind.to_bytes(2, processor.order) + processor.machine.to_bytes(2, processor.order)


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def emulator(architecture: str) -> str:
    """The path of QEMU's emulator, when it needs nothing else of the host; empty when there is none."""
    processor = architectures.PROCESSORS.get(architecture)
    if processor is None:
        return ""
    for name in (f"qemu-{processor.qemu}-static", f"qemu-{processor.qemu}"):
        for directory in runner.PATH.split(":"):
            with contextlib.suppress(OSError), open(f"{directory}/{name}", "rb") as stream:
                head = stream.read(65536)
                if not architectures.interpreter(head) and architectures.of_host() in architectures.of_program(head):
                    return os.path.realpath(stream.name)
    return ""


def registered_wrongly(architecture: str) -> str:
    """Why what the kernel has registered does not run them in a container; empty when it does."""
    if architecture not in architectures.PROCESSORS:
        return ""
    if not os.path.exists(f"{REGISTERED}/register"):
        return f"binfmt_misc is not mounted at {REGISTERED}"
    wrong = "binfmt_misc has no interpreter for them"
    for name in sorted(os.listdir(REGISTERED)):
        if name in ("register", "status"):
            continue
        with contextlib.suppress(OSError), open(f"{REGISTERED}/{name}", encoding="utf-8", errors="replace") as stream:
            found = matches(stream.read(), architecture)
            if found == "":
                return _is_off()
            wrong = f"{name} in binfmt_misc {found}" if found else wrong
    return wrong


def _is_off() -> str:
    with contextlib.suppress(OSError), open(f"{REGISTERED}/status", encoding="ascii") as stream:
        return "" if stream.read().startswith("enabled") else "binfmt_misc is disabled as a whole"
    return ""


def matches(text: str, architecture: str) -> str | None:
    """Whether an entry of binfmt_misc, as its file has it, runs them in any tree: empty; else why not, or None for others'."""
    fields = dict(line.partition(" ")[::2] for line in text.splitlines())
    try:
        magic = bytes.fromhex(fields["magic"])
        mask = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(magic)
        start = int(fields.get("offset", "0"))
    except (KeyError, ValueError):
        return None
    for kind in (2, 3):  # ET_EXEC, ET_DYN
        head = _header(architecture, kind).ljust(128, b"\0")[start : start + len(magic)]
        if len(head) != len(magic) or any((a ^ b) & m for a, b, m in zip(head, magic, mask, strict=False)):
            return None
    if text.startswith("disabled"):
        return "is disabled"
    if "F" not in fields.get("flags:", ""):
        return "is registered without the flag F: its interpreter is looked for in the container, where it is not"
    return ""


def own_instance() -> str:
    """Why a user namespace cannot have a binfmt_misc of its own here; empty when it can."""
    try:
        runner.in_child(lambda: enter(None))
    except OSError as e:
        release = os.uname().release
        return (
            f"Roost cannot register an emulator itself on this kernel ({release}; Linux {OWN_SINCE} can): {e.strerror}"
        )
    return ""


def enter(way: Way | None) -> None:
    """Gives this process, of one thread, a user namespace with the host's own ids, and a binfmt_misc that knows ``way``.

    For what makes trees on the host: on the disk all owners are what they are, but no device can be made.
    """
    from roost.host import idmap, syscalls

    extents = ((0, 0, idmap.RANGE),)
    fd = idmap.user_namespace(extents, extents)
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWUSER)
    finally:
        os.close(fd)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("binfmt_misc", REGISTERED, "binfmt_misc")
    if way is not None:
        with open(f"{REGISTERED}/register", "wb", buffering=0) as stream:
            stream.write(way.registration(way.emulator))


def emulating(way: Way, function: Callable[[], Any]) -> Any:
    """The value of ``function``, called where programs of that architecture are run; see ``runner.in_child``."""

    def work() -> Any:
        from roost.host import syscalls

        if way.personality:
            syscalls.personality(_PER_LINUX32)
        else:
            enter(way)
            runner.die_with_parent()  # again: the credentials are others
        return function()

    return runner.in_child(work) if way.is_special else function()
