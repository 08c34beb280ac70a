"""How this host reaches the mirrors of rpm distributions: proxies, certificates, credentials. Nothing is started.

The host need not be of that family: what its apt is told counts where dnf says nothing. Formats: dnf.conf(5).
"""

from __future__ import annotations

import configparser
import os
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import Struct

from roost.host import apt

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONFIGURATIONS = ("/etc/dnf/dnf.conf", "/etc/yum.conf")


class HostDnf(Struct, frozen=True, kw_only=True):
    """``proxies`` is scheme → address and may hold a password, ``auth`` is netrc text: neither goes into a tree or a log.

    ``ca_bundle`` is the content of the certificates that the host trusts, ``ca_path`` the file. ``only_shown``: what follows
    is shown and not carried out, so that a keyring may be missing.
    """

    root: str = "/"
    architecture: str = ""
    proxies: dict[str, str] = {}
    auth: str = ""
    ca_path: str = ""
    ca_bundle: bytes = b""
    only_shown: bool = False

    def __repr__(self) -> str:
        return f"HostDnf(root={self.root!r}, architecture={self.architecture!r})"


def read(root: str = "/") -> HostDnf:
    """What the host at ``root`` is told. Never raises: what cannot be read is not there."""
    host = apt.read(root)
    options = {key.lower(): value for key, value in host.options}
    proxies = {scheme: options.get(f"acquire::{scheme}::proxy", "") for scheme in ("http", "https")}
    if own := _own_proxy(root):
        proxies = dict.fromkeys(proxies, own)
    return HostDnf(
        root=root,
        architecture=host.architecture,
        proxies={scheme: url for scheme, url in proxies.items() if url and url.lower() not in ("direct", "false")},
        auth=host.auth,
        ca_path=host.ca_bundle,
        ca_bundle=host.files.get(host.ca_bundle, b""),
    )


def _own_proxy(root: str) -> str:
    for name in _CONFIGURATIONS:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            with open(os.path.join(root, name.lstrip("/")), encoding="utf-8", errors="replace") as stream:
                parser.read_file(stream)
        except (OSError, configparser.Error):
            continue
        main: Mapping[str, str] = parser["main"] if parser.has_section("main") else {}
        proxy = main.get("proxy", "").strip()
        if proxy and proxy != "_none_":
            return _with_user(proxy, main.get("proxy_username", ""), main.get("proxy_password", ""))
    return ""


def _with_user(proxy: str, login: str, password: str) -> str:
    parts = urlsplit(proxy)
    if not login or "@" in parts.netloc:
        return proxy
    user = f"{quote(login, safe='')}:{quote(password, safe='')}@"
    return urlunsplit((parts.scheme, f"{user}{parts.netloc}", parts.path, parts.query, parts.fragment))
