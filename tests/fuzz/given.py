"""The doors through which archives and images of others come."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from fuzz import checks
from roost.bases import oci, unpack
from roost.definition import origins
from roost.errors import Error
from roost.host import files

if TYPE_CHECKING:
    from pathlib import Path


def archive(data: bytes, place: Path) -> None:
    """An archive is unpacked below its directory or refused; nothing beside that is touched."""
    above = place / "above"
    tree, beside = above / "tree", above / "beside"
    files.remove_tree(str(above))
    tree.mkdir(parents=True)
    beside.write_text("untouched")
    try:
        unpack.unpack(
            io.BytesIO(data), str(tree), image=len(data) % 2 == 1, lowers=[str(above)] * (len(data) % 3), size=1 << 24
        )
    except Error as e:
        checks.told(e)
    assert beside.read_text() == "untouched"
    assert {path.name for path in above.iterdir()} == {"tree", "beside"}


def image(data: bytes, place: Path) -> None:
    """An index is that of an image or it is told why not; as a ``from`` it is one or told why not."""
    directory = place / "layout"
    directory.mkdir(exist_ok=True)
    (directory / "index.json").write_bytes(data)
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    try:
        oci.image(str(directory), "", "amd64")
    except Error as e:
        checks.told(e)
    text = data.decode(errors="replace")
    wrong = origins.origin(text)
    if not wrong:
        assert origins.absolute(text, "/here").partition(":")[0] in origins.KINDS
