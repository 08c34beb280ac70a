"""The tables of ``make bench-peers``, for a terminal and as docs/peers.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from roost.cli.table import duration, table

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = "roost run"
LIBRARY = "roost, the library"
NONE = "\N{EN DASH}"

TABLES = {
    "start": "A session made, `/bin/true` run in it, thrown away",
    "job": "A throwaway run that compiles and runs a small C program",
    "matrix": "That run on bullseye, bookworm, trixie and sid, two at a time",
    "base": "A base of bookworm from nothing",
    "again": "The base made again",
}
BASELINE = {"start": COMMAND, "job": COMMAND, "matrix": COMMAND, "base": "roost build", "again": "roost build"}


class Figure(NamedTuple):
    """A median in seconds over ``runs``; or why there is none."""

    seconds: float = 0.0
    runs: int = 0
    error: str = ""


class Found(NamedTuple):
    """What a command sees around it: what becomes of its writes, its users, filters, capabilities and namespaces."""

    writes: str
    users: str
    seccomp: bool
    capabilities: int
    namespaces: list[str]


def rows(document: dict[str, Any], kind: str) -> Iterator[tuple[str, str, str]]:
    """Name, time and ratio to Roost's command."""
    figures: dict[str, Figure] = document[kind]
    ours = figures[BASELINE[kind]]
    for name, figure in figures.items():
        if figure.error:
            yield name, "does not run here", figure.error
        else:
            ratio = figure.seconds / ours.seconds if ours.seconds else 0.0
            yield name, duration(figure.seconds), f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def as_text(document: dict[str, Any]) -> str:
    """All tables for a terminal."""
    parts = []
    for kind, title in TABLES.items():
        if kind in document:
            body = table(("", "median", "/ roost"), list(rows(document, kind)), right=("median",))
            parts.append(f"{title.replace('`', '')}\n{body}")
    provided = table(("provides", *_HEADERS), [(name, *_provided(found)) for name, found in document["found"].items()])
    return "\n".join([*parts, provided])


_HEADERS = ("writes", "user namespace", "seccomp", "capabilities", "own namespaces")


def _provided(found: Found) -> tuple[str, str, str, str, str]:
    return (
        found.writes,
        found.users,
        "yes" if found.seccomp else NONE,
        str(found.capabilities),
        ", ".join(found.namespaces) or NONE,
    )


def page(document: dict[str, Any]) -> str:
    """docs/peers.md."""
    lines = [_HEAD]
    for kind, title in TABLES.items():
        if kind not in document:
            continue
        lines += [f"## {title}", ""]
        provides = kind in ("start", "job")
        lines += ["| | median | ratio to Roost's command |" + (" what the command gets |" if provides else "")]
        lines += ["|---|---:|---:|" + ("---|" if provides else "")]
        for name, time, ratio in rows(document, kind):
            failed = time == "does not run here"
            row = (
                f"| {name} | {NONE} | does not run here: {_cell(ratio)} |"
                if failed
                else f"| {name} | {time} | {ratio} |"
            )
            lines.append(row + (f" {_short(document['found'].get(name))} |" if provides else ""))
        lines.append("")
        if kind in ("base", "again"):
            lines += [
                f"- {name}: {note}"
                for name, (_, _, note) in document["makers"].items()
                if note and name in document[kind]
            ] + [""]
    lines += _details(document)
    return "\n".join(lines).rstrip() + "\n"


_HEAD = """# Roost beside its peers

`make bench-peers` makes these tables, and `--write` this page: everything in one run on one machine, every tool once in each
round, medians. All tools get the same trees: the plain files of Roost's own layers, Debian's `minbase` with `gcc`, `libc6-dev`
and `make`. Each is set up for speed as its manual says; the command lines are at the end. What is thrown away is on a tmpfs for
all of them but Roost, nspawn's `-x` and `--overlay`, and podman, which use the disk.

The tools are made for different things. mmdebstrap makes trees, sbuild and debspawn build Debian packages, bubblewrap is a
building block for sandboxes, podman runs images of a registry. A row says what its line costs here and what it gives; it does
not say which tool is better.
"""


_SETUP = """## How they are set up

- **nspawn** gets `--keep-unit --register=no`: without systemd as PID 1 it starts in no other way.
- **podman** has its storage on disk with the kernel's overlay, crun, and the host's network as all others here. Where this
  process may not raise limits (no CAP_SYS_RESOURCE), `--ulimit` names those that there are. crun refuses control groups of v1
  with controllers on v2 beside them; there the `unshare -m` before it hides v2, which costs about 2 ms. The row "fewest
  features" has no control group and no image: an overlay over the plain directory.
- **schroot** has `type=directory`, `union-type=overlay`, `profile=minimal`, and its overlays on a tmpfs.
- **sbuild** has `$chroot_mode = 'unshare'` and unpacks into a tmpfs. It runs builds of packages, no single commands: a few
  lines of Perl make the calls that a build makes, `setup`, `run_command` and `cleanup`.
- **debspawn** gets the same trees with `python3-minimal` and `eatmydata` on top, which it wants inside, and unpacks into a
  tmpfs. Before each command it updates the session with apt; there is no option against it. Where there is no system bus, a
  `systemd-nspawn` in its PATH adds `--keep-unit --register=no`.
- **bubblewrap** has no overlay before version 0.11: one row shows the tree read-only, one over an overlay made by hand.
"""


def _short(found: Found | None) -> str:
    if found is None:
        return ""
    writes = {
        "stay": "writes stay in the tree",
        "thrown away": "writes are thrown away",
        "refused": "the tree is read-only",
    }
    parts = [writes[found.writes]]
    if found.users != NONE:
        parts.append(f"user namespace ({found.users})")
    parts += ["seccomp"] * found.seccomp
    parts += ["own pid namespace"] * ("pid" in found.namespaces)
    return ", ".join(parts)


def _details(document: dict[str, Any]) -> list[str]:
    lines = ["## What each gives the command", "", "As the command itself sees it, in `/proc`.", ""]
    lines += ["| | " + " | ".join(_HEADERS) + " | |", "|---" * 7 + "|"]
    for name, found in document["found"].items():
        lines.append("| " + " | ".join((name, *_provided(found), document["notes"].get(name, ""))) + " |")
    lines += [
        "",
        "`capabilities` counts those in the bounding set; inside a user namespace they rule only what belongs to it.",
        "",
    ]
    lines += [
        _SETUP,
        "## Command lines",
        "",
        "`TREES` and `WORK` are directories on disk, `RAM` is a tmpfs.",
        "",
        "```text",
    ]
    lines += [f"{name}\n    {line}" for name, line in document["lines"].items()]
    lines += ["```", ""]
    if "makers" in document:
        lines += ["```text"]
        for name, (cold, warm, _) in document["makers"].items():
            lines += [
                name,
                *([f"    {cold}"] if cold else []),
                *([f"    again: {warm}"] if warm and warm != cold else []),
            ]
        lines += ["```", ""]
    lines += ["## Measured on", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in document["facts"]]
    return lines


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"
