"""Calls a verb about a machine that runs, for a machine that no definition knows: VERB PID STARTED [OPTIONS] [-- COMMAND]."""

from __future__ import annotations

import argparse
import sys

from roost.boot.leader import Leader
from roost.cli import booted
from roost.errors import Error


def main(argv: list[str]) -> int:
    """The verb's status; 125 with the error's words when Roost failed."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("exec", "shell", "login", "logs"))
    parser.add_argument("pid", type=int)
    parser.add_argument("started", type=int)
    parser.add_argument("-u", "--user", default="root")
    parser.add_argument("-w", "--directory", default="")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("-n", "--lines", type=int)
    options = parser.parse_args(argv[:at])
    options.machine, options.command = "machine", argv[at + 1 :]
    leader = Leader(pid=options.pid, started=options.started)
    try:
        if options.verb == "logs":
            return booted.logs(options, lambda _name: leader, lambda _name: "/nonexistent")
        verb = {"exec": booted.exec_command, "shell": booted.shell, "login": booted.login}[options.verb]
        return verb(options, lambda _name: leader)
    except Error as e:
        print(f"error: {e.brief}\n{e.details}\nhint: {e.hint}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
