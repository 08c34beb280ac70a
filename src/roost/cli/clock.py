"""``--timings``: where the time of a run went."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.results import Result

_WORDS = {
    "python": "the interpreter, until Roost's own code",
    "imports": "Roost's modules",
    "definition": "the definition, and the plan",
    "store": "the state directory, and what a crash has left there",
    "open": "the session's directory, range of ids and record",
    "mounts": "a process of its own, namespaces, layers, the overlay",
    "filters": "seccomp programs",
    "nspawn": "systemd-nspawn, until the command starts",
    "command": "the command",
    "end": "the end of the container",
    "close": "the session's removal",
    "other": "everything else: streams, artifacts, the result",
}


class Clock:
    """Laps of this process: seconds by name. ``python`` is the CPU time so far, which an idle computer's clock has too."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.laps = {"python": time.process_time()}

    def lap(self, name: str) -> None:
        """What has passed since the last lap belongs to ``name``."""
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def show(self, results: Sequence[Result]) -> None:
        """Prints the table; of several runs, the mean of their phases."""
        total = time.monotonic() - self._began + self.laps["python"]
        import sys

        from roost.cli.common import say
        from roost.cli.table import table, terminal_width

        phases = dict(self.laps)
        timed = [result.timings for result in results if result.timings]
        names = dict.fromkeys(name for timings in timed for name in timings)
        phases |= {name: sum(timings.get(name, 0.0) for timings in timed) / len(timed) for name in names}
        if len(results) == 1:
            phases["other"] = max(0.0, total - sum(phases.values()))
        whole = sum(phases.values())
        rows = [
            (name, f"{phases[name] * 1000:.1f} ms", f"{phases[name] / whole:.0%}", words)
            for name, words in _WORDS.items()
            if name in phases
        ]
        rows.append(("total", f"{whole * 1000:.1f} ms", "", "" if len(results) == 1 else f"a mean run of {len(timed)}"))
        say(
            table(
                ["phase", "time", "share", "what it is"],
                rows,
                width=terminal_width(sys.stderr),
                right=("time", "share"),
            ).rstrip("\n")
        )
