"""An archive's bytes: read once, digested on the way, decompressed by what they are and not by what they are called."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Protocol

from roost.errors import StoreError
from roost.host import runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BLOCK = 1 << 18  # bytes
_SKIPPABLE = bytes(range(0x50, 0x60))  # RFC 8878, 3.1.2: the first byte of a zstd frame that holds no data


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


@contextlib.contextmanager
def regular(path: str, *, shown: str = "", hint: str = "") -> Iterator[BinaryIO]:
    """A regular file, for reading; ``shown`` is what it is called. Raises StoreError for anything else, which is not opened.

    Whoever checks a file and uses it reads it through this one descriptor, and compares the digests of both readings: it may
    be written meanwhile.
    """
    shown = shown or path
    try:
        there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as e:
        hint = hint or "is the path right? it is relative to the definition"
        raise StoreError(f"{shown}: {e.strerror}", hint=hint) from None
    try:
        if not stat.S_ISREG(os.fstat(there).st_mode):
            raise StoreError(f"{shown} is no file", hint=hint or 'a directory is `from = "dir:DIRECTORY"`')
        fd = os.open(f"/proc/self/fd/{there}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise StoreError(f"{shown}: {e.strerror}", hint="who runs this must be able to read it") from None
    finally:
        os.close(there)
    with open(fd, "rb", buffering=0) as stream:
        yield stream


class Digested:
    """A stream, with the digest of all that was read of it; ``algorithm`` as hashlib calls it."""

    def __init__(self, stream: Readable, algorithm: str = "sha256") -> None:
        self._stream = stream
        self._sha = hashlib.new(algorithm)

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        data = self._stream.read(size)
        self._sha.update(data)
        return data

    def to_the_end(self) -> str:
        """The digest of the whole stream, in hexadecimal."""
        while self.read(BLOCK):
            pass
        return self._sha.hexdigest()


class Metered:
    """A stream that gives no more than it was allowed to: a header that says it is a terabyte long is not read.

    ``sha256`` (after ``to_the_end``) is that of what came out of it.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0
        self._sha = hashlib.sha256()

    def allow(self, size: int) -> None:
        """How many bytes may be read from now on."""
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes. Raises StoreError for one too many."""
        data = self._stream.read(size if size >= 0 else BLOCK)
        self._left -= len(data)
        if self._left < 0:
            raise StoreError("it has more bytes than its headers say, or headers of their size")
        self._sha.update(data)
        return data

    def to_the_end(self, most: int) -> str:
        """Reads what is left, at most ``most`` bytes; the digest of everything."""
        self.allow(most)
        while self.read(BLOCK):
            pass
        return self._sha.hexdigest()


@contextlib.contextmanager
def decompressed(raw: Readable) -> Iterator[Readable]:
    """``raw`` without its compression: gzip, xz, zstd, bzip2 or none. Raises HostError without zstd(1) where it is needed."""
    head = raw.read(512)
    whole = _Rest(head, raw)
    if head[:2] == b"\x1f\x8b":
        import gzip

        yield gzip.GzipFile(fileobj=whole)  # type: ignore[call-overload]  # it only reads, as the others
    elif head[:6] == b"\xfd7zXZ\0":
        import lzma

        yield lzma.LZMAFile(whole)  # type: ignore[arg-type]  # noqa: SIM115
    elif head[:3] == b"BZh":
        import bz2

        yield bz2.BZ2File(whole)  # type: ignore[call-overload]
    elif head[:4] == b"\x28\xb5\x2f\xfd" or (
        head[:1] in (bytes((b,)) for b in _SKIPPABLE) and head[1:4] == b"\x2a\x4d\x18"
    ):
        blocks = iter(lambda: whole.read(BLOCK), b"")
        with runner.filtered(("zstd", "-dcq", "--memory=2048MB"), blocks) as stream:
            yield stream
    else:
        yield whole


class _Rest:
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            size = size if size >= 0 else len(self._head)
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._stream.read(size)
