"""mkosi(1), the user's own, with the user's configuration: it makes the directory that becomes a base."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from roost.errors import StoreError
from roost.host import files, runner

if TYPE_CHECKING:
    from collections.abc import Callable

_SHIM = """#!/bin/sh
exec /usr/bin/systemd-nspawn --keep-unit --register=no "$@"
"""
"""Where no system bus runs, mkosi's own nspawn would end with "Failed to open system bus"."""
_BUS = "/run/dbus/system_bus_socket"


def command(directory: str, output: str) -> tuple[str, ...]:
    """What is run."""
    return ("mkosi", f"--directory={directory}", "--format=directory", f"--output-dir={output}", "--force", "build")


def make(directory: str, tree: str, private: str, say: Callable[[bytes], None]) -> None:
    """Runs mkosi in its configuration's ``directory``; what it makes gets the name ``tree``.

    Its output goes to ``private``, a directory of the caller's; its caches are where its configuration has them. Raises
    StoreError with the end of what it says, HostError when it is not installed.
    """
    output, programs = f"{private}/output", f"{private}/bin"
    os.makedirs(output, mode=0o755)
    env = {}
    if not os.path.exists(_BUS):
        os.makedirs(programs, mode=0o700)
        files.write_atomic(f"{programs}/systemd-nspawn", _SHIM.encode(), mode=0o755)
        env = {"PATH": f"{programs}:{runner.PATH}"}
    done = runner.run(runner.Command(argv=command(directory, output), env=env, private=True), on_output=say)
    if done.status:
        raise StoreError(f"mkosi: {runner.ending(done.status)}", hint=f"`mkosi -C {directory} build` says the same")
    made = _trees(output)
    if len(made) != 1:
        raise StoreError(
            f"mkosi made {len(made)} trees", details="\n".join(made), hint="Roost takes one with a usr in it"
        )
    os.rename(made[0], tree)


def _trees(output: str) -> list[str]:
    """Directories with a usr: NAME, or DISTRIBUTION~RELEASE/NAME (as mkosi before 15 has it)."""
    found: list[str] = []
    for above in (output, *(one.path for one in os.scandir(output) if one.is_dir(follow_symlinks=False))):
        if above not in found:
            entries = (one for one in os.scandir(above) if one.is_dir(follow_symlinks=False))
            found += sorted(one.path for one in entries if os.path.isdir(f"{one.path}/usr"))
    return found
