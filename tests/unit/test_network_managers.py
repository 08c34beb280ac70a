"""What the host's managers are told, while machines come and go side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from roost.network import managers

if TYPE_CHECKING:
    from pathlib import Path


def test_what_nftables_service_is_told_is_written_whole_by_machines_that_come_together(tmp_path: Path) -> None:
    for name in ("run/systemd/system", "usr/lib/systemd/system", "etc/systemd/system"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/system/nftables.service").touch()
    units = tmp_path / "etc/systemd/system"

    def come_and_go(number: int) -> None:
        unit = units / f"systemd-nspawn@m{number}.service.d/50-roost.conf"
        for _ in range(50):
            unit.parent.mkdir()
            unit.touch()
            managers.write_afterwards(str(tmp_path))
            assert (units / "nftables.service.d/50-roost.conf").read_text().startswith("# Roost's table")
            unit.unlink()
            unit.parent.rmdir()
            managers.remove_afterwards(str(tmp_path))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert list(units.iterdir()) == []
