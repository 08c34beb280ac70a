"""Layers are made once, whole or not at all, and what goes wrong is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roost.distro import apt_sources
from roost.distro.recipe import recipe
from roost.host import apt
from system.rig import COMMAND, TINY, Rig, pick, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW = TINY + 'scripts = ["echo begun; sleep 1.5; date +%s%N > /made"]\n'
BOOKWORM = """
[machines.m]
distribution = "debian"
release = "bookworm"
"""


def layers(rig: Rig) -> list[str]:
    """The layers in the store, half-made ones too, but for tiny."""
    found = (name for place in ("layers", "staging") for name in os.listdir(f"{rig.state}/{place}"))
    return sorted(set(found) - {"7" * 64})


# -- what a layer is made from


def test_scripts_files_and_their_order(tiny: Rig) -> None:
    (tiny.directory / "given").write_bytes(b"\0given\xff")
    tiny.define("""
[machines.tiny]
from = "layer:tiny"
profiles = ["one", "two"]
scripts = ["cat /one /two > /both; id -u >> /both; pwd >> /both"]
[profiles.one]
scripts = ["echo 1 > /one", "#!/bin/awk -f\\nBEGIN { print \\"awk\\" >> \\"/one\\" }"]
files = { "/etc/deep/er/f" = { content = "text\\n", mode = "0640", owner = "user", group = "20" } }
[profiles.two]
files = { "/bin/given" = { source = "given", mode = "4755" }, "/etc/motd" = { content = "new\\n" } }
scripts = ["cp /etc/deep/er/f /two; test ! -e /both"]
""")
    done = tiny("build")
    assert done.status == 0, done
    done = tiny.run(
        "cat /both; stat -c '%a %U %g' /etc/deep/er/f; stat -c %a /bin/given; od -An -tx1 /bin/given; cat /etc/motd"
    )
    assert done.text.split("\n")[:9] == [
        "1",
        "awk",
        "text",
        "0",
        "/",
        "640 user 20",
        "4755",
        " 00 67 69 76 65 6e ff",
        "new",
    ], done
    assert len(layers(tiny)) == 3


def test_a_second_build_makes_nothing(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["date +%s%N > /made"]\n')
    first = tiny.json("build")
    assert [layer["made"] for layer in first["layers"]] == [True]
    made = tiny.run("cat /made").text
    assert [layer["made"] for layer in tiny.json("build")["layers"]] == [False]
    assert tiny.run("cat /made").text == made
    assert "all layers are there" in tiny("build").said


def test_a_run_makes_what_is_missing_and_says_why(tiny: Rig) -> None:
    tiny.define(TINY + 'packages = []\nscripts = ["echo 1 > /v"]\n')
    done = tiny.run("cat /v")
    assert done.text == "1\n"
    assert "machine tiny" in done.said
    tiny.define(TINY + 'packages = []\nscripts = ["echo 2 > /v"]\n')
    plan = tiny.json("plan")
    assert [(layer["verb"], layer["name"]) for layer in plan["layers"]] == [("build", "machine tiny")]
    assert "scripts changed" in plan["layers"][0]["reason"]
    assert "scripts changed" in tiny("plan").text
    assert tiny.run("cat /v").text == "2\n"


def test_machines_share_a_profiles_layer(tiny: Rig) -> None:
    common = 'from = "layer:tiny"\nprofiles = ["p"]\n'
    tiny.define(
        f'[machines.a]\n{common}[machines.b]\n{common}scripts = ["true"]\n[profiles.p]\nscripts = ["date +%s%N > /made"]\n'
    )
    assert tiny("build").status == 0
    assert len(layers(tiny)) == 2
    assert tiny.run("cat /made", machine="a").text == tiny.run("cat /made", machine="b").text


def test_independent_layers_are_made_side_by_side(tiny: Rig) -> None:
    tiny.define(
        "".join(f'[machines.m{n}]\nfrom = "layer:tiny"\nscripts = ["sleep 1; echo {n} > /n"]\n' for n in range(4))
    )
    done = tiny("build", "-j", "4")
    assert done.status == 0
    assert done.seconds < 3
    assert tiny("run", "--all", "-q", "--", "cat", "/n").status == 0


# -- once


def test_two_builds_at_once_make_one_layer(tiny: Rig) -> None:
    tiny.define(SLOW)
    with tiny.started("build") as one:
        wait_for(lambda: layers(tiny))
        other = tiny("build")
        said = one.communicate(timeout=20)[1].decode()
    assert (one.returncode, other.status) == (0, 0)
    assert "made in" in said
    assert "made by another roost meanwhile" in other.said
    assert len(layers(tiny)) == 1


def test_two_runs_at_once_of_a_machine_that_is_not_made(tiny: Rig) -> None:
    tiny.define(SLOW)
    with (
        tiny.started("run", "tiny", "--", "cat", "/made") as one,
        tiny.started("run", "tiny", "--", "cat", "/made") as other,
    ):
        a, b = one.communicate(timeout=30)[0], other.communicate(timeout=30)[0]
    assert a == b != b""
    assert len(layers(tiny)) == 1


# -- or not at all


def test_a_failed_step_leaves_its_log_and_is_named(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["echo fine", "echo some output; echo the reason >&2; exit 7", "echo never"]\n')
    done = tiny("build")
    assert done.status == 10, done
    assert "machine tiny" in done.said
    assert "script 2" in done.said
    assert "the reason" in done.said
    assert "exit status 7" in done.said
    assert layers(tiny) == []
    assert tiny.sessions() == []
    [log] = Path(tiny.state, "results").glob("*.log")
    assert str(log) in done.said
    text = log.read_text()
    assert "fine\n" in text
    assert "some output\nthe reason\n" in text
    assert "never" not in text


def test_a_step_killed_by_a_signal(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["kill -SEGV $$"]\n')
    done = tiny("build")
    assert done.status == 10
    assert "SIGSEGV" in done.said or "139" in done.said


def test_a_failed_layer_can_be_looked_into(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["echo x > /half; exit 3"]\n')
    done = tiny("build", "--keep-failed")
    assert done.status == 10
    [session] = tiny.sessions()
    assert f"roost session shell {session}" in done.said
    assert layers(tiny) == []
    assert [item["path"] for item in tiny.json("session", "diff", session)] == ["/half"]
    assert tiny("session", "shell", session, stdin=b"cat /half\n").text == "x\n"
    assert tiny("session", "remove", session).status == 0


def test_every_failure_is_told_and_the_rest_is_made(tiny: Rig) -> None:
    tiny.define(
        '[machines.a]\nfrom = "layer:tiny"\nscripts = ["echo reason-a; exit 1"]\n'
        '[machines.b]\nfrom = "layer:tiny"\nprofiles = ["bad"]\nscripts = ["echo never"]\n'
        '[machines.c]\nfrom = "layer:tiny"\nscripts = ["echo fine > /c"]\n[profiles.bad]\nscripts = ["echo reason-b; exit 2"]\n'
    )
    done = tiny("build")
    assert done.status != 0
    for text in ("reason-a", "reason-b", "machine a", "profile bad", "what it stands on failed"):
        assert text in done.said
    assert len(layers(tiny)) == 1
    assert tiny.run("cat /c", machine="c").text == "fine\n"
    document = json.loads(tiny("run", "--all", "--json", "--", "cat", "/c").out)
    states = {result["machine"]: result["state"] for result in document["results"]}
    assert states["a"] == "error"
    assert states["c"] == "passed"
    assert states["b"] in ("error", "skipped")
    assert tiny.run("true", machine="a").status == 125


def test_interrupted_it_leaves_nothing_half(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["echo begun; sleep 60"]\n')
    with tiny.started("build", "-v") as child:
        assert child.stderr is not None
        wait_for(lambda: b"begun" in child.stderr.readline())
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(10) == 130
    assert layers(tiny) == []


@pytest.mark.parametrize("victim", ["manager", "job", "nspawn", "init", "inside"])
def test_killed_it_leaves_nothing_half_and_the_next_build_works(tiny: Rig, victim: str) -> None:
    tiny.define(TINY + 'scripts = ["set -e; echo begun; sleep 3; echo x > /made"]\n')
    with tiny.started("build", "-v") as child:
        assert child.stderr is not None
        wait_for(lambda: b"begun" in child.stderr.readline())
        os.kill(pick(child.pid, victim), signal.SIGKILL)
        child.wait(10)
        assert child.returncode != 0
    done = tiny("build")
    assert done.status == 0, done
    assert len(layers(tiny)) == 1
    assert tiny.run("cat /made").text == "x\n"
    if victim in ("manager", "job"):
        assert os.listdir(f"{tiny.state}/staging") == []


# -- mirrors and keys


def test_a_mirror_that_does_not_answer(new_store: Callable[[], str], tmp_path: Path) -> None:
    rig = Rig(new_store(), tmp_path, BOOKWORM + 'mirror = "http://127.0.0.1:1/debian"\n')
    done = rig("build")
    assert done.status == 9, done
    assert "http://127.0.0.1:1/debian" in done.said
    assert "cannot be reached" in done.said
    assert layers(rig) == []
    assert rig.run("true", machine="m").status == 125


def test_a_mirror_that_has_no_name(new_store: Callable[[], str], tmp_path: Path) -> None:
    rig = Rig(new_store(), tmp_path, BOOKWORM + 'mirror = "http://mirror.invalid/debian"\n')
    done = rig("build")
    assert done.status in (9, 10), done
    assert "mirror.invalid" in done.said
    assert layers(rig) == []


def test_a_wrong_key_is_refused(new_store: Callable[[], str], tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--no-autostart")
    make = (
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--quick-generate-key",
        "nobody@example.org",
    )
    subprocess.run(make, check=True, capture_output=True)
    key = subprocess.run((*gpg, "--export"), check=True, capture_output=True).stdout
    subprocess.run(("gpgconf", "--homedir", str(home), "--kill", "all"), check=True)
    (tmp_path / "wrong.gpg").write_bytes(key)
    rig = Rig(new_store(), tmp_path, BOOKWORM + 'keyring = "wrong.gpg"\n')
    done = rig("build")
    assert done.status == 10, done
    assert "not trusted" in done.said or "signature" in done.said
    assert "keyring" in done.said
    assert layers(rig) == []


def test_a_package_that_nobody_has(own: Rig) -> None:
    own.define(
        own.file.read_text()
        + '[machines.more]\ndistribution = "debian"\nrelease = "bookworm"\npackages = ["no-such-package-here"]\n'
    )
    before = layers(own)
    done = own("build", "more", timeout=200)
    assert done.status == 10, done
    assert "no-such-package-here" in done.said
    assert layers(own) == before


def test_packages_are_downloaded_once(own: Rig) -> None:
    """By another layer of the same release, too."""
    text = own.file.read_text()
    own.define(text + '[machines.more]\ndistribution = "debian"\nrelease = "bookworm"\npackages = ["tree"]\n')
    assert own("build", "more", timeout=200).status == 0
    own.define(
        text
        + '[machines.other]\ndistribution = "debian"\nrelease = "bookworm"\npackages = ["tree"]\nscripts = ["true"]\n'
    )
    done = own("build", "other", "-v", timeout=200)
    assert done.status == 0
    assert "Need to get 0 B/" in done.said, done.said[-3000:]
    assert own.run(
        "tree --version; ls /var/cache/apt/archives/*.deb /var/lib/apt/lists/*dists* 2>/dev/null | wc -l",
        machine="other",
    ).text.endswith("\n0\n")
    packages = own.json("layer", "show", own.json("plan", "other")["layers"][-1]["digest"][:16])["packages"]
    assert {"tree", "bash", "apt"} <= set(packages)


SECRETS = (b"roost-fake-password-1", b"roost-fake-password-2", b"roost-fake-password-3")


def host_apt_with_secrets(tmp_path: Path) -> str:
    """A shell script that shows whoever is started by it a host whose apt knows secrets; the host itself is untouched."""
    host = apt.read()
    base = Rig("/nowhere", tmp_path, BOOKWORM).manager().machines()[0].base
    mirror = apt_sources.resolve(base, recipe("debian"), host).lines[0].uri
    place = mirror.split("/")[2]
    one, two = tmp_path / "auth", tmp_path / "conf"
    one.mkdir()
    two.mkdir()
    (one / "zz-fake.conf").write_text(f"machine {place}/no-such-path login somebody password {SECRETS[0].decode()}\n")
    (two / "99zz-fake").write_text(
        f'Acquire::http::Proxy::mirror.invalid "http://somebody:{SECRETS[1].decode()}@127.0.0.1:1";\n'
    )
    join = " && ".join(
        f"cp -a /etc/apt/{name}/. {keep}/ && mount --bind {keep} /etc/apt/{name}"
        for name, keep in (("auth.conf.d", one), ("apt.conf.d", two))
    )
    return f'mkdir -p /etc/apt/auth.conf.d && {join} && exec "$@"'


@pytest.mark.parametrize("bootstrap", ["mmdebstrap", "debootstrap"])
def test_a_base_from_nothing_keeps_no_secret(own: Rig, tmp_path: Path, bootstrap: str) -> None:
    """Every byte of every file that is left is looked at."""
    for name in layers(own):
        subprocess.run(("rm", "-rf", f"{own.state}/layers/{name}"), check=True)
    (tmp_path / "private").mkdir()
    script = host_apt_with_secrets(tmp_path / "private")
    own.define(
        BOOKWORM
        + f'bootstrap = "{bootstrap}"\nprofiles = ["p"]\n[profiles.p]\npackages = ["tree"]\nuser = {{ name = "sai", uid = 883 }}\n'
    )
    done = own(
        "build", "-v", prefix=("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"), timeout=300
    )
    assert done.status == 0, done
    assert len(layers(own)) == 2
    found = []
    for directory, _, names in os.walk(own.state):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path) or not os.path.isfile(path) or directory.startswith(f"{own.state}/cache"):
                continue
            with open(path, "rb") as stream:
                content = stream.read()
            found += [path for secret in (*SECRETS, b"no-such-path login", b"mirror.invalid") if secret in content]
    assert found == []
    assert not any(secret.decode() in done.said for secret in SECRETS)
    done = own.run(
        "cat /etc/debian_version; id -u sai; tree --version | head -c6",
        machine="m",
    )
    assert done.text.startswith("12"), done
    assert "883\ntree v" in done.text


# -- disks


def in_namespace(rig: Rig, mount: str, script: str) -> subprocess.CompletedProcess[bytes]:
    """A script with a file system of its own mounted at $S, which has the tiny store, and $ROOST; nothing of it stays."""
    place = rig.directory / "mounted"
    place.mkdir()
    text = f"set -e; {mount}; cp -a {rig.state}/. $S/; set +e; {script}"
    environment = {**rig.environment(), "S": str(place), "ROOST": " ".join(COMMAND), "ROOST_STATE": str(place)}
    argv = ("unshare", "-m", "--propagation", "private", "sh", "-c", text)
    return subprocess.run(argv, cwd=rig.directory, env=environment, capture_output=True, timeout=120, check=False)


FILE_SYSTEMS = {
    "tmpfs": "mount -t tmpfs -o size=64M,mode=755 none $S",
    "ext4": "truncate -s 64M disk; mkfs.ext4 -q disk; mount -o loop disk $S",
}


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_full_disk_while_building(tiny: Rig, kind: str) -> None:
    tiny.define(TINY + 'scripts = ["echo begun; cat /dev/zero > /big"]\n')
    script = "$ROOST build; echo status $?; ls -A $S/layers; $ROOST run tiny2 -- echo works; df $S | tail -n1"
    tiny.define(tiny.file.read_text() + TINY.replace("machines.tiny", "machines.tiny2"))
    done = in_namespace(tiny, FILE_SYSTEMS[kind], script)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "status 10", done
    assert "disk is full" in done.stderr.decode() or "No space left" in done.stderr.decode(), done
    assert lines[1:3] == ["7" * 64, "works"], done
    assert int(lines[3].split()[4].rstrip("%")) < 30  # and the room is free again


def test_a_disk_too_small_for_a_base(tiny: Rig) -> None:
    tiny.define(BOOKWORM)
    done = in_namespace(tiny, FILE_SYSTEMS["tmpfs"], "$ROOST build; echo status $?; ls -A $S/layers")
    assert done.stdout.decode().splitlines() == ["status 10", "7" * 64], done
    assert "disk is full" in done.stderr.decode() or "No space left" in done.stderr.decode(), done


def test_a_full_disk_while_running(tiny: Rig) -> None:
    """It is the command's own trouble, and its status; the session goes."""
    done = in_namespace(
        tiny,
        FILE_SYSTEMS["tmpfs"],
        "$ROOST run tiny -- sh -c 'cat /dev/zero > /big; echo is $?; rm /big; exit 5'; echo $?; ls $S/sessions",
    )
    assert done.stdout == b"is 1\n5\n", done


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_state_on_another_file_system(tiny: Rig, kind: str) -> None:
    tiny.define(TINY + 'scripts = ["echo made > /made"]\n')
    script = """$ROOST build && $ROOST run tiny --keep -u user --source . --artifact out -- sh -c 'cat /made; echo x > out; echo y > ~/y' &&
        id=$(ls $S/sessions) && $ROOST session diff $id && $ROOST session commit $id c && $ROOST session remove $id &&
        cat artifacts/tiny/out; ls $S/sessions"""
    done = in_namespace(tiny, FILE_SYSTEMS[kind], script)
    text = done.stdout.decode()
    assert text.startswith("made\n"), done
    assert "/home/user/y" in text
    assert text.endswith("x\n"), done


@pytest.mark.parametrize("name", ["with space", "with:colon", "with,comma", "with\\backslash", "ünï"])
def test_a_state_directory_with_an_odd_name(tiny: Rig, name: str) -> None:
    """It works, or says at once why not."""
    place = tiny.directory / name
    subprocess.run(("cp", "-a", tiny.state, place), check=True)
    began = time.monotonic()
    done = tiny("--state", str(place), "run", "tiny", "--", "echo", "works")
    assert done.out == b"works\n" or (done.status == 125 and "hint:" in done.said and "Traceback" not in done.said), (
        done
    )
    assert time.monotonic() - began < 10


def test_a_state_that_cannot_be_made(tiny: Rig) -> None:
    for place in ("/proc/roost", "/etc/passwd/x"):
        done = tiny("--state", place, "build")
        assert done.status == 3, done
        assert "Traceback" not in done.said
        assert "hint:" in done.said


def test_a_base_without_its_keys_is_one_error_and_nothing_half_made(tiny: Rig) -> None:
    """The other machines are made and run all the same."""
    gentoo = '[machines.f]\ndistribution = "gentoo"\narchitecture = "amd64"\npackages = ["gcc"]\n'
    tiny.define(TINY + gentoo)
    before = sorted(os.listdir(f"{tiny.state}/layers"))
    done = tiny("build", "f")
    assert done.status == 10
    missing = "the keyring /usr/share/openpgp-keys/gentoo-release.asc is not on this host"
    assert f"error: base gentoo rolling amd64: step 'stage3' failed: {missing}" in done.said
    assert "hint: get the keys from https://qa-reports.gentoo.org/" in done.said
    assert sorted(os.listdir(f"{tiny.state}/layers")) == before
    done = tiny("run", "--all", "--json", "--", "true")
    assert {one["machine"]: one["state"] for one in json.loads(done.out)["results"]} == {"tiny": "passed", "f": "error"}
