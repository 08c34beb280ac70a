"""Stores that have grown: thousands of layers and kept sessions, valid ones, made by the store's own calls."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from typing import TYPE_CHECKING

from roost.host import files, syscalls
from roost.records import LayerRecord, SessionRecord
from roost.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """Nothing is waited for to reach the disk: a store that is thrown away is filled in seconds."""
    before = files.fsync_directory, syscalls.syncfs
    files.fsync_directory = lambda path: None  # noqa: ARG005
    syscalls.syncfs = lambda fd: None  # noqa: ARG005
    try:
        yield
    finally:
        files.fsync_directory, syscalls.syncfs = before


def digest_of(number: int) -> str:
    """That of the grown store's layer ``number``."""
    return hashlib.sha256(f"grown {number}".encode()).hexdigest()


def grow(state: str, *, layers: int, sessions: int, family: str = "apt") -> None:
    """Adds committed layers of one file each, some on top of others, and kept sessions that stand on them."""
    store = Store(state)
    store.prepare()
    began = time.time()
    chains: list[tuple[str, ...]] = []
    with unsynced():
        for number in range(layers):
            below = chains[number // 2] if number % 2 else ()
            chains.append((*below, _layer(store, number, below, family, began)))
        for number in range(sessions):
            _session(store, number, chains[number % layers], family, began)


def _layer(store: Store, number: int, below: tuple[str, ...], family: str, began: float) -> str:
    record = LayerRecord(
        digest=digest_of(number), parents=below, kind="committed", name=f"grown {number}", family=family, facts={},
        created=began - number,
    )  # fmt: skip
    with store.staged("stage") as stage:
        os.makedirs(f"{stage}/tree/etc")
        with open(f"{stage}/tree/etc/grown", "w", encoding="ascii") as stream:
            stream.write(f"{number}\n")
        store.publish(stage, record)
    store.set_name(f"grown-{number}", record.digest)
    return record.digest


def _session(store: Store, number: int, chain: tuple[str, ...], family: str, began: float) -> None:
    record = SessionRecord(
        id=f"grown-{number:06x}", machine="grown", layers=chain, family=family, created=began - number, kept=True,
        reason="failed: make check", state="failed",
    )  # fmt: skip
    directory = store.running_directory(record.id)
    os.mkdir(directory, 0o700)
    os.mkdir(f"{directory}/upper", 0o755)
    os.mkdir(f"{directory}/work", 0o700)
    store.write_session(record, directory)
    store.keep_session(record)


def link_layers(source: str, target: str, digests: Sequence[str]) -> None:
    """Layers of one store in another on the same file system, as hard links: a second in place of a minute."""
    Store(target).prepare()
    for digest in digests:
        if not os.path.exists(f"{target}/layers/{digest}"):
            subprocess.run(("cp", "-al", f"{source}/layers/{digest}", f"{target}/layers/{digest}"), check=True)
