"""The verbs about definitions, layers to be made and the host: init, schema, list, plan, build, doctor."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import roost
from roost.cli.common import definition, print_json, print_table, say, watched
from roost.cli.table import Painted, duration
from roost.facts import not_runnable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from roost.commands import Shown
    from roost.plan import LayerPlan, MachinePlan, Plan


def init(options: argparse.Namespace) -> int:
    """``roost init``: refuses to replace a file."""
    from roost.definition.starter import starter
    from roost.errors import DefinitionError

    try:
        with open(options.path, "w" if options.force else "x", encoding="utf-8") as stream:
            stream.write(starter())
    except FileExistsError:
        raise DefinitionError(f"{options.path} exists already", hint="edit it, or replace it with --force") from None
    except OSError as e:
        raise DefinitionError(f"{options.path} cannot be written: {e.strerror}", hint="choose another place") from None
    say(f"wrote {options.path}; see what it makes with `roost list`, then `roost run`")
    return 0


def schema(_options: argparse.Namespace) -> int:
    """``roost schema``."""
    from roost.definition.schema import json_schema

    print_json(json_schema())
    return 0


def list_(options: argparse.Namespace) -> int:
    """``roost list``."""
    manager = roost.Manager(definition(options), state=options.state)
    plan = manager.plan(options.machines)
    verbs = {layer.digest: layer.verb for layer in plan.layers}
    if options.json:
        print_json(
            [
                {**_described(item), "no_new_privileges": manager.no_new_privileges(item), "state": _state(item, verbs)}
                for item in plan.machines
            ]
        )
        return 0
    rows = []
    for item in plan.machines:
        machine = item.machine
        base = machine.base
        system = (
            f"layer {base.from_layer}"
            if base.from_layer
            else base.source or f"{base.distribution} {base.release} {base.architecture}"
        )
        boots = "" if machine.boot is None else "boots with the host" if machine.boot.enable else "boots"
        notes = [
            *([boots] if boots else []),
            *(["private-users: no"] if not machine.private_users else []),
            *([f"network: {machine.network}"] if machine.network != "host" else []),
            *([f"capabilities: {' '.join(machine.capabilities)}"] if machine.capabilities else []),
        ]
        state = _state(item, verbs)
        tone = "good" if state == "made" else "dim"
        rows.append(
            (
                machine.name,
                system,
                " ".join(machine.profiles),
                Painted(state, tone),
                ", ".join(notes),
                machine.description,
            )
        )
    headers = ["machine", "system", "profiles", "state", "notes", "description"]
    keep = [number for number in range(6) if number in (0, 1, 3) or any(row[number] for row in rows)]
    print_table(
        [headers[n] for n in keep], [[row[n] for n in keep] for row in rows], empty="the definition has no machines"
    )
    return 0


def _state(item: MachinePlan, verbs: dict[str, str]) -> str:
    missing = sum(verbs.get(digest, "reuse") == "build" for digest in item.layers)
    return (
        "made"
        if not missing
        else "not made"
        if missing == len(item.layers)
        else f"{missing} of {len(item.layers)} layers to make"
    )


def _described(item: MachinePlan) -> dict[str, object]:
    import msgspec

    from roost.definition.checks import LIMITS

    machine = item.machine
    layers = [
        {
            "name": layer.name,
            "packages": list(layer.packages),
            "remove_packages": list(layer.remove_packages),
            "users": msgspec.to_builtins(layer.users),
            "files": [
                {"path": f.path, "mode": f"{f.mode:04o}", "owner": f.owner, "group": f.group, "size": len(f.content)}
                for f in layer.files
            ],
            "scripts": [script.name for script in layer.scripts],
            "repositories": [
                {"name": r.name, "url": r.url, "suites": r.suites, "components": r.components}
                for r in layer.repositories
            ],
            "services": list(layer.services),
            "locale": layer.locale,
            "timezone": layer.timezone,
            "init": layer.init,
        }
        for layer in machine.layers
    ]
    return {
        "name": machine.name, "description": machine.description, "base": msgspec.to_builtins(machine.base), "family": machine.family,
        "profiles": list(machine.profiles), "contents": layers, "environment": machine.environment,
        "binds": msgspec.to_builtins(machine.binds), "network": machine.network, "private_users": machine.private_users,
        "capabilities": list(machine.capabilities),
        "limits": {name: getattr(machine, name) for name in LIMITS}, "layers": list(item.layers),
        "boot": msgspec.to_builtins(machine.boot), "boot_network": machine.boot_network,
        "private_network": msgspec.to_builtins(machine.private_network),
        "firstboot": [script.name for script in machine.firstboot],
    }  # fmt: skip


def plan(options: argparse.Namespace) -> int:
    """``roost plan``."""
    manager = roost.Manager(definition(options), state=options.state)
    made = manager.plan(options.machines)
    if options.json:
        layers = [
            {
                "digest": x.digest,
                "parent": x.parent,
                "name": x.name,
                "verb": x.verb,
                "reason": x.reason,
                "machines": list(x.machines),
                "steps": x.facts,
            }
            for x in made.layers
        ]
        document: dict[str, object] = {"layers": layers, "machines": [_described(item) for item in made.machines]}
        if options.verbose:
            document["commands"] = [
                {"layer": one.layer.digest, "step": command.step, "host": command.host, "argv": command.argv}
                for one in _shown(made)
                for command in one.commands
            ]
        print_json(document)
        return 0
    rows = [
        (layer.name, layer.digest[:12], _verb(layer), layer.reason, ", ".join(layer.machines)) for layer in made.layers
    ]
    print_table(["layer", "digest", "verb", "reason", "for"], rows, empty="nothing to plan", fixed=("digest", "verb"))
    if options.verbose:
        from roost.cli.planned import print_commands

        print_commands(_shown(made))
    for note in dict.fromkeys(note for layer in made.layers if layer.contents for note in layer.contents.notes):
        say(note)
    count = len(made.to_build)
    say(f"{count} to make: `roost build`" if count else "all layers are there")
    _warn_of_architectures(made.machines)
    return 0


def _shown(made: Plan) -> Iterator[Shown]:
    from roost.commands import of_plan

    return of_plan(made)


def _verb(layer: LayerPlan) -> Painted:
    return Painted(layer.verb, "dim" if layer.verb == "reuse" else "warn")


def build(options: argparse.Namespace) -> int:
    """``roost build``."""
    from roost.cli.updated import tell
    from roost.errors import Error

    began = time.monotonic()
    with watched(options) as (watch, _):
        manager = roost.Manager(definition(options), state=options.state, watch=watch)
        for cleared in manager.prepare():
            say(f"cleared what a killed process left: {cleared}")
        try:
            made = manager.build(
                options.machines,
                jobs=options.jobs,
                keep_failed=options.keep_failed,
                verify=options.verify,
                update=options.update,
            )
        except Error:  # what was made all the same is there to stay
            if manager.updated and not options.json and not options.quiet:
                tell(manager.updated)
            raise
    layers = [{"name": x.name, "digest": x.digest, "made": x.verb == "build", "reason": x.reason} for x in made.layers]
    if options.json:
        more = {} if manager.updated is None else {"updated": manager.updated}
        print_json({"layers": layers, "seconds": round(time.monotonic() - began, 3), **more})
    if not options.json and not options.quiet:
        if manager.updated is not None:
            tell(manager.updated)
        new = len(made.to_build)
        what = (
            f"{new} {'layer' if new == 1 else 'layers'} made in {duration(time.monotonic() - began)}"
            if new
            else "all layers are there"
        )
        machines = len(made.machines)
        say(f"{what}; {machines} {'machine is' if machines == 1 else 'machines are'} ready: `roost run … -- COMMAND`")
    return 0


def _warn_of_architectures(machines: Sequence[MachinePlan]) -> None:
    """What `roost build` would refuse."""
    named: dict[str, list[str]] = {}
    for name, error in not_runnable(item.machine for item in machines).items():
        text = "\n".join([error.brief, *(f"  {line}" for line in error.details.splitlines()), f"hint: {error.hint}"])
        named.setdefault(text, []).append(name)
    for text, names in named.items():
        say(f"warning: {', '.join(names)}: {text}")


def doctor(options: argparse.Namespace) -> int:
    """``roost doctor``: 0 when everything that a run needs is there, or when nothing is left to be repaired."""
    from roost.doctor import examine

    if options.repair:
        return _repair(options)
    if options.apply:
        return _apply(options)

    checks = examine(roost.Manager(state=options.state).store)
    if options.json:
        print_json(checks)
    else:
        tones = {"ok": "good", "warning": "warn", "failed": "bad"}
        rows = [(Painted(check.state, tones[check.state]), check.name, check.found) for check in checks]
        print_table(["state", "what", "found"], rows, empty="nothing was checked", fixed=("state", "what"))
        remedies = [check for check in checks if check.remedy]
        for check in remedies:
            print(f"\n{check.name}: {check.remedy}")
        sys.stdout.flush()
    return 0 if all(check.state != "failed" for check in checks) else 1


def _repair(options: argparse.Namespace) -> int:
    found = roost.Manager(state=options.state).repair()
    if options.json:
        print_json(found)
    else:
        tones = {"cleared": "good", "stays": "bad"}
        rows = [(Painted(item.state, tones[item.state]), item.kind, item.name, item.found) for item in found]
        print_table(["state", "what", "name", "found"], rows, empty="nothing to repair", fixed=("state", "what"))
        for item in found:
            if item.state == "stays":
                print(f"\n{item.kind} {item.name}: {item.remedy}")
        sys.stdout.flush()
    return 1 if any(item.state == "stays" for item in found) else 0


def _apply(options: argparse.Namespace) -> int:
    """Shows the SELinux module that is needed, and installs it."""
    import os

    from roost.errors import HostError
    from roost.host import selinux

    if os.geteuid() != 0:
        raise HostError("this needs root: the audit log is root's alone", hint="run it with sudo")
    found = selinux.find()
    if options.json:
        print_json({"selinux": found.state, "module": found.module})
    elif found.module:
        print(found.module, end="")
        sys.stdout.flush()
    if found.module:
        selinux.install(found.module)
        say(f"installed the SELinux module {selinux.MODULE}; `semodule -r {selinux.MODULE}` removes it")
    else:
        refused = "it refused nothing to machines that is not allowed by now"
        say("SELinux is off: nothing to do" if found.state == "disabled" else f"SELinux is {found.state}: {refused}")
    return 0
