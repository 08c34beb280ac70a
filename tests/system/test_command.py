"""The command as a person or a script meets it: mistakes, documents, exit statuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from system.rig import COMMAND

if TYPE_CHECKING:
    from system.rig import Rig

THREE = "".join(f'[machines.{name}]\nfrom = "layer:tiny"\n' for name in ("debian-one", "debian-two", "other"))
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def is_plain(said: str) -> bool:
    """An error for people: what, and what to do next."""
    return "Traceback" not in said and "error: " in said


# -- which machines


def test_an_unknown_machine_and_what_was_meant(tiny: Rig) -> None:
    for verb in (("run", "tinny", "--", "true"), ("shell", "tinny")):
        done = tiny(*verb)
        assert done.status == 125
        assert "tinny" in done.said
        assert "did you mean 'tiny'" in done.said
    for verb in (("build", "tinny"), ("plan", "tinny"), ("list", "tinny")):
        assert tiny(*verb).status == 2


def test_a_glob_that_matches_nothing(tiny: Rig) -> None:
    done = tiny("run", "fedora-*", "--", "true")
    assert done.status == 125
    assert "fedora-*" in done.said
    assert "tiny" in done.said


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("debian-*",), {"debian-one", "debian-two"}),
        (("other,debian-two",), {"other", "debian-two"}),
        (("--all",), {"debian-one", "debian-two", "other"}),
        (("debian-one", "debian-*"), {"debian-one", "debian-two"}),
        (("--profile", "p"), {"other"}),
    ],
)
def test_machines_by_name_list_glob_all_and_profile(tiny: Rig, words: tuple[str, ...], names: set[str]) -> None:
    tiny.define(THREE + 'profiles = ["p"]\n[profiles.p]\nenvironment = { A = "b" }\n')
    done = tiny("run", *words, "--json", "--", "hostname")
    assert done.status == 0, done
    results = json.loads(done.out)["results"]
    assert {result["machine"] for result in results} == names
    assert {result["tail"].strip() for result in results} == names


# -- mistakes


def test_no_definition(tiny: Rig) -> None:
    os.unlink(tiny.file)
    for words in (("list",), ("plan",), ("build",)):
        done = tiny(*words)
        assert done.status == 2
        assert is_plain(done.said)
        assert "roost init" in done.said
    assert tiny.run("true").status == 125
    assert tiny("session", "list").status == 0


@pytest.mark.parametrize(
    "words",
    [
        (), ("no-such-verb",), ("run",), ("run", "tiny"), ("run", "tiny", "true"), ("run", "--", "true"), ("list", "--", "x"),
        ("run", "tiny", "--all", "--", "true"), ("run", "tiny", "-j", "0", "--", "true"), ("run", "tiny", "-j", "many", "--", "true"),
        ("run", "tiny", "--timeout", "soon", "--", "true"), ("run", "tiny", "--timeout", "-1", "--", "true"), ("session",),
        ("run", "tiny", "--keep=maybe", "--", "true"), ("run", "tiny", "--env", "1X=2", "--", "true"), ("session", "diff"),
        ("run", "tiny", "-w", "relative", "--", "true"), ("run", "tiny", "--no-such", "--", "true"), ("--file",),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(tiny: Rig, words: tuple[str, ...]) -> None:
    done = tiny(*words)
    assert done.status in ((2, 125) if "run" in words else (2,)), done
    assert done.out == b""
    assert "Traceback" not in done.said
    assert len(done.said.strip()) > 20


def test_twenty_mistakes_are_twenty_errors(tiny: Rig) -> None:
    lines = [
        "[machines.a_b]",
        'distribution = "debain"',
        'release = "bookwrm"',
        'profile = ["x"]',
        "packages = 3",
        'mirror = "ftp//x"',
        'colour = "red"',
    ]
    lines += [
        "[machines.ok]",
        'distribution = "debian"',
        'release = "bookwrm"',
        'profiles = ["nowhere", "p"]',
        'bootstrap = "dnf"',
        "private-users = 1",
    ]
    lines += [
        'limits = { memory = "lots", tasks = -1, speed = 1 }',
        'network = { mode = "bridge" }',
        'binds = ["/nowhere-at-all"]',
    ]
    lines += [
        "[profiles.p]",
        'user = { name = "Bad Name", uid = 99999999, sudo = "yes" }',
        'files = { relative = { content = "x", source = "y", mode = "999" } }',
    ]
    lines += ["scripts = [{ source = 'missing' }]", "[machine.typo]", "[defaults]", 'architecture = "amd46"']
    tiny.define("\n".join(lines) + "\n")
    done = tiny("list")
    assert done.status == 2
    assert is_plain(done.said)
    numbers = [
        line
        for line in done.said.splitlines()
        if any(word.rstrip(":").isdecimal() for word in line.replace(":", " : ").split())
    ]
    assert len(numbers) >= 20, done.said
    assert "did you mean" in done.said


def test_a_file_that_is_no_toml(tiny: Rig) -> None:
    for content in (b"[machines\n", b"\xff\xfe", b"a = \x00"):
        tiny.file.write_bytes(content)
        done = tiny("list")
        assert done.status == 2
        assert is_plain(done.said)
    tiny.file.unlink()
    tiny.file.mkdir()
    assert tiny("list").status == 2


def test_a_layer_that_is_not_there(tiny: Rig) -> None:
    tiny.define('[machines.m]\nfrom = "layer:nothing"\n')
    done = tiny("run", "m", "--", "true")
    assert done.status == 125
    assert "nothing" in done.said
    assert "roost session commit" in done.said


# -- without root


@pytest.mark.parametrize(
    "words",
    [
        ("run", "tiny", "--", "true"),
        ("build",),
        ("shell", "tiny"),
        ("gc",),
        ("session", "list"),
        ("layer", "list"),
        ("doctor",),
    ],
)
def test_without_root_one_line_says_what_to_do(tiny: Rig, words: tuple[str, ...]) -> None:
    done = as_nobody(tiny, *words)
    assert done.returncode in ((125,) if words[0] in ("run", "shell") else (1, 3)), done
    said = (done.stdout if words == ("doctor",) else done.stderr).decode()
    assert "sudo" in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 6, said


@pytest.mark.parametrize("words", [("list",), ("plan",), ("schema",), ("--version",)])
def test_what_needs_no_root(tiny: Rig, words: tuple[str, ...]) -> None:
    done = as_nobody(tiny, *words)
    assert done.returncode == 0, done


def as_nobody(rig: Rig, *words: str) -> subprocess.CompletedProcess[bytes]:
    """The command as a user without rights, in a directory that this user can read."""
    place = Path("/tmp") / f"roost-nobody-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        (place / "roost.toml").write_text('[machines.tiny]\ndistribution = "debian"\nrelease = "bookworm"\n')
        argv = (*NOBODY, *COMMAND, "--state", f"{place}/state", *words)
        environment = {**rig.environment(), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run(
            argv, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    finally:
        subprocess.run(("rm", "-rf", str(place)), check=True)


# -- documents


def test_the_starter_is_a_definition(tiny: Rig) -> None:
    tiny.file.unlink()
    assert tiny("init").status == 0
    assert tiny("list").status == 0
    assert tiny("init").status == 2
    assert tiny("init", "--force").status == 0
    done = tiny("plan")
    assert done.status == 0
    assert b"build" in done.out
    assert tiny("init", "/no/where/x").status == 2


def test_the_schema_accepts_the_starter(tiny: Rig) -> None:
    import tomllib

    import jsonschema

    tiny("init", "x.toml")
    jsonschema.validate(tomllib.loads((tiny.directory / "x.toml").read_text()), json.loads(tiny("schema").out))


def test_list_and_plan_show_the_resolved_machine(tiny: Rig) -> None:
    tiny.define(
        '[defaults]\nenvironment = { A = "1" }\nprofiles = ["p"]\n[profiles.p]\nscripts = ["true"]\n'
        '[machines.tiny]\nfrom = "layer:tiny"\nlimits = { memory = "1G" }\n'
    )
    [item] = tiny.json("list")
    assert (item["name"], item["profiles"], item["environment"]) == ("tiny", ["p"], {"A": "1"})
    assert item["state"] != "made"
    assert item["limits"]["memory"] == 1 << 30
    plan = tiny.json("plan")
    assert [layer["verb"] for layer in plan["layers"]] == ["build"]
    assert plan["machines"][0]["limits"]["memory"] == 1 << 30
    text = tiny("list").text
    assert "tiny" in text
    assert "layer tiny" in text


def test_layer_check_says_what_runs_and_what_boots(tiny: Rig) -> None:
    """A busybox tree runs commands; with an init and os-release it would boot."""
    done = tiny("layer", "check", "tiny")
    assert done.status == 1
    assert "/sbin/init" in done.text
    assert "boot = {}" in done.text
    assert tiny("layer", "check", "--run", "tiny").status == 0
    tree = tiny.directory / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "sbin").mkdir()
    (tree / "usr/lib/os-release").write_text("ID=tree\n")
    (tree / "sbin/init").symlink_to("/usr/lib/busybox")
    assert [one["path"] for one in json.loads(tiny("layer", "check", "--json", "./tree").out)[0]["problems"]] == [
        "/sbin/init"
    ]
    shutil.copy("/bin/busybox", tree / "usr/lib/busybox")
    [found] = tiny.json("layer", "check", "./tree")
    assert found == {"tree": "./tree", "problems": []}
    assert tiny("layer", "check", "./nowhere").status == 3
    assert tiny("layer", "check", "nothing").status == 6


def test_doctor_tries_this_host(tiny: Rig) -> None:
    checks = tiny.json("doctor")
    assert {check["name"] for check in checks} >= {
        "root",
        "state",
        "systemd-nspawn",
        "session",
        "filters",
        "control groups",
        "bootstrap",
        "disk",
    }
    assert all(check["state"] != "failed" for check in checks)
    assert all(check["remedy"] for check in checks if check["state"] != "ok")
    done = tiny("doctor")
    assert done.status == 0
    assert "overlay over id-mapped layers" in done.text


def test_the_document_of_a_run(tiny: Rig) -> None:
    tiny.define(THREE)
    done = tiny(
        "run",
        "--all",
        "--json",
        "--junit",
        "r.xml",
        "--",
        "sh",
        "-c",
        "echo $(hostname) says; case $(hostname) in other) exit 3;; *two) kill -9 $$;; esac",
    )
    assert done.status == 1
    document = json.loads(done.out)
    assert document["state"] == "failed"
    assert document["counts"] == {
        **dict.fromkeys(document["counts"], 0),
        "total": 3,
        "passed": 1,
        "failed": 1,
        "killed": 1,
    }
    by_name = {result["machine"]: result for result in document["results"]}
    assert list(by_name) == ["debian-one", "debian-two", "other"]
    assert by_name["other"]["status"] == 3
    assert by_name["debian-two"]["signal"] == "SIGKILL"
    for result in by_name.values():
        assert Path(result["log"]).read_text() == f"{result['machine']} says\n" == result["tail"]
    tree = ET.parse(tiny.directory / "r.xml").getroot()
    cases = {case.get("name") or case.get("classname"): case for case in tree.iter("testcase")}
    assert len(cases) == 3
    assert sum(case.find("failure") is not None for case in tree.iter("testcase")) == 2
    assert "other says" in ET.tostring(tree, encoding="unicode")


def test_a_junit_file_that_cannot_be_written(tiny: Rig) -> None:
    done = tiny.run("true", "--junit", "/no/where/x.xml")
    assert done.status == 125
    assert "/no/where/x.xml" in done.said
    assert is_plain(done.said)


def test_artifacts_that_cannot_be_written(tiny: Rig) -> None:
    (tiny.directory / "blocked").write_text("a file")
    result = tiny.result("echo x > x", "--artifact", "x", "--output", "blocked")
    assert result["state"] == "passed"
    assert any("x" in text and "written" in text for text in result["warnings"])


# -- a matrix


def test_lines_in_a_pipe_have_their_machines_name(tiny: Rig) -> None:
    tiny.define(THREE)
    done = tiny(
        "run",
        "--all",
        "--",
        "sh",
        "-c",
        "echo out; printf no-newline >&2; printf '\\033[31mred\\033[0m \\033]0;title\\007\\n'",
        env={"NO_COLOR": "1"},
    )
    assert done.status == 0
    lines = done.said.splitlines()
    for name in ("debian-one", "debian-two", "other"):
        assert any(line.startswith(name) and line.endswith("| out") for line in lines), lines
        assert any(line.startswith(name) and line.endswith("| no-newline") for line in lines) or any(
            "no-newline" in line for line in lines
        )
    assert "\x1b" not in done.said
    assert "\x1b" not in done.text
    assert "3 passed" in done.text


def test_a_summary_ends_with_what_failed_and_how_to_go_on(tiny: Rig) -> None:
    tiny.define(THREE)
    done = tiny(
        "run", "--all", "-q", "--keep=on-failure", "--", "sh", "-c", "echo the reason; [ $(hostname) != debian-two ]"
    )
    assert done.status == 1
    [session] = tiny.sessions()
    assert done.text.index("debian-one") < done.text.rindex("the reason")
    assert f"roost session shell {session}" in done.text
    assert "2 passed, 1 failed (debian-two: exit status 1)" in done.text


def test_fail_fast_starts_nothing_more(tiny: Rig) -> None:
    tiny.define(THREE)
    done = tiny("run", "--all", "-j", "1", "--fail-fast", "--json", "--", "false")
    assert done.status == 1
    assert [result["state"] for result in json.loads(done.out)["results"]] == ["failed", "skipped", "skipped"]


def test_so_many_at_a_time(tiny: Rig) -> None:
    tiny.define(THREE)
    seconds = [tiny("run", "--all", "-q", "-j", str(jobs), "--", "sleep", "0.5").seconds for jobs in (1, 3)]
    assert seconds[0] > 1.5
    assert seconds[1] < 1.4


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$"])
def test_a_matrix_of_one_is_a_matrix(tiny: Rig, script: str) -> None:
    assert tiny("run", "--all", "-q", "--", "sh", "-c", script).status == 1


# -- who reads


@pytest.mark.parametrize("words", [("schema",), ("--help",), ("list", "--json")])
def test_a_reader_that_has_gone(tiny: Rig, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ("sh", "-c", f"{' '.join(COMMAND)} {' '.join(words)} | true"),
        cwd=tiny.directory,
        env=tiny.environment(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_a_full_disk_behind_stdout(tiny: Rig) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            (*COMMAND, "schema"),
            cwd=tiny.directory,
            env=tiny.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert done.returncode not in (0, 1)
    assert b"Traceback" not in done.stderr
    assert b"No space left" in done.stderr


def test_in_an_old_locale(tiny: Rig) -> None:
    done = tiny.run(
        "printf 'ü\\n'; exit 1", "--json", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    )
    assert done.status == 1
    assert json.loads(done.out)["results"][0]["tail"] == "ü\n"
    assert tiny("list", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}).status == 0
