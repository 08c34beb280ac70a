"""The command: parses, calls one verb, prints errors, and gives the process its exit status. The only place that exits."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from roost.errors import Error

_NO_MEMORY = b"error: there is no memory left\nhint: end something, or give Roost more\n"
FAILED_TO_RUN = 125  # of `run` and `shell`: Roost's own failure, as env(1), timeout(1) and docker have it


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of ``roost ARGV``."""
    # msgspec looks there for what typing has since 3.11; where it is installed, that alone takes 7 ms
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    from roost.cli import quick
    from roost.errors import Error, Interrupted, of_memory, of_os

    arguments = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold what this locale cannot say
            stream.reconfigure(errors="backslashreplace")
    runs = True
    try:
        status = quick.run(arguments)
        if status is None:
            from roost.cli.parser import parse

            options = parse(arguments)
            runs = options.runs
            status = options.verb(options)
        sys.stdout.flush()
    except Error as e:
        return _failed(e, runs=runs and not isinstance(e, Interrupted))
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as e:
        return _failed(_of_output(e) or of_os(e), runs=runs)
    except MemoryError:
        status = None  # what the frames of the exception hold is given back before anything is said
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Interrupted.exit_code
    return _failed(of_memory(), runs=runs) if status is None else status


def _of_output(error: OSError) -> Error | None:
    """When it is our own output that finds no room: every other file that is written has a name."""
    from roost.errors import HostError

    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is not None:
        return None
    return HostError(f"standard output cannot be written: {error.strerror}", hint="is there room where it goes to?")


def _failed(error: Error, *, runs: bool) -> int:
    """Prints an error; the exit status."""
    from roost.cli.render import error_text
    from roost.cli.table import style_of, terminal_width

    text = error_text(error, style=style_of(sys.stderr, os.environ), width=terminal_width(sys.stderr))
    print(text.rstrip("\n"), file=sys.stderr)
    return FAILED_TO_RUN if runs else error.exit_code


def _open_streams() -> None:
    """Gives a stream that the caller has closed a number again: else the next file opened would be taken for it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _last_words(error: Exception) -> bytes:
    """What is said without any module; where no memory is left, not even for that, what was there from the start."""
    try:
        what = str(error) or "no memory"
        text = f"error: Roost could not be loaded: {what}\nhint: is there memory left? is it installed whole?\n"
        return text.encode(errors="replace")
    except MemoryError:
        return _NO_MEMORY


def run() -> NoReturn:
    """The entry point of the installed command."""
    gc.disable()  # a command is over before there is anything worth collecting
    _open_streams()
    try:
        status = main()
    except SystemExit as e:  # argparse's
        status = e.code if isinstance(e.code, int) else 1
    except (MemoryError, ImportError, SystemError) as e:  # so little memory that not even the modules could be read
        os.write(2, _last_words(e))
        status = FAILED_TO_RUN
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)  # nothing is left to do, and taking the interpreter down takes 3 ms
