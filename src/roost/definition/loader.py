"""From a file to machines: read it, tell every mistake of it at once, resolve it."""

from __future__ import annotations

import os
import re
import time
import tomllib
from typing import TYPE_CHECKING, Any

from msgspec import Struct, ValidationError, convert

from roost.definition.checks import profile_name
from roost.definition.mistakes import Document, Place, report
from roost.definition.model import Definition, Machine, Pool, Profile, Resolved
from roost.definition.parts import read_regular
from roost.definition.resolve import resolve
from roost.definition.together import pool
from roost.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.definition.model import DistributionFacts

    Own = Callable[[str, str], DistributionFacts]
    """Of a path, and how it is called in messages. Raises DefinitionError with a line for every mistake."""

FILE = "roost.toml"
RECIPES = "recipes"
"""The directory of a definition's own recipes, beside it."""
MACHINES = "/etc/roost/machines"
TEXT_MOST = 1 << 20
"""Bytes of a definition: more is another kind of file."""
DEPTH_MOST = 100
"""Parts of a key. tomllib needs the square of their number: a file of one key would keep it busy for hours."""
PARTS_MOST = 5000
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""


class Loaded(Struct, frozen=True, kw_only=True):
    """A definition without a mistake.

    ``path`` is absolute: the file, or the directory when its files were read as one. ``definition`` is as written (of
    a directory: every machine and profile, without the defaults). ``machines`` are in the order of the file. ``inputs``
    are all the files that were read, ``read`` is when (nanoseconds since the epoch, before the first). ``pool`` and
    ``pool6`` are where private addresses come from, None when no file says so.
    """

    path: str
    definition: Definition
    machines: dict[str, Resolved]
    inputs: tuple[str, ...] = ()
    read: int = 0
    pool: str | None = None
    pool6: str | None = None


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    facts: Callable[[str], DistributionFacts | None],
    known: Sequence[str],
    architecture: str,
    machines: str = MACHINES,
    own: Own | None = None,
) -> Loaded:
    """The machines of a definition.

    ``path`` None: ``./roost.toml``, else every ``*.toml`` in the directory ``machines`` as one definition: machines and
    profiles share one space of names, ``[defaults]`` are for the machines of their own file.
    ``facts`` gives what is known of a distribution, None when it is not one; ``known`` are the names to suggest. ``own``
    reads a recipe that came with the definition, ``recipes/NAME.toml`` in its directory.
    ``architecture`` is the host's, by Debian's name.

    Raises DefinitionError with a line for every mistake, or when there is no definition.
    """
    began = time.time_ns()
    names = [os.fspath(path)] if path is not None else find(machines=machines)
    together = path is None and names != [FILE]
    documents = [_document(name) for name in names]
    shown = machines if together else names[0]
    distributions = _Distributions(facts, known, own)
    resolved = resolve(documents, facts=distributions.facts, known=distributions.names, architecture=architecture)
    if not resolved and not any(("machines",) in document.skipped for document in documents):
        Place(documents[0], ("machines",)).wrong("there is no machine, add a table [machines.NAME]")
    addresses, addresses6 = pool(documents)
    report(documents, shown)
    inputs = {os.path.abspath(name) for name in names}.union(*(document.inputs for document in documents))
    return Loaded(
        path=os.path.abspath(shown),
        definition=_definition(documents),
        machines=resolved,
        inputs=tuple(sorted(inputs)),
        read=began,
        pool=addresses,
        pool6=addresses6,
    )


class _Distributions:
    """Shipped and own recipes, each asked for once."""

    def __init__(
        self, shipped: Callable[[str], DistributionFacts | None], known: Sequence[str], own: Own | None
    ) -> None:
        self._shipped = shipped
        self._known = known
        self._own = own
        self._found: dict[tuple[str, str], DistributionFacts | None] = {}

    def facts(self, document: Document, name: str) -> DistributionFacts | None:
        key = (document.directory, name)
        if key not in self._found:
            self._found[key] = self._read(document, name)
        found = self._found[key]
        if found and found.own:
            document.inputs.update((found.own.path, *(path for path, _ in found.own.keyrings.values())))
        return found

    def names(self, document: Document) -> Sequence[str]:
        """Those to suggest."""
        try:
            there = sorted(os.listdir(os.path.join(document.directory, RECIPES)))
        except OSError:
            there = []
        return [*self._known, *(one.removesuffix(".toml") for one in there if one.endswith(".toml"))]

    def _read(self, document: Document, name: str) -> DistributionFacts | None:
        found = self._shipped(name)
        if self._own is None or profile_name(name):
            return found
        path = os.path.join(document.directory, RECIPES, f"{name}.toml")
        if not os.path.lexists(path):
            return found
        shown = os.path.join(os.path.dirname(document.name), RECIPES, f"{name}.toml")
        if found is not None:
            hint = f'give yours another name, and write extends = "{name}" in it'
            raise DefinitionError(f"{shown}: '{name}' is the name of a recipe of Roost's", hint=hint)
        return self._own(path, shown)


def find(*, machines: str = MACHINES) -> list[str]:
    """The files that make up the definition when none is named: those of one place only.

    Raises DefinitionError when there is none.
    """
    if os.path.lexists(FILE):
        return [FILE]
    try:
        names = sorted(name for name in os.listdir(machines) if name.endswith(".toml") and not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise DefinitionError(f"{machines}: {error.strerror}", hint="name a definition with -f FILE") from None
    if names:
        return [os.path.join(machines, name) for name in names]
    raise DefinitionError(
        "there is no definition here",
        details=f"looked for ./{FILE} and {machines}/*.toml",
        hint=f"`roost init` writes a {FILE} to start from; -f FILE names one that is elsewhere",
    )


def read_table(name: str) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and what it says. Raises DefinitionError with the line of what is no TOML."""
    text = _text(name)
    if line := _too_deep(text):
        mistake = f"{name}:{line}: a key of more than {DEPTH_MOST} parts"
        raise DefinitionError(f"{name}: 1 mistake", details=mistake, hint="is this a definition?")
    try:
        return text, tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of more digits than Python takes
        raise _syntax(name, text, error) from None


def _document(name: str) -> Document:
    text, table = read_table(name)
    directory = os.path.dirname(os.path.abspath(name))
    try:
        definition = convert(table, Definition)
    except ValidationError as error:
        return _broken(name, directory, text, table, str(error))
    return Document(name=name, directory=directory, text=text, definition=definition)


def _too_deep(text: str) -> int:
    """The line of a key of too many parts; 0 for none. What only looks like one in a string has no end of a key.

    A key that never ends is found at PARTS_MOST, so that tomllib, which would say so, has not too much to do.
    """
    if text.count(".") < DEPTH_MOST:
        return 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") >= DEPTH_MOST:
            start, part = r"(?:^|[\[{,])[ \t]*+", rf"(?>{_PART}\.[ \t]*+)"
            ended = rf"{start}{part}{{{DEPTH_MOST},}}+{_PART}[=\]]"
            if re.search(ended, line) or re.search(f"{start}{part}{{{PARTS_MOST}}}", line):
                return number
    return 0


def _text(name: str) -> str:
    if "\0" in name:
        raise DefinitionError(f"not the name of a file: {name!r}", hint="name another file")
    try:
        raw = read_regular(name, most=TEXT_MOST)
    except FileNotFoundError:
        raise DefinitionError(
            f"{name}: No such file or directory", hint=f"`roost init` writes a {FILE} to start from"
        ) from None
    except OSError as error:
        hint = f"name the file, for example {os.path.join(name, FILE)}" if os.path.isdir(name) else "name another file"
        raise DefinitionError(f"{name}: {error.strerror or error}", hint=hint) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
        raise DefinitionError(
            f"{name}: 1 mistake", details=f"{name}:{line}: {byte}", hint="save the file as UTF-8"
        ) from None


def _syntax(name: str, text: str, error: Exception) -> DefinitionError:
    if isinstance(error, RecursionError):
        return DefinitionError(f"{name}: nested too deeply", hint="is this a definition?")
    message, _, where = str(error).rpartition(" (at ")
    number = where.removeprefix("line ").partition(",")[0]
    last = str(text.rstrip().count("\n") + 1)
    details = f"{name}:{number if number.isdecimal() else last}: {message or error}"
    return DefinitionError(f"{name}: 1 mistake", details=details, hint="this is not TOML: see https://toml.io")


def _broken(name: str, directory: str, text: str, table: dict[str, Any], message: str) -> Document:
    """A document of what is right in a table that has unknown keys or wrong types."""
    from roost.definition.shape import clean  # only when there is a mistake

    cleaned = clean(table)
    if not cleaned.mistakes:  # the walker and msgspec do not agree: tell at least what msgspec found
        raise DefinitionError(f"{name}: {message}", hint="`roost schema` describes every key")
    return Document(
        name=name,
        directory=directory,
        text=text,
        definition=convert(cleaned.table, Definition),
        skipped=cleaned.skipped,
        kept=cleaned.kept,
        mistakes=cleaned.mistakes,
    )


def _definition(documents: Sequence[Document]) -> Definition:
    if len(documents) == 1:
        return documents[0].definition
    machines: dict[str, Machine] = {}
    profiles: dict[str, Profile] = {}
    for document in documents:
        machines |= document.definition.machines
        profiles |= document.definition.profiles
    addresses, addresses6 = pool(documents)
    return Definition(network=Pool(pool=addresses, pool6=addresses6), machines=machines, profiles=profiles)
