"""Kills Roost at a named point: an audit hook (PEP 578) that exists in the tests only.

    python -m system.faults --record FILE -- roost run …      each point that is reached, one a line
    python -m system.faults --kill 'POINT' [--ordinal N] -- roost run …

A point is an event with its path, made the same for every run: ``os.rename S/running/ID -> S/sessions/ID``. The hook is
in every process that Roost forks. At the point it asks whoever watches to kill first Roost and then itself, with SIGKILL.

``Worker`` is the same for tests: a process that has Roost loaded already, and forks it for each command.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import pkgutil
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Group

_HIGH = 300  # above the descriptors that Roost gives numbers to
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PATHS = {  # event → which arguments are paths, and which are the descriptors of the directories that they are in
    "os.mkdir": ((0,), (2,)), "os.rmdir": ((0,), (1,)), "os.remove": ((0,), (1,)), "os.rename": ((0, 1), (2, 3)),
    "os.link": ((0, 1), (2, 3)), "os.symlink": ((1,), (2,)), "os.chmod": ((0,), (2,)), "os.chown": ((0,), (3,)),
    "os.utime": ((0,), (3,)), "os.truncate": ((0,), ()), "os.setxattr": ((0,), ()), "os.removexattr": ((0,), ()),
    "os.exec": ((0,), ()), "os.fork": ((), ()), "subprocess.Popen": ((0,), ()), "os.kill": ((), ()), "os.killpg": ((), ()),
    "fcntl.ioctl": ((), ()),
    "shutil.copyfile": ((1,), ()), "shutil.rmtree": ((0,), ()), "shutil.move": ((0, 1), ()), "os.posix_spawn": ((0,), ()),
}  # fmt: skip


def point(event: str, args: Sequence[Any], state: str) -> str:
    """The name of a point; empty when nothing outside the process is changed there."""
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or not isinstance(flags, int) or not flags & _WRITING:
            return ""
        words = [_path(path)]
        if words[0].startswith("/dev/") or "__pycache__" in words[0]:
            return ""
    elif event == "fcntl.flock":
        if not args[1] & fcntl.LOCK_EX:
            return ""
        words = [_path(args[0])]
    elif event.startswith("roost."):
        words = [_path(args[0])] if isinstance(args[0], str) or event == "roost.syncfs" else []
    elif event in _PATHS:
        paths, directories = _PATHS[event]
        words = []
        for number, index in enumerate(paths):
            at = args[directories[number]] if number < len(directories) else -1
            words.append(_path(args[index], at if isinstance(at, int) else -1))
    else:
        return ""
    return _plain(" ".join([event, " -> ".join(words)]).strip(), state)


def _path(path: Any, directory: int = -1) -> str:
    if isinstance(path, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{path}")
        return "?"
    text = os.fsdecode(path) if path is not None else "?"
    if directory >= 0 and not text.startswith("/"):
        with contextlib.suppress(OSError):
            text = os.readlink(f"/proc/self/fd/{directory}") + "/" + text
    return text


_SAME = (
    (re.compile(r"/(tree|upper|work)/[^>]+?(?= -> |$)"), r"/\1/…"),
    (re.compile(r"\b\d{8}-\d{6}-[0-9a-f]+"), "RUN"),
    (re.compile(r"[0-9a-f]{6,}"), "ID"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+"), "ADDRESS"),
    (re.compile(r"rtests-\d+"), "rtests-N"),
    (re.compile(r"/\d+(?=/|$| )"), "/N"),
    (re.compile(r"/tmp/[^/ ]+"), "/tmp/T"),
)


def _plain(text: str, state: str) -> str:
    text = text.replace(state, "S")
    for pattern, with_what in _SAME:
        text = pattern.sub(with_what, text)
    return text


class Hook:
    """What is added to Roost's process.

    ``tokens`` is a pipe with a ``p`` for each time that the point is to be let pass, and one ``k``.
    """

    def __init__(self, state: str, *, log: int = -1, kill: str = "", tokens: int = -1, watcher: int = -1) -> None:
        self._state = state
        self._log = log
        self._kill = kill
        self._tokens = tokens
        self._watcher = watcher

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" and event != "fcntl.flock" and event not in _PATHS and not event.startswith("roost."):
            return
        name = point(event, args, self._state)
        if not name:
            return
        if self._log >= 0:
            os.write(self._log, name.encode(errors="replace") + b"\n")
        if name == self._kill:
            try:
                if os.read(self._tokens, 1) == b"p":
                    return
            except BlockingIOError:  # another process of Roost is being killed there
                return
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # nothing is cleared up on the way
            os.write(self._watcher, b"here")
            while True:
                time.sleep(60)


def _high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)


class Outcome(NamedTuple):
    """How a command ended. ``killed``: at the point that was asked for. ``lingering``: processes that did not end."""

    status: int
    out: bytes
    err: bytes
    killed: bool
    points: list[str]
    lingering: list[str]
    groups: list[str]

    @property
    def said(self) -> str:
        """Standard error as text."""
        return self.err.decode(errors="replace")


def launch(
    words: Sequence[str], *, state: str, cwd: str, env: dict[str, str], stdin: bytes, record: bool, kill: str, ordinal: int,
    timeout: float, group: Group | None, machines: str = "",
) -> Outcome:  # fmt: skip
    """Forks Roost with the hook in it, and waits until it has ended, and all that it has started.

    ``machines``: supervisors of machines have the hook too. ``stay`` lets them live on, with ``end`` they end by themselves.
    """
    watcher, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    watcher.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    tokens_r, tokens_w = os.pipe()
    os.set_blocking(tokens_r, False)
    os.write(tokens_w, b"p" * (ordinal - 1) + b"k")
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile(buffering=0)) for _ in range(4)]
        streams[0].write(stdin)
        streams[0].seek(0)
        for closing in (watcher, asking):
            stack.callback(closing.close)
        for fd in (tokens_r, tokens_w):
            stack.callback(os.close, fd)
        fcntl.fcntl(streams[3], fcntl.F_SETFL, os.O_APPEND)
        pid = os.fork()
        if not pid:
            hook = Hook(
                state, log=_high(streams[3].fileno()) if record else -1, kill=kill, tokens=_high(tokens_r),
                watcher=_high(asking.fileno()),
            )  # fmt: skip
            _become(words, cwd, env, [stream.fileno() for stream in streams[:3]], hook, forks=bool(machines))
        killed, status = _wait(pid, watcher, timeout, group if machines == "end" else None)
        lingering = [] if machines == "stay" else _lingering(group)
        groups = sorted(group.below()) if group else []
        texts = []
        for stream in streams[1:]:
            stream.seek(0)
            texts.append(stream.read())
    points = texts[2].decode(errors="replace").splitlines()
    return Outcome(status, texts[0], texts[1], killed, points, lingering, groups)


def _become(
    words: Sequence[str], cwd: str, env: dict[str, str], streams: list[int], hook: Hook, *, forks: bool
) -> NoReturn:
    from roost.cli import run
    from roost.host import runner

    try:
        if forks:
            runner.spawn = _forked
        os.setpgid(0, 0)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        for number, fd in enumerate(streams):
            os.dup2(fd, number, inheritable=True)
        sys.argv = ["roost", *words]
        sys.addaudithook(hook)
        run()
    finally:
        os._exit(99)


def _forked(argv: Sequence[str], *, fds: Sequence[int] = (), output: int) -> int:
    """In the place of ``runner.spawn``, for a machine's supervisor: a fork, which has the hook."""
    from roost.host import runner

    if pid := os.fork():
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(asked, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number, fd in enumerate((null, output, output)):
            os.dup2(fd, number, inheritable=True)
        for name in os.listdir("/proc/self/fd"):
            if 2 < int(name) < _HIGH and int(name) not in fds:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        os.chdir("/")
        environment = runner.child_env({})
        os.environ.clear()
        os.environ.update(environment)
        program, state, name, told, *later = argv[argv.index("roost.boot") + 1 :]
        module = importlib.import_module(f"roost.boot.{program}")
        status = (module.supervise_later if later else module.supervise)(state, name, int(told))
        sys.stderr.flush()
        os._exit(status)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(99)


def _wait(pid: int, watcher: socket.socket, timeout: float, group: Group | None) -> tuple[bool, int]:
    """Whether it asked to be killed, and its status as subprocess has it; ``group``: until nothing of it is left."""
    gone = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([gone, watcher.fileno()], [], [], timeout)
        killed = watcher.fileno() in ready and _killed(pid, watcher)
        if not ready:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(gone)
    _, status = os.waitpid(pid, 0)
    deadline = time.monotonic() + timeout
    while group and not killed and group.processes() and time.monotonic() < deadline:
        ready, _, _ = select.select([watcher.fileno()], [], [], 0.01)
        killed = bool(ready) and _killed(0, watcher)
    return killed, os.waitstatus_to_exitcode(status)


def _killed(pid: int, watcher: socket.socket) -> bool:
    """Kills whoever asks for it, and Roost first."""
    _, extra, _, _ = watcher.recvmsg(16, socket.CMSG_SPACE(struct.calcsize("3i")))
    [acting] = [struct.unpack("3i", data)[0] for _, kind, data in extra if kind == socket.SCM_CREDENTIALS]
    for victim in (pid, acting):
        if victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    return True


def _lingering(group: Group | None, seconds: float = 5.0) -> list[str]:
    deadline = time.monotonic() + seconds
    while group and (left := group.processes()):
        if time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.002)
    return []


def load_all() -> None:
    """Imports all of Roost, so that a fork has it."""
    import roost

    for module in pkgutil.walk_packages(roost.__path__, "roost."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


class Worker:
    """A process in a control group of its own that runs commands of Roost one after the other."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self._child = subprocess.Popen(
            (*prefix, sys.executable, "-m", "system.faults", "--serve"),
            cwd=tests,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(self, *words: str, **request: Any) -> Outcome:
        """Runs a command to its end, or to a point."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        request["stdin"] = request.get("stdin", b"").decode()
        self._child.stdin.write(json.dumps({"words": words, **request}).encode() + b"\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, "the worker has ended"
        status, out, err, *more = json.loads(line)
        return Outcome(status, out.encode("latin-1"), err.encode("latin-1"), *more)

    def close(self) -> None:
        """Ends it."""
        self._child.communicate()


def _serve() -> None:
    from conftest import Group

    load_all()
    group = Group()
    try:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            request["stdin"] = request["stdin"].encode()
            status, out, err, *more = launch(**request, group=group)
            print(json.dumps([status, out.decode("latin-1"), err.decode("latin-1"), *more]), flush=True)
    finally:
        group.close()


def main() -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(description="run roost, record its named points, or kill it at one")
    parser.add_argument("--record", metavar="FILE")
    parser.add_argument("--kill", metavar="POINT", default="")
    parser.add_argument("--ordinal", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    if options.serve:
        _serve()
        return
    load_all()
    outcome = launch(
        options.words[1:] if options.words[:1] == ["roost"] else options.words, state=os.environ.get("ROOST_STATE", "/var/lib/roost"),
        cwd=os.getcwd(), env=dict(os.environ), stdin=b"", record=bool(options.record), kill=options.kill,
        ordinal=options.ordinal, timeout=600, group=None,
    )  # fmt: skip
    sys.stdout.buffer.write(outcome.out)
    sys.stderr.buffer.write(outcome.err)
    if options.record:
        with open(options.record, "w", encoding="utf-8") as stream:
            stream.writelines(f"{text}\n" for text in outcome.points)
    sys.exit(128 - outcome.status if outcome.status < 0 else outcome.status)


if __name__ == "__main__":
    main()
