"""The one door to other processes: nothing else in Roost starts one.

``run`` starts a program and reads it to its end; ``fork`` and ``in_child`` run a Python function in a child, for work
that needs namespaces of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import sys
import time

from roost.errors import CommandError, Error, HostError, Interrupted, from_parts, to_parts
from roost.host import syscalls
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn

BLOCK = 65536
GRACE = 5.0  # seconds between TERM and KILL
KEPT = 1 << 20  # bytes of output kept for messages; the rest has been handed on

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED = (
    "TERM",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
)
# setpriv: util-linux's unshare ends its child when it ends, but nothing would end unshare when Roost is killed
_PRIVATE = (
    "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc",
    "--kill-child", "--",
)  # fmt: skip


class Command(Struct, frozen=True, kw_only=True):
    """A program to run on the host. ``private``: in mount and pid namespaces of its own, so that nothing outlives it."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: str | None = None
    stdin: bytes = b""
    timeout: float | None = None
    private: bool = False


class Finished(Struct, frozen=True, kw_only=True):
    """How a program ended: ``status`` as subprocess has it (negative: a signal); ``output`` is the last of both streams."""

    command: Command
    status: int
    output: bytes
    seconds: float


def child_env(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of every child: built, not inherited, so that it is the same in a shell, in cron and in CI."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    base = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
    return {**base, **kept, **extra}


def run(command: Command, *, on_output: Callable[[bytes], None] | None = None) -> Finished:
    """Runs a program to its end and reads all that it prints.

    Raises HostError when it is not installed, CommandError when it runs out of time (then all of it was killed).
    """
    import subprocess  # a session needs none of it

    began = time.monotonic()
    argv = command.argv
    if command.private:
        argv = (*_PRIVATE, *argv)
    with contextlib.ExitStack() as stack:
        try:
            child = subprocess.Popen(
                argv, env=child_env(command.env), cwd=command.cwd, start_new_session=True,
                stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            )  # fmt: skip
        except FileNotFoundError as e:
            name = command.argv[0] if e.filename != command.cwd else str(command.cwd)
            raise HostError(f"{name} is not installed", hint=f"apt install {name}") from None
        stack.callback(_end, child)
        output = _communicate(child, command, on_output, began)
        status = child.wait()
    return Finished(command=command, status=status, output=output, seconds=time.monotonic() - began)


def check(done: Finished) -> Finished:
    """Raises CommandError, with a line to paste and the end of the output, unless the status is 0."""
    import shlex

    if done.status == 0:
        return done
    tail = done.output[-4000:].decode(errors="replace").strip()
    raise CommandError(
        f"{done.command.argv[0]}: {ending(done.status)}",
        details=f"$ {shlex.join(done.command.argv)}\n{tail}",
    )


def ending(status: int) -> str:
    """How a status reads: ``exit status 2``, ``killed by SIGKILL``."""
    return f"killed by {signal_name(-status)}" if status < 0 else f"exit status {status}"


def signal_name(number: int) -> str:
    """SIGSEGV for 11; a number without a name (a real-time signal) stays one: ``SIG35``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _communicate(
    child: subprocess.Popen[bytes], command: Command, on_output: Callable[[bytes], None] | None, began: float
) -> bytes:
    """Feeds and reads until both the output has ended and the program has, or only the program (a daemon holds the pipe)."""
    assert child.stdout is not None
    kept = bytearray()
    pending = memoryview(command.stdin)
    gone = os.pidfd_open(child.pid)
    with contextlib.closing(selectors.DefaultSelector()) as poller, contextlib.ExitStack() as stack:
        stack.callback(os.close, gone)
        poller.register(gone, selectors.EVENT_READ)
        poller.register(child.stdout, selectors.EVENT_READ)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            poller.register(child.stdin, selectors.EVENT_WRITE)
        while True:
            left = None if command.timeout is None else max(0.0, began + command.timeout - time.monotonic())
            ready = {key.fileobj for key, _ in poller.select(left)}
            if not ready and left is not None:
                raise CommandError(
                    f"{command.argv[0]} did not end within {command.timeout:g} s", details=" ".join(command.argv)
                )
            if child.stdin in ready and child.stdin is not None:
                pending = _feed(child.stdin.fileno(), pending)
                if not pending:
                    poller.unregister(child.stdin)
                    child.stdin.close()
            if child.stdout in ready:
                block = os.read(child.stdout.fileno(), BLOCK)
                if not block:
                    return bytes(kept)
                kept += block
                del kept[:-KEPT]
                if on_output is not None:
                    on_output(block)
            elif gone in ready:
                return bytes(kept)


def _feed(fd: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(fd, data[:BLOCK]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:  # it does not want the rest
        return data[:0]


def _end(child: subprocess.Popen[bytes]) -> None:
    """TERM, a while, KILL for the whole group; nothing is left, not even a zombie."""
    import subprocess

    if child.stdin is not None:
        child.stdin.close()
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


class Filtered:
    """What a program makes of its input: a stream to read. Its end is one only when the program has ended well."""

    def __init__(self, argv: Sequence[str], blocks: Iterable[bytes]) -> None:
        import subprocess
        import threading

        self._argv = argv
        self._error: Exception | None = None
        self._said = os.memfd_create("roost-said", os.MFD_CLOEXEC)
        try:
            self._child = subprocess.Popen(
                argv, env=child_env({}), start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._said,
            )  # fmt: skip
        except FileNotFoundError:
            os.close(self._said)
            raise HostError(f"{argv[0]} is not installed", hint=f"apt install {argv[0]}") from None
        self._feeder = threading.Thread(target=self._feed, args=(blocks,), daemon=True)
        self._feeder.start()

    def _feed(self, blocks: Iterable[bytes]) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._child.stdin as stream:
            try:
                for block in blocks:
                    stream.write(block)
            except BrokenPipeError:
                raise
            except Exception as e:  # it is raised again where the output is read
                self._error = e

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end. Raises CommandError when the program has failed."""
        assert self._child.stdout is not None
        if data := self._child.stdout.read(size):
            return data
        self._feeder.join()
        if self._error is not None:
            raise self._error
        if status := self._child.wait():
            said = os.pread(self._said, 4000, 0).decode(errors="replace").strip()
            raise CommandError(f"{self._argv[0]}: {ending(status)}", details=said)
        return b""

    def close(self) -> None:
        """Ends the program, if it has not."""
        self._child.kill()
        self._child.wait()
        self._feeder.join()
        assert self._child.stdout is not None
        self._child.stdout.close()
        os.close(self._said)


@contextlib.contextmanager
def filtered(argv: Sequence[str], blocks: Iterable[bytes]) -> Iterator[Filtered]:
    """A program that reads ``blocks``, and what it makes of them; it ends with the block. Raises HostError without it."""
    stream = Filtered(argv, blocks)
    try:
        yield stream
    finally:
        stream.close()


def spawn(argv: Sequence[str], *, fds: Sequence[int] = (), output: int) -> int:
    """Starts a program that outlives this process, in a session of its own; its pid.

    ``fds`` stay open in it under their numbers; ``output`` takes what it prints. Raises HostError.
    """
    import subprocess

    try:
        return subprocess.Popen(
            argv, env=child_env({}), cwd="/", start_new_session=True, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output,
        ).pid  # fmt: skip
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not installed", hint=f"apt install {argv[0]}") from None


def fork(function: Callable[[], object], *, new_pid_namespace: bool = False) -> int:
    """Runs ``function`` in a child, which ends when the function returns (status 0) or raises (70); returns its pid.

    In a new pid namespace the child is process 1: when it ends, the kernel ends all that it has started.
    """
    if not new_pid_namespace:
        return _fork(function)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)  # for the next child only: undone below
        try:
            return _fork(function)
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)


def fork_into(function: Callable[[], object], cgroup: str, *, new_pid_namespace: bool = True) -> tuple[int, bool]:
    """Like ``fork``, in the control group whose directory is ``cgroup``, if that can be.

    It needs cgroup v2, a kernel that knows clone3(2) and a process of one thread; says whether it was so.
    """
    if cgroup and len(os.listdir("/proc/self/task")) == 1:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = syscalls.CLONE_NEWPID if new_pid_namespace else 0
            pid = syscalls.clone3(flags | syscalls.CLONE_INTO_CGROUP, cgroup=fd)
        except OSError:  # an old kernel, or a filter around us
            pass
        else:
            if not pid:
                _become(function)
            return pid, True
        finally:
            os.close(fd)
    return fork(function, new_pid_namespace=new_pid_namespace), False


def _fork(function: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        _become(function)
    return pid


def _become(function: Callable[[], object]) -> NoReturn:
    status = 70
    try:
        function()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 70
    except Exception:  # a mistake of ours, which nobody else would see
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def in_child(function: Callable[[], Any], *, stop_fd: int | None = None) -> Any:
    """The value of ``function``, computed in a child and brought back as JSON.

    An ``Error`` or OSError that it raises is raised here again. The child dies with this process, and when something
    can be read from ``stop_fd`` (then Interrupted is raised).
    """
    from msgspec import json  # a plain run needs none of it

    reader, writer = os.pipe()
    parent = os.getpid()

    def work() -> None:
        os.close(reader)
        die_with_parent()
        if os.getppid() != parent:
            return
        answer: dict[str, Any] = {}
        try:
            answer["value"] = function()
        except Error as e:
            answer["error"] = to_parts(e)
        except OSError as e:
            answer["oserror"] = [
                e.errno,
                e.strerror,
                os.fsencode(e.filename).decode(errors="backslashreplace")
                if isinstance(e.filename, str | bytes)
                else None,
            ]
        with open(writer, "wb") as stream:
            stream.write(json.encode(answer))

    pid = fork(work)
    os.close(writer)
    data, stopped = bytearray(), False
    try:
        while not stopped:  # to the end before it waits: an answer may be larger than the pipe
            ready, _, _ = select.select([reader, *([] if stop_fd is None else [stop_fd])], [], [])
            stopped = stop_fd in ready
            if reader in ready:
                if not (block := os.read(reader, BLOCK)):
                    break
                data += block
    finally:
        os.close(reader)
        if stopped or not data:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if stopped:
        raise Interrupted("interrupted", hint="run it again")
    if not data:
        raise HostError(f"a helper process ended early: {ending(os.waitstatus_to_exitcode(status))}", hint="try again")
    answer = json.decode(data)
    if "oserror" in answer:
        raise OSError(*answer["oserror"])
    if "error" in answer:
        raise from_parts(answer["error"])
    return answer["value"]


def read_now(fd: int) -> bytes:
    """What there is to read, at most a block; nothing when there is nothing yet. The descriptor does not wait from now on."""
    os.set_blocking(fd, False)
    try:
        return os.read(fd, BLOCK)
    except BlockingIOError:
        return b""


def send_signal(pidfd: int, pid: int, number: int) -> None:
    """Sends a signal to the process ``pid`` by its descriptor; one that has ended gets none."""
    sys.audit("os.kill", pid, number)  # Python's own calls raise it too, but not this one
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """This process is sent ``sig`` when the thread that forked it ends (prctl PR_SET_PDEATHSIG)."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, sig)


def reap(pid: int, *, timeout: float | None = None) -> int | None:
    """Waits for a child; its status as subprocess has it, or None when ``timeout`` seconds have passed."""
    if timeout is not None:
        fd = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if not poller.poll(timeout * 1000):
                return None
        finally:
            os.close(fd)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
