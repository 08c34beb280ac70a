"""What the output of pacman and gpg says about a failure. They speak English: ``LC_ALL`` is set."""

from __future__ import annotations

import re

from roost.distro.output import explained

# libcurl's words (curl_easy_strerror, and what it says of a connection), in "failed retrieving file 'X' from HOST : WORDS".
_UNREACHABLE = re.compile(
    r"failed retrieving file '[^']*' from (?P<host>\S+) : (?:.*Could not resolve (?:host|proxy).*|.*Failed to connect to.*|"
    r".*Couldn't connect to server.*|.*Could not connect to server.*|.*Connection (?:refused|timed out|reset).*|"
    r".*Operation (?:timed out|too slow).*|.*Resolving timed out.*|.*SSL connection timeout.*|Empty reply from server.*|"
    r".*The requested URL returned error: 50[234])"
)


def unreachable(output: str) -> str:
    """The mirror that a failed step could not reach, from its output; empty when it failed for another reason."""
    match = _UNREACHABLE.search(output)
    return match["host"] if match else ""


_KEY = (
    'name the keyring that has its key: keyring = "PATH" (of a repository: key); Arch\'s is in the package archlinux-keyring,'
    " and a new packager's key only in a newer one"
)
_OTHER = (
    "the mirror is damaged or changed on the way, or still being copied: try again in a moment, or use another mirror"
)
_DATED = 'check the mirror; what a day had is at mirror = "https://archive.archlinux.org/repos/YYYY/MM/DD"'
_NO_SIGNATURE = re.compile(r"failed retrieving file '(?P<what>[^'\n]+)\.sig'")
_EXPIRED = re.compile(r"roost: the key (?P<what>\S+) cannot be trusted")

# The surest first. What a brief names is the pattern's last group.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Partition \S+ too full|not enough free disk space|Failed writing (?:body|received data)",
        "the disk is full",
        "free some space, 'roost gc' takes away what nothing uses, or choose another --state directory",
    ),
    (
        r"roost: there is no (\S+) on this host",
        "this host has no {what}",
        "apt install pacman-package-manager gpg gpg-agent, or pacman -S pacman gnupg: `roost doctor` says what else is missing",
    ),
    (
        r"error: (\S+): missing required signature",
        "{what} is not signed",
        "the mirror is not what it says it is: use another one",
    ),
    (
        r"signature from (\"[^\"\n]*\") is (?:unknown|marginal) trust",
        "the mirror's packages are signed by a key that is not trusted: {what}",
        _KEY,
    ),
    (
        r"key \"?([0-9A-F]{8,40})\"? (?:is unknown|could not be (?:looked up|imported))|required key missing from keyring",
        "the mirror's packages are signed by a key that is not trusted: {what}",
        _KEY,
    ),
    (
        r"key (\"[^\"\n]*\") is disabled",
        "the mirror's packages are signed by a key that was revoked: {what}",
        "whose it was is no packager any more: use another mirror, or one of a later day",
    ),
    (
        r"(?:database '([^'\s]*)' is not valid|failed to synchronize all databases) \(invalid or corrupted database \(PGP signature\)\)",
        "the signature of the repository {what} is not good",
        f"{_OTHER}; or it is not signed by this key: {_KEY}",
    ),
    (
        r"invalid or corrupted database|Unrecognized archive format",
        "what the mirror has as its list of packages is none",
        "is the address that of a mirror of Arch's? a proxy or a login page may answer in its place",
    ),
    (
        r"File (?:\S*/)?([^/\s]+) is corrupted \(invalid or corrupted package \(PGP signature\)\)",
        "{what} is not what its packager has signed",
        _OTHER,
    ),
    (
        r"File (?:\S*/)?([^/\s]+) is corrupted|invalid or corrupted package",
        "{what} is not what the repository's list says it is",
        _OTHER,
    ),
    (
        r"target not found: (\S+)",
        "no package is called {what} here",
        "look for its name at https://archlinux.org/packages, or add the repository that has it: repositories = [...]",
    ),
    (
        r"The requested URL returned error: (?:401|403|407)",
        "the mirror or the proxy refuses access",
        "credentials belong into the mirror's address, or into a netrc file in the host's /etc/apt/auth.conf.d",
    ),
    (
        r"SSL certificate problem|SSL peer certificate|certificate verify failed",
        "the mirror's certificate is not trusted",
        "install the host's ca-certificates: layers are made with what the host trusts",
    ),
    (
        r"failed retrieving file '(\S+)' from \S+ : (?:The requested URL returned error: 404|Couldn't open file)",
        "the mirror does not have it: {what}",
        _DATED,
    ),
    (
        r"no servers configured for repository: (\S+)",
        "the machine's pacman has no mirror for {what}",
        'name one: repositories = [{ name = "core", url = "https://geo.mirror.pkgbuild.com/core/os/x86_64" }, ...]',
    ),
    (
        r"(?m)^(?:\S+: )?(\S+ exists in (?:filesystem|both '[^']*' and '[^']*'))",
        "packages contradict each other or what is there: {what}",
        "the lines before name the files; what a script has put there belongs into /usr/local or a package",
    ),
    (
        r"(?m)^:: (\S+ and \S+ are in conflict)",
        "packages contradict each other: {what}",
        "pacman takes nothing away to make room: name one of them",
    ),
    (
        r"(?:removing|installing) \S+(?: \(\S+\))? breaks dependency '[^']*' required by (\S+)",
        "another package needs it: {what}",
        "remove that one, too, or keep both; an update of everything may help where one is too old",
    ),
    (
        r"unable to satisfy dependency '([^']+)' required by",
        "a package needs what is not here: {what}",
        "the lines before the last ones name it; another repository may have it",
    ),
    (
        r"[Uu]nit (?:file )?(\S+) does not exist",
        "no unit is called {what} here",
        "the package that has it belongs to this layer or one below: packages = [...]",
    ),
    (
        r"there is no (pacman|systemctl) in this machine",
        "this machine has no {what}",
        'packages = ["systemd"] brings systemctl; pacman has to be in the base',
    ),
    (
        r"chpasswd: .*invalid password hash",
        "this machine does not take root's password: it is no hash that its crypt(5) knows",
        "`openssl passwd -6` prints one that every release takes",
    ),
    (r"no locale is called (\S+) here", "there is no locale {what}", "/etc/locale.gen in the machine names them"),
    (r"no time zone is called (\S+) here", "there is no time zone {what}", "`timedatectl list-timezones` has their names"),
    (r"Exec format error", "this host cannot run programs of that architecture", "`roost doctor` says by what others are run here"),
)  # fmt: skip


def explain(output: str) -> tuple[str, str]:
    """What happened and what to try, for the surest of the known reasons; both empty when none is known."""
    if mirror := unreachable(output):
        return f"cannot be reached: {mirror}", "check the network, the proxy and the mirror's name"
    if "failed to commit transaction" in output and (match := _NO_SIGNATURE.search(output)):
        return f"{match['what']} is not signed", "the mirror is not what it says it is, or not whole: use another one"
    if re.search(r"unknown trust|marginal trust|PGP signature", output) and (match := _EXPIRED.search(output)):
        return f"the key {match['what']} has expired or was revoked", _KEY
    brief, hint = explained(output, _KNOWN)
    return brief.removesuffix(": ").replace(" :", ":"), hint
