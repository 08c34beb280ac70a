"""Sources that are built while a layer is made: from a git repository at one commit, a tar file, or a directory."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import stat
import tarfile
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.definition import checks
from roost.definition.parts import SOURCE_MOST, read_regular

if TYPE_CHECKING:
    from roost.definition.mistakes import Place
    from roost.definition.model import ScriptSource

_WORK = "/var/tmp/roost-source"  # noqa: S108  # inside, where /tmp is memory
_PLACE = "/usr/local/src/roost"


class Source(Struct, frozen=True, kw_only=True):
    """``content`` is a tar file, or empty when it is fetched from ``git`` at ``revision``. ``build`` empty: the usual way."""

    git: str = ""
    revision: str = ""
    content: bytes = b""
    cmake: tuple[str, ...] = ()
    build: bytes = b""


def of_text(place: Place, text: str) -> dict[str, str] | None:
    """ "git:URL#COMMIT", "tar:FILE" or "dir:DIRECTORY" as keys; None when it is none of them, which is told."""
    kind, _, rest = text.partition(":")
    if kind == "git":
        url, _, revision = rest.rpartition("#")
        return {"git": url or rest, "revision": revision if url else ""}
    if kind in ("tar", "dir") and rest:
        return {"tar" if kind == "tar" else "directory": rest}
    place.wrong(f'not a source {text!r}: "git:URL#COMMIT", "tar:FILE" or "dir:DIRECTORY" (or a table)')
    return None


def read(
    place: Place, *, git: str = "", revision: str = "", tar: str = "", directory: str = "", cmake: list[str] | None = None,
    build: str | ScriptSource | None = None,
) -> Source:  # fmt: skip
    """Checks what is written of a source, and reads it; paths are relative to the definition."""
    given = [key for key, value in (("git", git), ("tar", tar), ("directory", directory)) if value]
    content = b""
    if len(given) != 1:
        both = f"{' and '.join(given)} are both given" if given else "nothing says where it comes from"
        place.wrong(f"{both}: write exactly one of git, tar and directory")
    elif git:
        place.wrong(_address(git))
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", revision):
            place.wrong(
                f"revision {revision!r} is no commit: the 40 digits that `git rev-parse` prints, so that it stays the same"
            )
    else:
        if revision:
            place.at("revision").wrong("only a git repository has revisions")
        content = _content(place, tar or directory, whole=not tar)
    script = build if isinstance(build, str) else "" if build is None else _text(place.at("build"), build.source)
    if build is not None and not script.strip():
        place.at("build").wrong("the script is empty")
    place.at("build").wrong(checks.nul(script))
    for index, option in enumerate(cmake or ()):
        place.at("cmake", index).wrong("" if option.startswith("-") else f"not an option of cmake: {option!r}")
    return Source(git=git, revision=revision, content=content, cmake=tuple(cmake or ()), build=script.encode())


def _address(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https", "git"):
        return f"not a repository {url!r}: an https://, http:// or git:// address"
    if "@" in rest.partition("/")[0]:
        return "no user or password here: they would be seen while the layer is made"
    good = rest and not any(c.isspace() or not c.isprintable() or c in "\"'<>\\#" for c in rest)
    return "" if good else f"not a repository {url!r}: it has a character that no address has"


def _text(place: Place, path: str) -> str:
    return _file(place, os.path.join(place.document.directory, path), path).decode(errors="surrogateescape")


def _file(place: Place, whole: str, shown: str) -> bytes:
    try:
        place.document.inputs.add(whole)
        return read_regular(whole, most=SOURCE_MOST)
    except OSError as error:
        place.wrong(f"{shown}: {error.strerror or error}")
        return b"?"


def _content(place: Place, path: str, *, whole: bool) -> bytes:
    absolute = os.path.join(place.document.directory, path)
    if not whole:
        return _file(place, absolute, path)
    try:
        return packed(place, absolute)
    except OSError as error:
        place.wrong(f"{path}: {error.strerror or error}")
    except ValueError as error:
        place.wrong(f"{path}: {error}")
    return b"?"


def packed(place: Place, directory: str) -> bytes:
    """A directory as a tar file below ``source/``: the same for the same content, without ``.git``.

    Raises OSError, and ValueError for what is larger than SOURCE_MOST or no source: a device, a pipe.
    """
    stream, total = io.BytesIO(), 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        pending = [""]
        while pending:
            name = pending.pop()
            path = os.path.join(directory, name) if name else directory
            about = os.stat(path, follow_symlinks=not name)
            member = tarfile.TarInfo(f"source/{name}" if name else "source")
            place.document.inputs.add(path)
            if not name and not stat.S_ISDIR(about.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if stat.S_ISDIR(about.st_mode):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
                inner = sorted((entry for entry in os.listdir(path) if entry != ".git"), reverse=True)
                pending += [f"{name}/{entry}" if name else entry for entry in inner]
            elif stat.S_ISLNK(about.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
                place.document.inputs.discard(path)  # its stamp is that of what it leads to, which may not be there
                archive.addfile(member)
            elif stat.S_ISREG(about.st_mode):
                total += about.st_size
                if total > SOURCE_MOST:
                    raise ValueError(f"larger than {SOURCE_MOST >> 20} MiB: name it as a git repository")
                content = read_regular(path, most=SOURCE_MOST)
                member.size, member.mode = len(content), 0o755 if about.st_mode & 0o111 else 0o644
                archive.addfile(member, io.BytesIO(content))
            else:
                raise ValueError(f"{name} is no file, directory or link")
    return stream.getvalue()


def place_of(name: str) -> str:
    """Where a source's content lies in the layer until its script has run."""
    return f"{_PLACE}/{name}.tar"


def script(name: str, source: Source, build: bytes, after: bytes = b"") -> bytes:
    """A script that gets the source, runs ``build`` in it, then ``after``, and leaves nothing of the source.

    A commit is fetched alone where the server gives it; older servers give all branches and tags.
    """
    if source.content:
        archive = place_of(name)
        fetch = f"tar -xf {archive}\nrm -f {archive}\nrmdir {_PLACE} 2>/dev/null || true\n"
    else:
        url, revision = shlex.quote(source.git), shlex.quote(source.revision)
        fetch = f"""mkdir source
cd source
git init -q
git fetch -q --depth 1 {url} {revision} 2>/dev/null ||
    git fetch -q {url} '+refs/heads/*:refs/roost/heads/*' '+refs/tags/*:refs/roost/tags/*'
git checkout -q {revision}
test "$(git rev-parse HEAD)" = {revision}
git submodule -q update --init --recursive
cd ..
"""
    if not build.startswith(b"#!"):
        build = b"#!/bin/sh\nset -eu\n" + build
    into = 'set -- *\nif [ $# = 1 ] && [ -d "$1" ]; then cd "$1"; fi\n'
    head = f"#!/bin/sh\nset -eu\nrm -rf {_WORK}\nmkdir -p {_WORK}\ncd {_WORK}\n{fetch}{into}cat > {_WORK}.build <<'END-OF-{name}'\n"
    tail = f"\nEND-OF-{name}\nchmod 700 {_WORK}.build\n{_WORK}.build\ncd /\n"
    return head.encode() + build.rstrip(b"\n") + tail.encode() + after + f"rm -rf {_WORK} {_WORK}.build\n".encode()
