"""A session's changes as a new layer: copied, hashed, published by rename; the session is not touched."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from roost.bases import trees
from roost.errors import StoreError
from roost.plan import FORMAT, digest
from roost.records import LayerRecord
from roost.version import __version__

if TYPE_CHECKING:
    from roost.store import Store

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


def commit(store: Store, session: str, name: str) -> LayerRecord:
    """The layer that holds what a kept session changed; ``name`` means it from now on.

    Its identity is its content: the same changes on the same layers are the same layer. Raises StoreError.
    """
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a layer", hint="use small letters, digits, '-' and '.'")
    store.session(session)
    with store.alive(session), store.staged("stage") as stage:
        record = store.session(session)  # as it is now that nobody else can change it
        if not record.kept:
            raise StoreError(f"session {session} has just ended", hint="see `roost session list`")
        began = time.monotonic()
        os.mkdir(f"{stage}/tree", 0o755)
        upper = store.session_directory(session) + "/upper"
        trees.copy(upper, f"{stage}/tree", f"session {session}")
        content = trees.content(f"{stage}/tree")
        parent = record.layers[-1] if record.layers else ""
        layer = LayerRecord(
            digest=digest(FORMAT, "committed", parent, content), parents=record.layers, kind="committed", name=f"layer {name}",
            family=record.family or (store.layer(parent).family if parent else ""), facts={"content": content}, created=time.time(),
            seconds=time.monotonic() - began,
            roost=__version__, architecture=record.architecture,
        )  # fmt: skip
        with store.pinned((*record.layers, layer.digest)):  # until it has a name
            store.publish(stage, layer)
            store.set_name(name, layer.digest)
    return layer
