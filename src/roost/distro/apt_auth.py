"""Credentials of mirrors: taken out of addresses and apt's own files, handed to apt and wget for one use."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from msgspec import Struct

from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Credential(Struct, frozen=True, kw_only=True):
    """A line of apt_auth.conf(5). ``machine`` is ``[PROTOCOL://]HOST[:PORT][/PATH]``."""

    machine: str
    login: str
    password: str

    def __repr__(self) -> str:
        return f"Credential(machine={self.machine!r})"

    @property
    def host(self) -> str:
        """The host that it is for, without port and path."""
        return self.machine.rpartition("://")[2].partition("/")[0].partition(":")[0].lower()


def split(url: str) -> tuple[str, Credential | None]:
    """An address without the user and password in it, and these.

    Raises DefinitionError for what a netrc file cannot hold: white space.
    """
    try:
        parts = urlsplit(url)
    except ValueError as e:
        raise DefinitionError(
            f"not a mirror's address: {e}", hint="http://HOST/PATH, https://... or file:///PATH"
        ) from None
    userinfo, at, place = parts.netloc.rpartition("@")
    if not at:
        return url, None
    clean = urlunsplit((parts.scheme, place, parts.path, parts.query, parts.fragment))
    login, _, password = (unquote(part) for part in userinfo.partition(":"))
    if not login or any(c.isspace() for c in login + password):
        raise DefinitionError(
            f"the credentials of {clean} cannot be used", hint="a user name and a password, without spaces in them"
        )
    machine = f"{parts.scheme}://{place}{parts.path}".rstrip("/")
    return clean, Credential(machine=machine, login=login, password=password)


def parse(text: str) -> list[Credential]:
    """The entries of a netrc file, in order; those without a login or a machine are left out."""
    found: list[Credential] = []
    entry: dict[str, str] = {}
    words = iter([w for line in text.splitlines() if not line.lstrip().startswith("#") for w in line.split()])
    for name in words:
        if name == "machine":
            found += _credential(entry)
            entry = {"machine": next(words, "")}
        elif name in ("login", "password"):
            entry[name] = next(words, "")
    return found + _credential(entry)


def _credential(entry: dict[str, str]) -> list[Credential]:
    if not entry.get("machine") or "login" not in entry:
        return []
    return [Credential(machine=entry["machine"], login=entry["login"], password=entry.get("password", ""))]


def hosts(urls: Iterable[str]) -> frozenset[str]:
    """The hosts of addresses."""
    return frozenset((urlsplit(url).hostname or "").lower() for url in urls)


def apt_text(credentials: Iterable[Credential]) -> bytes:
    """For ``Dir::Etc::netrc``.

    A machine without a protocol means https only to apt since 1.9, and one with a protocol means nothing to older
    ones: those that have one are written both ways.
    """
    both = ((name, c) for c in credentials for name in dict.fromkeys((c.machine, c.machine.rpartition("://")[2])))
    return "".join(f"machine {name} login {c.login} password {c.password}\n" for name, c in both).encode()


def wget_text(credentials: Iterable[Credential]) -> bytes:
    """For wget, which debootstrap uses: it knows bare host names only."""
    return "".join(f"machine {c.host} login {c.login} password {c.password}\n" for c in credentials).encode()
