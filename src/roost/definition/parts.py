"""One written table (``[defaults]``, a machine or a profile) with its values checked and its files read."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from roost.definition import checks, origins
from roost.definition.families import is_family
from roost.definition.model import Bind, File, FileContent, Machine, Profile, RepositoryKeys, Script, User

if TYPE_CHECKING:
    from collections.abc import Callable

    from roost.definition.mistakes import Place
    from roost.definition.model import Boot, Limits, Network, Repository, ScriptSource

SOURCE_MOST = 64 << 20
"""Bytes of a file that a definition may take into a layer; it is read whole, at every start."""

_UNREAD = b"?"


class Part(Struct, frozen=True, kw_only=True):
    """None: not written. ``packages`` and ``remove_packages`` have the list for every family under the empty name.

    ``boot`` and ``network`` have what is written of them, as it is used; ``boot`` None: there is no such table.
    ``recipe`` is a profile's recipe with its options as that has read them.
    """

    packages: dict[str, tuple[str, ...]] | None
    remove_packages: dict[str, tuple[str, ...]] | None = None
    users: tuple[User, ...] | None
    files: dict[str, FileContent]
    scripts: tuple[Script, ...] | None
    environment: dict[str, str]
    binds: tuple[Bind, ...] | None
    repositories: tuple[RepositoryKeys, ...] | None
    services: tuple[str, ...] | None
    firstboot: tuple[Script, ...] | None
    limits: dict[str, Any] = {}
    boot: dict[str, Any] | None = None
    network: dict[str, Any] = {}
    keyring: tuple[str, str] | None = None
    recipe: tuple[str, Any] | None = None


def part(place: Place, written: Machine | Profile) -> Part:
    """Check and read one table; what is wrong is told at ``place`` and left out."""
    place.at("description").wrong(checks.control(written.description or ""))
    limits, keyring, boot, network = None, None, None, None
    if isinstance(written, Machine):
        _base(place, written)
        _system(place, written)
        limits, keyring, boot, network = written.limits, written.keyring, written.boot, written.network
    services = written.services
    if services is not None:
        _each(place.at("services"), services, checks.unit)
    return Part(
        packages=None if written.packages is None else _packages(place.at("packages"), written.packages),
        remove_packages=_removed(place, written),
        users=None if written.user is None else _users(place.at("user"), written.user),
        files=_files(place.at("files"), written.files or {}),
        scripts=None if written.scripts is None else _scripts(place.at("scripts"), written.scripts),
        environment=_environment(place.at("environment"), written.environment or {}),
        binds=None if written.binds is None else _binds(place.at("binds"), written.binds),
        repositories=_repositories(place.at("repositories"), written.repositories),
        services=None if services is None else tuple(services),
        firstboot=None if written.firstboot is None else _scripts(place.at("firstboot"), written.firstboot),
        limits={} if limits is None else _limits(place.at("limits"), limits),
        boot=None if boot is None else _boot(place.at("boot"), boot),
        network={} if network is None else _network(place.at("network"), network),
        keyring=None if keyring is None else _keyring(place.at("keyring"), keyring),
        recipe=_recipe(place, written) if isinstance(written, Profile) else None,
    )


def _recipe(place: Place, written: Profile) -> tuple[str, Any] | None:
    if not written.recipe:
        if written.options:
            place.at("options").wrong("there is no recipe that they are for")
        return None
    from roost.definition import recipes  # few definitions have one

    if written.recipe not in recipes.RECIPES:
        known = place.did_you_mean(written.recipe, recipes.RECIPES) or f", one of {', '.join(recipes.RECIPES)}"
        place.at("recipe").wrong(f"no recipe '{written.recipe}'{known}")
        return None
    return written.recipe, recipes.options(place.at("options"), written.recipe, written.options)


def _base(place: Place, written: Machine) -> None:
    if written.mirror is not None:
        place.at("mirror").wrong(checks.mirror(written.mirror))
    if written.from_ is not None:
        place.at("from").wrong(origins.origin(written.from_))
    for key, value, check in (
        ("sha256", written.sha256, origins.digest),
        ("signature", written.signature, origins.signature),
        ("family", written.family, origins.family),
    ):
        if value is not None:
            place.at(key).wrong(check(value))
    _each(place.at("capabilities"), written.capabilities or [], checks.capability)
    if written.components is not None:
        if not written.components:
            place.at("components").wrong("the list is empty: leave the key out to get the distribution's own")
        _each(place.at("components"), written.components, checks.component)


def _system(place: Place, written: Machine) -> None:
    for key, value, check in (
        ("locale", written.locale, checks.locale),
        ("timezone", written.timezone, checks.timezone),
        ("root-password", written.root_password, checks.password_hash),
    ):
        if value is not None:
            place.at(key).wrong(check(value))


def _each(place: Place, values: list[str], check: Callable[[str], str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        place.at(index).wrong(check(value))
        if value in seen:
            place.at(index).wrong(f"{value!r} is in the list already")
        seen.add(value)


def _packages(place: Place, written: list[str] | dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    if isinstance(written, list):
        _each(place, written, checks.package)
        return {"": tuple(written)}
    for family, names in written.items():
        if not is_family(family):
            known = place.did_you_mean(family, checks.FAMILIES) or f", one of {', '.join(checks.FAMILIES)}"
            place.at(family).wrong(f"unknown family of distributions{known}")
        _each(place.at(family), names, checks.package)
    return {family: tuple(names) for family, names in written.items()}


def _removed(place: Place, written: Machine | Profile) -> dict[str, tuple[str, ...]] | None:
    if not written.remove_packages:  # a profile has an empty list, a machine none
        return None if written.remove_packages is None else {}
    place = place.at("remove-packages")
    found = _packages(place, written.remove_packages)
    both = _by_family(written.packages or [])
    for family, names in _by_family(written.remove_packages).items():
        at = place if isinstance(written.remove_packages, list) else place.at(family)
        for index, name in enumerate(names):
            at.at(index).wrong(checks.installed(name, family))
            if any(name in others for key, others in both.items() if not family or key in ("", family)):
                at.at(index).wrong(f"{name!r} is in packages, too: one of them is wrong")
    return found


def _by_family(written: list[str] | dict[str, list[str]]) -> dict[str, list[str]]:
    return {"": written} if isinstance(written, list) else written


def _users(place: Place, written: User | list[User]) -> tuple[User, ...]:
    alone = isinstance(written, User)
    users = (written,) if isinstance(written, User) else tuple(written)
    names: set[str] = set()
    uids: dict[int, str] = {}
    for index, user in enumerate(users):
        here = place if alone else place.at(index)
        here.at("name").wrong(checks.user_name(user.name))
        if user.name and user.name in names:
            here.at("name").wrong(f"user '{user.name}' is defined twice")
        names.add(user.name)
        if user.uid is not None:
            here.at("uid").wrong(checks.uid(user.uid))
            if uids.setdefault(user.uid, user.name) != user.name:
                here.at("uid").wrong(f"uid {user.uid} is that of '{uids[user.uid]}' already")
        if user.group:
            here.at("group").wrong(checks.group_name(user.group))
        _each(here.at("groups"), user.groups, checks.group_name)
        if user.home:
            here.at("home").wrong(checks.path(user.home, home=True))
        here.at("shell").wrong(checks.path(user.shell, home=True))
    return users


def _files(place: Place, written: dict[str, File]) -> dict[str, FileContent]:
    files = {}
    for path, file in written.items():
        here = place.at(path)
        here.wrong(checks.file_target(path))
        here.at("mode").wrong(checks.mode(file.mode))
        here.at("owner").wrong(checks.owner(file.owner))
        here.at("group").wrong(checks.owner(file.group))
        content = b""
        if (file.content is None) == (file.source is None):
            if not here.at("content").skipped and not here.at("source").skipped:
                both = "content and source are both given" if file.source is not None else "nothing to put into it"
                here.wrong(f"{both}: write exactly one of content (text) and source (a path)")
        elif file.source is not None:
            content = _read(here.at("source"), file.source)
        elif file.content is not None:
            content = file.content.encode()
        mode = 0 if checks.mode(file.mode) else int(file.mode, 8)
        files[path] = FileContent(path=path, content=content, mode=mode, owner=file.owner, group=file.group)
    return files


def _scripts(place: Place, written: list[str | ScriptSource]) -> tuple[Script, ...]:
    scripts = []
    for index, script in enumerate(written):
        if isinstance(script, str):
            here, name, content = place.at(index), f"script {index + 1}", script.encode()
            here.wrong(checks.nul(script))
        else:
            here, name = place.at(index, "source"), script.source
            content = _read(here, script.source)
        if not content.strip():
            here.wrong("the script is empty")
        elif content.startswith(b"#!") and content.split(b"\n", 1)[0].endswith(b"\r"):
            here.wrong("its lines end in CR LF: the kernel looks for an interpreter with CR in its name")
        scripts.append(Script(name=name, content=content))
    return tuple(scripts)


def _environment(place: Place, written: dict[str, str]) -> dict[str, str]:
    for name, value in written.items():
        place.at(name).wrong(checks.variable(name) or checks.nul(value))
    return written


def _binds(place: Place, written: list[str | Bind]) -> tuple[Bind, ...]:
    binds = []
    for index, value in enumerate(written):
        here = place.at(index)
        short = isinstance(value, str)
        bind = _short_bind(here, value) if isinstance(value, str) else value
        if bind is None:
            continue
        source, target = (here, here) if short else (here.at("source"), here.at("target"))
        if not bind.source:
            source.wrong("the source is empty: a path of the host")
        elif bind.source.startswith("~"):
            source.wrong("'~' is not expanded in a definition: write the whole path")
        else:
            source.wrong(checks.control(bind.source))
        path = os.path.normpath(os.path.join(place.document.directory, bind.source))
        (target if bind.target else source).wrong(checks.bind_target(bind.target or path))
        binds.append(Bind(source=path, target=bind.target or path, read_only=bind.read_only))
    return tuple(binds)


def _short_bind(place: Place, text: str) -> Bind | None:
    source, *rest = text.split(":")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("ro", "rw")) or (rest and not rest[0]):
        place.wrong(f'not a bind {text!r}: "SOURCE", "SOURCE:TARGET" or "SOURCE:TARGET:rw" (or a table)')
        return None
    return Bind(source=source, target=rest[0] if rest else "", read_only=rest[1:] != ["rw"])


def _limits(place: Place, limits: Limits) -> dict[str, Any]:
    found = {}
    for name in checks.LIMITS:
        written = getattr(limits, name)
        if written is not None:
            value, wrong = checks.limit(name, written)
            place.at(name).wrong(wrong)
            found[name] = value
    return found


def _boot(place: Place, boot: Boot) -> dict[str, Any]:
    found = {name: value for name in boot.__struct_fields__ if (value := getattr(boot, name)) is not None}
    for name in ("timeout", "stop_timeout"):
        if name in found:
            found[name], wrong = checks.limit("time", found[name])
            place.at(name.replace("_", "-")).wrong(wrong)
    if boot.hostname is not None:
        place.at("hostname").wrong(checks.host_name(boot.hostname))
    if boot.ready is not None:
        place.at("ready").wrong(checks.nul(boot.ready))
    return found


def _network(place: Place, network: Network) -> dict[str, Any]:
    found = {name: value for name in network.__struct_fields__ if (value := getattr(network, name)) is not None}
    if not found.keys() - {"mode"}:
        return found
    from roost.definition import network_checks  # few definitions have more than a mode

    if network.mode in ("host", "none"):
        for name in network_checks.PRIVATE_KEYS:
            if name in found:
                place.at(name).wrong(f"only a private network has it, and the mode is '{network.mode}'")
    if network.bridge:
        place.at("bridge").wrong(network_checks.bridge(network.bridge))
    if network.address:
        place.at("address").wrong(network_checks.address(network.address))
    for name, check in (("egress", network_checks.egress), ("publish", lambda text: network_checks.publish(text)[1])):
        if name in found:
            _each(place.at(name), found[name], check)
            found[name] = tuple(found[name])
    return found


def _repositories(place: Place, written: list[Repository] | None) -> tuple[RepositoryKeys, ...] | None:
    if written is None:
        return None
    repositories = []
    names: set[str] = set()
    for index, one in enumerate(written):
        here = place.at(index)
        here.at("name").wrong(checks.repository(one.name))
        if one.name and one.name in names:
            here.at("name").wrong(f"repository '{one.name}' is in the list already")
        names.add(one.name)
        here.at("url").wrong(checks.mirror(one.url))
        _each(here.at("suites"), one.suites, checks.suite)
        _each(here.at("components"), one.components, checks.component)
        flat = [suite for suite in one.suites if suite.endswith("/")]
        if flat and (one.components or len(flat) < len(one.suites)):
            here.at("suites").wrong(
                f"{flat[0]!r} is a directory: it has no components, and stands with directories only"
            )
        key = _read(here.at("key"), one.key) if one.key else b""
        if one.key and key != _UNREAD:
            here.at("key").wrong(checks.keys(key))
        components = () if flat else tuple(one.components or ("main",))
        repositories.append(
            RepositoryKeys(name=one.name, url=one.url, suites=tuple(one.suites), components=components, key=key)
        )
    return tuple(repositories)


def _keyring(place: Place, path: str) -> tuple[str, str]:
    from hashlib import sha256  # OpenSSL costs milliseconds, and few definitions have a keyring

    content = _read(place, path)
    return os.path.normpath(os.path.join(place.document.directory, path)), sha256(content).hexdigest()


def _read(place: Place, path: str) -> bytes:
    """The content of a file named in a definition, relative to it; a mistake and nothing when it cannot be had."""
    if place.skipped:
        return _UNREAD
    if not path or "\0" in path:
        place.wrong(checks.nul(path) or "the path is empty")
        return _UNREAD
    whole = os.path.join(place.document.directory, path)
    try:
        place.document.inputs.add(whole)
        return read_regular(whole, most=SOURCE_MOST)
    except OSError as error:
        place.wrong(f"{path}: {error.strerror or error}")
    return _UNREAD


def read_regular(path: str, *, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises OSError, also for anything that is no regular file: a pipe is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1) or b""  # None where reading would wait, as in /proc/kmsg
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", path)
    return content
