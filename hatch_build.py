"""Builds roost-init, the static PID 1 of a session, into the package: the only compiled part of Roost."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2")


class InitBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling is not typed here
    """Runs the C compiler ($CC, default gcc) for wheels and editable installs; a source archive needs none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # the interface
        if self.target_name != "wheel":
            return
        engine = Path(self.root, "src", "roost", "engine")
        binary = engine / "roost-init"
        compiler = shlex.split(os.environ.get("CC", "gcc"))
        part = engine / "roost-init.part"
        subprocess.run([*compiler, *FLAGS, "-o", str(part), str(engine / "roost-init.c")], check=True)
        part.replace(binary)
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append("src/roost/engine/roost-init")
