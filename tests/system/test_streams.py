"""Output is exact and complete, whatever it is and however it is written; input arrives."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from system.rig import Rig

HUNDRED_MB = 100_000_000


def test_the_two_streams_stay_apart(tiny: Rig) -> None:
    done = tiny.run("echo out; echo err >&2; printf 'no newline'; printf 'nor here' >&2")
    assert done.out == b"out\nno newline"
    assert done.err == b"err\nnor here"


def test_bytes_that_are_no_text(tiny: Rig) -> None:
    every = bytes(range(256))
    done = tiny("run", "tiny", "--", "cat", stdin=every * 10)
    assert done.out == every * 10


def test_a_hundred_megabytes_without_a_newline(tiny: Rig) -> None:
    done = tiny.run(f"head -c {HUNDRED_MB} /dev/zero")
    assert done.status == 0
    assert len(done.out) == HUNDRED_MB
    assert done.out.count(0) == HUNDRED_MB


def test_many_lines_all_there_and_in_order(tiny: Rig) -> None:
    wanted = "".join(f"{n}\n" for n in range(1, 20001)).encode()
    for _ in range(5):
        assert tiny.run("seq 20000").out == wanted


def test_what_a_child_in_the_background_wrote_before_the_end(tiny: Rig) -> None:
    done = tiny.run("(seq 100000; : > /tmp/done) & while [ ! -e /tmp/done ]; do :; done; exit 5")
    assert done.status == 5
    assert done.out.count(b"\n") == 100000
    assert done.out.endswith(b"\n100000\n")


@pytest.mark.parametrize("user", ["root", "user"])
def test_the_names_of_the_streams_work(tiny: Rig, user: str) -> None:
    done = tiny.run(
        "echo a > /dev/stdout; echo b > /dev/stderr; echo c >> /proc/self/fd/1; echo d | tee /dev/stderr", "-u", user
    )
    assert done.out == b"a\nc\nd\n"
    assert done.err == b"b\nd\n"


def test_input_is_passed(tiny: Rig) -> None:
    data = os.urandom(3_000_000)
    done = tiny("run", "tiny", "--", "sha256sum", stdin=data)
    assert done.text.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_that_nobody_reads(tiny: Rig) -> None:
    done = tiny.run("echo fine", stdin=b"x" * 5_000_000)
    assert (done.status, done.out) == (0, b"fine\n")


def test_empty_input(tiny: Rig) -> None:
    assert tiny.run("cat; echo end").out == b"end\n"
    assert tiny.run("cat; echo end", stdin=subprocess.DEVNULL).out == b"end\n"


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams(tiny: Rig, closed: str) -> None:
    done = tiny("run", "tiny", "--", "sh", "-c", "cat; exit 6", prefix=("sh", "-c", f'exec "$@" {closed}', "sh"))
    assert done.status == 6, done


def test_a_reader_that_goes_away_ends_the_run(tiny: Rig) -> None:
    """As in ``roost run … | head``."""
    with tiny.started("run", "tiny", "--", "sh", "-c", "while :; do echo y; done") as child:
        assert child.stdout is not None
        assert child.stdout.read(2) == b"y\n"
        child.stdout.close()
        assert child.wait(10) != 0
        assert child.stderr is not None
        assert b"Traceback" not in child.stderr.read()


def test_json_keeps_the_document_alone_on_stdout(tiny: Rig) -> None:
    done = tiny.run("echo out; echo err >&2", "--json")
    assert done.out.startswith(b"{")
    assert b"out\n" in done.err
    assert b"err\n" in done.err


def test_a_log_has_every_byte_of_a_matrix(tiny: Rig) -> None:
    """Odd bytes, no final newline, both streams in their order; and a hundred megabytes in one line."""
    done = tiny("run", "--all", "--json", "--", "sh", "-c", r"printf 'a\377\n'; printf 'b\n' >&2; printf 'c'")
    with open(log_of(done.out), "rb") as stream:
        assert stream.read() == b"a\xff\nb\nc"
    done = tiny("run", "--all", "--json", "--", "sh", "-c", f"head -c {HUNDRED_MB} /dev/zero | tr '\\0' x")
    assert os.path.getsize(log_of(done.out)) == HUNDRED_MB
    assert done.seconds < 30


def log_of(document: bytes) -> str:
    """The log of the first result."""
    log: str = json.loads(document)["results"][0]["log"]
    return log
