"""Layers in a store, written by hand: what they hold and what is recorded of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roost import manifest
from roost.records import LayerRecord
from roost.structs import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roost.store import Store

DPKG = "var/lib/dpkg/status"


def dpkg(*packages: str) -> str:
    """dpkg's list of ``NAME VERSION [ARCHITECTURE [SOURCE]]``."""
    stanzas = []
    for one in packages:
        name, version, *rest = one.split(" ", 3)
        architecture, source = [*rest, "amd64", ""][:2] if len(rest) != 1 else (rest[0], "")
        more = f"Source: {source}\n" if source else ""
        stanzas.append(
            f"Package: {name}\nStatus: install ok installed\n{more}Architecture: {architecture}\nVersion: {version}\n"
        )
    return "\n".join(stanzas)


def put(
    store: Store, name: str, *parents: str, digest: str = "", family: str = "apt", facts: dict[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """A layer with these files; its digest, which is that of its name unless it is given."""
    digest = digest or hashlib.sha256(name.encode()).hexdigest()
    tree = Path(store.tree(digest))
    tree.mkdir(parents=True)
    for path, text in (files or {}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    written = manifest.write(str(tree), f"{tree.parent}/manifest")
    record = LayerRecord(
        digest=digest, parents=parents, kind="base" if not parents else "profile", name=name, family=family, facts=facts or {},
        created=1795000000.0, manifest=written.sha256,
    )  # fmt: skip
    (tree.parent / "layer.json").write_bytes(to_json(record))
    return digest
