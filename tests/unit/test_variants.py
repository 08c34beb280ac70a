"""Several runs on each machine: what ``--matrix`` means, and what a variant makes of a run."""

from __future__ import annotations

import pytest

import roost
from roost.errors import DefinitionError
from roost.matrix import axes, cells_of
from roost.records import SessionRecord
from roost.sessions import Terms

RUN = roost.Run(command=("make",), environment={"A": "1", "CC": "cc"})


def record(machine: str) -> SessionRecord:
    return SessionRecord(id="", machine=machine, layers=(), family="apt", created=0.0)


def test_one_axis() -> None:
    assert [(v.name, v.environment) for v in axes(["CC=gcc,clang"])] == [
        ("gcc", {"CC": "gcc"}),
        ("clang", {"CC": "clang"}),
    ]


def test_several_axes_are_combined_in_their_order() -> None:
    variants = axes(["CC=gcc,clang", "TYPE=debug,release"])
    assert [v.name for v in variants] == ["gcc.debug", "gcc.release", "clang.debug", "clang.release"]
    assert variants[1].environment == {"CC": "gcc", "TYPE": "release"}


def test_a_name_can_be_that_of_a_file_whatever_the_value() -> None:
    assert [v.name for v in axes(["CFLAGS=-O2 -g,../x,"])] == ["-O2_-g", "___x", "_"]


@pytest.mark.parametrize("text", ["CC", "=gcc", "1C=a", "C-C=a", "C C=a", "É=a"])
def test_what_is_no_axis_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        axes([text])
    assert text in caught.value.brief
    assert "--matrix NAME=" in caught.value.hint


@pytest.mark.parametrize("text", ["CC=gcc,gcc", "FLAGS=a b,a/b"])
def test_two_of_one_name_are_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="two variants"):
        axes([text])


def test_a_variant_adds_to_the_run() -> None:
    own = roost.Variant(name="x", environment={"CC": "clang"}).of(RUN)
    assert own.environment == {"A": "1", "CC": "clang"}
    assert own.command == ("make",)
    assert own.output == "artifacts/x"
    assert roost.Variant(name="x", command=("ninja",)).of(RUN).command == ("ninja",)


def test_a_machine_has_the_variants_that_are_meant_for_it() -> None:
    variants = [roost.Variant(name="all"), roost.Variant(name="new", machines=("sid", "tr*"))]
    keys = {
        m: [cell.key for cell in cells_of(record(m), Terms(), RUN, variants)] for m in ("bookworm", "trixie", "sid")
    }
    assert keys == {"bookworm": ["bookworm.all"], "trixie": ["trixie.all", "trixie.new"], "sid": ["sid.all", "sid.new"]}
    assert [cell.key for cell in cells_of(record("sid"), Terms(), RUN, [])] == ["sid"]
