"""Roost under fire for as long as one likes: `make soak MINUTES=n`.

Kills at every named point, of machines that boot and of their supervisors too, kills at random times, and 32 processes in one
store with some of them killed, one after the other until the time is over; then a table. The status is 1 when anything was
left, lost or unexpected.

    python -m tools.soak [--minutes N] [--seed N] [--only FORM]

A form is a function in FORMS: it gets a ``Soak`` and returns when its turn is over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from roost.host import files  # noqa: E402
from roost.network import netlink  # noqa: E402
from system import boot_scenes, scenes  # noqa: E402
from system.faults import Worker  # noqa: E402
from system.network_rig import host_at  # noqa: E402
from system.rig import below, make_tiny  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

TURN = 60.0  # seconds of a form before the next has its turn


class Soak:
    """What the forms share: the time, the dice, a place, and the counts."""

    def __init__(self, top: str, *, seconds: float, seed: int) -> None:
        self.top = top
        self.seed = seed
        self.dice = random.Random(seed)
        self.until = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.points: dict[str, list[tuple[str, int]]] = {}  # of each scene, those that are still to come
        self._turn = 0.0
        self._number = 0

    def begin(self, name: str) -> None:
        """A form's turn begins."""
        self._turn = min(self.until, time.monotonic() + TURN)
        self.say(name)

    @property
    def over(self) -> bool:
        """Whether the turn is."""
        return time.monotonic() >= self._turn

    @property
    def left(self) -> float:
        """Seconds of the turn."""
        return max(0.0, self._turn - time.monotonic())

    def store(self) -> tuple[str, Path]:
        """A new store with the layer ``tiny``, and a directory beside it."""
        self._number += 1
        directory = Path(f"{self.top}/{self._number}")
        directory.mkdir()
        make_tiny(f"{directory}/state")
        (directory / "work").mkdir()
        return f"{directory}/state", directory / "work"

    def drop(self, state: str) -> None:
        """Removes a store that is well; one that is not stays to be looked at."""
        files.remove_tree(os.path.dirname(state))

    def bad(self, text: str) -> None:
        """Something that must not be."""
        self.wrong.append(text)
        self.say(f"WRONG: {text}")

    def say(self, what: str) -> None:
        """A line of how far it is."""
        counted = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        print(f"{max(0.0, self.until - time.monotonic()):6.0f} s left  {what}: {counted or 'begins'}", flush=True)


def points(soak: Soak) -> None:
    """Kills at every named point of every scene, in turn; the next turn goes on where this one ends."""
    worker = Worker()
    try:
        for kind in scenes.SCENES:
            if soak.over:
                return
            if soak.points.get(kind.name) == [] and any(soak.points.get(other.name) != [] for other in scenes.SCENES):
                continue  # others first
            state, directory = soak.store()
            todo: list[tuple[str, int]] = []
            try:
                scene = kind(scenes.World(worker, state, directory))
                found = scenes.points_of(scene)
                todo = soak.points.get(kind.name) or soak.dice.sample(found, len(found))
                while todo and not soak.over:
                    point, ordinal = todo[-1]
                    soak.counts["kills at a point"] += scenes.kill_at(scene, point, ordinal, soak.dice)
                    soak.counts["operations"] += 3
                    todo.pop()
                soak.points[kind.name] = todo
            except AssertionError as e:
                soak.bad(f"{kind.name}, {locals().get('point', 'the recording')!r}: {e}; see {state}")
            else:
                soak.drop(state)
            soak.say(f"{kind.name}, {len(todo)} points to come")
    finally:
        worker.close()


def machines(soak: Soak) -> None:
    """The same around machines that boot, on a host of its own."""
    for kind in soak.dice.sample(boot_scenes.BOOT_SCENES, len(boot_scenes.BOOT_SCENES)):
        if soak.over:
            return
        state, directory = soak.store()
        todo: list[tuple[str, int]] = []
        try:
            with host_at(f"{directory}/host") as host, netlink.inside(host.here.fd):
                world = boot_scenes.BootWorld(Worker(boot_scenes.worker_prefix(host)), state, directory, host)
                scene = kind(world)
                found = boot_scenes.points_of(scene)
                todo = soak.points.get(f"boot {kind.name}") or soak.dice.sample(found, len(found))
                while todo and not soak.over:
                    point, ordinal = todo[-1]
                    soak.counts["kills around machines"] += boot_scenes.kill_at(scene, point, ordinal, soak.dice)
                    soak.counts["operations"] += 4
                    todo.pop()
                soak.points[f"boot {kind.name}"] = todo
                world.close()
        except AssertionError as e:
            soak.bad(f"{kind.name}, {locals().get('point', 'the recording')!r}: {e}; see {state}")
        else:
            soak.drop(state)
        soak.say(f"machines: {kind.name}, {len(todo)} points to come")


def moments(soak: Soak) -> None:
    """Kills any process of Roost at any time."""
    state, directory = soak.store()
    (directory / "roost.toml").write_text(scenes.DEFINITION)
    environment = {**os.environ, "ROOST_STATE": state}
    commands = (
        ("run", "tiny", "--", "sh", "-c", "sleep 0.1; sh -c 'sleep 0.1'"), ("run", "a,b", "-j", "2", "-q", "--", "sleep", "0.1"),
        ("build", "top", "higher"), ("run", "tiny", "--keep", "--", "true"), ("gc",),
    )  # fmt: skip
    command = (sys.executable, "-m", "roost")
    while not soak.over and not soak.wrong:
        child = subprocess.Popen(
            (*command, *soak.dice.choice(commands)), cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(soak.dice.uniform(0.03, 0.5))
        try:
            os.kill(soak.dice.choice([child.pid, *below(child.pid)]), signal.SIGKILL)
            soak.counts["kills at a moment"] += 1
        except ProcessLookupError:
            pass
        child.wait(60)
        if soak.dice.random() < 0.3:
            for digest in set(os.listdir(f"{state}/layers")) - {scenes.TINY}:
                files.remove_tree(f"{state}/layers/{digest}")
        _look(soak, (*command, "run", "tiny", "--", "true"), state, directory, environment)
    if not soak.wrong:
        soak.drop(state)
    soak.say("killed at any moment")


def _look(soak: Soak, command: tuple[str, ...], state: str, directory: Path, environment: dict[str, str]) -> None:
    """The next command works, and leaves nothing as soon as the children of what was killed have ended."""
    deadline = time.monotonic() + 10
    while True:
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, check=False)
        soak.counts["operations"] += 1
        found = scenes.wrong(state)
        if done.returncode or not found or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if done.returncode:
        soak.bad(f"the next run: {done.stderr.decode()}; see {state}")
    for text in found:
        soak.bad(f"{text}; see {state}")


def crowd(soak: Soak) -> None:
    """32 processes in one store, of which some are killed."""
    while not soak.over:
        state, directory = soak.store()
        seed = soak.dice.randrange(10**6)
        command = (
            sys.executable, "-m", "system.crowd", "--state", state, "--directory", str(directory), "--seed", str(seed), "--kill",
            "--seconds", f"{min(30.0, soak.left):.0f}",
        )  # fmt: skip
        done = subprocess.run(command, cwd=TESTS, stdout=subprocess.PIPE, check=True)
        report = json.loads(done.stdout)
        counts = Counter(report["done"])
        soak.counts["kills in the crowd"] += counts.pop("killed", 0)
        soak.counts["expected errors"] += counts.pop("expected errors", 0)
        soak.counts["operations"] += sum(counts.values())
        for text in report["wrong"]:
            soak.bad(f"crowd {seed}: {text}")
        if not report["wrong"]:
            soak.drop(state)
        soak.say("crowd")


FORMS: dict[str, Callable[[Soak], None]] = {"points": points, "machines": machines, "crowd": crowd, "moments": moments}


def main() -> int:
    """Runs the forms in turn until the time is over."""
    parser = argparse.ArgumentParser(description="Roost under fire")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="that of a former soak, to do the same again")
    parser.add_argument("--only", choices=list(FORMS), help="one form alone")
    options = parser.parse_args()
    seed = options.seed or int.from_bytes(os.urandom(3))
    above = os.path.dirname(os.path.abspath(os.environ.get("ROOST_STATE", "/var/cache/roost-dev")))
    top = tempfile.mkdtemp(prefix="roost-soak-", dir=above)
    soak = Soak(top, seconds=options.minutes * 60, seed=seed)
    began = time.monotonic()
    print(f"seed {seed}, stores in {top}")
    while time.monotonic() < soak.until and not soak.wrong:
        for name, form in FORMS.items():
            if options.only in (None, name) and time.monotonic() < soak.until:
                soak.begin(name)
                form(soak)
    print(f"\n{'seconds':24} {time.monotonic() - began:8.0f}")
    for name, count in sorted(soak.counts.items()):
        print(f"{name:24} {count:8}")
    print(f"{'kills survived':24} {sum(n for name, n in soak.counts.items() if name.startswith('kills')):8}")
    print(f"{'left, lost or unexpected':24} {len(soak.wrong):8}")
    if soak.wrong:
        print(f"again: python -m tools.soak --seed {seed}; the stores are in {top}")
        return 1
    files.remove_tree(top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
