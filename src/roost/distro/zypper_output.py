"""What the output of zypper says about a failure, beside what dnf says when it makes the base."""

from __future__ import annotations

from roost.distro import dnf_output
from roost.distro.output import explained

_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"No provider of '([^']+)' found",
        "no package is called {what} here",
        "look for its name in this release, or add the repository that has it: repositories = [...]",
    ),
    (
        r"Signature verification failed for file|signed with an unknown key|repomd\.xml' (?:from repository \S+ )?is unsigned",
        "the repository's signature is not good",
        'the mirror is damaged, changed on the way, or not signed by this key; another mirror, or its keyring = "PATH"',
    ),
    (
        r"(\S+): Signature verification failed|Package header is not signed|is not signed!",
        "a package is not signed by a key that is trusted",
        "the mirror is not what it says it is: use another one",
    ),
    (
        r"File '\S+' not found on medium '([^']+)'",
        "the mirror does not have it: {what}",
        'check mirror and release; an archived release is on another mirror (mirror = "URL")',
    ),
    (
        r"Digest verification failed|does not match|Wrong digest",
        "a file is not what the repository's list says it is",
        "the mirror is damaged, or something on the way keeps old files: try again in a moment, or use another mirror",
    ),
)


def explain(output: str) -> tuple[str, str]:
    """What happened and what to try, for the surest of the known reasons; both empty when none is known."""
    if not dnf_output.unreachable(output):
        brief, hint = explained(output, _KNOWN)
        if brief:
            return brief, hint
    return dnf_output.explain(output)
