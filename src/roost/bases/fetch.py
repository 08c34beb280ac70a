"""Downloads: a file is whole and checked before it is used; one that was cut short goes on where it ended, or begins again.

What is under way is in CACHE/downloads/KEY, KEY being the start of the address's SHA-256: ``part``, ``meta`` (what the server
calls that content, by which it says whether it is still the same, RFC 9110, 13.1.5), and ``file`` when all of it is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.bases import signatures, streams
from roost.distro.keyring import binary
from roost.errors import HostError, NetworkDown, StoreError, exhausted
from roost.host import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.client import HTTPResponse
    from ssl import SSLContext

    from roost.bases.streams import Readable
    from roost.store import Store

SIZE_MOST = 64 << 30
"""Bytes of one download."""
SIGNATURE_MOST = 1 << 20
KEYS_MOST = 16 << 20
_BLOCK = 1 << 18
_SECONDS = 60.0  # without a byte
_TRIES = 3


def sha256_of(path: str) -> str:
    """The digest of a regular file. Raises StoreError for anything else."""
    with streams.regular(path) as stream:
        try:
            return streams.Digested(stream).to_the_end()
        except OSError as e:
            raise StoreError(f"{path}: {e.strerror}", hint="can it be read?") from None


class Way(Struct, frozen=True, kw_only=True):
    """How servers are reached: ``proxies`` is scheme → address, which may hold a password, and comes before the environment's;
    ``certificates`` is the file of those that are trusted, empty: OpenSSL's own.
    """

    proxies: dict[str, str] = {}
    certificates: str = ""

    def __repr__(self) -> str:
        return f"Way(certificates={self.certificates!r})"


PLAIN = Way()


@contextlib.contextmanager
def downloaded(
    store: Store, url: str, *, say: Callable[[bytes], None], sha256: str = "", keep: bool = False, way: Way = PLAIN
) -> Iterator[str]:
    """The path of what is at an address, downloaded when it is not there; when this ends well it is gone, or kept.

    Raises NetworkDown for a server that cannot be reached or ends too early, StoreError for an answer that is none, and
    for another digest than ``sha256``.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:32]
    place = f"{store.cache}/downloads/{key}"
    with files.locked(f"{store.run}/locks/download-{key}"):
        os.makedirs(place, mode=0o700, exist_ok=True)
        if not os.path.exists(f"{place}/file"):
            _get(url, place, say, way)
        if sha256 and (found := sha256_of(f"{place}/file")) != sha256:
            files.remove_tree(place)
            raise StoreError(
                f"{url} is not what the definition says: another file, or one that was changed",
                details=f"sha256 in the definition: {sha256}\nsha256 of the file:      {found}",
                hint="compare both with what its makers publish",
            )
        try:
            yield f"{place}/file"
        except StoreError:  # it cannot be used: the next try downloads it anew
            files.remove_tree(place)
            raise
        if not keep:
            files.remove_tree(place)


def _get(url: str, place: str, say: Callable[[bytes], None], way: Way) -> None:
    problem = ""
    for _ in range(_TRIES):
        problem = _got(url, place, say, way)
        if not problem:
            os.rename(f"{place}/part", f"{place}/file")
            return
        say(f"{problem}\n".encode())
    raise NetworkDown(f"{url} {problem}", hint="what was downloaded is kept: the same command goes on with it")


def _got(url: str, place: str, say: Callable[[bytes], None], way: Way) -> str:
    """Goes on with a download; why it did not come to its end, or nothing."""
    part = f"{place}/part"
    have, name = 0, ""
    with contextlib.suppress(OSError):
        have = os.stat(part).st_size
        with open(f"{place}/meta", encoding="ascii") as stream:
            name = stream.read(1000)
    asked = {"Range": f"bytes={have}-", "If-Range": name} if have and name else {}
    with _opened(url, asked, way) as answer:
        more = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        if asked and answer.status == 206 and not more:
            os.unlink(part)
            return "sent another part than it was asked for"
        start = have if more else 0
        length = answer.headers.get("Content-Length")
        wanted = start + int(length) if length is not None and length.isdecimal() else None
        if (wanted or 0) > SIZE_MOST:
            raise StoreError(f"{url} has {wanted} bytes, more than {SIZE_MOST >> 30} GiB", hint="download it yourself")
        etag = answer.headers.get("ETag") or ""
        mark = answer.headers.get("Last-Modified") or ""
        if etag and not etag.startswith("W/"):
            mark = etag
        files.write_atomic(f"{place}/meta", mark.encode("ascii", "replace"), mode=0o600)
        say(f"{url}: {'goes on at' if start else 'downloading'} {start or wanted or '?'} bytes\n".encode())
        size = start
        with open(part, "ab" if start else "wb") as target:
            try:
                while block := answer.read(_BLOCK):
                    target.write(block)
                    size += len(block)
                    if size > SIZE_MOST:
                        raise StoreError(f"{url} does not end", hint="download it yourself")
            except OSError as e:
                if exhausted(e) and e.errno != errno.EAGAIN:
                    raise
                return f"broke off after {size} bytes: {e.strerror or e}"
    if wanted is not None and size < wanted:
        return f"ended after {size} of {wanted} bytes"
    return ""


@contextlib.contextmanager
def _opened(url: str, headers: dict[str, str], way: Way) -> Iterator[HTTPResponse]:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener, getproxies

    request = Request(url, headers={"User-Agent": "roost", "Accept-Encoding": "identity", **headers})  # noqa: S310  # checked
    opener = build_opener(ProxyHandler({**getproxies(), **way.proxies}), HTTPSHandler(context=_trusting(way)))
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            if not answer.geturl().startswith(("http://", "https://")):
                raise StoreError(f"{url} leads to {answer.geturl()}", hint="is the address right?")
            yield answer
    except HTTPError as e:
        if e.code < 500:
            raise StoreError(f"{url}: the server says {e.code} {e.reason}", hint="is the address right?") from None
        raise NetworkDown(f"{url}: the server says {e.code} {e.reason}", hint="try again later") from None
    except URLError as e:
        raise NetworkDown(
            f"{url} cannot be reached: {e.reason}", hint="is the network up? is the address right?"
        ) from None
    except (HTTPException, TimeoutError, ConnectionError) as e:
        raise NetworkDown(f"{url} broke off: {type(e).__name__}", hint="the same command goes on with it") from None


def _trusting(way: Way) -> SSLContext:
    import ssl

    try:
        return ssl.create_default_context(cafile=way.certificates or None)
    except OSError as e:
        raise HostError(
            f"{way.certificates} cannot be read: {e.strerror or e}", hint="install the host's ca-certificates anew"
        ) from None


def content(url: str, way: Way = PLAIN) -> bytes:
    """A small file: a signature, a pointer. Raises NetworkDown, and StoreError for one that is not there or not small."""
    from http.client import HTTPException

    try:
        with _opened(url, {}, way) as answer:
            data = answer.read(SIGNATURE_MOST + 1)
    except (HTTPException, OSError) as e:
        raise NetworkDown(f"{url} broke off: {type(e).__name__}", hint="try again") from None
    if len(data) > SIGNATURE_MOST:
        raise StoreError(f"{url} has more than {SIGNATURE_MOST >> 10} KiB", hint="is the address right?")
    return data


def check_signature(stream: Readable, signature: str, keyring: str, private: str) -> str:
    """The SHA-256 of a stream, when ``signature`` (a file or an address) is a good one of it by one of the keys of a file.

    Raises StoreError when it is not, HostError for a keyring without keys and without gpgv. ``private`` is a directory of the
    caller's.
    """
    with streams.regular(keyring) as file:
        keys = binary(file.read(KEYS_MOST), keyring)
    if signature.startswith(("http://", "https://")):
        made = content(signature)
    else:
        with streams.regular(signature) as file:
            made = file.read(SIGNATURE_MOST)
    names = [os.path.basename(path) for path in (signature, keyring)]
    brief = f"{names[0]} is no good signature by one of the keys of {names[1]}"
    return signatures.check(stream, made, keys, private, brief=brief)
