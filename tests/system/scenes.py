"""What Roost is killed in, and what must be true afterwards: shared by the tests and the soak.

Everything is looked up on the disk here, not asked of Roost: what is tested must not be its own judge.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from roost.host import files
from roost.records import LayerRecord
from roost.store import Store
from system.rig import COMMAND

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from system.faults import Outcome, Worker

TINY = "7" * 64
DEFINITION = """
[machines.tiny]
from = "layer:tiny"

[machines.a]
from = "layer:tiny"

[machines.b]
from = "layer:tiny"

[machines.top]
from = "layer:tiny"
scripts = ["echo made > /made; rm /etc/motd"]

[machines.higher]
from = "layer:tiny"
profiles = ["one", "two"]

[machines.bad]
from = "layer:tiny"
scripts = ["echo tried > /tried; exit 1"]

[profiles.one]
files = { "/one" = { content = "one" } }

[profiles.two]
files = { "/two" = { content = "two" } }
"""
_STATE = {
    "layers",
    "names",
    "running",
    "sessions",
    "references",
    "staging",
    "machines",
    "results",
    "cache",
    "run",
    "ready",
    "spare",
    "booted",
    "network",
    "origins",
}


class World:
    """A store, a definition, and a worker to run commands with."""

    def __init__(self, worker: Worker, state: str, directory: Path) -> None:
        self.worker = worker
        self.state = state
        self.directory = directory
        (directory / "roost.toml").write_text(DEFINITION, encoding="utf-8")
        (directory / "source").mkdir()
        (directory / "source/a").write_text("content\n", encoding="utf-8")
        odd = ("ROOST_STATE", "NO_COLOR", "FORCE_COLOR", "SUDO_UID", "SUDO_GID", "COLUMNS")
        self.environment = {name: value for name, value in os.environ.items() if name not in odd}
        self.environment["ROOST_STATE"] = state
        self.store = Store(state)

    def __call__(
        self, *words: str, stdin: bytes = b"", record: bool = False, kill: str = "", ordinal: int = 1, timeout: float = 60,
        machines: str = "",
    ) -> Outcome:  # fmt: skip
        """Runs ``roost WORDS``."""
        return self.worker(
            *words, state=self.state, cwd=str(self.directory), env=self.environment, stdin=stdin, record=record, kill=kill,
            ordinal=ordinal, timeout=timeout, machines=machines,
        )  # fmt: skip

    def listed(self, place: str) -> set[str]:
        """The names in a directory of the store."""
        return set(files.names_in(f"{self.state}/{place}"))

    def digest_of(self, machine: str) -> str:
        """The topmost layer of a machine, as `roost plan` has it."""
        if not hasattr(self, "_plans"):
            self._plans = {
                item["name"]: item["layers"] for item in json.loads(self("plan", "--json", timeout=60).out)["machines"]
            }
        digest: str = self._plans[machine][-1]
        return digest

    def forget(self, digest: str) -> None:
        """Takes a layer away behind Roost's back, with its names."""
        files.remove_tree(f"{self.state}/layers/{digest}")
        for name in self.listed("names"):
            if Path(f"{self.state}/names/{name}").read_text() == digest:
                os.unlink(f"{self.state}/names/{name}")

    def forget_sessions(self, but: str = "") -> None:
        """Takes kept sessions away."""
        for name in self.listed("sessions") - {but}:
            files.remove_tree(f"{self.state}/sessions/{name}")
        for digest in self.listed("references"):
            for name in os.listdir(f"{self.state}/references/{digest}"):
                if name != but:
                    os.unlink(f"{self.state}/references/{digest}/{name}")
            with contextlib.suppress(OSError):
                os.rmdir(f"{self.state}/references/{digest}")


def content(tree: str) -> str:
    """A digest of all that is in a tree, times apart."""
    total = hashlib.sha256()
    for top, directories, names in os.walk(tree):
        directories.sort()
        for name in sorted([*directories, *names]):
            path = f"{top}/{name}"
            info = os.lstat(path)
            total.update(f"{path[len(tree) :]}\0{info.st_mode:o} {info.st_uid} {info.st_gid} {info.st_rdev}\0".encode())
            if stat.S_ISREG(info.st_mode):
                total.update(Path(path).read_bytes())
            elif stat.S_ISLNK(info.st_mode):
                total.update(os.readlink(path).encode())
    return total.hexdigest()


def wrong(state: str, *, at_rest: bool = True) -> list[str]:
    """What no store may be like; ``at_rest``: nobody is at work in it."""
    found = [f"{state}/{name}" for name in set(os.listdir(state)) - _STATE if not name.startswith("seccomp-")]
    found += [f"{top}/{name}" for top, _, names in _outside_trees(state) for name in names if name.endswith(".part")]
    if at_rest:
        for place in ("staging", "running", "run/locks", "run/mnt"):
            found += [f"left: {place}/{name}" for name in os.listdir(f"{state}/{place}")]
    layers = set(files.names_in(f"{state}/layers"))
    for digest in layers:
        try:
            record = json.loads(Path(f"{state}/layers/{digest}/layer.json").read_bytes())
        except (OSError, ValueError) as e:
            found.append(f"layer {digest}: {e}")
            continue
        if record["digest"] != digest or not os.path.isdir(f"{state}/layers/{digest}/tree"):
            found.append(f"layer {digest} is not whole")
        found += [f"layer {digest} stands on {x}, which is gone" for x in record["parents"] if x not in layers]
    for name in files.names_in(f"{state}/names"):
        digest = Path(f"{state}/names/{name}").read_text()
        if digest not in layers:
            found.append(f"the name {name} means {digest}, which is gone")
    for session in files.names_in(f"{state}/sessions"):
        found += _wrong_session(state, session, layers)
    for digest in files.names_in(f"{state}/references"):
        stand = os.listdir(f"{state}/references/{digest}")
        found += [] if stand else [f"references/{digest} is empty"]
        found += [
            f"reference of {name}, which is gone" for name in stand if not os.path.isdir(f"{state}/sessions/{name}")
        ]
    return found


def _outside_trees(state: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for top, directories, names in os.walk(state):
        directories[:] = [name for name in directories if name not in ("tree", "upper", "work")]
        yield top, directories, names


def _wrong_session(state: str, session: str, layers: set[str]) -> list[str]:
    try:
        record = json.loads(Path(f"{state}/sessions/{session}/session.json").read_bytes())
    except (OSError, ValueError) as e:
        return [f"session {session}: {e}"]
    found = [] if record["kept"] else [f"session {session} is not kept"]
    found += [
        f"session {session} has no {x}"
        for x in ("upper", "work")
        if not os.path.isdir(f"{state}/sessions/{session}/{x}")
    ]
    found += [f"session {session} stands on {x}, which is gone" for x in record["layers"] if x not in layers]
    if not os.path.exists(f"{state}/references/{record['layers'][-1]}/{session}"):
        found.append(f"session {session} has no reference")
    return found


class Scene:
    """One command. ``prepare`` is called before each time, ``promised`` once a kill was recovered from, ``done`` after
    the command ended well."""

    name = ""
    words: tuple[str, ...] = ()
    stdin = b""
    statuses: tuple[int, ...] = (0,)
    again: tuple[int, ...] = ()
    """Statuses of the repeated command, when they may be others."""

    recoveries: tuple[tuple[str, ...], ...] = (
        ("session", "list"),
        ("layer", "list"),
        ("run", "tiny", "--", "true"),
        ("gc", "--dry-run"),
        ("build", "tiny"),
    )

    def __init__(self, world: World) -> None:
        self.world = world

    def prepare(self) -> None:
        """The store as it is before."""

    def promised(self, killed: Outcome) -> None:
        """Fails unless what was there, or was confirmed, is there."""
        assert not self.world.listed("sessions"), self.world.listed("sessions")

    def done(self) -> None:
        """Fails unless what the command does was done."""


class RunOne(Scene):
    """A throwaway run."""

    name = "run"
    words: tuple[str, ...] = ("run", "tiny", "--", "sh", "-c", "echo x > /x; rm -r /usr/share; echo said")


class RunLimited(RunOne):
    """A run whose disk is limited, by a quota or by a file with a file system in it."""

    name = "limited"
    words: tuple[str, ...] = ("run", "tiny", "--limit", "disk=24M", "--", "sh", "-c", "echo x > /x; echo said")


class FirstStart(RunOne):
    """The first run in a store that has a layer and nothing else: nspawn's filters are read."""

    name = "first"

    def prepare(self) -> None:
        for name in os.listdir(self.world.state):
            if name.startswith("seccomp-"):
                os.unlink(f"{self.world.state}/{name}")
            elif name not in ("layers", "names"):
                files.remove_tree(f"{self.world.state}/{name}")


class Build(Scene):
    """Two layers, one on the other, beside a third."""

    name = "build"
    words: tuple[str, ...] = ("build", "top", "higher")
    count = 3

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._good: dict[str, str] = {}

    def _layers(self) -> dict[str, str]:
        here = self.world.listed("layers") - {TINY}
        return {digest: content(f"{self.world.state}/layers/{digest}/tree") for digest in here}

    def prepare(self) -> None:
        for digest in self.world.listed("layers") - {TINY}:
            self.world.forget(digest)

    def promised(self, killed: Outcome) -> None:
        super().promised(killed)
        assert self._layers().items() <= self._good.items()

    def done(self) -> None:
        self._good = self._good or self._layers()
        assert len(self._good) == self.count
        assert self._layers() == self._good


class Given(Build):
    """A base from an archive, and a layer on it."""

    name = "given"
    words: tuple[str, ...] = ("-f", "given.toml", "build")
    count = 2

    def __init__(self, world: World) -> None:
        super().__init__(world)
        tree, file = f"{world.state}/layers/{TINY}/tree", world.directory / "root.tar.gz"
        subprocess.run(("tar", "-C", tree, "--gzip", "-cf", file, "."), check=True)
        text = '[machines.given]\nfrom = "tar:root.tar.gz"\nscripts = ["echo given > /given"]\n'
        (world.directory / "given.toml").write_text(text, encoding="utf-8")


class KeepFailed(Scene):
    """A layer whose script fails, and whose remains become a session."""

    name = "keep-failed"
    words: tuple[str, ...] = ("build", "bad", "--keep-failed")
    statuses: tuple[int, ...] = (10,)

    def prepare(self) -> None:
        self.world.forget_sessions()

    def promised(self, killed: Outcome) -> None:
        for name in self.world.listed("sessions"):
            assert Path(f"{self.world.state}/sessions/{name}/upper/tried").read_text() == "tried\n"

    def done(self) -> None:
        assert self.world.listed("sessions")


class RunSource(Scene):
    """A run with a checkout, artifacts and a JUnit file."""

    name = "source"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.words = (
            "run", "tiny", "--source", "source", "--artifact", "out/*", "--output", "results", "--junit", "junit.xml", "--", "sh", "-c",
            "mkdir out; cat a > out/copy; rm a; echo x > new",
        )  # fmt: skip

    def prepare(self) -> None:
        shutil.rmtree(self.world.directory / "results", ignore_errors=True)
        for left in self.world.directory.glob("*junit*"):
            left.unlink()

    def promised(self, killed: Outcome) -> None:
        super().promised(killed)
        assert [p.name for p in (self.world.directory / "source").iterdir()] == ["a"]
        assert (self.world.directory / "source/a").read_text() == "content\n"
        for path in (self.world.directory / "results").rglob("*"):
            if path.is_file() and not path.name.endswith(".part"):  # parts in the user's own directory are told by name
                assert (path.name, path.read_text()) == ("copy", "content\n")
        with contextlib.suppress(FileNotFoundError):
            assert (self.world.directory / "junit.xml").read_text().rstrip().endswith(">")

    def done(self) -> None:
        assert (self.world.directory / "results/tiny/out/copy").read_text() == "content\n"
        assert (self.world.directory / "junit.xml").exists()


class Keep(Scene):
    """A run whose session is kept."""

    name = "keep"
    words: tuple[str, ...] = ("run", "tiny", "--keep", "--json", "--", "sh", "-c", "echo kept > /kept; rm /etc/motd")

    def prepare(self) -> None:
        self.world.forget_sessions()

    def promised(self, killed: Outcome) -> None:
        if killed.out:
            assert json.loads(killed.out)["results"][0]["kept"] in self.world.listed("sessions")
        for session in self.world.listed("sessions"):
            assert Path(f"{self.world.state}/sessions/{session}/upper/kept").read_text() == "kept\n"
            said = json.loads(self.world("session", "diff", session, "--json").out)
            assert {item["path"]: item["kind"] for item in said} == {"/kept": "added", "/etc/motd": "removed"}

    def done(self) -> None:
        assert self.world.listed("sessions")


class Matrix(Scene):
    """Two machines, one of which fails and is kept."""

    name = "matrix"
    words: tuple[str, ...] = (
        "run",
        "a,b",
        "--keep=on-failure",
        "-q",
        "--",
        "sh",
        "-c",
        "echo x > /x; test $(hostname) = a",
    )
    statuses: tuple[int, ...] = (1,)

    def prepare(self) -> None:
        self.world.forget_sessions()
        for name in self.world.listed("results"):
            files.remove_tree(f"{self.world.state}/results/{name}")

    def promised(self, killed: Outcome) -> None:
        for session in self.world.listed("sessions"):
            assert session.startswith("b-")
            assert Path(f"{self.world.state}/sessions/{session}/upper/x").read_text() == "x\n"
        for name in self.world.listed("results"):  # the logs of a run that was killed stay until gc takes them
            with contextlib.suppress(FileNotFoundError):
                assert len(json.loads(Path(f"{self.world.state}/results/{name}/result.json").read_bytes())) == 2

    def done(self) -> None:
        assert self.world.listed("sessions")


class WithSession(Scene):
    """What is done with a session that was kept before."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.session = ""

    def prepare(self) -> None:
        if not self.session or self.session not in self.world.listed("sessions"):
            kept = self.world("run", "tiny", "--keep", "--json", "--", "sh", "-c", "echo log > /log; rm /etc/motd")
            self.session = json.loads(kept.out)["results"][0]["kept"]
        self.world.forget_sessions(but=self.session)

    def promised(self, killed: Outcome) -> None:
        assert self.world.listed("sessions") == {self.session}
        said = json.loads(self.world("session", "diff", self.session, "--json").out)
        assert {item["path"]: item["kind"] for item in said} == {"/log": "added", "/etc/motd": "removed"}

    def done(self) -> None:
        assert self.session in self.world.listed("sessions")


class Shell(WithSession):
    """A kept session, opened again."""

    name = "shell"
    stdin = b"echo more >> /log\n"

    def prepare(self) -> None:
        super().prepare()
        self.words = ("session", "shell", self.session)
        Path(f"{self.world.state}/sessions/{self.session}/upper/log").write_text("log\n")

    def promised(self, killed: Outcome) -> None:
        super().promised(killed)
        said = Path(f"{self.world.state}/sessions/{self.session}/upper/log").read_text()
        assert said in ("log\n", "log\nmore\n")

    def done(self) -> None:
        super().done()
        assert Path(f"{self.world.state}/sessions/{self.session}/upper/log").read_text().endswith("more\n")


class Commit(WithSession):
    """A kept session's changes become a layer."""

    name = "commit"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._good = ""

    def _named(self) -> str:
        path = f"{self.world.state}/names/mine"
        return Path(path).read_text() if os.path.exists(path) else ""

    def prepare(self) -> None:
        super().prepare()
        self.words = ("session", "commit", self.session, "mine")
        for digest in self.world.listed("layers") - {TINY}:
            self.world.forget(digest)

    def promised(self, killed: Outcome) -> None:
        super().promised(killed)
        if named := self._named():
            assert content(f"{self.world.state}/layers/{named}/tree") == self._good

    def done(self) -> None:
        super().done()
        found = content(f"{self.world.state}/layers/{self._named()}/tree")
        self._good = self._good or found
        assert found == self._good


class Adopt(Scene):
    """A tree that was kept by hand becomes two layers and a name."""

    name = "adopt"
    words: tuple[str, ...] = ("adopt", "kept", "mine")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._good: list[str] = []
        kept = world.directory / "kept"
        kept.mkdir()
        subprocess.run(("cp", "-a", f"{world.state}/layers/{TINY}/tree", kept / "base"), check=True)
        (kept / "env/etc").mkdir(parents=True)
        (kept / "env/etc/motd").write_text("kept\n", encoding="utf-8")

    def _found(self) -> list[str]:
        path = Path(f"{self.world.state}/names/mine")
        if not path.exists():
            return []
        record = self.world.store.layer(path.read_text())
        return [content(self.world.store.tree(digest)) for digest in (*record.parents, record.digest)]

    def prepare(self) -> None:
        for digest in self.world.listed("layers") - {TINY}:
            self.world.forget(digest)

    def promised(self, killed: Outcome) -> None:
        super().promised(killed)
        assert self._found() in ([], self._good)

    def done(self) -> None:
        self._good = self._good or self._found()
        assert len(self._good) == 2
        assert self._found() == self._good


class LayerRemove(Commit):
    """A committed layer is removed."""

    name = "layer-remove"
    again: tuple[int, ...] = (0, 6)

    def prepare(self) -> None:
        super().prepare()
        assert self.world("session", "commit", self.session, "mine").status == 0
        self._good = content(f"{self.world.state}/layers/{self._named()}/tree")
        self.words = ("layer", "remove", "mine")

    def done(self) -> None:
        assert not self._named()
        assert self.world.listed("layers") == {TINY}


class SessionRemove(WithSession):
    """A kept session is removed."""

    name = "session-remove"
    again: tuple[int, ...] = (0, 6)

    def prepare(self) -> None:
        super().prepare()
        self.words = ("session", "remove", self.session)

    def promised(self, killed: Outcome) -> None:
        if self.world.listed("sessions"):
            super().promised(killed)

    def done(self) -> None:
        assert not self.world.listed("sessions")


class SessionKeep(Scene):
    """A session that is running is to be kept."""

    name = "session-keep"

    def prepare(self) -> None:
        self.world.forget_sessions()
        self._end()
        self._child = subprocess.Popen(
            (*COMMAND, "run", "tiny", "--", "sh", "-c", "echo up > /up; echo ready; read x; true"), cwd=self.world.directory,
            env=self.world.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"
        [self._session] = self.world.listed("running")
        self.words = ("session", "keep", self._session)

    def _end(self) -> None:
        child = getattr(self, "_child", None)
        if child is not None and child.returncode is None:
            child.communicate(b"\n", timeout=20)

    def promised(self, killed: Outcome) -> None:
        assert self._session in self.world.listed("running") | self.world.listed("sessions")

    def done(self) -> None:
        self._end()
        assert self.world.listed("sessions") == {self._session}
        assert Path(f"{self.world.state}/sessions/{self._session}/upper/up").read_text() == "up\n"


class Collect(Scene):
    """gc, of layers that stand on each other and of old results, beside what is in use."""

    name = "gc"
    words: tuple[str, ...] = ("gc",)

    def prepare(self) -> None:
        wanted = self.world.digest_of("top")
        if wanted not in self.world.listed("layers"):
            assert self.world("build", "top").status == 0
            self._kept = self.world.listed("layers")
            self._good = content(self.world.store.tree(wanted))
        for digests in (("a" * 64,), ("a" * 64, "b" * 64)):
            with self.world.store.staged("stage") as stage:
                os.makedirs(f"{stage}/tree/x/y")
                Path(f"{stage}/tree/x/file").write_text("old\n")
                record = LayerRecord(
                    digest=digests[-1], parents=(TINY, *digests[:-1]), kind="layer", name="old", family="", facts={}, created=time.time()
                )  # fmt: skip
                self.world.store.publish(stage, record)
        for number in range(52):
            Path(f"{self.world.state}/results/20200101-0000{number:02}-aa").mkdir(exist_ok=True)

    def promised(self, killed: Outcome) -> None:
        super().promised(killed)
        assert self.world.listed("layers") >= self._kept
        assert content(self.world.store.tree(self.world.digest_of("top"))) == self._good

    def done(self) -> None:
        assert self.world.listed("layers") == self._kept
        assert len(self.world.listed("results")) == 50


class Repair(Scene):
    """`roost doctor --repair` itself."""

    name = "repair"
    words: tuple[str, ...] = ("doctor", "--repair")
    recoveries: tuple[tuple[str, ...], ...] = (("doctor", "--repair"),)

    def prepare(self) -> None:
        for path in (
            "running/tiny-abcdef/upper/x",
            "staging/stage-0123456789abcdef/tree",
            "staging/trash-0123456789abcdef/x",
        ):
            os.makedirs(f"{self.world.state}/{path}", exist_ok=True)
        Path(f"{self.world.state}/names/gone").write_text("c" * 64)


SCENES: tuple[type[Scene], ...] = (
    RunOne, RunLimited, FirstStart, Build, KeepFailed, RunSource, Keep, Matrix, Shell, Commit, LayerRemove, SessionRemove, SessionKeep,
    Collect, Repair, Given, Adopt,
)  # fmt: skip


def points_of(scene: Scene) -> list[tuple[str, int]]:
    """Every point that the command reaches, at its first and at its last occurrence; it must succeed.

    The first time in a store it does more than later: the filters of its options are read.
    """
    scene.prepare()
    assert scene.world(*scene.words, stdin=scene.stdin).status in scene.statuses
    scene.done()
    scene.prepare()
    outcome = scene.world(*scene.words, stdin=scene.stdin, record=True)
    assert outcome.status in scene.statuses, (scene.name, outcome)
    scene.done()
    names = outcome.points
    assert names, "no point was recorded"
    return [(name, n) for name in dict.fromkeys(names) for n in dict.fromkeys((1, names.count(name)))]


def kill_at(scene: Scene, point: str, ordinal: int, dice: random.Random) -> bool:
    """Kills the command there; fails unless all is well afterwards. False: it was not reached this time."""
    world = scene.world
    scene.prepare()
    outcome = world(*scene.words, stdin=scene.stdin, kill=point, ordinal=ordinal)
    if not outcome.killed:
        assert outcome.status in scene.statuses, outcome
        scene.done()
    assert not outcome.lingering, outcome.lingering
    at_work = isinstance(scene, SessionKeep)
    left = world.listed("staging") | world.listed("running") | set(outcome.groups)
    recovery = dice.choice(scene.recoveries)
    recovered = world(*recovery)
    assert recovered.status == 0, (recovery, recovered)
    if not at_work and scene.name != "repair":
        assert ("cleared" in recovered.said) == bool(left), (recovery, recovered, left)
    assert "Traceback" not in recovered.said
    assert not recovered.groups, recovered.groups
    assert not (bad := wrong(world.state, at_rest=not at_work)), bad
    scene.promised(outcome)
    again = world(*scene.words, stdin=scene.stdin)
    assert again.status in (scene.again or scene.statuses), again
    assert "cleared" not in again.said or scene.name == "repair", again
    scene.done()
    assert not (bad := wrong(world.state)), bad
    return outcome.killed


def called(point: str) -> str:
    """A point as a file's name or a test's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", point)[:80]
