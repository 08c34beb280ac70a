"""apt.conf(5), read and written."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from roost.host import apt_conf

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
// a comment
# another; with "quotes" { and braces
Acquire::http::Proxy "http://proxy.example:3128"; // behind a value
Acquire { /* inside */ https { CaInfo "/etc/ca.pem"; Verify-Peer "true"; };
  Retries 3;
  Languages { "environment"; "en"; };
};
Acquire::http::Proxy::mirror.example DIRECT;
APT::NeverAutoRemove { "^a b.*$"; };
DPkg::Post-Invoke {"test -e /x && echo 'http://not a comment' || true";};
Empty "";
"""


def test_every_form_of_a_setting_is_read() -> None:
    assert apt_conf.parse(TEXT) == [
        ("Acquire::http::Proxy", "http://proxy.example:3128"),
        ("Acquire::https::CaInfo", "/etc/ca.pem"),
        ("Acquire::https::Verify-Peer", "true"),
        ("Acquire::Retries", "3"),
        ("Acquire::Languages::", "environment"),
        ("Acquire::Languages::", "en"),
        ("Acquire::http::Proxy::mirror.example", "DIRECT"),
        ("APT::NeverAutoRemove::", "^a b.*$"),
        ("DPkg::Post-Invoke::", "test -e /x && echo 'http://not a comment' || true"),
        ("Empty", ""),
    ]


def test_files_are_applied_one_after_the_other() -> None:
    first = apt_conf.parse('A::b "1"; A::list { "x"; }; A::c::d "2"; A::cc "3";')
    second = apt_conf.parse('a::B "4"; A::list:: "y"; #clear A::c;\n')
    assert apt_conf.apply(first, second) == [("A::list::", "x"), ("A::cc", "3"), ("a::B", "4"), ("A::list::", "y")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A {", "ends inside"),
        ('A "1"', "ends inside"),
        ("};", "closes nothing"),
        ("\n\n{ }", "line 3"),
        ('A "1" "2" "3";', "more than a name"),
        ('A "1', "cannot be read"),
        ('#include "/etc/other";', "not followed"),
    ],
)
def test_what_apt_would_refuse_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        apt_conf.parse(text)


def test_what_is_written_is_read_again() -> None:
    settings = [("Acquire::http::Proxy", "http://u:p@proxy:1/"), ("DPkg::Options::", "--force-confold")]
    assert apt_conf.parse(apt_conf.dump(settings)) == settings


@pytest.mark.parametrize("setting", [("A", 'with "quotes"'), ("A", "two\nlines"), ("A b", "1"), ("A;", "1")])
def test_what_cannot_be_written_is_refused(setting: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        apt_conf.dump([setting])


@pytest.mark.skipif(not shutil.which("apt-config"), reason="compares with apt itself, which is not here")
def test_apt_itself_reads_the_same(tmp_path: Path) -> None:
    config = tmp_path / "apt.conf"
    config.write_text(TEXT)
    environment = {"APT_CONFIG": str(config), "PATH": "/usr/bin:/bin"}
    lines = subprocess.check_output(["apt-config", "dump"], env=environment, text=True).splitlines()
    for key, value in apt_conf.parse(TEXT):
        # the host's own files come after ours, and may set these
        if value and not key.startswith(("Acquire::Languages", "Acquire::Retries")):
            assert f'{key} "{value}";' in lines
