"""What the output of apt, mmdebstrap and debootstrap says about a failure. They speak English: ``LC_ALL`` is set."""

from __future__ import annotations

import re

from roost.distro.output import archive, explained, mirror

_URL = r"(?P<url>(?:https?|ftp)://[^\s'\"]+)"

# apt's methods and gai_strerror(3); wget's, for debootstrap.
_UNREACHABLE = re.compile(
    r"Could not resolve|Temporary failure resolving|Something wicked happened resolving|Could not connect to"
    r"|Unable to connect to|Cannot initiate the connection|Connection timed out|Connection refused|Connection failed"
    r"|No route to host|Network is unreachable|connection timed out|Could not handshake|unable to resolve host address"
    r"|Connection reset by peer|failed: (?:Temporary failure|Name or service|No address|Connection)"
    r"|Invalid response from proxy|\b50[234] +(?:Bad Gateway|Service Unavailable|Gateway)"
)
_HOST = re.compile(
    r"(?:Could not resolve|resolving|onnect to|the connection to|host address) [^A-Za-z0-9]?(?P<host>[A-Za-z0-9.-]+)"
)


def unreachable(output: str) -> str:
    """The mirror that could not be reached or resolved: its address, or its host when no more is known; or nothing."""
    last = ""
    for line in output.splitlines():
        if match := re.search(_URL, line):
            last = match["url"]
        if not _UNREACHABLE.search(line) or re.search("certificate", line, re.IGNORECASE):
            continue
        host = _HOST.search(line)
        if last and (host is None or host["host"] in last or re.search(_URL, line)):
            return mirror(last, "dists|pool")
        if host:
            return host["host"]
    return ""


_KEY = (
    'name the keyring that has it, keyring = "PATH" (of a repository: key), or use the mirror that the key belongs to'
)
_MISSING = (
    "check mirror, release and components; what was archived since is at http://archive.debian.org/debian"
    ' or http://old-releases.ubuntu.com/ubuntu: mirror = "URL"'
)
_NOT_FOUND = "the mirror does not have it: {what}"


# The surest first. What a brief names is the pattern's last group, and those with names.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|write error.*\(28|not enough free space|don't have enough free space",
        "the disk is full",
        "free some space, 'roost gc' takes away what nothing uses, or choose another --state directory",
    ),
    (
        r"Release file for (\S+) is (?:expired|not valid anymore)",
        "the mirror's Release file is out of date: {what}",
        "an archived release, or a mirror that is not updated: check-valid-until = false accepts it",
    ),
    (
        r"Release file for (\S+) is not valid yet",
        "the mirror's Release file is from the future: {what}",
        "set this host's clock",
    ),
    (
        r"\b(?:401 +Unauthori[sz]ed|403 +Forbidden|407 +Proxy Auth|ERROR 40[137])|Password Authentication Failed",
        "the mirror or the proxy refuses access",
        "credentials belong into the host's /etc/apt/auth.conf.d, or into the mirror's address",
    ),
    (
        r"REVKEYSIG ([0-9A-F]+)",
        "the mirror is signed by a key that was revoked: {what}",
        "who has that key may not be its owner: another mirror, or one that was signed anew with another key",
    ),
    (
        r"EXPSIG ([0-9A-F]+)",
        "the mirror's signature was good until a day that has passed: {what}",
        "a mirror that is not updated: use another one",
    ),
    (
        r"EXPKEYSIG ([0-9A-F]+)",
        "the mirror is signed by a key that has expired: {what}",
        'update the host\'s keyring package, or name a keyring with the renewed key, keyring = "PATH"',
    ),
    (
        r"GPG error: (?P<where>(?:file|https?):\S+) [^\n]*NO_PUBKEY ([0-9A-F]+)",
        "{where} is signed by a key that is not trusted: {what}",
        _KEY,
    ),
    (r"NO_PUBKEY ([0-9A-F]+)", "the mirror is signed by a key that is not trusted: {what}", _KEY),
    (r"unknown key \(key id ([0-9A-F]+)\)", "the mirror is signed by a key that is not trusted: {what}", _KEY),
    (r"Missing key ([0-9A-F]+)", "the mirror is signed by a key that is not trusted: {what}", _KEY),
    (r"The repository '([^']+)' does not have a Release file", _NOT_FOUND, _MISSING),
    (r"Failed getting release file (\S+)", _NOT_FOUND, _MISSING),
    (
        r"BADSIG|NODATA|signatures? (?:were|was) invalid|Invalid Release signature|not signed by",
        "the mirror's signature is not good",
        'the mirror is damaged, changed on the way, or not signed; another mirror, or its keyring = "PATH"',
    ),
    (
        r"\w+ packages were removed and -y was used|problems and -y was used without --force-yes",
        "the system cannot do without what would be removed",
        "the lines above name it: take it out of remove-packages",
    ),
    (
        r"(?:The repository '|Failed getting release signature file )([^'\n]+?)(?:' is not signed|\n|$)",
        "the mirror is not signed: {what}",
        "use the distribution's own mirror, or one that copies its signatures too",
    ),
    (
        r"Unable to locate package (\S+)",
        "no package is called {what} here",
        "look for its name in this release, or add the component that has it: components = [...]",
    ),
    (
        r"Package '?([^'\s]+)'? has no installation candidate",
        "{what} cannot be installed: others refer to it, but it is not here",
        "look for its name in this release, or add the component that has it: components = [...]",
    ),
    (
        r"(Version '[^']*' for '[^']+') was not found",
        "{what} is not on the mirror",
        "mirrors keep the newest version only: leave it out, or use a mirror of snapshots",
    ),
    (
        r"[Cc]ertificate verification|No system certificates available|certificate is NOT trusted",
        "the mirror's certificate is not trusted",
        "set Acquire::https::CaInfo in the host's apt configuration, or install its ca-certificates",
    ),
    (
        r"Hash Sum mismatch|File has unexpected size",
        "the mirror changed while it was read, or something on the way keeps old files",
        "try again in a moment, or use another mirror",
    ),
    (
        r"[Uu]nit (?:file )?(\S+) does not exist",
        "no unit is called {what} here",
        "the package that has it belongs to this layer or one below: packages = [...]",
    ),
    (
        r"chpasswd: .*invalid password hash",
        "this release does not take root's password: it is no hash that its crypt(5) knows",
        "`openssl passwd -6` prints one that every release takes",
    ),
    (
        r"no locale is called (\S+) here",
        "this release has no locale {what}",
        "/usr/share/i18n/SUPPORTED has their names, in a machine with the package locales",
    ),
    (
        r"no time zone is called (\S+) here",
        "this release has no time zone {what}",
        "`timedatectl list-timezones` has their names",
    ),
    (r"Failed to fetch (\S+) +404", _NOT_FOUND, _MISSING),
    (
        (
            r"Failed to fetch (\S+) +(?:Error reading from server|Connection closed|Undetermined)"
            r"|Couldn't download package \S+ \(.*\) at (\S+)"
        ),
        "cannot be downloaded whole: {what}",
        "try again in a moment, or use another mirror",
    ),
    (r"unmet dependencies", "packages contradict each other", "the lines before the last one name them"),
    (
        r"Exec format error|Unable to execute target architecture|arch-test|cannot be executed",
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
    return brief, where if where and hint is _MISSING else hint
