"""Definitions: TOML files that say which machines should exist. The schema and the starter are loaded when used."""

from __future__ import annotations

from roost.definition.loader import Loaded, find, load
from roost.definition.resolve import with_family

__all__ = ["Loaded", "find", "load", "with_family"]
