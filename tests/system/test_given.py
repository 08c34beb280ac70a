"""What a run is given of the host: checkouts as copy-on-write trees, and paths as they are."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from system.rig import Rig


def fingerprint(top: Path) -> dict[str, tuple[object, ...]]:
    """All that a tree is: names, owners, modes, times and content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            content = b""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as stream:
                    content = stream.read()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path).encode()
            digest = hashlib.sha256(content).hexdigest()
            found[path] = (
                info.st_ino,
                info.st_uid,
                info.st_gid,
                info.st_mode,
                info.st_mtime_ns,
                info.st_ctime_ns,
                info.st_nlink,
                digest,
            )
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout."""
    top = tmp_path / "checkout"
    (top / "sub/deep").mkdir(parents=True)
    (top / "file").write_text("original\n")
    (top / "sub/other").write_text("other\n")
    (top / "build.sh").write_text("#!/bin/sh\necho built > out\n")
    (top / "build.sh").chmod(0o755)
    (top / "link").symlink_to("file")
    (top / ".git").mkdir()
    (top / ".git/HEAD").write_text("ref: refs/heads/main\n")
    return top


CHANGE_ALL = """
set -e
[ "$(pwd)" = /src ]
echo changed > file; rm sub/other; rmdir sub/deep; mkdir sub/new; echo new > sub/new/f; chmod 600 build.sh; ln -sf sub link
touch -t 200001010000 .git/HEAD; mv .git/HEAD .git/HEAD2; echo more >> file; cat file; ls -A | sort | tr '\\n' ' '
"""


@pytest.mark.parametrize("user", ["root", "user"])
def test_a_source_can_be_changed_and_the_original_stays(tiny: Rig, checkout: Path, user: str) -> None:
    before = fingerprint(checkout)
    done = tiny.run(CHANGE_ALL, "--source", str(checkout), "-u", user)
    assert done.status == 0, done
    assert done.text == "changed\nmore\n.git build.sh file link sub "
    assert fingerprint(checkout) == before


@pytest.mark.parametrize(("user", "uid"), [("root", "0"), ("user", "1000")])
@pytest.mark.parametrize("owner", [0, 1000, 54321, 3_000_000])
def test_a_source_belongs_to_the_sessions_user(tiny: Rig, checkout: Path, user: str, uid: str, owner: int) -> None:
    """Whoever owns it on the host."""
    subprocess.run(("chown", "-R", f"{owner}:{owner}", str(checkout)), check=True)
    before = fingerprint(checkout)
    done = tiny.run(
        "stat -c %u . file sub/deep; ./build.sh; cat out; stat -c %u out", "--source", str(checkout), "-u", user
    )
    assert done.text.split() == [uid, uid, uid, "built", uid], done
    assert fingerprint(checkout) == before


def test_a_source_without_private_users(tiny: Rig, checkout: Path) -> None:
    tiny.define('[machines.tiny]\nfrom = "layer:tiny"\nprivate-users = false\n')
    subprocess.run(("chown", "-R", "54321:54321", str(checkout)), check=True)
    before = fingerprint(checkout)
    done = tiny.run("stat -c %u . file; ./build.sh; cat out", "--source", str(checkout), "-u", "user")
    assert done.text.split() == ["1000", "1000", "built"], done
    assert fingerprint(checkout) == before


def test_a_source_elsewhere_and_two_sources(tiny: Rig, checkout: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "s").write_text("second\n")
    done = tiny.run(
        "pwd; cat /opt/work/tree/file /src2/s", "--source", f"{checkout}:/opt/work/tree", "--source", str(second)
    )
    assert done.text == "/opt/work/tree\noriginal\nsecond\n", done


def test_a_source_with_an_odd_name(tiny: Rig, tmp_path: Path) -> None:
    odd = tmp_path / "a b,c\\d=é"
    odd.mkdir()
    (odd / "f").write_text("here\n")
    assert tiny.run("cat f", "--source", str(odd)).text == "here\n"


def test_two_runs_over_one_source_at_once(tiny: Rig, checkout: Path) -> None:
    before = fingerprint(checkout)
    script = "for i in 1 2 3 4 5 6; do echo $0 >> file; echo x > new$i; sleep 0.05; done; cat file"
    with tiny.started("run", "tiny", "--source", ".", "--", "sh", "-c", script, "A") as a:  # noqa: SIM117
        with tiny.started("run", "tiny", "--source", str(checkout), "--", "sh", "-c", script, "B") as b:
            first = a.communicate(timeout=30)[0]
            second = b.communicate(timeout=30)[0]
    assert first == b"A\n" * 6
    assert second == b"original\n" + b"B\n" * 6
    assert fingerprint(checkout) == before


def test_a_link_out_of_a_source_leads_into_the_machine(tiny: Rig, checkout: Path) -> None:
    (checkout / "out").symlink_to("/etc/passwd")
    assert "user:x:1000" in tiny.run("cat out; echo x > out", "--source", str(checkout)).text
    assert "user:x:1000" not in Path("/etc/passwd").read_text()


@pytest.mark.parametrize(("path", "word"), [("/nowhere/at/all", "does not exist"), ("/etc/passwd", "not a directory")])
def test_a_source_that_is_none(tiny: Rig, path: str, word: str) -> None:
    done = tiny.run("true", "--source", path)
    assert done.status == 125
    assert path in done.said
    assert word in done.said


def test_a_bind_is_read_only_unless_told(tiny: Rig, checkout: Path) -> None:
    before = fingerprint(checkout)
    done = tiny.run(
        "cat /in/file; echo x > /in/file; echo x > /in/new; chmod 777 /in; rm /in/file; touch /in/file",
        "--bind",
        f"{checkout}:/in",
    )
    assert done.out == b"original\n"
    assert done.err.count(b"Read-only file system") == 5, done
    assert fingerprint(checkout) == before


@pytest.mark.parametrize(("user", "uid"), [("root", "0"), ("user", "1000")])
@pytest.mark.parametrize("owner", [0, 54321])
def test_a_bind_may_be_written_as_its_owner(tiny: Rig, checkout: Path, user: str, uid: str, owner: int) -> None:
    subprocess.run(("chown", "-R", f"{owner}:{owner}", str(checkout)), check=True)
    done = tiny.run(
        "stat -c %u /in /in/file; echo x > /in/new; mkdir /in/d; echo y >> /in/file",
        "--bind",
        f"{checkout}:/in:rw",
        "-u",
        user,
    )
    assert (done.text.split(), done.err) == ([uid, uid], b"")
    assert {os.stat(checkout / name).st_uid for name in ("new", "d", "file")} == {owner}
    assert (checkout / "file").read_text() == "original\ny\n"


def test_a_bind_gives_no_way_to_make_files_of_the_hosts_root(tiny: Rig, checkout: Path) -> None:
    """A session's root may write where somebody let it, but leaves no set-user-id program of uid 0 there."""
    subprocess.run(("chown", "-R", "54321:54321", str(checkout)), check=True)
    script = "cp /bin/busybox /in/su; for id in 0 1 54321 65534; do"
    script += " chown $id:$id /in/su; chmod 6755 /in/su; cp -p /in/su /in/su$id; done; true"
    tiny.run(script, "--bind", f"{checkout}:/in:rw")
    assert [path.name for path in checkout.iterdir() if path.lstat().st_uid == 0 or path.lstat().st_gid == 0] == []


def test_a_file_a_socket_and_a_device_can_be_bound(tiny: Rig, checkout: Path) -> None:
    done = tiny.run(
        "cat /etc/given; echo x > /dev/gone && ls -l /dev/gone",
        "--bind",
        f"{checkout}/file:/etc/given",
        "--bind",
        "/dev/null:/dev/gone:rw",
    )
    assert done.text.startswith("original\n")
    assert done.err == b""


def test_a_bind_over_a_link_of_the_tree_stays_in_the_session(tiny: Rig, checkout: Path, tmp_path: Path) -> None:
    """A target that leads out of the tree by a link touches nothing of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    session = tiny.kept(
        f"ln -s {outside} /trap; ln -s /../../../../../..{outside} /trap2; ln -s /usr/share /good; ln -s {outside} /usr/share/trap3"
    )
    assert tiny("session", "commit", session, "trapped").status == 0
    tiny.define('[machines.tiny]\nfrom = "layer:trapped"\n')
    for target in ("/trap/x", "/trap2/y", "/good/trap3/z"):
        done = tiny.run(f"cat {target}/file", "--bind", f"{checkout}:{target}")
        assert done.status == 125 or done.text == "original\n", done
        assert list(outside.iterdir()) == []
    assert tiny.run("cat /good/x/file", "--bind", f"{checkout}:/good/x").text == "original\n"


def test_binds_of_a_definition(tiny: Rig, checkout: Path) -> None:
    tiny.define(
        f'[machines.tiny]\nfrom = "layer:tiny"\n'
        f'binds = ["{checkout}:/in", {{ source = "{checkout}", target = "/rw", read-only = false }}]\n'
    )
    done = tiny.run("cat /in/file; echo x > /in/n; echo y > /rw/n; cat /in/n")
    assert done.text == "original\ny\n", done


@pytest.mark.parametrize("text", ["/nowhere:/x", "/etc:relative", "/etc:/x:maybe", "/etc:/x:rw:more"])
def test_a_bind_that_cannot_be_meant(tiny: Rig, text: str) -> None:
    done = tiny.run("true", "--bind", text)
    assert done.status == 125
    assert "--bind" in done.said
    assert "hint:" in done.said


def test_a_source_that_changes_meanwhile(tiny: Rig, checkout: Path) -> None:
    """What is unchanged in the session may follow the host; it neither fails nor writes."""
    with tiny.started(
        "run",
        "tiny",
        "--source",
        str(checkout),
        "--",
        "sh",
        "-c",
        "echo ready; cat; cat sub/other",
        stdin=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        (checkout / "new-file").write_text("x")
        child.stdin.close()
        child.stdin = None
        out, _ = child.communicate(timeout=20)
    assert out == b"other\n"
    assert child.returncode == 0
