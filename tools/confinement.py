"""``make confinement``: what root may do in a Roost run, in nspawn, in podman and in bubblewrap, as a table.

Each row is what a small program finds inside. Whatever cannot run here is said, with its own words.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import roost
from roost.engine.spec import Bound
from roost.host import capabilities

# Calls with arguments that are never valid, without capabilities, so that what a filter refuses can be told from the rest.
PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <dirent.h>
#include <unistd.h>

static const int left_out[] = {SYS_rt_sigreturn, SYS_pause, SYS_clone, SYS_fork, SYS_vfork, SYS_exit, SYS_exit_group, SYS_reboot};
static const char *const hidden[] = {"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/kmsg",
    "/proc/timer_list", "/sys/dev/block", "/sys/firmware"};
static const char *const written[] = {"/proc/sys/kernel/hostname", "/proc/sys/vm/swappiness", "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/sysrq-trigger"};

static int shows(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return 0;
    DIR *directory = fdopendir(fd);
    if (!directory)
        return read(fd, &byte, 1) == 1;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.')
            return 1;
    return 0;
}

int main(void) {
    char line[512];
    FILE *status = fopen("/proc/self/status", "r"), *map = fopen("/proc/self/uid_map", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Cap", 3) || !strncmp(line, "NoNew", 5) || !strncmp(line, "Seccomp", 7))
            printf("%s", line);
    if (map && fgets(line, sizeof line, map))
        printf("uid_map: %s", line);
    printf("shown:");
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (shows(hidden[i]))
            printf(" %s", hidden[i]);
    printf("\nwritable:");
    for (size_t i = 0; i < sizeof written / sizeof *written; i++)
        if (open(written[i], O_WRONLY) >= 0)
            printf(" %s", written[i]);
    int devices = 0;
    DIR *directory = opendir("/dev");
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        devices += entry->d_type == DT_CHR || entry->d_type == DT_BLK;
    printf("\ndevices: %d\n", devices);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    syscall(SYS_capset, &header, none);
    printf("refused:");
    for (int nr = 0; nr < 512; nr++) {
        int skip = 0, state;
        for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
            skip |= left_out[i] == nr;
        if (skip)
            continue;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            struct itimerval soon = {.it_value.tv_usec = 200000};
            setitimer(ITIMER_REAL, &soon, NULL);
            long result = syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
            _exit(result == -1 && (errno == EPERM || errno == ENOSYS) ? 77 : 0);
        }
        waitpid(pid, &state, 0);
        if (WIFEXITED(state) && WEXITSTATUS(state) == 77)
            printf(" %d", nr);
    }
    printf("\n");
    return 0;
}
"""
NSPAWN = (
    "systemd-nspawn",
    "--keep-unit",
    "--register=no",
    "-q",
    "--settings=no",
    "--console=pipe",
    "--resolv-conf=off",
    "--timezone=off",
)
OWN = ("unshare", "-m", "-p", "-f", "--mount-proc", "--propagation", "private", "--kill-child")
BWRAP = ("bwrap", "--unshare-all", "--ro-bind")
INTO = ("/", "--proc", "/proc", "--dev", "/dev", "/probe")
PODMAN = """
mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup &&
exec podman --log-level=error --cgroup-manager=cgroupfs run --cgroups=disabled --rm --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 \
--network=none --rootfs "$1" /probe
"""


def said(*argv: str) -> str:
    """What the program says, or why there is nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"error: {e}"
    return (
        done.stdout.replace("\r", "")
        if "refused:" in done.stdout
        else f"error: {(done.stderr or done.stdout).strip()[-200:]}"
    )


def ours(manager: roost.Manager, machine: str, probe: str, user: str) -> str:
    """The same of a run."""
    text = bytearray()
    run = roost.Run(command=("/probe",), binds=(Bound(source=probe, target="/probe", read_only=True),), user=user)
    result = manager.run(machine, run, on_output=lambda _stream, data: text.extend(data))
    return text.decode() if result.state == "passed" else f"error: {result.error}"


def facts(text: str, outside: dict[str, str]) -> dict[str, str]:
    """One column."""
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    if "error" in found:
        return {"error": found["error"]}
    refused = set(found["refused"].split()) - set(outside["refused"].split())
    names = capabilities.names(int(found["CapBnd"], 16))
    effective = capabilities.names(int(found["CapEff"], 16))
    return {
        "capabilities": f"{len(names)}", "effective": f"{len(effective)}", "inheritable": found["CapInh"].lstrip("0") or "none",
        "no_new_privs": found["NoNewPrivs"], "seccomp programs": found.get("Seccomp_filters", "0"),
        "calls refused by them": f"{len(refused)}", "user namespace": "no" if found["uid_map"].split()[2] == "4294967295" else "yes",
        "shown of the host": found["shown"] or "nothing", "writable": found["writable"] or "nothing", "devices": found["devices"],
        "names": " ".join(name.removeprefix("CAP_").lower() for name in names),
    }  # fmt: skip


def main() -> None:
    """Prints the table, as JSON with --json."""
    with tempfile.TemporaryDirectory(prefix="roost-confinement-", dir="/var/tmp") as top:
        tree, probe = Path(top, "tree"), Path(top, "tree/probe")
        for name in ("usr", "etc", "proc", "sys", "dev", "run", "tmp"):
            (tree / name).mkdir(parents=True)
        Path(top).chmod(0o755)
        (tree / "etc/os-release").write_text("ID=probe\n")
        (Path(top) / "probe.c").write_text(PROBE)
        subprocess.run(("gcc", "-static", "-O1", "-o", str(probe), f"{top}/probe.c"), check=True)
        shifted = Path(top, "shifted")
        subprocess.run(("cp", "-a", str(tree), str(shifted)), check=True)
        subprocess.run(("chown", "-R", "1342177280:1342177280", str(shifted)), check=True)
        definition = Path(top, "roost.toml")
        definition.write_text('[machines.probe]\ndistribution = "debian"\nrelease = "bookworm"\n')
        manager = roost.Manager(roost.load(definition))
        outside = {n: v for n, _, v in (line.partition(":") for line in said(str(probe)).splitlines())}
        columns: dict[str, Any] = {
            "roost run": ours(manager, "probe", str(probe), "root"),
            "roost run -u": ours(manager, "probe", str(probe), "65534"),
            "nspawn": said(*OWN, *NSPAWN, "-M", "probe-a", "-D", str(tree), "/probe"),
            "nspawn -U": said(
                *OWN, *NSPAWN, "-M", "probe-b", "-D", str(shifted), "--private-users=1342177280:65536",
                "--private-users-ownership=off", "/probe",
            ),
            "podman": said("unshare", "-m", "sh", "-ec", PODMAN, "sh", str(tree)),
            "bubblewrap, by root": said(*BWRAP, str(tree), *INTO),
            "bubblewrap, by a user": said("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *BWRAP, str(tree), *INTO),
        }  # fmt: skip
        manager.close()
    table = {name: facts(text, outside) for name, text in columns.items()}
    if "--json" in sys.argv:
        print(json.dumps(table, indent=1))
        return
    rows = [row for row in next(iter(table.values())) if row != "names"]
    for name, found in table.items():
        print(f"{name}:" + (f" cannot run here: {found['error']}" if "error" in found else ""))
        for row in rows if "error" not in found else ():
            print(f"    {row:24} {found[row]}")
        if "names" in found:
            print(f"    {'':24} {found['names']}")


if __name__ == "__main__":
    main()
