"""Machines that boot under a plain systemd-nspawn, in namespaces and a control group that vanish with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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
    from collections.abc import Iterator, Sequence

    from roost.boot.leader import Leader

INITTAB = "::sysinit:/bin/true\n::respawn:/bin/sleep 1000000\n"


class Nspawned(NamedTuple):
    """A machine that runs: its init, its nspawn, the host id of its root, its group, and what it said on its console."""

    leader: Leader
    nspawn: int
    base: int
    group: cgroups.Group
    console: Path


def add_init(tree: str) -> None:
    """Gives the tiny tree busybox's init."""
    os.makedirs(f"{tree}/sbin", exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink("/bin/busybox", f"{tree}/sbin/init")
    Path(f"{tree}/etc/inittab").write_text(INITTAB, encoding="ascii")


@contextlib.contextmanager
def nspawned(
    state: str, layers: Sequence[str], place: Path, *, private_users: bool = True, options: Sequence[str] = (),
    tasks: int | None = None, memory: int | None = None,
) -> Iterator[Nspawned]:  # fmt: skip
    """Boots the trees ``layers``, the top one first; gone at the end, with all that was changed in it."""
    name = f"test-{place.name}"
    store = Store(state)
    store.prepare()
    held = store.ranges.take(name) if private_users else None
    directory = f"{place}/session"
    for part in ("", "/upper", "/work"):
        os.mkdir(f"{directory}{part}", 0o755)
    spec = Spec(
        machine=name, layers=tuple(layers), directory=directory, mount_point=store.mount_point, init=init_path(), command=(),
        base=held.base if held else 0, userns=held.userns if held else None, network="none",
    )  # fmt: skip
    console = place / "console.log"
    group = cgroups.create(f"roost-test-{os.getpid()}-{place.name}", tasks=tasks, memory=memory)
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
            f"--machine={name[:63]}",
            "--private-network",
            "--console=read-only",
        ]
        if held:
            argv += [f"--private-users={held.base}:65536", "--private-users-ownership=off"]
        os.execvpe(argv[0], [*argv, *options], runner.child_env({}))

    pid, born = runner.fork_into(child, group.born)
    try:
        cgroups.enter(group, pid, born=born)
        os.write(go_w, b"g")
        leader = wait_for(lambda: leaders.leader_of(pid))
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
        assert cgroups.remove(group)
        files.remove_tree(directory)


def children_of(pid: int) -> list[str]:
    """What ps says of them."""
    return subprocess.run(
        ("ps", "--ppid", str(pid), "-o", "args="), capture_output=True, text=True, check=False
    ).stdout.split("\n")
