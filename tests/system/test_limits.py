"""Limits that bite: what a run may use, and that its result names the limit that it has reached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

import roost
from roost.errors import DefinitionError
from roost.host import loop
from system.rig import TINY, below, name_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from system.rig import Rig

FILL = "dd if=/dev/zero of=%s bs=1M 2>/dev/null"


def shown(rig: Rig) -> set[str]:
    """Images of this store that are on a loop device now."""
    return {path for path in loop.shown() if path.startswith(rig.state)}


# -- memory


def test_a_command_that_wants_too_much_memory_is_killed(tiny: Rig) -> None:
    tiny.define(TINY + 'limits = { memory = "48M" }\n')
    done = tiny("run", "tiny", "--", "tail", "/dev/zero")
    assert done.status == 137
    assert "tiny: killed: memory limit 48M" in done.said
    result = json.loads(tiny("run", "tiny", "--json", "--", "tail", "/dev/zero").out)["results"][0]
    assert (result["state"], result["signal"], result["status"]) == ("killed", "SIGKILL", None)
    assert result["limit"] == "memory limit 48M"


@pytest.mark.parametrize(("status", "state"), [(2, "failed"), (0, "passed")])
def test_a_child_that_is_killed_for_memory_leaves_the_status_to_the_command(tiny: Rig, status: int, state: str) -> None:
    script = f"tail /dev/zero; echo survived $?; exit {status}"
    result = tiny.result(script, "--limit", "memory=48M")
    assert (result["state"], result["status"], result["limit"]) == (state, status, "memory limit 48M")
    assert "survived 137" in result["tail"]
    assert "memory limit 48M reached" in tiny.run(script, "--limit", "memory=48M").said


def test_memory_in_files_of_a_tmpfs_counts_too(tiny: Rig) -> None:
    result = tiny.result(FILL % "/dev/shm/x", "--limit", "memory=24M")
    assert result["limit"] == "memory limit 24M"


def test_what_is_written_to_the_disk_does_not_count_as_memory(tiny: Rig) -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=100 2>/dev/null"
    result = tiny.result(script, "--limit", "memory=32M", "--limit", "disk=200M")
    assert (result["state"], result["limit"]) == ("passed", "")


# -- tasks


def test_a_fork_bomb_is_stopped(tiny: Rig) -> None:
    result = tiny.result("b() { b | b & }; b; sleep 0.5; exit 5", "--limit", "tasks=60", "--timeout", "30")
    assert (result["state"], result["status"], result["limit"]) == ("failed", 5, "tasks limit 60")


def test_tasks_are_those_of_the_command(tiny: Rig) -> None:
    tiny.define(TINY + "limits = { tasks = 2 }\n")
    assert tiny.result("(true); true")["limit"] == ""
    result = tiny.result("sleep 1 & (true); exit $?")
    assert (result["state"], result["limit"]) == ("failed", "tasks limit 2")
    assert tiny("run", "tiny", "--limit", "tasks=1", "--", "echo", "alone").out == b"alone\n"


# -- processors


def test_processors_have_a_limit(tiny: Rig) -> None:
    tiny.define(TINY + "limits = { cpus = 0.2 }\n")
    result = tiny.result("end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do :; done")
    assert result["user_seconds"] + result["system_seconds"] < 0.35 * result["seconds"]
    assert result["limit"] == ""


# -- output


def test_an_endless_printer_is_ended(tiny: Rig) -> None:
    done = tiny("run", "tiny", "--limit", "output=100K", "--", "yes")
    assert done.status == 128 + signal.SIGTERM
    assert done.out == b"y\n" * 50 * 1024 + b"\n[roost: output limit 100K reached, the rest is left out]\n"
    assert "tiny: killed: output limit 100K" in done.said


def test_the_log_of_an_endless_printer_is_cut(tiny: Rig) -> None:
    tiny.define(TINY + 'limits = { output = "100K" }\n')
    results = json.loads(tiny("run", "--all", "--json", "--", "sh", "-c", "yes >&2 & yes").out)["results"]
    log = Path(results[0]["log"]).read_bytes()
    assert (results[0]["state"], results[0]["limit"]) == ("killed", "output limit 100K")
    assert log == b"y\n" * 50 * 1024 + b"\n[roost: output limit 100K reached, the rest is left out]\n"


def test_output_up_to_its_limit_is_fine(tiny: Rig) -> None:
    done = tiny.run("printf %1024s; printf %1024s >&2", "--limit", "output=2K")
    assert (done.status, len(done.out), len(done.err)) == (0, 1024, 1024)


# -- time


def test_a_machine_may_have_a_limit_on_time(tiny: Rig) -> None:
    tiny.define(TINY + 'limits = { time = "0.3s" }\n')
    done = tiny.run("sleep 100")
    assert done.status == 124
    assert "tiny: timed out: time limit 0.3s" in done.said
    assert tiny.run("sleep 1", "--timeout", "1m").status == 0
    assert tiny.run("sleep 1", "--limit", "time=infinity").status == 0
    assert tiny.result("sleep 9", "--timeout", "0.5")["limit"] == "time limit 0.5s"


def test_a_shell_may_stay_open(tiny: Rig) -> None:
    tiny.define(TINY + "limits = { time = 0.3 }\n")
    done = tiny("shell", "tiny", stdin=b"sleep 1; echo still here\n")
    assert (done.status, done.out) == (0, b"still here\n")


# -- disk


@pytest.fixture
def checkout(tmp_path: Path) -> str:
    """A source with one file."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "file").write_text("text\n")
    return str(tmp_path / "checkout")


@pytest.mark.parametrize("file", ["/tmp/x", "/root/x", "/src/x"])
def test_a_session_that_fills_its_disk(tiny: Rig, checkout: str, file: str) -> None:
    result = tiny.result(f"{FILL % file}; wc -c < {file}", "--limit", "disk=24M", "--source", checkout)
    assert (result["state"], result["limit"]) == ("passed", "disk limit 24M")
    assert 23 << 20 <= int(result["tail"]) <= 28 << 20
    assert os.listdir(checkout) == ["file"]


def test_everything_that_a_session_writes_counts_together(tiny: Rig, checkout: str) -> None:
    write = "dd if=/dev/zero of=%s/x bs=1M count=10 2>/dev/null"
    script = " && ".join(write % place for place in ("/tmp", "/root", "/src"))
    result = tiny.result(script, "--limit", "disk=24M", "--source", checkout)
    assert (result["state"], result["limit"]) == ("failed", "disk limit 24M")
    result = tiny.result(script, "--limit", "disk=40M", "--source", checkout)
    assert (result["state"], result["limit"]) == ("passed", "")


def test_a_full_disk_is_named_though_its_files_are_gone(tiny: Rig) -> None:
    tiny.define(TINY + 'limits = { disk = "16M" }\n')
    done = tiny.run(f"{FILL % '/tmp/x'}; sleep 0.5; rm /tmp/x; exit 4")
    assert done.status == 4
    assert "tiny: exit status 4, disk limit 16M reached" in done.said


def test_empty_files_fill_a_disk_too(tiny: Rig) -> None:
    script = "cd /tmp; n=0; while [ $n -lt 4000 ]; do : > $n || exit 3; n=$((n+1)); done"
    result = tiny.result(script, "--limit", "disk=8M")
    assert (result["state"], result["limit"]) == ("failed", "disk limit 8M")
    assert tiny.result(script, "--limit", "disk=64M")["state"] == "passed"


def test_the_host_never_sees_the_disk_of_a_session(tiny: Rig) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with tiny.started("run", "tiny", "--limit", "disk=24M", "--", "sh", "-c", "echo begun; sleep 100") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        assert len(shown(tiny)) == 1
        assert Path("/proc/self/mountinfo").read_text() == before
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
    assert not shown(tiny)


@pytest.mark.parametrize("victim", ["roost", "systemd-nspawn"])
def test_nothing_stays_of_a_limited_disk_after_a_kill(tiny: Rig, victim: str) -> None:
    fill = "echo begun; while :; do dd if=/dev/zero of=/tmp/x bs=1M count=10; done 2>/dev/null"
    with tiny.started("run", "tiny", "--limit", "disk=24M", "--", "sh", "-c", fill) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        assert len(shown(tiny)) == 1
        pids = {name_of(pid): pid for pid in below(child.pid)}
        os.kill(pids.get(victim, child.pid), signal.SIGKILL)
        child.wait(10)
        wait_for(lambda: not shown(tiny), 5)
    assert tiny.run("true", "--limit", "disk=24M").status == 0
    assert tiny.sessions() == []


def test_a_kept_session_has_all_that_was_on_its_disk(tiny: Rig, checkout: str) -> None:
    script = (
        "rm /etc/motd /src/file; rm -r /usr; mkdir /usr; echo new > /etc/new; chown user /etc/new; ln /etc/new /etc/too"
    )
    session = tiny.kept(script, "--limit", "disk=24M", "--source", checkout)
    assert not [name for name in os.listdir(f"{tiny.state}/sessions/{session}") if name.endswith(".ext4")]
    kinds = {change["path"]: change["kind"] for change in tiny.json("session", "diff", session)}
    assert kinds["/etc/motd"] == "removed"
    assert kinds["/usr"] == "replaced"
    assert kinds["/etc/new"] == kinds["/etc/too"] == "added"
    info = os.stat(f"{tiny.upper(session)}/etc/new")
    assert (info.st_uid, info.st_nlink) == (1000, 2)
    assert tiny("session", "diff", session, "--content", "/etc/new").text.endswith("+new\n")
    assert os.path.exists(f"{tiny.state}/sessions/{session}/source0/upper/file")  # its whiteout
    done = tiny("session", "shell", session, stdin=b"cat /etc/new; ls -A /usr; cat /etc/motd\n")
    assert done.out == b"new\n"
    assert tiny("session", "commit", session, "tuned").status == 0
    tiny.define('[machines.tuned]\nfrom = "layer:tuned"\n')
    assert tiny.run("cat /etc/new; ls -A /usr", machine="tuned").out == b"new\n"
    assert tiny("session", "remove", session).status == 0


def test_a_limit_on_disk_does_not_hold_for_a_kept_session_and_that_is_said(tiny: Rig) -> None:
    session = tiny.kept("true", "--limit", "disk=24M")
    tiny.define(TINY + 'limits = { disk = "24M" }\n')
    done = tiny("session", "shell", session, stdin=b"true\n")
    assert "the limit on disk is not enforced" in done.said
    tiny("session", "remove", session)


def test_artifacts_are_copied_from_a_limited_disk(tiny: Rig) -> None:
    result = tiny.result("cd /tmp; echo text > it.log", "--limit", "disk=24M", "--artifact", "/tmp/*.log")
    assert [Path(item["path"]).read_text() for item in result["artifacts"]] == ["text\n"]


def test_a_session_of_the_library_has_its_disk_for_all_its_runs(tiny: Rig) -> None:
    tiny.define(TINY + 'limits = { disk = "24M" }\n')
    manager = tiny.manager()
    with manager.session("tiny") as session:
        assert session.run(roost.Run(command=("dd", "if=/dev/zero", "of=/root/x", "bs=1M", "count=16"))).passed
        assert session.run(roost.Run(command=("test", "-s", "/root/x"))).passed
        assert {change.path for change in session.changes()} >= {"/root/x"}
        assert session.read("/root/x") == (None, bytes(16 << 20))
        more = session.run(roost.Run(command=("dd", "if=/dev/zero", "of=/root/y", "bs=1M", "count=16")))
        assert (more.state, more.limit) == ("failed", "disk limit 24M")
        session.keep(reason="a test")
        session.keep(reason="again")
    manager.remove_session(session.id)
    manager.close()


@pytest.fixture
def small(tiny: Rig, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The result of a run whose store is on a file system of 44 MiB."""
    image, place = tmp_path / "small.ext4", tmp_path / "small"
    place.mkdir()
    subprocess.run(("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", str(image), "44M"), check=True)
    script = 'mount --make-rprivate /; mount -o loop "$1" "$2"; cp -a "$3/." "$2"; shift 3; exec "$@"'

    def run(script_inside: str, *options: str) -> dict[str, Any]:
        prefix = ("unshare", "--mount", "sh", "-c", script, "sh", str(image), str(place), tiny.state)
        words = ("run", "tiny", "--state", str(place), "--json", *options, "--", "sh", "-c", script_inside)
        done = tiny(*words, prefix=prefix)
        assert done.out, done
        result: dict[str, Any] = json.loads(done.out)["results"][0]
        return result

    return run


def test_a_session_that_cannot_be_kept_says_so_and_its_result_stays(small: Callable[..., dict[str, Any]]) -> None:
    result = small(f"{FILL % '/tmp/x'}; exit 7", "--keep", "--limit", "disk=28M")
    assert (result["state"], result["status"], result["kept"]) == ("failed", 7, "")
    assert result["limit"] == "disk limit 28M"
    assert "could not be kept: its disk was not copied" in result["warnings"][0]


def test_a_host_whose_disk_is_full_before_the_session_is(small: Callable[..., dict[str, Any]]) -> None:
    result = small(f"{FILL % '/tmp/x'}; sync; exit 7", "--limit", "disk=64M")
    assert (result["state"], result["status"]) == ("failed", 7)
    assert any("the host's disk was full" in text for text in result["warnings"])


def test_several_at_a_time_have_a_disk_each(tiny: Rig) -> None:
    machines = "".join(f'[machines.m{n}]\nfrom = "layer:tiny"\nlimits = {{ disk = "{8 + n}M" }}\n' for n in range(6))
    tiny.define(machines)
    document = json.loads(tiny("run", "--all", "-j", "6", "--json", "--", "sh", "-c", f"{FILL % '/x'}; exit 1").out)
    assert [result["limit"] for result in document["results"]] == [f"disk limit {8 + n}M" for n in range(6)]


# -- how it is told


def test_a_matrix_names_the_limits(tiny: Rig, tmp_path: Path) -> None:
    tiny.define(
        '[machines.few]\nfrom = "layer:tiny"\nlimits = { tasks = 1 }\n'
        '[machines.fine]\nfrom = "layer:tiny"\n[machines.slow]\nfrom = "layer:tiny"\nlimits = { time = 0.2 }\n'
    )
    junit = tmp_path / "junit.xml"
    done = tiny("run", "--all", "--junit", str(junit), "--", "sh", "-c", "(true) || exit 2; sleep 0.5")
    assert done.status == 1
    header, *rows = done.text.splitlines()[:4]
    assert header.endswith("LIMIT")
    assert {row.split()[0]: row[header.index("LIMIT") :] for row in rows} == {
        "few": "tasks limit 1", "fine": "", "slow": "time limit 0.2s",
    }  # fmt: skip
    assert "few: exit status 2, tasks limit 1 reached" in done.text
    assert "slow: timed out: time limit 0.2s" in done.text
    messages = {case.get("name"): case.find("failure") for case in ET.parse(junit).iter("testcase")}
    assert messages["fine"] is None
    assert messages["slow"] is not None
    assert messages["slow"].get("message") == "timed out: time limit 0.2s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed=1", "NAME=VALUE"), ("memory", "NAME=VALUE"), ("memory=lots", "not an amount of memory"), ("disk=1K", "too little"),
        ("time=soon", "not a time"), ("tasks=1.5", "not a whole number"), ("cpus=two", "not a number"), ("output=0", "at least"),
    ],
)  # fmt: skip
def test_a_limit_that_is_none_is_refused(tiny: Rig, text: str, said: str) -> None:
    done = tiny.run("true", "--limit", text)
    assert done.status == 125
    assert said in done.said


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"speed": 1}, "no limit 'speed'"), ({"disk": 5}, "too little"), ({"time": "soon"}, "not a time")],
)
def test_a_limit_of_the_library_that_is_none_is_refused(tiny: Rig, limits: dict[str, Any], said: str) -> None:
    manager = tiny.manager()
    with pytest.raises(DefinitionError, match=said):
        manager.run("tiny", roost.Run(command=("true",), limits=limits))
    manager.close()
    assert tiny.sessions() == []


def test_the_resolved_limits_are_listed(tiny: Rig) -> None:
    tiny.define(
        '[defaults]\nlimits = { disk = "1G", time = "2h" }\n'
        '[machines.tiny]\nfrom = "layer:tiny"\nlimits = { time = 90, output = "10M" }\n'
    )
    expected = {"memory": None, "cpus": None, "tasks": None, "disk": 1 << 30, "time": 90, "output": 10 << 20}
    assert tiny.json("list")[0]["limits"] == expected


V1 = os.path.isdir("/sys/fs/cgroup/pids")


@pytest.fixture
def unlimited() -> Iterator[tuple[str, ...]]:
    """A host whose groups for tasks and memory cannot be changed; on v2, a group that nobody has delegated."""
    script = 'mount --make-rprivate /; for name in memory pids; do mount -o remount,bind,ro /sys/fs/cgroup/$name; done; exec "$@"'
    group = f"/sys/fs/cgroup{Path('/proc/self/cgroup').read_text().splitlines()[-1].partition('::')[2]}/mere"
    if V1:
        yield ("unshare", "--mount", "sh", "-c", script, "sh")
        return
    os.mkdir(group)
    yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
    os.rmdir(group)


def test_what_a_host_cannot_enforce_is_said(tiny: Rig, unlimited: tuple[str, ...]) -> None:
    tiny.define(TINY + 'limits = { memory = "64M", tasks = 10 }\n')
    done = tiny.run("echo ran", prefix=unlimited)
    assert (done.status, done.out) == (0, b"ran\n")
    assert "the limit on memory is not enforced" in done.said
    assert "the limit on tasks is not enforced" in done.said
    checks = json.loads(tiny("doctor", "--json", prefix=unlimited).out)
    [groups] = [check for check in checks if check["name"] == "control groups"]
    assert groups["state"] == "warning"
    assert all(f"the limit on {word} is not enforced" in groups["found"] for word in ("memory", "tasks"))
    assert ("/sys/fs/cgroup/memory" if V1 else "systemd-run --scope -p Delegate=yes") in groups["remedy"]


def test_doctor_says_how_a_disk_is_limited(tiny: Rig) -> None:
    [check] = [check for check in tiny.json("doctor") if check["name"] == "disk limit"]
    assert check["state"] == "ok"
    assert "file" in check["found"]


def test_a_host_without_loop_devices(tiny: Rig, tmp_path: Path) -> None:
    script = 'mount --make-rprivate /; mount --bind "$1" /dev/loop-control; shift; exec "$@"'
    (tmp_path / "none").touch()
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "none"))
    done = tiny.run("true", "--limit", "disk=24M", prefix=prefix)
    assert done.status == 125
    assert "loop" in done.said
    assert tiny.sessions() == []
    [check] = [c for c in json.loads(tiny("doctor", "--json", prefix=prefix).out) if c["name"] == "disk limit"]
    assert check["state"] == "warning"


def test_swap_is_no_way_around_a_limit(tiny: Rig) -> None:
    """Where the kernel accounts for swap, the session's group has no more of memory and swap than of memory."""
    with tiny.started("run", "tiny", "--limit", "memory=48M", "--", "sh", "-c", "echo begun; sleep 100") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        inside = wait_for(lambda: next((pid for pid in below(child.pid) if name_of(pid) == "sleep"), 0))
        lines = [line.split(":", 2) for line in Path(f"/proc/{inside}/cgroup").read_text().splitlines()]
        found = {controllers: path for _, controllers, path in lines}
        if "memory" in found:
            path = f"/sys/fs/cgroup/memory{found['memory']}/memory.memsw.limit_in_bytes"
            assert Path(path).read_text() == f"{48 << 20}\n"
        else:
            assert Path(f"/sys/fs/cgroup{found['']}/memory.swap.max").read_text() == "0\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
