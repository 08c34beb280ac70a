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
    argv = ("mkosi", f"--directory={directory}", "--format=directory", f"--output-dir={output}", "--force", "build")
    done = runner.run(runner.Command(argv=argv, env=env, private=True), on_output=say)
    if done.status:
        raise StoreError(f"mkosi: {runner.ending(done.status)}", hint=f"`mkosi -C {directory} build` says the same")
    made = [
        name
        for name in os.listdir(output)
        if os.path.isdir(f"{output}/{name}/usr") and not os.path.islink(f"{output}/{name}")
    ]
    if len(made) != 1:
        raise StoreError(
            f"mkosi made {len(made)} trees", details=" ".join(made), hint="Roost takes one with a usr in it"
        )
    os.rename(f"{output}/{made[0]}", tree)
