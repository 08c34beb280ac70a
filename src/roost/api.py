"""The library: everything that the command does, for a program. See docs/api.md, whose examples the tests run."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from roost import facts
from roost import plan as planner
from roost.booting import Booting, select
from roost.definition import load as load_definition
from roost.errors import DefinitionError, Error, HostError, Interrupted, LayerGone, StoreError, of_os
from roost.events import Warned, ignore
from roost.host import files
from roost.keeping import Keeping
from roost.records import SessionRecord
from roost.store import Store, new_id, run_id
from roost.structs import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from roost.build import Builder
    from roost.definition import Loaded
    from roost.definition.model import Resolved
    from roost.events import Monitor
    from roost.matrix import Cell, Variant
    from roost.records import Machines
    from roost.results import Result
    from roost.sessions import Run, Session
    from roost.updates import Update, Updated
    from roost.verify import Verified


def load(path: str | os.PathLike[str] | None = None) -> Loaded:
    """Reads a definition: the file ``path``, or what ``roost`` itself would take in this directory.

    Raises DefinitionError with a line for every mistake.
    """
    return load_definition(path, architecture=facts.architecture(), **facts.OF_DISTRIBUTIONS)


_TRIES = 3  # when somebody removes a run's layers before it begins


class Watch(Struct, kw_only=True):
    """How long work is watched and stopped: a monitor for its events, ``tick`` called every ``interval`` seconds, a stop."""

    monitor: Any = ignore
    tick: Any = None
    interval: float | None = None
    stop: Any = None


class Manager(Booting, Keeping):
    """A definition and a store. ``state`` is the store's directory (ROOST_STATE, or the system's, when None)."""

    def __init__(
        self,
        definition: Loaded | None = None,
        *,
        state: str | None = None,
        monitor: Monitor = ignore,
        watch: Watch | None = None,
    ) -> None:
        self.definition = definition
        self.store = Store(state or os.environ.get("ROOST_STATE"))
        self._watch = watch or Watch(monitor=monitor)
        self._ready = False
        self._noted: set[str] = set()
        self._refreshed: dict[str, str] = {}  # what is to be made anew
        self.updated: tuple[Updated, ...] | None = None  # what the last build with ``update`` has changed
        self._ran: dict[str, planner.MachinePlan] = {}  # what a further run need not plan again

    def close(self) -> None:
        """Gives up what is held for the next session. Optional: it goes with the process."""
        self.store.ranges.close()

    # what should exist

    def machines(self, patterns: Sequence[str] = (), *, profile: str = "") -> list[Resolved]:
        """The machines that a person means: names, comma lists and globs; none means all.

        Raises DefinitionError for a name or glob that no machine has.
        """
        if self.definition is None:
            raise DefinitionError("no definition was loaded", hint="pass one: Manager(roost.load())")
        every = self.definition.machines
        chosen = [name for pattern in patterns for name in select(pattern, list(every))] if patterns else list(every)
        found = [every[name] for name in dict.fromkeys(chosen)]
        if profile:
            found = [machine for machine in found if profile in machine.profiles]
            if not found:
                raise DefinitionError(f"no machine has the profile {profile!r}", hint="see `roost list`")
        return found

    def plan(self, patterns: Sequence[str] = ()) -> planner.Plan:
        """What exists of the machines' layers, what would be made, and why. Changes nothing."""
        machines = self.machines(patterns)
        assert self.definition is not None
        try:
            last = self.store.remembered(self.definition.path)
        except PermissionError as e:
            raise HostError(f"{e.filename} cannot be read: {e.strerror}", hint="run it with sudo") from None
        known = facts.known(self.store, last.machines, {**last.refreshed, **self._refreshed}, self.definition.path)
        return planner.make(machines, known, facts.versions)

    # making it

    def prepare(self) -> list[str]:
        """Makes the store's directories and clears what dead processes left; what was cleared. Needs root."""
        if self._ready:
            return []
        self._open()
        self._ready = True
        return [*self.store.sweep(), *self.clear_machines()]

    def _open(self) -> None:
        if os.geteuid() != 0:
            raise HostError("this needs root: layers and sessions are other systems' files", hint="run it with sudo")
        self.store.prepare()

    def build(
        self, patterns: Sequence[str] = (), *, jobs: int | None = None, keep_failed: bool = False, verify: bool = False,
        update: bool = False,
    ) -> planner.Plan:  # fmt: skip
        """Makes the missing layers of the machines; the plan that was carried out.

        ``update``: all of their layers are made anew, from the packages that there are now; those that are then the same
        as before but for their times are not kept. ``updated`` says what has changed.
        ``verify``: the layers that are there are read whole first, and nothing is made on a damaged one (StoreError).
        Raises the error of the layer that failed; of several, one Error that has them all.
        """
        plan, errors = self._built(patterns, jobs=jobs, keep_failed=keep_failed, verify=verify, update=update)
        if len(errors) == 1:
            raise next(iter(errors.values()))
        if errors:
            text = "\n\n".join(f"{e.brief}\n{e.details}\nhint: {e.hint}".strip() for e in errors.values())
            raise Error(f"{len(errors)} layers could not be made", details=text, hint="each has its own hint above")
        return plan

    def _built(
        self, patterns: Sequence[str], *, jobs: int | None = None, keep_failed: bool = False, verify: bool = False,
        update: bool = False,
    ) -> tuple[planner.Plan, dict[str, Error]]:  # fmt: skip
        for cleared in self.prepare():
            self._watch.monitor(Warned(message=f"cleared what a killed process left: {cleared}"))
        errors: dict[str, Error] = {}
        given: set[str] = set()
        plan = self.plan(patterns)
        if any(layer.is_given and (update or layer.verb == "build") for layer in plan.layers):
            from roost.settle import settle  # most definitions have no such bases

            errors, given = settle(
                self.store, lambda: self.plan(patterns), lambda: self._builder(jobs, keep_failed=keep_failed), update=update
            )  # fmt: skip
            plan = self.plan(patterns)
        work = None
        if update:
            work = self._update(plan)
            plan = self.plan(patterns)
        if verify:
            with self.store.pinned(_digests(plan)):
                self._verified(plan, jobs)
        if work is None and not plan.to_build and self._updated(plan) is None:
            self._note_ready(plan)
            return plan.after_making(given), errors  # the way to a run: no lock is waited for
        with contextlib.ExitStack() as pins:
            before: set[str] = set()
            while not before >= (digests := _digests(plan)):  # again when a name means another layer by now
                pins.enter_context(self.store.pinned(digests))
                before = digests
                plan = self.plan(patterns)
            if plan.to_build:
                errors |= self._builder(jobs, keep_failed=keep_failed).build(plan, failed=errors)
            new = {layer.digest for layer in plan.to_build}
            if work is not None:
                for identity in work.needless(plan, self._refreshed):
                    del self._refreshed[identity]
                plan = self.plan(patterns).after_making(new)
                self.updated = work.report(plan)
            self._remember(plan)
        if work is not None:
            work.discard(new - _digests(plan))
        stop = self._watch.stop
        if stop is not None and stop.level and not all(self.store.has(layer.digest) for layer in plan.to_build):
            raise Interrupted(
                "interrupted while layers were made", hint="what was finished stays; the same command goes on"
            )
        return plan.after_making(given), errors

    def _update(self, plan: planner.Plan) -> Update:
        """Has the layers made anew by the next plan; what is to be compared with what comes of it."""
        from roost.updates import Update

        assert self.definition is not None
        self.updated = ()
        self._refreshed = plan.anew(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        return Update(self.store, plan, self.store.remembered(self.definition.path).machines)

    def _note_ready(self, plan: planner.Plan) -> None:
        """Lets the command run these machines without a plan as long as nothing changes; once for each."""
        from roost import ready
        from roost.sessions import terms_of

        assert self.definition is not None
        new = [item for item in plan.machines if item.machine.name not in self._noted]
        if not new or self.definition.path not in self.definition.inputs:
            return
        self._noted.update(item.machine.name for item in new)
        bases = [machine.base for machine in self.definition.machines.values()]
        names = facts.named(self.store, bases, self.definition.path)
        remembered = self.store.machines_path(self.definition.path)  # without it, gc would remove the layers
        inputs = {*self.definition.inputs, *names, remembered, *facts.inputs(self.definition.machines.values())}
        machines = {
            item.machine.name: ready.Ready(record=self._record(item), terms=terms_of(item.machine, self._pool()))
            for item in new
            if facts.is_stamped(self.store, item.machine.base)  # else a look at its source takes a plan
        }
        ready.remember(self.store, self.definition.path, inputs, machines, read=self.definition.read)

    def _verified(self, plan: planner.Plan, jobs: int | None) -> None:
        """Raises StoreError when a layer that the plan uses is not what it was."""
        from roost.verify import check

        chains = (digest for item in plan.machines for digest in item.layers)
        check(self.store, self._verify([digest for digest in chains if self.store.has(digest)], jobs))

    def verify(self, layers: Sequence[str] = ("all",), *, jobs: int | None = None) -> list[Verified]:
        """Compares layers (names, digests, or all) with what they were when they were made; raises for none of them."""
        self.prepare()
        digests = [
            digest
            for word in layers
            for digest in (self.store.layer_digests() if word == "all" else [self.store.find_digest(word)])
        ]
        return self._verify(digests, jobs)

    def _verify(self, digests: Sequence[str], jobs: int | None) -> list[Verified]:
        from roost.build import default_jobs
        from roost.verify import verify

        watch = self._watch
        found = verify(
            self.store, digests, watch.monitor, jobs=jobs or default_jobs(), stop=watch.stop, tick=watch.tick, interval=watch.interval
        )  # fmt: skip
        if watch.stop is not None and watch.stop.level:
            raise Interrupted("interrupted while layers were verified", hint="nothing was changed; run it again")
        return found

    def _builder(self, jobs: int | None, *, keep_failed: bool) -> Builder:
        from roost.build import Builder, default_jobs  # not needed to run

        watch = self._watch
        return Builder(
            self.store, watch.monitor, jobs=jobs or default_jobs(), keep_failed=keep_failed, stop=watch.stop, tick=watch.tick,
            interval=watch.interval,
        )  # fmt: skip

    def _remember(self, plan: planner.Plan) -> None:
        """Records what machines are made from: for the next plan's reasons, and for gc."""
        assert self.definition is not None
        with files.locked(f"{self.store.run}/locks/_machines"):
            record = self._updated(plan)
            if record is not None:
                self.store.remember(record)

    def _updated(self, plan: planner.Plan) -> Machines | None:
        """The definition's record as it should be; None when it is so."""
        assert self.definition is not None
        record = self.store.remembered(self.definition.path)
        by_digest = {layer.digest: layer for layer in plan.layers}
        before = to_json(record)
        for machine in plan.machines:
            if all(self.store.has(digest) for digest in machine.layers):
                own = [by_digest[digest] for digest in machine.layers if digest in by_digest]
                items = [("base" if layer.kind == "base" else layer.name, layer.digest, layer.facts) for layer in own]
                record.machines[machine.machine.name] = items
                record.chains[machine.machine.name] = machine.layers
                record.refreshed |= {layer.identity: layer.stamp for layer in own if layer.stamp}
        for name in set(record.machines) - set(self.definition.machines):
            del record.machines[name]
            record.chains.pop(name, None)
        return None if to_json(record) == before else record

    # running

    def no_new_privileges(self, item: planner.MachinePlan) -> bool:
        """Whether no program gains privileges by its file in a machine's sessions (then sudo cannot work)."""
        if item.machine.no_new_privileges is not None:
            return item.machine.no_new_privileges
        for digest in item.layers:
            with contextlib.suppress(StoreError):
                users = self.store.layer(digest).facts.get("users", {})
                if any(user["sudo"] != "no" for user in users.values()):
                    return False
        return True

    def _record(self, item: planner.MachinePlan) -> SessionRecord:
        from roost.bases.recognise import architecture_of

        machine = item.machine
        return SessionRecord(
            id="", machine=machine.name, layers=item.layers, family=machine.family, created=time.time(), network=machine.network,
            private_users=machine.private_users, capabilities=machine.capabilities, no_new_privileges=self.no_new_privileges(item),
            environment=machine.environment, architecture=architecture_of(self.store, item),
        )  # fmt: skip

    def session(self, machine: str, *, verify: bool = False) -> Session:
        """A session of a machine, whose layers are made when missing: a context manager. ``verify`` as of ``build``."""
        from roost.sessions import Session, terms_of

        item = self.build([machine], verify=verify).machines[0]
        record = self._record(item)
        record.id = new_id(machine)
        return Session(self.store, record, terms_of(item.machine, self._pool()))

    def open_session(self, session: str) -> Session:
        """A kept session, opened again: a context manager. Raises StoreError."""
        from roost.sessions import Session, Terms, terms_of

        self.prepare()
        record = self.store.session(session)
        if not record.kept:
            raise StoreError(
                f"session {session} is in use and will be thrown away", hint="use `roost run --keep` to keep one"
            )
        machine = self.definition.machines.get(record.machine) if self.definition else None
        return Session(
            self.store, record, terms_of(machine, self._pool()) if machine else Terms(environment=record.environment)
        )

    def run(
        self, machine: str, run: Run, *, keep: str = "never", jobs: int | None = None, verify: bool = False, **options: Any
    ) -> Result:  # fmt: skip
        """One run in a session of its own. ``options`` are those of ``Session.run``; the others those of ``matrix``."""
        from roost.sessions import check_sources, run_once, terms_of

        check_sources(run.sources)

        def once() -> Result:
            item = None if verify else self._ran.pop(machine, None)
            if item is None:
                item = self.build([machine], jobs=jobs, verify=verify).machines[0]
            result = run_once(
                self.store, self._record(item), terms_of(item.machine, self._pool()), run, keep=keep, **options
            )
            base = item.machine.base
            if not (base.from_layer or base.source):  # a name, or what is there, may be another one by the next run
                self._ran[machine] = item
            return result

        for _ in range(_TRIES):
            with contextlib.suppress(LayerGone):
                return once()
        return once()

    def matrix(
        self, patterns: Sequence[str], run: Run, *, profile: str = "", jobs: int | None = None, keep: str = "never",
        fail_fast: bool = False, times: int = 1, variants: Sequence[Variant] = (), verify: bool = False,
    ) -> list[Result]:  # fmt: skip
        """The same run on every machine that ``patterns`` means, some at a time; the results in the machines' order.

        With ``variants`` each machine has a run for each variant that fits it; ``times`` stands for as many equal ones.
        ``keep``: never, on-failure or always. With ``fail_fast`` nothing starts after the first that did not pass.
        ``verify``: nothing starts at all unless every layer is what it was when it was made (StoreError).
        A machine whose layers cannot be made has a result that says so. Logs go below the store's ``results``.
        """
        from roost.matrix import Variant
        from roost.sessions import check_sources

        check_sources(run.sources)
        if times > 1:
            variants = [Variant(name=str(number + 1)) for number in range(times)]
        names = [machine.name for machine in self.machines(patterns, profile=profile)]
        with self._made(names, jobs=jobs, verify=verify) as (plan, errors):
            return self._matrix(plan, errors, names, run, jobs=jobs, variants=variants, keep=keep, fail_fast=fail_fast)

    @contextlib.contextmanager
    def _made(self, names: Sequence[str], **how: Any) -> Iterator[tuple[planner.Plan, dict[str, Error]]]:
        """The machines' layers, made and kept from being removed; made again when somebody was faster."""
        for left in reversed(range(_TRIES)):
            plan, errors = self._built(names, **how)
            with self.store.pinned(_digests(plan)):
                if not left or errors or all(self.store.has(digest) for digest in _digests(plan)):
                    yield plan, errors
                    return

    def _matrix(
        self, plan: planner.Plan, errors: dict[str, Error], names: list[str], run: Run, *, jobs: int | None, variants: Sequence[Variant],
        **how: Any,
    ) -> list[Result]:  # fmt: skip
        from roost.build import default_jobs
        from roost.matrix import Matrix, cells_of
        from roost.results import Result, plain
        from roost.sessions import terms_of

        watch = self._watch
        logs = os.path.join(self.store.state, "results", run_id())
        os.mkdir(logs, 0o755)
        cells: list[Cell] = []
        unmade = {}
        for item in plan.machines:
            missing = [digest for digest in item.layers if not self.store.has(digest)]
            if missing:
                error = next((errors[digest] for digest in missing if digest in errors), None)
                unmade[item.machine.name] = Result(
                    machine=item.machine.name, command=run.words, state="error" if error else "skipped",
                    error=error.brief if error else "its layers were not made", hint=error.hint if error else "",
                    tail=error.details if error else "",
                )  # fmt: skip
                continue
            cells += cells_of(self._record(item), terms_of(item.machine, self._pool()), run, variants)
        matrix = Matrix(
            self.store, watch.monitor, jobs=jobs or default_jobs(), logs=logs, stop=watch.stop, tick=watch.tick,
            interval=watch.interval, **how,
        )  # fmt: skip
        with self.store.alive(f"results-{os.path.basename(logs)}"):
            results = [*unmade.values(), *matrix.run(cells)]
        order = {name: number for number, name in enumerate(names)}
        results.sort(key=lambda result: order[result.machine])
        data = json.dumps([plain(result) for result in results], indent=1).encode()
        try:
            files.write_atomic(f"{logs}/result.json", data, staging=f"{self.store.state}/staging")
        except OSError as e:  # the results themselves are not lost
            watch.monitor(Warned(message=f"the results were not written: {of_os(e).brief}"))
        return results


def _digests(plan: planner.Plan) -> set[str]:
    return {digest for item in plan.machines for digest in item.layers}
