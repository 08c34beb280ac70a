"""What a plan's layers run, without running it: for `roost plan -v`, and for the recorded plans of the tests.

What the host's package manager is told may be secret. It is in the environment, the files and the standard input of a
command, and nowhere in its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from roost.bases import make as sources
from roost.bases import mkosi
from roost.bases.known import split
from roost.distro import dnf_repos
from roost.distro import family as family_of
from roost.distro.own import recipe_of
from roost.distro.recipe import family_of_tree
from roost.errors import DefinitionError, Error, HostError, StoreError
from roost.steps import steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from roost.definition.model import Base, Contents
    from roost.distro.recipe import Family, Recipe
    from roost.plan import LayerPlan, Plan

STAGE = "/STAGE"
"""Stands for the directory that a layer is made in."""
CACHE = "/CACHE"
"""Stands for the one that downloaded packages are kept in."""


class Command(Struct, frozen=True, kw_only=True):
    """One command: of the ``host``, or of the inside. All but ``argv`` may be secret."""

    step: str
    argv: tuple[str, ...]
    host: bool = False
    env: dict[str, str] = {}
    files: dict[str, bytes] = {}
    stdin: bytes = b""


class Shown(Struct, frozen=True, kw_only=True):
    """A layer with its commands. ``notes`` are for people: what a release or a host lacks, names that were replaced."""

    layer: LayerPlan
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()


def of_plan(plan: Plan, read_host: Callable[[Family], Any] = lambda family: family.read_host()) -> Iterator[Shown]:
    """The layers of a plan, in its order. Raises no Error: why a layer cannot be made is a note."""
    hosts: dict[str, Any] = {}
    bases = {item.machine.name: item.machine.base for item in plan.machines}
    for layer in plan.layers:
        base = layer.base or bases[layer.machines[0]]
        notes = layer.contents.notes if layer.contents else ()
        try:
            if layer.base is not None and base.source:
                yield Shown(layer=layer, commands=_of_source(base), notes=notes)
                continue
            family = (family_of if base.distribution else family_of_tree)(layer.family)
            if layer.contents is not None:
                yield Shown(layer=layer, commands=_above(layer, layer.contents, family, base), notes=notes)
                continue
            recipe = recipe_of(base)
            assert recipe is not None
            if family.NAME not in hosts:
                hosts[family.NAME] = read_host(family)
            commands, lacks = _of_base_shown(base, recipe, family, hosts[family.NAME])
            notes = (*mirrors(base, recipe), *recipe.releases[base.release].notes, *lacks)
            yield Shown(layer=layer, commands=commands, notes=notes)
        except Error as e:
            yield Shown(layer=layer, notes=(*notes, *_told(e)))


def of_base(base: Base, recipe: Recipe, family: Family, host: Any) -> tuple[Command, ...]:
    """What makes a base from a recipe. Raises HostError and DefinitionError as its family does."""
    made = family.bootstrap(
        base, recipe, host=host, target=f"{STAGE}/tree", private=f"{STAGE}/private", archives=f"{CACHE}/packages"
    )
    inside = family.finish(base, recipe, host=host)
    return (
        *(Command(step="archive", argv=_words(one), host=True) for one in getattr(made, "archives", ())),
        *(
            (Command(step=base.bootstrap, argv=made.argv, host=True, env=made.env, files=made.files),)
            if made.argv
            else ()
        ),
        Command(step="finish", argv=inside.argv, stdin=inside.stdin),
    )


_OWN = (
    "url",
    "keys",
    "proxies",
    "certificates",
)  # the address stands by itself; the others are no words, or the host's own


def _words(archive: Any) -> tuple[str, ...]:
    """An archive that is downloaded, checked and unpacked by Roost itself."""
    known = {name: getattr(archive, name) for name in archive.__struct_fields__ if name not in _OWN}
    return (archive.url, *(f"{name}={_text(value)}" for name, value in known.items() if value))


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def of_contents(contents: Contents, family: Family) -> tuple[Command, ...]:
    """What makes a layer above a base."""
    return tuple(
        Command(step=step.name, argv=step.inside.argv, stdin=step.inside.stdin) for step in steps_of(contents, family)
    )


def mirrors(base: Base, recipe: Recipe) -> tuple[str, ...]:
    """Where the packages of families come from whose commands do not say it."""
    release = recipe.releases[base.release]
    known = {**recipe.mirrors, **release.mirrors}
    words = dnf_repos.words(base, recipe)
    return tuple(
        f"{suite.name}: {(base.mirror or known[suite.mirror]).rstrip('/')}/{suite.path.format(**words)}"
        for suite in release.suites
        if suite.path and (not base.mirror or suite.mirror == "main")
    )


def _of_base_shown(
    base: Base, recipe: Recipe, family: Family, host: Any
) -> tuple[tuple[Command, ...], tuple[str, ...]]:
    try:
        return of_base(base, recipe, family, host), ()
    except HostError as e:
        if not hasattr(host, "only_shown"):
            raise
        return of_base(base, recipe, family, structs.replace(host, only_shown=True)), _told(e)


def _above(layer: LayerPlan, contents: Contents, family: Family, base: Base) -> tuple[Command, ...]:
    if not layer.family:
        raise StoreError("its steps are known once its base is made")
    if contents.open:
        raise DefinitionError(contents.open)
    if family.NAME == "none":
        from roost.distro import unmanaged

        unmanaged.refuse(contents, layer.family, base.source or f"layer:{base.from_layer}")
    return of_contents(contents, family)


def _of_source(base: Base) -> tuple[Command, ...]:
    kind, rest = split(base)
    step, *_ = sources.STEPS[kind]
    argv = mkosi.command(rest, f"{STAGE}/private/output") if kind == "mkosi" else (base.source,)
    return (Command(step=step, argv=argv, host=True),)


def _told(error: Error) -> tuple[str, ...]:
    return (f"{error.brief}: {error.hint}" if error.hint else error.brief,)
