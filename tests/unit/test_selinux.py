"""SELinux's denials: read, judged, and made a module that allows exactly them; compiled by the real compiler."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from roost.host import selinux
from system.denials import BASE, SEED, avc

if TYPE_CHECKING:
    from pathlib import Path

THREE = """\
(typeattributeset cil_gen_require systemd_machined_t)
(typeattributeset cil_gen_require unconfined_service_t)
(allow systemd_machined_t unconfined_service_t (dir (search)))
(allow systemd_machined_t unconfined_service_t (file (open read)))
"""


def module(log: str) -> str:
    """What would be installed for a log, without comments."""
    taken = [one for one in selinux.parse(log).denials if selinux.judge(one)[0]]
    return selinux.module_text(selinux.rules_of(taken))


def allowed(directory: Path, text: str) -> set[str]:
    """The rules of the policy that the base and a module compile to, read back from the kernel's own format."""
    (directory / "base.cil").write_text(BASE)
    (directory / "roost.cil").write_text(text)
    words: tuple[str, ...] = ("secilc", "-M", "true", "-o", "policy", "-f", "contexts", "base.cil", "roost.cil")
    subprocess.run(words, cwd=directory, check=True, capture_output=True)
    words = ("checkpolicy", "-M", "-b", "-C", "-o", "back.cil", "policy")
    subprocess.run(words, cwd=directory, check=True, capture_output=True)
    return set(re.findall(r"^\(allow .*\)$", (directory / "back.cil").read_text(), re.MULTILINE))


def test_the_seed_s_three_denials_make_its_module() -> None:
    read = selinux.parse(SEED)
    assert [one.permissions for one in read.denials] == [("search",), ("read",), ("open",)]
    assert [one.object for one in read.denials] == ["21786", "cgroup", "/proc/21937/cgroup"]
    assert {one.comm for one in read.denials} == {"systemd-machine"}
    assert read.unread == 0
    assert module(SEED) == THREE


def test_the_module_compiles_and_allows_nothing_else(tmp_path: Path) -> None:
    before = allowed(tmp_path, "")
    text = selinux.module_text(selinux.rules_of(selinux.parse(SEED).denials), ["a note\n(allow x y (z (w)))"])
    assert allowed(tmp_path, text) - before == {
        "(allow systemd_machined_t unconfined_service_t (dir (search)))",
        "(allow systemd_machined_t unconfined_service_t (file (read open)))",
    }


def test_a_module_for_a_type_that_the_policy_lacks_is_refused_whole(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        allowed(tmp_path, module(SEED + avc(target="no_such_t")))


@pytest.mark.parametrize(
    "line",
    [
        "Mar  1 10:00:00 host kernel: audit: type=1400 audit(1.2:3): " + SEED.splitlines()[0].removeprefix("AVC "),
        "[   12.345678] audit: type=1400 audit(1.2:3): " + SEED.splitlines()[0].removeprefix("AVC "),
        "type=AVC msg=audit(01/03/26 10:00:00.123:77) : " + SEED.splitlines()[0].removeprefix("AVC "),
        "----\ntime->Sun Mar  1 10:00:00 2026\ntype=AVC msg=audit(1.2:3): " + SEED.splitlines()[0].removeprefix("AVC "),
    ],
    ids=["journal", "dmesg", "ausearch-i", "ausearch"],
)
def test_every_tool_s_form_is_read(line: str) -> None:
    assert module(line) == (
        "(typeattributeset cil_gen_require systemd_machined_t)\n"
        "(typeattributeset cil_gen_require unconfined_service_t)\n"
        "(allow systemd_machined_t unconfined_service_t (dir (search)))\n"
    )


def test_several_permissions_and_ranges() -> None:
    log = avc(what="read getattr open", level="s0-s0:c0.c1023") + avc(what="open")
    [first, _] = selinux.parse(log).denials
    assert first.permissions == ("read", "getattr", "open")
    assert first.ranges == ("s0-s0:c0.c1023", "s0")
    assert module(log).splitlines()[-1] == (
        "(allow systemd_machined_t unconfined_service_t (file (getattr open read)))"
    )


def test_a_context_may_have_no_range() -> None:
    assert "(allow systemd_machined_t unconfined_service_t (file (read)))" in module(avc().replace(":s0", ""))


def test_names_that_the_kernel_wrote_in_hexadecimal() -> None:
    [one] = selinux.parse(avc(fields="comm=73797374656D64206D name=2F612022620A")).denials
    assert (one.comm, one.object) == ("systemd m", '/a "b\n')
    assert "\n" not in selinux.described(one)


def test_a_process_s_denial_of_its_own_is_allowed_for_itself() -> None:
    log = avc(target="systemd_machined_t", kind="process", what="ptrace")
    assert module(log).splitlines() == [
        "(typeattributeset cil_gen_require systemd_machined_t)",
        "(allow systemd_machined_t self (process (ptrace)))",
    ]


def test_what_is_cut_off_allows_nothing_that_was_not_refused() -> None:
    """A class is believed only when something follows it: ``file`` may be the beginning of ``filesystem``."""
    whole = module(avc())
    found = [module(avc()[:cut]) for cut in range(len(avc()))]
    assert set(found) == {"", whole}
    assert found.index(whole) > avc().index(" permissive")


HOSTILE = {
    "two contexts": avc(fields='cmdline="x" scontext=u:r:systemd_machined_t:s0 tclass=file z=""'),
    "contexts in quotes": avc(fields='cmdline="x scontext=u:r:a_t tcontext=u:r:b_t tclass=file"'),
    "a swallowed end": avc(fields='cmdline="x" scontext=u:r:a_t tcontext=u:r:b_t tclass=file z="').replace(
        "s0 tc", 's0" tc'
    ),
    "CIL in a type": avc(target="x)(allow a b (c (d)))"),
    "CIL in a class": avc(kind="file(read))(allow"),
    "CIL in a permission": avc(what="read))) (allow a b (file (write"),
    "no permission": avc(what=""),
    "two at once": avc().strip() + " " + avc(),
    "too long": avc(fields='name="' + "a" * 20000 + '"'),
    "no contexts": "avc:  denied  { read } for  pid=1\n",
}


@pytest.mark.parametrize("log", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_could_be_forged_allows_nothing(log: str) -> None:
    read = selinux.parse(log)
    assert read.denials == ()
    assert read.unread == 1


def test_a_name_cannot_leave_its_comment(tmp_path: Path) -> None:
    name = b"x\n(allow kernel_t init_t (file (read)))\n".hex().upper()
    [one] = selinux.parse(avc(fields=f"comm={name} name={name}")).denials
    text = selinux.module_text(selinux.rules_of([one]), [selinux.described(one)])
    assert not any("kernel_t" in rule and "init_t" in rule for rule in allowed(tmp_path, text))


@pytest.mark.parametrize(
    ("log", "taken", "why"),
    [
        (avc(), True, "domain of systemd-machined"),
        (avc(source="systemd_nspawn_t"), True, "domain of systemd-nspawn"),
        (avc(source="init_t", target="systemd_machined_var_run_t"), True, "business"),
        (avc(source="httpd_t", target="systemd_machined_t"), False, "no business"),
        (avc(source="httpd_t", target="shadow_t", fields='comm="systemd-nspawn"'), False, "calls itself"),
        (avc(source="httpd_t", target="shadow_t", fields='comm="httpd"'), False, ""),
    ],
)
def test_only_what_concerns_machines_is_taken(log: str, taken: bool, why: str) -> None:
    [one] = selinux.parse(log).denials
    found = selinux.judge(one)
    assert found[0] is taken
    assert why in found[1]
    assert bool(found[1]) is bool(why)


def test_a_program_is_known_by_the_kernel_s_word() -> None:
    call = 'type=SYSCALL msg=audit(4102444800.123:77): syscall=2 comm="systemd-nspawn" exe="/usr/bin/systemd-nspawn" key=(null)\n'
    log = avc(source="some_t", target="other_t", fields='comm="systemd-nspawn"')
    assert module(log) == ""
    assert "(allow some_t other_t (file (read)))" in module(log + call)
    assert module(log + call.replace("exe=", "exe=x exe=")) == ""
    assert module(log + call.replace(":77)", ":78)")) == ""


def test_what_was_granted_and_what_is_something_else_is_passed_over() -> None:
    log = avc().replace("denied", "granted") + "type=USER_LOGIN msg=audit(1.1:1): pid=1 avc\nnothing at all\n\0\n"
    assert selinux.parse(log) == selinux.Read(denials=(), unread=0)


def test_an_installed_module_is_read_back() -> None:
    rules = selinux.rules_of(selinux.parse(SEED + avc(target="systemd_machined_t")).denials)
    assert selinux.installed_rules(selinux.module_text(rules, ["; (allow no_t thing_t (file (x)))"][:0])) == rules
