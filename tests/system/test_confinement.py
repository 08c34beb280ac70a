"""What the processes of a session may do: capabilities, gained privileges, the kernel's files, each other's sessions."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from roost.host import capabilities
from system.rig import below, name_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from system.rig import Rig

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
TINY = '[machines.tiny]\nfrom = "layer:tiny"\n'
# podman 4.3's default, and what only reaches the session's own network
WANTED = "chown dac_override fowner fsetid kill setgid setuid setpcap net_raw sys_chroot setfcap"


def status_of(text: str) -> dict[str, str]:
    """The fields of a /proc/PID/status."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def named(mask: str) -> str:
    """The capabilities of a mask, in short."""
    return " ".join(name.removeprefix("CAP_").lower() for name in capabilities.names(int(mask, 16)))


def test_root_and_pid_1_have_a_builders_capabilities_and_no_others(tiny: Rig) -> None:
    for process in ("self", "1"):
        found = status_of(tiny.run(f"cat /proc/{process}/status").text)
        assert [named(found[name]) for name in SETS] == ["", WANTED, WANTED, WANTED, ""], process


def test_with_a_network_of_its_own_a_session_may_serve_on_low_ports(tiny: Rig) -> None:
    tiny.define(TINY + 'network = { mode = "none" }\n')
    found = status_of(tiny.run("cat /proc/self/status").text)
    assert set(named(found["CapEff"]).split()) == {*WANTED.split(), "net_bind_service"}


def test_a_user_has_none(tiny: Rig) -> None:
    found = status_of(tiny.run("cat /proc/self/status", "-u", "user").text)
    assert [named(found[name]) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [""] * 4
    assert found["NoNewPrivs"] == "1"


def test_without_a_user_namespace_raw_sockets_are_not_for_a_session(tiny: Rig) -> None:
    tiny.define(TINY + "private-users = false\n")
    found = status_of(tiny.run("cat /proc/self/status").text)
    assert set(named(found["CapBnd"]).split()) == {*WANTED.split(), "net_bind_service"} - {"net_raw"}


def test_a_definition_may_give_more(tiny: Rig) -> None:
    assert tiny.run("mount -t tmpfs x /tmp").status != 0
    tiny.define(TINY + 'capabilities = ["CAP_SYS_ADMIN", "CAP_SYS_MODULE"]\n')
    done = tiny.run("cat /proc/self/status; mount -t tmpfs x /tmp && echo mounted")
    assert set(named(status_of(done.text)["CapEff"]).split()) == {*WANTED.split(), "sys_admin", "sys_module"}
    assert done.text.endswith("mounted\n")
    assert tiny.json("list")[0]["capabilities"] == ["CAP_SYS_ADMIN", "CAP_SYS_MODULE"]
    assert "capabilities: CAP_SYS_ADMIN CAP_SYS_MODULE" in tiny("list").text


def test_a_session_that_is_opened_again_has_what_its_machine_had(tiny: Rig) -> None:
    tiny.define(TINY + 'capabilities = ["CAP_SYS_ADMIN"]\nno-new-privileges = false\n')
    session = tiny.kept("true")
    found = status_of(tiny("session", "shell", session, stdin=b"cat /proc/self/status").text)
    assert "sys_admin" in named(found["CapEff"]).split()
    assert found["NoNewPrivs"] == "0"
    tiny("session", "remove", session)


def test_a_set_user_id_program_gives_nothing_unless_the_machine_says_so(farm: Rig) -> None:
    script = "cp /usr/bin/id /usr/bin/id2; chmod 4755 /usr/bin/id2; setpriv --reuid=65534 --clear-groups id2 -u"
    definition = farm.file.read_text(encoding="utf-8")
    assert farm.run(script, machine="trixie").text == "65534\n"
    farm.define(definition.replace("[machines.trixie]", "[machines.trixie]\nno-new-privileges = false"))
    assert farm.run(script, machine="trixie").text == "0\n"


def test_sudo_works_where_a_user_has_it_also_above_a_layer(farm: Rig) -> None:
    listed = {item["name"]: item["no_new_privileges"] for item in farm.json("list")}
    assert listed == {"bullseye": True, "bookworm": False, "trixie": True, "forky": True, "sid": True, "tiny": True}
    assert farm("run", "bookworm", "-u", "sai", "--", "sudo", "id", "-u").text == "0\n"
    session = farm.kept("true", machine="bookworm")
    try:
        assert farm("session", "commit", session, "withsudo").status == 0
        farm.define('[machines.above]\nfrom = "layer:withsudo"\n')
        assert farm.json("list")[0]["no_new_privileges"] is False
        assert farm("run", "above", "-u", "sai", "--", "sudo", "id", "-u").text == "0\n"
    finally:
        farm("session", "remove", session)
        farm("layer", "remove", "withsudo")


HIDDEN = (
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi"
    " /proc/timer_list /proc/timer_stats /sys/dev/block /sys/devices/virtual/powercap /sys/firmware /sys/fs/selinux /proc/kmsg"
)
READ_ONLY = (
    "/proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/irq /proc/bus /proc/fs /sys/kernel /proc/sysrq-trigger"
)


@pytest.mark.parametrize("private", ["true", "false"])
def test_what_the_kernel_tells_of_the_host_is_hidden(tiny: Rig, private: str) -> None:
    tiny.define(TINY + f"private-users = {private}\n")
    script = f"for p in {HIDDEN}; do [ -e $p ] || continue; echo $p; if [ -d $p ]; then ls -A $p; else timeout 1 cat $p; fi; done"
    there = [path for path in HIDDEN.split() if os.path.exists(path)]
    assert tiny.run(script).text.split() == there
    assert {"/sys/firmware", "/proc/keys"} <= set(there)  # else this says nothing


@pytest.mark.parametrize("private", ["true", "false"])
def test_the_kernels_settings_cannot_be_written(tiny: Rig, private: str) -> None:
    tiny.define(TINY + f"private-users = {private}\n")
    done = tiny.run(
        f"for p in {READ_ONLY}; do if [ -d $p ]; then mkdir $p/x && echo $p; elif [ -e $p ]; then echo 1 > $p && echo $p; fi; done;"
        "grep -E ' (/sys|/proc/sys) ' /proc/self/mountinfo | cut -d' ' -f5,6; umount /proc/keys; mount -o remount,rw,bind /sys"
    )
    assert [line.split(",")[0] for line in done.text.splitlines()] == ["/sys ro", "/proc/sys ro"]
    assert done.status != 0


def test_a_command_has_its_streams_and_no_other_descriptor(tiny: Rig) -> None:
    for user in ("root", "user"):
        assert tiny.run("ls /proc/self/fd", "-u", user).text.split() == ["0", "1", "2", "3"]  # 3: the directory
    assert tiny.run("cat /proc/1/environ; env", "--env", "A=secret").text.count("secret") == 1


@contextlib.contextmanager
def running(rig: Rig, script: str) -> Iterator[int]:
    """A session in which a script runs that ends in a sleep: the host's number of that process."""
    with rig.started("run", "tiny", "--", "sh", "-c", script) as child:
        yield wait_for(lambda: next((pid for pid in below(child.pid) if name_of(pid) == "sleep"), 0))
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=20)


def test_two_sessions_share_no_id_and_no_namespace(tiny: Rig) -> None:
    with running(tiny, "sleep 60") as first, running(tiny, "sleep 60") as second:
        for what in ("user", "pid", "mnt", "ipc", "uts", "cgroup"):
            assert os.readlink(f"/proc/{first}/ns/{what}") != os.readlink(f"/proc/{second}/ns/{what}"), what
        assert not set(_ids(first)) & set(_ids(second))
        assert _group_of(first) != _group_of(second)
        assert (max(_ids(first)) + 1) % 65536 == 0


def test_root_of_one_session_can_do_nothing_to_another(tiny: Rig) -> None:
    """With every capability in its user namespace, and if it could even see the host's processes."""
    with running(tiny, "sleep 60") as first, running(tiny, "echo x > /root/file; sleep 60") as second:
        tries = (
            f"kill -9 {second}", f"cat /proc/{second}/environ", f"cat /proc/{second}/mem", f"ls /proc/{second}/root/",
            f"ls /proc/{second}/fd/", f"cat /proc/{second}/root/root/file", f"nsenter --user=/proc/{second}/ns/user true",
            f"nsenter --mount=/proc/{second}/ns/mnt true", f"prlimit --pid {second} --nofile=10", f"cat /proc/{second}/maps",
        )  # fmt: skip
        for script in tries:
            done = _as_root_of(first, script)
            assert done.returncode != 0, done
            assert done.stdout == ""
        own = _as_root_of(first, f"ls /proc/{first}/root/ && kill -0 {first}")
        assert own.returncode == 0, own  # so it is the other session that refuses
        assert name_of(second) == "sleep"


def test_a_session_sees_no_process_memory_or_key_of_another(tiny: Rig) -> None:
    fill = "ipcs -m > /dev/null; dd if=/dev/zero of=/dev/shm/mark bs=1 count=1 2> /dev/null; sleep 60"
    with running(tiny, fill):
        done = tiny.run("ps -o comm; ls /dev/shm; cat /proc/sysvipc/shm | wc -l; cat /proc/self/cgroup; cat /proc/keys")
        seen = done.text.split()
        assert "sleep" not in seen
        assert "mark" not in seen
        assert not any("roost-" in word and "init" not in word for word in seen), seen


def test_what_a_session_has_left_is_for_nobody_but_root(tiny: Rig) -> None:
    """A set-user-id program in a kept session is in a directory that no user of the host may enter."""
    session = tiny.kept("cp /bin/busybox /root/evil; chmod 4755 /root/evil /root", "--source", str(tiny.directory))
    path = f"{tiny.upper(session)}/root/evil"
    assert os.stat(path).st_mode & 0o7777 == 0o4755
    assert not _may_execute(path)
    for name in ("sessions", "layers", "results", "names", "machines"):
        assert os.stat(f"{tiny.state}/{name}").st_mode & 0o077 == 0, name
    tiny("session", "remove", session)


def _may_execute(path: str) -> bool:
    done = subprocess.run(("test", "-x", path), user=65534, group=65534, extra_groups=(), check=False)
    return done.returncode == 0


def _ids(pid: int) -> range:
    with open(f"/proc/{pid}/uid_map", encoding="ascii") as stream:
        _, first, count = map(int, stream.read().split())
    return range(first, first + count)


def _group_of(pid: int) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as stream:
        return stream.read()


def _as_root_of(pid: int, script: str) -> subprocess.CompletedProcess[str]:
    """A shell in the user namespace of a session, as its root, that sees all processes of the host."""
    argv = ("nsenter", f"--user=/proc/{pid}/ns/user", "--setuid=0", "--setgid=0", "sh", "-c", script)
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


def test_a_layers_steps_are_bounded_too(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["cat /proc/self/status > /status"]\ncapabilities = ["CAP_SYS_ADMIN"]\n')
    assert tiny("build").status == 0
    found = status_of(tiny.run("cat /status").text)
    assert named(found["CapBnd"]) == WANTED
    assert found["NoNewPrivs"] == "1"


def test_a_hole_that_the_hosts_network_leaves(tiny: Rig) -> None:
    """Abstract sockets belong to a network: a session reaches the host's with mode host, and not with none."""
    name = f"\0roost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(name)
        server.listen()
        script = f"grep -c roost-test-{os.getpid()} /proc/net/unix"
        assert tiny.run(script).text == "1\n"  # said in docs/security.md
        tiny.define(TINY + 'network = { mode = "none" }\n')
        assert tiny.run(script).text == "0\n"
