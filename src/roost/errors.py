"""Every error of Roost: what went wrong, the details, and what to try next.

The library raises, it never exits; ``roost.cli`` alone prints an error and turns it into an exit status.

    Error                     1
    ├── DefinitionError       2   a definition that cannot be used
    ├── HostError             3   this host lacks something, or refused something
    ├── CommandError          4   a program that Roost needed failed
    ├── StoreError            6   layers, sessions and results on disk
    │   └── LayerGone             a layer was removed while a session began
    ├── BusyError             7   somebody else holds it
    ├── NetworkDown           9   a mirror cannot be reached
    ├── StepError            10   a layer's step failed
    └── Interrupted         130   somebody asked for an end
"""

from __future__ import annotations

import errno
import os


class Error(Exception):
    """The base of the tree.

    ``brief`` is one line without a full stop; ``details`` may have many lines; ``hint`` is the next thing to try.
    """

    exit_code = 1

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint


class DefinitionError(Error):
    """A definition that cannot be used; ``details`` has one line for every mistake."""

    exit_code = 2


class HostError(Error):
    """The host lacks an ability, a program or a right."""

    exit_code = 3


class CommandError(Error):
    """A program that Roost started for itself failed."""

    exit_code = 4


class StoreError(Error):
    """The store has no such thing, or cannot hold it."""

    exit_code = 6


class LayerGone(StoreError):
    """A layer was removed between the plan and the session; planning again helps."""


class BusyError(Error):
    """Somebody else is using it."""

    exit_code = 7


class NetworkDown(Error):
    """A mirror cannot be reached."""

    exit_code = 9


class StepError(Error):
    """A step of a layer failed; ``step`` names it, ``log`` is the path of the whole output."""

    exit_code = 10

    def __init__(self, brief: str, *, step: str, log: str, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.step = step
        self.log = log


class Interrupted(Error):
    """Somebody asked for an end before the work was done."""

    exit_code = 130


_FEW = 16  # inodes or blocks: whoever was refused has given some back by the time that it is asked
_ROOM = "make room: `roost gc` and `roost session remove` free some; or keep everything elsewhere with --state DIR"
_EXHAUSTED = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EROFS: (
        "the file system is read-only", "see with `dmesg` whether a bad disk made it so; or use another place with --state DIR"
    ),
    errno.EMFILE: ("no more files may be opened", "raise the limit: `ulimit -n 1024`"),
    errno.ENFILE: ("this computer can open no more files", "end what holds so many, or raise sysctl fs.file-max"),
    errno.ENOMEM: ("there is no memory left", "end something else, or run fewer at a time: -j 1"),
    errno.EAGAIN: ("no more processes can be started", "raise `ulimit -u` or the tasks limit around roost, or run fewer: -j 1"),
    errno.EIO: ("the disk cannot be read or written", "`dmesg` says why; `roost layer verify` says what was damaged"),
}  # fmt: skip


def exhausted(error: OSError) -> HostError | None:
    """What it means when the computer has no more of something; None for every other failure."""
    found = _EXHAUSTED.get(error.errno or 0)
    if found is None:
        return None
    brief, hint = found
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENOSPC and _no_inodes(path):
        brief = "the disk has no room for one more file (no inodes)"
    return HostError(f"{brief}: {path}" if path else brief, hint=hint)


def of_os(error: OSError) -> HostError:
    """An error for any failed system call."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    where = f": {path}" if path else ""
    plain = HostError(f"{error.strerror or error}{where}", hint="`roost doctor` tries what this host can do")
    return exhausted(error) or plain


def of_memory() -> HostError:
    """For a MemoryError."""
    return of_os(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))


def _no_inodes(path: str) -> bool:
    try:
        found = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return False
    return found.f_files > 0 and found.f_favail < _FEW <= found.f_bavail


def to_parts(error: Error) -> list[str]:
    """An error as plain text, to be carried from one process to another."""
    more = [error.step, error.log] if isinstance(error, StepError) else []
    parts = [type(error).__name__, error.brief, error.details, error.hint, *more]
    return [os.fsencode(part).decode(errors="backslashreplace") for part in parts]  # names that are no UTF-8


def from_parts(parts: list[str]) -> Error:
    """The error that ``to_parts`` took apart."""
    name, brief, details, hint, *more = parts
    if more:
        return StepError(brief, step=more[0], log=more[1], details=details, hint=hint)
    kind: type[Error] = globals().get(name, Error)
    return kind(brief, details=details, hint=hint)
