"""Families that installed packages bring: loaded, and held against the protocol before anything is made with them."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from roost.distro.recipe import Family
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_NAMES = sorted(name for name in {*Family.__annotations__, *vars(Family)} if not name.startswith("_"))


@cache
def load(entry: EntryPoint) -> Family:
    """The module of a family. Raises DefinitionError with every way in which it is none."""
    title = f"the family {entry.name!r} of the entry point {entry.value}"
    try:
        module: Any = entry.load()
    except Exception as e:  # whatever somebody else's module raises when it is imported
        hint = "it is an installed Python package's: repair or remove that"
        raise DefinitionError(f"{title} cannot be loaded", details=f"{type(e).__name__}: {e}", hint=hint) from e
    if wrong := mistakes(entry.name, module):
        hint = "roost.distro.recipe.Family is the protocol, roost.distro.dnf an example"
        raise DefinitionError(f"{title} is not a family", details="\n".join(wrong), hint=hint)
    family: Family = module
    return family


def mistakes(name: str, module: Any) -> list[str]:
    """What a module lacks to be a family: a line for each name that is missing, or does not take what it is given."""
    wrong = []
    version = getattr(module, "VERSION", None)
    if type(version) is not int or version < 1:
        wrong.append("VERSION: a whole number from 1 on, part of every layer's identity")
    if getattr(module, "NAME", name) != name:
        wrong.append(f"NAME: it is {module.NAME!r}, and its entry point {name!r}")
    for one in _NAMES:
        expected = vars(Family).get(one)
        if not hasattr(module, one):
            wrong.append(f"{one}: missing")
        elif expected is None:
            kind = tuple if one == "ARCHIVE_ENDINGS" else str
            if not isinstance(getattr(module, one), kind):
                wrong.append(f"{one}: not a {kind.__name__}")
        elif problem := _problem(expected, getattr(module, one)):
            wrong.append(f"{one}: {problem}")
    return wrong


def _problem(expected: Any, there: Any) -> str:
    if not callable(there):
        return "not a function"
    taken = list(inspect.signature(expected).parameters.values())[1:]  # without self
    positional = [one for one in taken if one.kind is not one.KEYWORD_ONLY]
    named = [one for one in taken if one.kind is one.KEYWORD_ONLY]
    try:
        inspect.signature(there).bind(*(None for _ in positional), **{one.name: None for one in named})
        inspect.signature(there).bind(*(None for one in positional if one.default is one.empty), **{
            one.name: None for one in named if one.default is one.empty
        })  # fmt: skip
    except TypeError as e:
        words = [one.name for one in positional] + [f"{one.name}=" for one in named]
        return f"it is called with ({', '.join(words)}): {e}"
    except ValueError:  # a builtin, say, that does not say what it takes
        return ""
    return ""
