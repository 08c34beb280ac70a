"""Runs in the VM: bash scripts that come over a virtio port, one JSON document a line, and what they said goes back."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

PORT = "/dev/virtio-ports/vm"
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def answer(request: dict[str, str]) -> dict[str, object]:
    """Runs one script to its end."""
    done = subprocess.run(
        ("bash", "-c", request["script"]),
        input=request["stdin"].encode(),
        cwd="/root",
        capture_output=True,
        check=False,
    )
    said = {"out": done.stdout.decode(errors="replace"), "err": done.stderr.decode(errors="replace")}
    return {"id": request["id"], "boot": BOOT, "status": done.returncode, **said}


with open(PORT, "r+b", buffering=0) as port, open(os.dup(port.fileno()), "wb") as answers:  # it takes 32 KiB at a time
    got = b""
    while True:
        block = port.read(65536)
        if not block:  # nobody is at the other end
            time.sleep(0.1)
            continue
        *lines, got = (got + block).split(b"\n")
        for line in lines:
            answers.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
            answers.flush()
