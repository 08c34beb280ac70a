"""Scripts that a machine runs when it boots for the first time: each until it has succeeded once, in their order.

The unit and the scripts are put into the machine's /run at every start. What was done is marked in the machine's own
/var/lib/roost/firstboot, by the script's name and content: a machine that starts anew (or a script that was changed) runs
them again, one that was cut off goes on with the script that did not end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = "/var/lib/roost/firstboot"
PLACE = "/run/roost/firstboot"
UNIT = "roost-firstboot.service"

_UNIT = f"""[Unit]
Description=First boot, by Roost
Documentation=man:roost(1)
Wants=network-online.target
After=network-online.target
ConditionPathExists={PLACE}/run

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {PLACE}/run
TimeoutStartSec=infinity
StandardOutput=journal+console
StandardError=journal+console
"""

_RUN = f"""set -u
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p {DONE}
cd {PLACE}
for script in [0-9]*; do
    name=$(cat "name-$script")
    mark={DONE}/$(cat "mark-$script")
    [ ! -e "$mark" ] || continue
    echo "firstboot: $name"
    if [ "$(head -c 2 "$script")" = '#!' ]; then
        chmod 0700 "$script"
        "./$script" </dev/null
    else
        sh -e "./$script" </dev/null
    fi
    status=$?
    if [ "$status" -ne 0 ]; then
        echo "firstboot: $name failed with status $status, it is run again at the next start" >&2
        exit "$status"
    fi
    : >"$mark"
    sync "$mark" 2>/dev/null || sync
done
"""


def files_of(scripts: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """The files below the machine's /run; none without scripts."""
    if not scripts:
        return {}
    import hashlib  # half of what a start without scripts would load

    found = {
        f"/run/systemd/system/{UNIT}": _UNIT.encode(),
        "/run/systemd/system/multi-user.target.wants": UNIT.encode(),
        f"{PLACE}/run": _RUN.encode(),
    }
    for number, (name, content) in enumerate(scripts):
        word = f"{number:04}"
        mark = hashlib.sha256(name.encode() + b"\0" + content).hexdigest()[:16]
        found |= {
            f"{PLACE}/{word}": content,
            f"{PLACE}/name-{word}": name.encode(),
            f"{PLACE}/mark-{word}": mark.encode(),
        }
    return found


def command() -> tuple[str, ...]:
    """What does the same in a machine without systemd, where nothing starts the unit."""
    return ("/bin/sh", f"{PLACE}/run")
