"""roost-init's reading of a tree's files, compiled with the sanitisers, beside what Roost itself reads from the same."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Self

from roost import engine
from roost.engine.launch import account

DRIVER = Path(__file__).with_name("init_driver.c")
FLAGS = (
    "-std=gnu11",
    "-g",
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-Wall",
    "-Wextra",
    "-Werror",
)
USERS = ("root", "user", "1000", "0", "65535", "65536", "007", "", "a-b", "4294967296", "-1", "+1")


class Driver:
    """The compiled program; it answers one case after the other, until something is wrong."""

    def __init__(self, place: Path) -> None:
        binary = place / "init-driver"
        source = Path(engine.__file__).with_name("roost-init.c")
        command = (os.environ.get("CC", "gcc"), *FLAGS, f'-DSOURCE="{source}"', "-o", str(binary), str(DRIVER))
        subprocess.run(command, check=True)
        self._place = place
        (place / "merged/etc").mkdir(parents=True, exist_ok=True)
        self._running = subprocess.Popen((str(binary),), cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, user: str) -> tuple[int, int, int, str] | None:
        """User, group, number of groups and home as roost-init has them; None when there is no such user."""
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        word = os.fsencode(user)
        self._running.stdin.write(struct.pack("=I", len(word)) + word)
        self._running.stdin.flush()
        head = self._running.stdout.read(20)
        assert len(head) == 20, f"it ended: {self._running.wait()}"
        found, uid, gid, groups, length = struct.unpack("=5I", head)
        home = os.fsdecode(self._running.stdout.read(length))
        return (uid, gid, groups, home) if found else None

    def compare(self, data: bytes) -> None:
        """The files of one case, separated by ``\\xff\\xff``: passwd, group, environment."""
        parts = [*data.split(b"\xff\xff"), b"", b""]
        for name, content in zip(("merged/etc/passwd", "merged/etc/group", "environment"), parts, strict=False):
            (self._place / name).write_bytes(content)
        before = os.getcwd()
        os.chdir(self._place)
        try:
            for user in USERS:
                theirs = self.ask(user)
                if theirs is not None:
                    assert 1 <= theirs[2] <= 256
                    assert account(user) == (theirs[0], theirs[1], theirs[3])
        finally:
            os.chdir(before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._running.communicate()
        assert kind is not None or self._running.returncode == 0
