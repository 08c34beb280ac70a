"""Trees that were made to attack: whatever lies where Roost or nspawn reads or writes, nothing on the host is touched."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from roost.records import LayerRecord
from roost.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from system.rig import Rig

# where nspawn, Roost or a step reads or writes
FILES = (
    "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/passwd", "etc/group", "etc/os-release", "usr/lib/os-release", "etc/machine-id",
    "etc/localtime", "etc/motd", "var/lib/dpkg/status",
)  # fmt: skip
DIRECTORIES = (
    "root",
    "home/user",
    "tmp",
    "var",
    "var/cache/apt/archives",
    "etc",
    "usr",
    "src",
    "given",
    "run/host",
    "home",
)
MOUNTED = ("dev", "proc", "sys", "run")  # by nspawn, whatever the machine is


def evil_layer(rig: Rig, attack: Callable[[Path], None]) -> None:
    """Makes the machine ``evil``: the tree of ``tiny`` after an attack."""
    store = Store(rig.state)
    record = LayerRecord(
        digest="e" * 64, parents=(), kind="committed", name="layer evil", family="apt", facts={}, created=1.0
    )
    with store.staged("stage") as stage:
        shutil.copytree(store.tree("7" * 64), f"{stage}/tree", symlinks=True)
        os.chown(f"{stage}/tree/home/user", 1000, 1000)
        for name in ("var/lib/dpkg", "usr/lib"):
            os.makedirs(f"{stage}/tree/{name}", exist_ok=True)
        attack(Path(stage, "tree"))
        store.publish(stage, record)
    store.set_name("evil", record.digest)


def put(tree: Path, name: str, make: Callable[[Path], None]) -> None:
    """Replaces what is at a name."""
    path = tree / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def shape(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory, with what would change if somebody touched it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))):
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        found[str(path)] = (
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_mtime_ns,
            info.st_ino,
            info.st_nlink,
            content,
        )
    return found


@pytest.fixture
def canary() -> Iterator[Path]:
    """A directory of the host that no session may reach; at a place that no link of these tests replaces."""
    top = Path(tempfile.mkdtemp(prefix="roost-tests-", dir="/srv"))
    (top / "directory/inner").mkdir(parents=True)
    (top / "file").write_text("secret\n")
    (top / "passwd").write_text("root:x:0:0:secret:/root:/bin/sh\nuser:x:77:77::/secret:/bin/sh\n")
    os.utime(top / "file", (1, 1))
    yield top
    shutil.rmtree(top)


def use(rig: Rig, evil: str = "evil", *, build: bool = True) -> list[tuple[str, int, str]]:
    """Everything that is done with a machine: (what, status, what was said)."""
    rig.define(
        f'[machines.{evil}]\nfrom = "layer:evil"\n'
        f'[machines.offline]\nfrom = "layer:evil"\nnetwork = {{ mode = "none" }}\n'
        f'[machines.above]\nfrom = "layer:evil"\nscripts = ["true"]\n'
        '[machines.above.files]\n"/etc/motd" = { content = "x" }\n"/var/new/file" = { content = "x" }\n'
    )
    checkout = rig.directory / "checkout"
    checkout.mkdir(exist_ok=True)
    (checkout / "a").write_text("a\n")
    done = []

    def do(*words: str) -> str:
        one = rig(*words, timeout=30)
        done.append((" ".join(words), one.status, one.said))
        assert "Traceback" not in one.said, one
        return one.text

    do("run", evil, "--", "/bin/true")
    if done[0][1] == 125:  # so will all others
        do("build", "above")
        return done
    do("run", "offline", "--", "/bin/true")
    do("run", evil, "-u", "user", "--source", str(checkout), "--bind", f"{checkout}:/given/b:rw", "--", "/bin/true")
    do(
        "run",
        evil,
        "-w",
        "/",
        "--artifact",
        "/etc/*",
        "--artifact",
        "/root/**",
        "--artifact",
        "/home/user/*",
        "--",
        "/bin/true",
    )
    if build:
        do("build", "above")
    do("run", evil, "--keep", "--", "/bin/busybox", "touch", "/etc/new", "/new")
    for session in rig.sessions():
        do("session", "diff", session)
        do("session", "diff", session, "--content", "/etc/passwd")
        do("session", "commit", session, "second")
        do("session", "remove", session)
    do("layer", "show", "evil")
    return done


def links(tree: Path, names: Iterable[str], target: Path, *, relative: bool) -> None:
    """Replaces what is at names by links to a path of the host, which exists in the tree, too."""
    for name in names:
        there = target / ("passwd" if name == "etc/passwd" else "file") if name in FILES else target / "directory"
        to = f"{'../' * 20 if relative else '/'}{str(there).lstrip('/')}"
        put(tree, name, partial(os.symlink, to))
    inner = tree / str(target).lstrip("/")
    (inner / "directory/inner").mkdir(parents=True, exist_ok=True)
    (inner / "directory").chmod(0o777)
    for name in ("file", "passwd"):
        (inner / name).write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")


HARMLESS = (
    "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/os-release", "usr/lib/os-release", "etc/localtime",
    "etc/motd", "var/lib/dpkg/status",
    "root", "home/user", "tmp", "var/cache/apt/archives", "src", "given",
)  # fmt: skip


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_links_stay_inside(tiny: Rig, canary: Path, *, relative: bool) -> None:
    evil_layer(tiny, lambda tree: links(tree, HARMLESS, canary, relative=relative))
    before = shape(canary)
    done = use(tiny)
    assert shape(canary) == before
    assert [said for _, status, said in done if status] == []
    seen = tiny.run("cat /etc/localtime /etc/motd /home/user/inner/* /root/* 2>&1", machine="evil").text
    assert "secret" not in seen  # the tree's own, not the host's


@pytest.mark.parametrize("name", ["etc/passwd", "etc/group", "usr", "var", "home"])
def test_a_link_in_an_odd_place_costs_only_the_session(tiny: Rig, canary: Path, name: str) -> None:
    evil_layer(tiny, lambda tree: links(tree, [name], canary, relative=False))
    before = shape(canary)
    use(tiny)
    assert shape(canary) == before


@pytest.mark.parametrize("name", ["dev", "run", "proc", "sys", "etc", "etc/machine-id"])
def test_what_would_lead_nspawn_out_of_the_tree_is_refused(tiny: Rig, canary: Path, name: str) -> None:
    """nspawn fills /dev and /run, and reads /etc/machine-id, by the path in the host."""
    evil_layer(tiny, lambda tree: links(tree, [name], canary, relative=False))
    before = shape(canary)
    done = use(tiny)
    assert shape(canary) == before
    word, status, said = done[0]
    assert status == 125, done
    assert f"/{name} of this machine" in said, word
    assert "hint: " in said


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))]
)
def test_what_is_no_file_is_neither_waited_for_nor_opened(
    tiny: Rig, canary: Path, make: Callable[[Path], None]
) -> None:
    names = [name for name in FILES if name not in ("etc/hosts", "etc/machine-id")]

    def attack(tree: Path) -> None:
        for name in names:
            put(tree, name, make)

    evil_layer(tiny, attack)
    before = shape(canary)
    done = use(tiny, build=False)
    assert shape(canary) == before
    assert [status for words, status, _ in done if words.startswith(("run evil -- /bin/true", "run offline"))] == [0, 0]
    assert "no user user in the machine's /etc/passwd" in done[2][2]
    warned = tiny.result("true", "--artifact", "/etc/passwd", machine="evil")["warnings"]
    assert make is os.mkdir or any("not a regular file" in text for text in warned), warned


def test_a_session_that_has_lost_its_directories_can_run_again(tiny: Rig) -> None:
    session = tiny.kept("rm -rf /root /var /usr /home /etc/passwd /etc/group; mkdir -p /usr/lib")
    assert tiny("session", "shell", session, "-u", "0", stdin=b"echo works").text == "works\n"
    tiny("session", "remove", session)


@pytest.mark.parametrize("size", [10 << 30, 100 << 20])
def test_of_a_huge_list_of_accounts_the_start_is_read(tiny: Rig, size: int) -> None:
    session = tiny.kept(f"echo 'user:x:1000:1000::/:/bin/sh' > /etc/passwd; truncate -s {size} /etc/passwd /etc/group")
    assert tiny("session", "shell", session, "-u", "user", stdin=b"id -u", timeout=20).text == "1000\n"
    assert "no user other" in tiny("session", "shell", session, "-u", "other", timeout=20).said
    done = tiny("session", "diff", session, "--content", "/etc/passwd", timeout=60)
    assert done.status == 6
    assert "larger than 16 MiB" in done.said
    tiny("session", "remove", session)


EVIL_NAME = "a\x1b]0;title\x07\nnew\u202eline\x9b31m"


def test_names_cannot_act_on_a_terminal(tiny: Rig) -> None:
    path = f"/root/{EVIL_NAME}"
    script = (
        'echo x > "$NAME"; mkdir "$NAME.d"; mkfifo "$NAME.d/$(basename "$NAME")" 2> /dev/null; ln -s /nowhere "$NAME.l"'
    )
    done = tiny.run(script, "--keep", "--env", f"NAME={path}", "--artifact", "/root/*")
    [session] = tiny.sessions()
    said = [done.said, tiny("session", "diff", session).text, tiny("session", "diff", session, "--content", path).text]
    said += [tiny("session", "diff", session, "--content", f"{path}.none").said, tiny("session", "list").text]
    said += [tiny("session", "shell", f"x{EVIL_NAME}").said, tiny("layer", "show", f"x{EVIL_NAME}").said]
    said += [tiny("session", "commit", session, f"x{EVIL_NAME}").said, tiny("run", f"x{EVIL_NAME}", "true").said]
    said += [tiny.run("true", "-u", f"x{EVIL_NAME}").said, tiny.run("true", "-w", f"/x{EVIL_NAME}").said]
    assert r"a\x1b]0;title\x07\nnew" in said[1]
    for text in said:
        odd = {char for char in text if not char.isprintable()} - {"\n"}
        assert not odd, text
        assert not any(line.startswith("new") for line in text.splitlines()), text
    tiny("session", "remove", session)


def nest(top: str, depth: int) -> None:
    """Directories in directories, deeper than any path."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_a_nest_of_ten_thousand_directories(tiny: Rig) -> None:
    session = tiny.kept("true")
    nest(tiny.upper(session), 10000)
    with tiny.manager().open_session(session) as opened:
        assert sum(change.kind == "added" for change in opened.changes()) == 10000
    done = tiny("session", "commit", session, "deep")
    assert done.status == 6
    assert "longer than the kernel takes" in done.said
    assert tiny("session", "shell", session, stdin=b"cd /d/d/d && echo works").text == "works\n"
    assert tiny("session", "remove", session).status == 0
    assert tiny.sessions() == []


def test_artifacts_of_a_deep_tree_end_somewhere(tiny: Rig) -> None:
    script = "mkdir -p /root/$(seq 200 | xargs | tr ' ' /) && echo x > /root/1/file"
    result = tiny.result(script, "--artifact", "/root/*", "--artifact", "/root/**/200")
    assert [item["source"] for item in result["artifacts"]] == ["/root/1/file"]
    assert any("directories deep" in text for text in result["warnings"]), result


def test_very_many_files(tiny: Rig) -> None:
    script = "mkdir /root/many && cd /root/many && seq 1 10000 | xargs touch && ln 1 hard && for n in 1 2 3; do mkfifo p$n; done"
    result = tiny.result(script, "--keep", "--artifact", "/root/many/[1-4]", "--artifact", "/root/many/p*")
    assert len(result["artifacts"]) == 4
    session = result["kept"]
    assert len(tiny.json("session", "diff", session)) == 10000 + 1 + 1 + 3
    assert tiny("session", "commit", session, "many").status == 0
    assert tiny("session", "remove", session).status == 0


def test_thousands_of_things_that_cannot_be_copied_are_one_warning(tiny: Rig) -> None:
    result = tiny.result("cd /root; seq 1 300 | xargs -n 1 mkfifo", "--artifact", "/root/*", timeout=120)
    assert len(result["warnings"]) == 21
    assert result["warnings"][-1] == "artifacts: 280 more warnings of that kind"


def test_artifacts_that_lead_out(tiny: Rig, canary: Path) -> None:
    script = (
        f"mkdir /out && cd /out && ln -s {canary}/file a; ln -s ../../../../../../{canary}/file b; ln -s /proc/self/root{canary}/file c;"
        f"ln -s /proc/1/root{canary}/file d; ln -s /proc/1/environ e; ln -s /proc/self/fd/0 f; ln -s /dev/zero g; ln -s {canary} h;"
        "ln -s /etc/motd i; ln -s j j; ln /etc/motd k; echo own > l; ln -s /run/roost-environment m;"
        "ln -s /sys/kernel n; ln -s /proc/kcore o"
    )
    result = tiny.result(script, "--artifact", "/out/*", "--artifact", "/out/h/*", "--artifact", "/../../out/l")
    assert sorted(os.path.basename(item["source"]) for item in result["artifacts"]) == ["i", "k", "l"]
    out = tiny.directory / "artifacts"
    assert all("secret" not in path.read_text() for path in out.rglob("*") if path.is_file())
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_whiteouts_and_opaque_marks_made_by_hand(tiny: Rig) -> None:
    """A whiteout is a device that anybody may make; the marks of overlayfs are not for a session to set."""
    session = tiny.kept(
        "mknod /root/hidden c 0 0 && echo made; echo x > /root/file; mkdir /root/dir; rm /etc/motd; rm -r /usr/share"
    )
    found = {(item["kind"], item["path"]) for item in tiny.json("session", "diff", session)}
    assert ("removed", "/etc/motd") in found
    assert ("removed", "/usr/share") in found
    assert not any(path == "/root/hidden" for _, path in found)
    assert tiny("session", "shell", session, stdin=b"ls -A /root").text.split() == ["dir", "file"]
    assert tiny("session", "commit", session, "white").status == 0
    tiny.define('[machines.white]\nfrom = "layer:white"\n')
    assert tiny.run("ls -A /root; ls /etc/motd", machine="white").text.split() == ["dir", "file"]
    tiny("session", "remove", session)


def test_overlayfs_marks_cannot_be_set_from_inside(farm: Rig) -> None:
    script = (
        "mkdir /root/d && for n in trusted.overlay.opaque trusted.overlay.redirect user.overlay.opaque trusted.overlay.metacopy;"
        ' do perl -e \'my ($n) = @ARGV; my $v = $n =~ /redirect/ ? "/etc" : "y";'
        ' print "$n set\\n" if syscall(188, "/root/d", $n, $v, length $v, 0) == 0\' $n; done'
    )
    assert farm.run(script, machine="bookworm").text in (
        "",
        "user.overlay.opaque set\n",
    )  # which means nothing to these mounts
