"""Writes data/man/roost.1 from the command line's own parser; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import sys

from commandline import CommandLine, Option, Verb, generate, read

from roost import __version__

PATH = "data/man/roost.1"

DESCRIPTION = """\
Roost makes Linux build machines from one TOML file, runs commands in throwaway sessions of them, and reports exactly \
how each command ended. A machine is a distribution's release with profiles of packages, users, files and scripts on \
top; each of these is a layer, made once and then never changed. A session is a writable overlay over a machine's \
layers, run by systemd-nspawn in a user namespace of its own.

Roost needs root: layers are other systems' files, with other systems' owners. \
Only \\fBinit\\fR and \\fBschema\\fR do without.

\\fIMACHINES\\fR are names, comma lists or globs: \\fBbookworm\\fR, \\fBbookworm,trixie\\fR, \\fB'debian-*'\\fR. \
Results go to standard output, everything else to standard error."""

STATUS = (
    ("0", "Done. Of a run on several machines: all passed."),
    (
        "the command's own",
        "Of \\fBrun\\fR on one machine, and of \\fBshell\\fR. 128 + n: signal n killed it; 127: no such command; 126: not executable.",
    ),
    ("124", "Of \\fBrun\\fR on one machine: it timed out."),
    ("125", "Of \\fBrun\\fR and \\fBshell\\fR: Roost itself failed, and the command may not have run."),
    ("130", "Interrupted."),
    ("1", "Of a run on several machines: not all passed. Of \\fBdoctor\\fR: this host lacks something."),
    ("2", "Of the other verbs, and of wrong options: the definition or the command line cannot be used."),
    (
        "3, 4, 6, 7, 9, 10",
        (
            "Of the other verbs, in this order: the host lacks something, a program of Roost's own failed, no such thing in the store, "
            "somebody else uses it, a mirror cannot be reached, a layer's step failed."
        ),
    ),
)

ENVIRONMENT = (
    ("ROOST_STATE", "A directory to keep everything in, as \\fB\\-\\-state\\fR has it."),
    ("NO_COLOR", "When set, no colours. There are none in a pipe anyway."),
    ("COLUMNS", "The width of help and tables."),
    ("SUDO_UID, SUDO_GID", "Set by \\fBsudo\\fR(8): who owns the artifacts that are copied out."),
)

FILES = (
    ("roost.toml", "The definition, in the current directory."),
    ("/etc/roost/machines/*.toml", "The definition when there is no roost.toml: all of these together."),
    ("/var/lib/roost", "Layers, kept sessions, and the logs of runs."),
    ("/var/cache/roost", "Downloaded packages. May be removed when Roost does not run."),
    ("/run/roost", "Locks and an empty mount point."),
)

EXAMPLES = (
    ("A command on one machine", "roost run bookworm -- cc --version"),
    ("This directory's tests on all machines, as a user of theirs, with the logs copied out",
     "roost run --all -u builder --source . --artifact 'build/*.log' -- make test"),
    ("Keep what failed, and look into it", "roost run --all --keep=on-failure -- make test\nroost session shell bookworm-4f2a91"),
    ("What would be made, and why", "roost plan"),
)  # fmt: skip


def roff(text: str) -> str:
    """Plain text for roff: its own characters escaped, and no line that begins like a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.splitlines())


def _prose(text: str) -> str:
    return text.replace("\n\n", "\n.PP\n") + "\n"


def _sentence(text: str) -> str:
    return roff(text[:1].upper() + text[1:].rstrip(".") + ".")


def _tagged(tag: str, text: str) -> str:
    return f".TP\n{tag}\n{text}\n"


def _option(option: Option) -> str:
    names = []
    for name in option.names:
        value = "|".join(choice for choice in option.choices if choice != "never") if option.bare else option.value
        joint = "=" if name.startswith("--") else " "
        shown = f"\\fI{roff(value)}\\fR"
        value = "" if not value else f"[{joint}{shown}]" if option.bare else f"{joint}{shown}"
        names.append(f"\\fB{roff(name)}\\fR{value}")
    return _tagged(", ".join(names), _sentence(option.help))


def _verb(verb: Verb) -> str:
    text = f'.SS "roost {roff(verb.usage).replace(chr(34), chr(39))}"\n{_sentence(verb.summary)}\n'
    for positional in verb.positionals:
        text += _tagged(f"\\fI{roff(positional.value)}\\fR", _sentence(positional.help))
    return text + "".join(_option(option) for option in verb.options)


def page(line: CommandLine) -> str:
    """The whole page."""
    text = '.\\" Written by tools/man.py from the parser of roost: do not edit.\n'
    text += f'.TH ROOST 1 "" "roost {__version__}" "User Commands"\n'
    text += ".SH NAME\nroost \\- one TOML file, every Linux build machine\n"
    text += ".SH SYNOPSIS\n\\fBroost\\fR [\\fIoptions\\fR] \\fIVERB\\fR ...\n"
    text += f".SH DESCRIPTION\n{_prose(DESCRIPTION)}"
    text += ".SH OPTIONS\nThese may stand before the verb or after it.\n" + "".join(_option(one) for one in line.common)
    text += _tagged("\\fB\\-\\-version\\fR", "Print the version.")
    text += _tagged("\\fB\\-h\\fR, \\fB\\-\\-help\\fR", "Describe the command, or a verb.")
    text += ".SH VERBS\n" + "".join(_verb(verb) for verb in line.verbs)
    text += ".SH EXIT STATUS\n" + "".join(_tagged(f"\\fB{tag}\\fR", said) for tag, said in STATUS)
    text += ".SH ENVIRONMENT\n" + "".join(_tagged(f"\\fB{tag}\\fR", said) for tag, said in ENVIRONMENT)
    text += ".SH FILES\n" + "".join(_tagged(f"\\fI{tag}\\fR", said) for tag, said in FILES)
    text += "\\fB\\-\\-state\\fR moves the last three below one directory.\n"
    text += ".SH EXAMPLES\n" + "".join(
        f"{said}:\n.PP\n.RS\n.nf\n{roff(code)}\n.fi\n.RE\n.PP\n" for said, code in EXAMPLES
    )
    return text + ".SH SEE ALSO\n\\fBsystemd\\-nspawn\\fR(1), \\fBmmdebstrap\\fR(1), docs/definition.md, docs/api.md\n"


if __name__ == "__main__":
    sys.exit(generate({PATH: page(read())}, check=sys.argv[1:] == ["--check"]))
