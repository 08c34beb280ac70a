"""What exists, what has to be made, and why: a pure function of the machines and of what the store says it has.

A layer's identity is the SHA-256 of canonical JSON: (format, recipe or family version, parent, steps). What is not part
of it: the host's own mirror, its proxies and its credentials, which decide where a package comes from, not what it is.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from roost.definition.model import Contents
from roost.definition.package_sets import Sets, has_open, with_system
from roost.definition.resolve import with_family
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from roost.definition.model import Base, Resolved

FORMAT = "layer/1"


class Found(Struct, frozen=True, kw_only=True):
    """What a source of a base was found to be: a digest for each layer that it is made of, the lowest first.

    ``word`` says of what: "archive", "image-layer", "directory", "mkosi". Without ``layers`` it is not known yet, and
    ``why`` says why.
    """

    word: str
    layers: tuple[str, ...] = ()
    why: str = ""


class LayerPlan(Struct, frozen=True, kw_only=True):
    """One layer of a plan.

    ``verb`` is reuse or build, ``reason`` says why. ``name`` is what a person calls it: ``base debian bookworm amd64``,
    ``profile builder``, ``machine bookworm``. ``facts`` are its steps as plain values: the identity's text, kept in the
    store so that a later plan can say what changed. ``machines`` are those that stand on it. ``identity`` is the digest of
    what the definition says; it is another than ``digest`` of a layer that was made anew from it, at the time ``stamp``.
    """

    digest: str
    parent: str
    kind: str
    name: str
    verb: str
    reason: str
    family: str
    machines: tuple[str, ...]
    facts: dict[str, Any]
    base: Base | None = None
    contents: Contents | None = None
    identity: str = ""
    stamp: str = ""

    @property
    def is_given(self) -> bool:
        """Whether it is (part of) a base that no recipe makes: its content is its identity."""
        return self.base is not None and self.base.source != ""


class MachinePlan(Struct, frozen=True, kw_only=True):
    """A machine and its layers' digests, the base first.

    ``given``: the layer that it stands on and that no recipe made, where an update can upgrade the packages of that.
    """

    machine: Resolved
    layers: tuple[str, ...]
    given: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """Layers in an order in which they can be made, each once, whoever shares them."""

    machines: tuple[MachinePlan, ...]
    layers: tuple[LayerPlan, ...]

    @property
    def to_build(self) -> tuple[LayerPlan, ...]:
        """Those that are not there yet."""
        return tuple(layer for layer in self.layers if layer.verb == "build")

    def anew(self, stamp: str) -> dict[str, str]:
        """The identities of the layers to be made anew so that all that follow are.

        What is given is what it is: a layer on it has its packages upgraded, where there is a package manager.
        """
        given = {item.given for item in self.machines if item.given}
        made = [layer for layer in self.layers if not layer.is_given]
        own = {layer.digest for layer in made}
        first = {layer.identity for layer in made if layer.parent not in own and layer.parent not in given}
        return dict.fromkeys((*first, *map(upgrade_of, given)), stamp)

    def after_making(self, digests: set[str]) -> Plan:
        """The plan as it was before these of its layers were made."""
        layers = (msgspec.structs.replace(one, verb="build") if one.digest in digests else one for one in self.layers)
        return msgspec.structs.replace(self, layers=tuple(layers)) if digests else self


class Known(Struct, frozen=True, kw_only=True):
    """What the planner may know of the store.

    ``present``: digests of whole layers. ``last``: machine → the layers it had when it was last built, as (role, digest,
    facts). ``names``: committed layers by name, as (digest, parents from the base up, family).
    ``refreshed``: identities of layers that were made anew, and when. ``found`` looks at a base's source, ``family_of`` is
    the family of a layer that is there, or empty; ``sets_of`` are the package sets of what it is, or why nobody knows.
    ``drives``: whether Roost makes layers of a family.
    """

    present: Container[str]
    last: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]]
    names: Mapping[str, tuple[str, tuple[str, ...], str]]
    refreshed: Mapping[str, str] = {}
    found: Callable[[Base], Found] = lambda base: Found(word="source", why=f"{base.source} was not looked at")
    family_of: Callable[[str], str] = lambda _digest: ""
    sets_of: Callable[[str], tuple[Sets, str]] = lambda _digest: (Sets(), "what is below it is not known")
    drives: Callable[[str], bool] = lambda family: family not in ("", "none")


def digest(*parts: object) -> str:
    """SHA-256 of the canonical JSON of ``parts``, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def upgrade_of(parent: str) -> str:
    """The identity of the layer in which the packages of a given one are upgraded."""
    return digest(FORMAT, "upgrade", parent)


def make(machines: Sequence[Resolved], known: Known, versions: Callable[[str, str], list[int]]) -> Plan:
    """Plans ``machines``. ``versions`` gives the versions of a distribution's recipe and of a family.

    Raises DefinitionError when a machine stands on a committed layer that is not there.
    """
    layers: dict[str, LayerPlan] = {}
    planned = []
    for machine in machines:
        chain, given = _chain(machine, known, versions)
        for layer in chain:
            earlier = layers.get(layer.digest)
            users = (*(earlier.machines if earlier else ()), machine.name)
            layers[layer.digest] = msgspec.structs.replace(earlier or layer, machines=users)
        below = known.names[machine.base.from_layer][1] if machine.base.from_layer else ()
        digests = (*below, *(layer.digest for layer in chain))
        planned.append(MachinePlan(machine=machine, layers=digests, given=given))
    return Plan(machines=tuple(planned), layers=tuple(layers.values()))


def _chain(machine: Resolved, known: Known, versions: Callable[[str, str], list[int]]) -> tuple[list[LayerPlan], str]:
    """A machine's own layers, the base first; a committed layer below them is not part of it. And what is ``given``."""
    last = {role: (old, facts) for role, old, facts in known.last.get(machine.name, ())}
    chain: list[LayerPlan] = []
    family, given, parent = machine.family, "", ""
    if machine.base.from_layer:
        if machine.base.from_layer not in known.names:
            raise DefinitionError(
                f"machine {machine.name} stands on the layer {machine.base.from_layer!r}, which is not in the store",
                details=f"committed layers: {', '.join(sorted(known.names)) or 'none'}",
                hint=f"make it with `roost session commit SESSION {machine.base.from_layer}`",
            )
        parent, _, family = known.names[machine.base.from_layer]
    elif machine.base.source:
        chain = _of_source(machine, known, last)
        parent = chain[-1].digest
        family = machine.family or known.family_of(parent)
    if machine.base.from_layer or machine.base.source:
        machine = with_family(machine, family)
        if has_open(machine):
            machine = with_system(machine, *known.sets_of(parent))
        given = parent if known.drives(family) else ""
        own = upgrade_of(given) if given else ""
        if stamp := known.refreshed.get(own, ""):
            name = f"upgrade of {machine.base.source or f'layer:{machine.base.from_layer}'}"
            upgrade = Contents(name="", upgrade=True)
            chain.append(
                _layer(own, parent, "upgrade", name, family, {"upgrade": stamp}, known, last, contents=upgrade)
            )
            parent = chain[-1].digest
    else:
        base = machine.base
        facts = _base_facts(base)
        parent = digest(FORMAT, versions("" if base.recipe else base.distribution, family), "", facts)
        name = f"base {base.distribution} {base.release} {base.architecture}"
        chain.append(_layer(parent, "", "base", name, family, facts, known, last, base=base))
        parent = chain[-1].digest
    for contents in machine.layers:
        facts = contents_facts(contents)
        own = digest(FORMAT, versions("", family), parent, facts)
        kind = "profile" if contents.name else "machine"
        name = f"{kind} {contents.name or machine.name}"
        chain.append(_layer(own, parent, kind, name, family, facts, known, last, contents=contents))
        parent = chain[-1].digest
    return chain, given


def _of_source(machine: Resolved, known: Known, last: Mapping[str, tuple[str, dict[str, Any]]]) -> list[LayerPlan]:
    """The layers of a base that no recipe makes: what they hold is their identity, not where it came from."""
    base = machine.base
    found = known.found(base)
    if not found.layers:
        facts = {"source": base.source, "architecture": base.architecture}
        own = digest(FORMAT, "source", facts)
        layer = _layer(own, "", "base", f"base {base.source}", "", facts, known, last, base=base)
        return [msgspec.structs.replace(layer, verb="build", reason=found.why)]
    chain: list[LayerPlan] = []
    parent = ""
    for number, content in enumerate(found.layers):
        facts = {found.word: content} | ({"keyring-digest": base.keyring_digest} if base.keyring_digest else {})
        if base.architecture and found.word != "image-layer":  # of an image it decides which one is meant
            facts["architecture"] = base.architecture
        kind, name = ("image", f"layer {number + 1} of {base.source}") if number else ("base", f"base {base.source}")
        own = digest(FORMAT, "source", parent, facts)
        family = machine.family if number + 1 == len(found.layers) else ""
        chain.append(_layer(own, parent, kind, name, family, facts, known, last, base=base))
        parent = own
    return chain


def _layer(
    identity: str, parent: str, kind: str, name: str, family: str, facts: dict[str, Any], known: Known,
    last: Mapping[str, tuple[str, dict[str, Any]]], *, base: Base | None = None, contents: Contents | None = None,
) -> LayerPlan:  # fmt: skip
    stamp = known.refreshed.get(identity, "")
    own = digest(FORMAT, identity, stamp) if stamp else identity
    there = own in known.present
    before = last.get("base" if kind == "base" else name)
    reason = (
        "present" if there else f"made anew from the packages of {stamp[:10]}" if stamp else why(own, facts, before)
    )
    return LayerPlan(
        digest=own, parent=parent, kind=kind, name=name, verb="reuse" if there else "build", reason=reason, family=family,
        machines=(), facts=facts, base=base, contents=contents, identity=identity, stamp=stamp,
    )  # fmt: skip


def _base_facts(base: Base) -> dict[str, Any]:
    facts = msgspec.to_builtins(base)
    del facts["keyring"], facts["recipe"], facts["from_layer"]  # its digest counts, not where it lies
    return {key: value for key, value in facts.items() if value not in ("", None, False)}


def contents_facts(contents: Contents) -> dict[str, Any]:
    """A layer's steps as plain values; what a file or script holds, as the digest of its content."""
    facts: dict[str, Any] = {}
    if contents.packages:
        facts["packages"] = sorted(set(contents.packages))
    if contents.remove_packages:
        facts["remove_packages"] = sorted(set(contents.remove_packages))
    if contents.users:
        facts["users"] = {user.name: msgspec.to_builtins(user) for user in contents.users}
    if contents.files:
        facts["files"] = {
            file.path: [_sha(file.content), oct(file.mode), file.owner, file.group] for file in contents.files
        }
    if contents.scripts:
        facts["scripts"] = [[script.name, _sha(script.content)] for script in contents.scripts]
    if contents.repositories:
        facts["repositories"] = {
            one.name: [one.url, list(one.suites), list(one.components), _sha(one.key)] for one in contents.repositories
        }
    if contents.services:
        facts["services"] = sorted(set(contents.services))
    facts |= {key: value for key in ("locale", "timezone") if (value := getattr(contents, key))}
    if contents.root_password is not None:
        facts["root_password"] = _sha(contents.root_password.encode()) if contents.root_password else "none"
    if contents.init:
        facts["init"] = True
    return facts


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def why(own: str, facts: dict[str, Any], before: tuple[str, dict[str, Any]] | None) -> str:
    """Why a layer has to be made: what changed since the machine was last built."""
    if before is None:
        return "not made yet"
    old_digest, old = before
    if old_digest == own:
        return "it was removed from the store"
    try:
        changes = [text for key in sorted({*old, *facts}) for text in _difference(key, old.get(key), facts.get(key))]
    except (TypeError, AttributeError, LookupError):  # written by another version, or damaged
        changes = ["it was made from something else"]
    return "; ".join(changes) or "a layer below it changed"


def _difference(key: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if key in ("packages", "remove_packages", "components", "services"):
        return _sets("packages to remove" if key == "remove_packages" else key, set(old or ()), set(new or ()))
    if key in ("files", "users", "repositories"):
        old, new = old or {}, new or {}
        changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
        return [*_sets(key, set(old), set(new)), *([f"{key} changed: {', '.join(changed)}"] if changed else [])]
    if key == "scripts":
        names = [new_item[0] for new_item in new or () if new_item not in (old or ())]
        return [f"scripts changed: {', '.join(names)}" if names else "scripts removed or reordered"]
    if key in ("root_password", "init"):  # what is known of them says nothing
        return [f"{key.replace('_', '-')} {'changed' if old and new else 'added' if new else 'removed'}"]
    if key in ("archive", "image-layer", "directory", "mkosi", "recipe_digest"):
        old, new = old and old[:12], new and new[:12]
    return [f"{key.replace('_', '-')} changed: {old or 'default'} to {new or 'default'}"]


def _sets(what: str, old: set[str], new: set[str]) -> list[str]:
    added, gone = sorted(new - old), sorted(old - new)
    return [f"{what} {word}: {', '.join(names)}" for word, names in (("added", added), ("removed", gone)) if names]
