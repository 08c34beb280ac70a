"""A layer's packages as a software bill of materials: SPDX 2.3, as JSON (https://spdx.github.io/spdx-spec/v2.3/).

The document describes the tree that a layer and those below it make. That contains the layers, and each layer the packages
that it brought or changed. The same layer gives the same document, whenever and wherever it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from roost.bases.recognise import fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from roost.packages import Installed
    from roost.records import LayerRecord
    from roost.store import Store

NOTHING = "NOASSERTION"
DOCUMENT = "SPDXRef-DOCUMENT"
_TREE = "SPDXRef-Tree"

# Package URLs: https://github.com/package-url/purl-spec/blob/main/PURL-TYPES.rst; "ebuild" is what scanners call portage's.
_TYPES = {"apt": "deb", "dnf": "rpm", "zypper": "rpm", "pacman": "alpm", "apk": "apk", "portage": "ebuild"}
_VENDORS = {"rhel": "redhat", "opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse"}
"""Namespaces that are called otherwise than ID in os-release(5)."""


def document(store: Store, layer: LayerRecord, installed: Sequence[Installed]) -> dict[str, Any]:
    """The document of ``layer``, which has ``installed`` with all below it. Raises StoreError for a layer that is gone."""
    chain = [*(store.layer(digest) for digest in layer.parents), layer]
    words = fields([store.tree(one.digest) for one in reversed(chain)])
    tree = {
        **_package(_TREE, layer.name, layer.digest),
        "primaryPackagePurpose": "CONTAINER",
        "comment": "the root file system of the layer with all below it; its version is the layer's digest",
    }
    packages = [tree]
    relations = [(DOCUMENT, "DESCRIBES", _TREE)]
    owners = {}
    for one in chain:
        owners[one.digest] = _id("Layer", one.digest)
        packages.append(_layer(one, owners[one.digest]))
        relations.append((_TREE, "CONTAINS", owners[one.digest]))
    taken: set[str] = set()
    for package in installed:
        own = _unique(_id("Package", package.name, package.version, package.architecture), taken)
        packages.append(_installed(package, own, layer.family, words))
        relations.append((owners[package.layer], "CONTAINS", own))
    made = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": layer.name,
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(layer.created)),
            "creators": [f"Tool: roost-{layer.roost}" if layer.roost else "Tool: roost"],  # the one that made it
        },
        "packages": packages,
        "relationships": [
            {"spdxElementId": one, "relationshipType": word, "relatedSpdxElement": other}
            for one, word, other in relations
        ],
    }
    # Another document has another name (6.5), and nobody has to ask who owns a host's.
    content = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    made["documentNamespace"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}"
    return made


def _package(own: str, name: str, version: str) -> dict[str, Any]:
    return {
        "SPDXID": own, "name": name, "versionInfo": version, "downloadLocation": NOTHING, "filesAnalyzed": False,
        "licenseConcluded": NOTHING, "licenseDeclared": NOTHING, "copyrightText": NOTHING,
    }  # fmt: skip


def _layer(layer: LayerRecord, own: str) -> dict[str, Any]:
    made = {**_package(own, layer.name, layer.digest), "primaryPackagePurpose": "CONTAINER"}
    if layer.manifest:
        made["checksums"] = [{"algorithm": "SHA256", "checksumValue": layer.manifest}]
        made["comment"] = "the checksum is that of the layer's manifest, mtree(5), which has every file's"
    return made


def _installed(package: Installed, own: str, family: str, words: Mapping[str, str]) -> dict[str, Any]:
    made = {**_package(own, package.name, package.version), "supplier": NOTHING}
    if package.source:
        made["sourceInfo"] = f"built from: {package.source}"
    if address := purl(package, family, words):
        made["externalRefs"] = [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": address}
        ]
    return made


def purl(package: Installed, family: str, words: Mapping[str, str]) -> str:
    """The package URL of a package of a distribution, of which ``words`` is the os-release(5); empty when there is no type for it."""
    kind = _TYPES.get(family, "")
    if not kind or not package.name:
        return ""
    name, version, namespace = package.name, package.version, words.get("ID", "").lower()
    release = words.get("VERSION_ID", "") or words.get("VERSION_CODENAME", "")
    qualifiers = {"arch": package.architecture, "distro": f"{namespace}-{release}" if release else namespace}
    if kind == "rpm":
        epoch, colon, rest = version.partition(":")
        if colon:
            qualifiers["epoch"], version = epoch, rest
    elif kind == "ebuild" and "/" in name:
        namespace, _, name = name.rpartition("/")
    namespace = _VENDORS.get(namespace, namespace)
    path = "/".join(_quoted(word) for word in (kind, *namespace.split("/"), name) if word)
    more = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{path}{version and f'@{_quoted(version)}'}{more and f'?{more}'}"


def _quoted(text: str) -> str:
    return quote(text, safe=":")


def _id(*words: str) -> str:
    """An identifier: letters, numbers, "." and "-" (7.2)."""
    return "-".join(("SPDXRef", *(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in words if word)))


def _unique(name: str, taken: set[str]) -> str:
    own, number = name, 1
    while own in taken:
        number += 1
        own = f"{name}-{number}"
    taken.add(own)
    return own
