"""The same on real releases: five Debians, their libcs and shells, in one matrix."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from system.conftest import RELEASES

if TYPE_CHECKING:
    from pathlib import Path

    from system.rig import Rig

FIVE = ",".join(RELEASES)


def test_users_are_mapped_and_filters_are_on_in_every_machine(farm: Rig, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x\n")
    script = "id -u; grep Seccomp /proc/self/status; cat /proc/self/uid_map; cat here; hostname"
    done = farm("run", FIVE, "-j", "5", "--source", ".", "--json", "--", "sh", "-c", script)
    assert done.status == 0, done
    results = json.loads(done.out)["results"]
    assert [result["machine"] for result in results] == list(RELEASES)
    ranges = set()
    for result in results:
        lines = result["tail"].splitlines()
        assert lines[0] == "0"
        assert lines[1:3] == ["Seccomp:\t2", "Seccomp_filters:\t5"]
        inside, outside, count = map(int, lines[3].split())
        assert (inside, count) == (0, 65536)
        assert outside >= 65536
        ranges.add(outside)
        assert lines[4:] == ["x", result["machine"]]
    assert len(ranges) == 5


def test_every_release_is_itself(farm: Rig) -> None:
    done = farm(
        "run",
        FIVE,
        "--json",
        "--",
        "sh",
        "-c",
        "cat /etc/os-release; cat /etc/debian_version; dpkg --audit; ls /var/lib/apt/lists /var/cache/apt/archives",
    )
    for result in json.loads(done.out)["results"]:
        assert result["machine"] in result["tail"], result
        assert ".deb\n" not in result["tail"]


def test_exit_status_signal_and_streams_are_exact_on_every_release(farm: Rig) -> None:
    for name in RELEASES:
        done = farm.run("echo out > /dev/stdout; echo err > /dev/stderr; exit 42", machine=name)
        assert (done.status, done.out, done.err) == (42, b"out\n", b"err\n"), name
        assert farm.run("kill -SEGV $$", machine=name).status == 139
        assert farm("run", name, "--", "no-such-command").status == 127


def test_a_machine_knows_no_trace_of_the_host(farm: Rig) -> None:
    """Of nothing but its network: no variable, no mount of a host's directory, no name."""
    done = farm(
        "run",
        FIVE,
        "--json",
        "--",
        "sh",
        "-c",
        "env; cat /proc/self/mountinfo; cat /etc/hostname /etc/machine-id 2>/dev/null; cat /proc/1/cmdline | tr '\\0' ' '",
    )
    host = os.uname().nodename
    for result in json.loads(done.out)["results"]:
        assert not re.search(rf"\b{re.escape(host)}\b", result["tail"]), result["tail"]


def test_layers_on_disk_have_plain_ids(farm: Rig) -> None:
    """What the layers above a base put there, too: ids of the inside, nobody's range."""
    for digest in os.listdir(f"{farm.state}/layers"):
        with open(f"{farm.state}/layers/{digest}/layer.json") as stream:
            if json.load(stream)["kind"] == "base":
                continue
        for directory, _, names in os.walk(f"{farm.state}/layers/{digest}/tree"):
            for name in [".", *names]:
                info = os.lstat(os.path.join(directory, name))
                assert max(info.st_uid, info.st_gid) < 65536, os.path.join(directory, name)
