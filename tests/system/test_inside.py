"""Commands in machines that run: exact, complete, with no more rights than the machine's init, and gone with who asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from roost.boot import inside, readiness
from roost.boot import leader as leaders
from roost.boot.inside import run_inside
from roost.boot.leader import Leader
from roost.engine.execute import KILL, STOP, Streams
from roost.errors import HostError, Interrupted
from roost.host import cgroups, runner, syscalls
from roost.stop import Stop
from system.nspawned import BUSYBOX_INIT, Nspawned, nspawned
from system.rig import below, name_of, wait_for
from system.test_terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.engine.execute import Ended
    from system.rig import Rig

DRIVER = (sys.executable, str(Path(__file__).with_name("exec_driver.py")))
TINY_LAYER = "7" * 64


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    ended: Ended
    out: str
    err: str


def say(leader: Leader, script: str, **more: Any) -> Said:
    """Runs a script in the machine."""
    out: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    streams = Streams(on_output=lambda stream, block: out[stream].extend(block), stdin=more.pop("stdin", None))
    ended = run_inside(leader, ("sh", "-c", script), streams=streams, **more)
    return Said(ended, out[1].decode(errors="replace"), out[2].decode(errors="replace"))


def boot(rig: Rig, **more: Any) -> Any:
    """The tiny tree under busybox's init."""
    more["files_in"] = {**BUSYBOX_INIT, **more.get("files_in", {})}
    return nspawned(rig.state, [f"{rig.state}/layers/{TINY_LAYER}/tree"], **more)


@pytest.fixture
def machine(tiny: Rig) -> Iterator[Nspawned]:
    """A machine that boots in a moment."""
    with boot(tiny) as made:
        yield made


def driven(machine: Nspawned, *words: str) -> tuple[str, ...]:
    """Words for the driver: VERB, then options."""
    return (words[0], str(machine.leader.pid), str(machine.leader.started), *words[1:])


# -- exact and complete


def test_status_and_signal_are_exact(machine: Nspawned) -> None:
    for status in (0, 1, 3, 127, 255):
        ended = run_inside(machine.leader, ("sh", "-c", f"exit {status}"))
        assert (ended.status, ended.signal, ended.error) == (status, 0, "")
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGHUP):
        ended = run_inside(machine.leader, ("sh", "-c", f"kill -{int(number)} $$"))
        assert (ended.status, ended.signal) == (None, number)
    said = say(machine.leader, "exec /nowhere")
    assert said.ended.status == 127
    assert run_inside(machine.leader, ("no-such-command",)).status == 127
    assert run_inside(machine.leader, ("/etc",)).status == 126


def test_output_is_whole_and_apart(machine: Nspawned) -> None:
    said = say(machine.leader, "seq 300000; echo e >&2; printf last")
    assert said.out == "".join(f"{n}\n" for n in range(1, 300001)) + "last"
    assert said.err == "e\n"
    text = bytearray()
    streams = Streams(on_output=lambda _stream, block: text.extend(block), merged=True)
    run_inside(
        machine.leader, ("sh", "-c", "echo a; echo b >&2; echo c > /dev/stdout; echo d > /dev/stderr"), streams=streams
    )
    assert text == b"a\nb\nc\nd\n"


def test_input_arrives(machine: Nspawned, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"x" * 1_000_000)
    with (tmp_path / "given").open("rb") as stream:
        assert say(machine.leader, "wc -c", stdin=stream.fileno()).out == "1000000\n"
    assert say(machine.leader, "cat").out == ""


def test_who_where_and_with_what(machine: Nspawned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLERS_SECRET", "x")
    before = os.umask(0o077)
    try:
        said = say(machine.leader, "env; umask; ulimit -n; trap").out.splitlines()
    finally:
        os.umask(before)
    wanted = [
        "HOME=/root", "LOGNAME=root", "PWD=/root", "SHELL=/bin/sh", "USER=root", "container=systemd-nspawn",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "0022", "1024",
    ]  # fmt: skip
    assert sorted(line for line in said if not line.startswith("SHLVL=")) == sorted(wanted)
    said_by = say(
        machine.leader,
        "id; pwd; echo $HOME $A",
        user="user",
        environment={"A": "b c", "HOME": "/tmp"},
        directory="/var",
    ).out
    assert said_by == "uid=1000(user) gid=1000(user) groups=20(dialout),1000(user)\n/var\n/tmp b c\n"
    assert say(machine.leader, "id -u; pwd", user="1000").out == "1000\n/home/user\n"
    assert say(machine.leader, "id -u; pwd", user="4711").out == "4711\n/\n"
    assert (
        say(machine.leader, "id", user="nobody-here").ended.error == "no user nobody-here in the machine's /etc/passwd"
    )
    assert "cannot change to the directory /gone" in say(machine.leader, "id", directory="/gone").ended.error


def test_it_sees_the_machine_and_itself(machine: Nspawned) -> None:
    said = say(machine.leader, "hostname; ls /proc/self/fd; ps -o comm | sort -u; ip link | grep -c UP,LOWER_UP")
    name, *rest = said.out.split()
    assert name.startswith("machine-")
    # 3 is the directory that ls reads; neither roost-init nor anything else of the host's is among the processes
    assert rest[:4] == ["0", "1", "2", "3"]
    assert set(rest[4:-1]) <= {"COMMAND", "init", "ps", "sh", "sleep", "sort"}


def test_many_at_once(machine: Nspawned) -> None:
    """Each has to look at the init, which one at a time can."""
    words = [driven(machine, "exec", "--", "sh", "-c", f"echo {number}; exit {number}") for number in range(12)]
    running = [subprocess.Popen((*DRIVER, *each), stdout=subprocess.PIPE) for each in words]
    done = [child.communicate(timeout=60)[0] for child in running]
    assert done == [b"%d\n" % number for number in range(12)]
    assert [child.returncode for child in running] == list(range(12))


# -- ends


def test_time_is_limited(machine: Nspawned) -> None:
    ended = run_inside(machine.leader, ("sleep", "100"), timeout=0.2)
    assert (ended.status, ended.signal, ended.stopped, ended.reached) == (None, signal.SIGTERM, "time", ("time",))
    said = say(machine.leader, "trap 'echo asked; exit 7' TERM; while :; do sleep 0.1; done", timeout=0.3)
    assert (said.ended.status, said.ended.stopped, said.out) == (7, "time", "asked\n")
    ended = say(
        machine.leader, "trap '' TERM; setsid sleep 1001 & while :; do sleep 0.1; done", timeout=0.3, grace=0.3
    ).ended
    assert (ended.signal, ended.stopped) == (signal.SIGKILL, "time")
    assert "1001" not in say(machine.leader, "ps -o args").out  # with all that it had started


@pytest.mark.parametrize(("level", "number"), [(STOP, signal.SIGINT), (KILL, signal.SIGKILL)])
def test_it_can_be_stopped(machine: Nspawned, level: int, number: int) -> None:
    stop = Stop()
    try:
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as feed, os.fdopen(reader, "rb") as given:

            def started(_stream: int, _block: bytes) -> None:
                for _ in range(level):
                    stop.request()

            streams = Streams(on_output=started, stdin=given.fileno())
            ended = run_inside(machine.leader, ("sh", "-c", "echo; exec cat"), streams=streams, stop_fd=stop.fd)
            feed.flush()
        assert (ended.status, ended.signal, ended.stopped) == (None, number, "stop")
    finally:
        stop.close()


def test_what_it_leaves_in_the_background_lives_on(machine: Nspawned) -> None:
    began = time.monotonic()
    said = say(machine.leader, "setsid sleep 1002 & echo started")
    assert (said.ended.status, said.out) == (0, "started\n")
    assert time.monotonic() - began < 5  # though it still has the output open
    assert "sleep 1002" in say(machine.leader, "ps -o args").out


def test_with_the_machine_it_ends(tiny: Rig) -> None:
    with boot(tiny) as machine:
        child = subprocess.Popen(
            (*DRIVER, *driven(machine, "exec", "--", "sh", "-c", "echo ready; sleep 1000")), stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        os.kill(machine.leader.pid, signal.SIGKILL)
        assert child.wait(10) == 137
        child.stdout.close()
        wait_for(lambda: not leaders.is_alive(machine.leader))
        with pytest.raises(HostError, match="has ended"):
            run_inside(machine.leader, ("true",))
    other = Leader(pid=os.getpid(), started=machine.leader.started)  # its number is somebody else's by now
    with pytest.raises(HostError, match="has ended"):
        run_inside(other, ("true",))


@pytest.mark.parametrize("victim", ["roost", "roost-exec"])
def test_killed_it_leaves_nothing(machine: Nspawned, victim: str) -> None:
    script = "sleep 1003 & setsid sleep 1004 & (setsid sleep 1005 &); echo ready; sleep 1006"
    child = subprocess.Popen(
        (*DRIVER, *driven(machine, "exec", "--", "sh", "-c", script)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    watcher = next(pid for pid in below(child.pid) if name_of(pid) == "roost-exec")
    os.kill(child.pid if victim == "roost" else watcher, signal.SIGKILL)
    child.communicate(timeout=10)
    assert child.returncode == (-9 if victim == "roost" else 137)
    wait_for(lambda: "sleep 100" not in say(machine.leader, "ps -o args | grep -v 1000000").out)
    wait_for(lambda: not os.path.exists(f"/proc/{watcher}"))
    assert run_inside(machine.leader, ("true",)).status == 0
    left = [name for path in machine.group.paths for _, names, _ in os.walk(path) for name in names]
    assert not [name for name in left if name.startswith("roost-exec-")]


# -- no more than the machine's init


@pytest.mark.parametrize("private_users", [True, False])
@pytest.mark.parametrize("options", [(), ("--drop-capability=CAP_NET_RAW,CAP_MKNOD", "--no-new-privileges=yes")])
def test_it_has_what_the_init_has(tiny: Rig, private_users: bool, options: tuple[str, ...]) -> None:
    with boot(tiny, private_users=private_users, options=options) as machine:
        show = "grep -E '^(CapBnd|CapPrm|CapInh|CapAmb|NoNewPrivs|Seccomp|Uid|Gid)' /proc/$1/status;"
        show += " for n in cgroup ipc mnt net pid user uts; do readlink /proc/$1/ns/$n; done"
        told = say(machine.leader, f"set -- self; {show}").out.splitlines()
        wait_for(lambda: leaders.has_begun(machine.leader))
        theirs = say(machine.leader, f"set -- 1; {show}").out.splitlines()
        if options:
            assert "NoNewPrivs:\t1" in told
        found = dict(zip([line.partition(":")[0] for line in told], told, strict=True))
        of_init = dict(zip([line.partition(":")[0] for line in theirs], theirs, strict=True))
        assert found.pop("CapInh") == "CapInh:\t0000000000000000"
        del of_init[
            "CapInh"
        ]  # nspawn gives its init all of them, which a file could then make a user's: CVE-2022-24769
        assert found == of_init
        assert "Seccomp:\t2" in told


def test_the_filters_are_the_inits(machine: Nspawned) -> None:
    """Read from the kernel in both, program by program."""
    from roost.engine import seccomp

    child = subprocess.Popen(
        (*DRIVER, *driven(machine, "exec", "--", "sh", "-c", "echo ready; exec sleep 1007")), stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    command = wait_for(lambda: next((pid for pid in below(child.pid) if name_of(pid) == "sleep"), 0))
    assert seccomp.filters_of(command) == seccomp.filters_of(machine.leader.pid) != []
    os.kill(command, signal.SIGTERM)
    assert child.wait(10) == 143
    child.stdout.close()


def test_the_machines_limits_hold(tiny: Rig) -> None:
    with boot(tiny, memory=64 << 20) as machine:
        assert say(machine.leader, "dd if=/dev/zero of=/dev/null bs=1M count=1").ended.status == 0
        said = say(machine.leader, "dd if=/dev/zero of=/dev/null bs=200M count=1")
        assert said.ended.signal == signal.SIGKILL or said.ended.status == 137
        assert leaders.is_alive(machine.leader)


def test_hierarchies_that_are_not_mounted_do_not_matter(machine: Nspawned) -> None:
    """A host may name hierarchies of v1 that it has nowhere."""
    text = Path(f"/proc/{machine.leader.pid}/cgroup").read_text()
    group = cgroups.below(f"77:name=nowhere:/init.scope\n{text}", "roost-exec-none")
    try:
        assert group.born
        assert not [path for path in group.entered if "nowhere" in path]
    finally:
        assert cgroups.remove(cgroups.Group(born=group.born))


def test_who_traces_the_init_keeps_its_filters_from_being_read(machine: Nspawned) -> None:
    """Then no command is run with fewer."""
    wait_for(lambda: leaders.has_begun(machine.leader))

    def trace() -> None:
        runner.die_with_parent()
        syscalls.ptrace(syscalls.PTRACE_SEIZE, machine.leader.pid)
        time.sleep(60)

    tracer = runner.fork(trace)
    try:
        wait_for(lambda: f"TracerPid:\t{tracer}\n" in Path(f"/proc/{machine.leader.pid}/status").read_text())
        with pytest.raises(HostError, match="no command is run with fewer"):
            run_inside(machine.leader, ("true",))
    finally:
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)
    assert run_inside(machine.leader, ("true",)).status == 0


def test_a_directory_of_the_host_is_no_way_out(machine: Nspawned, tmp_path: Path) -> None:
    """CVE-2024-21626: neither a descriptor that is left over, nor standard input, leads to a directory of the host."""
    for fd in range(3, 24):
        ended = run_inside(machine.leader, ("ls", "-l"), directory=f"/proc/self/fd/{fd}")
        assert ended.status != 0, fd
        assert "cannot change to the directory" in ended.error, (fd, ended)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(HostError, match="standard input is a directory"):
            say(machine.leader, "ls", stdin=fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("private_users", [True, False])
def test_the_program_on_the_host_cannot_be_changed(tiny: Rig, private_users: bool) -> None:
    """CVE-2019-5736: a machine that writes to whatever is executed in it, by /proc/PID/exe, as its root."""
    from roost.sessions import init_path

    before = Path(init_path()).read_bytes(), os.stat(init_path()).st_mtime_ns
    watch = (
        "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *memfd*|*roost*)"
        " echo seen >> /tmp/seen; (echo x > $p/exe) 2>> /tmp/why && echo written >> /tmp/written;; esac; done; done"
    )
    with boot(tiny, private_users=private_users) as machine:
        say(machine.leader, f"setsid sh -c '{watch}' > /dev/null 2>&1 &")
        evil = "printf '#!/proc/self/exe\\n' > /tmp/evil; chmod 755 /tmp/evil"
        assert say(machine.leader, evil).ended.status == 0
        for _ in range(12):
            assert run_inside(machine.leader, ("/tmp/evil",)).status not in (0, None)
            assert run_inside(machine.leader, ("true",)).status == 0
        assert say(machine.leader, "cat /tmp/written").ended.status == 1
    assert (Path(init_path()).read_bytes(), os.stat(init_path()).st_mtime_ns) == before
    fd = inside._sealed_init()  # what the machine could get hold of, at most: written to by the host's root itself
    try:
        with pytest.raises(PermissionError):
            os.write(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.closerange(fd, fd + 2)


def test_nobody_in_the_machine_reaches_who_watches(tiny: Rig) -> None:
    """CVE-2016-9962: what joins a machine holds nothing of the host, and cannot be traced before it is the command."""
    with boot(tiny) as machine:
        child = subprocess.Popen(
            (*DRIVER, *driven(machine, "exec", "--", "sh", "-c", "echo ready; exec sleep 1008")), stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        watcher = next(pid for pid in below(child.pid) if name_of(pid) == "roost-exec")
        assert os.readlink(f"/proc/{watcher}/ns/pid") == os.readlink("/proc/self/ns/pid")
        held = sorted(os.readlink(f"/proc/{watcher}/fd/{fd}") for fd in os.listdir(f"/proc/{watcher}/fd"))
        own = {"/dev/null", "anon_inode:[signalfd]"}
        left = [path for path in held if path not in own and not path.startswith("socket:")]
        assert len(left) == 1
        assert left[0].endswith("/cgroup.kill")
        assert os.readlink(f"/proc/{watcher}/root") == "/"
        assert os.readlink(f"/proc/{watcher}/exe").startswith("/memfd:roost-init")
        # not dumpable: its files in /proc are the host's root's, whoever it has become
        assert os.stat(f"/proc/{watcher}/mem").st_uid == 0
        assert int(Path(f"/proc/{watcher}/status").read_text().split("Uid:")[1].split()[0]) == machine.base
        child.terminate()
        assert child.wait(10) == 130
        child.stdout.close()


def test_what_a_machine_calls_its_terminals_is_not_believed(tiny: Rig) -> None:
    """A pipe where the machine's terminals should be: a message, and no wait."""
    script = "umount -l /dev/pts && mkfifo /dev/pts/ptmx"
    with boot(tiny, private_users=False) as machine:
        assert say(machine.leader, script).ended.status == 0
        with terminal(tiny, *driven(machine, "exec", "--", "true"), command=DRIVER) as screen:
            assert screen.end() == 125
        assert b"cannot make a terminal" in screen.seen


def test_lists_of_users_may_be_anything(tiny: Rig) -> None:
    with boot(tiny) as machine:
        assert (
            say(
                machine.leader, "rm /etc/passwd /etc/group; mkfifo /etc/passwd; ln -s /dev/zero /etc/group"
            ).ended.status
            == 0
        )
        assert say(machine.leader, "grep Groups: /proc/self/status", timeout=10).out == "Groups:\t0 \n"
        assert "no user sai" in say(machine.leader, "true", user="sai").ended.error


# -- the command line, with a terminal and without


def test_the_verb_ends_as_run_does(machine: Nspawned) -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (*DRIVER, *driven(machine, *words)), capture_output=True, text=True, check=False, timeout=60, input="in\n"
        )

    done = ran(
        "exec",
        "-u",
        "user",
        "-w",
        "/tmp",
        "--env",
        "A=b",
        "--",
        "sh",
        "-c",
        "cat; id -un; pwd; echo $A; echo e >&2; exit 3",
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\nuser\n/tmp\nb\n", "e\n")
    done = ran("exec", "--timeout", "0.2", "--", "sleep", "100")
    assert (done.returncode, done.stdout) == (124, "")
    assert "timed out" in done.stderr
    done = ran("exec", "--", "sh", "-c", "kill -SEGV $$")
    assert done.returncode == 139
    assert "SIGSEGV" in done.stderr
    done = ran("exec", "-u", "gone", "--", "true")
    assert done.returncode == 125
    assert "no user gone" in done.stderr
    done = ran("exec", "--json", "--", "sh", "-c", "echo out")
    assert '"passed"' in done.stdout
    assert done.stderr == "out\n"
    assert ran("login").returncode == 125


def test_a_terminal_of_the_machines_own(tiny: Rig, machine: Nspawned) -> None:
    words = driven(
        machine,
        "exec",
        "-u",
        "user",
        "--",
        "sh",
        "-c",
        "tty; stat -c %U $(tty); stty size; read x; stty size; echo got $x; exit 5",
    )
    with terminal(tiny, *words, command=DRIVER) as screen:
        screen.read(b"33 101")
        screen.resize(50, 120)
        screen.type(b"hello\n")
        assert screen.end() == 5
    seen = screen.seen.decode().split()
    assert seen[0].startswith("/dev/pts/")
    assert seen[1:4] == ["user", "33", "101"]
    assert seen[-4:] == ["50", "120", "got", "hello"]


def test_job_control_and_keys(tiny: Rig, machine: Nspawned) -> None:
    with terminal(tiny, *driven(machine, "shell"), command=DRIVER) as screen:
        screen.read(b"# ")
        screen.type(b"trap 'echo caught' INT; echo rea''dy\n")
        screen.read(b"ready")
        screen.type(b"sleep 1009\n")
        wait_for(lambda: "sleep 1009" in say(machine.leader, "ps -o args").out)
        screen.type(b"\x1a")
        screen.read(b"Stopped")
        screen.type(b"kill -9 %1; echo status $((40 + 2)); sleep 0.2; exit 6\n")
        screen.read(b"status 42")
        assert screen.end() == 6


@pytest.mark.parametrize("how", ["keys", "signal", "command", "machine"])
def test_the_terminal_is_as_before_whatever_ends(tiny: Rig, machine: Nspawned, how: str) -> None:
    script = "stty raw -echo; echo ready; trap '' INT TERM; [ $0 = command ] && kill -9 $$; while :; do sleep 1; done"
    with terminal(tiny, *driven(machine, "exec", "--", "sh", "-c", script, how), command=DRIVER) as screen:
        screen.read(b"ready")
        if how == "keys":
            screen.type(b"\x1d\x1d\x1d")
        elif how == "signal":
            for _ in range(2):
                os.kill(screen.child.pid, signal.SIGTERM)
                time.sleep(0.1)
        elif how == "machine":
            os.kill(machine.leader.pid, signal.SIGKILL)
        assert screen.end() == (130 if how in ("keys", "signal") else 137)


# -- readiness and logs


def failing(unit: str) -> dict[str, str]:
    """A unit that is started with the machine."""
    return {
        "/etc/systemd/system/odd.service": f"[Unit]\nBefore=multi-user.target\n[Service]\nType=oneshot\n{unit}\n",
        "/etc/systemd/system/multi-user.target.wants/odd.service": "-> ../odd.service",
    }


def test_ready_is_what_its_systemd_says(tiny: Rig, booted_layers: list[str]) -> None:
    with nspawned(tiny.state, booted_layers) as machine:
        found = readiness.wait_ready(machine.leader, timeout=60)
        assert (found.state, found.failed) == ("running", ())
        assert say(machine.leader, "systemctl is-active multi-user.target").out == "active\n"
        text = bytearray()
        readiness.logs(machine.leader, lines=3, on_output=text.extend)
        assert len(text.splitlines()) == 3
        with subprocess.Popen((*DRIVER, *driven(machine, "logs", "-f", "-n", "0")), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert say(machine.leader, "sleep 0.3; echo hello-there | systemd-cat -t someone").ended.status == 0
            assert b"someone" in child.stdout.readline()
            child.send_signal(signal.SIGINT)
            assert child.wait(10) == 0
        # login(1) hangs up on its terminal and opens it again
        assert say(machine.leader, "passwd -d root").ended.status == 0
        with terminal(tiny, *driven(machine, "login"), command=DRIVER) as screen:
            screen.read(b"login:")
            screen.type(b"root\n")
            screen.read(b"# ")
            screen.type(b"tty; stty size; exit\n")
            assert screen.end() == 0
        assert b"/dev/pts/" in screen.seen
        assert b"33 101" in screen.seen


def test_what_failed_is_named(tiny: Rig, booted_layers: list[str]) -> None:
    with nspawned(tiny.state, booted_layers, files_in=failing("ExecStart=/bin/false")) as machine:
        found = readiness.wait_ready(machine.leader, timeout=60)
        assert (found.state, found.failed) == ("degraded", ("odd.service",))


def test_one_that_never_gets_ready(tiny: Rig, booted_layers: list[str]) -> None:
    unit = failing("ExecStart=/bin/sh -c 'echo i-am-slow; sleep 1000'\nTimeoutStartSec=infinity")
    with nspawned(tiny.state, booted_layers, files_in=unit) as machine:
        with pytest.raises(HostError, match="not ready within 3 s") as raised:
            readiness.wait_ready(machine.leader, timeout=3)
        assert "i-am-slow" in raised.value.details
        stop = Stop()
        stop.request()
        with pytest.raises(Interrupted):
            readiness.wait_ready(machine.leader, timeout=30, stop_fd=stop.fd)
        stop.close()


def test_ready_without_systemd(tiny: Rig) -> None:
    with boot(tiny) as machine:
        assert readiness.wait_ready(machine.leader, timeout=30).state == "ready"
        with pytest.raises(HostError, match=r"not ready within 0\.5 s") as raised:
            readiness.wait_ready(machine.leader, "test -e /tmp/ready", timeout=0.5)
        assert "`test -e /tmp/ready` never ended with status 0" in raised.value.brief
        assert say(machine.leader, "(sleep 0.5; touch /tmp/ready) > /dev/null 2>&1 &").ended.status == 0
        assert readiness.wait_ready(machine.leader, "test -e /tmp/ready", timeout=30).state == "ready"


def test_one_that_ends_while_it_starts(tiny: Rig) -> None:
    script = "#!/bin/sh\necho all is lost\nsleep 0.3\n"
    with boot(tiny, files_in={"/sbin/init": script}) as machine:
        with pytest.raises(HostError, match="ended while it was starting") as raised:
            readiness.wait_ready(machine.leader, "false", timeout=30, console=str(machine.console))
        assert "all is lost" in raised.value.details
        text = bytearray()
        readiness.logs(None, console=str(machine.console), lines=1, on_output=text.extend)
        assert b"all is lost" in text


def test_the_network_namespace_is_the_machines(machine: Nspawned) -> None:
    fd = leaders.netns_fd(machine.leader)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == os.readlink(f"/proc/{machine.leader.pid}/ns/net")
    finally:
        os.close(fd)
    assert leaders.leader_of(machine.leader.pid) is None
    assert leaders.leader_by_pid(machine.leader.pid) == machine.leader
