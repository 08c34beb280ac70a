"""Many processes at work in one store at random, and then a look whether anything was lost.

    python -m system.crowd --state DIR --directory DIR --seconds 20 [--processes 32] [--seed N] [--kill]

prints one JSON document: the operations done, the expected errors, and all that was wrong. With ``--kill`` commands are
killed at random with SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from system.boot_rig import make_booty
from system.scenes import DEFINITION, content, wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE = 120.0  # seconds that a command may take before it counts as a deadlock
BOXES = "".join(
    f'[machines.box{n}]\nfrom = "layer:booty"\nnetwork = {{ mode = "none" }}\n' for n in range(3)
)  # machines that boot, which all share
OURS = {"tiny", "booty"}  # the names of layers that nobody removes
_GONE = r"there is no session \S+|session \S+ has just ended"
_USED = r"\S+ is in use"
_REMOVED = r"layer [0-9a-f]+ was removed meanwhile"
_BOX = [
    (1, rf"box\d: {text}")
    for text in (_USED, r"the session of \S+ (was removed meanwhile|is in use)", r"no machine \S+ was brought up")
]
EXPECTED = {  # kind of operation → (status, what it may say when another was faster)
    "shell": [(125, _GONE), (125, _USED)],
    "up": _BOX,
    "down": [*_BOX, (6, r"there is no machine 'box\d' that was brought up")],
    "box-session": [(6, _GONE), (7, _USED)],
    "diff": [(6, _GONE), (7, _USED)],
    "commit": [(6, _GONE), (7, _USED)],
    "session-remove": [(6, _GONE), (7, _USED)],
    "layer-remove": [(6, r"there is no layer \S+"), (7, r"layer \S+ is in use")],
    "use": [(125, r"machine used stands on the layer '\S+', which is not in the store"), (125, _REMOVED)],
}


class Member:
    """One of the crowd, a process of its own; what it did is in its log when it ends."""

    def __init__(self, number: int, state: str, directory: Path, dice: random.Random, *, kill: bool) -> None:
        self.number = number
        self.state = state
        self.directory = directory / str(number)
        self.directory.mkdir()
        (self.directory / "roost.toml").write_text(DEFINITION + BOXES, encoding="utf-8")
        self.dice = dice
        self.kill = kill
        self.count: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.kept: list[str] = []
        self.unkept: list[str] = []  # asked to be removed, whatever came of it
        self.named: dict[str, str] = {}
        self.unnamed: list[str] = []

    def work(self, until: float) -> None:
        """Until it is over."""
        operations: list[tuple[Callable[[], None], int]] = [
            (self.run, 6), (self.run_built, 3), (self.keep, 4), (self.commit, 4), (self.use, 4), (self.shell, 2), (self.diff, 1),
            (self.session_remove, 3), (self.layer_remove, 2), (self.remove_built, 2), (self.collect, 2), (self.look, 2), (self.matrix, 1),
            (self.up, 2), (self.down, 2), (self.box_session, 1),
        ]  # fmt: skip
        chosen, weights = zip(*operations, strict=True)
        while time.time() < until and not self.wrong:
            self.dice.choices(chosen, weights)[0]()

    def roost(self, kind: str, *words: str, stdin: bytes = b"") -> tuple[int, str]:
        """Runs a command: its status, None-like -9 when it was killed, and what it printed; wrong is what is not expected."""
        limit = self.dice.uniform(0.0, 0.25) if self.kill and self.dice.random() < 0.15 else PATIENCE
        status, out, err = _launch(words, self.state, self.directory, stdin, limit)
        if status == -signal.SIGKILL and limit < PATIENCE:
            self.count["killed"] += 1
            return status, out
        self.count[kind] += 1
        if status:
            told = re.search(r"^error: (.*)", err, re.MULTILINE)
            said = told[1] if told else err.strip()
            if any(status == code and re.fullmatch(text, said) for code, text in EXPECTED.get(kind, [])):
                self.count["expected errors"] += 1
            else:
                what = "no end" if status == -signal.SIGKILL else f"status {status}"
                self.wrong.append(f"{' '.join(words)}: {what}: {err[-600:]} {out[-300:]}")
        if "Traceback" in err:
            self.wrong.append(err)
        return status, out

    def _right(self, kind: str, out: str, wanted: str) -> None:
        if out != wanted:
            self.wrong.append(f"{kind}: {out!r} in place of {wanted!r}")

    # what it does

    def run(self) -> None:
        word = f"{self.dice.random()}"
        status, out = self.roost("run", "run", "tiny", "--", "sh", "-c", f"rm /etc/motd; echo {word} > /x; cat /x")
        if not status:
            self._right("run", out, word + "\n")

    def run_built(self) -> None:
        status, out = self.roost("run-built", "run", "top", "--", "cat", "/made")
        if not status:
            self._right("run-built", out, "made\n")

    def matrix(self) -> None:
        status, out = self.roost("matrix", "run", "a,b,higher", "--json", "-j", "2", "-q", "--", "hostname")
        if not status:
            states = [result["state"] for result in json.loads(out)["results"]]
            self._right("matrix", " ".join(states), "passed passed passed")

    def keep(self) -> None:
        machine = self.dice.choice(("tiny", "top"))
        word = self.dice.choice(("same", f"{self.dice.random()}"))
        script = f"echo {word} > /mine; echo x > /all; touch -d @1 /mine /all"
        status, out = self.roost("keep", "run", machine, "--keep", "--json", "--", "sh", "-c", script)
        if not status:
            self.kept.append(json.loads(out)["results"][0]["kept"])

    def _any_session(self) -> str:
        found = [name for name in os.listdir(f"{self.state}/sessions") if not name.startswith((".", "box"))]
        return self.dice.choice(found or ["tiny-000000"])

    def commit(self) -> None:
        session, name = self._any_session(), f"n{self.number}-{len(self.named)}-{self.dice.randrange(10**6)}"
        self.named[name] = ""
        status, out = self.roost("commit", "session", "commit", session, name, "--json")
        if status:
            self.unnamed.append(name)
        else:
            self.named[name] = json.loads(out)["digest"]

    def use(self) -> None:
        names = os.listdir(f"{self.state}/names")
        name = self.dice.choice([name for name in names if name not in OURS] or ["none"])
        file = self.directory / "use.toml"
        file.write_text(f'[machines.used]\nfrom = "layer:{name}"\n')
        status, out = self.roost("use", "-f", str(file), "run", "used", "--", "cat", "/all")
        if not status:
            self._right("use", out, "x\n")

    def shell(self) -> None:
        self.roost(
            "shell", "session", "shell", self._any_session(), stdin=b"cat /all > /dev/null; echo y > /y; exit 0\n"
        )

    def diff(self) -> None:
        self.roost("diff", "session", "diff", self._any_session())

    def session_remove(self) -> None:
        if len(os.listdir(f"{self.state}/sessions")) < 12:
            return
        session = self._any_session()
        self.unkept.append(session)
        if self.roost("session-remove", "session", "remove", session)[0] in (6, 7):
            self.unkept.pop()

    def layer_remove(self) -> None:
        names = [name for name in os.listdir(f"{self.state}/names") if name not in OURS]
        if len(names) > 6:
            name = self.dice.choice(names)
            self.unnamed.append(name)
            if self.roost("layer-remove", "layer", "remove", name)[0] in (6, 7):
                self.unnamed.pop()

    def up(self) -> None:
        self.roost("up", *self.dice.choice((("up",), ("up", "--ephemeral"))), f"box{self.dice.randrange(3)}")

    def down(self) -> None:
        verb = self.dice.choice((("down",), ("down",), ("down", "--remove"), ("restart",)))
        self.roost("down", *verb, f"box{self.dice.randrange(3)}")

    def box_session(self) -> None:
        """What a machine changed is taken away, in whatever state it is."""
        self.roost("box-session", "session", "remove", f"box{self.dice.randrange(3)}")

    def remove_built(self) -> None:
        """A layer that others are running on, or making, this very moment."""
        found = []
        for digest in os.listdir(f"{self.state}/layers"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(Path(f"{self.state}/layers/{digest}/layer.json").read_bytes())["kind"] != "committed":
                    found.append(digest)
        if found:
            self.roost("layer-remove", "layer", "remove", self.dice.choice(found)[:16])

    def collect(self) -> None:
        file = self.directory / "other.toml"
        file.write_text('[machines.tiny]\nfrom = "layer:tiny"\n')
        self.roost("gc", *(self.dice.choice(((), ("-f", str(file))))), "gc")

    def look(self) -> None:
        self.roost(
            "list",
            *self.dice.choice((("session", "list"), ("layer", "list"), ("list",), ("plan",), ("gc", "--dry-run"))),
        )


def _launch(words: Sequence[str], state: str, cwd: Path, stdin: bytes, limit: float) -> tuple[int, str, str]:
    streams = [tempfile.TemporaryFile(buffering=0) for _ in range(3)]  # noqa: SIM115  # closed below
    streams[0].write(stdin)
    streams[0].seek(0)
    pid = os.fork()
    if not pid:
        _become(words, state, cwd, [stream.fileno() for stream in streams])
    gone = os.pidfd_open(pid)
    if not select.select([gone], [], [], limit)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(gone)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    texts = []
    for stream in streams:
        stream.seek(0)
        texts.append(stream.read().decode(errors="replace"))
        stream.close()
    return status, texts[1], texts[2]


def _become(words: Sequence[str], state: str, cwd: Path, streams: list[int]) -> NoReturn:
    from roost.cli import run

    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            os.environ.pop(name, None)
        os.environ["ROOST_STATE"] = state
        for number, fd in enumerate(streams):
            os.dup2(fd, number, inheritable=True)
        sys.argv = ["roost", *words]
        run()
    finally:
        os._exit(99)


def crowd(state: str, directory: Path, *, seconds: float, processes: int, seed: int, kill: bool) -> dict[str, object]:
    """The whole of it."""
    from conftest import Group
    from system.faults import load_all

    load_all()
    make_booty(state, quick=True)
    group = Group()
    until = time.time() + seconds
    pids = []
    for number in range(processes):
        pid = os.fork()
        if not pid:
            member = Member(number, state, directory, random.Random(seed * 1000 + number), kill=kill)
            try:
                member.work(until)
            except Exception as e:
                member.wrong.append(f"the test itself: {e!r}")
            report = {name: getattr(member, name) for name in ("count", "wrong", "kept", "unkept", "named", "unnamed")}
            (directory / f"{number}.json").write_text(json.dumps(report))
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    members = [json.loads((directory / f"{number}.json").read_text()) for number in range(processes)]
    bad = [text for member in members for text in member["wrong"]]
    (directory / "roost.toml").write_text(DEFINITION + BOXES, encoding="utf-8")
    status, out, err = _launch(("down", "--remove", "*"), state, directory, b"", 60)
    bad += [f"down --remove: {status}: {out} {err}"] if status or os.listdir(f"{state}/booted") else []
    bad += _processes(group)
    bad += _afterwards(state, directory, members, kill=kill)
    bad += sorted(group.below())
    group.clear()
    group.close()
    counts: Counter[str] = sum((Counter(member["count"]) for member in members), Counter())
    return {"seed": seed, "done": counts, "wrong": bad}


def _processes(group: object, seconds: float = 5.0) -> list[str]:
    deadline = time.monotonic() + seconds
    while found := group.processes():  # type: ignore[attr-defined]
        if time.monotonic() > deadline:
            return sorted(found)
        time.sleep(0.01)
    return []


def _afterwards(state: str, directory: Path, members: list[dict[str, Any]], *, kill: bool) -> list[str]:
    """Whether all that was confirmed is there, and nothing that should not be."""
    status, _, err = _launch(("session", "list"), state, directory, b"", 60)
    bad = [] if status == 0 and (kill or "cleared" not in err) else [f"session list: {status}: {err}"]
    bad += wrong(state)
    sessions, names = set(os.listdir(f"{state}/sessions")), set(os.listdir(f"{state}/names"))
    unkept = {session for member in members for session in member["unkept"]}
    unnamed = {name for member in members for name in member["unnamed"]}
    for member in members:
        for session in set(member["kept"]) - unkept:
            path = Path(f"{state}/sessions/{session}/upper/mine")
            if session not in sessions or not path.exists():
                bad.append(f"the kept session {session} is lost")
        bad += [f"the layer {name} is lost" for name in set(member["named"]) - unnamed - names]
    for name in sorted(names - OURS)[:12]:
        file = directory / "last.toml"
        file.write_text(f'[machines.used]\nfrom = "layer:{name}"\n')
        status, out, err = _launch(("-f", str(file), "run", "used", "--", "cat", "/all"), state, directory, b"", 60)
        if (status, out) != (0, "x\n"):
            bad.append(f"the layer {name} does not work: {status} {out} {err}")
    return bad + _same(state, members)


def _same(state: str, members: list[dict[str, Any]]) -> list[str]:
    """What a name means is what was committed under it; and two layers with one content and one parent are one."""
    bad: list[str] = []
    seen: dict[object, str] = {}
    meant = {name: digest for member in members for name, digest in dict(member["named"]).items() if digest}
    for name, digest in meant.items():
        path = Path(f"{state}/names/{name}")
        if path.exists() and path.read_text() != digest:
            bad.append(f"the name {name} means another layer than was committed")
    for digest in os.listdir(f"{state}/layers"):
        record = json.loads(Path(f"{state}/layers/{digest}/layer.json").read_bytes())
        key = (record["kind"], tuple(record["parents"]), content(f"{state}/layers/{digest}/tree"))
        if seen.setdefault(key, digest) != digest:
            bad.append(f"layers {digest} and {seen[key]} are the same")
    return bad


def main() -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", required=True)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    print(
        json.dumps(
            crowd(
                options.state, options.directory, seconds=options.seconds, processes=options.processes, seed=options.seed, kill=options.kill
            )
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
