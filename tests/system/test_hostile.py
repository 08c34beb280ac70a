"""What a session, a step or a fellow user of the host may try, and what Roost must not let happen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from system.rig import COMMAND, below, name_of, pick, wait_for

if TYPE_CHECKING:
    from system.rig import Rig


def test_an_artifact_follows_no_link_that_the_session_has_planted(tiny: Rig) -> None:
    target = tiny.directory / "elsewhere"
    target.mkdir()
    script = f"mkdir -p /out artifacts/tiny; echo evil > /out/job; ln -s {target} artifacts/tiny/out"
    result = tiny.result(script, "--bind", f"{tiny.directory}:/work:rw", "-w", "/work", "--artifact", "/out/*")
    assert list(target.iterdir()) == []
    assert result["artifacts"] == []
    assert any("out/job" in text for text in result["warnings"]), result


def test_the_environment_is_on_no_command_line(tiny: Rig) -> None:
    with tiny.started("run", "tiny", "--env", "TOKEN=hunter2", "--", "sh", "-c", "echo $TOKEN >&2; sleep 20") as child:
        wait_for(lambda: [pid for pid in below(child.pid) if name_of(pid) == "sleep"])
        inside = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below(child.pid)]
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    assert said.startswith(b"hunter2\n")
    assert not any(b"hunter2" in line for line in inside)


def test_a_kept_session_with_a_damaged_record_is_not_cleared(tiny: Rig) -> None:
    session = tiny.kept("echo precious > /root/file")
    Path(f"{tiny.state}/sessions/{session}/session.json").write_text("{bad")
    assert tiny.run("true").status == 0
    assert Path(tiny.upper(session), "root/file").read_text() == "precious\n"
    assert tiny("session", "remove", session).status == 0
    assert tiny.sessions() == []


def test_layers_that_a_build_stands_on_are_not_removed(tiny: Rig) -> None:
    tiny.define(
        '[machines.two]\nfrom = "layer:tiny"\nprofiles = ["one", "slow"]\n[profiles.one]\nscripts = ["echo 1 > /one"]\n'
        '[profiles.slow]\nscripts = ["sleep 3; cat /one > /two"]\n'
    )
    with tiny.started("build") as build:
        wait_for(lambda: any(name_of(pid) == "sleep" for pid in below(build.pid)))
        collected = subprocess.run(
            ("setsid", "sh", "-c", 'cd / && exec "$@"', "sh", *_roost("gc")),
            env=tiny.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert build.wait(timeout=30) == 0
    layers = json.loads(tiny("layer", "list", "--json").text)
    assert collected.returncode == 0, collected  # nothing waits for anything
    assert tiny.run("cat /two", machine="two").out == b"1\n", (collected, layers)


def test_a_script_puts_nothing_into_the_cache_that_others_install_from(tiny: Rig) -> None:
    tiny.define(
        '[machines.sly]\nfrom = "layer:tiny"\n'
        'scripts = ["mkdir -p /var/cache/apt/archives; echo evil > /var/cache/apt/archives/libc6_9_amd64.deb"]\n'
    )
    assert tiny("build").status == 0
    cached = [name for _, _, names in os.walk(f"{tiny.state}/cache/packages") for name in names]
    assert "libc6_9_amd64.deb" not in cached


def test_arguments_that_are_not_utf8(tiny: Rig) -> None:
    done = subprocess.run(
        (*_roost("run"), "tiny", "--keep", "--json", "--", b"printf", b"\xff"),
        cwd=tiny.directory, env=tiny.environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    result = json.loads(done.stdout)["results"][0]
    assert result["command"] == ["printf", "\\xff"]
    assert tiny("session", "remove", result["kept"]).status == 0


def test_the_container_dies_with_roost_even_when_its_init_is_stopped(tiny: Rig) -> None:
    with tiny.started("run", "tiny", "--", "sleep", "60") as child:
        init = pick(child.pid, "init")
        family = below(child.pid)
        os.kill(init, signal.SIGSTOP)
        child.kill()
        child.wait()
        wait_for(lambda: not any(name_of(pid) in ("sleep", "roost-init", "systemd-nspawn") for pid in family), 2)
    assert tiny.run("true").status == 0  # and the next start clears its directory and control group
    assert tiny.sessions() == []


def _roost(*words: str) -> tuple[str, ...]:
    return (*COMMAND, *words)
