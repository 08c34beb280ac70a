"""Images of containers: what an OCI layout holds, and how skopeo brings an image into one.

Formats: OCI image specification 1.1 (image-layout.md, manifest.md, config.md), and Docker's, which skopeo leaves as they
are on the way from a registry. A blob is taken only when it has the digest by which it is called; a layer's identity is the
digest of its tar archive (the ``diff_ids`` of the configuration), which is the same however it is compressed.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from msgspec import Struct

from roost.errors import NetworkDown, StoreError
from roost.host import runner

JSON_MOST = 8 << 20
"""Bytes of an index, a manifest or a configuration."""
LAYERS_MOST = 200
_INDEX = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_PLATFORMS = {
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v5"),
    "i386": ("386", ""),
    "ppc64el": ("ppc64le", ""),
    "mipsel": ("mipsle", ""),
    "mips64el": ("mips64le", ""),
}  # Go's names


class Image(Struct, frozen=True, kw_only=True):
    """``layers``: (digest of the archive, path of the blob, digest of the blob), the lowest first."""

    layers: tuple[tuple[str, str, str], ...]


def platform(architecture: str) -> tuple[str, str]:
    """Go's names of an architecture and its variant."""
    return _PLATFORMS.get(architecture, (architecture, ""))


def split_layout(text: str) -> tuple[str, str]:
    """``DIR[:TAG]``: a tag has no '/'."""
    directory, _, tag = text.rpartition(":")
    return (directory, tag) if directory and "/" not in tag else (text, "")


def image(directory: str, tag: str, architecture: str) -> Image:
    """What an OCI layout has under a tag (empty: the only one). Raises StoreError for a layout that is broken."""
    index = _json(os.path.join(directory, "index.json"), directory)
    found = [one for one in _list(index, "manifests") if not tag or _tag(one) == tag]
    if len(found) != 1:
        tags = ", ".join(sorted(filter(None, map(_tag, _list(index, "manifests"))))) or "none"
        what = f"no image {tag!r}" if tag else f"{len(found)} images" if found else "no image"
        raise StoreError(
            f"{directory} has {what}", details=f"its tags: {tags}", hint='write "oci:oci-layout:DIRECTORY:TAG"'
        )
    manifest = _manifest(directory, found[0], architecture)
    config = _blob(directory, manifest.get("config"))
    diffs = [_sha(one) for one in _list(_dict(config.get("rootfs")), "diff_ids")]
    blobs = [_sha(_dict(one).get("digest")) for one in _list(manifest, "layers")]
    if len(diffs) != len(blobs) or not 0 < len(diffs) <= LAYERS_MOST:
        raise StoreError(
            f"the image in {directory} has {len(blobs)} layers and the digests of {len(diffs)}", hint="get it again"
        )
    return Image(layers=tuple((d, _path(directory, b), b) for d, b in zip(diffs, blobs, strict=True)))


def inspect(source: str, architecture: str) -> tuple[str, tuple[str, ...]]:
    """What an image in a registry or an archive is: the digest of its manifest, and those of its layers' archives.

    Raises NetworkDown, StoreError, or HostError without skopeo.
    """
    told = json.loads(_skopeo(source, architecture, "inspect", "--no-tags", source))
    config = json.loads(_skopeo(source, architecture, "inspect", "--config", "--raw", source))
    diffs = tuple(_sha(one) for one in _list(_dict(_dict(config).get("rootfs")), "diff_ids"))
    if not 0 < len(diffs) <= LAYERS_MOST:
        raise StoreError(f"{source} has {len(diffs)} layers", hint="is it an image of a system?")
    return f"sha256:{_sha(_dict(told).get('Digest'))}", diffs


def copy(source: str, directory: str, architecture: str) -> None:
    """Brings an image into the OCI layout ``directory`` as ``image``; layers that are there are not fetched again."""
    _skopeo(source, architecture, "copy", "--quiet", source, f"oci:{directory}:image")


def _skopeo(source: str, architecture: str, *words: str) -> bytes:
    name, variant = platform(architecture)
    argv = [
        "skopeo",
        f"--override-arch={name}",
        "--override-os=linux",
        *([f"--override-variant={variant}"] if variant else []),
    ]
    argv.append(words[0])
    if source.startswith("docker://") and _is_loopback(source.removeprefix("docker://")):
        argv.append("--src-tls-verify=false" if words[0] == "copy" else "--tls-verify=false")
    done = runner.run(runner.Command(argv=(*argv, *words[1:]), private=True, timeout=3600))
    if done.status:
        text = done.output[-2000:].decode(errors="replace").strip()
        if any(word in text for word in ("dial tcp", "no such host", "i/o timeout", "connection re")):
            raise NetworkDown(
                f"{source} cannot be reached", details=text, hint="is the network up? is the registry right?"
            )
        hint = "is it the right name and tag? a private one needs `skopeo login` as root"
        raise StoreError(f"skopeo cannot get {source}", details=text, hint=hint)
    return done.output


def _is_loopback(reference: str) -> bool:
    """Registries on this computer are spoken to without TLS, as Docker does."""
    host = reference.partition("/")[0]
    name = host.rpartition(":")[0] or host
    return name == "localhost" or name.startswith("127.")


def _manifest(directory: str, descriptor: object, architecture: str) -> dict[str, Any]:
    found = _blob(directory, descriptor)
    for _ in range(3):  # an index may be in an index
        if found.get("mediaType") not in _INDEX and "manifests" not in found:
            return found
        name, variant = platform(architecture)
        fits = [one for one in _list(found, "manifests") if _fits(_dict(one).get("platform"), name, variant)]
        if not fits:
            raise StoreError(f"the image in {directory} is not made for {architecture}", hint="use another image")
        found = _blob(directory, fits[0])
    raise StoreError(f"the image in {directory} is an index of indexes", hint="get it again")


def _fits(found: object, name: str, variant: str) -> bool:
    told = _dict(found)
    return (
        told.get("os") == "linux"
        and told.get("architecture") == name
        and told.get("variant", "") in ("", variant, "v8")
    )


def _blob(directory: str, descriptor: object) -> dict[str, Any]:
    return _json(
        _path(directory, _sha(_dict(descriptor).get("digest"))), directory, sha256=_sha(_dict(descriptor).get("digest"))
    )


def _path(directory: str, sha256: str) -> str:
    return os.path.join(directory, "blobs", "sha256", sha256)


def _json(path: str, directory: str, *, sha256: str = "") -> dict[str, Any]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:
            data = stream.read(JSON_MOST)
    except OSError as e:
        hint = "is it the directory with `oci-layout` and `index.json`?"
        raise StoreError(f"{path}: {e.strerror}", hint=hint) from None
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(f"{path} is damaged: it has not the digest by which it is called", hint="get the image again")
    try:
        return _dict(json.loads(data))
    except (ValueError, RecursionError):
        raise StoreError(
            f"the image in {directory} is damaged: {os.path.basename(path)}", hint="get it again"
        ) from None


def _tag(descriptor: object) -> str:
    name = _dict(_dict(descriptor).get("annotations")).get("org.opencontainers.image.ref.name", "")
    return name if isinstance(name, str) else ""


def _sha(text: object) -> str:
    algorithm, _, value = text.partition(":") if isinstance(text, str) else ("", "", "")
    if algorithm != "sha256" or len(value) != 64 or value.strip("0123456789abcdef"):
        raise StoreError("the image is damaged: a digest is missing or is no SHA-256", hint="get it again")
    return value


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(table: dict[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    return value if isinstance(value, list) else []
