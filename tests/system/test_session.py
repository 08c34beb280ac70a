"""One command in a throwaway session: how it ends, who it is, and what is around it."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import pytest

import roost
from system.rig import TINY

if TYPE_CHECKING:
    from system.rig import Rig

EVER = "while :; do sleep 1; done"

# -- how it ends


@pytest.mark.parametrize("status", [0, 1, 3, 77, 124, 127, 255])
def test_the_exit_status_is_the_commands_own(tiny: Rig, status: int) -> None:
    done = tiny.run(f"exit {status}")
    assert (done.status, done.out, done.err) == (status, b"", b"")


def test_a_command_that_is_not_in_the_machine_is_127(tiny: Rig) -> None:
    done = tiny("run", "tiny", "--", "no-such-command", "x")
    assert done.status == 127
    assert "no-such-command" in done.said
    assert "not found" in done.said


def test_a_file_that_cannot_be_executed_is_126(tiny: Rig) -> None:
    done = tiny("run", "tiny", "--", "/etc/passwd")
    assert done.status == 126
    assert "/etc/passwd" in done.said


@pytest.mark.parametrize(("name", "number"), [("SEGV", 11), ("KILL", 9), ("TERM", 15), ("ABRT", 6), ("INT", 2)])
def test_a_signal_is_told_by_name(tiny: Rig, name: str, number: int) -> None:
    result = tiny.result(f"kill -{name} $$; sleep 5")
    assert (result["state"], result["signal"], result["status"]) == ("killed", f"SIG{name}", None)
    done = tiny.run(f"kill -{name} $$; sleep 5")
    assert done.status == 128 + number
    assert f"SIG{name}" in done.said


def test_a_result_has_times_and_memory(tiny: Rig) -> None:
    result = tiny.result("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.3")
    assert result["state"] == "passed"
    assert 0.3 < result["seconds"] < 10
    assert 0.02 < result["user_seconds"] + result["system_seconds"] < result["seconds"]
    assert result["max_rss"] > 100_000
    assert abs(result["started"] - time.time()) < 60


def test_what_is_left_running_ends_with_the_command(tiny: Rig) -> None:
    done = tiny.run("setsid sleep 1000 & sleep 1000 & (trap '' HUP TERM INT; sleep 1000) & exit 4")
    assert done.status == 4
    assert done.seconds < 5


# -- who it is


def test_ids_are_mapped_and_filters_are_on(tiny: Rig) -> None:
    done = tiny.run("cat /proc/self/uid_map /proc/self/gid_map; grep -E 'Seccomp|NoNewPrivs' /proc/self/status")
    lines = done.text.split("\n")
    for line in lines[:2]:
        inside, outside, count = map(int, line.split())
        assert (inside, count) == (0, 65536)
        assert outside >= 65536
        assert outside % 65536 == 0
    assert "Seccomp:\t2" in lines
    assert "Seccomp_filters:\t5" in lines


def test_two_sessions_have_ranges_of_their_own(tiny: Rig) -> None:
    manager = tiny.manager()
    with manager.session("tiny") as one, manager.session("tiny") as other:
        run = roost.Run(command=("cat", "/proc/self/uid_map"))
        maps = [session.run(run).tail.split()[1] for session in (one, other)]
    assert maps[0] != maps[1]


def test_a_kept_sessions_ids_on_disk_are_the_insides(tiny: Rig) -> None:
    session = tiny.kept(
        "touch /root/a; mkdir /d; chown 1000:20 /d; echo x > /d/f; chown 65535 /d/f; ln -s x /d/l; touch /etc/motd"
    )
    ids = set()
    for directory, names, files in os.walk(tiny.upper(session)):
        for name in [".", *names, *files]:
            info = os.lstat(os.path.join(directory, name))
            ids |= {info.st_uid, info.st_gid}
    assert {0, 1000, 20, 65535} <= ids
    assert max(ids) <= 65535


def test_private_users_can_be_switched_off_and_list_says_so(tiny: Rig) -> None:
    tiny.define(TINY + "private-users = false\n")
    done = tiny.run("cat /proc/self/uid_map; grep Seccomp: /proc/self/status; echo y > /y && cat /y")
    assert done.text.split()[:3] == ["0", "0", "4294967295"]
    assert "Seccomp:\t2" in done.text
    assert done.text.endswith("y\n")
    assert "private-users: no" in tiny("list").text


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("user", "1000 1000 20 1000\n/home/user\n/home/user user user\n"),
        ("1000", "1000 1000 20 1000\n/home/user\n/home/user user user\n"),
        ("root", "0 0 0\n/root\n/root root root\n"),
        ("4321", "4321 4321 4321\n/\n/ 4321 4321\n"),
    ],
)
def test_a_user_by_name_or_number(tiny: Rig, user: str, said: str) -> None:
    done = tiny.run(
        "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n); pwd; echo $HOME $USER $LOGNAME", "-u", user
    )
    assert done.text == said
    assert done.status == 0


def test_an_unknown_user_is_refused(tiny: Rig) -> None:
    done = tiny.run("id", "-u", "somebody")
    assert done.status == 125
    assert "somebody" in done.said
    assert "Traceback" not in done.said


def test_sudo_works_in_a_session(farm: Rig) -> None:
    done = farm.run(
        "id -u; sudo -n id -u; sudo -n sh -c 'echo x > /etc/made-by-root && stat -c %u /etc/made-by-root'",
        "-u",
        "sai",
        machine="bookworm",
    )
    assert done.text.split() == ["883", "0", "0"], done


# -- what is around it


def test_directory_and_environment(tiny: Rig) -> None:
    tiny.define(TINY + 'environment = { FROM_FILE = "a b", BOTH = "file" }\n')
    done = tiny.run(
        "pwd; env",
        "-w",
        "/usr/share",
        "--env",
        "BOTH=option",
        "--env",
        "EMPTY=",
        "--env",
        "PASSED",
        env={"PASSED": "x=y", "SECRET": "no"},
    )
    assert done.text.startswith("/usr/share\n")
    seen = dict(line.split("=", 1) for line in done.text.splitlines()[1:])
    assert seen["FROM_FILE"] == "a b"
    assert (seen["BOTH"], seen["EMPTY"], seen["PASSED"]) == ("option", "", "x=y")
    assert "SECRET" not in seen
    assert not {"LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "SYSTEMD_SECCOMP", "ROOST_STATE"} & set(seen)


def test_a_directory_that_is_not_there(tiny: Rig) -> None:
    done = tiny.run("pwd", "-w", "/nowhere")
    assert done.status == 125
    assert "/nowhere" in done.said


def test_an_argument_arrives_as_it_is(tiny: Rig) -> None:
    words = ["", " ", "a b", "$HOME", "%n%%", "\\", "'\"", "ü", "--", "-x", "\n"]
    done = tiny("run", "tiny", "--", "sh", "-c", 'printf "%s|" "$@"', "sh", *words)
    assert done.text == "".join(f"{word}|" for word in words)


def test_the_machine_has_its_name(tiny: Rig) -> None:
    done = tiny.run("hostname; cat /etc/hosts; uname -n")
    lines = done.text.splitlines()
    assert lines[0] == lines[-1] == "tiny"
    assert any(re.fullmatch(r"127\S+\s+tiny", line) for line in lines)
    assert any(line.split()[:2] == ["127.0.0.1", "localhost"] for line in lines)


def test_a_name_resolves_to_the_machine_itself(farm: Rig) -> None:
    done = farm.run("getent hosts bookworm localhost", machine="bookworm")
    assert done.status == 0
    assert "127.0.1.1" in done.text


def test_no_network_but_loopback(tiny: Rig) -> None:
    tiny.define(TINY + 'network = { mode = "none" }\n')
    assert (
        tiny.run("ls /sys/class/net; grep -c : /proc/net/dev; ping -c1 -W1 127.0.0.1 >/dev/null && echo pong").text
        == "lo\n1\npong\n"
    )
    assert "network: none" in tiny("list").text


def test_packages_can_be_installed_in_a_session(farm: Rig) -> None:
    script = "apt-get update -qq && apt-get install -y -qq --no-install-recommends tree >/dev/null && tree --version"
    done = farm.run(script, machine="bookworm", timeout=300)
    assert done.status == 0, done
    assert b"tree v" in done.out


def test_nothing_of_a_session_stays(tiny: Rig) -> None:
    tiny.run("echo changed > /etc/motd; rm /etc/group; mkdir -p /a/b/c")
    assert tiny.run("cat /etc/motd; ls /etc/group; ls -d /a || echo gone").text == "one\ntwo\nthree\n/etc/group\ngone\n"
    assert tiny.sessions() == []


def test_a_tree_that_cannot_be_removed_by_name_is_removed(tiny: Rig) -> None:
    """Deeper than PATH_MAX, and with names that are no text."""
    done = tiny.run(
        r"mkdir /x; cd /x; touch $(printf '\377'); n=aaaaaaaaaaaaaaaaaaaaaaaa; i=0;"
        " while [ $i -lt 300 ]; do mkdir $n; cd $n; i=$((i+1)); done"
    )
    assert done.status == 0, done
    assert tiny.sessions() == []


# -- deadlines


def test_a_deadline_is_a_polite_one_first(tiny: Rig) -> None:
    done = tiny.run("trap 'echo bye; exit 0' TERM; echo hello; sleep 100 & wait", "--timeout", "0.5")
    assert done.status == 124
    assert done.out == b"hello\nbye\n"
    assert done.seconds < 4


def test_who_does_not_listen_is_killed_with_all_its_children(tiny: Rig) -> None:
    began = time.monotonic()
    result = tiny.result(
        f"trap '' TERM INT HUP; ({EVER}) & setsid sh -c \"trap '' TERM; {EVER}\" & {EVER}",
        "--timeout",
        "0.5",
    )
    assert result["state"] == "timed-out"
    assert 4 < time.monotonic() - began < 10


def test_the_end_of_a_deadline_is_not_the_commands_status(tiny: Rig) -> None:
    assert tiny.result("trap 'exit 0' TERM; sleep 100 & wait", "--timeout", "0.3")["state"] == "timed-out"
    assert tiny.result("true", "--timeout", "60")["state"] == "passed"
