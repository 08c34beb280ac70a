"""The JSON Schema of a definition, for editors. It knows the shape; the loader also checks values and files."""

from __future__ import annotations

from typing import Any

from msgspec import json

from roost.definition.checks import FAMILIES
from roost.definition.model import Definition
from roost.definition.recipes import RECIPES

_PACKAGES = (
    "A list of packages and sets (@NAME) for every family, or one list per family of distributions (apt, dnf, ...)."
)
_REMOVED = "Packages that are removed once the layer's own are installed: a list for every family, or one per family."
_USER = "An account, or a list of them, made in the layer."
_FILES = "Files put into the layer, by their absolute path in the machine."
_SCRIPTS = "Scripts run once inside as root, in order, while the layer is made: text, or a table with a source."
_ENVIRONMENT = "Variables set in every session; they make no layer."
_BINDS = 'Host paths seen in every session: "SOURCE", "SOURCE:TARGET", "SOURCE:TARGET:rw", or a table.'
_REPOSITORIES = "Repositories of packages beside the distribution's own; they stay in the layer."
_SERVICES = "Units that are enabled in the layer: they start when the machine boots."
_FIRSTBOOT = "Scripts that run as root when the machine first boots, in order, each until it has succeeded once."

DESCRIPTIONS = {
    "Definition": {
        "network": "Where the addresses of private networks come from.",
        "defaults": "What every machine of this file has that does not say otherwise.",
        "machines": "The machines, by name. A name is a host name: a-z, 0-9 and '-', at most 63 characters.",
        "profiles": "Reusable layers, by name.",
    },
    "Machine": {
        "description": "One line for people.",
        "distribution": "The distribution, by the name of its recipe (debian, ubuntu, fedora, centos, almalinux, rockylinux, gentoo, ...).",
        "release": "The release, by its code name.",
        "architecture": "Debian's name of the architecture (amd64, arm64, i386, ...); the host's when not written. "
        "Beside 'oci:' which image is meant, beside 'tar:', 'dir:' and 'mkosi:' what the tree has to be made for.",
        "from": "What the base is made from instead of a distribution: layer:NAME, tar:FILE, tar:URL, oci:IMAGE, dir:DIRECTORY, "
        "mkosi:DIRECTORY; paths are relative to the definition.",
        "sha256": "The digest that the file of 'tar:' must have.",
        "signature": "The OpenPGP signature of the file of 'tar:', a file or an address; the same name with .asc when not written.",
        "family": "The package manager of a base from 'tar:', 'oci:', 'dir:' or 'mkosi:' (apt, dnf, ..., none); found out when not "
        "written.",
        "profiles": "The profiles that this machine is made of, each a layer, lowest first.",
        "options": "Options of its profiles' recipes, by profile, in front of the profile's own.",
        "packages": _PACKAGES,
        "remove-packages": _REMOVED,
        "user": _USER,
        "files": _FILES,
        "scripts": _SCRIPTS,
        "repositories": _REPOSITORIES,
        "services": _SERVICES,
        "locale": 'The language of the machine, by glibc\'s name: "C.UTF-8", "de_DE.UTF-8".',
        "timezone": 'The time zone, by its name in the tz database: "Europe/Berlin".',
        "root-password": "Root's password as crypt(5) stores it (`openssl passwd -6` prints it), or empty for none at all.",
        "firstboot": _FIRSTBOOT,
        "environment": _ENVIRONMENT,
        "binds": _BINDS,
        "bootstrap": "The program that makes the base layer (mmdebstrap, debootstrap); the recipe's when not written.",
        "variant": "The set of packages of the base layer; the recipe's when not written.",
        "mirror": "The http, https or file address of the mirror; the host's or the recipe's when not written.",
        "components": "The components of the archive; the recipe's when not written.",
        "keyring": "The keys that sign the archive: a path, relative to the definition.",
        "check-valid-until": "Whether an archive whose lists are out of date is refused.",
        "source-packages": "Whether source packages can be fetched too (deb-src).",
        "private-users": "Whether sessions have a user namespace of their own (they do when not written).",
        "capabilities": "What processes in a session may have beyond the default capabilities: CAP_SYS_ADMIN, ...",
        "no-new-privileges": "Whether programs gain nothing from set-user-id bits and file capabilities, sudo included; "
        "when not written, sessions are so unless the machine has a user with sudo, and a machine that boots is not.",
        "limits": "What a session may use at most.",
        "network": "How sessions, and the booted machine, reach the network.",
        "boot": "The machine boots, and how; an empty table is enough.",
    },
    "Profile": {
        "description": "One line for people.",
        "recipe": "A shipped recipe that stands for packages, users, files and scripts: sai-builder.",
        "options": "What the recipe asks for.",
        "packages": _PACKAGES,
        "remove-packages": _REMOVED,
        "user": _USER,
        "files": _FILES,
        "scripts": _SCRIPTS,
        "repositories": _REPOSITORIES,
        "services": _SERVICES,
        "firstboot": _FIRSTBOOT,
        "environment": _ENVIRONMENT,
        "binds": _BINDS,
    },
    "User": {
        "name": "The account's name.",
        "uid": "Its number, 0 to 65533; the machine chooses when not written.",
        "group": "Its group; the family's group for nobody when not written.",
        "groups": "More groups, which exist in the machine.",
        "home": "Its home directory; /home/NAME when not written.",
        "shell": "Its shell.",
        "sudo": "Whether it becomes root without a password.",
    },
    "File": {
        "content": "The text of the file.",
        "source": "A file to copy, relative to the definition.",
        "mode": 'Permission bits in octal, as a string: "0644".',
        "owner": "A user's name or number in the machine.",
        "group": "A group's name or number in the machine.",
    },
    "ScriptSource": {"source": "A file with the script, relative to the definition."},
    "Bind": {
        "source": "The host's path, relative to the definition.",
        "target": "The path in the session; the source's when not written.",
        "read-only": "Whether writing is refused.",
    },
    "Limits": {
        "memory": 'Bytes, or a number with K, M, G or T: "2G".',
        "cpus": "Processors, also in parts: 0.5.",
        "tasks": "Processes and threads.",
        "disk": 'What a session may write, its /tmp and the copies of sources included: "10G".',
        "time": 'How long a run may take: seconds, or a number with s, m or h: "15m".',
        "output": 'How much a run may print, both streams together: "10M".',
    },
    "Network": {
        "mode": "host: the host's own network. none: a loopback device and nothing else. private: one of its own. "
        "When not written: host for sessions, private for a booted machine.",
        "bridge": "The name of a network that machines share; without it the machine has a link to the host alone.",
        "isolated": "Whether other machines can neither reach it nor be reached.",
        "publish": 'Ports of the host that lead into the machine: "8080:80", "127.0.0.1:2222:22/tcp".',
        "egress": 'What the machine may reach: addresses, networks and names, each with a port or without, "any", and '
        '"host" for the host itself; everything but the host when not written.',
        "address": "Its IPv4 address; one of the pool when not written.",
    },
    "Pool": {
        "pool": 'The network that IPv4 addresses come from, "10.77.0.0/16"; one that the host has no route to when not '
        "written.",
        "pool6": 'The network that IPv6 addresses come from, "fd00:77::/48"; one of the host\'s own when not written.',
    },
    "Boot": {
        "enable": "Whether it comes up with the host.",
        "hostname": "What it calls itself; the machine's name when not written.",
        "ephemeral": "Whether what it changes is thrown away when it goes down.",
        "ready": "A command that succeeds inside once the machine is ready; its init is asked when not written.",
        "timeout": 'How long it may take until it is ready: seconds, or a number with s, m or h; "90s" when not written.',
        "stop-timeout": 'How long it may take to go down before it is killed; "30s" when not written.',
        "link-journal": "Where its journal is kept and linked, as systemd-nspawn has it; try-guest when not written.",
        "nested": "Whether it may run containers itself.",
    },
    "Repository": {
        "name": "What its files in the machine are called.",
        "url": "Its http, https or file address, without a user and a password.",
        "suites": 'Its suites; the machine\'s release when not written. A flat one has a directory: "./".',
        "components": 'Its components; "main" when not written.',
        "key": "The file with the keys that sign it, relative to the definition; the distribution's keys when not written.",
    },
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a definition."""
    schema: dict[str, Any] = _without_null(json.schema(Definition))
    for record, descriptions in DESCRIPTIONS.items():
        definition = schema["$defs"][record]
        definition["description"] = definition["description"].replace("``", "'")
        for key, description in descriptions.items():
            definition["properties"][key]["description"] = description
    properties = schema["$defs"]["Definition"]["properties"]
    properties["machines"]["propertyNames"] = {"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
    for record in ("Machine", "Profile"):
        for key in ("packages", "remove-packages"):
            for option in schema["$defs"][record]["properties"][key]["anyOf"]:
                if option["type"] == "object":
                    option["propertyNames"] = {"enum": list(FAMILIES)}
    schema["$defs"]["Profile"]["properties"]["recipe"]["enum"] = ["", *RECIPES]
    file = schema["$defs"]["File"]
    file["properties"]["mode"]["pattern"] = "^[0-7]{3,4}$"
    file["oneOf"] = [{"required": ["content"]}, {"required": ["source"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "roost.toml", **schema}


def _without_null(node: Any) -> Any:
    """The same schema without null: TOML has none, it stands for "not written" in the records."""
    if isinstance(node, list):
        return [_without_null(one) for one in node if one != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    result = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    if len(result.get("anyOf", ())) == 1:
        result |= result.pop("anyOf")[0]
    if isinstance(result.get("enum"), list):
        result["enum"] = [value for value in result["enum"] if value is not None]
    return result
