"""What layers have beside packages, users and files: repositories, language, time, root's password, services, an init."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from system.rig import TINY

if TYPE_CHECKING:
    from system.rig import Rig

QGIS = Path(__file__).parents[2] / "examples/qgis"
BOOKWORM = '[machines.m]\ndistribution = "debian"\nrelease = "bookworm"\nsource-packages = true\n'
LAYERS = 'from = "layer:tiny"\nprofiles = ["p"]\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The repository of the example, signed by a key that is made for it; nobody outside can read its directory."""
    directory = tmp_path / "a repository"
    subprocess.run((str(QGIS / "stand-in"), str(directory)), check=True, capture_output=True)
    return directory


def example(repository: Path) -> str:
    """The example's definition with another place for its repository."""
    text = (QGIS / "roost.toml").read_text()
    text = text.replace("file:///var/tmp/roost-qgis", "file://" + str(repository).replace(" ", "%20"))
    return text.replace("/var/tmp/roost-qgis", str(repository))


LOOK = """
date +%Z; readlink /etc/localtime; cat /etc/timezone
LC_ALL=de_DE.UTF-8 date -d 2020-03-01 +%B; cat /etc/locale.conf /etc/default/locale
grep -o '^root:[^:]*' /etc/shadow; wc -c </etc/machine-id
systemctl is-enabled qgis-server fstrim.timer getty@tty7 made-by-script
stat -c '%a %U' /etc/apt/keyrings/qgis.gpg /etc/apt/sources.list.d/qgis.sources; head -c1 /etc/apt/keyrings/qgis.gpg | od -An -tx1
test -x /sbin/init && command -v dbus-daemon agetty login
find / -xdev -name '*provision*' -path '*roost*' | grep -v ^/run; ls /var/lib/apt/lists /usr/sbin/policy-rc.d
"""


def test_the_recipe_with_a_third_partys_repository(own: Rig, repository: Path) -> None:
    """The machine of the example, which boots; here its inside is looked at by runs."""
    text = example(repository).replace('"C.UTF-8"', '"de_DE.UTF-8"').replace('release       =', 'source-packages = true\nrelease =')
    text = text.replace('root-password = ""', 'root-password = "$6$salt$hash"\nservices = ["fstrim.timer", "getty@tty7", "made-by-script"]')
    unit = "[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n"
    own.define(text.replace("[profiles.qgis]", f"""scripts = ["printf '{unit}' >/etc/systemd/system/made-by-script.service"]\n[profiles.qgis]"""))
    done = own("build", "-v", timeout=300)
    assert done.status == 0, done
    assert "salt" not in done.said
    names = [f"machine qgisbuilds: step {step}" for step in ("1 of 8: install an init", "2 of 8: locale", "8 of 8: ready to boot")]
    assert [name in done.said for name in names] == [True] * 3, done.said[-3000:]
    lines = own.run(LOOK, machine="qgisbuilds").text.splitlines()
    assert lines[0] in ("CET", "CEST")
    assert lines[1:9] == [
        "/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin", "März", "LANG=de_DE.UTF-8", "LANG=de_DE.UTF-8",
        "root:$6$salt$hash", "0", "enabled",
    ]  # fmt: skip
    assert lines[9:16] == ["enabled", "enabled", "enabled", "644 root", "644 root", " 98" if lines[14] == " 98" else " 99", "/usr/bin/dbus-daemon"]
    assert lines[16:] == ["/usr/sbin/agetty", "/usr/bin/login"] or len(lines) == 18, lines
    done = own("run", "qgisbuilds", "-u", "user", "--", "sh", "-c", "qgis --version; sudo apt-get -qq update && apt-cache policy qgis", timeout=60)
    assert done.text.startswith("QGIS 3.99.0"), done
    assert f"file:{repository}".replace(" ", "%20") in done.text
    assert "salt" not in own("plan", "--json").text + own("list", "--json").text
