"""The recipe of a machine that builds for sai (https://warmcat.com/sai); its lists are in sai-builder.toml.

``/etc/sai/builder/conf`` is JSON as src/builder/b-conf.c of sai reads it: ``instances`` is what sai of 2022 needs and
``job-limit`` what later ones read.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, structs

from roost.definition import checks, sources
from roost.definition.model import FileContent, Script, ScriptSource, User
from roost.definition.recipes import Expansion, Host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roost.definition.mistakes import Place
    from roost.definition.sources import Source

NAME = "sai-builder"
CONF = "/etc/sai/builder/conf"
NAME_MOST = 64
"""Characters of a builder's name, HOST.PLATFORM, before sai cuts it (struct sai_platform's name)."""
INSTANCES_MOST = 1000
_ORDER = ("cmake", "libgit2", "lws", "sai")
"""Sources, in the order in which they are built: each may need those before it."""
_NOBODY = {
    "apt": "nogroup",
    "portage": "nogroup",
    "dnf": "nobody",
    "zypper": "nobody",
    "pacman": "nobody",
    "apk": "nobody",
}
_OWN_KEYS = ("perms", "home", "host", "platforms")
_POWER_KEYS = ("sai-power", "power_controller", "power-on", "power-off")
_DATA = os.path.join(os.path.dirname(__file__), "sai-builder.toml")


class SourceOption(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where a source comes from: exactly one of ``git`` (an address, with ``revision``, a commit), ``tar`` (a file) and
    ``directory``. ``cmake`` are more options; ``build`` is a script in place of cmake and make, run in the source.
    """

    git: str = ""
    revision: str = ""
    tar: str = ""
    directory: str = ""
    cmake: list[str] = []
    build: str | ScriptSource | None = None


class PlatformOption(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A platform with servers, instances or an environment of its own."""

    name: str
    servers: list[str] | None = None
    instances: int | None = None
    env: dict[str, str] = {}


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What may be written. ``host`` may have ``{machine}`` in it, for the machine's name. ``packages`` instead of the
    recipe's own. ``conf`` has more keys for the configuration, as they are.
    """

    platforms: list[str | PlatformOption] | None = None
    servers: list[str] | None = None
    instances: int | None = None
    host: str | None = None
    home: str | None = None
    group: str | None = None
    uid: int | None = None
    sudo: Literal["no", "nopasswd"] | None = None
    packages: list[str] | None = None
    sources: dict[str, str | SourceOption] | None = None
    conf: dict[str, str | int | float | bool] | None = None


class Read(Struct, frozen=True, kw_only=True):
    """Options with their sources read."""

    options: Options
    sources: dict[str, Source]


def files() -> tuple[str, ...]:
    """The files that the recipe itself is in."""
    return (__file__, _DATA, sources.__file__)


def read(place: Place, options: Options) -> Read:
    """Checks every value, and reads the sources."""
    seen: set[str] = set()
    for index, platform in enumerate(options.platforms or ()):
        here = place.at("platforms", index)
        name = platform if isinstance(platform, str) else platform.name
        (here if isinstance(platform, str) else here.at("name")).wrong(_platform(name))
        if name in seen:
            here.wrong(f"platform {name!r} is in the list already")
        seen.add(name)
        if not isinstance(platform, str):
            _servers(here.at("servers"), platform.servers or ())
            here.at("instances").wrong(_instances(platform.instances))
            for variable in platform.env:
                here.at("env", variable).wrong(checks.variable(variable))
    _servers(place.at("servers"), options.servers or ())
    place.at("instances").wrong(_instances(options.instances))
    if options.host is not None:
        place.at("host").wrong(_host(options.host.replace("{machine}", "m")))
    for key, value, check in (("home", options.home, checks.path), ("group", options.group, checks.group_name)):
        if value is not None:
            place.at(key).wrong(check(value))
    if options.uid is not None:
        place.at("uid").wrong(checks.uid(options.uid))
    for index, package in enumerate(options.packages or ()):
        place.at("packages", index).wrong(checks.package(package))
    for key in options.conf or ():
        place.at("conf", key).wrong(_conf_key(key))
    return Read(options=options, sources=_sources(place.at("sources"), options.sources or {}))


def _sources(place: Place, written: dict[str, str | SourceOption]) -> dict[str, Source]:
    found = {}
    for name, option in written.items():
        here = place.at(name)
        if name not in _ORDER:
            known = here.did_you_mean(name, _ORDER) or f", one of {', '.join(_ORDER)}"
            here.wrong(f"unknown source '{name}'{known}")
            continue
        whole = sources.of_text(here, option) if isinstance(option, str) else structs.asdict(option)
        if whole is not None:
            found[name] = sources.read(here, **whole)
    return found


def merged(below: Read, above: Read) -> Read:
    """Key by key, sources by name."""
    said = {key: value for key, value in structs.asdict(above.options).items() if value is not None}
    return Read(options=structs.replace(below.options, **said), sources={**below.sources, **above.sources})


def _platform(name: str) -> str:
    """sai splits it at '/' and compares the parts (README-platform-naming); nothing else may be in a filter."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){1,2}", name):
        return f'not a platform {name!r}: OS/ARCHITECTURE or OS/ARCHITECTURE/TOOLCHAIN, like "linux-debian-12/x86_64-amd/gcc"'
    return ""


def _host(name: str) -> str:
    """A builder is called HOST.PLATFORM, and sai takes what is before the first dot for the host."""
    if "." in name:
        return f"no dot in {name!r}: sai takes what is before the first one for the host"
    return "" if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f"not a host {name!r}: letters, digits, '-' and '_'"


def _servers(place: Place, urls: Iterable[str]) -> None:
    for index, url in enumerate(urls):
        if not re.fullmatch(r"wss?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._/-]*", url):
            place.at(index).wrong(f'not a server {url!r}: like "wss://HOST:4444/sai/builder" (ws:// without TLS)')


def _instances(number: int | None) -> str:
    return "" if number is None or 1 <= number <= INSTANCES_MOST else f"from 1 to {INSTANCES_MOST} builds at a time"


def _conf_key(key: str) -> str:
    if key in _OWN_KEYS:
        return "the recipe writes this key itself, from the options"
    if key in _POWER_KEYS:
        return "an idle builder with it halts its machine: leave it out"
    return "" if re.fullmatch(r"[A-Za-z0-9_-]+", key) else "not a key of sai's configuration"


# -- what they mean


def expand(place: Place, read: Read, host: Host) -> Expansion:
    """The profile's content, and the configuration of this machine."""
    with open(_DATA, "rb") as stream:
        data = tomllib.load(stream)
    options = read.options
    home = options.home or "/home/sai"
    user = User(
        name="sai", uid=883 if options.uid is None else options.uid, group=options.group or "",
        home="" if home == "/home/sai" else home, sudo=options.sudo or "no",
    )  # fmt: skip
    _complete(place, read)
    name = (options.host or "{machine}").replace("{machine}", host.name)
    conf = _conf(place, options, home, name, options.group or _NOBODY.get(host.family, ""))
    built = [(one, read.sources[one]) for one in _ORDER if one in read.sources]
    texts = {
        "/etc/systemd/system/sai-builder.service": data["unit"],
        "/etc/tmpfiles.d/sai-builder.conf": data["tmpfiles"],
    }
    shared = {path: _file(path, text.lstrip().encode()) for path, text in texts.items()}
    shared |= {
        sources.place_of(one): _file(sources.place_of(one), source.content) for one, source in built if source.content
    }
    return Expansion(
        packages=_packages(data, read, host),
        users=(user,),
        files=shared,
        scripts=tuple(Script(name=f"build {one}", content=_build(one, source, data["cmake"])) for one, source in built),
        services=(NAME,),
        own={CONF: _file(CONF, json.dumps(conf, indent=4, ensure_ascii=False).encode() + b"\n")},
        unique={f"{name}.{platform['name']}": "builder" for platform in conf["platforms"]},
    )


def _file(path: str, content: bytes) -> FileContent:
    return FileContent(path=path, content=content, mode=0o644, owner="root", group="root")


def _complete(place: Place, read: Read) -> None:
    if not read.options.platforms:
        place.wrong('no platforms: options = { sai-builder = { platforms = ["linux-debian-12/x86_64-amd/gcc"] } }')
    said = read.sources
    if "sai" not in said:
        place.wrong(
            'no source of sai: sources = { sai = { git = "URL", revision = "COMMIT" }, lws = ... } in the options'
        )
    elif not said["sai"].build and "lws" not in said:
        place.wrong("no source of lws, which sai is built with: sources = { lws = ... } in the options")


def _conf(place: Place, options: Options, home: str, host: str, group: str) -> dict[str, Any]:
    if not group:
        place.wrong('a machine made from a layer does not say its family: group = "nogroup" or "nobody" in the options')
    place.wrong(_host(host))
    platforms = []
    for one in options.platforms or ():
        platform = PlatformOption(name=one) if isinstance(one, str) else one
        servers = platform.servers or options.servers
        if not servers:
            place.wrong(
                f'no server for platform {platform.name!r}: servers = ["wss://HOST:4444/sai/builder"] in the options'
            )
        if len(f"{host}.{platform.name}") > NAME_MOST:
            place.wrong(
                f"{host}.{platform.name} has more than {NAME_MOST} characters, and sai would cut it: a shorter host"
            )
        instances = platform.instances or options.instances or 1
        platforms.append(
            {"name": platform.name, "instances": instances, "job-limit": instances, "servers": list(servers or ())}
        )
        if platform.env:
            platforms[-1]["env"] = [{key: value} for key, value in platform.env.items()]
    return {"perms": f"sai:{group}", "home": home, "host": host, **(options.conf or {}), "platforms": platforms}


def _packages(data: dict[str, Any], read: Read, host: Host) -> dict[str, tuple[str, ...]]:
    families = [host.family] if host.family else [name for name in checks.FAMILIES if name in data]
    if read.options.packages is not None:
        return {family: tuple(read.options.packages) for family in families}
    replaced = {name for source in read.sources for name in data["replaced"].get(source, ())}
    found = {}
    for family in families:
        table = data.get(family, {"packages": []})
        own = table.get(host.distribution, {}).get(host.release, {})
        names = [*own.get("packages", table["packages"]), *table.get(host.architecture, ())]
        found[family] = tuple(sorted(set(names) - replaced - set(own.get("without", ()))))
    return found


_CMAKE = """mkdir build
cd build
cmake .. {options}
make -j"$(nproc)"
make install
"""
# /usr/local/lib is where make install puts libraries, and not every distribution looks there (lib64: 64 bits on some)
_LDCONFIG = """printf '%s\\n' /usr/local/lib /usr/local/lib64 > /etc/ld.so.conf.d/sai-builder.conf
grep -qs '^include.*ld.so.conf.d' /etc/ld.so.conf || echo 'include /etc/ld.so.conf.d/*.conf' >> /etc/ld.so.conf
ldconfig
"""


def _build(name: str, source: Source, cmake: list[str]) -> bytes:
    """The script that gets a source, builds and installs it, and leaves nothing else."""
    defaults = {
        "lws": cmake,
        "libgit2": ["-DBUILD_CLAR=OFF", "-DBUILD_TESTS=OFF"],
        "cmake": ["-DCMAKE_BUILD_TYPE=Release"],
    }
    options = shlex.join([*defaults.get(name, []), *source.cmake])
    if source.build:
        steps = source.build
    elif name == "cmake":  # there may be none to begin with
        steps = f'./bootstrap --parallel="$(nproc)" -- {options}\nmake -j"$(nproc)"\nmake install\n'.encode()
    else:
        steps = _CMAKE.format(options=options).encode()
    after = b"" if source.build else _LDCONFIG.encode()
    return sources.script(name, source, steps, after)
