"""What a wrong definition is answered with: every mistake at once, each with its line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from definition_facts import load_file, load_text, mistakes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_definition_lines import Writer

from roost.definition import checks, network_checks
from roost.definition.model import Definition
from roost.definition.shape import clean
from roost.errors import DefinitionError
from roost.network import addresses, pools, terms

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
[machines.bookworm]
distribution = "debian"
release = "bookworm"
"""

TWENTY = """\
[defaults]
profiles = ["bilder"]                        # 2: no such profile
[machines.sai_xenial]                        # 3: underscore
distribution = "debain"                      # 4: no such distribution
release = "sid"
[machines.bookworm]
distribution = "debian"
release = "bookwrm"                          # 8: no such release
pakages = ["git"]                            # 9: unknown key
description = 12                             # 10: wrong type
mirror = "deb.debian.org"                    # 11: not an address
components = ["main", "con trib"]            # 12: not one word
binds = ["/srv:srv", "/a:/b:rx"]             # 13: relative target, and a third part (2)
limits = { memory = "2 GB", cpus = 0 }       # 14: memory, cpus (2)
[machines.trixie]                            # 15: no release
distribution = "debian"
packages = [
    "git",
    7,                                       # 19: wrong type
    "-rf",                                   # 20: an option
]
[profiles.builder]
user = { uid = 99999 }                       # 23: no name, uid (2)
scripts = [""]                               # 24: empty
environment = { "1X" = "a" }                 # 25: not a variable's name
packages = { atp = ["git"] }                 # 26: unknown family
[profiles.builder.files."/etc/../motd"]      # 27: ..
content = "x"
mode = "rw"                                  # 29: not a mode
"""


def test_many_different_mistakes_each_have_one_line(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, TWENTY)
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == [2, 3, 4, 8, 9, 10, 11, 12, 13, 13, 14, 14, 15, 19, 20, 23, 23, 24, 25, 26, 27, 29]
    text = "\n".join(lines)
    assert "roost.toml:9: machines.bookworm.pakages: unknown key, did you mean 'packages'?" in lines
    assert "roost.toml:19: machines.trixie.packages[1]: expected a string, got an integer: put it in quotes" in lines
    assert "roost.toml:20: machines.trixie.packages[2]: not a package's name '-rf': it begins with '-'" in lines
    assert 'roost.toml:29: profiles.builder.files."/etc/../motd".mode: not a mode' in text
    assert "no profile 'bilder', did you mean 'builder'?" in text
    assert "refuses '_' in a machine's name, write 'sai-xenial'" in text


def test_twenty_mistakes_give_twenty_lines(tmp_path: Path) -> None:
    twenty = TWENTY.replace(', "/a:/b:rx"', "").replace(", cpus = 0", "")
    assert len(mistakes(tmp_path, twenty)) == 20


# Each text is added to GOOD; what comes back is one line with this text, at the last line of the definition.
ONE = {
    "top level": ("[machine.x]", "machine: unknown key, did you mean 'machines'?"),
    "start of a key": ('arch = "amd64"', "did you mean 'architecture'?"),
    "far from a key": ("[machines.bookworm.network]\nfoo = 1", "unknown key, the keys here are mode, bridge, isolated"),
    "snake": ("check_valid_until = true", "did you mean 'check-valid-until'?"),
    "list": ("packages = 3", "packages: expected a list of strings or a table, got an integer"),
    "boolean": ('private-users = "no"', "expected true or false, got a string"),
    "date": ("description = 1979-05-27", "expected a string, got a date or time"),
    "number": ("environment = { A = 1 }", "environment.A: expected a string, got an integer: put it in quotes"),
    "float": ("limits = { tasks = 1.5 }", "expected an integer, got a float"),
    "literal": ('network = { mode = "nat" }', "network.mode: expected 'host' or 'none' or 'private', got 'nat'"),
    "literal type": ("network = { mode = 1 }", "expected 'host' or 'none' or 'private', got an integer"),
    "user list": ('user = ["sai"]', "user[0]: expected a table, got a string"),
    "machine": ("[machines]\nx = 1", "machines.x: expected a table, got an integer"),
    "upper case": (
        '[machines.Sid]\ndistribution = "debian"\nrelease = "sid"',
        "machines.Sid: a machine's name is a host name, in lower case, write 'sid'",
    ),
    "dash": ('[machines."-a-"]\ndistribution = "debian"\nrelease = "sid"', "begin or end with '-', write 'a'"),
    "dots": ('[machines."a.b"]\ndistribution = "debian"\nrelease = "sid"', 'machines."a.b": a machine\'s name'),
    "no name": ('[machines.""]\ndistribution = "debian"\nrelease = "sid"', 'machines."": a machine\'s name'),
    "long": (f'[machines.{"a" * 64}]\ndistribution = "debian"\nrelease = "sid"', "at most 63"),
    "no distribution": ("[machines.a]", "distribution is missing: one of debian, ubuntu, fedora"),
    "no release": ('[machines.a]\ndistribution = "debian"', "release is missing: debian has bullseye, "),
    "unknown distribution": ('[machines.a]\ndistribution = "gentoo"', "'gentoo', one of debian, ubuntu, fedora"),
    "unknown release": (
        '[machines.a]\ndistribution = "debian"\nrelease = "stable"',
        "debian has no release 'stable': it has bullseye, bookworm, trixie, sid",
    ),
    "architecture": ('architecture = "x86_64"', "debian bookworm is not made for x86_64"),
    "release's architecture": (
        '[machines.a]\ndistribution = "debian"\nrelease = "sid"\narchitecture = "i386"',
        "debian sid is not made for i386: it is made for amd64, arm64",
    ),
    "bootstrap": ('bootstrap = "deboostrap"', "unknown bootstrap 'deboostrap', did you mean 'debootstrap'?"),
    "variant": ('variant = "tiny"', "unknown variant 'tiny', one of minbase, buildd"),
    "capability": ('capabilities = ["CAP_SYS_ADMIM"]', "unknown capability 'CAP_SYS_ADMIM', did you mean 'CAP_SYS_ADMIN'?"),
    "capability's prefix": ('capabilities = ["net_admin"]', "did you mean 'CAP_NET_ADMIN'?"),
    "far from a capability": ('capabilities = ["7"]', "unknown capability '7': one like"),
    "capability twice": ('capabilities = ["CAP_BPF", "CAP_BPF"]', "'CAP_BPF' is in the list already"),
    "no components": ("components = []", "the list is empty"),
    "component twice": ('components = ["main", "main"]', "'main' is in the list already"),
    "mirror scheme": ('mirror = "ftp://x/debian"', "an http://, https:// or file:// address"),
    "mirror host": ('mirror = "http:///debian"', "no valid host"),
    "mirror port": ('mirror = "http://host:x/debian"', "no valid host"),
    "mirror file": ('mirror = "file://srv/debian"', "file:///DIRECTORY"),
    "mirror space": ('mirror = "http://a b/"', "a character that no address has"),
    "mirror password": ('mirror = "https://me:secret@host/debian"', "auth.conf"),
    "keyring": ('keyring = "missing.gpg"', "keyring: missing.gpg: No such file or directory"),
    "from": ('[machines.a]\nfrom = "bookworm"', 'write "layer:NAME"'),
    "from and more": (
        '[machines.a]\nfrom = "layer:x"\nrelease = "sid"',
        "has its base already: leave out release",
    ),
    "profile": ('profiles = ["x"]', "no profile 'x', the profiles are none yet"),
    "profile's name": ("[profiles.Builder]", "profiles.Builder: a profile's name has"),
    "option": ('packages = ["--force"]', "begins with '-'"),
    "two packages": ('packages = ["git vim"]', "not a package's name 'git vim'"),
    "pattern": ('packages = ["lib*"]', "not a package's name 'lib*'"),
    "shell": ('packages = ["a;reboot"]', "not a package's name"),
    "removal": ('packages = ["vim-"]', "tells apt to remove it"),
    "set": ('packages = ["@core"]', "debian bookworm has no package set '@core', it has none: name the packages"),
    "set's name": ('packages = ["@Core"]', "not a package set '@Core'"),
    "package twice": ('packages = ["git", "git"]', "'git' is in the list already"),
    "user's name": ('user = { name = "Sai" }', "not a user name 'Sai'"),
    "root": ('user = { name = "root" }', "root is in every machine"),
    "uid": ('user = { name = "sai", uid = 65534 }', "a uid goes from 0 to 65533"),
    "uid below": ('user = { name = "sai", uid = -1 }', "a uid goes from 0 to 65533"),
    "group": ('user = { name = "sai", group = "no group" }', "not a group name 'no group'"),
    "groups": ('user = { name = "sai", groups = ["a:b"] }', "user.groups[0]: not a group name"),
    "home": ('user = { name = "sai", home = "home/sai" }', "not an absolute path"),
    "shell of a user": ('user = { name = "sai", shell = "/bin//sh" }', "write the path as '/bin/sh'"),
    "sudo": ('user = { name = "sai", sudo = "yes" }', "expected 'no' or 'nopasswd', got 'yes'"),
    "user twice": ('user = [{ name = "a" }, { name = "a" }]', "user[1].name: user 'a' is defined twice"),
    "uid twice": ('user = [{ name = "a", uid = 7 }, { name = "b", uid = 7 }]', "uid 7 is that of 'a' already"),
    "relative file": ('files = { "etc/motd" = { content = "" } }', "not an absolute path"),
    "file in run": ('files = { "/run/x" = { content = "" } }', "nothing under /run is kept in a layer"),
    "file in dev": ('files = { "/dev" = { content = "" } }', "nothing under /dev is kept"),
    "slash": ('files = { "/etc/" = { content = "" } }', "write the path as '/etc'"),
    "root file": ('files = { "/" = { content = "" } }', "'/' itself is not a path for this"),
    "nul": ('files = { "/a\\u0000b" = { content = "" } }', "U+0000"),
    "nothing": ('files = { "/a" = {} }', "nothing to put into it"),
    "both": ('files = { "/a" = { content = "x", source = "y" } }', "exactly one of content"),
    "mode": ('files = { "/a" = { content = "x", mode = "888" } }', "three or four octal digits"),
    "mode as a number": ('files = { "/a" = { content = "x", mode = 644 } }', "got an integer: put it in quotes"),
    "owner": ('files = { "/a" = { content = "x", owner = "me too" } }', "owner: not a group name 'me too'"),
    "owner's id": ('files = { "/a" = { content = "x", owner = "70000" } }', "ids go from 0 to 65533"),
    "source": ('files = { "/a" = { source = "nowhere" } }', "source: nowhere: No such file or directory"),
    "directory": ('files = { "/a" = { source = "." } }', "source: .: Is a directory"),
    "device": ('files = { "/a" = { source = "/dev/null" } }', "source: /dev/null: not a regular file"),
    "pipe": ('files = { "/a" = { source = "pipe" } }', "source: pipe: not a regular file"),
    "script's source": ('scripts = [{ source = "nowhere.sh" }]', "scripts[0].source: nowhere.sh: No such file"),
    "script without source": ("scripts = [{}]", "scripts[0].source: missing"),
    "blank script": ('scripts = [" \\n"]', "the script is empty"),
    "script from windows": ('scripts = ["#!/bin/sh\\r\\nls\\r\\n"]', "end in CR LF"),
    "variable": ('environment = { A-B = "1" }', "not a variable's name"),
    "nul in a variable": ('environment = { A = "\\u0000" }', "NUL"),
    "bind": ('binds = [""]', "the source is empty"),
    "bind parts": ('binds = ["/a:/b:rw:x"]', "\"SOURCE:TARGET:rw\""),
    "bind home": ('binds = ["~/src:/src"]', "'~' is not expanded"),
    "bind target": ('binds = [{ source = "/a", target = "b" }]', "binds[0].target: not an absolute path"),
    "bind proc": ('binds = ["/a:/proc/x"]', "belong to the session"),
    "bind root": ('binds = ["/a:/"]', "'/' itself is not a path"),
    "memory": ('limits = { memory = "lots" }', "not an amount of memory 'lots'"),
    "little memory": ("limits = { memory = 4096 }", "too little"),
    "cpus": ("limits = { cpus = nan }", "more than 0, like 2 or 0.5"),
    "tasks": ("limits = { tasks = 0 }", "from 1 to"),
    "description": ('description = "a\\nb"', "U+000A"),
    "boot": ("boot = true", "boot: expected a table, got a boolean"),
    "boot key": ("boot = { enabled = true }", "boot.enabled: unknown key, did you mean 'enable'?"),
    "hostname": ('boot = { hostname = "a_b" }', "boot.hostname: not a host name 'a_b'"),
    "no hostname": ('boot = { hostname = "" }', "not a host name ''"),
    "dots of a hostname": ('boot = { hostname = "a..b" }', "not a host name 'a..b'"),
    "timeout": ('boot = { timeout = "soon" }', "boot.timeout: not a time 'soon'"),
    "stop timeout": ("boot = { stop-timeout = 0 }", "boot.stop-timeout: not a time 0"),
    "journal": ('boot = { link-journal = "yes" }', "link-journal: expected 'auto' or"),
    "ready": ('boot = { ready = "a\\u0000" }', "NUL"),
    "locale": ('locale = "german"', "locale: not a locale 'german'"),
    "locale's charset": ('locale = "de_DE.utf8"', "write the locale as 'de_DE.UTF-8'"),
    "locale and a path": ('locale = "../x"', "not a locale"),
    "time zone": ('timezone = "CEST"', "timezone: not a time zone 'CEST': Area/City"),
    "time zone and a path": ('timezone = "Europe/../../etc/passwd"', "not a time zone"),
    "plain password": ('root-password = "secret7"', "root-password: a password itself has no place here"),
    "hash": ('root-password = "$secret7"', "not a hash of crypt(5)"),
    "hash cut short": ('root-password = "$6$salt$secret7"', "a hash of this kind has 86 characters at its end, not 7"),
    "service": ('services = ["a b"]', "services[0]: not a unit 'a b'"),
    "service's option": ('services = ["--now"]', "not a unit"),
    "service's path": ('services = ["../x"]', "not a unit"),
    "service twice": ('services = ["ssh", "ssh"]', "in the list already"),
    "firstboot": ('firstboot = [" "]', "firstboot[0]: the script is empty"),
    "firstboot's source": ('firstboot = [{ source = "no.sh" }]', "firstboot[0].source: no.sh: No such file"),
    "repository": ('repositories = [{ name = "a" }]', "repositories[0].url: missing"),
    "repository's name": ('repositories = [{ name = "A b", url = "https://x" }]', "not a repository's name 'A b'"),
    "repository's path": ('repositories = [{ name = "../x", url = "https://x" }]', "not a repository's name"),
    "repository's address": ('repositories = [{ name = "a", url = "ppa:x/y" }]', "url: not a mirror 'ppa:x/y'"),
    "repository's password": ('repositories = [{ name = "a", url = "https://me:pw@x" }]', "auth.conf"),
    "repository twice": (
        'repositories = [{ name = "a", url = "https://x" }, { name = "a", url = "https://y" }]',
        "repositories[1].name: repository 'a' is in the list already",
    ),
    "suite": ('repositories = [{ name = "a", url = "https://x", suites = ["a b"] }]', "suites[0]: not a suite 'a b'"),
    "suite that is a directory": (
        'repositories = [{ name = "a", url = "https://x", suites = ["./"], components = ["main"] }]',
        "suites: './' is a directory: it has no components",
    ),
    "key": ('repositories = [{ name = "a", url = "https://x", key = "no.asc" }]', "key: no.asc: No such file"),
    "key that is none": ('repositories = [{ name = "a", url = "https://x", key = "text" }]', "key: holds no OpenPGP keys"),
    "private key": ('repositories = [{ name = "a", url = "https://x", key = "private.asc" }]', "this is a private key"),
    "private binary key": ('repositories = [{ name = "a", url = "https://x", key = "private.gpg" }]', "this is a private key"),
    "bridge": ('network = { bridge = "br_0" }', "network.bridge: not a bridge's name 'br_0'"),
    "private keys of another mode": (
        'network = { mode = "none", isolated = true }',
        "network.isolated: only a private network has it, and the mode is 'none'",
    ),
    "publish": ('network = { publish = ["8080"] }', "publish[0]: not ports '8080': HOST:MACHINE"),
    "publish protocol": ('network = { publish = ["8080:80/sctp"] }', "not a protocol 'sctp'"),
    "publish port": ('network = { publish = ["70000:80"] }', "a port goes from 1 to 65535"),
    "publish no port": ('network = { publish = ["0:80"] }', "a port goes from 1 to 65535"),
    "publish address": ('network = { publish = ["300.1.1.1:80:80"] }', "not an address of the host: '300.1.1.1'"),
    "publish name": ('network = { publish = ["localhost:80:80"] }', "not an address of the host: 'localhost'"),
    "publish without brackets": ('network = { publish = ["::1:80:80"] }', "written in brackets: '[::1]'"),
    "publish nothing": ('network = { publish = [":80:80"] }', "not ports ':80:80'"),
    "publish twice": (
        'network = { mode = "private", publish = ["80:80", "127.0.0.1:80:81"] }',
        "80/tcp of the host is published by this machine",
    ),
    "egress": ('network = { egress = ["a b"] }', "egress[0]: not a place 'a b'"),
    "egress port": ('network = { egress = ["example.org:https"] }', "a port goes from 1 to 65535, in 'example.org:https'"),
    "egress colon": ('network = { egress = ["example.org:"] }', "a port goes from 1 to 65535"),
    "egress protocol": ('network = { egress = ["example.org:53/dns"] }', "not a protocol 'dns'"),
    "egress protocol alone": ('network = { egress = ["example.org/udp"] }', "a protocol belongs to a port"),
    "egress network": ('network = { egress = ["192.0.2.1/24"] }', "write '192.0.2.0/24'"),
    "egress prefix": ('network = { egress = ["192.0.2.0/33"] }', "not a network '192.0.2.0/33'"),
    "egress address": ('network = { egress = ["192.0.2.256"] }', "not a place '192.0.2.256'"),
    "egress twice": ('network = { egress = ["any", "any"] }', "in the list already"),
    "address": ('network = { address = "10.0.0.2/a" }', "network.address: not an address '10.0.0.2/a'"),
    "address and prefix": ('network = { address = "10.0.0.2/32" }', "from /8 to /31"),
    "address of a network": ('network = { address = "10.0.0.0/24" }', "no address for a machine"),
    "egress bracket": ('network = { egress = ["[a.example"] }', "not a place '[a.example'"),
    "egress bracket's port": ('network = { egress = ["[::1]:"] }', "a port goes from 1 to 65535"),
    "egress brackets alone": ('network = { egress = ["[::1]"] }', "not a place '[::1]'"),
    "egress rest": ('network = { egress = ["[::1]80"] }', "not a place '[::1]80'"),
    "address of loopback": ('network = { address = "127.0.0.2" }', "no address for a machine"),
    "address of IPv6": ('network = { address = "fd00::2" }', "write its IPv4 address"),
    "pool": ('[network]\npool = "10.77.0.0"', "network.pool: not a network '10.77.0.0'"),
    "pool's host bits": ('[network]\npool = "10.77.1.0/16"', "write '10.77.0.0/16'"),
    "small pool": ('[network]\npool = "10.77.0.0/31"', "a pool is from /8 to /30"),
    "pool of IPv6": ('[network]\npool = "fd00::/48"', "write it as pool6"),
    "pool6": ('[network]\npool6 = "10.0.0.0/8"', "network.pool6: 10.0.0.0/8 is of IPv4: write it as pool"),
    "pool6's prefix": ('[network]\npool6 = "fd00::/80"', "a pool6 is from /16 to /64"),
    "no such pool": ('[network]\nmode = "private"', "network.mode: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE)
def test_one_mistake_has_one_line_that_says_it(case: str, tmp_path: Path) -> None:
    added, message = ONE[case]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("no keys\n")
    (tmp_path / "private.asc").write_text("-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    (tmp_path / "private.gpg").write_bytes(b"\x95\x01")
    lines = mistakes(tmp_path, GOOD + added + "\n")
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert "secret7" not in lines[0]
    # what is missing, or is wrong with the whole table, is told at its header
    at = added.split("\n")
    last = 3 + len(at)
    number = int(lines[0].split(":")[1])
    assert number == last or (at[0].startswith("[") and number >= 4)


@pytest.mark.parametrize("value", ['"2G"', "536870912", '"4096K"', '"1T"'])
def test_amounts_of_memory(value: str, tmp_path: Path) -> None:
    memory = load_text(tmp_path, f"{GOOD}limits = {{ memory = {value} }}\n").machines["bookworm"].memory
    assert memory == {'"2G"': 2 << 30, "536870912": 512 << 20, '"4096K"': 4 << 20, '"1T"': 1 << 40}[value]


@pytest.mark.parametrize(
    "url",
    ["http://deb.debian.org/debian", "https://[2001:db8::1]:8080/x", "http://localhost:3142", "file:///srv/mirror"],
)
def test_mirrors_that_are_good(url: str, tmp_path: Path) -> None:
    assert load_text(tmp_path, f'{GOOD}mirror = "{url}"\n').machines["bookworm"].base.mirror == url


@pytest.mark.parametrize(
    "name",
    [
        "g++",
        "libc6:i386",
        "vim=2:9.0.1378-2+b1",
        "git/bookworm-backports",
        "7zip",
        "libx_y.z",
        "cmake~3.31",
        "a=1~rc1",
        "git@edge",
        "git~2@edge",
    ],
)
def test_packages_that_are_good(name: str) -> None:
    assert checks.package(name) == ""


@pytest.mark.parametrize("name", ["~ncmake", "~", "cmake~", "cmake~3.31-", "a~b c", "a~~b~?x", "a@", "a@b@c", "a@b/c"])
def test_patterns_are_no_packages(name: str) -> None:
    assert checks.package(name)


@pytest.mark.parametrize(
    "more",
    [
        'root-password = ""', 'root-password = "$y$j9T$abc$def"', 'root-password = "$2b$12$abcdefghij"',
        'root-password = "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1"',
        'locale = "C.UTF-8"', 'locale = "de_DE.UTF-8"', 'locale = "ca_ES.UTF-8@valencia"', 'locale = "POSIX"',
        'locale = "sr_RS@latin"',
        'timezone = "UTC"', 'timezone = "America/Argentina/Buenos_Aires"', 'timezone = "Etc/GMT+1"',
        'services = ["ssh", "getty@tty1.service", "fstrim.timer", "php8.2-fpm", "dev-disk\\\\x2d1.mount"]',
        'network = { mode = "private", publish = ["8080:80", "8080:80/udp", "127.0.0.1:2222:22/tcp", "[::1]:80:80"] }',
        'network = { publish = ["127.0.0.1:80:80", "127.0.0.2:80:80"], bridge = "lab-1", address = "10.77.0.9/24" }',
        'network = { egress = [] }',
        'network = { egress = ["any", "any:80", "host", "host:4444/udp", "192.0.2.1", "192.0.2.1:80", "192.0.2.0/24:443/tcp"] }',
        'network = { egress = ["2001:db8::1", "[2001:db8::1]:443", "2001:db8::/32", "[2001:db8::/32]:53/udp", "web", "a.example:1"] }',
        '[network]\npool = "10.77.0.0/16"\npool6 = "fd00:77::/48"',
    ],
)  # fmt: skip
def test_what_is_good_of_machines_that_boot(more: str, tmp_path: Path) -> None:
    assert load_text(tmp_path, f"{GOOD}{more}\n").machines


PIECES = [
    "80",
    ":",
    "/",
    "[",
    "]",
    "tcp",
    "udp",
    "::1",
    "192.0.2.0",
    "24",
    "any",
    "host",
    "a.b",
    "-",
    "_",
    ".",
    "0",
    "65536",
    " ",
    "é",
]


@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_a_definition_takes_the_network_understands(text: str) -> None:
    port, wrong = network_checks.publish(text)
    assert bool(wrong) == (port is None)
    if port is not None:
        found = terms.published(text)
        assert (found.address, found.port, found.inside, found.protocol) == (
            port.address, port.host, port.machine, port.protocol,
        )  # fmt: skip
    if not network_checks.egress(text):
        terms.target(text)
    if not network_checks.address(text):
        pools.fixed(text)
    if not network_checks.pool(text):
        addresses.pool_of(text, bits=32)
    if not network_checks.pool6(text):
        addresses.pool_of(text, bits=128)


def test_two_machines_cannot_have_one_port_or_address(tmp_path: Path) -> None:
    other = '[machines.other]\ndistribution = "debian"\nrelease = "sid"\n'
    text = GOOD + 'boot = {}\nnetwork = { publish = ["80:80", "53:53/udp"], address = "10.77.0.2" }\n' + other
    load_text(tmp_path, text + 'network = { publish = ["80:80"], address = "10.77.0.2" }\n')  # it does not boot
    load_text(tmp_path, text + 'boot = {}\nnetwork = { publish = ["53:53", "8080:80"] }\n')
    port, address = mistakes(
        tmp_path, text + 'boot = {}\n[machines.other.network]\naddress = "10.77.0.2/24"\npublish = [\n"1:1",\n"80:1"]\n'
    )
    assert (
        port == "roost.toml:11: machines.other.network.address: 10.77.0.2 is the address of machine 'bookworm' already"
    )
    assert (
        address
        == "roost.toml:14: machines.other.network.publish[1]: port 80/tcp of the host is published by machine 'bookworm' already"
    )


def test_a_port_of_the_defaults_is_told_at_the_second_machine(tmp_path: Path) -> None:
    text = '[defaults]\ndistribution = "debian"\nrelease = "sid"\nboot = {}\nnetwork = { publish = ["80:80"] }\n'
    text += '[machines.a]\n[machines.b]\n[machines.c]\nnetwork = { mode = "none" }\n'
    assert mistakes(tmp_path, text) == [
        "roost.toml:7: machines.b: port 80/tcp of the host is published by machine 'a' already"
    ]


def test_repositories_that_contradict_each_other_across_layers(tmp_path: Path) -> None:
    text = GOOD + (
        'profiles = ["a", "b"]\nrepositories = [{ name = "q", url = "https://q.example/" }]\n'
        '[profiles.a]\nrepositories = [{ name = "q", url = "https://q.example" }]\n'
        '[profiles.b]\nrepositories = [{ name = "q", url = "https://q.example" }]\n'
    )
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(
        "roost.toml:5: machines.bookworm.repositories: repository 'q' of the machine is not the one of"
    )
    (line,) = mistakes(
        tmp_path, '[machines.a]\nfrom = "layer:x"\nrepositories = [{ name = "q", url = "https://q.example" }]\n'
    )
    assert "repository 'q' of the machine needs suites" in line


def test_a_mistake_in_the_defaults_is_told_once_however_many_inherit_it(tmp_path: Path) -> None:
    text = '[defaults]\ndistribution = "debian"\nrelease = "bookwrm"\n[machines.a]\n[machines.b]\n[machines.c]\n'
    assert mistakes(tmp_path, text) == [
        "roost.toml:3: defaults.release: debian has no release 'bookwrm', did you mean 'bookworm'?"
    ]


def test_a_release_of_the_defaults_that_does_not_fit_is_told_at_the_machine(tmp_path: Path) -> None:
    text = '[defaults]\ndistribution = "debian"\nrelease = "sid"\n[machines.a]\n[machines.b]\ndistribution = "ubuntu"\n'
    (line,) = mistakes(tmp_path, text)
    assert line.startswith("roost.toml:6: machines.b.distribution: ubuntu has no release 'sid'")


def test_the_hosts_architecture_may_not_fit(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, GOOD, architecture="riscv64")
    assert "debian bookworm is not made for riscv64 (this host's architecture)" in line


def test_a_misspelt_key_is_not_told_to_be_missing_as_well(tmp_path: Path) -> None:
    text = '[machines.a]\ndistributon = "debian"\nrelase = "sid"\n'
    assert [line.split(": ")[1] for line in mistakes(tmp_path, text)] == ["machines.a.distributon", "machines.a.relase"]
    assert len(mistakes(tmp_path, 'machine.a.distribution = "debian"\n')) == 1


def test_accounts_that_contradict_each_other_across_layers(tmp_path: Path) -> None:
    text = GOOD + (
        'profiles = ["a", "b", "c"]\nuser = { name = "own", uid = 883 }\n'
        '[profiles.a]\nuser = { name = "sai", uid = 883 }\n'
        '[profiles.b]\nuser = { name = "sai", uid = 884 }\n'
        '[profiles.c]\nuser = { name = "sai", uid = 883 }\n'
    )
    first, second = mistakes(tmp_path, text)
    assert first.startswith("roost.toml:4: machines.bookworm.profiles: user 'sai' of profile 'b' is not the one of")
    assert second.startswith("roost.toml:5: machines.bookworm.user: uid 883 of 'own' (the machine) is that of 'sai'")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[machines.a]\nrelease =\n", 2, "Invalid value"),
        ("[machines.a]\nx = 'a\n", 2, ""),
        ("[machines.a]\n[machines.a]\n", 2, "Cannot declare"),
        ("a = 1\na = 2\n", 2, "Cannot overwrite"),
        ("# x\n\na = [1,\n", 3, ""),
        ("a = " + "9" * 5000, 1, "digits"),
    ],
)
def test_a_text_that_is_not_toml(text: str, line: int, message: str, tmp_path: Path) -> None:
    (details,) = mistakes(tmp_path, text)
    assert details.startswith(f"roost.toml:{line}: ")
    assert message in details


def test_a_text_that_is_nested_without_end(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="nested too deeply"):
        load_text(tmp_path, "a = " + "[" * 100_000)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[profiles.a]\n", "[machines]\n"])
def test_no_machine_at_all(text: str, tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, text)
    assert "there is no machine, add a table [machines.NAME]" in line


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"# one\n# \xe9t\xe9\n")
    with pytest.raises(DefinitionError) as caught:
        load_file(path)
    assert caught.value.details == f"{path}:2: the byte 0xe9 is not UTF-8"


def test_files_that_cannot_be_definitions(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"#" * (1 << 20) + b"\n")
    for name, message in {
        "nowhere": "No such file or directory",
        "": "Is a directory",
        "pipe": "not a regular file",
        "big": "larger than 1 MiB",
    }.items():
        with pytest.raises(DefinitionError, match=message) as caught:
            load_file(tmp_path / name)
        assert caught.value.hint


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert list(load_file(tmp_path / "x.toml").machines) == ["bookworm"]


# Any table: the walker and msgspec agree on what is right, and what the walker leaves is right.

LEAVES = st.integers(-1, 70000) | st.booleans() | st.floats() | st.text(max_size=3) | st.dates()
WORDS = [
    "machines", "profiles", "defaults", "user", "name", "uid", "files", "/a", "content", "mode", "scripts", "source",
    "packages", "apt", "binds", "read-only", "limits", "memory", "cpus", "network", "environment",
    "private-users", "from", "distribution", "x", "boot", "ready", "publish", "egress", "repositories", "url", "suites", "key",
    "services", "firstboot", "root-password",
]  # fmt: skip
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
)
MACHINE = st.dictionaries(st.sampled_from(WORDS), ANY, max_size=5)
ANY_DEFINITION = st.fixed_dictionaries(
    {},
    optional={"machines": st.dictionaries(st.just("x"), MACHINE | ANY), "defaults": MACHINE, "profiles": ANY, "x": ANY},
)


@settings(max_examples=300, deadline=None)
@given(ANY_DEFINITION)
def test_nothing_wrong_is_let_through_and_nothing_right_is_refused(table: dict[str, Any]) -> None:
    try:
        msgspec.convert(table, Definition)
        right = True
    except msgspec.ValidationError:
        right = False
    cleaned = clean(table)
    assert (not cleaned.mistakes) == right
    msgspec.convert(cleaned.table, Definition)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=ANY_DEFINITION, data=st.data())
def test_whatever_is_written_there_are_machines_or_lines(
    table: dict[str, Any], data: st.DataObject, tmp_path: Path
) -> None:
    writer = Writer(lambda below: data.draw(st.integers(0, below - 1)))
    writer.table(table, [])
    (tmp_path / "roost.toml").write_text("\n".join(writer.lines), encoding="utf-8", newline="")
    found: list[str] = []
    try:
        found += load_file(tmp_path / "roost.toml").machines
    except DefinitionError as error:
        found += error.details.splitlines()
    assert found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('remove-packages = ["git=1"]', "'git=1': what is removed is named without a version and a suite"),
        ('remove-packages = ["-git"]', "begins with '-'"),
        ('remove-packages = ["@lws"]', "a set ('@lws') is not removed as such: name the packages"),
        ('packages = ["git"]\nremove-packages = { apt = ["less", "git"] }', "'git' is in packages, too"),
        ('packages = { apt = ["git"] }\nremove-packages = ["git"]', "'git' is in packages, too"),
        ('remove-packages = { atp = ["git"] }', "did you mean 'apt'?"),
    ],
)
def test_packages_that_cannot_be_removed(tmp_path: Path, line: str, said: str) -> None:
    [found] = mistakes(tmp_path, GOOD + line + "\n")
    assert f"roost.toml:{3 + len(line.splitlines())}: machines.bookworm.remove-packages" in found
    assert said in found


def test_what_one_family_gets_another_may_remove(tmp_path: Path) -> None:
    load_text(tmp_path, GOOD + 'packages = { dnf = ["vim"] }\nremove-packages = { apt = ["vim"] }\n')
