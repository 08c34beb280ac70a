"""Stores for the system tests: real releases made once and kept, and small ones for a single test."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import roost
from roost.host import files
from system.lab import Lab, LabHost, end_killed, groups_beside
from system.network_rig import Host, host_at
from system.rig import BUSYBOX, TINY, Rig, link_layers, make_tiny
from system.rpm_rig import Mirror, make_mirror, throwaway_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Group

FARM = Path(__file__).parent / "farm.toml"
RELEASES = ("bullseye", "bookworm", "trixie", "forky", "sid")
BOOTED = """
[defaults]
source-packages = true

[machines.booted]
distribution = "debian"
release = "bookworm"
packages = ["systemd-sysv", "dbus"]
"""
CACHED = os.environ.get("ROOST_STATE", "/var/cache/roost-dev")


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Sessions are the real thing: these tests fail without root, they are not skipped."""
    assert os.geteuid() == 0, "the system tests need root: `sudo make test`"
    assert os.access(BUSYBOX, os.X_OK), "the system tests need busybox-static: `make setup` installs it"


@pytest.fixture(scope="session")
def place(states: list[str], group: Group) -> Iterator[str]:
    """A directory for stores, on the file system of the kept one, so that layers can be linked."""
    end_killed(group.tops)
    above = os.path.dirname(os.path.abspath(CACHED))
    os.makedirs(above, exist_ok=True)
    for name in os.listdir(above):
        if name.startswith("roost-tests-") and not os.path.exists(
            f"/proc/{name.split('-')[2]}"
        ):  # of a run that was killed
            files.remove_tree(f"{above}/{name}")
    made = tempfile.mkdtemp(prefix=f"roost-tests-{os.getpid()}-", dir=above)
    yield made
    states.clear()
    files.remove_tree(made)


@pytest.fixture(scope="session")
def layers() -> dict[str, tuple[str, ...]]:
    """The releases' layers in the kept store, made there when they are missing: machine → digests."""
    manager = roost.Manager(roost.load(FARM), state=CACHED)
    plan = manager.build()
    return {item.machine.name: item.layers for item in plan.machines}


@pytest.fixture(scope="session")
def booted_layers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The trees of a bookworm with systemd as its init, the top one first, made in the kept store when missing."""
    file = tmp_path_factory.mktemp("booted") / "roost.toml"
    file.write_text(BOOTED, encoding="utf-8")
    plan = roost.Manager(roost.load(file), state=CACHED).build()
    return [f"{CACHED}/layers/{digest}/tree" for digest in reversed(plan.machines[0].layers)]


@pytest.fixture(scope="session")
def tiny_state(place: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the layer ``tiny`` alone, and nspawn's filters as the first run has read them; only to be copied."""
    state = f"{place}/tiny"
    make_tiny(state)
    assert Rig(state, tmp_path_factory.mktemp("tiny")).run("true").status == 0
    return state


@pytest.fixture(scope="session")
def farm_state(place: str, tiny_state: str, layers: dict[str, tuple[str, ...]], states: list[str]) -> str:
    """A store with every machine of farm.toml, shared by the tests that leave it as it was."""
    state = f"{place}/farm"
    _copy_tiny(tiny_state, state)
    link_layers(CACHED, state, tuple(dict.fromkeys(digest for chain in layers.values() for digest in chain)))
    states.append(state)
    return state


def _copy_tiny(tiny_state: str, state: str) -> None:
    shutil.copytree(f"{tiny_state}/names", f"{state}/names")
    link_layers(tiny_state, state, tuple(os.listdir(f"{tiny_state}/layers")))
    for path in Path(tiny_state).glob("seccomp-*"):
        shutil.copy(path, state)


@pytest.fixture
def farm(farm_state: str, tmp_path: Path) -> Iterator[Rig]:
    """The command with bullseye, bookworm, trixie, forky, sid and tiny. No session may stay."""
    rig = Rig(farm_state, tmp_path, FARM.read_text(encoding="utf-8") + TINY)
    yield rig
    left = rig.sessions()
    for name in left:
        for kind in ("running", "sessions"):
            files.remove_tree(f"{farm_state}/{kind}/{name}")
    assert not left, f"sessions that the test left in the shared store: {left}"


@pytest.fixture
def new_store(place: str, tiny_state: str, states: list[str]) -> Iterator[Callable[[], str]]:
    """Makes stores that have the layer ``tiny``, for a single test."""
    made = []

    def make() -> str:
        state = tempfile.mkdtemp(prefix="s", dir=place)
        os.rmdir(state)
        _copy_tiny(tiny_state, state)
        made.append(state)
        states.append(state)
        return state

    yield make
    for state in made:
        with contextlib.suppress(ValueError):
            states.remove(state)
        files.remove_tree(state)


@pytest.fixture
def tiny(new_store: Callable[[], str], tmp_path: Path) -> Rig:
    """The command with a store of its own and one machine, ``tiny``, that starts in a moment."""
    return Rig(new_store(), tmp_path)


@pytest.fixture
def own(new_store: Callable[[], str], tmp_path: Path, layers: dict[str, tuple[str, ...]]) -> Rig:
    """The command with a store of its own that has bookworm's layers and the packages downloaded so far."""
    state = new_store()
    link_layers(CACHED, state, layers["bookworm"])
    if os.path.isdir(f"{CACHED}/cache/packages"):
        shutil.rmtree(f"{state}/cache/packages", ignore_errors=True)
        shutil.copytree(f"{CACHED}/cache/packages", f"{state}/cache/packages", copy_function=os.link)
    return Rig(state, tmp_path, FARM.read_text(encoding="utf-8") + TINY)


@pytest.fixture(scope="session")
def rpm_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Fedora and CentOS; to be copied by whoever changes it."""
    place = tmp_path_factory.mktemp("rpm")
    with throwaway_key("lab", place) as key:
        yield make_mirror(place, key)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Host]:
    """A host with a network of its own, and this process in it."""
    with host_at(str(tmp_path / "host")) as host:
        yield host


@pytest.fixture(scope="session")
def lab(place: str, group: Group) -> Iterator[Lab]:
    """Hosts with systemd, each booted when a test first asks for it, and gone when the tests end."""
    with groups_beside(group.tops) as groups:
        made = Lab(place, CACHED, groups)
        yield made
        made.close()


@pytest.fixture
def host(lab: Lab, request: pytest.FixtureRequest) -> Iterator[LabHost]:
    """A host with systemd, bookworm's unless the test says otherwise. Nothing of a machine may stay in it."""
    found = lab.host(getattr(request, "param", "bookworm"))
    yield found
    if left := found.left():
        found.clear()
        pytest.fail(f"left in lab-{found.name}:\n{left}")
