"""The tables of ``make bench-peers``: ratios to Roost's command, and what cannot run here with its own words."""

from __future__ import annotations

from typing import Any

from tools.peers import RELEASES, WAYS, Place
from tools.peers_page import COMMAND, LIBRARY, Figure, Found, as_text, page


def document() -> dict[str, Any]:
    found = Found(writes="thrown away", users="65536 ids", seccomp=True, capabilities=25, namespaces=["pid", "uts"])
    bare = Found(writes="stay", users="–", seccomp=False, capabilities=40, namespaces=[])  # noqa: RUF001
    figures = {
        LIBRARY: Figure(seconds=0.02, runs=9), COMMAND: Figure(seconds=0.05, runs=9), "fast": Figure(seconds=0.025, runs=9),
        "slow": Figure(seconds=5.0, runs=3), "broken": Figure(error="no such thing | here"),
    }  # fmt: skip
    return {
        "facts": [("kernel", "6.1"), ("podman", "4.3.1")],
        "found": {COMMAND: found, LIBRARY: found, "fast": bare, "slow": bare},
        "notes": {"fast": "what is written stays"},
        "lines": {"fast": "fast TREES/bookworm /bin/true"},
        "start": figures,
        "base": {"roost build": Figure(seconds=20.0, runs=3), "other": Figure(seconds=30.0, runs=3)},
        "makers": {"roost build": ("roost build", "", "a note"), "other": ("other WORK/base", "other again", "")},
    }


def test_ratios_are_to_the_command() -> None:
    text = as_text(document())
    ratios = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.startswith(("fast", "slow"))}
    assert "fast" in ratios
    rows = page(document()).splitlines()
    assert "| fast | 25 ms | 0.50 | writes stay in the tree |" in rows
    assert "| slow | 5.0 s | 100 | writes stay in the tree |" in rows
    assert (
        "| roost run | 50 ms | 1.00 | writes are thrown away, user namespace (65536 ids), seccomp, own pid namespace |"
        in rows
    )
    assert "| other | 30 s | 1.50 |" in rows


def test_what_cannot_run_says_why() -> None:
    assert "does not run here: `no such thing \\| here`" in page(document())
    assert "no such thing | here" in as_text(document())


def test_a_page_has_the_command_lines_and_versions() -> None:
    text = page(document())
    assert "fast\n    fast TREES/bookworm /bin/true" in text
    assert "other\n    other WORK/base\n    again: other again" in text
    assert "| podman | 4.3.1 |" in text


def test_no_command_line_shows_where_it_was_measured() -> None:
    at = Place("/var/tmp/roost-peers-x", "/somewhere/bin/roost", "/var/tmp/roost-peers-x/roost.toml")
    for way in WAYS:
        for release in RELEASES:
            line = at.shown(way.argv(at, release, ("/bin/true",)))
            assert "/somewhere" not in line
            assert "roost-peers-x" not in line
            assert "/bin/true" in line
