"""What the output of dnf, dnf5, yum and rpm says about a failure. They speak English: ``LC_ALL`` is set."""

from __future__ import annotations

import re

from roost.distro.output import archive, explained, mirror

_URL = re.compile(r"(?:https?|ftp)://[^\s'\"\])>]+")

# libcurl's words for codes 5, 6, 7, 28, 35, 52 and 56, in dnf's "Curl error (N): ..." and in yum's "[Errno 14] curl#N - ...".
_UNREACHABLE = re.compile(
    r"(?:Curl error \(|curl#)(?:5|6|7|28|35|52|56)\b|Could not resolve (?:host|proxy)|Failed to connect to|Couldn't connect to server"
    r"|Connection refused|No route to host|Network is unreachable|Status code: 50[234]\b"
)
_HOST = re.compile(
    r"(?:Could not resolve host|Could not resolve proxy|Failed to connect to):? (?P<host>[A-Za-z0-9.-]+)"
)


def unreachable(output: str) -> str:
    """The mirror that could not be reached or resolved: its address, or its host when no more is known; or nothing."""
    for line in output.splitlines():
        if _UNREACHABLE.search(line):
            if match := _URL.search(line):
                return mirror(match[0], "repodata|Packages|getPackage")
            if match := _HOST.search(line):
                return match["host"]
    return ""


_KEY = 'name the keyring that has its key, keyring = "PATH" (of a repository: key), or use the mirror that the key belongs to'
_CHANGED = "try again in a moment, or use another mirror"

# The surest first. What a brief names is the pattern's last group.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|At least \d+\w+ more space needed|needs \d+\w+ (?:more space )?on the / filesystem|Write error.*\(28\)",
        "the disk is full",
        "free some space, 'roost gc' takes away what nothing uses, or choose another --state directory",
    ),
    (
        r"roost: there is no (dnf|rpm) on this host",
        "this host has no {what}",
        "apt install dnf rpm, or dnf install dnf: `roost doctor` says what else is missing",
    ),
    (
        r"Status code: (?:401|403|407) for|HTTP Error 40[137]|The requested URL returned error: 40[137]",
        "the mirror or the proxy refuses access",
        "credentials belong into the mirror's address, or into a netrc file in the host's /etc/apt/auth.conf.d",
    ),
    (
        r"repomd\.xml GPG signature verification error|repomd\.xml signature could not be verified|Bad GPG signature",
        "the repository's signature is not good",
        f"the mirror is damaged, changed on the way, or not signed by this key; {_KEY}",
    ),
    (
        r"Package (\S+?)(?:\.rpm)? is not signed|check for package \"(\S+?)\" .*: The package is not signed",
        "the package {what} is not signed",
        "the mirror is not what it says it is: use another one",
    ),
    (
        r"Public key for \S+ is not installed|public key not available for|didn't help, wrong key|not correct for this package",
        "the mirror's packages are signed by a key that is not trusted",
        _KEY,
    ),
    (
        r"GPG check FAILED|does not verify|digest: BAD",
        "a package's signature is not good",
        "the mirror is damaged or changed on the way: use another one",
    ),
    (
        r"Package \"?([^\s\"]+)\"? from local repository \S+ has incorrect checksum",
        "{what} is not what the repository's list says it is",
        "the mirror is incomplete, damaged, or changed while it was copied",
    ),
    (
        (
            r"(\S+?)(?:\.rpm)?: Downloading successful, but checksum doesn't match"
            r"|>>> Downloading successful, but checksum doesn't match.*?([^/\s]+?)(?:\.rpm)?(?:\n|$)"
        ),
        "{what} is not what the repository's list says it is",
        f"the mirror is damaged, or something on the way keeps old files: {_CHANGED}",
    ),
    (
        r"Error: Unable to find a match: (\S+)|No match for argument: (\S+)|No package (\S+) available",
        "no package is called {what} here",
        "look for its name in this release, or add the repository that has it: repositories = [...]",
    ),
    (
        r"removing the following protected packages: ([^\n]+)|Trying to remove \"([^\"]+)\", which is protected",
        "the system cannot do without {what}",
        "the package manager protects it: take what needs it out of remove-packages",
    ),
    (
        r"nothing provides (.+?) needed by",
        "a package needs what is not here: {what}",
        "the lines before the last ones name it; another repository may have it",
    ),
    (
        r"[Cc]ertificate (?:verify failed|problem)|Curl error \((?:60|77)\)|curl#(?:60|77)\b|SSL peer certificate",
        "the mirror's certificate is not trusted",
        "install the host's ca-certificates: layers are made with what the host trusts",
    ),
    (
        r"Status code: 404 for (\S+)|Could(?:n't| not) (?:read|open) a? ?file:?(?://)? file for (\S+)|HTTP Error 404[^\n]*?(https?://\S+)",
        "the mirror does not have it: {what}",
        'check mirror and release; an archived release is on another mirror (mirror = "URL")',
    ),
    (
        r"file \S+ .*conflicts between|conflicts with file from package",
        "packages contradict each other",
        "the lines before name them",
    ),
    (
        r"[Uu]nit (?:file )?(\S+) does not exist",
        "no unit is called {what} here",
        "the package that has it belongs to this layer or one below: packages = [...]",
    ),
    (
        r"there is no systemctl in this machine",
        "services need systemd",
        'the package is called systemd: packages = ["systemd"]',
    ),
    (
        r"chpasswd: .*invalid password hash",
        "this release does not take root's password: it is no hash that its crypt(5) knows",
        "`openssl passwd -6` prints one that every release takes",
    ),
    (
        r"no locale is called (\S+) here",
        "this release has no locale {what}",
        "packages called glibc-langpack-LANGUAGE have them: `dnf list 'glibc-langpack-*'` in the machine",
    ),
    (
        r"no time zone is called (\S+) here",
        "this release has no time zone {what}",
        "`timedatectl list-timezones` has their names",
    ),
    (
        r"roost: the machine's rpm",
        "the machine's own rpm cannot read the list of packages",
        "this is Roost's trouble: please report it with the log",
    ),
    (
        r"Exec format error",
        "this host cannot run programs of that architecture",
        "`roost doctor` says by what other architectures are run here",
    ),
)


def explain(output: str) -> tuple[str, str]:
    """What happened and what to try, for the surest of the known reasons; both empty when none is known."""
    where = archive(output)
    if host := unreachable(output):
        return f"cannot be reached: {host}", where or "check the network, the proxy and the mirror's name"
    brief, hint = explained(output, _KNOWN)
    return brief, where if where and brief.startswith("the mirror does not have") else hint
