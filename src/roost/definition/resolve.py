"""Inheritance: from what is written to machines that are ready to be planned.

The rules, in the order in which they apply:

1. A key that a machine writes replaces that of ``[defaults]``. Nothing is added to a list: ``profiles`` and
   ``packages`` of the machine stand alone.
2. ``environment``, ``files``, ``limits``, ``network`` and ``boot`` are merged key by key (for ``files`` the key is the
   path); the machine wins. So are the ``options`` of a profile's recipe: the machine's before those of ``[defaults]``,
   before the profile's own.
3. A machine made from a layer (``from``) takes no part in what ``[defaults]`` says of distributions, and a machine that
   names a distribution takes no ``from`` of ``[defaults]``.
4. What is still not said of the base comes from the distribution's recipe, and the architecture is the host's.
5. Each profile is a layer, in the order of ``profiles``; the machine's own content (packages, user, files, scripts
   and the like, those of ``[defaults]`` included) is the last layer, with an init when the machine boots. What adds
   nothing for this machine's family makes no layer.
6. The environment is that of the profiles in order, then the machine's; ``firstboot`` scripts likewise, and binds: of two
   with the same target the later is used.
7. A network whose mode nobody writes is the host's for runs, and a private one for the booted machine.
"""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from roost.definition import checks, origins
from roost.definition.mistakes import Place, listed
from roost.definition.model import Base, BootTerms, Contents, Machine, NetworkTerms, RepositoryKeys, Resolved, User
from roost.definition.parts import Part, part
from roost.definition.together import contradictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from roost.definition.mistakes import Document
    from roost.definition.model import Bind, DistributionFacts, Script

BASE_KEYS = (
    "distribution",
    "release",
    "architecture",
    "bootstrap",
    "variant",
    "mirror",
    "components",
    "keyring",
    "check_valid_until",
    "source_packages",
)


class _World(Struct, frozen=True, kw_only=True):
    """What every machine of a load shares."""

    facts: Callable[[str], DistributionFacts | None]
    known: Sequence[str]
    architecture: str
    profiles: dict[str, tuple[Place, Part]]
    unique: dict[str, str]


class _Layered(Struct, frozen=True, kw_only=True):
    """A machine above its defaults, with the place to tell a mistake for each key."""

    name: str
    place: Place
    own: Machine
    defaults: Machine
    part: Part
    below: Part

    def get(self, key: str) -> object:
        """The machine's value, else that of the defaults, else None."""
        if (own := getattr(self.own, key)) is not None:
            return own
        return None if self._set_aside(key) else getattr(self.defaults, key)

    def text(self, key: str) -> str:
        """A value that is a string or not written."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def where(self, *keys: str) -> Place:
        """Where the first of the keys is written that the machine itself writes; else the defaults' first."""
        for key in keys:
            if getattr(self.own, key) is not None or self.place.at(_written(key)).skipped:
                return self.place.at(_written(key))
        for key in keys:
            if getattr(self.defaults, key) is not None:
                return Place(self.place.document, ("defaults", _written(key)))
        return self.place

    def told(self, key: str) -> bool:
        """A mistake in this key, of the machine or the defaults, was told already: do not call it missing."""
        defaults = Place(self.place.document, ("defaults", _written(key)))
        return self.place.at(_written(key)).skipped or defaults.skipped

    def _set_aside(self, key: str) -> bool:
        if key in BASE_KEYS:
            return self.own.from_ is not None
        return key == "from_" and self.own.distribution is not None


def resolve(
    documents: Iterable[Document],
    *,
    facts: Callable[[str], DistributionFacts | None],
    known: Sequence[str],
    architecture: str,
) -> dict[str, Resolved]:
    """Every machine of the documents; mistakes are kept in the documents, and then the result is not to be used."""
    documents = list(documents)
    world = _World(facts=facts, known=known, architecture=architecture, profiles=_profiles(documents), unique={})
    machines: dict[str, Resolved] = {}
    places: list[tuple[Place, Resolved]] = []
    owners: dict[str, str] = {}
    for document in documents:
        place = Place(document, ("defaults",))
        below = part(place, document.definition.defaults)
        _profile_list(place, document.definition.defaults, world)
        for name, own in document.definition.machines.items():
            place = Place(document, ("machines", name))
            place.wrong(checks.machine_name(name))
            if name in machines:
                place.wrong(f"already defined in {owners[name]}")
                continue
            layered = _Layered(
                name=name,
                place=place,
                own=own,
                defaults=document.definition.defaults,
                part=part(place, own),
                below=below,
            )
            _profile_list(place, own, world)
            machines[name] = _machine(layered, world)
            places.append((place, machines[name]))
            owners[name] = document.name
    contradictions(places)
    return machines


def with_family(machine: Resolved, family: str) -> Resolved:
    """A machine made from a layer or another source, once the family of that is known: its packages are chosen now."""
    if machine.family:
        return machine
    chosen = (
        structs.replace(layer, packages=layer.choices.get(family, layer.packages), choices={})
        for layer in machine.layers
    )
    return structs.replace(machine, family=family, layers=tuple(layer for layer in chosen if _adds(layer)))


def _profiles(documents: Iterable[Document]) -> dict[str, tuple[Place, Part]]:
    profiles: dict[str, tuple[Place, Part]] = {}
    for document in documents:
        for name, profile in document.definition.profiles.items():
            place = Place(document, ("profiles", name))
            place.wrong(checks.profile_name(name))
            if name in profiles:
                place.wrong(f"already defined in {profiles[name][0].document.name}")
            profiles.setdefault(name, (place, part(place, profile)))
    return profiles


def _profile_list(place: Place, written: Machine, world: _World) -> None:
    place = place.at("profiles")
    document = place.document
    seen: set[str] = set()
    for index, name in enumerate(written.profiles or ()):
        if name in seen:
            place.at(index).wrong(f"profile '{name}' is in the list already")
        elif name not in world.profiles and not {("profiles",), ("profiles", name)} & document.skipped:
            known = (
                place.did_you_mean(name, world.profiles) or f", the profiles are {listed(world.profiles) or 'none yet'}"
            )
            place.at(index).wrong(f"no profile '{name}'{known}")
        seen.add(name)


def _machine(machine: _Layered, world: _World) -> Resolved:
    base, family = _base(machine, world)
    names = machine.own.profiles if machine.own.profiles is not None else machine.defaults.profiles or []
    profiles = [(name, world.profiles[name][1]) for name in names if name in world.profiles]
    own = _merged(machine.part, machine.below)
    if machine.own.options or machine.defaults.options or any(one.recipe for _, one in profiles):
        profiles, own = _with_recipes(machine, world, base, family, profiles, own)
    layers = [_contents(name, one, family, base.release) for name, one in [*profiles, ("", own)]]
    layers[-1] = _of_the_machine(machine, layers[-1], boots=own.boot is not None)
    layers = _repositories_once(machine, _users_once(machine, layers))
    environment: dict[str, str] = {}
    binds: dict[str, Bind] = {}
    for _, one in [*profiles, ("", own)]:
        environment |= one.environment
        for bind in one.binds or ():
            binds.pop(bind.target, None)
            binds[bind.target] = bind
    private = machine.get("private_users")
    mode = own.network.get("mode")
    more = machine.get("capabilities")
    return Resolved(
        name=machine.name,
        description=machine.text("description"),
        base=base,
        family=family,
        profiles=tuple(names),
        layers=tuple(layer for layer in layers if _adds(layer)),
        environment=environment,
        binds=tuple(binds.values()),
        **{name: own.limits.get(name) for name in checks.LIMITS},
        network=mode or "host",
        private_users=private is not False,
        capabilities=tuple(more) if isinstance(more, list) else (),
        no_new_privileges=_no_new_privileges(machine, layers),
        boot=None if own.boot is None else BootTerms(**{"hostname": machine.name, **own.boot}),
        boot_network=mode or "private",
        private_network=NetworkTerms(**{name: value for name, value in own.network.items() if name != "mode"}),
        firstboot=_firstboot([*profiles, ("", own)]),
    )


def _with_recipes(
    machine: _Layered, world: _World, base: Base, family: str, profiles: list[tuple[str, Part]], own: Part
) -> tuple[list[tuple[str, Part]], Part]:
    """The profiles with what their recipes stand for on this machine, and its own part with what is the machine's alone."""
    from roost.definition import recipes  # few definitions have one

    place = machine.place.at("options")
    as_written = {name: where.document.definition.profiles[name] for name, (where, _) in world.profiles.items()}
    known = [name for name, one in as_written.items() if one.recipe or one.options]
    listed_here = [name for name, _ in profiles]
    defaults = Place(machine.place.document, ("defaults", "options"))
    good = recipes.check_names(place, machine.own.options or {}, known, world.profiles, listed_here)
    good &= recipes.check_names(defaults, machine.defaults.options or {}, known, world.profiles, None)
    host = recipes.Host(
        name=machine.name, distribution=base.distribution, release=base.release, architecture=base.architecture, family=family,
    )  # fmt: skip
    written = ((defaults, machine.defaults.options or {}), (place, machine.own.options or {}))
    expanded = []
    for name, one in profiles:
        if one.recipe is None or not good:
            expanded.append((name, one))
            continue
        where = machine.where("options", "profiles")
        found = recipes.expanded(
            where, one.recipe, [(here.at(name), table[name]) for here, table in written if name in table], host
        )
        for word, what in found.unique.items():
            if world.unique.setdefault(word, machine.name) != machine.name:
                where.wrong(f"{what} {word} is that of machine '{world.unique[word]}' already")
        expanded.append((name, recipes.added(one, found)))
        own = structs.replace(own, files=found.own | own.files)
    return expanded, own


def _merged(own: Part, below: Part) -> Part:
    return Part(
        packages=below.packages if own.packages is None else own.packages,
        users=below.users if own.users is None else own.users,
        files=below.files | own.files,
        scripts=below.scripts if own.scripts is None else own.scripts,
        environment=below.environment | own.environment,
        binds=below.binds if own.binds is None else own.binds,
        repositories=below.repositories if own.repositories is None else own.repositories,
        services=below.services if own.services is None else own.services,
        firstboot=below.firstboot if own.firstboot is None else own.firstboot,
        limits=below.limits | own.limits,
        boot=None if own.boot is below.boot is None else (below.boot or {}) | (own.boot or {}),
        network=below.network | own.network,
    )


def _firstboot(parts: list[tuple[str, Part]]) -> tuple[Script, ...]:
    """Those of all parts. A profile's have its name, so that no two scripts of a machine are called the same."""
    return tuple(
        structs.replace(script, name=f"profile {name}: {script.name}") if name else script
        for name, one in parts
        for script in one.firstboot or ()
    )


def _no_new_privileges(machine: _Layered, layers: list[Contents]) -> bool | None:
    written = machine.get("no_new_privileges")
    if isinstance(written, bool):
        return written
    if any(user.sudo != "no" for layer in layers for user in layer.users):
        return False
    return None if machine.get("from_") else True


def _contents(name: str, one: Part, family: str, release: str) -> Contents:
    packages = one.packages or {}
    return Contents(
        name=name,
        packages=packages.get(family, ()) or packages.get("", ()),
        choices={} if family or "" in packages else packages,
        users=one.users or (),
        files=tuple(one.files.values()),
        scripts=one.scripts or (),
        repositories=tuple(
            repository if repository.suites else structs.replace(repository, suites=(release,))
            for repository in one.repositories or ()
        ),
        services=one.services or (),
    )


def _of_the_machine(machine: _Layered, own: Contents, *, boots: bool) -> Contents:
    """The machine's own layer, with what only machines have."""
    password = machine.get("root_password")
    return structs.replace(
        own,
        locale=machine.text("locale"),
        timezone=machine.text("timezone"),
        root_password=password if isinstance(password, str) else None,
        init=boots,
    )


def _adds(layer: Contents) -> bool:
    lists = (layer.packages, layer.users, layer.files, layer.scripts, layer.repositories, layer.services)
    single = layer.init or layer.locale or layer.timezone or layer.root_password is not None
    return bool(single or any(lists) or any(layer.choices.values()))


def _repositories_once(machine: _Layered, layers: list[Contents]) -> list[Contents]:
    """A repository is written by the first layer that has it; two that contradict each other are a mistake."""
    made: dict[str, tuple[RepositoryKeys, str]] = {}
    result = []
    for layer in layers:
        title = f"profile '{layer.name}'" if layer.name else "the machine"
        place = machine.where("profiles") if layer.name else machine.where("repositories")
        kept = []
        for one in layer.repositories:
            first, earlier = made.setdefault(one.name, (one, title))
            if earlier == title:
                kept.append(one)
                if one.suites == ("",) and not machine.told("release") and machine.text("from_").startswith("layer:"):
                    place.wrong(
                        f"repository '{one.name}' of {title} needs suites: a machine made from a layer says no release"
                    )
            elif first != one:
                place.wrong(
                    f"repository '{one.name}' of {title} is not the one of {earlier}: give one of them another name"
                )
        result.append(structs.replace(layer, repositories=tuple(kept)))
    return result


def _users_once(machine: _Layered, layers: list[Contents]) -> list[Contents]:
    """An account is made by the first layer that has it; two that contradict each other are a mistake."""
    made: dict[str, tuple[User, str]] = {}
    uids: dict[int, tuple[str, str]] = {}
    result = []
    for layer in layers:
        title = f"profile '{layer.name}'" if layer.name else "the machine"
        place = machine.where("profiles") if layer.name else machine.where("user")
        users = []
        for user in layer.users:
            first, earlier = made.setdefault(user.name, (user, title))
            if earlier == title:
                users.append(user)
            elif first != user:
                place.wrong(f"user '{user.name}' of {title} is not the one of {earlier}: give one of them another name")
            if user.uid is not None:
                other, whose = uids.setdefault(user.uid, (user.name, title))
                if other != user.name and whose != title:
                    place.wrong(f"uid {user.uid} of '{user.name}' ({title}) is that of '{other}' ({whose}) already")
        result.append(structs.replace(layer, users=tuple(users)) if len(users) < len(layer.users) else layer)
    return result


def _base(machine: _Layered, world: _World) -> tuple[Base, str]:
    source = machine.text("from_")
    if machine.own.from_ is not None or (source and machine.own.distribution is None):
        return _from_source(machine, source, world)
    name = machine.text("distribution")
    if not name:
        if not machine.told("distribution") and not machine.told("from_"):
            machine.place.wrong(f'distribution is missing: one of {", ".join(world.known)} (or from = "layer:NAME")')
        return Base(), ""
    facts = world.facts(name)
    if facts is None:
        near = machine.place.did_you_mean(name, world.known) or f", one of {', '.join(world.known)}"
        machine.where("distribution").wrong(f"unknown distribution '{name}'{near}")
        return Base(), ""
    release = _release(machine, name, facts)
    components = machine.get("components")
    if components and not facts.components:
        machine.where("components").wrong(f"{name} has no components: leave the key out")
    keyring = machine.part.keyring or machine.below.keyring or ("", "")
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
    ), facts.family


def _from_source(machine: _Layered, source: str, world: _World) -> tuple[Base, str]:
    kind, _, rest = source.partition(":")
    allowed = {"tar": ("sha256", "signature", "keyring", "family"), "layer": ()}.get(kind, ("family",))
    for key in ("sha256", "signature", "family"):
        if key not in allowed and (getattr(machine.own, key) or (machine.own.from_ is None and machine.text(key))):
            what = "of a layer, which knows its own" if kind == "layer" else f"of '{kind}:'"
            machine.where(key).wrong(f"there is no {key} {what}: leave it out")
    if kind == "layer":
        return _from_layer(machine, source, ()), ""
    base = _from_layer(machine, source, ("keyring",) if kind == "tar" else ())
    below = machine.below.keyring if machine.own.from_ is None else None
    keyring = (machine.part.keyring or below if kind == "tar" else None) or ("", "")
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
        base, from_layer="", source=origins.absolute(source, directory), architecture=world.architecture if kind == "oci" else "",
        sha256=sha256, keyring=keyring[0], keyring_digest=keyring[1],
        signature=signature if origins.is_url(signature) or not signature else os.path.join(directory, signature),
    ), machine.text("family")  # fmt: skip


def _from_layer(machine: _Layered, source: str, but: Sequence[str]) -> Base:
    below = machine.defaults if machine.own.from_ is None else Machine()
    also = [
        key
        for key in BASE_KEYS
        if key not in but and (getattr(machine.own, key) is not None or getattr(below, key) is not None)
    ]
    if also:
        names = ", ".join(map(_written, also))
        what = f"made from '{source.partition(':')[0]}:'" if but or source[:6] != "layer:" else "made from a layer"
        machine.where(also[0]).wrong(f"a machine {what} has its base already: leave out {names}")
    return Base(from_layer=source.removeprefix("layer:"))


def _release(machine: _Layered, name: str, facts: DistributionFacts) -> str:
    release = machine.text("release")
    if not release and len(facts.releases) == 1 and not machine.told("release"):
        return facts.releases[0]
    if not release:
        if not machine.told("release"):
            machine.place.wrong(f"release is missing: {name} has {', '.join(facts.releases)}")
    elif release not in facts.releases:
        near = machine.place.did_you_mean(release, facts.releases)
        known = "" if near else f": it has {', '.join(facts.releases)}"
        machine.where("release", "distribution").wrong(f"{name} has no release '{release}'{near}{known}")
    return release


def _architecture(machine: _Layered, name: str, release: str, facts: DistributionFacts, world: _World) -> str:
    architecture = machine.text("architecture") or world.architecture
    names = facts.release_architectures.get(release) or facts.architectures
    if architecture not in names:
        near = machine.place.did_you_mean(architecture, names) or f": it is made for {', '.join(names)}"
        what = f"{name} {release} is not made for {architecture}" if release else f"{name} is not for {architecture}"
        host = "" if machine.text("architecture") else " (this host's architecture)"
        machine.where("architecture", "release", "distribution").wrong(f"{what}{host}{near}")
    return architecture


def _choice(machine: _Layered, key: str, known: list[str], default: str) -> str:
    value = machine.text(key)
    if value and value not in known:
        near = machine.place.did_you_mean(value, known) or (
            f", one of {', '.join(known)}" if known else ": it has none"
        )
        machine.where(key, "distribution").wrong(f"unknown {key} '{value}'{near}")
    return value or default


def _written(key: str) -> str:
    return "from" if key == "from_" else key.replace("_", "-")
