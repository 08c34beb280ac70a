"""What the output of emerge says about a failure."""

from __future__ import annotations

import re

from roost.distro.output import explained

_UNREACHABLE = (
    r"Error fetching binhost package info from '([^']+)'",
    r"Unable to resolve host|unable to resolve host address .([^'\u2019\s]+)",
    r"Connecting to (\S+?)\|?\.\.\. failed",
)
_CAUSES = (
    r"onnection refused|onnection timed out|timed out|Temporary failure in name resolution|Name or service not known|"
    r"Network is unreachable|No route to host|unable to resolve"
)
_SIGNATURE = (
    'the mirror is damaged, changed on the way, or not signed by this key; another mirror, or its keyring = "PATH"'
)
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"appears unsigned|signatures are missing|[Mm]issing signature|No signature",
        "a package is not signed",
        _SIGNATURE,
    ),
    (
        r"binpkg signed with|BAD signature|GnuPG verification failed|Invalid binary package",
        "a package is not signed by a key that is trusted",
        _SIGNATURE,
    ),
    (
        r"there are no binary packages to satisfy \"?([^\".\n]+)",
        "no binary package is called {what} here",
        "is it spelt as Gentoo has it (CATEGORY/NAME)? what Gentoo does not build, a script with `emerge-webrsync && emerge NAME` compiles",
    ),
    (
        r"The short ebuild name \"([^\"]+)\" is ambiguous",
        "there are several packages called {what}",
        "write its category, too: CATEGORY/NAME",
    ),
    (
        r"Digest verification failed|size does not match|Reason: (?:Filesize|Failed on)",
        "a file is not what the mirror's list says it is",
        "the mirror is damaged, or in the middle of a change: try again in a moment, or use another mirror",
    ),
    (
        r"[Yy]our current profile is invalid|profile.{0,40}does not exist|make\.profile is not a symlink",
        "the profile of this machine is not in the ebuild repository",
        "the stage3 is of another day than the repository: make the base anew, `roost build --update`",
    ),
    (r"(\S+) is needed by others, and stays", "{what} is needed by others", "remove these as well"),
)


def unreachable(output: str) -> str:
    """The mirror that a failed step could not reach, from its output; empty when it failed for another reason."""
    if not re.search(_CAUSES, output):
        return ""
    for pattern in _UNREACHABLE:
        if match := re.search(pattern, output):
            return next((group for group in match.groups() if group), "the mirror")
    return ""


def explain(output: str) -> tuple[str, str]:
    """What happened and what to try, for the surest of the known reasons; both empty when none is known."""
    if unreachable(output):
        return "", ""
    return explained(output, _KNOWN)
