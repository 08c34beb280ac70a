"""From what is written to machines that are ready to be planned."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from definition_facts import load_file, load_text

from roost.definition import with_family
from roost.definition.model import Bind, BootTerms, FileContent, NetworkTerms, Pool, RepositoryKeys, Script, User
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from pathlib import Path

    from roost.definition.model import Resolved

WHOLE = """
[defaults]
profiles    = ["builder"]
environment = { A = "defaults", B = "defaults" }
limits      = { memory = "2G", tasks = 100 }
network     = { mode = "none" }
packages    = ["less"]
files       = { "/etc/a" = { content = "defaults" }, "/etc/b" = { content = "defaults" } }

[machines.bookworm]
distribution = "debian"
release      = "bookworm"

[machines.noble]
description  = "Ubuntu's long-term release"
distribution = "ubuntu"
release      = "noble"
architecture = "arm64"
profiles     = ["tools", "builder"]
packages     = { apt = ["libuv1-dev"], dnf = ["libuv-devel"] }
environment  = { B = "machine", C = "machine" }
limits       = { memory = 1073741824, cpus = 0.5 }
network      = {}
files        = { "/etc/b" = { content = "machine", mode = "0600", owner = "sai" } }
scripts      = ["ldconfig\\n", { source = "setup.sh" }]
private-users = false
capabilities = ["CAP_SYS_ADMIN", "CAP_BPF"]
no-new-privileges = true
variant      = "minbase"
bootstrap    = "debootstrap"
components   = ["main"]
mirror       = "http://mirror.example/ubuntu"
keyring      = "keys.gpg"
check-valid-until = false
source-packages = true

[profiles.builder]
user        = { name = "sai", uid = 883, sudo = "nopasswd" }
packages    = { apt = ["gcc"] }
environment = { A = "builder", D = "builder" }
binds       = ["/srv/one:/mnt", "cache:/cache:rw"]

[profiles.tools]
packages    = ["git"]
environment = { D = "tools", E = "tools" }
"""


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Resolved]:
    (tmp_path / "setup.sh").write_text("#!/bin/sh\ntrue\n")
    (tmp_path / "keys.gpg").write_bytes(b"keys")
    return load_text(tmp_path, WHOLE).machines


def test_a_machine_gets_what_it_does_not_write(whole: dict[str, Resolved]) -> None:
    assert list(whole) == ["bookworm", "noble"]
    machine = whole["bookworm"]
    assert machine.name == "bookworm"
    assert machine.family == "apt"
    base = machine.base
    assert (base.distribution, base.release, base.architecture) == ("debian", "bookworm", "amd64")
    assert (base.bootstrap, base.variant, base.components) == ("mmdebstrap", "minbase", ("main",))
    assert (base.mirror, base.keyring, base.keyring_digest, base.check_valid_until) == ("", "", "", None)
    assert machine.profiles == ("builder",)
    assert [layer.name for layer in machine.layers] == ["builder", ""]
    assert machine.layers[0].packages == ("gcc",)
    assert machine.layers[0].users == (User(name="sai", uid=883, sudo="nopasswd"),)
    assert machine.layers[1].packages == ("less",)
    assert machine.environment == {"A": "defaults", "B": "defaults", "D": "builder"}
    assert (machine.memory, machine.cpus, machine.tasks) == (2 << 30, None, 100)
    assert machine.network == "none"
    assert machine.private_users
    assert machine.capabilities == ()
    assert machine.no_new_privileges is False  # it has a user with sudo


def test_in_a_machine_that_boots_su_works_unless_it_is_forbidden(tmp_path: Path) -> None:
    """It is a whole system with users, as nspawn boots it; a run is one command."""
    text = """
[defaults]
distribution = "debian"
release = "sid"
[machines.plain]
[machines.strict]
no-new-privileges = true
[machines.open]
no-new-privileges = false
"""
    found = load_text(tmp_path, text).machines
    assert {name: (one.no_new_privileges, one.boot_no_new_privileges) for name, one in found.items()} == {
        "plain": (True, False),
        "strict": (True, True),
        "open": (False, False),
    }


def test_what_a_machine_writes_wins_and_tables_are_merged(whole: dict[str, Resolved], tmp_path: Path) -> None:
    machine = whole["noble"]
    base = machine.base
    assert machine.description == "Ubuntu's long-term release"
    assert (base.architecture, base.bootstrap, base.components) == ("arm64", "debootstrap", ("main",))
    assert (base.mirror, base.check_valid_until, base.source_packages) == ("http://mirror.example/ubuntu", False, True)
    assert base.keyring == str(tmp_path / "keys.gpg")
    assert base.keyring_digest == hashlib.sha256(b"keys").hexdigest()
    assert [layer.name for layer in machine.layers] == ["tools", "builder", ""]
    own = machine.layers[2]
    assert own.packages == ("libuv1-dev",)
    assert own.files == (
        FileContent(path="/etc/a", content=b"defaults", mode=0o644, owner="root", group="root"),
        FileContent(path="/etc/b", content=b"machine", mode=0o600, owner="sai", group="root"),
    )
    assert own.scripts == (
        Script(name="script 1", content=b"ldconfig\n"),
        Script(name="setup.sh", content=b"#!/bin/sh\ntrue\n"),
    )
    assert machine.environment == {"A": "defaults", "B": "machine", "C": "machine", "D": "builder", "E": "tools"}
    assert (machine.memory, machine.cpus, machine.tasks) == (1 << 30, 0.5, 100)
    assert machine.network == "none"
    assert not machine.private_users
    assert machine.capabilities == ("CAP_SYS_ADMIN", "CAP_BPF")
    assert machine.no_new_privileges is True


def test_privileges_are_gained_only_where_somebody_has_sudo(tmp_path: Path) -> None:
    text = """
[machines.plain]
distribution = "debian"
release = "sid"
user = { name = "a" }
[machines.sudo]
distribution = "debian"
release = "sid"
user = [{ name = "a" }, { name = "b", sudo = "nopasswd" }]
[machines.layer]
from = "layer:x"
[machines.said]
from = "layer:x"
no-new-privileges = false
"""
    found = {name: machine.no_new_privileges for name, machine in load_text(tmp_path, text).machines.items()}
    assert found == {"plain": True, "sudo": False, "layer": None, "said": False}


def test_binds_are_absolute_and_the_later_of_two_with_one_target_is_used(tmp_path: Path) -> None:
    text = """
[machines.a]
distribution = "debian"
release = "sid"
profiles = ["one", "two"]
binds = [{ source = "/own", target = "/mnt", read-only = false }]
[profiles.one]
binds = ["/one:/mnt", "cache:/cache:rw", "/data"]
[profiles.two]
binds = ["../up:/data:ro"]
"""
    assert load_text(tmp_path, text).machines["a"].binds == (
        Bind(source=str(tmp_path / "cache"), target="/cache", read_only=False),
        Bind(source=str(tmp_path.parent / "up"), target="/data", read_only=True),
        Bind(source="/own", target="/mnt", read_only=False),
    )


def test_what_adds_nothing_for_a_family_makes_no_layer(tmp_path: Path) -> None:
    text = """
[machines.sid]
distribution = "debian"
release = "sid"
profiles = ["rpm", "session"]
[machines.f42]
distribution = "fedora"
release = "42"
profiles = ["rpm", "session"]
[profiles.rpm]
packages = { dnf = ["rpm-build"] }
[profiles.session]
environment = { A = "1" }
"""
    machines = load_text(tmp_path, text).machines
    assert machines["sid"].layers == ()
    assert machines["sid"].profiles == ("rpm", "session")
    assert [layer.packages for layer in machines["f42"].layers] == [("rpm-build",)]


def test_a_machine_may_empty_a_list_of_the_defaults(tmp_path: Path) -> None:
    text = """
[defaults]
distribution = "debian"
release = "sid"
profiles = ["a"]
packages = ["git"]
[machines.bare]
profiles = []
packages = []
[profiles.a]
packages = ["gcc"]
"""
    assert load_text(tmp_path, text).machines["bare"].layers == ()


def test_one_account_in_two_profiles_is_made_once(tmp_path: Path) -> None:
    text = """
[machines.a]
distribution = "debian"
release = "sid"
profiles = ["one", "two"]
[profiles.one]
user = { name = "sai", uid = 883 }
[profiles.two]
user = [{ name = "sai", uid = 883 }, { name = "other" }]
"""
    layers = load_text(tmp_path, text).machines["a"].layers
    assert [[user.name for user in layer.users] for layer in layers] == [["sai"], ["other"]]


LAYER = """
[defaults]
distribution = "debian"
release = "sid"
mirror = "http://mirror.example/debian"
[machines.tuned]
from = "layer:tuned"
profiles = ["any", "rpm"]
packages = { apt = ["vim"], dnf = ["vim-enhanced"] }
[profiles.any]
packages = ["git"]
[profiles.rpm]
packages = { dnf = ["rpm-build"] }
"""


BOOTS = """
[network]
pool  = "10.77.0.0/16"

[defaults]
distribution = "debian"
release      = "bookworm"
timezone     = "Europe/Berlin"
firstboot    = ["echo defaults"]
services     = ["ssh"]

[defaults.boot]
timeout = "2m"
nested  = true

[defaults.network]
isolated = true
egress   = ["any"]

[machines.web]
profiles      = ["one", "two"]
firstboot     = ["echo own", { source = "own.sh" }]
root-password = "$y$salt$hash"
locale        = "C.UTF-8"
boot          = { enable = true, stop-timeout = 5, nested = false }
network       = { publish = ["8080:80/tcp"], bridge = "lab", egress = ["host:53"] }

[machines.plain]
services      = []
network       = { mode = "none" }

[profiles.one]
firstboot    = ["echo one"]
services     = ["nginx"]
repositories = [{ name = "q", url = "https://q.example/debian", key = "q.asc" }]

[profiles.two]
firstboot    = ["echo two"]
repositories = [{ name = "q", url = "https://q.example/debian", key = "q.asc" }, { name = "flat", url = "file:///srv/x", suites = ["./"] }]
"""


def test_machines_that_boot(tmp_path: Path) -> None:
    (tmp_path / "own.sh").write_text("echo file\n")
    (tmp_path / "q.asc").write_bytes(b"\x99keys")
    loaded = load_text(tmp_path, BOOTS)
    assert (loaded.pool, loaded.pool6) == ("10.77.0.0/16", None)
    assert {str(tmp_path / "own.sh"), str(tmp_path / "q.asc")} <= set(loaded.inputs)
    web, plain = loaded.machines["web"], loaded.machines["plain"]
    assert web.boot == BootTerms(enable=True, hostname="web", timeout=120.0, stop_timeout=5.0)
    assert plain.boot == BootTerms(hostname="plain", timeout=120.0, nested=True)
    assert web.private_network == NetworkTerms(
        bridge="lab", isolated=True, publish=("8080:80/tcp",), egress=("host:53",)
    )
    assert plain.private_network == NetworkTerms(isolated=True, egress=("any",))
    assert (web.network, web.boot_network) == ("host", "private")
    assert (plain.network, plain.boot_network) == ("none", "none")
    assert [(script.name, script.content) for script in web.firstboot] == [
        ("profile one: script 1", b"echo one"), ("profile two: script 1", b"echo two"),
        ("script 1", b"echo own"), ("own.sh", b"echo file\n"),
    ]  # fmt: skip
    assert [script.content for script in plain.firstboot] == [b"echo defaults"]


def test_what_layers_of_machines_that_boot_have(tmp_path: Path) -> None:
    (tmp_path / "own.sh").write_text("echo file\n")
    (tmp_path / "q.asc").write_bytes(b"\x99keys")
    machines = load_text(tmp_path, BOOTS).machines
    one, two, own = machines["web"].layers
    q = RepositoryKeys(
        name="q", url="https://q.example/debian", suites=("bookworm",), components=("main",), key=b"\x99keys"
    )
    flat = RepositoryKeys(name="flat", url="file:///srv/x", suites=("./",), components=(), key=b"")
    assert (one.repositories, two.repositories, own.repositories) == ((q,), (flat,), ())
    assert (one.services, two.services, own.services) == (("nginx",), (), ("ssh",))
    assert (own.locale, own.timezone, own.root_password, own.init) == ("C.UTF-8", "Europe/Berlin", "$y$salt$hash", True)
    assert not one.init
    (only,) = machines["plain"].layers
    assert only.name == ""
    assert (only.services, only.locale, only.root_password, only.init) == ((), "", None, True)


@pytest.mark.parametrize("mode", ["host", "none", "private"])
def test_a_written_mode_holds_for_runs_and_for_the_booted_machine(tmp_path: Path, mode: str) -> None:
    text = f'[defaults]\nnetwork = {{ mode = "{mode}" }}\n[machines.a]\ndistribution = "debian"\nrelease = "sid"\nboot = {{}}\n'
    machine = load_text(tmp_path, text).machines["a"]
    assert (machine.network, machine.boot_network) == (mode, mode)


def test_what_says_nothing_of_booting_does_not_boot(whole: dict[str, Resolved]) -> None:
    assert {machine.boot for machine in whole.values()} == {None}
    assert not any(layer.init for machine in whole.values() for layer in machine.layers)


def test_a_machine_made_from_a_layer_may_boot(tmp_path: Path) -> None:
    machine = load_text(tmp_path, '[machines.a]\nfrom = "layer:x"\nboot = {}\n').machines["a"]
    assert [layer.init for layer in with_family(machine, "apt").layers] == [True]


def test_files_of_one_definition_share_one_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "machines"
    directory.mkdir()
    machine = '[machines.{}]\ndistribution = "debian"\nrelease = "sid"\n'
    (directory / "a.toml").write_text(machine.format("a") + '[network]\npool = "10.77.0.0/16"\n')
    (directory / "b.toml").write_text(
        machine.format("b") + '[network]\npool = "10.77.0.0/16"\npool6 = "fd00:77::/48"\n'
    )
    loaded = load_file(None, machines=str(directory))
    assert (loaded.pool, loaded.pool6) == ("10.77.0.0/16", "fd00:77::/48")
    assert loaded.definition.network == Pool(pool="10.77.0.0/16", pool6="fd00:77::/48")
    (directory / "b.toml").write_text(machine.format("b") + '[network]\npool = "10.78.0.0/16"\n')
    with pytest.raises(DefinitionError) as caught:
        load_file(None, machines=str(directory))
    first, second = directory / "a.toml", directory / "b.toml"
    assert (
        caught.value.details
        == f"{second}:5: network.pool: {first} says 10.77.0.0/16 already: all machines share one pool"
    )


def test_a_machine_made_from_a_layer_chooses_its_packages_when_its_family_is_known(tmp_path: Path) -> None:
    machine = load_text(tmp_path, LAYER).machines["tuned"]
    assert machine.base.from_layer == "tuned"
    assert (machine.base.distribution, machine.base.mirror, machine.family) == ("", "", "")
    debian = with_family(machine, "apt")
    assert debian.family == "apt"
    assert [(layer.name, layer.packages, layer.choices) for layer in debian.layers] == [
        ("any", ("git",), {}),
        ("", ("vim",), {}),
    ]
    assert [layer.packages for layer in with_family(machine, "dnf").layers] == [
        ("git",),
        ("rpm-build",),
        ("vim-enhanced",),
    ]


def test_a_machine_with_a_distribution_leaves_the_layer_of_the_defaults(tmp_path: Path) -> None:
    text = """
[defaults]
from = "layer:tuned"
[machines.tuned]
[machines.sid]
distribution = "debian"
release = "sid"
"""
    machines = load_text(tmp_path, text).machines
    assert machines["tuned"].base.from_layer == "tuned"
    assert (machines["sid"].base.from_layer, machines["sid"].family) == ("", "apt")


def test_sources_are_found_beside_the_definition_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/motd").write_bytes(b"\xff\x00hello")
    definition = tmp_path / "conf/some.toml"
    definition.write_text(
        '[machines.a]\ndistribution = "debian"\nrelease = "sid"\nfiles = { "/etc/motd" = { source = "motd" } }\n'
    )
    monkeypatch.chdir(tmp_path)
    loaded = load_file("conf/some.toml")
    assert loaded.path == str(definition)
    assert loaded.machines["a"].layers[0].files[0].content == b"\xff\x00hello"
    assert loaded.definition.machines["a"].release == "sid"


def test_the_file_here_comes_first_then_the_hosts_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = tmp_path / "machines"
    machines.mkdir()
    base = 'distribution = "debian"\nrelease = "sid"\n'
    (machines / "20-b.toml").write_text(f'[defaults]\nprofiles = ["shared"]\n[machines.b]\n{base}')
    (machines / "10-a.toml").write_text(
        f'[defaults]\n{base}[machines.a]\n[profiles.shared]\nscripts = [{{ source = "x.sh" }}]\n'
    )
    (machines / "x.sh").write_text("true\n")
    (machines / ".hidden.toml").write_text("not toml")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    loaded = load_file(None, machines=str(machines))
    assert loaded.path == str(machines)
    assert list(loaded.machines) == ["a", "b"]
    assert list(loaded.definition.machines) == ["a", "b"]
    assert loaded.machines["a"].profiles == ()
    assert [layer.name for layer in loaded.machines["b"].layers] == ["shared"]

    (machines / "30.toml").write_text(f"[machines.a]\n{base}[machines.c]\n[profiles.shared]\n")
    with pytest.raises(DefinitionError) as caught:
        load_file(None, machines=str(machines))
    assert caught.value.brief == f"{machines}: 3 mistakes"
    name = str(machines / "30.toml")
    assert caught.value.details.splitlines() == [
        f"{name}:1: machines.a: already defined in {machines / '10-a.toml'}",
        f'{name}:4: machines.c: distribution is missing: one of debian, ubuntu, fedora (or from = "layer:NAME")',
        f"{name}:5: profiles.shared: already defined in {machines / '10-a.toml'}",
    ]

    (here / "roost.toml").write_text(f"[machines.only]\n{base}")
    loaded = load_file(None, machines=str(machines))
    assert list(loaded.machines) == ["only"]
    assert loaded.path == str(here / "roost.toml")


def test_no_definition_anywhere_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    for machines in ("empty", "nowhere"):
        with pytest.raises(DefinitionError, match="there is no definition here") as caught:
            load_file(None, machines=machines)
        assert "roost init" in caught.value.hint
        assert "./roost.toml" in caught.value.details
