"""What a machine's base is made from: a distribution's release, or another source; with every default filled in."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING

from msgspec import structs

from roost.definition import keyrings, origins
from roost.definition.layered import BASE_KEYS, written
from roost.definition.model import Base, Machine, OwnRecipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.layered import Layered, World
    from roost.definition.model import DistributionFacts

OWN_RECIPE = "recipes/NAME.toml beside this file adds one (docs/definition.md, Own distributions)"


def base_of(machine: Layered, world: World) -> tuple[Base, str]:
    """What a machine's base is made from, and its family; empty while only its tree knows that."""
    source = machine.text("from_")
    if machine.own.from_ is not None or (source and machine.own.distribution is None):
        return _from_source(machine, source, world)
    name = machine.text("distribution")
    if not name:
        if not machine.told("distribution") and not machine.told("from_"):
            every = ", ".join(world.known(machine.place.document))
            machine.place.wrong(f'distribution is missing: one of {every} (or from = "layer:NAME")')
        return Base(), ""
    facts = world.facts(machine.place.document, name)
    if facts is None:
        known = world.known(machine.place.document)
        near = machine.place.did_you_mean(name, known) or f", one of {', '.join(known)}; {OWN_RECIPE}"
        machine.where("distribution").wrong(f"unknown distribution '{name}'{near}")
        return Base(), ""
    release = _release(machine, name, facts)
    components = machine.get("components")
    if components and not facts.components:
        machine.where("components").wrong(f"{name} has no components: leave the key out")
    own = facts.own or OwnRecipe(path="")
    keyring = machine.part.keyring or machine.below.keyring or own.keyrings.get(release, ("", ""))
    if facts.family == "pacman" and keyring[0]:
        keyring = _with_trust(machine, *keyring)
    check = machine.get("check_valid_until")
    return Base(
        distribution=name,
        release=release,
        architecture=_architecture(machine, name, release, facts, world),
        bootstrap=_choice(machine, "bootstrap", facts.bootstraps, facts.bootstrap),
        variant=_choice(machine, "variant", facts.variants, facts.variant),
        components=tuple(components if isinstance(components, list) else facts.components),
        mirror=machine.text("mirror"),
        keyring=keyring[0],
        keyring_digest=keyring[1],
        check_valid_until=check if isinstance(check, bool) else None,
        source_packages=machine.get("source_packages") is True,
        recipe=own.path,
        recipe_digest=own.digests.get(release, ""),
    ), facts.family


def _with_trust(machine: Layered, path: str, digest: str) -> tuple[str, str]:
    """A keyring whose digest is also that of the files beside it that say whom it trusts. One that comes later counts, too."""
    document = machine.place.document
    document.inputs |= {os.path.dirname(path), *keyrings.trusted(path).values()}
    try:
        return path, keyrings.digest(digest, keyrings.read_trusted(path))
    except OSError as error:
        machine.where("keyring").wrong(f"{error.filename}: {error.strerror or error}")
        return path, digest


def _from_source(machine: Layered, source: str, world: World) -> tuple[Base, str]:
    kind, _, rest = source.partition(":")
    allowed = {"tar": ("sha256", "signature", "keyring", "family"), "layer": ()}.get(kind, ("family",))
    for key in ("sha256", "signature", "family"):
        if key not in allowed and (getattr(machine.own, key) or (machine.own.from_ is None and machine.text(key))):
            what = "of a layer, which knows its own" if kind == "layer" else f"of '{kind}:'"
            machine.where(key).wrong(f"there is no {key} {what}: leave it out")
    if kind == "layer":
        return _from_layer(machine, source, ()), ""
    base = _from_layer(machine, source, ("keyring", "architecture") if kind == "tar" else ("architecture",))
    below = machine.below.keyring if machine.own.from_ is None else None
    keyring = (machine.part.keyring or below if kind == "tar" else None) or ("", "")
    architecture = machine.text("architecture") if machine.own.architecture or machine.own.from_ is None else ""
    if wrong := origins.architecture(architecture):
        machine.where("architecture").wrong(wrong)
    if kind not in origins.KINDS or origins.origin(source):  # told already
        return Base(), ""
    directory = machine.place.document.directory
    sha256, signature = machine.text("sha256"), machine.text("signature")
    if kind == "tar" and origins.is_url(rest) and not sha256 and not keyring[0]:
        machine.where("from_").wrong(
            "what is downloaded is checked: write its sha256, or a keyring with the keys that sign it"
        )
    if signature and not keyring[0]:
        machine.where("signature").wrong("a signature needs a keyring: the file with the keys that sign it")
    if keyring[0] and not signature:
        signature = f"{rest}.asc"
    return structs.replace(
        base, from_layer="", source=origins.absolute(source, directory), sha256=sha256,
        architecture=architecture or (world.architecture if kind == "oci" else ""), keyring=keyring[0], keyring_digest=keyring[1],
        signature=signature if origins.is_url(signature) or not signature else os.path.join(directory, signature),
    ), machine.text("family")  # fmt: skip


def _from_layer(machine: Layered, source: str, but: Sequence[str]) -> Base:
    below = machine.defaults if machine.own.from_ is None else Machine()
    also = [
        key
        for key in BASE_KEYS
        if key not in but and (getattr(machine.own, key) is not None or getattr(below, key) is not None)
    ]
    if also:
        names = ", ".join(map(written, also))
        what = f"made from '{source.partition(':')[0]}:'" if but or source[:6] != "layer:" else "made from a layer"
        machine.where(also[0]).wrong(f"a machine {what} has its base already: leave out {names}")
    return Base(from_layer=source.removeprefix("layer:"))


def _release(machine: Layered, name: str, facts: DistributionFacts) -> str:
    release = machine.text("release")
    if not release and len(facts.releases) == 1 and not machine.told("release"):
        return facts.releases[0]
    if not release:
        if not machine.told("release"):
            machine.place.wrong(f"release is missing: {name} has {', '.join(facts.releases)}")
    elif release not in facts.releases:
        named = facts.versions.get(release, "")
        near = f", did you mean '{named}'?" if named else ""
        if not release[:1].isdigit():  # a number that is near is another one, and not misspelt
            near = machine.place.did_you_mean(release, facts.releases)
        known = "" if near else f": it has {', '.join(facts.releases)}; {OWN_RECIPE}"
        machine.where("release", "distribution").wrong(f"{name} has no release '{release}'{near}{known}")
    return release


def _architecture(machine: Layered, name: str, release: str, facts: DistributionFacts, world: World) -> str:
    architecture = machine.text("architecture") or world.architecture
    names = facts.release_architectures.get(release) or facts.architectures
    if architecture not in names:
        near = machine.place.did_you_mean(architecture, names) or f": it is made for {', '.join(names)}"
        near += _since(architecture, release, facts)
        what = f"{name} {release} is not made for {architecture}" if release else f"{name} is not for {architecture}"
        host = "" if machine.text("architecture") else " (this host's architecture)"
        machine.where("architecture", "release", "distribution").wrong(f"{what}{host}{near}")
    return architecture


def _since(architecture: str, release: str, facts: DistributionFacts) -> str:
    """Since when, or until when, a distribution has an architecture that this release has not."""
    order = facts.releases
    there = [n for n in order if architecture in (facts.release_architectures.get(n) or facts.architectures)]
    if not there or release not in order:
        return ""
    at = order.index(release)
    newer, older = [n for n in there if order.index(n) < at], [n for n in there if order.index(n) > at]
    if newer and not older:
        return f" ({architecture} is there since {newer[-1]})"
    return f" ({architecture} was there until {older[0]})" if older and not newer else ""


def _choice(machine: Layered, key: str, known: list[str], default: str) -> str:
    value = machine.text(key)
    if value and value not in known:
        near = machine.place.did_you_mean(value, known) or (
            f", one of {', '.join(known)}" if known else ": it has none"
        )
        machine.where(key, "distribution").wrong(f"unknown {key} '{value}'{near}")
    return value or default
