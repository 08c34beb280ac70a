"""The package cache: what package managers download, kept for the next layer of the same repositories."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from roost.host import files

if TYPE_CHECKING:
    from roost.distro.recipe import Provision


def directory(cache: str, provision: Provision, *, base: bool = False) -> str:
    """Where it is below ``cache``, made when it is not there.

    Bases have theirs: they are made as the host's root, from what only the package manager itself has fetched.
    """
    path = f"{cache}/packages/{provision.cache_key or 'none'}{'-base' if base else ''}"
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def overlay_directories(stage: str, name: str) -> None:
    """The upper and work directories of an overlay, below ``name`` of ``stage``."""
    top = os.path.join(stage, name) if name else stage
    os.makedirs(f"{top}/upper", mode=0o755, exist_ok=True)
    os.makedirs(f"{top}/work", mode=0o700, exist_ok=True)


def keep(stage: str, cache: str, endings: tuple[str, ...]) -> None:
    """Moves newly downloaded packages, whose names have one of ``endings``, into the cache, and removes the rest.

    What the cache has is replaced only when its size is another: then a crash has cut it short, as nothing in the
    cache is synced, and the package manager has refused it and downloaded it again.
    """
    upper = f"{stage}/archives/upper"
    for place, names, others in os.walk(upper):
        names[:] = [name for name in names if name != "partial"]  # apt's unfinished downloads
        below = os.path.normpath(f"{cache}/{os.path.relpath(place, upper)}")
        for name in others:
            if name.endswith(endings):
                _keep_one(f"{place}/{name}", f"{below}/{name}")
    files.remove_tree(f"{stage}/archives")


def _keep_one(path: str, kept: str) -> None:
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode) or not info.st_size:
        return
    with contextlib.suppress(FileNotFoundError):
        if os.stat(kept, follow_symlinks=False).st_size == info.st_size:
            return
    os.chown(path, 0, 0)
    os.chmod(path, 0o644)
    os.makedirs(os.path.dirname(kept), mode=0o755, exist_ok=True)
    try:
        os.rename(path, kept)
    except OSError:  # the cache is on another file system
        files.copy_atomic(path, kept)
