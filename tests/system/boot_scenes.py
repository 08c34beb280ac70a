"""What Roost is killed in around machines that boot, and what must be true afterwards, on a host of the tests' own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roost.host import files
from roost.network import netlink
from system.boot_rig import BOOTY, make_booty
from system.rig import wait_for
from system.scenes import World, wrong

if TYPE_CHECKING:
    import random

    from system.faults import Outcome, Worker
    from system.network_rig import Host

NEWER = "9" * 64
# several hosts at once, each with an /etc of its own: what is written there is in no lock of another network namespace's
_OWN_ETC = 'cp -a /etc "$0/all"; cp "$0"/etc/* "$0/all"; mount --bind "$0/all" /etc; exec "$@"'
MACHINES = """
[machines.tiny]
from = "layer:tiny"

[machines.private]
from = "layer:tiny"
network = { mode = "private" }

[machines.box]
from = "layer:%s"
limits = { tasks = 200 }

[machines.off]
from = "layer:off"
"""


class BootWorld(World):
    """A store on a host of its own; its worker is in that host's network and sees its /etc/hosts."""

    def __init__(self, worker: Worker, state: str, directory: Path, host: Host) -> None:
        super().__init__(worker, state, directory)
        self.host = host
        for name, digest, rc in (
            ("booty", BOOTY, ""), ("newer", NEWER, ""), ("off", "a" * 64, "kill -PWR $PPID\n"),
        ):  # fmt: skip
            make_booty(state, name=name, digest=digest, rc=rc, quick=True)
        self.define("booty")
        self.words_must_pass("status")  # its worker has begun

    def define(self, layer: str) -> None:
        """The layer that ``box`` is to stand on."""
        (self.directory / "roost.toml").write_text(MACHINES % layer, encoding="utf-8")

    def __call__(self, *words: str, machines: str = "stay", **more: Any) -> Outcome:
        """Runs ``roost WORDS``; machines that it brings up stay."""
        return super().__call__(*words, machines=machines, **more)

    def is_up(self, machine: str = "box") -> bool:
        """Whether it runs; waits until what was begun has come to an end."""
        run = f"{self.state}/run/booted/{machine}/run.json"
        wait_for(lambda: os.path.exists(run) or not self.store.is_alive(machine))
        return self.store.is_alive(machine)

    def record(self, machine: str = "box") -> dict[str, Any]:
        """machine.json; empty when there is none."""
        try:
            found: dict[str, Any] = json.loads(Path(f"{self.state}/booted/{machine}/machine.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def down(self) -> None:
        """No machine runs, and nothing of any is on the host."""
        self.words_must_pass("down")
        assert not (bad := self.left()), bad

    def words_must_pass(self, *words: str) -> Outcome:
        """A command that is not killed."""
        done = self(*words)
        assert done.status == 0, (words, done)
        assert "Traceback" not in done.said, done
        return done

    def left(self) -> list[str]:
        """What no machine that is down may leave: in the store, and on the host."""
        found = wrong(self.state)
        found += [f"run/booted/{name}" for name in files.names_in(f"{self.state}/run/booted")]
        here = f"/run/roost/network-{os.fstat(self.host.here.fd).st_ino}"
        found += [f"{place}/{name}" for place in ("attached", "lent") for name in files.names_in(f"{here}/{place}")]
        with netlink.inside(self.host.here.fd):
            found += [f"interface {name}" for name in netlink.interfaces() if name.startswith("ro-")]
        found += [line for line in self.host.here.run("nft", "list", "tables").splitlines() if "roost" in line]
        found += ["a block in /etc/hosts"] if "roost" in self.host.read("all/hosts") else []
        for name in files.names_in(f"{self.state}/booted"):
            found += [] if self.record(name) else [f"booted/{name} without a record"]
        return found

    def close(self) -> None:
        """Ends it."""
        self.words_must_pass("down", "--remove", "*")
        assert not (bad := self.left()), bad
        assert not self.listed("booted")
        self.worker.close()


def worker_prefix(host: Host) -> tuple[str, ...]:
    """What a worker is started by, in the host's network namespace."""
    return ("unshare", "--mount", "--propagation=private", "sh", "-ec", _OWN_ETC, host.root)


class BootScene:
    """One command. ``prepare`` is called before each time, ``promised`` once a kill was recovered from, ``done`` after
    the command ended well."""

    name = ""
    words: tuple[str, ...] = ("up", "box")
    again: tuple[int, ...] = (0,)
    machines = "stay"
    recoveries: tuple[tuple[str, ...], ...] = (
        ("session", "list"),
        ("status",),
        ("gc",),
        ("build", "tiny"),
        ("network", "list"),
    )

    def __init__(self, world: BootWorld) -> None:
        self.world = world

    def prepare(self) -> None:
        """A machine that was never up."""
        self.world.define("booty")
        if self.world.record():
            self.world.words_must_pass("down", "--remove", "box")
        assert not (bad := self.world.left()), bad

    def promised(self) -> None:
        """Fails unless what was there is there: the layers of every machine that is known."""
        record = self.world.record()
        layers = {*record.get("layers", ()), *record.get("previous", ())}
        assert layers <= self.world.listed("layers"), "layers of a machine were collected"

    def done(self) -> None:
        """Fails unless what the command does was done."""
        assert self.world.is_up()


class Up(BootScene):
    """A machine's first start."""

    name = "up"


class UpEphemeral(BootScene):
    """One that keeps nothing."""

    name = "up-ephemeral"
    words: tuple[str, ...] = ("up", "--ephemeral", "box")

    def done(self) -> None:
        super().done()
        assert "box" not in self.world.listed("sessions")


class Kept(BootScene):
    """A machine that has changed something."""

    first = "booty"

    def prepare(self) -> None:
        self.world.define("booty")
        if not os.path.isdir(f"{self.world.state}/sessions/box"):
            self.world.words_must_pass("up", "box")
        self.world.words_must_pass("down", "box")
        os.makedirs(f"{self.world.state}/sessions/box/upper/etc", exist_ok=True)
        Path(f"{self.world.state}/sessions/box/upper/etc/kept").write_text("kept\n")
        self.world.words_must_pass("up", "box")

    def promised(self) -> None:
        super().promised()
        assert Path(f"{self.world.state}/sessions/box/upper/etc/kept").read_text() == "kept\n"


class Down(Kept):
    """Its end."""

    name = "down"
    words: tuple[str, ...] = ("down", "box")

    def done(self) -> None:
        assert not self.world.is_up()
        assert not (bad := self.world.left()), bad


class Update(Kept):
    """Other layers are put under a machine that is up."""

    name = "update"

    def prepare(self) -> None:
        super().prepare()
        self.world.define("newer")

    def done(self) -> None:
        super().done()
        assert self.world.record()["layers"][-1] == NEWER
        self.promised()


class Rollback(Update):
    """The way back."""

    name = "rollback"
    words: tuple[str, ...] = ("rollback", "box")
    again: tuple[int, ...] = (0, 6)

    def prepare(self) -> None:
        super().prepare()
        self.world.words_must_pass("up", "box")

    def done(self) -> None:  # a machine that was down already stays so
        self.promised()


class Remove(Kept):
    """A machine is ended and forgotten."""

    name = "remove"
    words: tuple[str, ...] = ("down", "--remove", "box")
    again: tuple[int, ...] = (0, 6)

    def promised(self) -> None:
        if "box" in self.world.listed("sessions"):
            super().promised()

    def done(self) -> None:
        assert not self.world.record()
        assert "box" not in self.world.listed("sessions")
        assert not (bad := self.world.left()), bad


class PrivateRun(BootScene):
    """A run with a network of its own."""

    name = "private-run"
    words: tuple[str, ...] = ("run", "private", "--", "sh", "-c", "ip addr show host0; test ! -e /x; echo x > /x")
    machines = ""

    def prepare(self) -> None:
        assert not (bad := self.world.left()), bad

    def done(self) -> None:
        assert not (bad := self.world.left()), bad


class EndsItself(BootScene):
    """A machine that is up for a moment: its supervisor's whole life."""

    name = "ends-itself"
    words: tuple[str, ...] = ("up", "--no-wait", "off")
    again: tuple[int, ...] = (0, 1)  # it may be down before it was looked at
    machines = "end"

    def prepare(self) -> None:
        wait_for(lambda: not self.world.store.is_alive("off"))
        self.world.down()

    def done(self) -> None:
        wait_for(lambda: not self.world.store.is_alive("off"))


BOOT_SCENES: tuple[type[BootScene], ...] = (Up, UpEphemeral, Down, Update, Rollback, Remove, PrivateRun, EndsItself)


def points_of(scene: BootScene) -> list[tuple[str, int]]:
    """Every point that the command reaches, at its first and at its last occurrence; it must succeed.

    The first time in a store it does more than later: directories are made, and definitions noted.
    """
    names: list[str] = []
    for _ in range(2):
        scene.prepare()
        outcome = scene.world(*scene.words, machines=scene.machines, record=True)
        assert outcome.status in scene.again, (scene.name, outcome)
        scene.done()
        names = outcome.points
    assert names, "no point was recorded"
    return [(name, n) for name in dict.fromkeys(names) for n in dict.fromkeys((1, names.count(name)))]


def kill_at(scene: BootScene, point: str, ordinal: int, dice: random.Random) -> bool:
    """Kills the command or the machine's supervisor there; fails unless all is well afterwards."""
    world = scene.world
    scene.prepare()
    outcome = world(*scene.words, machines=scene.machines, kill=point, ordinal=ordinal)
    if not outcome.killed:
        assert outcome.status in scene.again, outcome
        scene.done()
    assert not outcome.lingering, outcome.lingering
    up = world.is_up()
    recovery = dice.choice(scene.recoveries)
    recovered = world.words_must_pass(*recovery)
    if not up:
        assert not (bad := world.left()), (recovery, recovered, bad)
        assert not recovered.groups, recovered.groups
    scene.promised()
    again = world(*scene.words, machines=scene.machines)
    assert again.status in scene.again, again
    assert "cleared" not in again.said, again
    scene.done()
    return outcome.killed
