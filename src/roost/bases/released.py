"""A base from archives that a distribution releases itself: found by a pointer on its mirror, verified, unpacked."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from roost.bases import fetch, signatures, streams, unpack
from roost.errors import CommandError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from roost.distro.recipe import Archive
    from roost.store import Store

_CHECK = "check mirror and release"
_BITS = {64: "sha256", 128: "sha512"}
"""What a digest is, by its hexadecimal digits. (BLAKE2b has as many as SHA-512: a comment says which it is.)"""


def fill(store: Store, archives: Sequence[Archive], *, tree: str, private: str, say: Callable[[bytes], None]) -> None:
    """Unpacks ``archives`` into ``tree``, one after the other; ``private`` is a directory of the caller's.

    Raises StoreError for what is not signed by the right key, has another digest, or cannot be unpacked; NetworkDown for a
    mirror that cannot be reached; HostError without gpgv.
    """
    for archive in archives:
        _check_address(archive.url)
        url = urljoin(archive.url, _pointed(archive, private)) if archive.pointer else archive.url
        if url.startswith("file:"):
            say(f"{url}\n".encode())
            with streams.regular(_path(url), shown=url, hint=_CHECK) as stream:
                _unpacked(archive, url, stream, tree, private, say)
            continue
        with fetch.downloaded(store, url, say=say, way=_way(archive)) as path, streams.regular(path) as stream:
            _unpacked(archive, url, stream, tree, private, say)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise StoreError(f"not a mirror's address: {url!r}", hint="http://HOST/PATH, https://... or file:///PATH")
    if "@" in parts.netloc:
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise StoreError(
            f"archives are not downloaded with a login: {where}",
            hint='use a mirror that asks for none, or from = "tar:FILE"',
        )


def _path(url: str) -> str:
    return unquote(urlsplit(url).path)


def _way(archive: Archive) -> fetch.Way:
    return fetch.Way(proxies=archive.proxies, certificates=archive.certificates)


def _text(archive: Archive, url: str) -> bytes:
    """A small file at an address."""
    if not url.startswith("file:"):
        return fetch.content(url, _way(archive))
    with streams.regular(_path(url), shown=url, hint=_CHECK) as stream:
        return stream.read(fetch.SIGNATURE_MOST)


def _pointed(archive: Archive, private: str) -> str:
    text = _text(archive, archive.url)
    if archive.clearsigned:
        text = _signed_text(text, archive, archive.url, private)
    found = re.search(archive.pointer, text.decode(errors="replace"), re.MULTILINE)
    if found is None:
        raise StoreError(
            f"{archive.url} names no archive", hint="has the mirror changed? another one may be up to date"
        )
    return found[1]


def _signed_text(text: bytes, archive: Archive, url: str, private: str) -> bytes:
    name = os.path.basename(urlsplit(url).path)
    brief = f"{name} of the mirror has no good signature by one of the keys of the keyring"
    return signatures.text(text, archive.keys, private, brief=brief)


def _unpacked(
    archive: Archive, url: str, stream: BinaryIO, tree: str, private: str, say: Callable[[bytes], None]
) -> None:
    name = os.path.basename(urlsplit(url).path)
    signature = _text(archive, f"{url}{archive.signature}")
    algorithm, wanted = _listed(archive, url, name, private) if archive.digests else ("sha256", "")
    brief = f"{name}{archive.signature} is no good signature by one of the keys of the keyring"
    checked = signatures.check(stream, signature, archive.keys, private, brief=brief, algorithm=algorithm)
    say(f"{name}: the signature is good\n".encode())
    if archive.digests:
        if not wanted:
            hint = "the mirror may be in the middle of a change: try again"
            raise StoreError(f"the mirror has no digest of {name}", hint=hint)
        if checked != wanted:
            raise StoreError(
                f"{name} is not what the mirror's list of digests says",
                details=f"{algorithm} in the list: {wanted}\n{algorithm} of the file: {checked}",
                hint="the mirror is damaged, or in the middle of a change: try again, or use another mirror",
            )
        say(f"{name}: the digest is right\n".encode())
    stream.seek(0)
    raw = streams.Digested(stream, algorithm)
    changed = StoreError(f"{name} changed while it was read", hint="try again when nobody writes it")
    try:
        with streams.decompressed(raw) as content:
            done = unpack.unpack(content, tree, place=_placing(archive) if archive.place else None)
    except (StoreError, CommandError) as e:
        if raw.to_the_end() != checked:
            raise changed from None
        raise StoreError(f"{name}: {e.brief}", details=e.details, hint=e.hint) from None
    if raw.to_the_end() != checked:
        raise changed
    say(f"{name}: {done.entries} files, {done.size} bytes\n".encode())


def _placing(archive: Archive) -> Callable[[list[str]], list[str] | None]:
    above = archive.place.split("/")
    only = [path.split("/") for path in archive.only]

    def placed(parts: list[str]) -> list[str] | None:
        below = parts[1:]
        if only and not any(below[: len(one)] == one for one in only):
            return None
        return [*above, *below]

    return placed


def _digests(text: bytes, name: str) -> Iterator[tuple[str, str]]:
    """The digests that a file has of ``name``: each line's, with what the comment before says that they are."""
    kind = ""
    for line in text.decode(errors="replace").splitlines():
        if comment := re.match(r"#\s*([A-Za-z0-9]+)", line):
            kind = comment[1].lower()
        elif (found := re.match(r"([0-9a-fA-F]{64,128})\s+\*?(\S+)\s*$", line)) and os.path.basename(found[2]) == name:
            algorithm = {"blake2b": "blake2b"}.get(kind) or _BITS.get(len(found[1]), "")
            if algorithm:
                yield algorithm, found[1].lower()


def _listed(archive: Archive, url: str, name: str, private: str) -> tuple[str, str]:
    """What the mirror's list says that a file is: an algorithm as hashlib calls it, and the digest; empty, when it says nothing."""
    text = _text(archive, f"{url}{archive.digests}")
    if archive.clearsigned:
        text = _signed_text(text, archive, f"{url}{archive.digests}", private)
    wanted = dict(_digests(text, name))
    algorithm = next((one for one in ("sha512", "sha256", "blake2b") if one in wanted), "sha256")
    return algorithm, wanted.get(algorithm, "")
