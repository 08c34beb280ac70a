"""A host with its own kernel: a VM in QEMU, without hardware's help (tcg), that is used as the tests use their lab hosts.

Its system is a machine of tests/lab/vm.toml, made by Roost, with Debian's kernel. On its second disk are Roost from this checkout
and a store with the layers of what it boots. Both disks are thrown away with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import roost
from roost.host import files, runner, syscalls
from roost.store import Store
from system import processors
from system.lab import CHECKOUT, LabHost, wheels
from system.rig import Done, link_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFINITION = CHECKOUT / "tests/lab/vm.toml"


class Vm(LabHost):
    """A VM that runs, used as the tests use their lab hosts."""

    def __init__(self, directory: str, disks: Sequence[str], kernel: str, initrd: str) -> None:
        self.name = "vm"
        self.console = f"{directory}/console.log"
        self._directory = directory
        self._boot = ""
        self._count = 0
        words = [
            "qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", f"file:{self.console}", "-kernel", kernel, "-initrd", initrd,
            "-append", "root=/dev/vda rw console=ttyS0 mitigations=off systemd.show_status=yes",
            "-netdev", "user,id=uplink,restrict=on,guestfwd=tcp:10.0.2.100:7-cmd:echo outside", "-device", "virtio-net,netdev=uplink",
            "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng,rng=rng",
            "-device", "virtio-serial", "-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=vm",
        ]  # fmt: skip
        for disk in disks:  # what is written to them is gone with the VM, and is there after its reboot
            words += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on,cache=unsafe"]
        self.began = time.monotonic()
        self._qemu = subprocess.Popen(words, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": directory})
        self._channel = socket.socket(socket.AF_UNIX)
        self._got = b""

    def connect(self) -> None:
        """Waits until the VM answers."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self._channel.connect(f"{self._directory}/agent")
                return self.wait_boot()
            except OSError:
                if self._qemu.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def __call__(self, script: str, *, stdin: bytes = b"", timeout: float = 60) -> Done:
        """Runs a script in it, by bash as root, and waits for its end. ``timeout`` as the lab has it: it is slower here."""
        began = time.monotonic()
        self._count += 1
        request = {"id": str(self._count), "script": script, "stdin": stdin.decode()}
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        while True:
            self._channel.settimeout(max(0.1, began + 3 * timeout - time.monotonic()))
            while b"\n" not in self._got:
                block = self._channel.recv(1 << 20)
                assert block, "the VM has ended"
                self._got += block
            line, _, self._got = self._got.partition(b"\n")
            found = json.loads(line)
            if found["id"] == request["id"]:
                self._boot = found["boot"]
                return Done(found["status"], found["out"].encode(), found["err"].encode(), time.monotonic() - began)

    def wait_boot(self) -> None:
        """Waits until it answers from another boot than last, and all its units have started."""
        before, deadline = self._boot, time.monotonic() + 240
        while self._boot == before:
            assert time.monotonic() < deadline, "the VM does not come up"
            with contextlib.suppress(TimeoutError):
                self("true", timeout=1)
        self("systemctl is-system-running --wait", timeout=80)

    def reboot(self, *, script: str = "systemctl reboot") -> None:
        """Boots it again."""
        self.began = time.monotonic()
        self(f"(sleep 0.5; {script}) >/dev/null 2>&1 &")
        self.wait_boot()

    def close(self) -> None:
        """Ends it, as a power cut does: its disks are thrown away."""
        self._qemu.kill()
        self._qemu.wait()


@contextlib.contextmanager
def started(state: str) -> Iterator[Vm]:
    """A VM in a directory of its own, which is gone with it."""
    plan = roost.Manager(roost.load(DEFINITION), state=state).build()
    layers = {item.machine.name: item.layers for item in plan.machines}
    os.makedirs(f"{state}/vm", exist_ok=True)
    made = f"{state}/vm/{layers['host'][-1][:16]}"
    with tempfile.TemporaryDirectory(dir=f"{state}/vm") as directory:
        if not os.path.isdir(made):
            os.mkdir(f"{directory}/made")
            runner.in_child(
                lambda: make_system([f"{state}/layers/{one}/tree" for one in layers["host"]], f"{directory}/made")
            )
            files.publish(f"{directory}/made", made)
        make_second(state, layers, directory)
        vm = Vm(directory, (f"{made}/disk", f"{directory}/second"), f"{made}/vmlinuz", f"{made}/initrd.img")
        try:
            vm.connect()
            yield vm
        except BaseException:
            print(Path(vm.console).read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            vm.close()


def make_system(trees: Sequence[str], directory: str) -> None:
    """The VM's system disk from its layers, lowest first, and what QEMU starts; in a process of its own."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.chdir(directory)
    os.mkdir("merged")
    syscalls.mount("overlay", "merged", "overlay", options=f"lowerdir={':'.join(reversed(trees))}")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(f"merged/{name}", name)
    make_disk("merged", "disk", "host", size="2G")


def make_second(state: str, layers: dict[str, tuple[str, ...]], directory: str) -> None:
    """The second disk: the checkout, Roost's dependencies, the agent, and a store with the guest's layers."""
    top = f"{directory}/srv"
    shutil.copytree(CHECKOUT / "src", f"{top}/src")
    shutil.copytree(wheels(state, layers["host"]), f"{top}/wheels")
    shutil.copy(CHECKOUT / "tests/lab/vm_agent.py", f"{top}/agent.py")
    shutil.copy("/usr/bin/qemu-aarch64-static", top)
    processors.tree_of(Path(f"{top}/arm64"), processors.busyboxes(state)["arm64"])
    link_layers(state, f"{top}/state", layers["guest"])
    Store(f"{top}/state").set_name("guest", layers["guest"][-1])
    make_disk(top, f"{directory}/second", "roost", size="3G")


def make_disk(tree: str, path: str, label: str, *, size: str) -> None:
    """An ext4 image with all that is in a tree."""
    words = ("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", tree, path, size)
    runner.check(runner.run(runner.Command(argv=words, timeout=120)))
