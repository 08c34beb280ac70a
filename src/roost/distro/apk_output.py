"""What the output of apk says about a failure: the words of apk-tools 2 and 3."""

from __future__ import annotations

import re

from roost.distro.output import explained

_WARNING = r"(?:WARNING|ERROR): (?:updating and opening |fetching |updating |opening )?"
_UNREACHABLE = (
    _WARNING
    + r"(?:\S+: )?(\S+?://\S+?):? (?:(?i:could not connect|connection (?:timed out|refused|reset|aborted)|operation timed out|"
    r"network (?:error|is unreachable|connection)|no route|host is unreachable)|DNS|temporary error)",
    r"wget: (?:can't connect to remote host|bad address|download timed out)[^\n]*\n(?:.*\n)*?roost: cannot get (\S+)",
)
_NO_APK = """leave `bootstrap` out: the minirootfs needs none. Or get apk.static, of https://gitlab.alpinelinux.org/alpine/apk-tools, \
into the PATH; or write `from = "tar:MINIROOTFS"`"""
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (r"roost: there is no apk on this host", "this host has no apk, which makes this base", _NO_APK),
    (
        r"UNTRUSTED signature|BAD signature|untrusted|[Bb]ad signature|roost: unsigned|not signed",
        "the repository's signature is not good",
        "the mirror is damaged, changed on the way, or not signed by this key; another mirror, or the right key",
    ),
    (
        r"unable to select packages:\s+(\S+) \(no such package\)",
        "no package is called {what} here",
        "look for its name in this release, or add the repository that has it: repositories = [...]",
    ),
    (
        r"unable to select packages:\s+(\S+)",
        "apk finds no way to have {what}",
        "its output says what excludes what",
    ),
    (
        _WARNING
        + r"(\S+?://\S+?|/\S+?):? (?:HTTP (?:error|[45])|No such file|unexpected end of file|remote server returned error|"
        r"(?:package )?not found)",
        "the mirror does not have it: {what}",
        'check mirror and release (mirror = "URL")',
    ),
    (
        r"(\S+): (?:v2 package integrity error|package integrity error|BAD archive|checksum|IO ERROR)|integrity error",
        "a package is not what the repository's index says it is",
        "the mirror is damaged, or in the middle of a change: try again in a moment, or use another mirror",
    ),
    (r"(\S+) is needed by others, and stays", "{what} is needed by others", "remove these as well"),
)


def unreachable(output: str) -> str:
    """The mirror that a failed step could not reach, from its output; empty when it failed for another reason."""
    for pattern in _UNREACHABLE:
        if match := re.search(pattern, output):
            return match[1]
    return ""


def explain(output: str) -> tuple[str, str]:
    """What happened and what to try, for the surest of the known reasons; both empty when none is known."""
    return explained(output, _KNOWN)
