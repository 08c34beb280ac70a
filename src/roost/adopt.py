"""A tree that somebody keeps by hand, as layers: ``base``, ``env`` on it, and overlayfs's ``work``, or one plain tree."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from roost import trees as system
from roost.bases import recognise, trees
from roost.commit import NAME
from roost.definition import origins
from roost.errors import StoreError
from roost.host import architectures
from roost.plan import FORMAT, digest
from roost.records import LayerRecord
from roost.version import __version__

if TYPE_CHECKING:
    from roost.store import Store


class Adopted(Struct, frozen=True, kw_only=True):
    """``name`` means ``layers[-1]`` from now on; ``work`` says that overlayfs's own directory was not taken."""

    name: str
    layers: tuple[LayerRecord, ...]
    family: str


def adopt(store: Store, directory: str, name: str = "", *, family: str = "") -> Adopted:
    """Makes layers of ``directory/base`` and ``directory/env``, or of the directory itself when it is a tree.

    The directory stays as it is. ``name`` empty: the directory's own. The layers' identity is their content: adopted
    again, only what has changed is another layer. Raises StoreError, and HostError when the disk is full.
    """
    directory = os.path.abspath(directory)
    name = name or _name(os.path.basename(directory))
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a layer", hint="use small letters, digits, '-' and '.'")
    if family and (wrong := origins.family(family)):
        raise StoreError(wrong, hint="leave it out: it is found in the tree")
    parts = _parts(directory)
    _expect_still(parts)
    chain: list[LayerRecord] = []
    with contextlib.ExitStack() as pins:  # until they have a name
        for number, path in enumerate(parts):
            chain.append(_adopted(store, path, name, chain, pins, last=number + 1 == len(parts), family=family))
        store.set_name(name, chain[-1].digest)
    return Adopted(name=name, layers=tuple(chain), family=chain[-1].family)


def _parts(directory: str) -> tuple[str, ...]:
    base, env = f"{directory}/base", f"{directory}/env"
    if os.path.isdir(base) and not os.path.islink(base):
        return (base, env) if os.path.isdir(env) and not os.path.islink(env) else (base,)
    if os.path.isdir(f"{directory}/usr"):
        return (directory,)
    hint = "name the directory above `base` and `env`, or a tree with a `usr` in it"
    raise StoreError(f"there is nothing to adopt in {directory}", details="it has neither `base` nor `usr`", hint=hint)


def _expect_still(parts: tuple[str, ...]) -> None:
    """Raises StoreError when one of them is mounted as part of an overlay: then it changes while it is copied."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            fields, _, rest = line.partition(" - ")
            words = rest.rstrip("\n").split(" ")
            if words[0] != "overlay" or len(words) < 3:
                continue
            for option in words[2].split(","):
                key, _, value = option.partition("=")
                if key == "upperdir" and value in parts:
                    at = fields.split(" ")[4]
                    raise StoreError(f"{value} is in use: an overlay is mounted at {at}", hint=f"umount {at}")


def _adopted(
    store: Store, path: str, name: str, below: list[LayerRecord], pins: contextlib.ExitStack, *, last: bool, family: str
) -> LayerRecord:
    parents = tuple(layer.digest for layer in below)
    began = time.monotonic()
    with store.staged("stage") as stage:
        tree = f"{stage}/tree"
        if stage.startswith(os.path.realpath(path).rstrip("/") + "/"):
            raise StoreError(
                f"Roost's own store is in {path}", hint="name a tree without it, or another store with --state"
            )
        trees.copy(path, tree, path)
        trees.clean(tree, path, upper=bool(below))
        content = trees.content(tree)
        stack = (tree, *(store.tree(one) for one in reversed(parents)))
        if last and (wrong := [one for one in system.problems(stack) if one.needed == "run"]):
            text = "\n".join(f"{one.path}: {one.found}: {one.remedy}" for one in wrong)
            raise StoreError(f"no machine can run in {path}", details=text, hint="is it the tree of a system?")
        made_for = recognise.architecture(stack, "", path)
        layer = LayerRecord(
            digest=digest(FORMAT, "adopted", parents[-1] if parents else "", content), parents=parents, kind="committed",
            name=f"layer {name}" if last else f"base of {name}", family=family or recognise.family(stack), facts={"content": content},
            created=time.time(), seconds=time.monotonic() - began, roost=__version__,
            architecture="" if made_for == architectures.of_host() else made_for,
        )  # fmt: skip
        pins.enter_context(store.pinned((layer.digest,)))
        store.publish(stage, layer)
    return layer


def _name(directory: str) -> str:
    """What a directory is called, as a layer's name: ``linux-ubuntu-xenial-amd64``."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in directory.lower())
    return text.strip("-.")[:63].strip("-.")
