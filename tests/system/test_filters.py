"""The filters of a session are stock nspawn's: tried call by call, with every number that the kernel has."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from roost.engine import seccomp
from roost.host import capabilities

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Group
    from system.rig import Rig

# Every number that the kernel has and many that it has not, those of the x32 ABI too, without valid arguments and each in a
# child of its own. Its argument is the set of capabilities to try with: roost-init leaves a session fewer than nspawn.
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static const long odd[] = {-1, -2, 0x3fffffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x10000003b};

/* Not syscall(3): a vfork must not return twice from a function. */
#ifdef I386 /* the calls of programs 32 bits wide, which any may make */
/* sigsuspend takes the mask itself, and waits with all signals blocked */
enum { FORK = 2, VFORK = 190, SUSPEND = 72 };
static inline long call(long nr) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"((int) nr), "b"(-1), "c"(-1), "d"(-1), "S"(-1), "D"(-1)
                     : "r8", "r9", "r10", "r11", "memory");
    return result;
}
#else
enum { FORK = SYS_fork, VFORK = SYS_vfork, SUSPEND = -1 };
static inline long call(long nr) {
    long result;
    register long r10 __asm__("r10") = -1, r8 __asm__("r8") = -1, r9 __asm__("r9") = -1;
    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(-1L), "S"(-1L), "d"(-1L), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}
#endif

static void try(long nr) {
    struct itimerval soon = {.it_value.tv_usec = 200000}; /* for pause(2) and the like */
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        setitimer(ITIMER_REAL, &soon, NULL);
        long result = call(nr);
        if (result == 0 && (nr == FORK || nr == VFORK)) /* its child */
            for (;;)
                __asm__ volatile("syscall" : : "a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
        char line[64];
        int n = snprintf(line, sizeof line, "%ld %s\n", nr, result < 0 && result > -4096 ? strerrorname_np((int) -result) : "done");
        _exit(write(1, line, (size_t) n) != n);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        printf("%ld signal %d\n", nr, WTERMSIG(status));
    else if (WEXITSTATUS(status))
        printf("%ld status %d\n", nr, WEXITSTATUS(status));
}

int main(int argc, char **argv) {
    unsigned long long mask = argc > 1 ? strtoull(argv[1], NULL, 16) : 0;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data))
        return 1;
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted &= (unsigned) (mask >> 32 * i), data[i].inheritable = 0;
    if (syscall(SYS_capset, &header, data))
        return 1;
    for (long nr = 0; nr < 1024; nr++)
        if (nr != SUSPEND)
            try(nr);
#ifdef I386
    return 0;
#endif
    for (long nr = 0x40000000; nr < 0x40000000 + 600; nr++)
        try(nr);
    for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++)
        try(odd[i]);
    return 0;
}
"""
MASK = f"{capabilities.mask(capabilities.default(private_users=True)):x}"


def stock(tree: Path, program: Path, options: tuple[str, ...], mask: str = MASK) -> list[str]:
    """What the program says in a container of nspawn's own making."""
    tree.mkdir()
    for name in ("usr", "etc", "bin"):
        (tree / name).mkdir()
    (tree / "etc/os-release").write_text("ID=x\n")
    text = f"""unshare -m -p -f --mount-proc --propagation private systemd-nspawn --quiet --keep-unit --register=no
        --settings=no --machine=stock --directory={tree} --private-users=1342177280:65536 --private-users-ownership=off
        --console=pipe --as-pid2 --link-journal=no --timezone=off --bind-ro={program}:/bin/calls"""
    argv = (*text.split(), *options, "/bin/calls", mask)
    subprocess.run(("chown", "-R", "1342177280:1342177280", str(tree)), check=True)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    return [line for line in done.stdout.splitlines() if line.lstrip("-")[:1].isdigit()]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, static."""
    place = tmp_path_factory.mktemp("calls")
    place.chmod(0o755)
    (place / "calls.c").write_text(PROGRAM)
    subprocess.run(("gcc", "-static", "-O1", "-o", str(place / "calls"), str(place / "calls.c")), check=True)
    return place / "calls"


def check(ours: list[str], theirs: list[str], group: Group) -> None:
    """The same answers, to all numbers."""
    group.clear()  # nspawn leaves its groups when it has no unit of its own
    assert len({line.split()[0] for line in ours}) == 1024 + 600 + 8
    assert "0 EBADF" in ours  # read
    assert "101 ESRCH" in ours  # ptrace, which debuggers and sanitizers need
    assert any(line.endswith(" EPERM") for line in ours)
    assert sorted(set(ours) ^ set(theirs)) == []


@pytest.mark.parametrize("network", ["host", "none"])
def test_every_call_gives_the_same_answer(tiny: Rig, group: Group, program: Path, tmp_path: Path, network: str) -> None:
    tiny.define(f'[machines.tiny]\nfrom = "layer:tiny"\nnetwork = {{ mode = "{network}" }}\n')
    done = tiny("run", "tiny", "--bind", f"{program}:/bin/calls", "--", "/bin/calls", MASK, timeout=120)
    assert done.status == 0, done
    check(
        done.text.splitlines(),
        stock(tmp_path / "tree", program, ("--private-network",) if network == "none" else ()),
        group,
    )


def test_every_call_of_i386_gives_the_same_answer(tiny: Rig, group: Group, program: Path, tmp_path: Path) -> None:
    """Its numbers are others, and so are its filters."""
    calls = tmp_path / "calls32"
    subprocess.run(("gcc", "-static", "-O1", "-DI386", "-o", str(calls), f"{program}.c"), check=True)
    done = tiny("run", "tiny", "--bind", f"{calls}:/bin/calls", "--", "/bin/calls", MASK, timeout=120)
    assert done.status == 0, done
    ours, theirs = done.text.splitlines(), stock(tmp_path / "tree", calls, ())
    group.clear()
    assert len({line.split()[0] for line in ours}) == 1023
    assert "3 EBADF" in ours  # read
    assert "26 ESRCH" in ours  # ptrace
    assert "288 EPERM" in ours  # keyctl, which nspawn's filters refuse
    assert sorted(set(ours) ^ set(theirs)) == []


def test_with_more_capabilities_too(tiny: Rig, group: Group, program: Path, tmp_path: Path) -> None:
    tiny.define(
        '[machines.tiny]\nfrom = "layer:tiny"\ncapabilities = ["CAP_SYS_TIME", "CAP_SYS_ADMIN", "CAP_SYS_PACCT"]\n'
    )
    found = tiny.run("grep CapBnd /proc/self/status").text.split()[1]
    done = tiny("run", "tiny", "--bind", f"{program}:/bin/calls", "--", "/bin/calls", found, timeout=120)
    assert done.status == 0, done
    check(
        done.text.splitlines(),
        stock(tmp_path / "tree", program, ("--capability=CAP_SYS_TIME,CAP_SYS_PACCT",), found),
        group,
    )


def test_a_layers_steps_too(tiny: Rig, group: Group, program: Path, tmp_path: Path) -> None:
    files = f'files = {{ "/bin/calls" = {{ source = "{program}", mode = "0755" }} }}'
    tiny.define(f'[machines.tiny]\nfrom = "layer:tiny"\n{files}\nscripts = ["/bin/calls {MASK} > /answers"]\n')
    assert tiny("build").status == 0
    check(
        tiny.run("cat /answers").text.splitlines(), stock(tmp_path / "tree", program, ("--suppress-sync=yes",)), group
    )


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
