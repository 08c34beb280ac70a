"""Distributions are data (``recipes/*.toml``), families of package managers are code."""

from roost.distro.recipe import family, recipe

__all__ = ["family", "recipe"]
