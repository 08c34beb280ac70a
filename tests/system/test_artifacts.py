"""What is copied out of a session: all that was asked for, and nothing of the host."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from system.rig import Rig

HOST_PASSWD = Path("/etc/passwd").read_bytes()


def found(top: Path) -> dict[str, bytes]:
    """Relative path → content of all files below."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_files_arrive_with_their_content_mode_and_time(tiny: Rig) -> None:
    script = "mkdir -p out/sub; echo a > out/a; echo b > out/sub/b; : > out/empty; echo no > out/c.txt"
    script += "; chmod 750 out/a; touch -t 202001020304 out/a"
    result = tiny.result(script, "--artifact", "out/a", "--artifact", "out/sub/*", "--artifact", "out/em*")
    top = tiny.directory / "artifacts/tiny"
    assert found(top) == {"root/out/a": b"a\n", "root/out/sub/b": b"b\n", "root/out/empty": b""} or found(top) == {
        "out/a": b"a\n",
        "out/sub/b": b"b\n",
        "out/empty": b"",
    }
    path = next(top.rglob("a"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert path.stat().st_mtime < 1_600_000_000
    assert sorted((a["source"], a["size"]) for a in result["artifacts"]) == [
        ("/root/out/a", 2),
        ("/root/out/empty", 0),
        ("/root/out/sub/b", 2),
    ]
    assert all(os.path.isfile(a["path"]) for a in result["artifacts"])
    assert result["warnings"] == []


def test_they_belong_to_the_caller(tiny: Rig) -> None:
    tiny.run(
        "echo x > /tmp/x; mkdir -p /home/user/d; echo y > /home/user/d/y",
        "-u",
        "user",
        "--artifact",
        "d",
        "--output",
        "o",
        env={"SUDO_UID": "54321", "SUDO_GID": "54322"},
    )
    top = tiny.directory / "o"
    for path in [top / "tiny", *(top / "tiny").rglob("*")]:
        info = path.stat()
        assert (info.st_uid, info.st_gid) == (54321, 54322), path


def test_globs(tiny: Rig) -> None:
    names = "a/1.deb a/b/2.deb a/b/c/3.deb a/b/c/4.txt a/.hidden/5.deb x/6.deb 7.deb"
    script = f"mkdir -p a/b/c a/.hidden x; for f in {names}; do echo $f > $f; done; ln -s . a/loop; ln -s / a/root"
    tiny.run(script, "-w", "/home/user", "--artifact", "**/*.deb", "--output", "all")
    found = {path.name for path in (tiny.directory / "all").rglob("*.deb")}
    assert {"1.deb", "2.deb", "3.deb", "6.deb", "7.deb"} <= found
    tiny.run(script, "-w", "/home/user", "--artifact", "a/[0-2].?eb", "--output", "few")
    assert {path.name for path in (tiny.directory / "few").rglob("*") if path.is_file()} == {"1.deb"}
    tiny.run(script, "-w", "/home/user", "--artifact", "/home/user/a/b", "--output", "tree")
    assert {path.name for path in (tiny.directory / "tree").rglob("*") if path.is_file()} == {"2.deb", "3.deb", "4.txt"}


def test_a_glob_that_matches_nothing_is_a_warning(tiny: Rig) -> None:
    result = tiny.result("echo x > x", "--artifact", "y*", "--artifact", "x")
    assert result["state"] == "passed"
    assert len(result["artifacts"]) == 1
    assert any("y*" in text for text in result["warnings"])
    done = tiny.run("true", "--artifact", "y*")
    assert done.status == 0
    assert "warning" in done.said
    assert "y*" in done.said


def test_they_are_copied_when_the_command_fails_too(tiny: Rig) -> None:
    assert len(tiny.result("echo log > test.log; exit 3", "--artifact", "test.log")["artifacts"]) == 1
    assert (
        len(tiny.result("echo log > test.log; sleep 100", "--artifact", "test.log", "--timeout", "0.5")["artifacts"])
        == 1
    )


def test_a_sources_artifacts(tiny: Rig, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "old").write_text("from the host\n")
    result = tiny.result(
        "mkdir build; cat old > build/result",
        "--source",
        str(source),
        "--artifact",
        "build/*",
        "--artifact",
        "/src/old",
    )
    assert [a["source"] for a in result["artifacts"]] == ["/src/build/result", "/src/old"]
    assert set(found(tiny.directory / "artifacts").values()) == {b"from the host\n"}


@pytest.mark.parametrize(
    "trap",
    [
        "ln -s /etc/passwd trap",
        "ln -s ../../../../../../../../etc/passwd trap",
        "ln -s /proc/1/root/etc/passwd trap",
        "ln -s /etc etc-link; ln -s etc-link/passwd trap",
        "rm -rf /etc/x; ln -s /../../etc /tmp/e; ln -s /tmp/e/passwd trap",
    ],
)
def test_a_link_never_leads_to_the_hosts_files(tiny: Rig, trap: str) -> None:
    """The machine's own file, or nothing."""
    tiny.result(trap, "--artifact", "trap")
    for content in found(tiny.directory / "artifacts").values():
        assert content != HOST_PASSWD
        assert content.startswith(b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000")


def test_a_directory_that_is_a_link_never_leads_out(tiny: Rig) -> None:
    tiny.result(
        "ln -s /etc trap; ln -s /../../../etc trap2",
        "--artifact",
        "trap/*",
        "--artifact",
        "trap2",
        "--artifact",
        "trap*/pass**",
    )
    assert found(tiny.directory / "artifacts")
    for name, content in found(tiny.directory / "artifacts").items():
        assert content != HOST_PASSWD, name
        assert b"debian" not in content.lower(), name


def test_a_glob_cannot_climb(tiny: Rig) -> None:
    result = tiny.result("true", "--artifact", "../../../../../../../../etc/passwd", "--artifact", "/../etc/shadow")
    assert HOST_PASSWD not in found(tiny.directory / "artifacts").values()
    assert all(not a["path"].startswith("/etc") for a in result["artifacts"])


def test_what_is_no_file_is_a_warning_and_blocks_nobody(tiny: Rig) -> None:
    script = "mkfifo fifo; ln -s /dev/zero zero; ln -s nowhere dangling; mkdir -p d; echo fine > d/f; ln -s loop2 loop1; ln -s loop1 loop2"
    result = tiny.result(script, "--artifact", "*", timeout=30)
    assert [a["source"] for a in result["artifacts"]] == ["/root/d/f"]
    for name in ("fifo", "zero", "dangling", "loop1"):
        assert any(name in text for text in result["warnings"]), (name, result["warnings"])


def test_no_set_user_id_leaves_a_session(tiny: Rig) -> None:
    result = tiny.result("cp /bin/busybox su; chmod 6755 su", "--artifact", "su")
    assert stat.S_IMODE(os.stat(result["artifacts"][0]["path"]).st_mode) == 0o755


def test_an_output_directory_with_a_trap_in_it(tiny: Rig, tmp_path: Path) -> None:
    """A link that somebody put where a file goes is replaced, not followed."""
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    first = tiny.result("echo new > x", "--artifact", "x")["artifacts"][0]["path"]
    os.unlink(first)
    os.symlink(victim, first)
    tiny.result("echo new > x", "--artifact", "x")
    assert victim.read_text() == "precious\n"
    assert Path(first).read_text() == "new\n"
    assert not os.path.islink(first)


def test_names_that_are_no_text(tiny: Rig) -> None:
    script = r"mkdir d; echo x > d/$(printf 'a\377b'); echo y > d/$(printf 'a\nb')"
    result = tiny.result(script, "--artifact", "d")
    assert len(result["artifacts"]) == 2
    assert sorted(path.read_text() for path in (tiny.directory / "artifacts").rglob("a*b")) == ["x\n", "y\n"]


def test_a_tree_of_links_ends(tiny: Rig) -> None:
    """Directories that contain themselves by links."""
    script = "mkdir d; cd d; ln -s . a; ln -s . b; ln -s .. c; echo x > f; ln -s f g"
    result = tiny.result(script, "--artifact", "d", "--artifact", "**/f", timeout=30)
    assert sorted({a["source"] for a in result["artifacts"]}) == ["/root/d/f", "/root/d/g"]
