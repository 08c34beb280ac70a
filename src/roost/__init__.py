"""Roost: one TOML file, every Linux build machine. The public names are loaded on first use (PEP 562)."""

from __future__ import annotations

from roost.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from roost.api import Manager, Watch, load
    from roost.errors import Error
    from roost.gc import Removal
    from roost.matrix import Variant
    from roost.packages import Installed
    from roost.plan import Plan
    from roost.results import Artifact, Result
    from roost.sessions import Run, Session, Source
    from roost.stop import Stop
    from roost.updates import Updated

_PUBLIC = {
    "Artifact": "roost.results", "Error": "roost.errors", "Installed": "roost.packages", "Manager": "roost.api", "Plan": "roost.plan",
    "Removal": "roost.gc", "Result": "roost.results", "Run": "roost.sessions", "Session": "roost.sessions", "Source": "roost.sessions",
    "Stop": "roost.stop", "Updated": "roost.updates", "Variant": "roost.matrix", "Watch": "roost.api", "load": "roost.api",
}  # fmt: skip

__all__ = [
    "Artifact", "Error", "Installed", "Manager", "Plan", "Removal", "Result", "Run", "Session", "Source", "Stop", "Updated",
    "Variant", "Watch", "__version__", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'roost' has no attribute {name!r}")
    from importlib import import_module  # bare `import roost` stays light

    return getattr(import_module(_PUBLIC[name]), name)
