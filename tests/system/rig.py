"""What the system tests stand on: the command in a store of its own, and a tree that is made in a moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import roost
from roost.records import LayerRecord
from roost.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUSYBOX = "/bin/busybox"
TINY = """
[machines.tiny]
from = "layer:tiny"
"""
COMMAND = (sys.executable, "-m", "roost")


class Done(NamedTuple):
    """How the command ended, and all that it said."""

    status: int
    out: bytes
    err: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode()

    @property
    def said(self) -> str:
        """Standard error as text."""
        return self.err.decode(errors="replace")


class Rig:
    """The command ``roost`` with a state directory and a definition."""

    def __init__(self, state: str, directory: Path, definition: str = TINY) -> None:
        self.state = state
        self.directory = directory
        self.file = directory / "roost.toml"
        self.define(definition)

    def define(self, text: str) -> None:
        """Writes the definition."""
        self.file.write_text(text, encoding="utf-8")

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """That of the command: a person's, without what the tests' caller may have said."""
        odd = ("ROOST_STATE", "NO_COLOR", "FORCE_COLOR", "CI", "SUDO_UID", "SUDO_GID", "COLUMNS")
        kept = {name: value for name, value in os.environ.items() if name not in odd}
        return {**kept, "ROOST_STATE": self.state, **(more or {})}

    def __call__(
        self,
        *words: str,
        stdin: bytes | int | None = b"",
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> Done:
        """Runs it to its end."""
        feed: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        began = time.monotonic()
        done = subprocess.run(
            (*prefix, *COMMAND, *words),
            cwd=self.directory,
            env=self.environment(env),
            capture_output=True,
            timeout=timeout,
            check=False,
            **feed,
        )
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def run(self, script: str, *options: str, machine: str = "tiny", **more: Any) -> Done:
        """``roost run MACHINE OPTIONS -- sh -c SCRIPT``."""
        return self("run", machine, *options, "--", "sh", "-c", script, **more)

    def result(self, script: str, *options: str, machine: str = "tiny", **more: Any) -> dict[str, Any]:
        """The only result of such a run."""
        done = self.run(script, "--json", *options, machine=machine, **more)
        assert done.out, done
        document = json.loads(done.out)
        assert len(document["results"]) == 1, done
        found: dict[str, Any] = document["results"][0]
        return found

    def kept(self, script: str, *options: str, machine: str = "tiny") -> str:
        """The id of a session in which a script has run."""
        result = self.result(script, "--keep", *options, machine=machine)
        assert result["kept"], result
        session: str = result["kept"]
        return session

    def json(self, *words: str) -> Any:
        """The document that a verb prints with --json."""
        done = self(*words, "--json")
        assert done.status == 0, done
        return json.loads(done.out)

    def manager(self) -> roost.Manager:
        """The same as a library."""
        return roost.Manager(roost.load(self.file), state=self.state)

    @contextlib.contextmanager
    def started(self, *words: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        """The command while it runs, in a process group of its own; killed at the end when it still does."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "process_group": 0,
            **more,
        }
        child = subprocess.Popen((*COMMAND, *words), cwd=self.directory, env=self.environment(), **options)
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()

    def sessions(self) -> list[str]:
        """The sessions in the store, whether kept, in use or left over."""
        return sorted(name for place in ("running", "sessions") for name in os.listdir(f"{self.state}/{place}"))

    def upper(self, session: str) -> str:
        """What a session changed, as it is on the disk."""
        return f"{self.state}/sessions/{session}/upper"


def wait_for(what: Any, seconds: float = 10.0) -> Any:
    """The first true answer of ``what``; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"still not true after {seconds:g} s"
        time.sleep(0.01)
    return answer


def pick(manager: int, victim: str) -> int:
    """A process of a running build or run."""
    if victim == "manager":
        return manager
    if victim == "job":
        return below(manager)[0]
    wanted = {"nspawn": "systemd-nspawn", "init": "roost-init", "inside": "sleep"}[victim]
    # first of all: in a new store an nspawn and a roost-init come and go, to read the seccomp filters of
    wait_for(lambda: any(name_of(pid) == "sleep" for pid in below(manager)))
    found: int = wait_for(lambda: next((pid for pid in below(manager) if name_of(pid) == wanted), 0))
    return found


def name_of(pid: int) -> str:
    """What ps calls a process; nothing when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def below(pid: int) -> list[int]:
    """All descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [pid for child in children for pid in (int(child), *below(int(child)))]


def link_layers(source: str, target: str, digests: tuple[str, ...]) -> None:
    """Layers of one store in another on the same file system, as hard links: a second in place of a minute."""
    Store(target).prepare()
    for digest in digests:
        if not os.path.exists(f"{target}/layers/{digest}"):
            subprocess.run(("cp", "-al", f"{source}/layers/{digest}", f"{target}/layers/{digest}"), check=True)


def make_tiny(state: str) -> None:
    """The committed layer ``tiny``: a static busybox, root and one user, nothing else."""
    store = Store(state)
    store.prepare()
    record = LayerRecord(
        digest="7" * 64, parents=(), kind="committed", name="layer tiny", family="apt", facts={}, created=time.time()
    )
    with store.staged("stage") as stage:
        tree = f"{stage}/tree"
        for name in (
            "bin",
            "dev",
            "etc",
            "home/user",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "usr/share",
            "var/cache/apt/archives",
        ):
            os.makedirs(f"{tree}/{name}")
        os.chmod(f"{tree}/tmp", 0o1777)
        os.chown(f"{tree}/home/user", 1000, 1000)
        with open(BUSYBOX, "rb") as source, open(f"{tree}/bin/busybox", "wb") as target:
            target.write(source.read())
        os.chmod(f"{tree}/bin/busybox", 0o755)
        listing = subprocess.run((BUSYBOX, "--list"), capture_output=True, text=True, check=True)
        for name in set(listing.stdout.split()) - {"busybox"}:
            os.symlink("busybox", f"{tree}/bin/{name}")
        for name, text in _TINY_FILES.items():
            with open(f"{tree}/{name}", "w", encoding="ascii") as stream:
                stream.write(text)
        os.symlink("../usr/share/target", f"{tree}/etc/absolute-less")
        store.publish(stage, record)
    store.set_name("tiny", record.digest)


_TINY_FILES = {
    "etc/os-release": "ID=tiny\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    "etc/group": "root:x:0:\nuser:x:1000:\ndialout:x:20:user\n",
    "etc/motd": "one\ntwo\nthree\n",
    "usr/share/target": "linked\n",
}
