"""What sources of bases hold, remembered by their stamps: a file of a gigabyte is not read at every plan.

STATE/origins/KEY.json is one source; it is written by whoever may, and of images in a registry and of signed downloads it is
what says which one is meant until ``roost build --update`` asks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

from roost.bases import fetch, oci, streams, trees
from roost.definition.origins import ARCHIVE, LAYOUT, is_url
from roost.errors import Error, StoreError
from roost.host import files
from roost.plan import Found

if TYPE_CHECKING:
    from roost.definition.model import Base
    from roost.store import Store

MKOSI_OWN = (
    "mkosi.output",
    "mkosi.cache",
    "mkosi.builddir",
    "mkosi.workspace",
    "mkosi.pkgcache",
    "mkosi.history",
    ".git",
)
"""What mkosi itself writes beside its configuration (mkosi(1)), and what is no input of it."""
_SETTLED = 50_000_000  # nanoseconds: see roost.ready


class Origins:
    """The sources of bases, as a store knows them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, base: Base) -> Found:
        """What a plan may know of a source. Fetches nothing and raises nothing; a local file is read once."""
        kind, rest = split(base)
        word = {"tar": "archive", "oci": "image-layer", "dir": "directory"}.get(kind, kind)
        if kind == "tar" and base.sha256:
            return Found(word=word, layers=(base.sha256,))
        try:
            layers = self._found(base, kind, rest)
        except Error as e:
            return Found(word=word, why=e.brief)
        except OSError as e:
            return Found(word=word, why=f"{e.filename or rest}: {e.strerror}")
        return Found(
            word=word, layers=layers, why="" if layers else "what it holds is known once `roost build` has asked for it"
        )

    def _found(self, base: Base, kind: str, rest: str) -> tuple[str, ...]:
        if kind == "oci":
            form, _, path = rest.partition(":")
            if form == LAYOUT:
                return tuple(one[0] for one in oci.image(*oci.split_layout(path), base.architecture).layers)
            mark = _stamp(path.partition(":")[0]) if form == ARCHIVE else ""
            return self._remembered(base, mark)[0]
        if is_url(rest):
            return self._remembered(base, "")[0]
        if kind == "tar":
            mark = _stamp(rest)
            return self._remembered(base, mark)[0] or self._noted(
                base, mark, fetch.sha256_of(rest), os.stat(rest).st_ctime_ns
            )
        without = MKOSI_OWN if kind == "mkosi" else ()
        if not os.path.isdir(rest):
            raise StoreError(f"{rest} is no directory", hint="is the path right? it is relative to the definition")
        if os.path.realpath(self._store.state).startswith(os.path.realpath(rest).rstrip("/") + "/"):
            raise StoreError(
                f"Roost's own store is in {rest}", hint="name a tree without it, or another store with --state"
            )
        mark, newest = trees.stamp(rest, without=without)
        return self._remembered(base, mark)[0] or self._noted(base, mark, trees.content(rest, without=without), newest)

    def _noted(self, base: Base, mark: str, digest: str, newest: int) -> tuple[str, ...]:
        if newest < time.time_ns() - _SETTLED:
            with contextlib.suppress(OSError):  # who may only look at the store reads the file again
                self._write(base, mark, (digest,), "")
        return (digest,)

    def settle(self, base: Base) -> None:
        """Asks for what ``find`` could not say. Raises the Error for which it cannot be said."""
        kind, rest = split(base)
        if kind == "oci" and not rest.startswith(f"{LAYOUT}:"):
            source = rest if rest.startswith(f"{ARCHIVE}:") else f"docker://{rest}"
            mark = _stamp(rest.split(":")[1]) if source == rest else ""
            pinned, layers = oci.inspect(source, base.architecture)
            self._write(base, mark, layers, pinned)
        elif is_url(rest) and not base.sha256:
            with (
                fetch.downloaded(self._store, rest, say=lambda _: None, keep=True) as path,
                self._store.staged("stage") as private,
            ):
                with streams.regular(path) as stream:
                    digest = fetch.check_signature(stream, base.signature, base.keyring, private)
                self._write(base, "", (digest,), "")
        else:
            self._found(base, kind, rest)

    def pinned(self, base: Base) -> str:
        """The digest of the manifest of an image in a registry, as it was when it was asked for."""
        return self._remembered(base, "")[1]

    def is_elsewhere(self, base: Base) -> bool:
        """Whether a name on another computer says what the source is: it may mean another thing by now."""
        kind, rest = split(base)
        if kind == "oci":
            return not rest.startswith((f"{LAYOUT}:", f"{ARCHIVE}:"))
        return is_url(rest) and not base.sha256

    def inputs(self, base: Base) -> tuple[str, ...] | None:
        """The files whose stamps say whether a source is still the same; None when that takes more than a few."""
        kind, rest = split(base)
        form, _, path = rest.partition(":")
        if kind == "tar":
            return () if base.sha256 else (self.path(base),) if is_url(rest) else (rest,)
        if kind == "oci" and form == LAYOUT:
            return (os.path.join(oci.split_layout(path)[0], "index.json"),)
        return (path.partition(":")[0],) if form == ARCHIVE else (self.path(base),) if kind == "oci" else None

    def path(self, base: Base) -> str:
        """The file in which a source is remembered."""
        key = json.dumps([base.source, base.architecture, base.keyring_digest])
        return f"{self._store.state}/origins/{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def _remembered(self, base: Base, mark: str) -> tuple[tuple[str, ...], str]:
        try:
            with open(self.path(base), "rb") as stream:
                source, stamp, layers, pinned = json.loads(stream.read())
            if (source, stamp) == (base.source, mark) and all(_is_digest(one) for one in layers):
                return tuple(layers), str(pinned)
        except (OSError, ValueError, TypeError):  # never, or damaged
            pass
        return (), ""

    def _write(self, base: Base, mark: str, layers: tuple[str, ...], pinned: str) -> None:
        os.makedirs(f"{self._store.state}/origins", mode=0o700, exist_ok=True)
        data = json.dumps([base.source, mark, layers, pinned]).encode()
        files.write_atomic(self.path(base), data, mode=0o600, durable=True, staging=f"{self._store.state}/staging")


def split(base: Base) -> tuple[str, str]:
    """The kind of a source, and what follows it."""
    kind, _, rest = base.source.partition(":")
    return kind, rest


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")


def _stamp(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError as e:
        raise StoreError(f"{path}: {e.strerror}", hint="is the path right? it is relative to the definition") from None
    return f"{info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
