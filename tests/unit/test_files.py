"""Locks, publishing by rename, and removal that stays in its tree."""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import TYPE_CHECKING

import pytest

from roost.errors import BusyError
from roost.host import files

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = files.try_lock(path)
    assert fd is not None
    assert files.try_lock(path) is None
    assert files.try_lock(path, shared=True) is None
    os.close(fd)
    again = files.try_lock(path)
    assert again is not None
    os.close(again)


def test_a_lock_whose_name_was_removed_does_not_count(tmp_path: Path) -> None:
    """The holder of the old file and of the new one would both think that it is theirs."""
    path = str(tmp_path / "lock")
    old = files.try_lock(path)
    os.unlink(path)
    new = files.try_lock(path)
    assert old is not None
    assert new is not None
    assert files.try_lock(path) is None
    os.close(old)
    assert files.try_lock(path) is None
    os.close(new)


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        files.try_lock(str(tmp_path / "lock"))
    assert not (tmp_path / "elsewhere").exists()


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with files.locked(path):
        began = time.monotonic()
        with pytest.raises(BusyError), files.locked(path, seconds=0.1):
            pass
        assert time.monotonic() - began < 1
    with files.locked(path, seconds=0):
        pass


def test_a_file_is_old_or_new_never_half(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    files.write_atomic(path, b"a" * 100_000)
    stop = threading.Event()
    seen = set()

    def read() -> None:
        while not stop.is_set():
            with open(path, "rb") as stream:
                seen.add(stream.read())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        files.write_atomic(path, b"ab"[number % 2 :][:1] * 100_000, durable=number == 0)
    stop.set()
    reader.join()
    assert seen <= {b"a" * 100_000, b"b" * 100_000}
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_atomic(str(tmp_path / "file"), b"x")
    assert os.listdir(tmp_path) == ["file"]


def test_who_publishes_second_loses(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert files.publish(str(tmp_path / "one"), str(tmp_path / "final"))
    assert not files.publish(str(tmp_path / "two"), str(tmp_path / "final"))
    assert os.listdir(tmp_path / "final") == ["one"]


def test_removal_follows_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/link").symlink_to(precious)
    (tree / "file").hardlink_to(precious / "file")
    files.remove_tree(str(tree))
    assert not tree.exists()
    assert (precious / "file").read_text() == "x"
    (tmp_path / "link").symlink_to(precious)
    files.remove_tree(str(tmp_path / "link"))
    assert os.listdir(precious) == ["file"]


def test_removal_of_what_is_not_there(tmp_path: Path) -> None:
    files.remove_tree(str(tmp_path / "nothing"))
    files.remove_tree(str(tmp_path / "no/such/place"))


def test_removal_of_odd_names_and_deep_trees(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for number in range(400):  # 400 * 41 is more than PATH_MAX
        os.mkdir(b"a" * 39 + b"\xff", dir_fd=fd)
        inner = os.open(b"a" * 39 + b"\xff", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if number % 50 == 0:
            os.close(os.open(b"f\n", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    files.remove_tree(str(top))
    assert not top.exists()


def test_usage_counts_a_hard_link_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    before = files.usage(str(tmp_path))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    after = files.usage(str(tmp_path))
    assert after.size == before.size >= 100_000


def test_a_tree_deeper_than_the_limit_on_open_files_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        files.remove_tree(str(top))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not top.exists()
