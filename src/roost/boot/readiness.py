"""When a machine that boots is ready, by its own init's word, and what it has logged."""

from __future__ import annotations

import os
import select
import time

from roost.boot import leader as leaders
from roost.boot.inside import filters_of, run_inside
from roost.engine.execute import Streams
from roost.errors import HostError, Interrupted
from roost.host import syscalls
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from roost.boot.leader import Leader
    from roost.engine.execute import Ended

_PAUSE = 0.05  # seconds between two questions to an init that has no answer yet
_DEAF = 3.0  # seconds after which it is asked although nothing says that it listens
_ASKED = 10.0  # seconds that one question may take: systemctl has been seen to miss the answer (systemd before 243)
_GRACE = 0.2  # seconds that a question has to end: systemctl does not heed SIGTERM
_SHOWN = 15  # lines of the log in an error
_KEPT = 65536  # bytes of an answer; a machine may say anything
_TAIL = 1 << 18  # bytes of a console's log that its last lines are looked for in
_DONE = ("running", "degraded", "maintenance")


class Ready(Struct, frozen=True, kw_only=True):
    """``state``: running, degraded or maintenance (systemd's words), or "ready". ``failed`` units, of systemd's."""

    state: str
    failed: tuple[str, ...] = ()


def is_systemd(leader: Leader) -> bool:
    """Whether the machine's init is systemd."""
    return os.path.basename(leaders.program(leader).removesuffix(" (deleted)")) == "systemd"


def wait_ready(
    leader: Leader, ready: str = "", *, timeout: float, stop_fd: int | None = None, console: str = "",
    filters: Sequence[bytes] | None = None,
) -> Ready:  # fmt: skip
    """Waits until the machine is ready, at most ``timeout`` seconds.

    With ``ready``, a command for its sh: when that ends with status 0. Else a systemd says so itself, and of another
    init it is enough that it runs. ``console`` is a file with what the machine has said on its console.

    Raises HostError, with the last lines of its log, when it does not get ready or ends; Interrupted on ``stop_fd``.
    """
    deadline = time.monotonic() + timeout
    began = False
    while (left := deadline - time.monotonic()) > 0:
        if not leaders.is_alive(leader):
            raise HostError(
                "the machine ended while it was starting", details=_last(leader, console), hint="see `roost logs`"
            )
        began = began or leaders.has_begun(leader)
        if began and not ready and not is_systemd(leader):
            return Ready(state="ready")
        if began and (ready or _listens(leader) or timeout - left > _DEAF):
            try:
                filters = filters_of(leader) if filters is None else filters
                found = _ask(leader, ready, min(left, _ASKED), stop_fd, filters)
            except HostError:
                if leaders.is_alive(leader):
                    raise
                continue
            if found is not None:
                return found
            _pause(_PAUSE, stop_fd)
        _pause(_PAUSE / 10, stop_fd)
    raise HostError(
        f"the machine was not ready within {timeout:g} s" + (f": `{ready}` never ended with status 0" if ready else ""),
        details=_last(leader, console, filters),
        hint="`roost logs` shows more; boot.timeout in the definition gives it longer",
    )


def _listens(leader: Leader) -> bool:
    """Whether its systemd can be asked by now: an earlier question costs more than many looks, and has no answer."""
    try:
        root = os.open(f"/proc/{leader.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(syscalls.openat2("run/systemd/private", os.O_PATH, root=root))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


def state(leader: Leader) -> str:
    """How a running machine is, in its systemd's word; of another init, that it is up."""
    if not leaders.has_begun(leader):
        return "starting"
    if not is_systemd(leader):
        return "up"
    _, text = _answer(leader, ("systemctl", "is-system-running"), _ASKED, None, filters_of(leader))
    return text.strip() or "up"


def _ask(
    leader: Leader, ready: str, seconds: float, stop_fd: int | None, filters: Sequence[bytes] | None
) -> Ready | None:
    """Its answer, if it has one."""
    command = ("sh", "-c", ready) if ready else ("systemctl", "is-system-running", "--wait")
    ended, text = _answer(leader, command, seconds, stop_fd, filters)
    if ended.stopped == "stop":
        raise Interrupted("interrupted", hint="the machine goes on starting: `roost status`")
    if ready:
        return Ready(state="ready") if ended.status == 0 else None
    state = text.strip()
    if state not in _DONE:
        return None
    return Ready(state=state, failed=_failed(leader, filters) if state == "degraded" else ())


def _failed(leader: Leader, filters: Sequence[bytes] | None) -> tuple[str, ...]:
    command = ("systemctl", "list-units", "--state=failed", "--no-legend", "--no-pager", "--plain", "--full")
    _, text = _answer(leader, command, _ASKED, None, filters)
    return tuple(line.split()[0] for line in text.splitlines() if line.strip())


def _answer(
    leader: Leader, command: tuple[str, ...], seconds: float, stop_fd: int | None, filters: Sequence[bytes] | None
) -> tuple[Ended, str]:
    said = bytearray()

    def take(stream: int, block: bytes) -> None:
        if stream == 1 and len(said) < _KEPT:
            said.extend(block)

    ended = run_inside(
        leader,
        command,
        streams=Streams(on_output=take),
        stop_fd=stop_fd,
        timeout=seconds,
        filters=filters,
        directory="/",
        grace=_GRACE,
    )
    return ended, said.decode(errors="replace")


def _pause(seconds: float, stop_fd: int | None) -> None:
    if stop_fd is not None and select.select([stop_fd], [], [], seconds)[0]:
        raise Interrupted("interrupted", hint="the machine goes on starting: `roost status`")
    if stop_fd is None:
        time.sleep(seconds)


def _last(leader: Leader, console: str, filters: Sequence[bytes] | None = None) -> str:
    """The last lines of its journal, or of its console."""
    text = ""
    if leaders.is_alive(leader) and leaders.has_begun(leader):
        command = ("journalctl", "--no-pager", "--quiet", "--output=cat", "--lines", str(_SHOWN))
        try:
            text = _answer(leader, command, _ASKED, None, filters)[1]
        except HostError:
            text = ""
    return text.rstrip() or "\n".join(tail(console, _SHOWN)) or "it has logged nothing"


def tail(path: str, lines: int) -> list[str]:
    """The last lines of a file; none when there is no such file."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            return (
                [line.decode(errors="replace").rstrip("\r\n") for line in stream.readlines()[-lines:]] if lines else []
            )
    except OSError:
        return []


def logs(
    leader: Leader | None, *, follow: bool = False, lines: int | None = None, console: str = "",
    on_output: Callable[[bytes], None], stop_fd: int | None = None, kept: Callable[[], str] = str,
) -> None:  # fmt: skip
    """What a machine has logged: its journal, or its console where it has no journal or does not run.

    ``lines`` None: all. With ``follow`` it goes on until ``stop_fd`` says so or the machine ends. ``kept`` gives the last
    lines of a console that is in no file: the host's journal has it. Raises HostError when there is neither.
    """
    if leader is not None and leaders.is_alive(leader):
        command = ["journalctl", "--no-pager", "--quiet", "--lines", "all" if lines is None else str(lines)]
        ended = run_inside(
            leader, (*command, *(["--follow"] if follow else [])), directory="/",
            streams=Streams(on_output=lambda stream, block: on_output(block) if stream == 1 else None), stop_fd=stop_fd,
        )  # fmt: skip
        if ended.status == 0 or ended.stopped or (ended.signal and follow):
            return
    if not os.path.exists(console):
        if not (text := kept()):
            raise HostError(
                "the machine has no log", hint="it has no journal, and nothing has been read from its console"
            )
        on_output(f"{text}\n".encode())
        return
    _show_console(leader, console, follow=follow, lines=lines, on_output=on_output, stop_fd=stop_fd)


def _show_console(
    leader: Leader | None, console: str, *, follow: bool, lines: int | None, on_output: Callable[[bytes], None],
    stop_fd: int | None,
) -> None:  # fmt: skip
    stream: BinaryIO = open(console, "rb")  # noqa: SIM115  # another one when that is full
    try:
        if lines is not None:
            last = tail(console, lines)
            stream.seek(0, os.SEEK_END)
            on_output("".join(f"{line}\n" for line in last).encode())
        while True:
            alive = leader is not None and leaders.is_alive(leader)
            newer = (
                _another(console, stream) if follow else None
            )  # before the last look: then nobody writes to this one
            while block := stream.read(1 << 16):
                on_output(block)
            if not follow or (newer is None and not alive):
                return
            if newer is not None:
                stream.close()
                stream = newer
            try:
                _pause(0.2 if newer is None else 0, stop_fd)
            except Interrupted:
                return
    finally:
        stream.close()


def _another(path: str, stream: BinaryIO) -> BinaryIO | None:
    """The file that has the path by now, when it is not ``stream`` any more."""
    try:
        if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
            return None
        return open(path, "rb")
    except OSError:  # between the two
        return None
