"""What Roost would run, as text: for each release of each distribution, and for what each family does above a base.

`make golden` writes it to tests/golden; a change of a recipe or of a family is reviewed as the difference there. It is the
same on every host: an amd64 one without an apt or dnf of its own, on which keyrings are where their packages put them.

A family's file has its scripts in full. In a distribution's, architectures that differ in nothing but their names are one,
with {architecture} for the name; of others, what is different. Longer scripts are only counted.
"""

from __future__ import annotations

import difflib
import io
import os
import shutil
import sys
import tarfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from msgspec import structs

from roost import commands, facts
from roost.definition.model import Base, Contents, FileContent, RepositoryKeys, Script, User
from roost.definition.package_sets import replaced, sets_of
from roost.distro import family, recipe
from roost.distro.recipe import FAMILIES, RECIPES
from roost.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roost.commands import Command
    from roost.distro.recipe import Recipe

PLACE = Path(__file__).parents[1] / "golden"
NOWHERE = "/NOWHERE"
LINES = 7
"""A longer script is in the family's file alone."""
KEY = b"""\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawGbDxYJKwYBBAHaRw8BAQdAFOTMYA8Rr4b1zov0nqCF4FdPsmRLYXUIvT2s
/+GiJ6u0IWdvbGRlbiBwbGFucyA8Z29sZGVuQGV4YW1wbGUub3JnPoiQBBMWCAA4
FiEEsaeGZYhjfArHOZJL3OtCsSEHf5MFAmsBmw8CGwMFCwkIBwIGFQoJCAsCBBYC
AwECHgECF4AACgkQ3OtCsSEHf5PWfAEAjAqT2uacs/hfVOERXqmFmUsjzrTtENp6
cWefTApUO0kA/2fvsQ4GhI9U9szJTkppTGGS5dXtYDrYswumco7xbwQM
=hkIt
-----END PGP PUBLIC KEY BLOCK-----
"""
CONTENTS = Contents(
    name="golden",
    packages=("git", "make"),
    remove_packages=("nano",),
    users=(User(name="sai", uid=883, groups=["dialout"], sudo="nopasswd"),),
    files=(FileContent(path="/etc/motd", content=b"built by roost\n", mode=0o644, owner="root", group="root"),),
    scripts=(Script(name="script 1", content=b"#!/bin/sh\nldconfig\n"),),
    repositories=(RepositoryKeys(name="other", url="https://repo.example.org/r", suites=("here",), components=("main",), key=KEY),),
    services=("ssh",),
    locale="de_DE.UTF-8",
    timezone="Europe/Berlin",
    root_password="",
    init=True,
)  # fmt: skip

# of a key that was thrown away
APK_KEY = b"""\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA3CuYZIuiuqXapEGJvANS
LOOdB+eEg+Mnr9jDbJ6lxFHEITDFvKgDCTvlI6Qk19SL1av8+rAHo190TVnya5Sp
7f1eTOzmoGQ6KJ67BCb8HL7oLaogCoXddigkdgO/rDBzIrtwvJdZa11k0z6CnBNf
q+TNjRYrhnj1Gx/USLSwcOF/sdZovSWGGSKqA7UPglwUYxa4mHXks6EAuIxQGz9x
h42T/XG4uWPHaSLLHTPZ16FyH6BYD6CjUQjbUdcaz7Qh6fqsYc4O8LNHaIq3c77B
zDAwlSQDVPUPMXZYwH+HiQlADeHHpdX7pQeZe8tcrMT8aE+W280tRog/eojvfN5W
+QIDAQAB
-----END PUBLIC KEY-----
"""


def names() -> list[str]:
    """The files, without their ending."""
    return [*RECIPES, *(f"family-{name}" for name in sorted(FAMILIES))]


def text(name: str) -> str:
    """What a file should have in it."""
    with mock.patch("os.uname", return_value=SimpleNamespace(machine="x86_64")):
        made = _family(name.removeprefix("family-")) if name.startswith("family-") else _distribution(recipe(name))
        return "".join(f"{line}".rstrip() + "\n" for line in made).replace(NOWHERE, "")


@cache
def _host(name: str) -> Any:
    host = family(name).read_host(root=NOWHERE)
    return structs.replace(host, only_shown=True) if hasattr(host, "only_shown") else host


def _distribution(one: Recipe) -> Iterator[str]:
    known = facts.of_distribution(one.name)
    assert known is not None
    for number, release in enumerate(known.releases):
        data = one.releases[release]
        yield from ("", "") if number else ()
        yield f"=== {one.name} {release}"
        yield from (f"note: {note}" for note in data.notes)
        groups: dict[str, list[str]] = {}
        for architecture in data.architectures or one.architectures:
            own = one.architecture_names.get(architecture, architecture)
            body = "\n".join(_base(one, release, architecture))
            groups.setdefault(_without(body, {architecture, own}), []).append(architecture)
        first = next(iter(groups))
        for body, architectures in groups.items():
            if body == first:
                yield from ("", f"--- {', '.join(architectures)}", body)
            else:
                yield from ("", f"--- {', '.join(architectures)}: what is different", *_difference(first, body))
        yield from ("", "--- package sets")
        for architecture in ("amd64", ""):
            sets = sets_of(one.name, known, release, architecture)
            for name in sorted(sets.sets):
                found = " ".join(replaced([f"@{name}"], sets).packages)
                other = " ".join(replaced([f"@{name}"], structs.replace(sets, architecture="amd64")).packages)
                if architecture or found != other:
                    yield f"@{name}{'' if architecture else ' elsewhere'}: {found or 'nothing'}"


def _difference(one: str, other: str) -> Iterator[str]:
    for line in difflib.unified_diff(one.split("\n"), other.split("\n"), n=0, lineterm=""):
        if line[:3] not in ("---", "+++", "@@ "):
            yield line


def _without(body: str, words: set[str]) -> str:
    for word in sorted(words, key=len, reverse=True):
        body = body.replace(word, "{architecture}")
    return body


def _base(one: Recipe, release: str, architecture: str) -> Iterator[str]:
    for bootstrap in one.bootstraps:
        base = Base(
            distribution=one.name, release=release, architecture=architecture, bootstrap=bootstrap, variant=one.variant,
            components=tuple(one.components),
        )  # fmt: skip
        yield from (f"from {line}" for line in commands.mirrors(base, one))
        yield from _commands(
            lambda base=base: commands.of_base(base, one, family(one.family), _host(one.family)), LINES
        )


def _family(name: str) -> Iterator[str]:
    one = next((one for one in map(recipe, RECIPES) if one.family == name), None)
    yield f"=== {name}: what is made above a base"
    other = structs.replace(CONTENTS.repositories[0], key=APK_KEY if name == "apk" else KEY)
    contents = structs.replace(CONTENTS, repositories=(other,))
    yield from _commands(lambda: commands.of_contents(contents, family(name)), None)
    yield ""
    yield "--- without an init"
    yield from _commands(lambda: commands.of_contents(Contents(name="", packages=("git",)), family(name)), None)
    yield ""
    yield "--- upgraded"
    yield from _commands(lambda: commands.of_contents(Contents(name="", upgrade=True), family(name)), None)
    if one is not None:
        release = facts.of_distribution(one.name).releases[0]  # type: ignore[union-attr]
        yield from ("", f"=== {name}: scripts of a base ({one.name} {release})")
        yield from _base_scripts(one, release)


def _base_scripts(one: Recipe, release: str) -> Iterator[str]:
    for bootstrap in one.bootstraps:
        base = Base(
            distribution=one.name, release=release, architecture="amd64", bootstrap=bootstrap, variant=one.variant,
            components=tuple(one.components),
        )  # fmt: skip
        try:
            made = commands.of_base(base, one, family(one.family), _host(one.family))
        except Error as e:
            yield f"{type(e).__name__}: {e.brief}"
            continue
        for command in made:
            for word in command.argv:
                if word.count("\n") > LINES:
                    yield from ("", f"--- {command.step}", *_indented(word, "    "))
            for name, content in sorted(command.files.items()):
                if content.startswith(b"#!"):
                    yield from ("", f"--- {command.step}: {name}", *_indented(content.decode(), "    "))


def _commands(made: Any, most: int | None) -> Iterator[str]:
    try:
        found: tuple[Command, ...] = made()
    except Error as e:
        yield f"{type(e).__name__}: {e.brief}"
        return
    for command in found:
        yield from ("", f"{command.step}{'' if command.host else ' (inside)'}")
        for word in command.argv:
            yield from _word(word, most)
        yield from (f"  environment {name}={value}" for name, value in sorted(command.env.items()))
        for name, content in sorted(command.files.items()):
            yield from (f"  file {name}", *_content(content))
        if command.stdin:
            yield from _stdin(command.stdin)


def _word(word: str, most: int | None) -> Iterator[str]:
    lines = word.count("\n")
    if not lines:
        yield f"  {word or repr(word)}"
    elif most is not None and lines > most:
        yield f"  <a script of {lines} lines>"
    else:
        yield from _indented(word, "  | ")


def _indented(text: str, by: str) -> list[str]:
    return [f"{by}{line}" for line in text.rstrip("\n").split("\n")]


def _stdin(content: bytes) -> Iterator[str]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                stream = archive.extractfile(member)
                yield f"  file /{member.name.lstrip('/')}"
                yield from _content(stream.read() if stream else b"")
    except tarfile.TarError:
        yield "  input"
        yield from _content(content)


def _content(content: bytes) -> list[str]:
    if content.count(b"-----BEGIN PGP") or b"\0" in content:
        return ["    | (keys)"]
    if content.startswith(b"#!") and content.count(b"\n") > LINES:
        return [f"    <a script of {content.count(bytes([10]))} lines>"]
    return _indented(content.decode(), "    | ") if content.strip() else ["    | (empty)"]


def main() -> int:
    """Writes every file anew, and says which differ."""
    before = {path.name: path.read_text() for path in PLACE.glob("*.txt")}
    shutil.rmtree(PLACE, ignore_errors=True)
    os.makedirs(PLACE)
    for name in names():
        (PLACE / f"{name}.txt").write_text(text(name))
        if before.get(f"{name}.txt") != text(name):
            print(f"{name}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
