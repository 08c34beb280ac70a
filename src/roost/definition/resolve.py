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

from typing import TYPE_CHECKING

from msgspec import structs

from roost.definition import checks
from roost.definition.layered import Layered, World
from roost.definition.machine_base import base_of
from roost.definition.mistakes import Place, listed
from roost.definition.model import BootTerms, Contents, NetworkTerms, RepositoryKeys, Resolved, User
from roost.definition.package_sets import is_open, replaced, sets_of
from roost.definition.parts import Part, part
from roost.definition.together import contradictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from roost.definition.mistakes import Document
    from roost.definition.model import Base, Bind, DistributionFacts, Machine, Script
    from roost.definition.package_sets import Sets


def resolve(
    documents: Iterable[Document],
    *,
    facts: Callable[[Document, str], DistributionFacts | None],
    known: Callable[[Document], Sequence[str]],
    architecture: str,
) -> dict[str, Resolved]:
    """Every machine of the documents; mistakes are kept in the documents, and then the result is not to be used."""
    documents = list(documents)
    world = World(facts=facts, known=known, architecture=architecture, profiles=_profiles(documents), unique={})
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
            layered = Layered(
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
        structs.replace(
            layer,
            packages=layer.choices.get(family, layer.packages),
            remove_packages=layer.remove_choices.get(family, layer.remove_packages),
            choices={},
            remove_choices={},
        )
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


def _profile_list(place: Place, written: Machine, world: World) -> None:
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


def _machine(machine: Layered, world: World) -> Resolved:
    base, family = base_of(machine, world)
    names = machine.own.profiles if machine.own.profiles is not None else machine.defaults.profiles or []
    profiles = [(name, world.profiles[name][1]) for name in names if name in world.profiles]
    own = _merged(machine.part, machine.below)
    if machine.own.options or machine.defaults.options or any(one.recipe for _, one in profiles):
        profiles, own = _with_recipes(machine, world, base, family, profiles, own)
    layers = [_contents(name, one, family, base.release) for name, one in [*profiles, ("", own)]]
    if any(layer.packages for layer in layers) and (sets := _sets(machine, world, base)) is not None:
        if any(layer.repositories for layer in layers):  # they may have what the distribution has no longer
            sets = (structs.replace(sets[0], obsolete={}), sets[1])
        layers = [_with_sets(machine, world, layer, family, sets) for layer in layers]
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
        boot_no_new_privileges=machine.get("no_new_privileges") is True,
        private_network=NetworkTerms(**{name: value for name, value in own.network.items() if name != "mode"}),
        firstboot=_firstboot([*profiles, ("", own)]),
    )


def _with_recipes(
    machine: Layered, world: World, base: Base, family: str, profiles: list[tuple[str, Part]], own: Part
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
        remove_packages=below.remove_packages if own.remove_packages is None else own.remove_packages,
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


def _no_new_privileges(machine: Layered, layers: list[Contents]) -> bool | None:
    written = machine.get("no_new_privileges")
    if isinstance(written, bool):
        return written
    if any(user.sudo != "no" for layer in layers for user in layer.users):
        return False
    return None if machine.get("from_") else True


def _contents(name: str, one: Part, family: str, release: str) -> Contents:
    packages, gone = one.packages or {}, one.remove_packages or {}
    return Contents(
        name=name,
        packages=packages.get(family, ()) or packages.get("", ()),
        choices={} if family or "" in packages else packages,
        remove_packages=gone.get(family, ()) or gone.get("", ()),
        remove_choices={} if family or "" in gone else gone,
        users=one.users or (),
        files=tuple(one.files.values()),
        scripts=one.scripts or (),
        repositories=tuple(
            repository if repository.suites else structs.replace(repository, suites=(release,))
            for repository in one.repositories or ()
        ),
        services=one.services or (),
    )


def _sets(machine: Layered, world: World, base: Base) -> tuple[Sets, bool] | None:
    """What "@NAME" stands for, and whether the release is one; None: only the tree says, or a mistake was told."""
    facts = world.facts(machine.place.document, base.distribution) if base.distribution else None
    if facts is None:
        return None
    return sets_of(base.distribution, facts, base.release, base.architecture), base.release in facts.releases


def _with_sets(machine: Layered, world: World, layer: Contents, family: str, known: tuple[Sets, bool]) -> Contents:
    """A layer's packages as they are installed; a set that there is not is told where it is written."""
    if not is_open(layer.packages) and not known[0].obsolete.keys() & set(layer.packages):
        return layer
    found = replaced(layer.packages, known[0])
    if found.unknown and known[1]:
        if layer.name:
            above = world.profiles[layer.name][0]
            place, written = above.at("packages"), above.document.definition.profiles[layer.name].packages
        else:
            place = machine.where("packages")
            written = (machine.own.packages if machine.own.packages is not None else machine.defaults.packages) or []
        for index, message in found.unknown:
            if checks.package(layer.packages[index]):
                continue  # told already
            names = written if isinstance(written, list) else written.get(family, [])
            keys = () if isinstance(written, list) else (family,)
            word = layer.packages[index]
            (place.at(*keys, names.index(word)) if word in names else place).wrong(message)
    return structs.replace(layer, packages=found.packages, notes=found.notes)


def _of_the_machine(machine: Layered, own: Contents, *, boots: bool) -> Contents:
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
    lists = (
        *(layer.packages, layer.remove_packages, layer.users, layer.files, layer.scripts),
        *(layer.repositories, layer.services, *layer.choices.values(), *layer.remove_choices.values()),
    )
    single = layer.init or layer.locale or layer.timezone or layer.root_password is not None
    return bool(single or any(lists))


def _repositories_once(machine: Layered, layers: list[Contents]) -> list[Contents]:
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


def _users_once(machine: Layered, layers: list[Contents]) -> list[Contents]:
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
