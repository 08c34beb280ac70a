"""Coverage-guided fuzzing of tests/fuzz, for so many seconds in all: `make fuzz SECONDS=600`.

Each target runs in a process of its own, under libFuzzer by way of atheris. What was found interesting stays in the
corpus and is where the next run begins. An input that breaks something is kept too, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

if TYPE_CHECKING:
    from collections.abc import Callable

INIT = "init"
SECONDS_LEAST = 2
HANG = 20
"""Seconds for one input: more is a hang."""


def main() -> int:
    """The exit status: 1 when a target broke."""
    options = _options()
    if options.target:
        return _one(options)
    from fuzz.targets import TARGETS

    names = options.targets or [*TARGETS, INIT]
    share = max(SECONDS_LEAST, options.seconds // len(names))
    broken = []
    print(f"{len(names)} targets, {share} s each; the corpus is {options.corpus}")
    for name in names:
        began = time.monotonic()
        status, said = _child(name, share, options.corpus)
        runs = re.findall(r"stat::number_of_executed_units: (\d+)", said)
        found = re.findall(r"cov: (\d+)", said)
        word = "ok" if status == 0 else f"BROKEN, status {status}"
        covered = f", {found[-1]} edges" if found else ""
        print(
            f"{name:12} {word}: {runs[-1] if runs else '?'} inputs{covered} in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        if status:
            broken.append(name)
            print("\n".join(said.splitlines()[-60:]))
    print(f"{len(broken)} broken" + (f": {' '.join(broken)}" if broken else ""))
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--corpus", type=Path, default=Path(os.environ.get("CORPUS") or "/var/cache/roost-fuzz"))
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help="only these")
    return parser.parse_args()


def _child(name: str, seconds: int, corpus: Path) -> tuple[int, str]:
    """One target to its end; the status, and what it said."""
    with tempfile.TemporaryDirectory(prefix="roost-fuzz-") as place:  # libFuzzer ends its process where it stands
        argv = [sys.executable, __file__, "--target", name, "--seconds", str(seconds), "--corpus", str(corpus)]
        done = subprocess.run(
            [*argv, "--place", place],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + 10 * HANG,
            check=False,
        )
    return done.returncode, done.stdout.decode(errors="replace")


def _one(options: argparse.Namespace) -> int:
    import atheris  # type: ignore[import-not-found,unused-ignore]  # installed by `make fuzz` alone

    with atheris.instrument_imports(include=["roost"]):
        import roost

        for module in pkgutil.walk_packages(roost.__path__, "roost."):  # also what a verb imports when it runs
            if module.name != "roost.__main__":
                importlib.import_module(module.name)
        from fuzz import targets
    kept = options.corpus / options.target
    kept.mkdir(parents=True, exist_ok=True)
    place: Path = options.place
    seeds = place / "seeds"
    seeds.mkdir()
    for number, path in enumerate(targets.seeds(options.target)):
        shutil.copy(path, seeds / f"{number}-{path.name}")
    dictionary = place / "dictionary"
    dictionary.write_text("".join(f'"{_quoted(word)}"\n' for word in targets.words(options.target) if len(word) <= 64))
    flags = (
        f"-max_total_time={options.seconds}", f"-timeout={HANG}", "-rss_limit_mb=2048", "-max_len=16384", "-print_final_stats=1",
        f"-dict={dictionary}", f"-artifact_prefix={kept}/broken-",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        files = place / "files"
        files.mkdir()
        target: Callable[[bytes], None]
        if options.target == INIT:
            from fuzz.init import Driver

            target = stack.enter_context(Driver(files)).compare
        else:
            whole = targets.TARGETS[options.target]

            def target(data: bytes) -> None:
                whole(data, files)

        atheris.Setup([sys.argv[0], *flags, str(kept), str(seeds)], target)
        atheris.Fuzz()
    return 0


def _quoted(word: bytes) -> str:
    """For a dictionary of libFuzzer's."""
    return "".join(chr(c) if 32 <= c < 127 and chr(c) not in '"\\' else f"\\x{c:02x}" for c in word)


if __name__ == "__main__":
    sys.exit(main())
