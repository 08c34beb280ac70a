"""The filters of a session are stock nspawn's: tried call by call, with every number that the kernel has."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from roost.engine import seccomp

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Group
    from system.rig import Rig

# Calls without valid arguments, each in a child of its own: those that would end, stop or duplicate it, or wait, are left
# out; so is what changes the whole computer when it is allowed.
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int skipped[] = {
    SYS_rt_sigreturn, SYS_pause, SYS_clone, SYS_fork, SYS_vfork, SYS_exit, SYS_wait4, SYS_kill, SYS_rt_sigsuspend, SYS_exit_group,
    SYS_reboot, SYS_sync, SYS_vhangup, SYS_tkill, SYS_tgkill, SYS_clone3, SYS_setsid, SYS_alarm, SYS_sched_yield, SYS_munlockall,
    SYS_select, SYS_pselect6, SYS_ppoll, SYS_close_range, SYS_getrandom, SYS_gettid, SYS_getpid, SYS_getppid, SYS_times, SYS_brk,
    SYS_rt_sigprocmask, SYS_rseq, SYS_restart_syscall, SYS_umask, SYS_arch_prctl,
};

int main(void) {
    for (int nr = 0; nr < 512; nr++) {
        int skip = 0;
        for (unsigned i = 0; i < sizeof skipped / sizeof *skipped; i++)
            skip |= skipped[i] == nr;
        if (skip)
            continue;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(2);
            errno = 0;
            long result = syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
            int e = errno;
            char line[64];
            int n = snprintf(line, sizeof line, "%d %s\n", nr, result == -1 ? strerrorname_np(e) : "done");
            _exit(write(1, line, (size_t) n) != n);
        }
        int status;
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status))
            printf("%d signal %d\n", nr, WTERMSIG(status));
    }
    return 0;
}
"""


def stock(tree: Path, program: Path, options: tuple[str, ...]) -> list[str]:
    """What the program says in a container of nspawn's own making."""
    tree.mkdir()
    for name in ("usr", "etc", "bin"):
        (tree / name).mkdir()
    (tree / "etc/os-release").write_text("ID=x\n")
    text = f"""unshare -m -p -f --mount-proc --propagation private systemd-nspawn --quiet --keep-unit --register=no
        --settings=no --machine=stock --directory={tree} --private-users=1342177280:65536 --private-users-ownership=off
        --console=pipe --as-pid2 --link-journal=no --timezone=off --bind-ro={program}:/bin/calls"""
    argv = (*text.split(), *options, "/bin/calls")
    subprocess.run(("chown", "-R", "1342177280:1342177280", str(tree)), check=True)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    return [line for line in done.stdout.splitlines() if line[:1].isdigit()]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, static."""
    place = tmp_path_factory.mktemp("calls")
    place.chmod(0o755)
    (place / "calls.c").write_text(PROGRAM)
    subprocess.run(("gcc", "-static", "-O1", "-o", str(place / "calls"), str(place / "calls.c")), check=True)
    return place / "calls"


@pytest.mark.parametrize("network", ["host", "none"])
def test_every_call_gives_the_same_answer(tiny: Rig, group: Group, program: Path, tmp_path: Path, network: str) -> None:
    tiny.define(f'[machines.tiny]\nfrom = "layer:tiny"\nnetwork = {{ mode = "{network}" }}\n')
    done = tiny("run", "tiny", "--bind", f"{program}:/bin/calls", "--", "/bin/calls", timeout=120)
    assert done.status == 0, done
    ours = done.text.splitlines()
    theirs = stock(tmp_path / "tree", program, ("--private-network",) if network == "none" else ())
    group.clear()  # nspawn leaves its groups when it has no unit of its own
    assert len(ours) > 400
    assert "0 EBADF" in ours  # read
    assert any(line.endswith(" EPERM") for line in ours)
    assert sorted(set(ours) ^ set(theirs)) == []


def test_the_programs_are_read_once_and_reused(tiny: Rig) -> None:
    for name in os.listdir(tiny.state):
        if name.startswith("seccomp-"):
            os.unlink(f"{tiny.state}/{name}")
    assert tiny.run("grep Seccomp_filters /proc/self/status").text == "Seccomp_filters:\t5\n"
    [kept] = [name for name in os.listdir(tiny.state) if name.startswith("seccomp-")]
    before = os.stat(f"{tiny.state}/{kept}").st_mtime_ns
    tiny.run("true")
    assert os.stat(f"{tiny.state}/{kept}").st_mtime_ns == before


def test_a_damaged_cache_of_them_is_made_anew(tiny: Rig) -> None:
    tiny.run("true")
    for damage in (b"", b"junk", b"\x91\x01"):
        for name in os.listdir(tiny.state):
            if name.startswith("seccomp-"):
                with open(f"{tiny.state}/{name}", "wb") as stream:
                    stream.write(damage)
        done = tiny.run("grep Seccomp /proc/self/status")
        assert done.text.endswith("Seccomp_filters:\t5\n"), (damage, done)


def test_one_can_tell_them_apart() -> None:
    """The options that the filters depend on are part of what they are kept under."""
    assert seccomp._key(()) != seccomp._key(("--suppress-sync=yes",))
