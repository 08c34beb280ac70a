"""The pages agree with the code: every key is described, every example is a definition, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from roost import facts
from roost.definition import load, model
from roost.distro.recipe import RECIPES, Recipe, Release, Suite
from roost.plan import Known, make

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
TABLES = (
    model.Machine,
    model.Profile,
    model.User,
    model.File,
    model.ScriptSource,
    model.Bind,
    model.Limits,
    model.Network,
    model.Pool,
    model.Boot,
    model.Repository,
)


def examples(page: str) -> list[tuple[int, str]]:
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start()) + 1, match[1]) for match in found]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_is_described(table: type) -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/definition.md").read_text(), re.MULTILINE)
    keys = {field.encode_name for field in structs.fields(table)}
    assert keys <= set(rows)


def test_no_row_describes_a_key_that_there_is_not() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/definition.md").read_text(), re.MULTILINE)
    own = {"extends", "inherit-releases"}
    assert set(rows) <= own | {field.encode_name for table in (*TABLES, Recipe) for field in structs.fields(table)}


@pytest.mark.parametrize("table", [Recipe, Release, Suite, model.Obsolete], ids=lambda table: table.__name__)
def test_every_key_of_a_recipe_is_described(table: type) -> None:
    _, _, section = (ROOT / "docs/definition.md").read_text().partition("\n## Own distributions\n")
    section, _, _ = section.partition("\n### Families\n")
    keys = {field.encode_name for field in structs.fields(table)} - {"mirrors-of"}
    words = set(re.findall(r"\b[a-z]+(?:-[a-z]+)*\b", " ".join(re.findall(r"`([^`]*)`", section))))
    assert keys <= words


EXAMPLES = [pytest.param(text, id=f"{page}:{line}") for page in PAGES for line, text in examples(page)]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_definition(text: str, tmp_path: Path) -> None:
    path = tmp_path / "roost.toml"
    path.write_text(text)
    loaded = load(path, facts=facts.of_distribution, known=RECIPES, architecture="amd64")
    plan = make(list(loaded.machines.values()), Known(present=(), last={}, names={}), facts.versions)
    assert plan.to_build


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        if target != "docs/demo.svg":  # drawn by `make picture`
            assert ((ROOT / page).parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        headings = [
            re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert anchor in headings


def test_every_test_that_a_page_names_is_there() -> None:
    """docs/sai.md says which test proves a step."""
    text = (ROOT / "docs/sai.md").read_text()
    found = re.findall(r"`((?:unit|system|lab)/test_\w+\.py)(?:::(\w+))?`", text)
    assert len(found) > 30
    for path, name in found:
        assert not name or f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"
    steps = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert steps == list(range(1, 44))


def test_every_option_of_the_sai_recipe_is_described() -> None:
    from roost.definition.sai_builder import Options, PlatformOption, SourceOption

    text = (ROOT / "docs/sai.md").read_text()
    for record in (Options, PlatformOption, SourceOption):
        for field in structs.fields(record):
            assert re.search(rf"`[^`\n]*\b{field.encode_name}\b[^`\n]*`", text), field.encode_name
