"""A session's changes as a new layer: copied, hashed, published by rename; the session is not touched."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from typing import TYPE_CHECKING

from roost.errors import StoreError, of_os
from roost.host import runner
from roost.plan import FORMAT, digest
from roost.records import LayerRecord
from roost.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        # cp keeps owners, links, holes, devices (whiteouts) and xattrs (opaque directories), and shares blocks if it can
        argv = (
            "cp",
            "--archive",
            "--reflink=auto",
            "--one-file-system",
            "--no-target-directory",
            upper,
            f"{stage}/tree",
        )
        done = runner.run(runner.Command(argv=argv, private=True))
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code).encode() in done.output:
                raise of_os(OSError(code, os.strerror(code), f"{stage}/tree"))
        if done.status and os.strerror(errno.ENAMETOOLONG).encode() in done.output:
            raise StoreError(
                f"session {session} has a path that is longer than the kernel takes",
                hint="remove it: `roost session shell`",
            )
        runner.check(done)
        content = _content(f"{stage}/tree")
        parent = record.layers[-1] if record.layers else ""
        layer = LayerRecord(
            digest=digest(FORMAT, "committed", parent, content), parents=record.layers, kind="committed", name=f"layer {name}",
            family=record.family or (store.layer(parent).family if parent else ""), facts={"content": content}, created=time.time(),
            seconds=time.monotonic() - began,
            roost=__version__,
        )  # fmt: skip
        with store.pinned((*record.layers, layer.digest)):  # until it has a name
            store.publish(stage, layer)
            store.set_name(name, layer.digest)
    return layer


def _content(tree: str) -> str:
    """One digest over every path, its metadata and its content."""
    total = hashlib.sha256()
    for path, info in _walk(tree):
        item: list[object] = [path, info.st_mode, info.st_uid, info.st_gid, info.st_rdev]
        full = f"{tree}/{path}"
        if stat.S_ISREG(info.st_mode):
            with open(full, "rb", opener=_no_follow) as stream:
                item.append(hashlib.file_digest(stream, "sha256").hexdigest())
        elif stat.S_ISLNK(info.st_mode):
            item.append(os.readlink(full))
        names = sorted(os.listxattr(full, follow_symlinks=False))
        item.append([[key, os.getxattr(full, key, follow_symlinks=False).hex()] for key in names])
        total.update(digest(item).encode())
    return total.hexdigest()


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _walk(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    pending = [""]
    while pending:
        here = pending.pop()
        with os.scandir(os.path.join(tree, here)) as entries:
            found = sorted((os.path.join(here, e.name), e.stat(follow_symlinks=False)) for e in entries)
        for path, info in found:
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)
