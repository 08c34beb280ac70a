"""Whatever is killed, and whenever: within a second nothing is left, and the next run works."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.rig import below, pick, wait_for

if TYPE_CHECKING:
    import subprocess

    from conftest import Group
    from system.rig import Rig

FOUR = "".join(f'[machines.m{n}]\nfrom = "layer:tiny"\nlimits = {{ memory = "200M" }}\n' for n in range(4))
EVER = "while :; do sleep 1; done"
BUSY = f"trap '' TERM INT HUP; echo begun; ({EVER}) & setsid sh -c \"trap '' TERM HUP; {EVER}\" & {EVER}"


def gone(processes: set[int], seconds: float = 1.0) -> None:
    """Fails unless all of them end in time."""
    deadline = time.monotonic() + seconds
    left = processes
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if is_alive(pid)}
        time.sleep(0.01)
    assert not left, {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def begun(child: subprocess.Popen[bytes], count: int = 1) -> None:
    """Waits until the command was started in so many machines."""
    stream = child.stderr if count > 1 else child.stdout
    assert stream is not None
    seen = 0
    while seen < count:
        line = stream.readline()
        assert line, "it ended early"
        seen += line.endswith(b"begun\n") and b"started" not in line


@pytest.mark.parametrize("victim", ["manager", "nspawn", "init"])
def test_a_single_run(tiny: Rig, group: Group, victim: str) -> None:
    with tiny.started("run", "tiny", "--", "sh", "-c", BUSY) as child:
        begun(child)
        everything = {child.pid, *below(child.pid)}
        os.kill(pick(child.pid, victim), signal.SIGKILL)
        gone(everything)
        child.wait(2)
        assert child.returncode == (-9 if victim == "manager" else 125)
    wait_for(lambda: not group.processes(), 1)
    if victim == "manager":
        assert len(tiny.sessions()) == 1
        done = tiny("session", "list")
        assert "cleared" in done.said
    assert tiny.sessions() == []
    assert tiny.run("echo works").text == "works\n"


def test_a_kept_session_survives_a_kill(tiny: Rig) -> None:
    """What was kept before stays; what was in use then is as the kill left it."""
    session = tiny.kept("echo before > /x")
    with tiny.started("session", "shell", session, stdin=-1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"echo during > /y; sync; echo ready\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        everything = set(below(child.pid))
        os.kill(child.pid, signal.SIGKILL)
        gone(everything)
    assert tiny("session", "shell", session, stdin=b"cat /x /y\n").text == "before\nduring\n"
    assert tiny("session", "remove", session).status == 0


@pytest.mark.parametrize("victim", ["manager", "job", "nspawn", "init", "inside"])
def test_a_matrix(tiny: Rig, victim: str) -> None:
    tiny.define(FOUR)
    with tiny.started(
        "run", "--all", "-j", "4", "--json", "--timeout", "4", "--", "sh", "-c", "echo begun; sleep 2 && echo end"
    ) as child:
        begun(child, 4)
        everything = {child.pid, *below(child.pid)}
        os.kill(pick(child.pid, victim), signal.SIGKILL)
        if victim == "manager":
            gone(everything)
        out, _ = child.communicate(timeout=20)
    if victim != "manager":  # the others go on
        results = json.loads(out)["results"]
        [bad] = [result for result in results if result["state"] != "passed"]
        assert child.returncode == 1
        assert (bad["state"], bad["status"]) == (("failed", 137) if victim == "inside" else ("error", None))
        assert victim == "inside" or bad["error"]
    done = tiny("run", "--all", "-j", "4", "-q", "--", "true")
    assert done.status == 0, done
    assert tiny.sessions() == []


def test_any_process_at_any_moment(tiny: Rig, group: Group) -> None:
    """Ten times."""
    tiny.define(FOUR)
    dice = random.Random(os.getpid())
    for number in range(10):
        with tiny.started(
            "run",
            "--all",
            "-j",
            "4",
            "-q",
            "--source",
            ".",
            "--timeout",
            "3",
            "--",
            "sh",
            "-c",
            "sleep 0.4; sh -c 'sleep 0.4'",
        ) as child:
            time.sleep(dice.uniform(0.02, 0.9))
            with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
                victim = dice.choice([child.pid, *below(child.pid)])
                os.kill(victim, signal.SIGKILL)
            child.communicate(timeout=30)
            wait_for(lambda: not group.processes(), 1)
        done = tiny("run", "--all", "-j", "4", "-q", "--", "true")
        assert done.status == 0, (number, done)
        assert tiny.sessions() == []
        assert os.listdir(f"{tiny.state}/staging") == []
    assert group.below() == set()


def test_the_next_run_says_what_it_cleared(tiny: Rig) -> None:
    with tiny.started("run", "tiny", "--", "sh", "-c", BUSY) as child:
        begun(child)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(2)
    [session] = tiny.sessions()
    done = tiny("build")
    assert done.status == 0
    assert session in done.said
    assert "cleared" in done.said
    assert tiny.sessions() == []
    assert "cleared" not in tiny("build").said


# -- asked to stop


def test_interrupted_once_there_are_results(tiny: Rig) -> None:
    tiny.define(FOUR)
    script = "echo begun; if [ $(hostname) = m0 ]; then exit 0; fi; trap 'echo stopping; exit 0' INT; sleep 30 & wait"
    with tiny.started("run", "--all", "-j", "2", "--json", "--", "sh", "-c", script) as child:
        begun(child, 3)  # m0 has ended, m1 and m2 run, m3 waits
        began = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=20)
    assert time.monotonic() - began < 4
    assert child.returncode == 130
    states = {result["machine"]: result["state"] for result in json.loads(out)["results"]}
    assert states == {"m0": "passed", "m1": "interrupted", "m2": "interrupted", "m3": "skipped"}
    assert tiny.sessions() == []


def test_interrupted_twice_it_is_killed(tiny: Rig) -> None:
    tiny.define(FOUR)
    with tiny.started("run", "--all", "-j", "4", "--", "sh", "-c", BUSY) as child:
        begun(child, 4)
        everything = set(below(child.pid))
        began = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(child.pid, signal.SIGINT)
        gone(everything, 2)
        child.communicate(timeout=5)
    assert time.monotonic() - began < 3
    assert child.returncode == 130
    assert tiny.sessions() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_single_run_is_asked_and_then_made_to_stop(tiny: Rig, number: int) -> None:
    with tiny.started(
        "run", "tiny", "--", "sh", "-c", "trap 'echo stopping; exit 0' INT TERM; echo begun; sleep 30 & wait"
    ) as child:
        begun(child)
        os.kill(child.pid, number)
        out, _ = child.communicate(timeout=10)
    assert out == b"stopping\n"
    assert child.returncode == 130
    assert tiny.sessions() == []


def test_who_does_not_listen_is_killed_after_a_while(tiny: Rig) -> None:
    with tiny.started("run", "tiny", "--", "sh", "-c", BUSY) as child:
        begun(child)
        began = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        child.communicate(timeout=15)
    assert 3 < time.monotonic() - began < 9
    assert child.returncode == 130


# -- side by side


def test_many_runs_of_one_machine_at_once(tiny: Rig) -> None:
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(tiny.started("run", "tiny", "--", "sh", "-c", f"echo {n} > /x; sleep 0.5; cat /x"))
            for n in range(6)
        ]
        said = [child.communicate(timeout=30)[0] for child in children]
    assert said == [b"%d\n" % n for n in range(6)]
    assert tiny.sessions() == []


def test_a_run_does_not_clear_what_another_one_uses(tiny: Rig) -> None:
    with tiny.started("run", "tiny", "--", "sh", "-c", "echo begun; sleep 1.5; echo x > /x; cat /x") as child:
        begun(child)
        for _ in range(5):
            assert "cleared" not in tiny("session", "list").said
        assert tiny.run("echo fine").text == "fine\n"
        out, _ = child.communicate(timeout=10)
    assert out == b"x\n"


def test_stores_do_not_disturb_each_other(tiny: Rig, farm: Rig) -> None:
    """Another state directory's sweep finds the same control groups."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(rig.started("run", "tiny", "--", "true")) for rig in (tiny, farm) * 6]
        for child in children:
            _, err = child.communicate(timeout=30)
            assert (child.returncode, err) == (0, b"")
