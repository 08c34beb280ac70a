"""Input that was made to keep Roost busy: each of these took minutes, or for ever, once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from definition_facts import load_text

from roost import artifacts
from roost.artifacts import Collector, expand
from roost.cli.render import error_text
from roost.cli.table import Style
from roost.errors import DefinitionError
from roost.host import apt, apt_conf

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)
MACHINE = '[machines.a]\ndistribution = "debian"\nrelease = "bookworm"\n'
DEFINITIONS = {
    "a key of many parts": "a" + ".a" * 500_000 + " = 1",
    "a table of many parts": "[" + "a." * 500_000 + "a]",
    "quoted parts": '"a".' * 200_000 + "a = 1",
    "a key that never ends": "'." * 400_000,
    "in an inline table": "x = { " + "a." * 300_000 + "a = 1 }",
    "arrays in arrays": "a = " + "[" * 300_000,
    "tables in tables": "a = " + "{a=" * 200_000,
    "a long list twice": MACHINE + "packages = [" + '"p",' * 100_000 + "]",
    "many unknown profiles": MACHINE + "profiles = [" + ",".join(f'"p{n}"' for n in range(40_000)) + "]",
    "many profiles, none of them meant": "".join(f"[profiles.q{n}]\n" for n in range(15_000))
    + MACHINE
    + "profiles = ["
    + ",".join(f'"p{n}"' for n in range(15_000))
    + "]",
    "long words that are nearly the same": f'[profiles.{"p" * 400_000}]\n{MACHINE}profiles = ["{"p" * 399_999}q"]',
    "many mistakes below a long name": f"[machines.{'m' * 500_000}]\n" + "".join(f"k{n} = 1\n" for n in range(20_000)),
    "a number of many digits": "a = " + "9" * 1_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_is_refused_in_words_that_can_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_text(tmp_path, DEFINITIONS[name])
    assert len(caught.value.details) < 300_000
    assert "roost.toml:" in caught.value.details or "too deeply" in caught.value.brief
    assert len(error_text(caught.value, style=Style(), width=80).splitlines()) < 500


def test_of_many_mistakes_the_first_are_told_and_all_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_text(tmp_path, "".join(f"kex{n} = 1\n" for n in range(1000)))
    assert caught.value.brief == "roost.toml: 1001 mistakes"
    lines = caught.value.details.splitlines()
    assert len(lines) == 201
    assert lines[0].startswith("roost.toml:1: ")
    assert lines[-1] == "roost.toml: and 801 more"


def test_dots_in_a_text_are_no_key(tmp_path: Path) -> None:
    names = ".".join("a" * 200)
    text = f"{MACHINE}scripts = ['''\n{names}\necho {names} = [{names}\n''', \"{names}\"]\ndescription = \"{'.' * 5000}\"\n"
    assert load_text(tmp_path, text).machines["a"].description == "." * 5000


def test_a_file_that_would_be_waited_for_is_empty(tmp_path: Path) -> None:
    if os.access("/proc/kmsg", os.R_OK):
        load_text(tmp_path, f'{MACHINE}files."/etc/x" = {{ source = "/proc/kmsg" }}\n')


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Sixty directories in each other, and links that go round."""
    top = tmp_path / "tree"
    (top / "/".join("a" * 60)).mkdir(parents=True)
    for number in range(20):
        (top / f"up{number}").symlink_to(".")
    return top


@pytest.mark.parametrize(
    "pattern", ["/".join(["**", "a"] * 15), "**/" * 40 + "*a", "/".join(["**"] * 9), "**/*/**/*/**/a"]
)
def test_globs_look_at_each_directory_once(pattern: str, deep: Path) -> None:
    root = os.open(deep, os.O_PATH | os.O_DIRECTORY)
    try:
        found = list(expand(root, pattern))
        assert found
        assert len(found) == len(set(found))
    finally:
        os.close(root)


def test_a_tree_of_links_to_itself_has_an_end(deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "ENTRIES_MOST", 20_000)
    root = os.open(deep, os.O_PATH | os.O_DIRECTORY)
    try:
        collector = Collector(root, str(tmp_path / "out"), (os.getuid(), os.getgid()))
        collector.collect("*/*/*/*/*/*/*/none", "/")
        assert collector.warnings[0] == "artifact /*/*/*/*/*/*/*/none: more names than can be looked at"
    finally:
        os.close(root)


def test_long_files_of_apt_are_read_once(tmp_path: Path) -> None:
    assert len(apt_conf.parse("A::B 1;\n" * 100_000)) == 100_000
    folder = tmp_path / "etc/apt/sources.list.d"
    folder.mkdir(parents=True)
    (folder / "a.sources").write_text("Types: deb\nURIs: http://m/\nSuites: sid\nX:\n" + " more\n" * 300_000)
    assert apt.read(str(tmp_path)).entries[0].uris == ("http://m/",)


def test_an_error_of_many_words() -> None:
    error = DefinitionError("x", hint="word " * 200_000)
    assert len(error_text(error, style=Style())) > 1_000_000
