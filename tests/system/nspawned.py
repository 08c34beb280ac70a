"""Machines that boot under a plain systemd-nspawn, in namespaces and a control group that vanish with the test."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from roost.boot import leader as leaders
from roost.engine import launch
from roost.engine.spec import Spec
from roost.host import cgroups, files, runner, syscalls
from roost.sessions import init_path
from roost.store import Store
from system.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from roost.boot.leader import Leader

INITTAB = "::sysinit:/bin/true\n::respawn:/bin/sleep 1000000\n"


class Nspawned(NamedTuple):
    """A machine that runs: its init, its nspawn, the host id of its root, its group, and what it said on its console."""

    leader: Leader
    nspawn: int
    base: int
    group: cgroups.Group
    console: Path


BUSYBOX_INIT = {"/sbin/init": "-> /bin/busybox", "/etc/inittab": INITTAB}
"""What the tiny tree lacks to boot."""


@contextlib.contextmanager
def nspawned(
    state: str, layers: Sequence[str], *, private_users: bool = True, options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None, memory: int | None = None, files_in: Mapping[str, str] | None = None,
) -> Iterator[Nspawned]:  # fmt: skip
    """Boots the trees ``layers``, the top one first; gone at the end, with all that was changed in it.

    ``files_in`` are links to make (``-> TARGET``) and files to write before it boots.
    """
    store = Store(state)
    store.prepare()
    name = f"machine-{os.urandom(4).hex()}"
    directory = f"{state}/{name}"
    for part in ("", "upper", "work"):
        os.mkdir(f"{directory}/{part}", 0o755)
    for path, text in (files_in or {}).items():
        _write(f"{directory}/upper{path}", text)
    held = store.ranges.take(name) if private_users else None
    spec = Spec(
        machine=name, layers=tuple(layers), directory=directory, mount_point=store.mount_point, init=init_path(), command=(),
        base=held.base if held else 0, userns=held.userns if held else None, network="none",
    )  # fmt: skip
    console = Path(f"{directory}/console.log")
    group = cgroups.create(f"roost-{name}", memory=memory)
    go_r, go_w = os.pipe()

    def child() -> None:
        runner.die_with_parent()
        os.close(go_w)
        os.setsid()
        os.read(go_r, 1)
        launch.mount_all(spec)
        os.makedirs("/run/systemd/nspawn", exist_ok=True)
        syscalls.mount("roost", "/run/systemd/nspawn", "tmpfs", options="mode=0755")
        out = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, fd in enumerate((os.open("/dev/null", os.O_RDONLY), out, out)):
            os.dup2(fd, number)
        argv = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--keep-unit",
            "--register=no",
            "--settings=no",
            "--link-journal=no",
        ]
        argv += [
            f"--directory={store.mount_point}/merged",
            f"--machine={name}",
            "--private-network",
            "--console=read-only",
        ]
        if held:
            argv += [f"--private-users={held.base}:65536", "--private-users-ownership=off"]
        os.execvpe(argv[0], [*argv, "--timezone=off", *options], runner.child_env(environment or {}))

    pid, born = runner.fork_into(child, group.born)
    try:
        cgroups.enter(group, pid, born=born)
        os.write(go_w, b"g")
        leader = wait_for(lambda: leaders.leader_of(pid) or _has_ended(pid, console))
        yield Nspawned(leader=leader, nspawn=pid, base=spec.base, group=group, console=console)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(go_r)
        os.close(go_w)
        if held:
            store.ranges.give_back(held)
        store.ranges.close()
        removed = cgroups.remove(group)
        files.remove_tree(directory)
        assert removed


def _has_ended(pid: int, console: Path) -> bool:
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, console.read_text(errors="replace")
    return False


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if text.startswith("-> "):
        os.symlink(text[3:], path)
    else:
        Path(path).write_text(text, encoding="utf-8")
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
