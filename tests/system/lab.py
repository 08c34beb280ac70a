"""Hosts with systemd: machines of tests/lab/roost.toml, booted by Roost, with Roost itself installed in them.

They run in a control group beside the tests' own, so that they may outlive a test; whatever a test leaves in one is looked
for in it (``LabHost.left``). All are gone when the tests end; those of a run that was killed, when the next one starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import roost
from roost.boot import inside, readiness
from roost.boot import leader as leaders
from roost.boot.record import Records
from roost.engine.execute import Streams
from roost.host import files
from roost.store import Store
from system.rig import Done, Rig, link_layers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.boot.leader import Leader

CHECKOUT = Path(__file__).parent.parent.parent
DEFINITION = CHECKOUT / "tests/lab/roost.toml"
HOSTS = ("bookworm", "trixie", "sid")
GUEST = """
[defaults]
distribution = "debian"
source-packages = true
release = "bookworm"
packages = ["iproute2", "socat"]
services = ["systemd-networkd"]
"""
"""Under every machine that a lab host boots: the layers of the machine ``guest`` of tests/lab/roost.toml."""
_INSTALL = """
set -e
place=$(python3 -c 'import sys; print("/usr/local/lib/python%d.%d/dist-packages" % sys.version_info[:2])')
mkdir -p $place
cp -a /opt/roost/src/roost $place/
echo /opt/wheels > $place/roost-wheels.pth
python3 -m compileall -q $place/roost
"""
_LEFT = """
ls -d /etc/systemd/nspawn/* /etc/systemd/system/systemd-nspawn@* /var/lib/machines/* 2>/dev/null
ls -d /etc/systemd/system/machines.target.wants/* /run/systemd/nspawn/*.nspawn /run/roost/booted/* 2>/dev/null
find /var/lib/roost/sessions /var/lib/roost/running /var/lib/roost/booted /var/lib/roost/staging -mindepth 1 -maxdepth 1
find /etc /run /var/lib/roost/references -name '*roost*' -not -path '/run/roost*' -not -path '/run/systemd/journal/*'
find /var/lib/roost/references -mindepth 2 -type f -name '[!.]*'
ls /sys/class/net | grep '^ro-'
nft list tables | grep roost
grep -i roost /etc/hosts
machinectl list --no-legend
systemctl list-units --no-legend --plain 'systemd-nspawn@*' --state=active,activating,failed,deactivating
pgrep -a -f 'roost[.]'
findmnt -l -n -o TARGET | grep /roost/ | grep -v '^/var/lib/roost$'
true
"""


class LabHost:
    """One lab host that runs."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.name = name
        self._rig = rig
        self._store = Store(rig.state)

    def leader(self) -> Leader:
        """Its init, as it is now."""
        process = Records(self._store).running(f"lab-{self.name}")
        found = leaders.leader_of(process.pid) if process else None
        assert found is not None, f"lab-{self.name} is not up"
        return found

    def __call__(self, script: str, *, stdin: bytes = b"", timeout: float = 60) -> Done:
        """Runs a script in it, by bash as root, and waits for its end."""
        said: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        with tempfile.TemporaryFile() as stream:
            stream.write(stdin)
            stream.seek(0)
            streams = Streams(stdin=stream.fileno(), on_output=lambda number, data: said[number - 1].extend(data))
            ended = inside.run_inside(
                self.leader(), ("bash", "-c", script), streams=streams, timeout=timeout, directory="/root"
            )
        assert not ended.stopped, f"not done after {timeout:g} s: {script}\n{said[0].decode()}{said[1].decode()}"
        assert ended.status is not None or ended.signal, ended
        return Done(
            ended.status if ended.status is not None else -ended.signal, bytes(said[0]), bytes(said[1]), ended.seconds
        )

    def ok(self, script: str, **more: Any) -> str:
        """What a script prints that has to succeed."""
        done = self(script, **more)
        assert done.status == 0, f"{script}\nstatus {done.status}\n{done.text}{done.said}{self._journal()}"
        return done.text.strip()

    def _journal(self) -> str:
        return self("journalctl --no-pager --quiet --output=short-monotonic --lines=30 -t systemd -t roost").text

    def put(self, path: str, text: str) -> None:
        """Writes a file in it."""
        place = shlex.quote(path)
        self.ok(f'mkdir -p "$(dirname {place})" && cat > {place}', stdin=text.encode())

    def define(self, machines: str, *, over: str = GUEST) -> None:
        """Writes its definition."""
        self.put("/root/roost.toml", over + machines)

    def roost(self, *words: str, status: int | None = 0, timeout: float = 60) -> Done:
        """Roost's command in it, as a person there would give it; it must end with ``status``, unless None."""
        done = self(shlex.join(("roost", *words)), timeout=timeout)
        assert status in (None, done.status), f"roost {words}: {done.status}\n{done.text}{done.said}{self._journal()}"
        return done

    def reboot(self, *, script: str = "systemctl reboot") -> None:
        """Boots it again, and waits until it is ready."""
        before = self.leader()
        self(script)
        wait_for(lambda: not leaders.is_alive(before), 60)
        wait_for(self._has_begun, 20)
        readiness.wait_ready(self.leader(), timeout=60)

    def _has_begun(self) -> bool:
        with contextlib.suppress(AssertionError):
            return leaders.has_begun(self.leader())
        return False

    def left(self) -> str:
        """What is there of Roost's machines, whatever it is; nothing once they are removed."""
        return self.ok(_LEFT)

    def clear(self) -> None:
        """Removes all machines, by whatever means."""
        self("timeout 40 systemctl stop 'systemd-nspawn@*'")
        self("cd /var/lib/roost/booted && for name in *; do timeout 20 roost down --remove $name; done", timeout=100)


class Lab:
    """The hosts, each booted when it is first asked for."""

    def __init__(self, place: str, cached: str, groups: list[str]) -> None:
        self._directory = f"{place}/lab"
        self._cached = cached
        self._groups = groups
        self._hosts: dict[str, LabHost] = {}
        os.makedirs(self._directory)
        os.symlink(CHECKOUT, f"{self._directory}/checkout")
        for name in HOSTS:
            os.makedirs(f"{self._directory}/state-{name}")
            os.makedirs(f"{self._directory}/wheels-{name}")
        definition = Path(self._directory, "roost.toml")
        shutil.copy(DEFINITION, definition)
        plan = roost.Manager(roost.load(definition), state=cached).build()
        self._layers = {item.machine.name: item.layers for item in plan.machines}
        self._rig = Rig(f"{self._directory}/store", Path(self._directory), DEFINITION.read_text(encoding="utf-8"))

    def host(self, name: str) -> LabHost:
        """A host by its release."""
        if name not in self._hosts:
            self._hosts[name] = self._boot(name)
        return self._hosts[name]

    def _boot(self, name: str) -> LabHost:
        layers, guest = self._layers[f"lab-{name}"], self._layers["guest"]
        os.rmdir(f"{self._directory}/wheels-{name}")
        os.symlink(wheels(self._cached, layers), f"{self._directory}/wheels-{name}")
        link_layers(self._cached, self._rig.state, layers)
        state = f"{self._directory}/state-{name}"
        link_layers(self._cached, state, guest)
        Store(state).set_name("guest", guest[-1])
        enter = 'for group do shift; [ "$group" != -- ] || break; echo $$ > $group/cgroup.procs; done; exec "$@"'
        done = self._rig("up", f"lab-{name}", prefix=("sh", "-c", enter, "sh", *self._groups, "--"))
        assert done.status == 0, done
        host = LabHost(self._rig, name)
        host.ok(_INSTALL)
        return host

    def close(self) -> None:
        """Ends all; nothing of them is left."""
        if self._hosts:
            done = self._rig("down", *(f"lab-{name}" for name in self._hosts), "--remove")
            assert done.status == 0, done
        for group in self._groups:
            assert not Path(group, "cgroup.procs").read_text(), f"processes are left in {group}"


def wheels(cached: str, layers: tuple[str, ...]) -> str:
    """Roost's dependencies for the Python of a tree, as this host's pip finds them; made once, kept outside the checkout."""
    trees = [f"{cached}/layers/{digest}/tree/usr/lib" for digest in layers]
    names = [name for tree in trees if os.path.isdir(tree) for name in os.listdir(tree)]
    (version,) = {match[1] for name in names if (match := re.fullmatch(r"python(3\.\d+)", name))}
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    wanted = [
        line for line in lines if line.startswith(("msgspec=", "rich=", "markdown-it-py=", "mdurl=", "pygments="))
    ]
    mark = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    made = f"{cached}/cache/lab/python{version}-{mark}"
    if not os.path.isdir(made):
        os.makedirs(os.path.dirname(made), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(made)) as scratch:
            options = (
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--python-version",
                version,
                "--target",
                f"{scratch}/made",
            )
            subprocess.run((sys.executable, "-m", "pip", "install", *options, *wanted), check=True)
            files.publish(f"{scratch}/made", made)
    return made


@contextlib.contextmanager
def groups_beside(tops: list[str]) -> Iterator[list[str]]:
    """Control groups beside those of the tests, in each hierarchy."""
    made = []
    for top in tops:
        path = f"{os.path.dirname(top)}/rlab-{os.getpid()}"
        os.mkdir(path)
        if os.path.exists(f"{path}/cgroup.type") and not os.path.isdir("/sys/fs/cgroup/unified"):
            os.setxattr(path, "user.delegate", b"1")
        made.append(path)
    try:
        yield made
    finally:
        left = [path for path in made if not _end(path)]
        assert not left, f"control groups that cannot be removed: {left}"


def end_killed(tops: list[str]) -> None:
    """Ends the hosts of test runs that were killed."""
    for above in map(os.path.dirname, tops):
        for name in os.listdir(above):
            if name.startswith("rlab-") and not os.path.exists(f"/proc/{name[5:]}"):
                _end(f"{above}/{name}")


def _end(group: str) -> bool:
    """Ends what is in a group of a lab, and removes it."""
    deadline = time.monotonic() + 10
    while os.path.isdir(group) and time.monotonic() < deadline:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as stream:
                for pid in map(int, stream.read().split()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        time.sleep(0.01)
    return not os.path.isdir(group)
