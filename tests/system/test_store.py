"""What stays: kept sessions, what they changed, layers made from them, and how all of it goes again."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

import roost
from roost.store import Store
from system.rig import TINY

if TYPE_CHECKING:
    from system.rig import Rig


def changes(rig: Rig, session: str) -> dict[str, str]:
    """path → kind."""
    return {item["path"]: item["kind"] for item in rig.json("session", "diff", session)}


def test_a_run_that_changes_nothing(tiny: Rig) -> None:
    session = tiny.kept("true")
    assert changes(tiny, session) == {}
    done = tiny("session", "diff", session)
    assert (done.status, done.out) == (0, b"")
    assert "nothing was changed" in done.said


def test_added_changed_removed_and_replaced(tiny: Rig) -> None:
    session = tiny.kept(
        "mkdir -p /new/sub; echo x > /new/sub/f; echo four >> /etc/motd; rm /etc/group; chmod 700 /root;"
        " rm -r /usr/share; echo file > /usr/share; rm /bin/vi; mkdir /bin/vi; echo y > /bin/vi/in;"
        " rm -r /var/cache/apt; mkdir /var/cache/apt;"
        " ln -sf other /etc/absolute-less; mkfifo /pipe; touch -t 200001010000 /etc/os-release"
    )
    found = changes(tiny, session)
    assert found == {
        "/bin/vi": "replaced",
        "/bin/vi/in": "added",
        "/etc/absolute-less": "changed",
        "/etc/group": "removed",
        "/etc/motd": "changed",
        "/etc/os-release": "changed",
        "/new": "added",
        "/new/sub": "added",
        "/new/sub/f": "added",
        "/pipe": "added",
        "/root": "changed",
        "/usr/share": "replaced",
        "/var/cache/apt": "replaced",
    }
    assert not any(path.startswith(("/src", "/proc", "/sys", "/dev", "/run", "/etc/hosts")) for path in found)
    text = tiny("session", "diff", session).text
    assert "/new/sub/f" in text
    assert "removed" in text


def test_a_source_and_a_bind_leave_no_change(tiny: Rig) -> None:
    session = tiny.kept("true", "--source", str(tiny.directory), "--bind", "/etc/hostname:/opt/a/b")
    assert changes(tiny, session) == {}


def test_the_text_of_a_file(tiny: Rig) -> None:
    session = tiny.kept(r"sed -i s/two/zwei/ /etc/motd; printf 'a\0b' > /bin/x; rm /etc/group; echo n > /new")
    done = tiny("session", "diff", session, "--content", "/etc/motd")
    assert "-two\n" in done.text
    assert "+zwei\n" in done.text
    assert " one\n" in done.text
    assert "binary" in tiny("session", "diff", session, "--content", "/bin/x").said
    assert "-root:x:0:\n" in tiny("session", "diff", session, "--content", "/etc/group").text
    assert "+n\n" in tiny("session", "diff", session, "--content", "/new").text
    done = tiny("session", "diff", session, "--content", "/no/such")
    assert done.status == 6
    assert "/no/such" in done.said


def test_content_never_follows_a_link_to_the_host(tiny: Rig) -> None:
    session = tiny.kept("ln -sf /etc/passwd /etc/motd; ln -s ../../../../../../etc/passwd /climb")
    for path in ("/etc/motd", "/climb", "/../../../../etc/passwd"):
        assert "debian" not in tiny("session", "diff", session, "--content", path).text.lower()


def test_a_kept_session_is_listed_and_opened_again(tiny: Rig) -> None:
    session = tiny.kept("echo one > /root/log; exit 0", "-u", "root", "--env", "X=1")
    [item] = tiny.json("session", "list")
    assert (item["id"], item["machine"], item["kept"], item["in_use"]) == (session, "tiny", True, False)
    assert session in tiny("session", "list").text
    for line, wanted in ((b"two", b"one\ntwo\n"), (b"three", b"one\ntwo\nthree\n")):
        done = tiny("session", "shell", session, stdin=b"echo " + line + b" >> /root/log; cat /root/log; exit 3\n")
        assert (done.status, done.out) == (3, wanted), done
    assert changes(tiny, session) == {"/root/log": "added"}


def test_a_failed_one_is_kept_when_asked(tiny: Rig) -> None:
    assert tiny.result("exit 0", "--keep=on-failure")["kept"] == ""
    assert tiny.sessions() == []
    done = tiny.run("echo x > /x; exit 9", "--keep=on-failure")
    assert done.status == 9
    [session] = tiny.sessions()
    assert f"roost session shell {session}" in done.said
    assert "exit 9" in tiny("session", "list").text
    assert tiny("session", "remove", session).status == 0
    assert tiny.sessions() == []


def test_one_that_timed_out_is_kept_too(tiny: Rig) -> None:
    result = tiny.result("echo x > /x; sleep 60", "--keep=on-failure", "--timeout", "0.4")
    assert changes(tiny, result["kept"]) == {"/x": "added"}


def test_a_running_session_can_be_kept(tiny: Rig) -> None:
    with tiny.started("run", "tiny", "--", "sh", "-c", "echo x > /x; echo ready; cat", stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        [item] = tiny.json("session", "list")
        assert item["in_use"]
        assert not item["kept"]
        assert tiny("session", "remove", item["id"]).status == 7
        assert tiny("session", "diff", item["id"]).status != 0
        assert tiny("session", "keep", item["id"]).status == 0
        child.communicate(b"", timeout=20)
    assert changes(tiny, item["id"]) == {"/x": "added"}


def test_two_cannot_use_one_kept_session_at_once(tiny: Rig) -> None:
    session = tiny.kept("true")
    with tiny.started("session", "shell", session, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"echo ready\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        done = tiny("session", "shell", session)
        assert done.status in (7, 125)
        assert "in use" in done.said
        assert tiny("session", "commit", session, "x").status == 7
        child.communicate(b"exit\n", timeout=20)


def test_a_commit_is_a_layer_for_machines(tiny: Rig) -> None:
    session = tiny.kept(
        "echo new > /etc/new; rm /etc/group; rm -r /var/cache/apt; mkdir /var/cache/apt; ln -s /etc/passwd /link;"
        " chown 1000:20 /etc/new; chmod 4711 /etc/new"
    )
    document = tiny.json("session", "commit", session, "mine")
    assert document["name"] == "mine"
    tiny.define(
        TINY
        + '[machines.child]\nfrom = "layer:mine"\n'
        + '[machines.more]\nfrom = "layer:mine"\nscripts = ["echo made > /made; cat /etc/new > /copy"]\n'
    )
    done = tiny.run(
        "cat /etc/new; stat -c '%u %g %a' /etc/new; ls /etc/group /var/cache/apt; readlink /link", machine="child"
    )
    assert done.text == "new\n1000 20 4711\n/var/cache/apt:\n/etc/passwd\n"
    assert tiny.run("cat /made /copy /etc/motd", machine="more").text == "made\nnew\none\ntwo\nthree\n"
    assert "mine" in tiny("layer", "list").text
    assert tiny.json("layer", "show", "mine")["digest"] == document["digest"]
    assert changes(tiny, session)["/etc/new"] == "added"  # it stays as it was


def test_the_same_changes_are_the_same_layer(tiny: Rig) -> None:
    first = tiny.json("session", "commit", tiny.kept("echo a > /a; touch -t 200001010000 /a"), "one")
    second = tiny.json("session", "commit", tiny.kept("echo a > /a; touch -t 200001010000 /a"), "two")
    assert first["digest"] == second["digest"]
    third = tiny.json("session", "commit", tiny.kept("echo b > /a"), "one")
    assert third["digest"] != first["digest"]
    assert tiny.json("layer", "show", "one")["digest"] == third["digest"]
    assert tiny.json("layer", "show", "two")["digest"] == first["digest"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "UPPER", "a b", "x" * 200])
def test_names_that_no_layer_can_have(tiny: Rig, name: str) -> None:
    done = tiny("session", "commit", tiny.kept("true"), name)
    assert done.status == 6, done
    assert "hint:" in done.said


def test_a_layer_in_use_is_not_removed(tiny: Rig) -> None:
    session = tiny.kept("echo a > /a")
    digest = tiny.json("session", "commit", session, "mine")["digest"]
    tiny.define('[machines.top]\nfrom = "layer:mine"\nscripts = ["echo x > /x"]\n')
    assert tiny("build").status == 0
    done = tiny("layer", "remove", "mine")
    assert done.status == 7
    assert "in use" in done.said
    kept = tiny.kept("true", machine="top")
    top = next(item for item in tiny.json("layer", "list") if digest in item["parents"])
    done = tiny("layer", "remove", top["digest"][:12])
    assert done.status == 7
    assert kept in done.said
    tiny("session", "remove", kept)
    assert tiny("layer", "remove", top["digest"][:12]).status == 0
    assert tiny("layer", "remove", "mine").status == 0
    assert tiny("layer", "show", "mine").status == 6
    assert os.path.isdir(f"{tiny.state}/layers/{'7' * 64}")


def test_gc_takes_what_nobody_uses_and_nothing_else(tiny: Rig) -> None:
    def digests() -> set[str]:
        return {item["digest"] for item in tiny.json("layer", "list")}

    tiny.define(TINY + 'scripts = ["echo 1 > /v"]\n')
    assert tiny("build").status == 0
    first = digests()
    kept = tiny.kept("true")
    tiny.define(TINY + 'scripts = ["echo 2 > /v"]\n')
    assert tiny("build").status == 0
    second = digests()
    assert len(second - first) == 1
    assert tiny.json("gc", "--dry-run")["removed"] == []  # the kept session stands on the first
    tiny("session", "remove", kept)
    said = tiny.json("gc", "--dry-run")
    assert said["dry_run"]
    assert [item["kind"] for item in said["removed"]] == ["layer"]
    assert digests() == second
    done = tiny("gc")
    assert done.status == 0
    [gone] = second - digests()
    assert gone in first
    assert gone[:12] in done.text
    assert "7" * 64 in digests()  # a committed layer has a name
    assert tiny.run("cat /v").text == "2\n"
    os.unlink(tiny.file)
    done = tiny("gc")
    assert digests() == {"7" * 64}


def test_gc_leaves_a_running_sessions_layers(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["echo 1 > /v"]\n')
    with tiny.started("run", "tiny", "--", "sh", "-c", "echo ready; cat; cat /v", stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        tiny.define(TINY)
        assert tiny("build").status == 0
        assert tiny.json("gc")["removed"] == []
        out, _ = child.communicate(b"", timeout=20)
    assert out == b"1\n"
    assert [item["kind"] for item in tiny.json("gc")["removed"]] == ["layer"]


@pytest.mark.parametrize("word", ["no-such", "../../../etc", "", "/", "tiny-000000"])
def test_sessions_that_are_not_there(tiny: Rig, word: str) -> None:
    for verb in ("diff", "shell", "keep", "remove", "commit"):
        done = tiny("session", verb, word, *(["x"] if verb == "commit" else []))
        assert done.status in (6, 125), done
        assert "Traceback" not in done.said
        assert "hint:" in done.said


def test_a_damaged_record_is_told_and_can_be_removed(tiny: Rig) -> None:
    session = tiny.kept("true")
    other = tiny.kept("true")
    with open(f"{tiny.state}/sessions/{session}/session.json", "w") as stream:
        stream.write("{")
    assert tiny("session", "list").status == 0
    assert other in tiny("session", "list").text


def test_a_kept_session_survives_many_openings(tiny: Rig) -> None:
    manager = tiny.manager()
    with manager.session("tiny") as session:
        session.run(roost.Run(command=("sh", "-c", "echo 0 > /n")))
        for _ in range(5):
            session.run(roost.Run(command=("sh", "-c", "echo $(($(cat /n) + 1)) > /n")))
        session.keep()
    for _ in range(3):
        with manager.open_session(session.id) as again:
            again.run(roost.Run(command=("sh", "-c", "echo $(($(cat /n) + 1)) > /n")))
            assert [(c.kind, c.path) for c in again.changes()] == [("added", "/n")]
    with open(f"{tiny.upper(session.id)}/n") as stream:
        assert stream.read() == "8\n"
    manager.remove_session(session.id)
    assert tiny.sessions() == []


def test_a_session_of_a_real_release_has_only_what_was_changed(farm: Rig) -> None:
    session = farm.kept("true", machine="bookworm")
    try:
        assert changes(farm, session) == {}
    finally:
        farm("session", "remove", session)


def test_whoever_begins_during_a_removal_waits_for_its_decision(tiny: Rig) -> None:
    """A layer that is there once it is pinned stays: else it is gone at once, not a moment later."""
    store, digest = Store(tiny.state), "7" * 64
    reader, writer = os.pipe()

    def used() -> set[str]:
        if not os.fork():
            with store.pinned([digest]):
                os.write(writer, b"there" if store.has(digest) else b"gone")
            os._exit(0)
        time.sleep(0.3)
        return set()

    assert store.remove_layers([digest], used) == {digest}
    assert os.read(reader, 10) == b"gone"
    os.wait()
    for fd in (reader, writer):
        os.close(fd)
    assert tiny.json("layer", "list") == []
    assert os.listdir(f"{tiny.state}/names") == []


def test_a_removal_sees_who_has_begun(tiny: Rig) -> None:
    store, digest = Store(tiny.state), "7" * 64

    def used() -> set[str]:
        return {layer for session, _ in store.running() for layer in session.layers}

    with store.pinned([digest]):
        assert store.remove_layers([digest], used) == set()
    assert tiny.run("echo fine").text == "fine\n"


def test_one_of_several_names_is_removed_alone(tiny: Rig) -> None:
    for name in ("one", "two"):
        tiny.json("session", "commit", tiny.kept("echo a > /a; touch -t 200001010000 /a"), name)
    done = tiny("layer", "remove", "one")
    assert done.status == 0
    assert "stays" in done.said
    assert tiny("layer", "show", "one").status == 6
    assert tiny.json("layer", "show", "two")["digest"]
    for session in tiny.sessions():
        tiny("session", "remove", session)
    assert tiny("layer", "remove", "two").status == 0
    assert len(tiny.json("layer", "list")) == 1


def test_a_request_to_keep_is_answered_by_one_side(tiny: Rig) -> None:
    """Either the session is kept, or whoever asks is told that it is too late."""
    manager = tiny.manager()
    for asked in (True, False):
        with manager.session("tiny") as session:
            if asked:
                manager.store.ask_to_keep(session.id)
                manager.store.ask_to_keep(session.id)
            assert manager.store.is_asked_to_keep(session.id) == asked
            if not asked:
                with pytest.raises(roost.errors.StoreError, match="just ended"):
                    manager.store.ask_to_keep(session.id)
    manager.close()


def test_a_state_directory_that_others_could_change_is_refused(tiny: Rig) -> None:
    os.chmod(tiny.state, 0o777)
    done = tiny.run("true")
    assert done.status == 125
    assert f"{tiny.state} can be changed by others than root" in done.said
    os.chmod(tiny.state, 0o755)
    assert tiny.run("true").status == 0


def test_layers_below_one_whose_record_is_damaged_stay(tiny: Rig) -> None:
    tiny.define(TINY + 'scripts = ["echo x > /made"]\n')
    session = tiny.kept("true")
    top = next(name for name in os.listdir(f"{tiny.state}/layers") if name != "7" * 64)
    os.unlink(f"{tiny.state}/names/tiny")
    record = f"{tiny.state}/layers/{top}/layer.json"
    with open(record, "rb") as stream:
        whole = stream.read()
    with open(record, "wb") as stream:
        stream.write(b"{")
    assert tiny("gc", "-f", "/nowhere.toml").status != 0
    os.unlink(tiny.file)
    for name in os.listdir(f"{tiny.state}/machines"):
        os.unlink(f"{tiny.state}/machines/{name}")
    assert tiny("gc").status == 0
    with open(record, "wb") as stream:
        stream.write(whole)
    assert tiny("session", "shell", session, stdin=b"cat /made\n").text == "x\n"
