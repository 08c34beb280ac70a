"""The verbs about what is in the store: session, layer, gc."""

from __future__ import annotations

import difflib
import os
import sys
import time
from typing import TYPE_CHECKING

import roost
from roost.cli.common import definition_if_any, print_json, print_table, say
from roost.cli.table import Painted, age, clean, size
from roost.errors import StoreError

if TYPE_CHECKING:
    import argparse

    from roost.records import LayerRecord


def _manager(options: argparse.Namespace) -> roost.Manager:
    manager = roost.Manager(definition_if_any(options), state=options.state)
    for cleared in manager.prepare():
        say(f"cleared what a killed process left: {cleared}")
    return manager


def session_list(options: argparse.Namespace) -> int:
    """``roost session list``."""
    store = _manager(options).store
    found = store.sessions()
    if options.json:
        print_json(
            [
                {
                    "id": s.id,
                    "machine": s.machine,
                    "created": s.created,
                    "kept": s.kept,
                    "in_use": used,
                    "state": s.state,
                    "reason": s.reason,
                }
                for s, used in found
            ]
        )
        return 0
    rows = []
    for record, used in found:
        state = "in use" if used else "kept" if record.kept else "left over"
        rows.append((record.id, record.machine, state, age(time.time() - record.created), record.reason))
    print_table(
        ["session", "machine", "state", "age", "why"], rows, empty="no sessions: `roost run --keep …` keeps one"
    )
    return 0


def session_shell(options: argparse.Namespace) -> int:
    """``roost session shell``."""
    from roost.cli.running import SHELL
    from roost.cli.streams import pass_on, restored_terminal, standard_input
    from roost.cli.summary import note
    from roost.cli.table import style_of
    from roost.results import exit_status

    manager = _manager(options)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()

    with manager.open_session(options.session) as session, restored_terminal():
        what = roost.Run(
            command=options.command or SHELL, user=options.user or session.record.user, limits={"time": None}
        )
        result = session.run(what, terminal=terminal, on_output=pass_on, stdin=standard_input())
    if result.error or result.warnings or result.limit:
        say(note(result, style=style_of(sys.stderr, os.environ)).rstrip("\n"))
    return exit_status([result])


def session_diff(options: argparse.Namespace) -> int:
    """``roost session diff``."""
    manager = _manager(options)
    with manager.look_at(options.session) as session:
        if options.content:
            return _content(session, options.content)
        found = list(session.changes())
    if options.json:
        print_json(found)
        return 0
    marks = {"added": ("+", "good"), "changed": ("~", "warn"), "removed": ("-", "bad"), "replaced": ("!", "warn")}
    rows = [
        (Painted(f"{marks[c.kind][0]} {c.kind}", marks[c.kind][1]), c.path, size(c.size) if c.size else "")
        for c in found
    ]
    print_table(["change", "path", "size"], rows, empty="nothing was changed", right=("size",), fixed=("change",))
    return 0


def _content(session: roost.Session, path: str) -> int:
    before, after = session.read(path)
    if before is None and after is None:
        raise StoreError(
            f"{path} is no file that can be read, neither below nor in the session", hint="see `roost session diff`"
        )
    if b"\0" in (before or b"") or b"\0" in (after or b""):
        say(f"{clean(path)} is binary: {len(before or b'')} bytes before, {len(after or b'')} after")
        return 0
    old, new = ((text or b"").decode(errors="replace").splitlines(keepends=True) for text in (before, after))
    watched = sys.stdout.isatty()  # what a file holds may not act on the terminal; a program gets it as it is
    for line in difflib.unified_diff(old, new, fromfile=clean(f"layers{path}"), tofile=clean(f"{session.id}{path}")):
        sys.stdout.write((clean(line.rstrip("\n"), keep="\t") if watched else line.rstrip("\n")) + "\n")
    return 0


def session_keep(options: argparse.Namespace) -> int:
    """``roost session keep``: for a session whose command is still running."""
    store = _manager(options).store
    record = store.session(options.session)
    if record.kept:
        say(f"session {record.id} is kept already")
        return 0
    store.ask_to_keep(record.id)
    say(f"session {record.id} will be kept when its command ends")
    return 0


def session_commit(options: argparse.Namespace) -> int:
    """``roost session commit``."""
    layer = _manager(options).commit(options.session, options.name)
    if options.json:
        print_json({"name": options.name, "digest": layer.digest, "size": layer.size, "files": layer.files})
    else:
        say(
            f'layer {options.name} is {layer.digest[:12]}, {size(layer.size)}: use it with `from = "layer:{options.name}"`'
        )
    return 0


def adopt(options: argparse.Namespace) -> int:
    """``roost adopt``."""
    found = _manager(options).adopt(options.directory, options.name, family=options.family)
    if options.json:
        layers = [
            {"digest": one.digest, "name": one.name, "size": one.size, "files": one.files} for one in found.layers
        ]
        print_json({"name": found.name, "family": found.family, "layers": layers})
        return 0
    for layer in found.layers:
        say(f"{layer.name} is {layer.digest[:12]}, {size(layer.size)}")
    say(f'family {found.family}: use it with `from = "layer:{found.name}"`')
    return 0


def session_remove(options: argparse.Namespace) -> int:
    """``roost session remove``."""
    manager = _manager(options)
    for name in options.session:
        manager.remove_session(name)
        say(f"removed session {name}")
    return 0


def layer_list(options: argparse.Namespace) -> int:
    """``roost layer list``."""
    store = _manager(options).store
    layers = store.layers()
    if options.json:
        print_json([_summary(layer) for layer in layers])
        return 0
    names = {layer.digest: layer.name.removeprefix("base ") for layer in layers}
    rows = [
        (
            x.digest[:12],
            x.name,
            names.get(x.parents[0], "") if x.parents else "",
            size(x.size),
            x.files,
            age(time.time() - x.created),
        )
        for x in layers
    ]
    print_table(
        ["layer", "name", "on", "size", "files", "age"],
        rows,
        empty="no layers: `roost build` makes them",
        right=("size", "age"),
    )
    return 0


def _summary(layer: LayerRecord) -> dict[str, object]:
    return {
        "digest": layer.digest, "name": layer.name, "kind": layer.kind, "parents": list(layer.parents), "size": layer.size,
        "files": layer.files, "created": layer.created, "seconds": layer.seconds,
    }  # fmt: skip


def layer_show(options: argparse.Namespace) -> int:
    """``roost layer show``."""
    manager = _manager(options)
    layer = manager.find_layer(options.layer)
    if options.spdx:
        print_json(manager.spdx(layer))
        return 0
    packages = manager.packages(layer)
    installed = manager.installed(layer)
    if options.json:
        more = {"packages": packages, "installed": installed}
        print_json({**_summary(layer), "steps": layer.facts, "roost": layer.roost, **more})
        return 0
    import json

    facts = [
        ("digest", layer.digest),
        ("name", layer.name),
        ("stands on", " ".join(p[:12] for p in layer.parents) or "nothing"),
    ]
    old = age(time.time() - layer.created)
    facts += [
        ("size", f"{size(layer.size)} in {layer.files} files"),
        ("made", f"{'just now' if old == 'now' else f'{old} ago'}, in {layer.seconds:.1f} s"),
    ]
    facts += [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in layer.facts.items()]
    for key, value in facts:
        print(f"{key + ':':16} {clean(value)}")
    print()
    names = {one.digest: one.name for digest in layer.parents for one in [manager.store.layer(digest)]}
    names[layer.digest] = layer.name
    rows = [(one.name, one.version, one.architecture, names[one.layer]) for one in installed]
    print_table(["package", "version", "architecture", "layer"], rows, empty="no packages are known")
    return 0


def layer_verify(options: argparse.Namespace) -> int:
    """``roost layer verify``: 0 when every layer is whole."""
    from roost.cli.common import watched
    from roost.verify import remedy

    began = time.monotonic()
    with watched(options) as (watch, _):
        manager = roost.Manager(definition_if_any(options), state=options.state, watch=watch)
        found = manager.verify(options.layer, jobs=options.jobs)
    bad = [item for item in found if item.state != "whole"]
    if options.json:
        print_json({"layers": found, "seconds": round(time.monotonic() - began, 3)})
        return 1 if bad else 0
    tones = {"whole": "good", "damaged": "bad", "no-manifest": "warn"}
    rows = [
        (x.digest[:12], x.name, Painted(x.state.replace("-", " "), tones[x.state]), x.files or "", size(x.size) if x.size else "")
        for x in found
    ]  # fmt: skip
    print_table(["layer", "name", "state", "files", "size"], rows, empty="no layers: `roost build` makes them",
        right=("files", "size"), fixed=("layer", "state"))  # fmt: skip
    for item in bad:
        print(f"\n{item.digest[:12]} {clean(item.name)}: {clean(item.reason) or f'{item.count} differences'}")
        for each in item.differences:
            print(f"  {each.kind:10} {clean(each.path)}{each.what and f': {clean(each.what)}'}")
        if item.count > len(item.differences):
            print(f"  and {item.count - len(item.differences)} more")
    sys.stdout.flush()
    for line in remedy(manager.store, bad).splitlines() if bad else ():
        say(f"hint: {line}")
    return 1 if bad else 0


def layer_check(options: argparse.Namespace) -> int:
    """``roost layer check``: 0 when nothing is missing, to boot or, with ``--run``, to run a command."""
    from roost.errors import of_os
    from roost.trees import problems

    manager = roost.Manager(definition_if_any(options), state=options.state)
    wanted = ("run",) if options.run else ("run", "boot")
    found = []
    for word in options.tree:
        try:
            named, stack = _stack(manager, word)
            found.append((named, [one for one in problems(stack) if one.needed in wanted]))
        except OSError as e:
            raise of_os(e) from None
    if options.json:
        print_json([{"tree": named, "problems": missing} for named, missing in found])
        return 1 if any(missing for _, missing in found) else 0
    rows = []
    for named, missing in found:
        lacks = {one.needed for one in missing}
        runs, boots = (
            Painted("no", "bad") if lacks & needs else Painted("yes", "good") for needs in ({"run"}, {"run", "boot"})
        )
        rows.append((named, runs) if options.run else (named, runs, boots))
    headers = ["tree", "runs", "boots"]
    print_table(headers[: len(rows[0])], rows, empty="", fixed=("runs", "boots"))
    for named, missing in found:
        if missing:
            print(f"\n{clean(named)}")
        for one in missing:
            print(f"  {one.path}: {clean(one.found)}\n    {one.remedy}")
    return 1 if any(missing for _, missing in found) else 0


def _stack(manager: roost.Manager, word: str) -> tuple[str, list[str]]:
    """What a word means: a directory, or a layer with all below it; its trees, the top first."""
    if "/" in word or word in (".", ".."):
        return word, [word]
    layer = manager.store.find_layer(word)
    return f"{layer.digest[:12]} {layer.name}", [
        manager.store.tree(one) for one in (layer.digest, *reversed(layer.parents))
    ]


def layer_remove(options: argparse.Namespace) -> int:
    """``roost layer remove``."""
    manager = _manager(options)
    for word in options.layer:
        layer = manager.remove_layer(word)
        if manager.store.has(layer.digest):
            say(f"{word} names no layer any more; layer {layer.digest[:12]} stays, which has other names")
        else:
            say(f"removed layer {layer.digest[:12]} ({layer.name}), {size(layer.size)}")
    return 0


def gc(options: argparse.Namespace) -> int:
    """``roost gc``."""
    manager = _manager(options)
    found = manager.gc(dry_run=options.dry_run)
    if options.json:
        print_json({"dry_run": options.dry_run, "removed": found})
        return 0
    rows = [(item.kind, item.name, size(item.size) if item.size else "", item.reason) for item in found]
    print_table(["what", "name", "size", "why"], rows, empty="nothing to remove", right=("size",))
    if found:
        total = size(sum(item.size for item in found))
        say(f"{'would free' if options.dry_run else 'freed'} {total}")
    return 0
