"""The command line as argparse sees it. A verb's code is imported only when that verb was asked for."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from roost.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

EPILOG = """\
Begin with `roost init`; `roost VERB --help` describes a verb.
MACHINES are names, comma lists or globs ('debian-*'). Results go to stdout, everything else to stderr.
A run ends with the command's own status; 124: timed out, 125: Roost itself failed, 130: interrupted.
A run on several machines ends with 0 when all passed, else 1."""


MACHINE_VERBS = (
    "up", "down", "restart", "rollback", "status", "enable", "disable", "exec", "login", "logs", "network",
)  # fmt: skip


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of one verb; ``options.verb`` is its function, ``options.command`` what follows ``--``."""
    before, command = _split(argv)
    options = parser(before).parse_args(before)
    options.command = command
    options.runs = options.runs_command
    if command and not options.takes_command:
        options.parser.error("it takes no command after --")
    if options.needs_command and not command:
        options.parser.error("no command: put it after `--`, as in `roost run bookworm -- make test`")
    module, function = options.code.split(":")

    def verb(chosen: argparse.Namespace) -> int:
        code: Callable[[argparse.Namespace], int] = getattr(import_module(f"roost.cli.{module}"), function)
        return code(chosen)

    options.verb = verb
    return options


def _split(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    words = list(argv)
    command: tuple[str, ...] = ()
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], tuple(words[at + 1 :])
    return ["--keep=always" if word == "--keep" else word for word in words], command


class _Parser(argparse.ArgumentParser):
    """Wrong options of a verb that runs a command end with a status that the command's own is not mistaken for."""

    status = 2

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        from roost.cli.table import clean

        print(f"error: {clean(message)}\nhint: {self.prog} --help", file=sys.stderr)
        raise SystemExit(self.status)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, up to what reads well."""

    def __init__(self, prog: str) -> None:
        said = os.environ.get("COLUMNS", "")
        wide = int(said) if said.isdecimal() and len(said) < 5 else 0
        super().__init__(prog, max_help_position=30, width=min(110, wide or 100))


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line; the man page and the completions are made from it.

    With ``words``, a command line: only as much as it needs, as every verb costs a run 0.3 ms.
    """
    top = _Parser(
        prog="roost", formatter_class=_Formatter, epilog=EPILOG, allow_abbrev=False,
        description="One TOML file, every Linux build machine: layered, and thrown away after each run.",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"roost {__version__}")
    add_common(top, default=None)
    verbs = top.add_subparsers(metavar="VERB", required=True, dest="verb_name")
    groups = {
        _definition_verbs: {"init", "schema", "list", "plan", "doctor", "build"},
        _run_verbs: {"run", "shell"},
        _store_verbs: {"session", "layer", "gc", "adopt"},
        _machine_verbs: {*MACHINE_VERBS},
    }
    named = [add for add, names in groups.items() if names.intersection(words)]
    for add in named or groups:
        add(verbs)
    return top


def _machine_verbs(verbs: Any) -> None:
    from roost.cli.parser_machines import add_verbs  # a run needs none of them

    add_verbs(verbs)


def add_common(
    to: argparse.ArgumentParser, *, default: Any = argparse.SUPPRESS, file: Sequence[str] = ("-f", "--file")
) -> None:
    """Options that may stand before the verb or after it; ``file`` are the names of the definition's."""
    group = to.add_argument_group("everywhere")
    plain: dict[str, Any] = {"default": default}
    flag: dict[str, Any] = {"default": False if default is None else argparse.SUPPRESS}
    group.add_argument(
        *file,
        metavar="FILE",
        help="the definition (default: ./roost.toml, else /etc/roost/machines/*.toml)",
        **plain,
    )
    group.add_argument(
        "--state", metavar="DIR", help="keep everything below DIR (default: $ROOST_STATE, else /var/lib/roost)", **plain
    )
    group.add_argument("--json", action="store_true", help="print results as one JSON document", **flag)
    group.add_argument("-q", "--quiet", action="store_true", help="print no progress", **flag)
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print everything that the steps of layers say; of a plan, the commands of each layer",
        **flag,
    )


def add_verb(
    verbs: Any, name: str, code: str, summary: str, *, command: str = "", **more: Any
) -> argparse.ArgumentParser:
    """A verb. ``command``: it may be followed by one (``may``), must be (``must``), or runs one of its own (``own``)."""
    made: _Parser = verbs.add_parser(
        name,
        help=summary,
        description=summary[:1].upper() + summary[1:] + ".",
        formatter_class=_Formatter,
        allow_abbrev=False,
        **more,
    )
    if command:
        made.status = 125
    made.set_defaults(
        parser=made,
        code=code,
        needs_command=command == "must",
        takes_command=command in ("may", "must"),
        runs_command=bool(command),
    )
    return made


def _definition_verbs(verbs: Any) -> None:
    init = add_verb(verbs, "init", "commands:init", "write a commented starter definition")
    init.add_argument(
        "path", nargs="?", default="roost.toml", metavar="FILE", help="the file to write (default: roost.toml)"
    )
    init.add_argument("--force", action="store_true", help="replace a file that exists")
    add_common(init)
    add_common(add_verb(verbs, "schema", "commands:schema", "print the definition's JSON Schema, for editors"))
    for name, code, summary in (
        ("list", "commands:list_", "list the machines and their state"),
        ("plan", "commands:plan", "say which layers would be made, and why"),
    ):
        verb = add_verb(verbs, name, code, summary)
        verb.add_argument("machines", nargs="*", metavar="MACHINES", help="names, comma lists or globs (default: all)")
        add_common(verb)
    doctor = add_verb(
        verbs, "doctor", "commands:doctor", "say what this host can do and what it lacks, with the remedy"
    )
    what = doctor.add_mutually_exclusive_group()
    what.add_argument("--repair", action="store_true", help="clear what a crash or a power cut left in the store")
    what.add_argument(
        "--apply", action="store_true", help="install the SELinux module that allows what was refused to machines"
    )
    add_common(doctor)
    build = add_verb(verbs, "build", "commands:build", "make the missing layers, independent ones side by side")
    build.add_argument("machines", nargs="*", metavar="MACHINES", help="names, comma lists or globs (default: all)")
    build.add_argument(
        "-j", "--jobs", type=count, metavar="N", help="layers made at a time (default: by cores and memory)"
    )
    build.add_argument(
        "--update",
        action="store_true",
        help="make all layers anew, from the packages that there are now, and say which changed",
    )
    build.add_argument(
        "--verify", action="store_true", help="first compare the layers that are there with what they were when made"
    )
    build.add_argument(
        "--keep-failed", action="store_true", help="keep what a failed layer has so far as a session, to look into"
    )
    add_common(build)


def _run_verbs(verbs: Any) -> None:
    run = add_verb(
        verbs,
        "run",
        "running:run",
        "run a command in throwaway sessions",
        command="must",
        usage="roost run MACHINES|--all [options] -- COMMAND [ARGUMENT ...]",
    )
    run.add_argument("machines", nargs="*", metavar="MACHINES", help="names, comma lists or globs")
    run.add_argument("--all", action="store_true", help="all machines of the definition")
    run.add_argument("--profile", metavar="NAME", default="", help="only machines that have this profile")
    run.add_argument("-j", "--jobs", type=count, metavar="N", help="machines at a time (default: by cores and memory)")
    run.add_argument(
        "--matrix",
        action="append",
        default=[],
        metavar="NAME=A,B,C",
        help="a run for each value, which is in the environment as NAME; again: for each combination",
    )
    run.add_argument("--fail-fast", action="store_true", help="start nothing more once one has not passed")
    run.add_argument("--timings", action="store_true", help="say where the time of the run went")
    run.add_argument("--junit", metavar="FILE", help="write the results as JUnit XML too")
    _session_options(run)
    run.add_argument(
        "--timeout", type=seconds, metavar="TIME", help="end it after TIME (90, 15m, 2h): first SIGTERM, then SIGKILL"
    )
    run.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="GLOB",
        help="copy out the files that match, relative to the working directory",
    )
    run.add_argument(
        "--output", metavar="DIR", default="artifacts", help="where artifacts go, as DIR/MACHINE/ (default: artifacts)"
    )
    add_common(run)
    shell = add_verb(verbs, "shell", "running:shell", "open a shell in a throwaway session", command="own")
    shell.add_argument("machine", metavar="MACHINE", help="the name of one machine")
    shell.add_argument(
        "--running", action="store_true", help="in the machine itself that is up, not in a session of its own"
    )
    _session_options(shell)
    add_common(shell)


def _session_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--verify", action="store_true", help="start nothing unless every layer is what it was when it was made"
    )
    add_who(to)
    to.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="DIR[:TARGET]",
        help="show DIR as a copy-on-write tree (default: at /src); DIR itself stays as it is",
    )
    to.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="SRC[:DST[:rw]]",
        help="show a path of the host (default: at the same path), read-only unless rw",
    )
    to.add_argument(
        "--limit", action="append", default=[], type=_limit, metavar="NAME=VALUE",
        help="memory, cpus, tasks, disk, time or output, instead of the machine's own; infinity: none",
    )  # fmt: skip
    to.add_argument(
        "--keep", default="never", choices=("always", "on-failure", "never"), metavar="always|on-failure",
        help="keep the session: --keep or --keep=on-failure",
    )  # fmt: skip


def add_who(to: argparse.ArgumentParser) -> None:
    """Options that say as whom, where and with what a command runs."""
    to.add_argument(
        "-u",
        "--user",
        default="root",
        metavar="USER",
        help="run as this user of the machine, a name or a number (default: root)",
    )
    to.add_argument(
        "-w",
        "--directory",
        default="",
        metavar="DIR",
        help="run in this directory (default: that of the source, else the user's home)",
    )
    to.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a variable; without a value, pass on the caller's",
    )


def _store_verbs(verbs: Any) -> None:
    session = add_verb(verbs, "session", "", "look into sessions: list, shell, diff, keep, commit, remove")
    below = session.add_subparsers(metavar="VERB", required=True, dest="session_verb")
    add_common(add_verb(below, "list", "stored:session_list", "list the sessions"))
    for name, summary, own in (
        ("shell", "open a shell in a kept session; its changes stay", "own"),
        ("diff", "list what a kept session added, changed, removed and replaced", ""),
        ("keep", "keep a session whose command is still running", ""),
        ("commit", 'make a kept session\'s changes a layer, for from = "layer:NAME" in definitions', ""),
        ("remove", "remove kept sessions", ""),
    ):
        verb = add_verb(below, name, f"stored:session_{name}", summary, command=own)
        verb.add_argument(
            "session",
            metavar="SESSION",
            help="as `roost session list` has it",
            nargs="+" if name == "remove" else None,
        )
        if name == "commit":
            verb.add_argument("name", metavar="NAME", help="what to call the layer: a-z, 0-9, '-' and '.'")
        if name == "diff":
            verb.add_argument("--content", metavar="FILE", help="show how the text of this one file changed, as a diff")
        if name == "shell":
            verb.add_argument(
                "-u",
                "--user",
                default="",
                metavar="USER",
                help="the user of the shell (default: as the session was run)",
            )
        add_common(verb)
    adopt = add_verb(
        verbs, "adopt", "stored:adopt", "make layers of a tree kept by hand (base, env, work); it stays as it is"
    )
    adopt.add_argument("directory", metavar="DIR", help="the directory with `base` and `env` in it, or a tree")
    adopt.add_argument(
        "name", metavar="NAME", nargs="?", default="", help="what to call the layer (default: as the directory)"
    )
    adopt.add_argument(
        "--family",
        default="",
        metavar="FAMILY",
        help="its package manager: apt, dnf, ..., none (default: the one found in it)",
    )
    add_common(adopt)
    _layer_verbs(verbs)
    gc = add_verb(verbs, "gc", "stored:gc", "remove what nothing uses: layers, and the logs of old runs")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_common(gc)


def _layer_verbs(verbs: Any) -> None:
    layer = add_verb(verbs, "layer", "", "look into layers: list, show, verify, check, remove")
    below = layer.add_subparsers(metavar="VERB", required=True, dest="layer_verb")
    add_common(add_verb(below, "list", "stored:layer_list", "list the layers"))
    for name, summary in (
        ("show", "say what a layer was made from, and its packages"),
        ("remove", "remove layers that nothing stands on"),
    ):
        verb = add_verb(below, name, f"stored:layer_{name}", summary)
        verb.add_argument(
            "layer",
            metavar="LAYER",
            help="its name, or four or more digits of its digest"
            + ("; a machine's name: its topmost layer" if name == "show" else ""),
            nargs="+" if name == "remove" else None,
        )
        if name == "show":
            verb.add_argument(
                "--spdx", action="store_true", help="print the packages as an SPDX 2.3 document, in JSON, instead"
            )
        add_common(verb)
    verify = add_verb(
        below, "verify", "stored:layer_verify", "compare layers, file by file, with what they were when made"
    )
    verify.add_argument(
        "layer", metavar="LAYER", nargs="*", default=["all"], help="names or digests, or all (default: all)"
    )
    verify.add_argument("-j", "--jobs", type=count, metavar="N", help="layers at a time (default: by cores and memory)")
    add_common(verify)
    check = add_verb(
        below, "check", "stored:layer_check", "say whether a tree can run a command and boot, and what it lacks"
    )
    check.add_argument(
        "tree", metavar="LAYER|DIR", nargs="+", help="a layer with all below it, or a directory (with a '/' in it)"
    )
    check.add_argument("--run", action="store_true", help="only what running a command needs")
    add_common(check)


def count(text: str) -> int:
    """A number of 1 or more."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """90, 1.5, 90s, 15m, 2h."""
    from roost.definition.checks import seconds_of

    value = seconds_of(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 90, 15m or 2h")
    return value


def _limit(text: str) -> tuple[str, int | float | None]:
    """NAME=VALUE as in the definition's ``limits``; ``infinity``, systemd's word, is no limit."""
    from roost.definition.checks import LIMITS, limit

    name, _, value = text.partition("=")
    if name not in LIMITS or not value:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE; the names are {', '.join(LIMITS)}")
    if value == "infinity":
        return name, None
    number, wrong = limit(name, value)
    if wrong:
        raise argparse.ArgumentTypeError(f"{name}: {wrong}")
    return name, number
