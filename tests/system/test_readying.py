"""What layers have beside packages, users and files: repositories, language, time, root's password, services, an init."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.boot_rig import BootRig
from system.network_rig import host_at

if TYPE_CHECKING:
    from system.rig import Rig

QGIS = Path(__file__).parents[2] / "examples/qgis"
BOOKWORM = 'distribution = "debian"\nrelease = "bookworm"\nsource-packages = true\n'
LAYERS = '[machines.tiny]\nfrom = "layer:tiny"\nprofiles = ["p"]\n'


def stand_in(directory: Path) -> Path:
    """The repository of the example, signed by a key that is made for it."""
    subprocess.run((str(QGIS / "stand-in"), str(directory)), check=True, capture_output=True)
    return directory


def example(repository: Path) -> str:
    """The example's definition with another place for its repository, over a base that the tests have."""
    text = (QGIS / "roost.toml").read_text()
    text = text.replace("file:///var/tmp/roost-qgis", f"file://{repository}".replace(" ", "%20"))
    text = text.replace("/var/tmp/roost-qgis", str(repository))
    return text.replace("[profiles.qgis]", "source-packages = true\n[profiles.qgis]")


SCRIPT = r"""
scripts = ['''
printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/scripted.service
''']
"""
LOOK = """
date +%Z; readlink /etc/localtime; cat /etc/timezone; LC_ALL=de_DE.UTF-8 date -d 2020-03-01 +%B
cat /etc/locale.conf /etc/default/locale; grep -o '^root:[^:]*' /etc/shadow; wc -c </etc/machine-id
systemctl is-enabled qgis-server fstrim.timer getty@tty7 scripted
stat -c '%a %U' /etc/apt/keyrings/qgis.gpg /etc/apt/sources.list.d/qgis.sources
for name in /sbin/init dbus-daemon agetty login; do command -v "$name" >/dev/null || echo "no $name"; done
ls -A /var/lib/apt/lists; ls -d /var/cache/apt/archives/*.deb /usr/sbin/policy-rc.d /etc/apt/auth.conf 2>/dev/null
"""
SEEN = """\
/usr/share/zoneinfo/Europe/Berlin
Europe/Berlin
März
LANG=de_DE.UTF-8
LANG=de_DE.UTF-8
root:$y$salt$hash
0
enabled
enabled
enabled
enabled
644 root
644 root
"""


def boots(rig: BootRig) -> None:
    """Its services run, and its first boot's script; what is of this machine alone is made then."""
    try:
        done = rig("--json", "up", "qgisbuilds")
        assert json.loads(done.out)[0]["state"] == "running", done
        upper = Path(rig.upper("qgisbuilds"))
        assert (upper / "var/first").read_text() == "QGIS 3.99.0-Master (a stand-in)\nactive\n"
        assert len((upper / "etc/machine-id").read_text().strip()) == 32
    finally:
        rig.close()


def test_the_recipe_with_a_third_partys_repository(own: Rig, tmp_path: Path) -> None:
    """The machine of the example, and more: its inside is looked at by runs, then it boots."""
    repository = stand_in(tmp_path / "a repository")
    text = (
        example(repository).replace('"C.UTF-8"', '"de_DE.UTF-8"').replace('password = ""', 'password = "$y$salt$hash"')
    )
    before, _, rest = text.partition("firstboot =")
    first = 'firstboot = ["qgis --version >/var/first; systemctl is-active qgis-server >>/var/first"]\n'
    services = 'services = ["fstrim.timer", "getty@tty7", "scripted"]'
    profile = rest.partition("[profiles.qgis]")[2]
    own.define(f"{before}source-packages = true\n{first}{services}{SCRIPT}[profiles.qgis]{profile}")
    done = own("build", "-v", timeout=300)
    assert done.status == 0, done
    assert "salt" not in done.said
    steps = ("install an init", "locale de_DE.UTF-8", "timezone Europe/Berlin", "user user", "root password")
    assert [line for line in done.said.splitlines() if line.startswith("machine qgisbuilds: step")] == [
        f"machine qgisbuilds: step {number} of 8: {step}"
        for number, step in enumerate((*steps, "script 1", "enable services", "ready to boot"), 1)
    ]
    zone, _, seen = own.run(LOOK, machine="qgisbuilds").text.partition("\n")
    assert zone in ("CET", "CEST")
    assert seen == SEEN
    script = "qgis --version; sudo apt-get -qq update && apt-cache policy qgis"
    done = own("run", "qgisbuilds", "-u", "user", "--", "sh", "-c", script, timeout=60)
    assert done.text.startswith("QGIS 3.99.0"), done
    assert f"file:{repository} bookworm/main".replace("a rep", "a%20rep") in done.text, done
    assert "salt" not in own("plan", "--json").text + own("list", "--json").text
    with host_at(str(tmp_path / "host")) as host:
        boots(BootRig(own.state, tmp_path, host, own.file.read_text()))
    text = own.file.read_text()
    own.define(text.replace("de_DE", "fr_FR").replace('services     = ["qgis-server"]', "services     = []"))
    assert [layer["reason"] for layer in own.json("plan")["layers"]] == [
        "present",
        "services removed: qgis-server",
        "locale changed: de_DE.UTF-8 to fr_FR.UTF-8",
    ]


def test_a_repository_that_another_key_signs_is_refused(own: Rig, tmp_path: Path) -> None:
    repository = stand_in(tmp_path / "repository")
    os.replace(stand_in(tmp_path / "other") / "key.asc", repository / "key.asc")
    own.define(example(repository))
    before = sorted(os.listdir(f"{own.state}/layers"))
    done = own("build", timeout=120)
    assert done.status == 10, done
    assert f"file:{repository} is signed by a key that is not trusted" in done.said
    assert "of a repository: key" in done.said
    assert sorted(os.listdir(f"{own.state}/layers")) == before


def test_what_a_release_does_not_have_is_named(own: Rig) -> None:
    machines = {"a": 'locale = "xx_XX.UTF-8"', "b": 'timezone = "Europe/Berlim"', "c": 'services = ["nginx"]'}
    own.define("".join(f"[machines.{name}]\n{BOOKWORM}{more}\n" for name, more in machines.items()))
    done = own("build", "-j", "1", timeout=120)
    assert done.status == 1, done
    for words in ("has no locale xx_XX.UTF-8", "has no time zone Europe/Berlim", "no unit is called nginx.service"):
        assert words in done.said, done.said


# What is old or small, with stand-ins for the programs that say so: not every mirror has such releases.
TINY_APT = r"""
[profiles.p.files]
"/bin/dpkg-query" = { content = "#!/bin/sh\necho VERSION\n", mode = "0755" }
"/bin/apt-get" = { content = "#!/bin/sh\nexit 0\n", mode = "0755" }
"/etc/apt/trusted.gpg.d/x" = { content = "" }
"/etc/apt/sources.list.d/x" = { content = "" }
"/etc/apt/sources.list" = { content = "deb [signed-by=/usr/share/keyrings/debian.gpg] http://m.example/debian sid main\n" }
"""
REPOSITORIES = """
repositories = [
    { name = "q", url = "https://q.example/debian", suites = ["sid", "rc"], components = ["main", "contrib"], key = "q.gpg" },
    { name = "flat", url = "https://flat.example", suites = ["./"] },
]
"""
WRITTEN = {
    "1.0.9": """\
deb https://flat.example ./\x20
deb https://q.example/debian sid main contrib
deb https://q.example/debian rc main contrib
keys in /etc/apt/trusted.gpg.d/q.gpg
""",
    "2.6.1": """\
Types: deb
URIs: https://flat.example
Suites: ./
Signed-By: /usr/share/keyrings/debian.gpg
Types: deb
URIs: https://q.example/debian
Suites: sid rc
Components: main contrib
Signed-By: /etc/apt/keyrings/q.gpg
keys in /etc/apt/keyrings/q.gpg
""",
}


@pytest.mark.parametrize("version", WRITTEN)
def test_sources_are_written_as_the_machines_apt_reads_them(tiny: Rig, version: str) -> None:
    (tiny.directory / "q.gpg").write_bytes(b"\x99keys")
    tiny.define(f"{LAYERS}{REPOSITORIES}{TINY_APT.replace('VERSION', version)}")
    done = tiny("build")
    assert done.status == 0, done
    look = 'cat /etc/apt/sources.list.d/*; for file in $(find /etc/apt -name q.gpg); do tail -c4 $file; echo " in $file"; done'
    assert tiny.run(look).text == WRITTEN[version]


def test_a_machine_that_nothing_can_boot(tiny: Rig) -> None:
    tiny.define(f"{LAYERS}boot = {{}}\n{TINY_APT}")
    done = tiny("build")
    assert done.status == 10, done
    assert "this machine cannot boot" in done.said


def test_another_init_is_left_as_it_is(tiny: Rig) -> None:
    """Nothing is installed, and the id that the machine had is gone."""
    init = (
        r'"/sbin/init" = { content = "#!/bin/sh\n", mode = "0755" }'
        '\n"/etc/machine-id" = { content = "0123456789abcdef0123456789abcdef\\n" }\n'
    )
    tiny.define(f"{LAYERS}boot = {{}}\n{TINY_APT.replace('exit 0', 'exit 1')}{init}")
    done = tiny("build")
    assert done.status == 0, done
    assert tiny.run("wc -c </etc/machine-id; cat /sbin/init").text == "0\n#!/bin/sh\n"


def test_services_of_an_init_without_units(tiny: Rig) -> None:
    programs = r'"/bin/update-rc.d" = { content = "#!/bin/sh\necho $@ >>/called\n", mode = "0755" }'
    programs += '\n"/etc/init.d/given" = { content = "", mode = "0755" }\n'
    tiny.define(f'{LAYERS}services = ["given"]\n{TINY_APT}{programs}')
    done = tiny("build")
    assert done.status == 0, done
    assert tiny.run("cat /called").text == "given defaults\ngiven enable\n"
    tiny.define(f'{LAYERS}services = ["given", "missing"]\n{TINY_APT}{programs}')
    assert "no unit is called missing.service here" in tiny("build").said
