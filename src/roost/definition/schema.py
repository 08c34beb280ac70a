"""The JSON Schema of a definition, for editors. It knows the shape; the loader also checks values and files."""

from __future__ import annotations

from typing import Any

from msgspec import json

from roost.definition.checks import FAMILIES
from roost.definition.model import Definition

_PACKAGES = "A list of packages for every family, or one list per family of distributions (apt, dnf, ...)."
_USER = "An account, or a list of them, made in the layer."
_FILES = "Files put into the layer, by their absolute path in the machine."
_SCRIPTS = "Scripts run once inside as root, in order, while the layer is made: text, or a table with a source."
_ENVIRONMENT = "Variables set in every session; they make no layer."
_BINDS = 'Host paths seen in every session: "SOURCE", "SOURCE:TARGET", "SOURCE:TARGET:rw", or a table.'

DESCRIPTIONS = {
    "Definition": {
        "defaults": "What every machine of this file has that does not say otherwise.",
        "machines": "The machines, by name. A name is a host name: a-z, 0-9 and '-', at most 63 characters.",
        "profiles": "Reusable layers, by name.",
    },
    "Machine": {
        "description": "One line for people.",
        "distribution": "The distribution, by the name of its recipe (debian, ubuntu, fedora, centos, gentoo).",
        "release": "The release, by its code name.",
        "architecture": "Debian's name of the architecture (amd64, arm64, i386, ...); the host's when not written.",
        "from": 'A committed layer, "layer:NAME", instead of a distribution.',
        "profiles": "The profiles that this machine is made of, each a layer, lowest first.",
        "packages": _PACKAGES,
        "user": _USER,
        "files": _FILES,
        "scripts": _SCRIPTS,
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
        "when not written, it is so unless the machine has a user with sudo.",
        "limits": "What a session may use at most.",
        "network": "How sessions reach the network.",
    },
    "Profile": {
        "description": "One line for people.",
        "packages": _PACKAGES,
        "user": _USER,
        "files": _FILES,
        "scripts": _SCRIPTS,
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
    "Network": {"mode": "host: the host's own network. none: a loopback device and nothing else."},
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
        for option in schema["$defs"][record]["properties"]["packages"]["anyOf"]:
            if option["type"] == "object":
                option["propertyNames"] = {"enum": list(FAMILIES)}
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
