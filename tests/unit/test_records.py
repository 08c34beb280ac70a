"""What is read back from the disk: whole, or told to be damaged, or left out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

import roost
from roost import ready
from roost.engine.execute import ENDED, unpack
from roost.engine.launch import account
from roost.errors import StoreError
from roost.plan import why
from roost.records import SessionRecord
from roost.sessions import Terms
from roost.store import Store

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "a" * 64
LAYER = f'{{"digest":"{DIGEST}","parents":[],"kind":"base","name":"n","family":"apt","facts":{{}},"created":1}}'
SESSION = '{"id":"one-123456","machine":"one","layers":[],"family":"apt","created":1}'
DAMAGE = [
    b"", b"{", b"\0" * 300, b"null", b"[]", b'{"digest":"\xff"}', b'{"facts":' + b"[" * 100_000, b'{"id":"\\ud800"}', b'{"created":1e999}',
    LAYER.replace(DIGEST, "../../x").encode(), SESSION.replace("one-123456", "../../x").encode(), LAYER.replace("1}", "null}").encode(),
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for name in (f"layers/{DIGEST}", "sessions/one-123456", "names", "machines", "staging"):
        (tmp_path / name).mkdir(parents=True)
    return Store(str(tmp_path))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda data: repr(data[:20]))
def test_a_damaged_record_is_told_and_left_out(damage: bytes, store: Store) -> None:
    for path in (f"layers/{DIGEST}/layer.json", "sessions/one-123456/session.json", "names/tuned"):
        with open(f"{store.state}/{path}", "wb") as stream:
            stream.write(damage)
    for ask, name, what in ((store.layer, DIGEST, "layer"), (store.session, "one-123456", "session")):
        with pytest.raises(StoreError) as caught:
            ask(name)
        assert "damaged" in caught.value.brief
        assert f"roost {what} remove" in caught.value.hint
    assert (store.layers(), store.sessions(), store.names()) == ([], [], {})


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda data: repr(data[:20]))
def test_a_plan_needs_no_memory(damage: bytes, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "roost.toml"
    file.write_text('[machines.one]\ndistribution = "debian"\nrelease = "bookworm"\n')
    with open(store.machines_path(str(file)), "wb") as stream:
        stream.write(damage)
    plan = roost.Manager(roost.load(file), state=store.state).plan()
    assert [layer.reason for layer in plan.layers] == ["not made yet"]


def test_a_name_that_means_no_digest_means_nothing(store: Store) -> None:
    for content in ("../../x", "a\0b", "x" * 5000, "", "é"):
        with open(f"{store.state}/names/tuned", "w", encoding="utf-8") as stream:
            stream.write(content)
        assert store.names() == {}
        with pytest.raises(StoreError, match="there is no layer tuned"):
            store.find_layer("tuned")


def test_facts_of_another_shape_are_a_reason_too() -> None:
    assert (
        why("new", {"packages": ["gcc"]}, ("old", {"packages": [{}], "files": 3})) == "it was made from something else"
    )


@pytest.mark.parametrize("at", [0, 5, 20, -1])
def test_a_damaged_memory_of_what_is_ready_is_none(at: int, store: Store, tmp_path: Path) -> None:
    record = SessionRecord(id="", machine="one", layers=(DIGEST,), family="apt", created=0.0)
    known = ready.Ready(record=record, terms=Terms(environment={"A": "b"}))
    ready.remember(store, "/definition", [], {"one": known}, read=0)
    assert ready.find(store, "/definition", "one") == known
    path = ready._path(store, "/definition")
    with open(path, "rb") as stream:
        whole = bytearray(stream.read())
    whole[at] ^= 0x41
    for content in (whole, whole[:10], bytes(len(whole)), b""):
        with open(path, "wb") as stream:
            stream.write(content)
        assert ready.find(store, "/definition", "one") is None


@pytest.mark.parametrize(
    ("status", "code"), [(0, 0), (256, 1), (0xFF00, 255), (9, -9), (0x8B, -11), (0x7F, 0), (0x137F, 19), (-1, 255)]
)
def test_how_a_command_ended_is_something_that_can_be(status: int, code: int) -> None:
    report = ENDED.pack(b"X", status, 0, 1, 2, (1 << 64) - 1, 3, (1 << 64) - 1)
    found = unpack(report)
    assert found[0] == code
    assert msgspec.msgpack.encode([number << 10 for number in found[1:4]])


@pytest.mark.parametrize(
    "line", [b"user:x:" + b"9" * 5000 + b":1::/h:/s", b"user:x:7:" + b"9" * 5000 + b"::/h:/s", b"\xff:\xff:\xff:::/:/"]
)
def test_a_passwd_may_hold_anything(line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "merged/etc").mkdir(parents=True)
    (tmp_path / "merged/etc/passwd").write_bytes(line + b"\nlast:x:5:6::/\xff:/s\n")
    monkeypatch.chdir(tmp_path)
    assert account("last") == (5, 6, os.fsdecode(b"/\xff"))
    assert account("9" * 5000) == (0, 0, "/root")
    assert account("user") in {(0, 0, "/root"), (7, 65534, "/h")}
