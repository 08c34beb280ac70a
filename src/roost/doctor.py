"""What this host can do, found by trying it; each lack with its remedy."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from msgspec import Struct

from roost import repair
from roost.errors import Error, HostError
from roost.host import architectures, cgroups, foreign, idmap, runner, selinux, syscalls
from roost.session.overlay import Overlay, mount_overlay
from roost.store import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from roost.store import Store

_NSPAWN_LEAST = 252
_ROOM_LEAST = 5 << 30  # bytes: a base and its packages for a few releases


class Check(Struct, frozen=True, kw_only=True):
    """One finding: ``state`` ok, warning (works, with less) or failed (does not work); ``remedy`` is empty when ok."""

    name: str
    state: str
    found: str
    remedy: str = ""


def examine(store: Store) -> list[Check]:
    """All checks, in the order in which they matter."""
    if os.geteuid() != 0:
        return [Check(name="root", state="failed", found="not root", remedy="run `sudo roost doctor`")]
    tries: list[tuple[str, Callable[[], Check]]] = [
        ("state", lambda: _state(store)), ("leftovers", lambda: _leftovers(store)),
        ("systemd-nspawn", _nspawn), ("session", lambda: _session(store)),
        ("filters", lambda: _filters(store)), ("control groups", lambda: _groups(store)),
        ("disk limit", lambda: _disk_limit(store)), ("bootstrap", _bootstrap),
        ("machines", _machines), ("private networks", _networks), ("architectures", _architectures), ("disk", lambda: _disk(store)),
        ("SELinux", _selinux),
    ]  # fmt: skip
    checks = [Check(name="root", state="ok", found=f"kernel {os.uname().release}")]
    for name, attempt in tries:
        try:
            checks.append(attempt())
        except (Error, OSError) as e:
            brief = e.brief if isinstance(e, Error) else f"{e.strerror}: {e.filename}"
            remedy = e.hint if isinstance(e, Error) else "see the message"
            checks.append(Check(name=name, state="failed", found=brief, remedy=remedy or "see the message"))
    return checks


def _state(store: Store) -> Check:
    store.prepare()
    return Check(name="state", state="ok", found=store.state)


def _leftovers(store: Store) -> Check:
    """What a crash left; told here, cleared by ``roost.repair``."""
    found = repair.find(store)
    if not found:
        return Check(name="leftovers", state="ok", found="none")
    shown = [f"{item.kind} {item.name}: {item.found}" if item.kind != "process" else item.name for item in found]
    remedies = ["`roost doctor --repair` clears what can be"] if any(item.state == "left" for item in found) else []
    remedies += [f"{item.kind} {item.name}: {item.remedy}" for item in found if item.state == "stays"]
    more = f"; {len(shown) - 5} more" if len(shown) > 5 else ""
    return Check(name="leftovers", state="warning", found="; ".join(shown[:5]) + more, remedy="\n".join(remedies))


def _nspawn() -> Check:
    done = runner.run(runner.Command(argv=("systemd-nspawn", "--version"), timeout=10))
    match = re.search(rb"systemd (\d+)", done.output)
    version = int(match[1]) if match else 0
    if version < _NSPAWN_LEAST:
        return Check(
            name="systemd-nspawn",
            state="failed",
            found=f"version {version}",
            remedy=f"Roost needs {_NSPAWN_LEAST} or newer",
        )
    return Check(name="systemd-nspawn", state="ok", found=f"version {version}")


def _session(store: Store) -> Check:
    """Mounts what a session mounts, id-mapped, and writes into it."""
    base = 0x40000000

    def attempt() -> str:
        with store.staged("doctor") as stage:
            for name in ("tree", "session/upper", "session/work"):
                os.makedirs(f"{stage}/{name}")
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.mount("roost", store.mount_point, "tmpfs")
            os.chdir(store.mount_point)
            for name in ("lower", "rw", "merged"):
                os.mkdir(name)
            userns = idmap.user_namespace(idmap.shifted(base), idmap.shifted(base))
            idmap.mount_mapped(f"{stage}/tree", "lower", userns)
            idmap.mount_mapped(f"{stage}/session", "rw", userns)
            overlay = Overlay(lower=("lower",), upper="rw/upper", work="rw/work", volatile=True)
            mount_overlay(overlay, "merged", owner=base)
            owner = os.stat("merged").st_uid
            os.chdir("/")
            syscalls.umount(store.mount_point, syscalls.MNT_DETACH)
        return "overlay over id-mapped layers" if owner == base else "ids are not mapped"

    found = runner.in_child(attempt)
    ok = found.startswith("overlay")
    return Check(
        name="session", state="ok" if ok else "failed", found=found, remedy="" if ok else "set `private-users = false`"
    )


def _filters(store: Store) -> Check:
    from roost.engine import seccomp
    from roost.engine.spec import Spec
    from roost.sessions import init_path

    spec = Spec(machine="doctor", layers=(), directory="", mount_point=store.mount_point, init=init_path(), command=())
    name = new_id("doctor")  # a machine may be called doctor
    with store.alive(name):
        count = len(seccomp.filters(spec, directory=store.state, name=store.group_of(name)))
    if not count:
        remedy = "sessions start slower, as filtered as ever; a kernel with CONFIG_CHECKPOINT_RESTORE lets Roost reuse nspawn's filters"
        return Check(name="filters", state="warning", found="the kernel does not tell them", remedy=remedy)
    return Check(name="filters", state="ok", found=f"{count} seccomp programs of nspawn's, read once and reused")


def _groups(store: Store) -> Check:
    name = new_id("doctor")
    with store.alive(name):
        group = cgroups.create(store.group_of(name), memory=1 << 30, cpus=1.0, tasks=100)
        cgroups.remove(group)
    kind = "v1 or hybrid" if os.path.isdir(f"{cgroups.MOUNT}/systemd") else "v2"
    if not group.paths:
        remedy = "limits in definitions cannot be enforced here; mount /sys/fs/cgroup writable"
        return Check(name="control groups", state="warning", found="none can be made", remedy=remedy)
    if group.notes:
        lacks = ", ".join(note.partition(":")[0] for note in group.notes)
        reasons = dict.fromkeys(note.partition(": ")[2] for note in group.notes)
        return Check(name="control groups", state="warning", found=f"{kind}; {lacks}", remedy="; ".join(reasons))
    return Check(name="control groups", state="ok", found=f"{kind}, limits on memory, cpus and tasks are enforced")


def _disk_limit(store: Store) -> Check:
    """Makes what limits a session's disk, and mounts it; time and output are limited by Roost itself."""
    from roost.session import disk

    name = "disk limit"
    with store.staged("doctor") as stage:
        if disk.kind(stage) == "quota":
            return Check(name=name, state="ok", found=f"by project quotas of the file system of {store.state}")

        def attempt() -> None:
            made = disk.set_up(stage, disk.LEAST, private_users=False)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
            disk.mount(made.image, store.mount_point, [""])

        try:
            runner.in_child(attempt)
        except (Error, OSError) as e:
            brief, hint = (e.brief, e.hint) if isinstance(e, Error) else (f"{e.strerror}: {e.filename}", "")
            remedy = f"a machine with a limit on disk cannot run here; {hint or 'keep the state on xfs with prjquota'}"
            return Check(name=name, state="warning", found=brief, remedy=remedy)
    return Check(name=name, state="ok", found="by a file system of that size in a file, on a loop device")


def _machines() -> Check:
    """What machines that boot are started by."""
    from roost.boot.units import booted

    found = "by systemd's own units" if booted() else "by a process of Roost's each: this host has no systemd"
    return Check(name="machines", state="ok", found=found)


def _networks() -> Check:
    """Makes a table of rules, and a pair of links, in a network namespace that is gone at once."""
    from roost.network import links

    name = "private networks"
    path = runner.child_env({})["PATH"]
    if not shutil.which("nft", path=path):
        return Check(name=name, state="warning", found="not installed: nftables", remedy="apt install nftables")

    def attempt() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        rules = b"table inet roost {\nchain out {\ntype nat hook postrouting priority srcnat\nmasquerade\n}\n}\n"
        runner.check(runner.run(runner.Command(argv=("nft", "-f", "-"), stdin=rules)))
        links.try_out()

    try:
        runner.in_child(attempt)
    except (Error, OSError) as e:
        brief = e.brief if isinstance(e, Error) else f"{e.strerror}"
        details = (e.details.splitlines() or [""])[-1] if isinstance(e, Error) else ""
        remedy = 'machines need `network = { mode = "host" }` here; the kernel must have nf_tables, nft_masq and veth'
        return Check(name=name, state="warning", found=f"{brief} {details}".strip(), remedy=remedy)
    return Check(name=name, state="ok", found="links and rules can be made")


def _bootstrap() -> Check:
    path = runner.child_env({})["PATH"]
    programs = ("mmdebstrap", "debootstrap", "dnf", "dnf5", "pacman", "apk", "gpgv")
    found = [name for name in programs if shutil.which(name, path=path)]
    if "mmdebstrap" not in found:
        return Check(
            name="bootstrap", state="failed", found=", ".join(found) or "none", remedy="apt install mmdebstrap"
        )
    if "gpgv" not in found:  # apt may have brought another program that does the same for it
        remedy = (
            "apt install gpgv: Gentoo, Alpine and archives with a keyring are checked by it, debootstrap's mirrors too"
        )
        return Check(name="bootstrap", state="warning", found=", ".join(found), remedy=remedy)
    return Check(name="bootstrap", state="ok", found=", ".join(found))


def _architectures() -> Check:
    """By what programs of other processors are run; only what is there and of no use is a lack."""
    name = "architectures"
    words = {
        "native": "by the processor",
        "registered": "by binfmt_misc",
        "own": "by QEMU, which Roost registers itself",
    }
    found: dict[str, list[str]] = {kind: [] for kind in words}
    wrong: list[str] = []
    unusable = foreign.own_instance()
    for one in architectures.PROCESSORS:
        if one == architectures.of_host():
            continue
        try:
            way = foreign.find(one)
        except HostError:
            reason = foreign.registered_wrongly(one)
            wrong += [reason] if reason.partition(" ")[2].startswith("in binfmt_misc") else []
            continue
        if way.emulator and unusable:
            wrong += [unusable, foreign.registered_wrongly(one)]
        else:
            found["own" if way.emulator else "native" if foreign.runs_natively(one) else "registered"].append(one)
    said = [f"{words[kind]}: {' '.join(names)}" for kind, names in found.items() if names]
    if not found["own"] and not found["registered"] and not wrong:
        said.append("others need an emulator: the package qemu-user-static, since Debian 13 qemu-user-binfmt")
    remedy = "\n".join(dict.fromkeys([*wrong, foreign.remedy("arm64")])) if wrong else ""
    return Check(name=name, state="warning" if wrong else "ok", found="; ".join(said), remedy=remedy)


def _disk(store: Store) -> Check:
    info = os.statvfs(store.state)
    free = info.f_bavail * info.f_frsize
    found = f"{free / (1 << 30):.1f} GiB free, {info.f_favail} inodes"
    if free < _ROOM_LEAST:
        return Check(
            name="disk",
            state="warning",
            found=found,
            remedy="`roost gc` removes what is not used; --state DIR moves everything",
        )
    return Check(name="disk", state="ok", found=found)


def _selinux() -> Check:
    """What it refused to machines since the host has started; `roost doctor --apply` installs what would allow it."""
    name = "SELinux"
    found = selinux.find()
    if found.state == "disabled":
        return Check(name=name, state="ok", found="disabled")
    said = [found.state, *found.problems]
    if found.unread:
        said.append(f"{found.unread} denials that cannot be read")
    said += dict.fromkeys(f"left out: {selinux.described(one)}; {why}" for one, why in found.left)
    if not found.module:
        done = ["what it refused is allowed since by the module roost"] if found.taken else []
        state = "warning" if found.problems else "ok"
        remedy = "run it where the audit log can be read" if found.problems else ""
        return Check(name=name, state=state, found="; ".join([*said, *done]), remedy=remedy)
    refused = dict.fromkeys(selinux.described(one) for one, _ in found.taken)
    verb = "refused" if found.state == "enforcing" else "would be refused if it were enforcing"
    return Check(
        name=name, state="warning", found="; ".join([*said, f"{len(refused)} {verb}", *refused]),
        remedy=f"`roost doctor --apply` installs this module, and no more is allowed than was refused:\n{found.module}",
    )  # fmt: skip
