"""``from``: what a base is made from instead of a distribution. The word before the first ':' says what the rest is."""

from __future__ import annotations

import os.path

from roost.definition.checks import DIGITS, LETTERS, made_of, nul, profile_name
from roost.definition.families import is_family
from roost.host.architectures import PROCESSORS

KINDS = ("layer", "tar", "oci", "dir", "mkosi")
FORMS = '"layer:NAME", "tar:FILE", "tar:URL", "oci:IMAGE", "dir:DIRECTORY" or "mkosi:DIRECTORY"'
LAYOUT, ARCHIVE = "oci-layout", "docker-archive"
MANAGERS = ("apt", "dnf", "zypper", "pacman", "apk", "portage", "none")
"""What ``family`` may be; none: no package manager at all."""


def is_url(text: str) -> bool:
    """Whether a tar, or its signature, has to be downloaded."""
    return text.startswith(("http://", "https://"))


def origin(text: str) -> str:
    """What is wrong with a ``from``."""
    kind, _, rest = text.partition(":")
    if kind == "layer":
        return (
            ""
            if not profile_name(rest)
            else f'not a layer {text!r}: write "layer:NAME", with the name of a committed layer'
        )
    if kind not in KINDS:
        return f"not a source of a base {text!r}: write {FORMS}"
    if not rest or nul(rest) or not rest.isprintable():
        return f"not a source of a base {text!r}: nothing that can be read follows '{kind}:'"
    if kind == "oci":
        return _image(rest)
    return _address(rest) if kind == "tar" and "://" in rest else ""


def signature(text: str) -> str:
    """What is wrong with a ``signature``."""
    if not text or nul(text) or not text.isprintable():
        return "a signature is a file or an address"
    return _address(text) if "://" in text else ""


def digest(text: str) -> str:
    """What is wrong with a ``sha256``."""
    if len(text) == 64 and made_of(text, "0123456789abcdef"):
        return ""
    return "not a SHA-256: 64 digits 0-9 and a-f, as `sha256sum` prints them"


def family(text: str) -> str:
    """What is wrong with a ``family``."""
    return "" if text in MANAGERS or is_family(text) else f"unknown family '{text}', one of {', '.join(MANAGERS)}"


def architecture(text: str) -> str:
    """What is wrong with an ``architecture`` of a base that no recipe makes; empty for none written."""
    if not text or text in PROCESSORS:
        return ""
    return f"there is no architecture '{text}': one of {', '.join(PROCESSORS)}"


def _address(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https"):
        return f"not an address {url!r}: http:// or https://, or the path of a file"
    if "@" in rest.partition("/")[0]:
        return "no user or password here: they would stay in the store"
    if any(c.isspace() or c in "\"'<>\\" for c in url) or not url.isascii() or not rest.partition("/")[2]:
        return f"not an address {url!r}: a host and the path of a file"
    return ""


def _image(text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind in (LAYOUT, ARCHIVE):
        return "" if rest else f"not an image {text!r}: a path follows '{kind}:'"
    name = text.removeprefix("docker://")
    if not made_of(name, LETTERS + DIGITS + "._/:@-+") or name[0] not in LETTERS + DIGITS:
        return f'not an image {text!r}: "HOST/NAME:TAG", "HOST/NAME@sha256:DIGEST", "oci-layout:DIRECTORY:TAG", "docker-archive:FILE"'
    _, at, pinned = name.partition("@")
    algorithm, _, value = pinned.partition(":")
    if at and (algorithm != "sha256" or digest(value)):
        return f"not an image {text!r}: '@' is followed by sha256: and 64 digits"
    return ""


def absolute(text: str, directory: str) -> str:
    """A ``from`` whose path no longer depends on where the definition is."""
    kind, _, rest = text.partition(":")
    if kind == "oci":
        form, _, path = rest.partition(":")
        return (
            f"oci:{form}:{_path(path, directory)}"
            if form in (LAYOUT, ARCHIVE)
            else f"oci:{rest.removeprefix('docker://')}"
        )
    return text if kind == "layer" or is_url(rest) else f"{kind}:{_path(rest, directory)}"


def _path(path: str, directory: str) -> str:
    return os.path.normpath(os.path.join(directory, path))
