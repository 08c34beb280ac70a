"""What SELinux refused to machines, and exactly the policy module that would allow it.

Denials are the kernel's records of the access vector cache, as auditd, dmesg(1) and ausearch(8) show them
(https://github.com/SELinuxProject/selinux-notebook, auditing.md). They are read only where nobody but the kernel and root
can write: the audit log and the kernel's own messages, never the journal's free text.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from roost.host import runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENFORCE = "sys/fs/selinux/enforce"
AUDIT_LOG = "var/log/audit/audit.log"
MODULE = "roost"
LOG_MOST = 16 << 20
"""Bytes of the audit log, its end; auditd starts a new one at 8 MiB unless it is told otherwise."""
LINE_MOST = 16384

_DENIED = re.compile(r"avc:\s+denied\s+\{([^{}]*)\}\s+for\s+(.*)")
_FIELD = re.compile(r"""(\w+)=("[^"]*"|[^\s'"]+)""")
_CLASS = re.compile(r"\btclass=\w+['\s]+\w")  # at the end of a line it may be a part of a longer word
_EVENT = re.compile(r"audit\((\d+(?:\.\d+)?):(\d+)\)")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")  # a dot: a type in a block of CIL
_HEX = re.compile(r"(?:[0-9A-F]{2})+")
_ALLOW = re.compile(r"\(allow (\S+) (\S+) \((\w+) \(([\w ]+)\)\)\)")

_MACHINED = re.compile(r"systemd_(?:machined|nspawn)(?:_\w+)?_t")
"""The types of systemd-machined and systemd-nspawn, and of their files, in Fedora's policy and in the reference policy."""
_PROGRAMS = ("systemd-nspawn", "systemd-machined", "machinectl")
_NAMES = ("systemd-nspawn", "systemd-machine")
"""How the kernel calls them: 15 characters of a name that every process may change."""
_MANAGERS = frozenset({
    "init_t", "unconfined_service_t", "unconfined_t", "system_dbusd_t", "policykit_t", "NetworkManager_t", "firewalld_t",
    "systemd_logind_t", "systemd_networkd_t", "systemd_resolved_t", "systemd_hostnamed_t",
})  # fmt: skip
"""Who has business with machined. A web server that was refused its socket has none, whoever else drove it there."""


class Denial(Struct, frozen=True, kw_only=True):
    """One refusal. ``source`` and ``target`` are types, ``target`` "self" when they are the same.

    ``comm`` is what the process calls itself, ``exe`` its program by the kernel's word (empty: the record does not say),
    ``object`` a path or name, ``when`` seconds since the epoch (0: not said), ``ranges`` both MLS ranges, if any.
    """

    source: str
    target: str
    kind: str
    permissions: tuple[str, ...]
    comm: str = ""
    exe: str = ""
    object: str = ""
    when: float = 0.0
    permissive: bool = False
    ranges: tuple[str, str] = ("", "")


class Read(Struct, frozen=True, kw_only=True):
    """What a log says. ``unread`` lines are denials that cannot be told apart from something forged, or are cut off."""

    denials: tuple[Denial, ...]
    unread: int


class Findings(Struct, frozen=True, kw_only=True):
    """``state`` disabled, permissive or enforcing. ``taken`` and ``left`` are denials with the reason for it.

    ``module`` is the text that allows ``taken`` and what the installed module allows already; empty when that is nothing
    new. ``problems``: logs that cannot be read.
    """

    state: str
    taken: tuple[tuple[Denial, str], ...] = ()
    left: tuple[tuple[Denial, str], ...] = ()
    unread: int = 0
    module: str = ""
    problems: tuple[str, ...] = ()


Rules = dict[tuple[str, str, str], frozenset[str]]
"""(source, target, class) → permissions."""


def state(root: str = "/") -> str:
    """Whether SELinux is disabled, permissive or enforcing (selinuxfs, which is mounted wherever it is on)."""
    try:
        with open(os.path.join(root, ENFORCE), "rb") as stream:
            return "enforcing" if stream.read(1) == b"1" else "permissive"
    except OSError:
        return "disabled"


def parse(text: str) -> Read:
    """The denials of a log, in its order. Lines of anything else are passed over."""
    found: list[tuple[Denial, str]] = []
    programs: dict[str, str] = {}
    unread = 0
    for line in text.splitlines():
        event = _EVENT.search(line[:LINE_MOST])
        serial = f"{event[1]}:{event[2]}" if event else ""
        if "type=SYSCALL" in line and serial:
            exe = re.search(r'\bexe=("[^"]*"|\S+)', line)
            programs[serial] = _decoded(exe[1]) if exe and line.count(" exe=") == 1 else ""
        elif "avc:" in line and "denied" in line:
            denial = _denial(line, float(event[1]) if event else 0.0)
            if denial is None:
                unread += 1
            else:
                found.append((denial, serial))
    return Read(denials=tuple(_with_program(one, programs.get(serial, "")) for one, serial in found), unread=unread)


def _denial(line: str, when: float) -> Denial | None:
    """None for what is cut off or ambiguous.

    The kernel writes a name with a quote or a space in hexadecimal. Programs (USER_AVC) write what they were given, so
    that a second ``scontext=`` may be a caller's: such a line decides nothing.
    """
    match = _DENIED.search(line)
    once = all(line.count(f"{key}=") == 1 for key in ("scontext", "tcontext", "tclass"))
    if match is None or not once or len(line) > LINE_MOST or not _CLASS.search(match[2]):
        return None
    fields: dict[str, str] = dict(_FIELD.findall(match[2]))
    permissions = match[1].split()
    source, target = _context(fields.get("scontext", "")), _context(fields.get("tcontext", ""))
    kind = fields.get("tclass", "")
    words = [kind, *permissions]
    if source is None or target is None or not permissions or not all(_WORD.fullmatch(word) for word in words):
        return None
    return Denial(
        source=source[0], target="self" if target[0] == source[0] else target[0], kind=kind, permissions=tuple(permissions),
        comm=_decoded(fields.get("comm", "")), object=_decoded(fields.get("path", fields.get("name", ""))), when=when,
        permissive=fields.get("permissive") == "1", ranges=(source[1], target[1]),
    )  # fmt: skip


def _with_program(denial: Denial, exe: str) -> Denial:
    return structs.replace(denial, exe=exe) if exe else denial


def _context(text: str) -> tuple[str, str] | None:
    """The type and the MLS range of user:role:type:range; the range has colons of its own, and not every policy has one."""
    parts = text.split(":", 3)
    if len(parts) < 3 or not _TYPE.fullmatch(parts[2]):
        return None
    return parts[2], parts[3] if len(parts) == 4 else ""


def _decoded(value: str) -> str:
    """A field as it was: quoted, or in hexadecimal when it holds a quote, a space or a control character."""
    if value.startswith('"'):
        return value.strip('"')
    return bytes.fromhex(value).decode(errors="backslashreplace") if _HEX.fullmatch(value) else value


def judge(denial: Denial) -> tuple[bool, str]:
    """Whether a module may allow it, and why; an empty reason: it has nothing to do with machines."""
    program = os.path.basename(denial.exe)
    if _MACHINED.fullmatch(denial.source):
        return (
            True,
            f"{denial.source} is the domain of {'systemd-nspawn' if 'nspawn' in denial.source else 'systemd-machined'}",
        )
    if program in _PROGRAMS:
        return True, f"the process is {denial.exe}"
    if _MACHINED.fullmatch(denial.target):
        if denial.source in _MANAGERS:
            return True, f"{denial.source} has business with machines"
        return False, f"{denial.source} has no business with machines"
    if denial.comm.startswith(_NAMES):
        return False, f"a process of {denial.source} calls itself {denial.comm}, which any may"
    return False, ""


def rules_of(denials: Iterable[Denial]) -> Rules:
    """What was refused, each source, target and class once."""
    found: Rules = {}
    for one in denials:
        key = (one.source, one.target, one.kind)
        found[key] = found.get(key, frozenset()) | frozenset(one.permissions)
    return found


def installed_rules(text: str) -> Rules:
    """The rules of a module that ``module_text`` wrote."""
    found: Rules = {}
    for source, target, kind, permissions in _ALLOW.findall(text):
        key = (source, target, kind)
        found[key] = found.get(key, frozenset()) | frozenset(permissions.split())
    return found


def module_text(rules: Mapping[tuple[str, str, str], frozenset[str]], notes: Iterable[str] = ()) -> str:
    """A module in CIL that allows the rules and nothing else.

    ``cil_gen_require`` is how a module says that it needs a type (libsepol's module_to_cil.c): where the policy has no
    such type, the module is refused as a whole.
    """
    types = sorted({name for source, target, _ in rules for name in (source, target)} - {"self"})
    lines = [f"; {_comment(note)}" for note in notes]
    lines += [f"(typeattributeset cil_gen_require {name})" for name in types]
    lines += [
        f"(allow {source} {target} ({kind} ({' '.join(sorted(permissions))})))"
        for (source, target, kind), permissions in sorted(rules.items())
    ]
    return "".join(f"{line}\n" for line in lines)


def _comment(text: str) -> str:
    """One line of a comment, whatever a process has called itself."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:200])


def described(denial: Denial) -> str:
    """A denial in a line for people."""
    who = f"{denial.exe or denial.comm or 'a process'} ({denial.source})"
    what = f"{denial.kind} {denial.object}".strip()
    text = f"{who} was refused {' '.join(denial.permissions)} on {what} ({denial.target})"
    return "".join(c if c.isprintable() else "?" for c in text)


def find(root: str = "/") -> Findings:
    """What SELinux refused since this host has started, judged. Needs root; never raises for a log that is not there."""
    now = state(root)
    if now == "disabled":
        return Findings(state=now)
    problems: list[str] = []
    read = parse(_logs(root, problems))
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 60
    judged = [(one, *judge(one)) for one in read.denials if not one.when or one.when >= booted]
    taken = tuple((one, why) for one, take, why in judged if take)
    left = tuple((one, why) for one, take, why in judged if not take and why)
    wanted, allowed = rules_of(one for one, _ in taken), installed_rules(_installed()) if taken else {}
    module = ""
    if any(not permissions <= allowed.get(key, frozenset()) for key, permissions in wanted.items()):
        together = {key: wanted.get(key, frozenset()) | allowed.get(key, frozenset()) for key in {*wanted, *allowed}}
        notes = dict.fromkeys(f"{described(one)}: {why}" for one, why in taken)
        notes |= dict.fromkeys(_constrained(one) for one, _ in taken if len(set(one.ranges)) > 1)
        module = module_text(together, notes)
    return Findings(state=now, taken=taken, left=left, unread=read.unread, module=module, problems=tuple(problems))


def _constrained(denial: Denial) -> str:
    first, second = denial.ranges
    return f"ranges differ ({first}, {second}): where an MLS constraint refuses it, no rule helps"


def _logs(root: str, problems: list[str]) -> str:
    text = b""
    try:
        with open(os.path.join(root, AUDIT_LOG), "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_MOST))
            text = stream.read(LOG_MOST)
    except FileNotFoundError:
        pass  # without auditd the kernel's messages have them
    except OSError as e:
        problems.append(f"/{AUDIT_LOG}: {e.strerror}")
    done = runner.run(runner.Command(argv=("dmesg", "--kernel"), timeout=10))
    if done.status != 0:
        problems.append(f"dmesg: {runner.ending(done.status)}")
    return (text + b"\n" + (done.output if done.status == 0 else b"")).decode(errors="backslashreplace")


def _installed() -> str:
    """The module that an earlier call installed; empty when there is none."""
    with tempfile.TemporaryDirectory(prefix="roost-selinux-") as directory:
        argv = ("semodule", "--cil", f"--extract={MODULE}")
        runner.run(runner.Command(argv=argv, cwd=directory, timeout=60))
        try:
            with open(f"{directory}/{MODULE}.cil", encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""


def install(text: str) -> None:
    """Installs the module by semodule(8), in place of an earlier one. Raises HostError or CommandError."""
    with tempfile.TemporaryDirectory(prefix="roost-selinux-") as directory:
        path = f"{directory}/{MODULE}.cil"
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
        runner.check(runner.run(runner.Command(argv=("semodule", "--install", path), timeout=300)))
