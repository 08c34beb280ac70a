"""Recipes of profiles: what sai-builder stands for on each release, its configuration, and what is wrong with options."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import roost
from roost.definition import sai_builder
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from roost.definition.model import Contents, Resolved

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FARM = f"""
[defaults]
architecture = "amd64"
profiles = ["ci"]
[profiles.ci]
recipe = "sai-builder"
[profiles.ci.options]
servers = ["wss://ci.example.org:4444/sai/builder"]
sources.lws = "git:https://git.example.org/lws#{COMMIT}"
sources.sai = {{ git = "https://git.example.org/sai", revision = "{COMMIT}" }}
"""
MACHINE = """
[machines.{name}]
distribution = "{distribution}"
release = "{release}"
options.ci = {{ platforms = ["linux-x/x86_64-amd/gcc"] {more} }}
"""


def machine(name: str, distribution: str, release: str, more: str = "") -> str:
    return MACHINE.format(name=name, distribution=distribution, release=release, more=more)


BOOKWORM = machine("a", "debian", "bookworm")


def load(directory: Path, text: str) -> dict[str, Resolved]:
    (directory / "roost.toml").write_text(text)
    return roost.load(directory / "roost.toml").machines


def wrong(directory: Path, text: str) -> list[str]:
    """The lines of the error, without the place of the file."""
    with pytest.raises(DefinitionError) as caught:
        load(directory, text)
    return [line.split(": ", 1)[1] for line in caught.value.details.splitlines()]


def shared(machine: Resolved) -> Contents:
    return next(layer for layer in machine.layers if layer.name == "ci")


def conf(machine: Resolved) -> Any:
    own = machine.layers[-1]
    assert own.name == ""
    [file] = [file for file in own.files if file.path == "/etc/sai/builder/conf"]
    assert file.content.endswith(b"}\n")
    return json.loads(file.content)


def test_a_recipe_is_a_profile_s_layer_and_a_file_of_the_machine_s_own(tmp_path: Path) -> None:
    found = load(tmp_path, FARM + BOOKWORM)["a"]
    layer = shared(found)
    assert {"git", "cmake", "libgit2-dev", "libc6-i386"} <= set(layer.packages)
    assert [(user.name, user.uid, user.group) for user in layer.users] == [("sai", 883, "")]
    assert layer.services == ("sai-builder",)
    assert [script.name for script in layer.scripts] == ["build lws", "build sai"]
    assert {file.path for file in layer.files} == {
        "/etc/systemd/system/sai-builder.service",
        "/etc/tmpfiles.d/sai-builder.conf",
    }
    assert conf(found) == {
        "perms": "sai:nogroup",
        "home": "/home/sai",
        "host": "a",
        "platforms": [
            {
                "name": "linux-x/x86_64-amd/gcc",
                "instances": 1,
                "job-limit": 1,
                "servers": ["wss://ci.example.org:4444/sai/builder"],
            }
        ],
    }


def test_the_unit_starts_again_and_has_nobody_s_network_in_it(tmp_path: Path) -> None:
    files = {file.path: file.content.decode() for file in shared(load(tmp_path, FARM + BOOKWORM)["a"]).files}
    unit = files["/etc/systemd/system/sai-builder.service"]
    assert unit.startswith("[Unit]\n")
    assert "\nRestart=always\n" in unit
    assert "\nWants=network-online.target\n" in unit
    assert "\nWantedBy=multi-user.target\n" in unit
    assert not re.search(r"\d+\.\d+\.\d+\.\d+", unit)


def test_machines_of_one_release_share_the_layer_and_not_the_configuration(tmp_path: Path) -> None:
    one, other = load(tmp_path, FARM + BOOKWORM + machine("b", "debian", "bookworm", ", instances = 4")).values()
    assert shared(one) == shared(other)
    assert conf(one)["host"] == "a"
    assert (conf(other)["host"], conf(other)["platforms"][0]["job-limit"]) == ("b", 4)


SEED = """
xenial: sudo make git gcc cmake net-tools libssl-dev vim libc6-i386 dbus systemd-container libmbedtls-dev glib2.0-dev libevent-dev
    libev4 libev-dev libuv1 libuv1-dev libmount-dev libsqlite3-dev libgit2-dev inetutils-ping psmisc libsqlite-dev sqlite3 libsqlite3-0
    libgit2-24 libgit2-dev libmbedcrypto0 libmbedtls10 libmbedx509-0 libmbedtls-dev libev4 libev-dev libevent-2.0 libevent-dev glib-2.0
    pkg-config
bionic: sudo make git gcc cmake net-tools libssl-dev vim libc6-i386 dbus systemd-container libmbedtls-dev libev4 libev-dev libuv1
    libuv1-dev libmount-dev libsqlite0-dev libgit2-dev inetutils-ping psmisc libgit2-26 libmbedcrypto1 libmbedtls10 libmbedx509-0
    libmbedtls-dev libevent-2.1-6 libevent-dev libglib2.0-0 libsqlite3-0 libsqlite3-dev pkg-config libglib2.0-dev libglib2.0-0
    libdbus-1-dev libdbus-1-3
focal: sudo make git gcc cmake net-tools libssl-dev vim libc6-i386 dbus systemd-container libmbedtls-dev libevent-2.1-7 libev4 libev-dev
    libuv1 libuv1-dev libmount-dev libsqlite0-dev libgit2-dev inetutils-ping psmisc libgit2-28 libmbedcrypto3 libmbedtls12
    libmbedx509-0 libmbedtls-dev libev4 libev-dev libevent-2.1-7 libevent-dev libglib2.0-0 libsqlite3-0 libsqlite3-dev pkg-config
    libglib2.0-dev libglib2.0-0
buster: sudo make git gcc cmake net-tools libssl-dev vim libc6-i386 dbus systemd-container libmbedtls-dev libev4 libev-dev libuv1
    libuv1-dev libmount-dev libsqlite0-dev libgit2-dev inetutils-ping psmisc libgit2-27 libmbedcrypto3 libmbedtls12 libmbedx509-0
    libmbedtls-dev libevent-2.1-6 libevent-dev libglib2.0-0 libsqlite3-0 libsqlite3-dev pkg-config libglib2.0-dev libglib2.0-0
    libdbus-1-dev libdbus-1-3 g++
"""


@pytest.mark.parametrize(("release", "names"), [entry.split(":") for entry in re.split(r"\n(?=\w)", SEED.strip())])
def test_the_pages_packages_are_there_or_obsolete_for_a_reason(tmp_path: Path, release: str, names: str) -> None:
    distribution = "debian" if release == "buster" else "ubuntu"
    packages = set(shared(load(tmp_path, FARM + machine("a", distribution, release))["a"]).packages)
    obsolete = tomllib.loads((Path(sai_builder.__file__).parent / "sai-builder.toml").read_text())["obsolete"]
    for name in names.split():
        assert (name in packages) != (name in obsolete), name
    assert all(obsolete.values())


@pytest.mark.parametrize(
    ("distribution", "release", "has", "lacks", "nobody"),
    [
        ("debian", "jessie", "libgit2-dev", "libuv1-dev", "nogroup"),
        ("debian", "sid", "libuv1-dev", "libc6", "nogroup"),
        ("fedora", "32", "glibc.i686", "systemd-networkd", "nobody"),
        ("centos", "7", "systemd-resolved", "mbedtls-devel", "nobody"),
        ("centos", "8", "NetworkManager", "systemd-networkd", "nobody"),
        ("gentoo", "rolling", "dev-libs/libgit2", "git", "nogroup"),
    ],
)
def test_each_release_has_packages_and_a_group_of_its_own(
    tmp_path: Path, distribution: str, release: str, has: str, lacks: str, nobody: str
) -> None:
    found = load(tmp_path, FARM + machine("a", distribution, release))["a"]
    assert has in shared(found).packages
    assert lacks not in shared(found).packages
    assert conf(found)["perms"] == f"sai:{nobody}"


def test_32_bit_libraries_are_for_amd64_alone(tmp_path: Path) -> None:
    text = FARM.replace('"amd64"', '"arm64"') + BOOKWORM
    assert not {"libc6-i386", "glibc.i686"} & set(shared(load(tmp_path, text)["a"]).packages)


def test_what_is_built_from_source_is_no_package(tmp_path: Path) -> None:
    """As the pages say for xenial."""
    more = (
        f', sources = {{ cmake = "git:https://e.org/cmake#{COMMIT}", libgit2 = "git:https://e.org/libgit2#{COMMIT}" }}'
    )
    layer = shared(load(tmp_path, FARM + machine("a", "ubuntu", "xenial", more))["a"])
    assert not {"cmake", "libgit2-dev"} & set(layer.packages)
    assert [script.name for script in layer.scripts] == ["build cmake", "build libgit2", "build lws", "build sai"]
    text = layer.scripts[0].content.decode()
    assert "./bootstrap" in text
    assert f"git checkout -q {COMMIT}" in text
    assert "-DLWS_WITH_SPAWN=1" in layer.scripts[2].content.decode()
    assert "ldconfig" in layer.scripts[2].content.decode()


def test_a_profile_s_own_content_comes_after_the_recipe_s(tmp_path: Path) -> None:
    text = FARM.replace('recipe = "sai-builder"', 'recipe = "sai-builder"\npackages = ["less"]\nscripts = ["true"]')
    layer = shared(load(tmp_path, text + BOOKWORM)["a"])
    assert layer.packages[-1] == "less"
    assert [script.name for script in layer.scripts] == ["build lws", "build sai", "script 1"]


def test_options_of_the_machine_are_before_those_of_defaults_and_profile(tmp_path: Path) -> None:
    text = FARM.replace("[profiles.ci]", '[defaults.options.ci]\ninstances = 3\nhost = "{machine}-noi"\n[profiles.ci]')
    text += "instances = 2\nhome = '/srv/sai'\n" + BOOKWORM
    found = load(tmp_path, text)["a"]
    assert conf(found)["platforms"][0]["instances"] == 3
    assert (conf(found)["host"], conf(found)["home"]) == ("a-noi", "/srv/sai")
    assert shared(found).users[0].home == "/srv/sai"


def test_a_platform_may_have_servers_and_instances_of_its_own(tmp_path: Path) -> None:
    one = '{ name = "freertos/esp32", instances = 1, servers = ["ws://s:1/x"], env = { BASE = "/opt" } }'
    text = "[machines.a]\ndistribution = 'debian'\nrelease = 'sid'\n[machines.a.options.ci]\ninstances = 6\ngroup = 'users'\n"
    text += f"conf = {{ metrics_uri = 'http://m' }}\nplatforms = ['a/b', {one}]\n"
    found = conf(load(tmp_path, FARM + text)["a"])
    assert found["metrics_uri"] == "http://m"
    assert found["perms"] == "sai:users"
    assert [(p["instances"], p["job-limit"], p["servers"], p.get("env")) for p in found["platforms"]] == [
        (6, 6, ["wss://ci.example.org:4444/sai/builder"], None),
        (1, 1, ["ws://s:1/x"], [{"BASE": "/opt"}]),
    ]


def test_a_directory_is_a_source_the_same_for_the_same_content(tmp_path: Path) -> None:
    source = tmp_path / "stand-in"
    (source / ".git").mkdir(parents=True)
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("/nowhere")
    text = FARM.replace('{ git = "https://git.example.org/sai"', '{ directory = "stand-in"')
    text = text.replace(f', revision = "{COMMIT}" }}', ', build = "make all" }') + BOOKWORM
    first = shared(load(tmp_path, text)["a"])
    (source / ".git/index").write_text("something else")
    os.utime(source / "run", (1, 1))
    assert shared(load(tmp_path, text)["a"]) == first
    [packed] = [file.content for file in first.files if file.path.endswith("sai.tar")]
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert {m.name: (m.uid, m.mtime) for m in archive} == dict.fromkeys(
            ("source", "source/link", "source/run"), (0, 0)
        )
    assert str(source / "run") in roost.load(tmp_path / "roost.toml").inputs
    (source / "run").write_text("#!/bin/sh\nfalse\n")
    assert shared(load(tmp_path, text)["a"]) != first


def test_a_build_script_builds_and_leaves_nothing(tmp_path: Path) -> None:
    """The script itself, run in a root of this test's own making by unshare: what it fetches, what it leaves."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "hello").write_text("hello\n")
    script = shared(load(tmp_path, FARM.replace('{ git = "https://git.example.org/sai"', '{ directory = "src"')
        .replace(f', revision = "{COMMIT}" }}', ', build = "cp hello /opt/made" }') + BOOKWORM)["a"])  # fmt: skip
    [packed] = [file for file in script.files if file.path.endswith("sai.tar")]
    text = next(one.content for one in script.scripts if one.name == "build sai")
    (tmp_path / "build").write_bytes(text)
    (tmp_path / "sai.tar").write_bytes(packed.content)
    steps = f"""set -e
for place in /usr/local /opt /var/tmp; do mount -t tmpfs none $place; done
mkdir -p /usr/local/src/roost; cp {tmp_path}/sai.tar /usr/local/src/roost/
sh {tmp_path}/build
cat /opt/made; find /usr/local /var/tmp -mindepth 1 -not -path /usr/local/src
"""
    done = subprocess.run(("unshare", "-m", "sh", "-c", steps), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_a_commit_is_fetched_also_from_a_server_that_gives_only_branches(tmp_path: Path) -> None:
    """The script's git lines, on a repository over a plain web server."""
    git = ("git", "-C", str(tmp_path / "r"), "-c", "user.name=x", "-c", "user.email=x@y")
    (tmp_path / "r").mkdir()
    for words in (
        ("init", "-q"),
        ("commit", "-q", "--allow-empty", "-m", "one"),
        ("tag", "one"),
        ("commit", "-q", "--allow-empty", "-m", "two"),
    ):
        subprocess.run((*git, *words), check=True)
    subprocess.run((*git, "update-server-info"), check=True)
    commit = subprocess.run(
        (*git, "rev-parse", "one^{commit}"), check=True, capture_output=True, text=True
    ).stdout.strip()
    server = subprocess.Popen(
        ("python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "-d", str(tmp_path / "r/.git"), "0"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        text = FARM.replace("https://git.example.org/sai", f"http://127.0.0.1:{port[1]}/").replace(
            f'revision = "{COMMIT}"', f'revision = "{commit}", build = "git rev-parse HEAD > /opt/made"'
        )
        script = shared(load(tmp_path, text + BOOKWORM)["a"]).scripts[-1]
        (tmp_path / "build").write_bytes(script.content)
        steps = f"set -e; mount -t tmpfs none /opt; mount -t tmpfs none /var/tmp; sh {tmp_path}/build; cat /opt/made; ls /var/tmp"
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run(
            ("unshare", "-m", "sh", "-c", steps), capture_output=True, text=True, check=False, env=environment
        )
        assert (done.returncode, done.stdout) == (0, f"{commit}\n"), done
    finally:
        server.kill()
        server.communicate()


def in_options(line: str) -> str:
    return FARM + line + "\n" + BOOKWORM


MISTAKES = [
    (FARM.replace("sai-builder", "sai-bilder") + BOOKWORM, "no recipe 'sai-bilder', did you mean 'sai-builder'?"),
    (FARM.replace('recipe = "sai-builder"', "") + BOOKWORM, "there is no recipe that they are for"),
    (in_options('platform = ["a/b"]'), "profiles.ci.options.platform: unknown key, did you mean 'platforms'?"),
    (in_options('instances = "3"'), "profiles.ci.options.instances: expected an integer, got a string"),
    (in_options("instances = 0"), "from 1 to 1000 builds at a time"),
    (in_options("sudo = 'maybe'"), "expected 'no' or 'nopasswd', got 'maybe'"),
    (in_options("host = 'a.b'"), "no dot in 'a.b'"),
    (in_options("host = 'a b'"), "not a host 'a b'"),
    (in_options(f"host = '{'h' * 50}'"), "has more than 64 characters"),
    (in_options("uid = 70000"), "a uid goes from 0 to 65533"),
    (in_options("home = 'sai'"), "not an absolute path"),
    (in_options("conf = { sai-power = 'http://x' }"), "an idle builder with it halts its machine"),
    (in_options("conf = { host = 'x' }"), "the recipe writes this key itself"),
    (in_options("conf = { when = 2020-01-01 }"), "got a date or time"),
    (in_options("sources.lsw = 'dir:x'"), "unknown source 'lsw', did you mean 'lws'?"),
    (in_options("sources.cmake = 'svn:x'"), "not a source 'svn:x'"),
    (in_options("sources.cmake = 'dir:nowhere'"), "nowhere: No such file or directory"),
    (in_options("sources.cmake = 'dir:/dev/null'"), "/dev/null: Not a directory"),
    (in_options("sources.cmake = 'tar:/dev/null'"), "not a regular file"),
    (in_options("sources.cmake = 'git:https://x/y'"), "revision '' is no commit"),
    (in_options("sources.cmake = 'git:https://x/y#v3.1'"), "revision 'v3.1' is no commit"),
    (in_options(f"sources.cmake = 'git:https://u:p@x/y#{COMMIT}'"), "no user or password here"),
    (in_options(f"sources.cmake = 'git:/srv/cmake#{COMMIT}'"), "not a repository"),
    (in_options("sources.cmake = {}"), "nothing says where it comes from"),
    (in_options(f"sources.cmake = {{ git = 'https://x/y', tar = 'z', revision = '{COMMIT}' }}"), "git and tar are both given"),
    (in_options("sources.cmake = { tar = 'roost.toml', brunch = 'y' }"), "unknown key"),
    (in_options("sources.cmake = { tar = 'roost.toml', build = ' ' }"), "the script is empty"),
    (in_options("sources.cmake = { tar = 'roost.toml', cmake = ['x'] }"), "not an option of cmake: 'x'"),
    (FARM.replace("wss://", "https://") + BOOKWORM, "not a server 'https://"),
    (FARM.replace('servers = ["wss://ci.example.org:4444/sai/builder"]', "") + BOOKWORM, "no server for platform"),
    (FARM.replace("sources.sai", "sources.cmake") + BOOKWORM, "no source of sai"),
    (FARM.replace("sources.lws", "sources.cmake") + BOOKWORM, "no source of lws"),
    (FARM + BOOKWORM.replace("x86_64-amd/gcc", "x86_64/a/b/c"), "not a platform"),
    (FARM + BOOKWORM.replace('["linux', '["a/b", "a/b", "linux'), "platform 'a/b' is in the list already"),
    (FARM + BOOKWORM.replace("options.ci", "options.cii"), "no profile 'cii', did you mean 'ci'?"),
    (FARM + "[profiles.p]\npackages = ['x']\n" + BOOKWORM + "options.p = {}\n", "profile 'p' has no recipe"),
    (FARM + BOOKWORM + "profiles = []\n", "this machine has not the profile 'ci'"),
    (FARM + "[machines.a]\ndistribution = 'debian'\nrelease = 'sid'\n", "no platforms: options ="),
    (FARM.replace("architecture = ", "# ") + "[machines.a]\nfrom = 'layer:x'\noptions.ci.platforms = ['a/b']\n", "does not say its family"),
    (in_options("host = 'one'") + machine("b", "debian", "sid"), "builder one.linux-x/x86_64-amd/gcc is that of machine 'a' already"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_told_once_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    lines = wrong(tmp_path, text)
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_one_mistake_of_the_defaults_is_told_once(tmp_path: Path) -> None:
    text = FARM.replace("[profiles.ci]", "[defaults.options.ci]\ninstance = 3\n[profiles.ci]") + BOOKWORM
    text += machine("b", "debian", "sid")
    [line] = wrong(tmp_path, text)
    assert line == "defaults.options.ci.instance: unknown key, did you mean 'instances'?"


def test_a_machine_from_a_layer_has_the_packages_of_its_family_when_it_is_known(tmp_path: Path) -> None:
    from roost.definition import with_family

    text = FARM.replace("architecture = ", "# ") + "[machines.a]\nfrom = 'layer:x'\n[machines.a.options.ci]\n"
    found = load(tmp_path, text + "platforms = ['a/b']\ngroup = 'nobody'\n")["a"]
    assert shared(found).packages == ()
    assert "gcc-c++" in shared(with_family(found, "dnf")).packages
    assert "g++" in shared(with_family(found, "apt")).packages
