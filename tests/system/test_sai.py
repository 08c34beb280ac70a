"""A machine of sai's CI by the recipe: made, as the pages make it by hand, and its builder speaks to a server."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from system.boot_rig import BootRig
from system.network_rig import UPLINK, WAN, host_at

if TYPE_CHECKING:
    from system.rig import Rig

STAND_IN = Path(__file__).parent / "stand-in"
# packages = []: what sai itself is built with is not needed for what stands in for it
FARM = """
[defaults]
distribution = "debian"
release = "bookworm"
source-packages = true
profiles = ["sai-builder"]

[machines.one]
[machines.one.options.sai-builder]
platforms = ["linux-debian-12/x86_64-amd/gcc", "linux-debian-12/x86_64-amd/clang"]
instances = 3

[machines.two]
options.sai-builder.platforms = ["linux-debian-12/x86_64-amd/gcc"]

[profiles.sai-builder]
recipe = "sai-builder"

[profiles.sai-builder.options]
servers = ["ws://127.0.0.1:%(port)d/sai/builder"]
packages = []
sources.sai = { directory = "%(stand_in)s", build = "install -D -m 755 sai-builder /usr/local/bin/sai-builder" }
"""


@pytest.fixture
def server() -> Any:
    """A listener where the builder shall connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


def test_the_builder_is_made_and_announces_its_platforms(own: Rig, server: socket.socket) -> None:
    own.define(FARM % {"port": server.getsockname()[1], "stand_in": STAND_IN})
    assert own("build").status == 0
    with own.started("run", "one", "--", "/usr/local/bin/sai-builder") as run:
        with server.accept()[0] as connection:
            connection.settimeout(30)
            said = json.loads(connection.makefile().readline())
        again, _ = server.accept()  # it does not give up when the server goes away
        again.close()
        run.terminate()
        run.wait(30)
    assert said["uid"] == 883
    assert [(b["name"], b["instances"], b["limit"]) for b in said["builders"]] == [
        ("one.linux-debian-12/x86_64-amd/gcc", 3, 3),
        ("one.linux-debian-12/x86_64-amd/clang", 3, 3),
    ]


def test_what_the_pages_do_by_hand_is_in_the_layer(own: Rig, server: socket.socket) -> None:
    own.define(FARM % {"port": server.getsockname()[1], "stand_in": STAND_IN})
    script = """
        id sai
        stat -c '%U:%G %a' /home/sai /etc/sai/builder/conf /usr/local/bin/sai-builder
        readlink /etc/systemd/system/multi-user.target.wants/sai-builder.service
        ls -A /usr/local/src /var/tmp
    """
    done = own.run(script, machine="two")
    assert done.text.splitlines() == [
        "uid=883(sai) gid=65534(nogroup) groups=65534(nogroup)",
        "sai:nogroup 755",
        "root:root 644",
        "root:root 755",
        "/etc/systemd/system/sai-builder.service",
        "/usr/local/src:",
        "",
        "/var/tmp:",
    ], done
    layers = [layer for layer in own.json("plan")["layers"] if layer["verb"] == "build"]
    assert [layer["name"] for layer in layers] == ["machine one"], "the two share the base and the profile"


def test_a_changed_source_makes_the_layer_anew_and_says_why(own: Rig, server: socket.socket, tmp_path: Path) -> None:
    source = tmp_path / "sai"
    source.mkdir()
    (source / "sai-builder").write_bytes((STAND_IN / "sai-builder").read_bytes())
    own.define(FARM % {"port": server.getsockname()[1], "stand_in": source})
    assert own("build", "two").status == 0
    (source / "sai-builder").write_text("#!/bin/sh\necho changed\n")
    reasons = {layer["name"]: layer["reason"] for layer in own.json("plan", "two")["layers"]}
    assert reasons["profile sai-builder"] == "files changed: /usr/local/src/roost/sai.tar"
    assert own("run", "two", "--", "sai-builder").text == "changed\n"


def test_the_farm_of_ten_is_planned_on_a_clean_store(tiny: Rig) -> None:
    farm = Path(__file__).parents[2] / "examples/sai-farm.toml"
    plan = tiny.json("plan", "-f", str(farm))
    assert len(plan["machines"]) == 10
    assert [layer["verb"] for layer in plan["layers"]] == ["build"] * 30
    done = tiny("plan", "-f", str(farm))
    assert "base gentoo rolling amd64" in done.text
    assert "machine xenial-amd64" in done.text
    assert "30 to make: `roost build`\n" in done.said


def test_a_booted_builder_reaches_its_server_through_nat(own: Rig, tmp_path: Path) -> None:
    """Started by the machine's own systemd; it connects again when the server comes back."""
    text = FARM.replace("[machines.one]", "boot = {}\n[machines.one]", 1).replace("127.0.0.1", WAN)
    own.define(text % {"port": 4444, "stand_in": STAND_IN})
    assert own("build", "one").status == 0
    with host_at(str(tmp_path / "host")) as host, host.wan.listen(4444, WAN) as server:
        rig = BootRig(own.state, own.directory, host, own.file.read_text())
        try:
            done = rig("--json", "up", "one")
            assert done.status == 0, done
            server.settimeout(60)
            with server.accept()[0] as connection:
                connection.settimeout(30)
                said = json.loads(connection.makefile().readline())
                assert connection.getpeername()[0] == UPLINK, "the machine's own address is not seen outside"
            assert said["builders"][0]["name"] == "one.linux-debian-12/x86_64-amd/gcc"
            assert rig.inside("systemctl is-active sai-builder; hostname", "one").text.split() == ["active", "one"]
            server.accept()[0].close()
        finally:
            rig.close()
