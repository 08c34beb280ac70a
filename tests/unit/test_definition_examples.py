"""The starter, the schema and the examples belong together: all of them are what a newcomer copies."""

from __future__ import annotations

import copy
import json
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from roost.definition import load
from roost.definition.model import DistributionFacts
from roost.definition.schema import json_schema
from roost.definition.starter import starter
from roost.distro.recipe import RECIPES, recipe

if TYPE_CHECKING:
    from roost.definition import Loaded

ABOVE = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted([*ABOVE.glob("*/roost.toml"), *ABOVE.glob("*.toml")])
BASE = '[machines.a]\ndistribution = "debian"\nrelease = "sid"\n'


def facts(name: str) -> DistributionFacts | None:
    if name not in RECIPES:
        return None
    one = recipe(name)
    return DistributionFacts(
        family=one.family,
        architectures=one.architectures,
        releases=list(one.releases),
        release_architectures={key: value.architectures for key, value in one.releases.items() if value.architectures},
        components=one.components,
        bootstraps=one.bootstraps,
        bootstrap=one.bootstraps[0],
        variants=one.variants,
        variant=one.variant,
        sets=one.sets,
        release_sets={key: value.sets for key, value in one.releases.items()},
    )


def load_with_recipes(path: Path) -> Loaded:
    return load(path, facts=facts, known=RECIPES, architecture="amd64")


def test_there_are_examples() -> None:
    assert {"minimal", "libwebsockets", "packaging", "sai-farm.toml"} <= {
        path.relative_to(ABOVE).parts[0] for path in EXAMPLES
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.relative_to(ABOVE).parts[0] for path in EXAMPLES])
def test_an_example_loads_and_fits_the_schema(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    if "/var/tmp/roost-qgis/key.asc" in text:  # its stand-in makes the key; system tests run that
        path = tmp_path / "roost.toml"
        path.write_text(text.replace("/var/tmp/roost-qgis/key.asc", "key.asc"))
        (tmp_path / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    assert load_with_recipes(path).machines
    jsonschema.validate(tomllib.loads(text), json_schema())
    assert path.read_text().startswith("#"), "an example says what it is for"


def test_the_sai_farm_has_the_systems_of_its_pages() -> None:
    """Ten of them, each with a builder of its own that comes up with the host."""
    machines = load_with_recipes(ABOVE / "sai-farm.toml").machines
    systems = {f"{one.base.distribution} {one.base.release}" for one in machines.values()}
    assert systems == {
        "ubuntu xenial", "ubuntu bionic", "ubuntu focal", "debian jessie", "debian buster", "debian sid", "fedora 32", "centos 7",
        "centos 8", "gentoo rolling",
    }  # fmt: skip
    assert len(machines) == 10
    for name, machine in machines.items():
        assert machine.boot is not None
        assert machine.boot.enable
        assert machine.boot_network == "private"
        profile, own = machine.layers
        assert (profile.name, profile.users[0].name, profile.users[0].uid) == ("sai-builder", "sai", 883)
        assert [script.name for script in profile.scripts][-2:] == ["build lws", "build sai"]
        [conf] = [json.loads(file.content) for file in own.files if file.path == "/etc/sai/builder/conf"]
        assert conf["host"] == name
        assert own.init


def test_all_distributions_are_all_of_them() -> None:
    """A recipe, or a release, that is added is added to the example, too."""
    machines = load_with_recipes(ABOVE / "all-distributions.toml").machines.values()
    there = {(one.base.distribution, one.base.release) for one in machines if one.base.distribution}
    every = {(name, release) for name in RECIPES for release in recipe(name).releases}
    assert sorted(every - there) == [], "add them to examples/all-distributions.toml"
    assert {one.base.source.partition(":")[0] for one in machines if one.base.source} == {"tar", "oci", "mkosi"}


def test_libwebsockets_has_the_machines_and_the_user_of_its_pages() -> None:
    machines = load_with_recipes(ABOVE / "libwebsockets/roost.toml").machines
    assert {"bullseye", "bookworm", "trixie", "sid", "focal", "bionic", "xenial"} <= set(machines)
    for machine in machines.values():
        user = machine.layers[0].users[0]
        assert (user.name, user.uid, user.group, user.sudo) == ("sai", 883, "", "nopasswd")
        assert "libuv1-dev" in machine.layers[1].packages


def test_the_starter_can_be_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "roost.toml").write_text(starter())
    machines = load_with_recipes(tmp_path / "roost.toml").machines
    assert {"bookworm", "trixie"} <= set(machines)
    assert machines["bookworm"].layers[0].users
    assert machines["bookworm"].layers[0].files
    assert machines["bookworm"].layers[0].scripts[0].content.startswith(b"#!/bin/sh\n")
    jsonschema.validate(tomllib.loads(starter()), json_schema())
    for line in starter().splitlines():
        if line.startswith("# ") and " = " in line and "`" not in line and line[2].islower():
            tomllib.loads(line[2:])  # what is commented out can be switched on


def test_the_schema_is_one_and_describes_every_key() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for record in schema["$defs"].values():
        assert record["additionalProperties"] is False
        for key, one in record["properties"].items():
            assert one.get("description"), key
    assert "null" not in str(schema)


@pytest.mark.parametrize(
    "wrong",
    [
        "x = 1",
        BASE + "pakages = []",
        BASE + "packages = [1]",
        BASE + 'packages = { atp = ["git"] }',
        BASE + 'network = { mode = "nat" }',
        BASE + 'boot = { link-journal = "yes" }',
        BASE + 'repositories = [{ name = "q" }]',
        "[network]\npool = 10",
        BASE + "user = { uid = 1 }",
        BASE + 'files = { "/a" = {} }',
        BASE + 'files = { "/a" = { content = "x", source = "y" } }',
        BASE + 'files = { "/a" = { content = "x", mode = "rw" } }',
        BASE.replace(".a]", ".a_b]"),
        '[profiles.a]\nrelease = "sid"',
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(wrong: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(wrong), json_schema())


def test_two_schemas_are_two_values() -> None:
    first: dict[str, Any] = json_schema()
    kept = copy.deepcopy(first)
    first["$defs"].clear()
    assert json_schema() == kept


def test_loading_is_fast(tmp_path: Path) -> None:
    path = tmp_path / "roost.toml"
    path.write_text(starter())
    one = facts("debian"), facts("ubuntu")
    load(path, facts=dict(zip(("debian", "ubuntu"), one, strict=True)).get, known=RECIPES, architecture="amd64")
    best = min(_timed(path, dict(zip(("debian", "ubuntu"), one, strict=True))) for _ in range(10))
    assert best < 0.005


def _timed(path: Path, known: dict[str, DistributionFacts | None]) -> float:
    start = time.perf_counter()
    load(path, facts=known.get, known=list(known), architecture="amd64")
    return time.perf_counter() - start
