"""Makes the layers of a base that no recipe makes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from roost import trees as system
from roost.bases import fetch, mkosi, oci, recognise, streams, trees, unpack
from roost.bases.known import MKOSI_OWN, Origins, split
from roost.definition.origins import ARCHIVE, LAYOUT, is_url
from roost.errors import CommandError, StoreError
from roost.host import files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.bases.streams import Readable
    from roost.definition.model import Base
    from roost.plan import LayerPlan
    from roost.store import Store

STEPS = {"tar": ("archive", "look"), "oci": ("image", "look"), "dir": ("copy", "look"), "mkosi": ("mkosi", "look")}


class Work(Struct, frozen=True, kw_only=True):
    """A layer to be made in ``stage``, over the trees ``lowers`` (the top first).

    ``begin`` is told of each step, ``say`` of what is printed. ``top``: it is the last of the image's layers.
    """

    store: Store
    layer: LayerPlan
    base: Base
    stage: str
    lowers: tuple[str, ...]
    begin: Callable[[str, int, int], None]
    say: Callable[[bytes], None]


def make(work: Work) -> str:
    """Makes ``tree`` in the stage; the family of the whole base. Raises StoreError, HostError and NetworkDown."""
    kind, rest = split(work.base)
    steps = STEPS[kind]
    tree, private = f"{work.stage}/tree", f"{work.stage}/private"
    os.mkdir(private, 0o700)
    work.begin(steps[0], 1, len(steps))
    last = True
    if kind == "tar":
        os.mkdir(tree, 0o755)
        _tar(work, rest, tree, private)
    elif kind == "oci":
        os.mkdir(tree, 0o755)
        last = _oci(work, rest, tree)
    elif kind == "dir":
        _directory(work, rest, tree)
    else:
        _mkosi(work, rest, tree, private)
    files.remove_tree(private)
    work.begin(steps[1], 2, len(steps))
    return _looked((tree, *work.lowers), work.layer.family) if last else ""


def _looked(stack: Sequence[str], family: str) -> str:
    """What a session could not start in is no base; else its family, unless that is known."""
    if wrong := [one for one in system.problems(stack) if one.needed == "run"]:
        text = "\n".join(f"{one.path}: {one.found}: {one.remedy}" for one in wrong)
        raise StoreError("no machine can run in this tree", details=text, hint="is the right thing in it?")
    return family or recognise.family(stack)


def _tar(work: Work, rest: str, tree: str, private: str) -> None:
    base, wanted = work.base, work.layer.facts["archive"]
    if not is_url(rest):
        _unpacked_tar(work, rest, wanted, tree, private)
        return
    with fetch.downloaded(work.store, rest, say=work.say, sha256=base.sha256 or wanted) as path:
        _unpacked_tar(work, path, wanted, tree, private)


def _unpacked_tar(work: Work, path: str, wanted: str, tree: str, private: str) -> None:
    base = work.base

    def differs(found: str) -> StoreError | None:
        if found == wanted:
            return None
        if base.sha256:
            details = f"sha256 in the definition: {base.sha256}\nsha256 of the file:      {found}"
            brief = f"{path} is not what the definition says"
            return StoreError(brief, details=details, hint="compare both with what its makers publish")
        return StoreError(f"{path} changed while it was read", hint="try again")

    with streams.regular(path) as stream:
        if base.keyring:
            if wrong := differs(fetch.check_signature(stream, base.signature, base.keyring, private)):
                raise wrong
            stream.seek(0)
        _unpack(work, stream, path, tree, differs)


def _unpack(
    work: Work, stream: Readable, name: str, tree: str, differs: Callable[[str], StoreError | None], *,
    lowers: Sequence[str] = (), image: bool = False,
) -> str:  # fmt: skip
    """The digest of the archive without its compression. ``differs`` says what is wrong with the digest of the file.

    That comes first: why a damaged file cannot be unpacked is of no use to anybody.
    """
    raw = streams.Digested(stream)
    try:
        with streams.decompressed(raw) as archive:
            done = unpack.unpack(archive, tree, image=image, lowers=lowers)
    except (StoreError, CommandError) as e:
        wrong = differs(raw.to_the_end())
        raise wrong or StoreError(f"{name}: {e.brief}", details=e.details, hint=e.hint) from None
    if wrong := differs(raw.to_the_end()):
        raise wrong
    left = f", {done.devices} devices left out" if done.devices else ""
    work.say(f"{done.entries} files, {done.size} bytes{left}\n".encode())
    return done.sha256


def _oci(work: Work, rest: str, tree: str) -> bool:
    """Whether this was the image's topmost layer."""
    base, wanted = work.base, work.layer.facts["image-layer"]
    form, _, path = rest.partition(":")
    if form == LAYOUT:
        return _image_layer(work, oci.image(*oci.split_layout(path), base.architecture), wanted, tree)
    origins = Origins(work.store)
    pinned = origins.pinned(base)
    source = rest if form == ARCHIVE else f"docker://{rest.partition('@')[0] if pinned else rest}"
    if pinned:  # what the name meant when it was asked; a tag before '@' is refused by registries' clients
        name, _, tag = source.rpartition(":")
        source = f"{name if tag and '/' not in tag else source}@{pinned}"
    key = os.path.basename(origins.path(base)).removesuffix(".json")
    place = f"{work.store.cache}/images/{key}"
    with files.locked(f"{work.store.run}/locks/image-{key}"):
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        try:
            found = oci.image(place, "image", base.architecture)
        except StoreError:
            work.say(f"getting {source}\n".encode())
            oci.copy(source, place, base.architecture)
            found = oci.image(place, "image", base.architecture)
        try:
            last = _image_layer(work, found, wanted, tree)
        except StoreError:
            files.remove_tree(place)  # the next try gets it anew
            raise
        if last:
            files.remove_tree(place)
    return last


def _image_layer(work: Work, image: oci.Image, wanted: str, tree: str) -> bool:
    number = len(work.lowers)
    if number >= len(image.layers) or image.layers[number][0] != wanted:
        raise StoreError(
            f"{work.base.source} is another image now", hint="`roost plan` shows what it is now; build it again"
        )
    archive, path, blob = image.layers[number]
    damaged = StoreError(
        f"layer {number + 1} of {work.base.source} is damaged: its digest is another", hint="get the image again"
    )
    with streams.regular(path) as stream:
        found = _unpack(
            work, stream, path, tree, lambda found: None if found == blob else damaged, lowers=work.lowers, image=True
        )
    if found != archive:
        raise damaged
    return number + 1 == len(image.layers)


def _directory(work: Work, rest: str, tree: str) -> None:
    trees.copy(rest, tree, rest)
    if trees.content(tree) != work.layer.facts["directory"]:
        raise StoreError(f"{rest} changed while it was copied", hint="try again when nothing works in it")
    trees.clean(tree, rest, upper=False)


def _mkosi(work: Work, rest: str, tree: str, private: str) -> None:
    mkosi.make(rest, tree, private, work.say)
    if trees.content(rest, without=MKOSI_OWN) != work.layer.facts["mkosi"]:
        hint = "try again; what it writes belongs into mkosi.output or mkosi.cache"
        raise StoreError(f"{rest} changed while mkosi worked in it", hint=hint)
    trees.clean(tree, rest, upper=False)
