"""Definitions: TOML files that say which machines should exist. What reads them is loaded when used (PEP 562)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from roost.definition.loader import Loaded, find, load
    from roost.definition.resolve import with_family

_PUBLIC = {"Loaded": "loader", "find": "loader", "load": "loader", "with_family": "resolve"}

__all__ = ["Loaded", "find", "load", "with_family"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'roost.definition' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"roost.definition.{_PUBLIC[name]}"), name)
