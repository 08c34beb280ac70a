"""Denials as hosts have recorded them, and what somebody might forge."""

from __future__ import annotations

from pathlib import Path

SEED = (Path(__file__).parent / "data" / "avc-machined.txt").read_text()
"""Fedora's systemd-machined, when a machine was started by hand: the three that sai's manual has a module each for."""

BASE = """
(handleunknown allow)
(mls true)
(sid kernel)
(sidorder (kernel))
(class process (fork ptrace))
(class dir (search getattr read))
(class file (read open getattr))
(class unix_stream_socket (connectto))
(classorder (process dir file unix_stream_socket))
(sensitivity s0)
(sensitivityorder (s0))
(category c0)
(categoryorder (c0))
(sensitivitycategory s0 (c0))
(level low (s0))
(level high (s0 (c0)))
(levelrange low_high (low high))
(typeattribute cil_gen_require)
(roleattribute cil_gen_require)
(type kernel_t)
(type systemd_machined_t)
(type unconfined_service_t)
(type init_t)
(role system_r)
(role object_r)
(roletype system_r kernel_t)
(roletype system_r systemd_machined_t)
(roletype system_r unconfined_service_t)
(roletype system_r init_t)
(user system_u)
(userrole system_u system_r)
(userlevel system_u low)
(userrange system_u low_high)
(sidcontext kernel (system_u system_r kernel_t (low high)))
(allow kernel_t kernel_t (process (fork)))
"""
"""The smallest policy that has what the denials are about."""


def avc(
    *, source: str = "systemd_machined_t", target: str = "unconfined_service_t", kind: str = "file", what: str = "read",
    fields: str = 'comm="systemd-machine" name="cgroup"', level: str = "s0",
) -> str:  # fmt: skip
    """A line as auditd writes it."""
    return (
        f"type=AVC msg=audit(4102444800.123:77): avc:  denied  {{ {what} }} for  pid=1 {fields} "
        f"scontext=system_u:system_r:{source}:{level} tcontext=system_u:system_r:{target}:s0 tclass={kind} permissive=0\n"
    )
