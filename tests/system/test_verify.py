"""A layer that was damaged is found, named file by file, and used by nobody who asked for whole ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roost import manifest
from roost.host import files
from system.rig import TINY, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from system.rig import Rig

TINY_LAYER = "7" * 64
SHORT = TINY_LAYER[:12]


def tree(rig: Rig, digest: str = TINY_LAYER) -> Path:
    """The layer's tree, to damage it. Its files are linked into other stores: what is written must be a new file."""
    return Path(rig.state) / "layers" / digest / "tree"


def replace(path: Path, data: bytes) -> None:
    """Other bytes, and nothing else different: what a bad disk does."""
    info = path.stat()
    path.unlink()
    path.write_bytes(data)
    os.chown(path, info.st_uid, info.st_gid)
    path.chmod(stat.S_IMODE(info.st_mode))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def kept_time(directory: Path, change: Callable[[], object]) -> None:
    """A change in a directory that its time does not tell."""
    info = directory.stat()
    change()
    os.utime(directory, ns=(info.st_atime_ns, info.st_mtime_ns))


def damaged(rig: Rig) -> dict[str, tuple[str, str]]:
    """path → (kind, what), of the layer tiny."""
    done = rig("layer", "verify", SHORT, "--json")
    assert done.status == 1, done
    [layer] = json.loads(done.out)["layers"]
    assert layer["state"] == "damaged"
    assert layer["count"] == len(layer["differences"])
    return {item["path"]: (item["kind"], item["what"]) for item in layer["differences"]}


def test_a_whole_layer(tiny: Rig) -> None:
    for words in ((), ("all",), ("tiny",), (SHORT,)):
        done = tiny("layer", "verify", *words)
        assert done.status == 0, done
        assert re.search(rf"{SHORT}\s+layer tiny\s+whole", done.text), done
        assert "layer tiny: whole, read in" in done.said
    assert tiny("layer", "verify", "-q").said == ""
    assert tiny("run", "tiny", "--verify", "--", "echo", "works").text == "works\n"
    assert tiny("build", "--verify").status == 0


def test_every_kind_of_damage_is_named(tiny: Rig) -> None:
    top = tree(tiny)
    kept_time(top / "etc", lambda: replace(top / "etc/motd", b"one\ntwO\nthree\n"))
    kept_time(top / "etc", (top / "etc/group").unlink)
    kept_time(top / "usr", (top / "usr/new\nname").mkdir)
    (top / "usr/new\nname/in").touch()
    (top / "tmp").chmod(0o777)
    os.chown(top / "home/user", 1001, 0)
    os.utime(top / "root", ns=(0, 0))
    for name in ("vi", "ls"):
        kept_time(top / "bin", (top / "bin" / name).unlink)
    kept_time(top / "bin", lambda: (top / "bin/vi").symlink_to("evil"))
    kept_time(top / "bin", (top / "bin/ls").mkdir)
    os.setxattr(top / "var", "trusted.overlay.opaque", b"y")
    found = damaged(tiny)
    found = {path: what for path, what in found.items() if path != "/bin/vi"} | {
        "/bin/vi": (found["/bin/vi"][0], found["/bin/vi"][1].replace("time, ", ""))
    }
    assert found == {
        "/etc/motd": ("changed", "content"),
        "/etc/group": ("missing", ""),
        "/usr/new\nname": ("added", ""),
        "/tmp": ("changed", "mode 0777, was 1777"),
        "/home/user": ("changed", "owner 1001, was 1000, group 0, was 1000"),
        "/root": ("changed", "time"),
        "/bin/vi": ("changed", "link target"),
        "/bin/ls": ("changed", "it is a dir, was a link"),
        "/var": ("changed", "attribute trusted.overlay.opaque added"),
    }
    done = tiny("layer", "verify")
    assert done.status == 1
    assert re.search(r"changed\s+/etc/motd: content\n", done.text), done
    assert "new\nname" not in done.text  # what a tree calls its files is not for the terminal to obey


def test_a_damaged_layer_is_not_used(tiny: Rig) -> None:
    replace(tree(tiny) / "etc/motd", b"evil\n")
    for words in (
        ("run", "tiny", "--verify", "--", "echo", "ran"),
        ("run", "--all", "--verify", "--", "echo", "ran"),
        ("shell", "tiny", "--verify"),
        ("build", "--verify"),
    ):
        done = tiny(*words)
        assert done.status == (6 if words[0] == "build" else 125), done
        assert "ran" not in done.text
        assert f"layer {SHORT} (layer tiny) is damaged" in done.said, done
        assert "changed /etc/motd" in done.said
        assert f"hint: make it again: `roost layer remove {SHORT} && roost build`" in done.said
        assert tiny.sessions() == []
    assert tiny("run", "tiny", "--", "echo", "ran").text == "ran\n"  # nobody asked


def test_nothing_is_made_on_a_damaged_layer_and_the_hint_mends_it(tiny: Rig) -> None:
    """With a layer and a session above it: the hint's commands, as they are printed, work."""
    tiny.define(TINY + 'scripts = ["echo made > /made"]\n')
    assert tiny("build").status == 0
    [made] = [item["digest"] for item in tiny.json("layer", "list") if item["digest"] != TINY_LAYER]
    session = tiny.kept("echo x > /x")
    assert tiny("layer", "verify").status == 0
    kept_time(tree(tiny, made), lambda: replace(tree(tiny, made) / "made", b"bade\n"))
    replace(tree(tiny) / "etc/motd", b"evil\n")
    more = tiny.file.read_text() + '[machines.other]\nfrom = "layer:tiny"\nscripts = ["echo other > /other"]\n'
    tiny.define(more)
    done = tiny("build", "--verify")
    assert done.status == 6, done
    assert "2 layers are damaged" in done.said, done
    assert len(tiny.json("layer", "list")) == 2
    done = tiny("layer", "verify", made[:12])
    assert "changed    /made: content" in done.text, done
    hint = re.search(r"make it again: `roost (layer remove .*) && roost build`", done.said)
    assert hint is not None, done
    assert f"roost session remove {session}`" in done.said
    assert tiny(*hint[1].split()).status == 7  # the session is somebody's
    assert tiny("session", "remove", session).status == 0
    assert tiny(*hint[1].split()).status == 0
    assert tiny("build", "tiny").status == 0
    assert tiny("layer", "verify", made[:12]).status == 0
    done = tiny("layer", "verify", "tiny")
    assert f"roost layer remove {made[:12]} {SHORT}" in done.said  # what stands on it goes first
    assert "tiny was committed" in done.said


@pytest.mark.parametrize("name", ["manifest", "layer.json"])
@pytest.mark.parametrize("how", ["changed", "emptied", "missing"])
def test_the_records_are_watched_too(tiny: Rig, name: str, how: str) -> None:
    path = tree(tiny).parent / name
    if how == "changed":
        text = path.read_bytes().replace(b"7" * 64, b"6" * 64).replace(b"/etc/motd", b"/etc/mote")
        text = text.replace(b"motd type=file", b"mote type=file")
        assert text != path.read_bytes()
        replace(path, text)
    elif how == "emptied":
        replace(path, b"")
    else:
        path.unlink()
    done = tiny("layer", "verify")
    assert done.status == 1, done
    assert "damaged" in done.text, done
    assert f"roost layer remove {SHORT}" in done.said
    done = tiny("run", "tiny", "--verify", "--", "echo", "ran")
    assert (done.status, done.out) != (0, b"ran\n"), done
    assert "Traceback" not in done.said
    assert tiny("layer", "remove", SHORT).status == 0  # as the hint says
    assert os.listdir(f"{tiny.state}/layers") == []


def test_a_layer_of_an_older_roost(tiny: Rig) -> None:
    """It says so and vouches for nothing; runs that do not ask go on."""
    path = tree(tiny).parent / "layer.json"
    record = json.loads(path.read_bytes())
    del record["manifest"]
    replace(path, json.dumps(record).encode())
    (tree(tiny).parent / "manifest").unlink()
    done = tiny("layer", "verify")
    assert done.status == 1
    assert "no manifest: an older Roost made it" in done.text
    done = tiny("run", "tiny", "--verify", "--", "echo", "ran")
    assert (done.status, done.out) == (125, b""), done
    assert "has no manifest" in done.said
    assert tiny("run", "tiny", "--", "echo", "ran").text == "ran\n"


def test_many_layers_and_one_is_removed_meanwhile(tiny: Rig) -> None:
    tiny.define("".join(f'[machines.m{n}]\nfrom = "layer:tiny"\nscripts = ["echo {n} > /n"]\n' for n in range(6)))
    assert tiny("build").status == 0
    with tiny.started("layer", "verify", "-j", "1") as child:
        assert child.stderr is not None
        child.stderr.readline()  # the first is done
        victim = max(set(os.listdir(f"{tiny.state}/layers")) - {TINY_LAYER})
        files.remove_tree(f"{tiny.state}/layers/{victim}")
        out, _ = child.communicate(timeout=30)
    assert child.returncode == 0, out
    assert tiny("layer", "verify", "0000").status == 6


def test_an_interrupted_verification(tiny: Rig) -> None:
    """A sparse file takes long to read; Ctrl-C ends it, and no process stays."""
    (tree(tiny) / "big").touch()
    os.truncate(tree(tiny) / "big", 1 << 40)
    with tiny.started("layer", "verify") as child:
        wait_for(lambda: Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text())
        os.kill(child.pid, 2)
        _, err = child.communicate(timeout=20)
    assert child.returncode == 130, err
    assert b"interrupted" in err


# -- the manifest itself


def hostile(top: Path) -> None:
    """A tree with everything that a tree may have."""
    top.mkdir()
    for name in ("a b", "new\nline", "tab\t#=\\", "ü", "..."):
        (top / name).mkdir()
        (top / name / name).write_text(name)
    (top / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"x")
    (top / "empty").touch()
    (top / "large").write_bytes(os.urandom(3 << 20))
    os.truncate(top / "large", 9 << 20)
    os.link(top / "large", top / "second")
    (top / "up").symlink_to("../../../etc/passwd")
    (top / "odd").symlink_to("a\nb =#")
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "whiteout", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(top / "disk", 0o660 | stat.S_IFBLK, os.makedev(253, 70000))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "socket"))
    (top / "suid").write_bytes(b"#!")
    os.chown(top / "suid", 12345, 65535)
    (top / "suid").chmod(0o6711)
    os.utime(top / "empty", ns=(0, -1))
    os.setxattr(top / "suid", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(top / "a b", "trusted.overlay.opaque", b"y")
    os.setxattr(top / "whiteout", "trusted.odd name", b"\0", follow_symlinks=False)


def words_of(lines: str) -> dict[str, dict[str, str]]:
    """A manifest of full paths or of nested names: path → keywords."""
    found: dict[str, dict[str, str]] = {}
    path: list[str] = []
    for line in lines.splitlines():
        name, *words = line.split(" ")
        if name in ("#mtree", ""):
            continue
        if name == "..":
            path.pop()
            continue
        full = name if "/" in name else "/".join([*path, name])
        found[full] = dict(word.split("=", 1) for word in words)
        if "/" not in name and found[full]["type"] == "dir":
            path.append(name)
    return found


def test_it_agrees_with_bsdtar(tmp_path: Path) -> None:
    """libarchive describes the same tree in the same words, and reads what we write."""
    top = tmp_path / "tree"
    hostile(top)
    manifest.write(str(top), str(tmp_path / "manifest"))
    options = "--options=mtree:!all,mtree:type,mtree:mode,mtree:uid,mtree:gid,mtree:size,mtree:time,mtree:link,mtree:device,mtree:sha256"
    argv = ("bsdtar", "-cf", "-", "--format=mtree", options, "-C", str(top), ".")
    theirs = words_of(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    ours = words_of((tmp_path / "manifest").read_text(encoding="ascii"))
    assert set(ours) == set(theirs) | {"./socket"}  # an archive has no sockets
    del ours["./socket"]
    assert sum(key.startswith("xattr.") for words in ours.values() for key in words) == 3
    for words in (*ours.values(), *theirs.values()):
        words["mode"] = words["mode"].lstrip("0")
        seconds, _, fraction = words["time"].partition(".")
        words["time"] = f"{seconds}.{int(fraction)}"  # bsdtar leaves out the zeros that mtree(5) wants before it
    plain = {
        path: {key: value for key, value in words.items() if not key.startswith("xattr.")}
        for path, words in ours.items()
    }
    for path, words in plain.items():
        if path != "./empty":  # before 1970 libarchive writes something else
            assert words == theirs[path], path
    listing = subprocess.run(("bsdtar", "-tf", tmp_path / "manifest"), cwd=top, capture_output=True, check=False)
    assert len(listing.stdout.splitlines()) >= len(theirs), listing


def test_a_hostile_tree_is_itself(tmp_path: Path) -> None:
    top, path = tmp_path / "tree", str(tmp_path / "manifest")
    hostile(top)
    made = manifest.write(str(top), path)
    usage = files.usage(str(top))
    assert (made.size, made.files) == (usage.size, usage.files)
    assert made.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert manifest.compare(str(top), path, made.sha256).count == 0
    os.setxattr(top / "suid", "security.capability", bytes.fromhex("0100000200000200000000000000000000000000"))
    kept_time(top, (top / "whiteout").unlink)
    kept_time(top, lambda: os.mknod(top / "whiteout", 0o600 | stat.S_IFCHR, 259))
    with (top / "large").open("r+b") as stream:  # one bit, in both of its names
        os.pwrite(stream.fileno(), b"\1", 8 << 20)
    os.utime(top / "large", ns=(0, 0))
    found = {item.path: item.what for item in manifest.compare(str(top), path, made.sha256).differences}
    assert found == {
        "/large": "time, content", "/second": "time, content", "/suid": "attribute security.capability",
        "/whiteout": "time, attribute trusted.odd name missing, device",
    }  # fmt: skip


def test_a_deep_and_a_wide_tree(tmp_path: Path) -> None:
    """Deeper than PATH_MAX, Python's stack and the limit on open files; the manifest grows with the number of files."""
    top = tmp_path / "tree"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("directory", dir_fd=here)
        below = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    for number in range(5000):
        os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    path = str(tmp_path / "manifest")
    made = manifest.write(str(top), path)
    assert os.path.getsize(path) < 200 * 8100
    os.unlink("17", dir_fd=here)
    os.close(here)
    found = manifest.compare(str(top), path, made.sha256)
    assert [item.kind for item in found.differences] == ["changed", "missing"]
    assert found.differences[1].path == "/directory" * 3000 + "/17"
    files.remove_tree(str(top))


def test_a_thousand_differences_are_counted(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(1000):
        (top / f"{number}").touch()
    made = manifest.write(str(top), str(tmp_path / "manifest"))
    for number in range(1000):
        (top / f"{number}").write_text("x")
    found = manifest.compare(str(top), str(tmp_path / "manifest"), made.sha256)
    assert found.count == 1000
    assert len(found.differences) == manifest.SHOWN
