"""`roost doctor` where SELinux is on: a host's files in a mount namespace, the real semodule, a small policy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from system.denials import BASE, SEED, avc

if TYPE_CHECKING:
    from system.rig import Rig

# No process here is confined: what is tested is what Roost reads and what it makes of the policy store.
HOST = """
set -e
mkdir -p "$1/cgroup"; mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t tmpfs none /sys/fs; mkdir /sys/fs/cgroup /sys/fs/selinux; mount --rbind "$1/cgroup" /sys/fs/cgroup
printf "$2" > /sys/fs/selinux/enforce
for place in /etc/selinux /var/lib/selinux /var/log; do mkdir -p $place; mount -t tmpfs none $place; done
mkdir -p /etc/selinux/test /var/lib/selinux/test/active/modules /var/log/audit
printf 'SELINUX=enforcing\\nSELINUXTYPE=test\\n' > /etc/selinux/config
printf 'module-store = direct\\n' > /etc/selinux/semanage.conf
semodule --install "$1/base.cil" >/dev/null 2>&1
cp "$1/audit.log" /var/log/audit/audit.log
shift 2
for step; do sh -c "$step"; done
"""


def on_host(rig: Rig, *steps: str, log: str = SEED, enforce: str = "1") -> str:
    """What shell commands print on a host with SELinux whose audit log is ``log``."""
    (rig.directory / "base.cil").write_text(BASE)
    (rig.directory / "audit.log").write_text(log)
    words = ("unshare", "-m", "--propagation", "private", "sh", "-c", HOST, "sh", str(rig.directory), enforce, *steps)
    done = subprocess.run(
        words, env=rig.environment(), cwd=rig.directory, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done
    return done.stdout.decode() + done.stderr.decode()


ROOST = f"{sys.executable} -m roost"
CHECK = f"{ROOST} doctor --json"
APPLY = f"{ROOST} doctor --apply"
INSTALLED = "cd /tmp && mkdir -p roost-out && cd roost-out && semodule -c -E roost >/dev/null && cat roost.cil; rm -rf /tmp/roost-out"


def check_of(text: str) -> dict[str, str]:
    [found] = [check for check in json.loads(text) if check["name"] == "SELinux"]
    assert isinstance(found, dict)
    return found


def test_denials_are_told_with_the_module(tiny: Rig) -> None:
    check = check_of(on_host(tiny, CHECK))
    assert check["state"] == "warning"
    assert check["found"].startswith(
        "enforcing; 3 refused; systemd-machine (systemd_machined_t) was refused search on dir 21786"
    )
    assert check["remedy"].endswith("(allow systemd_machined_t unconfined_service_t (file (open read)))\n")
    assert "doctor --apply" in check["remedy"]


def test_apply_shows_and_installs_it_and_then_there_is_nothing_to_say(tiny: Rig) -> None:
    said = on_host(tiny, APPLY, "echo ==", INSTALLED, "echo ==", CHECK)
    shown, installed, rest = said.split("==\n")
    after, told, _ = rest.partition("installed the SELinux module roost")
    assert "(allow systemd_machined_t unconfined_service_t (dir (search)))" in shown
    assert installed == shown
    check = check_of(after)
    assert check["state"] == "ok"
    assert "allowed since" in check["found"]
    assert told


def test_a_later_denial_adds_to_what_is_installed(tiny: Rig) -> None:
    later = avc(source="init_t", target="systemd_machined_t", kind="unix_stream_socket", what="connectto")
    (tiny.directory / "later").write_text(later)
    said = on_host(tiny, f"{APPLY} >/dev/null", f"cp {tiny.directory}/later /var/log/audit/audit.log", APPLY, INSTALLED)
    rules = [line for line in said.splitlines() if line.startswith("(allow")]
    assert (
        rules[: len(rules) // 2]
        == rules[len(rules) // 2 :]
        == [
            "(allow init_t systemd_machined_t (unix_stream_socket (connectto)))",
            "(allow systemd_machined_t unconfined_service_t (dir (search)))",
            "(allow systemd_machined_t unconfined_service_t (file (open read)))",
        ]
    )


def test_what_was_refused_before_the_host_started_counts_no_more(tiny: Rig) -> None:
    old = avc().replace("4102444800.123", f"{time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600:.3f}")
    assert check_of(on_host(tiny, CHECK, log=old))["state"] == "ok"
    assert "nothing to machines" in on_host(tiny, APPLY, log=old)


@pytest.mark.parametrize(("enforce", "state"), [("1", "enforcing"), ("0", "permissive")])
def test_what_is_left_out_is_said(tiny: Rig, enforce: str, state: str) -> None:
    log = (
        avc(source="httpd_t", target="shadow_t", fields='comm="systemd-nspawn"') + "avc:  denied  { read } for  pid=1\n"
    )
    check = check_of(on_host(tiny, CHECK, log=log, enforce=enforce))
    assert check["state"] == "ok"
    assert check["found"].startswith(f"{state}; 1 denials that cannot be read; left out: systemd-nspawn (httpd_t)")


def test_where_it_is_off_nothing_is_done(tiny: Rig) -> None:
    [check] = [check for check in tiny.json("doctor") if check["name"] == "SELinux"]
    assert (check["state"], check["found"]) == ("ok", "disabled")
    done = tiny("doctor", "--apply")
    assert (done.status, done.text) == (0, "")
    assert "SELinux is off" in done.said
