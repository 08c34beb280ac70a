"""Why a step failed, from output that apt, mmdebstrap and debootstrap really gave."""

from __future__ import annotations

import pytest

from roost.distro import apt

RESOLVE = """\
I: running apt-get update...
Err:1 http://mirror.invalid/debian bookworm InRelease
  Could not resolve 'mirror.invalid'
Reading package lists...
E: Failed to fetch http://mirror.invalid/debian/dists/bookworm/InRelease  Could not resolve 'mirror.invalid'
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""
REFUSED = """\
Ign:1 http://127.0.0.1:9/debian bookworm InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
E: Failed to fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease  Unable to connect to 127.0.0.1:9:
"""
DEBOOTSTRAP = """\
I: Retrieving InRelease
E: Failed getting release file http://mirror.invalid/debian/dists/bookworm/Release
wget: unable to resolve host address \u2018mirror.invalid\u2019
"""
DEBOOTSTRAP_REFUSED = """\
E: Failed getting release file http://127.0.0.1:9/debian/dists/bookworm/Release
failed: Connection refused.
"""
NO_KEY = """\
W: GPG error: http://m.example bullseye InRelease: The following signatures couldn't be verified because the public \
key is not available: NO_PUBKEY 0E98404D386FA1D9
E: The repository 'http://m.example bullseye InRelease' is not signed.
"""
NO_RELEASE = """\
Err:3 http://m.example/debian nope Release
  404  Not Found [IP: 192.0.2.1 80]
E: The repository 'http://m.example/debian nope Release' does not have a Release file.
"""
UNAUTHORIZED = """\
E: Failed to fetch http://m.example/x  401  Unauthorized [IP: 192.0.2.1 80]
E: The repository 'http://m.example bookworm InRelease' is not signed.
"""


@pytest.mark.parametrize(
    ("output", "mirror"),
    [
        (RESOLVE, "http://mirror.invalid/debian"),
        (REFUSED, "http://127.0.0.1:9/debian"),
        (DEBOOTSTRAP, "http://mirror.invalid/debian"),
        (DEBOOTSTRAP_REFUSED, "http://127.0.0.1:9/debian"),
        ("  Temporary failure resolving 'deb.example'\n", "deb.example"),
        ("E: Failed to fetch http://u:pw@m.example/d/pool/x.deb  Connection timed out\n", "http://m.example/d"),
        ("E: Unable to locate package foo\n", ""),
        ("make: *** [all] Error 2\nhttp://docs.example/why\n", ""),
        ("", ""),
    ],
)
def test_the_mirror_that_is_not_there_is_named(output: str, mirror: str) -> None:
    assert apt.unreachable(output) == mirror
    assert not mirror or mirror in apt.explain(output)[0]


@pytest.mark.parametrize(
    ("output", "brief", "hint"),
    [
        (
            "E: Release file for http://m.example/debian/dists/sid/InRelease is expired (invalid since 14d 19h).",
            "out of date: http://m.example/debian/dists/sid/InRelease",
            "check-valid-until = false",
        ),
        (
            NO_KEY,
            "not trusted: 0E98404D386FA1D9",
            "keyring",
        ),
        (
            "W: GPG error: file:/srv/x ./ InRelease: The following signatures couldn't be verified: NO_PUBKEY 0E98404D",
            "file:/srv/x is signed by a key that is not trusted: 0E98404D",
            "of a repository: key",
        ),
        ("Failed to enable unit, unit nginx.service does not exist.", "no unit is called nginx.service", "packages"),
        ("chpasswd: (line 1, user root) invalid password hash", "does not take root's password", "openssl passwd -6"),
        ("no locale is called xx_YY.UTF-8 here: /usr", "no locale xx_YY.UTF-8", "SUPPORTED"),
        ("no time zone is called Mars/Olympus here: /usr", "no time zone Mars/Olympus", "timedatectl"),
        ("E: Release signed by unknown key (key id 605C66F00D6C9793)", "605C66F00D6C9793", "keyring"),
        ("The following signatures were invalid: BADSIG 0E98404D386FA1D9 x", "signature is not good", "keyring"),
        ("following signatures were invalid: EXPKEYSIG 7638D0442B90D010 x", "expired: 7638D0442B90D010", "keyring"),
        (
            NO_RELEASE,
            "http://m.example/debian nope Release",
            "archived",
        ),
        ("E: Failed getting release file http://m.example/dists/nope/Release", "dists/nope/Release", "archived"),
        (
            UNAUTHORIZED,
            "refuses access",
            "auth.conf",
        ),
        (
            (
                "Err:3 http://m.example x\n  Error reading from server. Remote end closed connection [IP: 192.0.2.1 80]\n"
                "E: Failed to fetch http://m.example/pool/x_1.deb  Error reading from server. Remote end closed connection [IP: ]"
            ),
            "cannot be downloaded whole: http://m.example/pool/x_1.deb",
            "try again",
        ),
        (
            "W: Couldn't download package libc6 (ver 1 arch amd64) at http://m.example/pool/libc6_1_amd64.deb",
            "cannot be downloaded whole: http://m.example/pool/libc6_1_amd64.deb",
            "try again",
        ),
        (
            "E: The repository 'http://m.example focal Release' is not signed.",
            "not signed: http://m.example focal Release",
            "copies",
        ),
        (
            "E: Failed getting release signature file http://m.example/dists/focal/Release.gpg",
            "not signed: http://m.example/dists/focal/Release.gpg",
            "copies",
        ),
        (
            (
                "E: Failed getting release file http://m.example/dists/stretch/Release\n"
                "roost: archived: debian stretch is archived, and at http://archive.debian.org/debian"
            ),
            "the mirror does not have it",
            "debian stretch is archived: its mirror is http://archive.debian.org/debian",
        ),
        (
            "  Certificate verification failed: The certificate is NOT trusted.  Could not handshake: Error in the certificate",
            "certificate is not trusted",
            "ca-certificates",
        ),
        ("E: Unable to locate package libfoo-dev", "libfoo-dev", "components"),
        ("E: Package 'vim' has no installation candidate", "vim cannot be installed", "components"),
        ("dpkg: error processing archive: cannot copy: No space left on device", "disk is full", "roost gc"),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "disk is full", "roost gc"),
    ],
)
def test_known_failures_are_explained(output: str, brief: str, hint: str) -> None:
    explained = apt.explain(f"I: some lines before\n{output}\nI: and after\n")
    assert brief in explained[0]
    assert hint in explained[1]


def test_what_is_not_known_is_not_guessed() -> None:
    assert apt.explain("make: *** [Makefile:3: all] Error 1\n") == ("", "")
