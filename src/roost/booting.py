"""The part of the library that brings machines up and down, some at a time (see ``roost.boot`` for one of them)."""

from __future__ import annotations

import fnmatch
from functools import partial
from typing import TYPE_CHECKING, Any

from roost.errors import DefinitionError, Error, Interrupted, StoreError, to_parts
from roost.events import MachineEnded, MachineStarted, Warned, ignore
from roost.host import files, netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from roost.boot.manage import Machines, Outcome, Status
    from roost.boot.record import Booted
    from roost.definition import Loaded
    from roost.definition.model import Pool as AddressPool
    from roost.definition.model import Resolved
    from roost.plan import MachinePlan, Plan
    from roost.sessions import Session
    from roost.stop import Stop
    from roost.store import Store

_JOBS = 10  # machines at a time: they wait more than they work


class Booting:
    """What ``Manager`` does with machines that boot. It asks for root."""

    definition: Loaded | None
    store: Store
    _watch: Any

    if TYPE_CHECKING:

        def prepare(self) -> list[str]: ...
        def machines(self, patterns: Sequence[str] = ()) -> list[Resolved]: ...
        def plan(self, patterns: Sequence[str] = ()) -> Plan: ...
        def _built(
            self, patterns: Sequence[str], *, jobs: int | None = None, update: bool = False
        ) -> tuple[Plan, dict[str, Error]]: ...
        def open_session(self, session: str) -> Session: ...

    def clear_machines(self) -> list[str]:
        """Clears what machines and private networks whose processes were killed have left; what it was."""
        runs, networks = files.names_in(f"{self.store.run}/booted"), netns.directory()
        at_rest = all(map(self.store.is_alive, runs)) and not files.names_in(f"{networks}/attached")
        if at_rest and not netns.has_dead_loans(networks):
            return []
        from roost.boot.remains import sweep

        return sweep(self.store)

    def up(
        self, patterns: Sequence[str], *, wait: bool = True, ephemeral: bool | None = None, update: bool = False, restart: bool = False,
        jobs: int | None = None,
    ) -> list[Outcome]:  # fmt: skip
        """Makes what is missing, boots the machines and waits until each is ready; one that runs is changed as needed.

        None named: all of the definition that have ``boot``.
        ``ephemeral``: nothing of what a machine changes is kept (None: as the definition says). ``update``: layers are
        made anew from today's packages. ``restart``: also what runs and is as it should be. What fails is in the outcomes.
        """
        names = list(patterns) or [machine.name for machine in self.machines() if machine.boot is not None]
        if not names:
            raise DefinitionError("no machine of the definition boots", hint="name one, or give it `boot = {}`")
        boots = self.boots()
        if self.definition is not None and names[1:] == [] and names[0] in self.definition.machines:
            boots.host.expect(names[0])
        try:
            return self._up(boots, names, wait=wait, ephemeral=ephemeral, update=update, restart=restart, jobs=jobs)
        finally:
            boots.host.forget()

    def _up(
        self,
        boots: Machines,
        names: list[str],
        *,
        wait: bool,
        ephemeral: bool | None,
        update: bool,
        restart: bool,
        jobs: int | None,
    ) -> list[Outcome]:
        plan, errors = self._built(names, jobs=jobs, update=update)
        works: dict[str, Callable[[int], Outcome]] = {}
        for item in plan.machines:
            name, missing = item.machine.name, [digest for digest in item.layers if not self.store.has(digest)]
            if missing:
                error = next(
                    (errors[digest] for digest in missing if digest in errors), StoreError("its layers were not made")
                )
                works[name] = _failing(name, error)
            else:
                wanted = self._wanted(item, self._record_of(name), ephemeral=ephemeral)
                if item.machine.disk is not None:
                    self._watch.monitor(
                        Warned(message=f"{name}: limits.disk is for sessions; one that boots has no such limit")
                    )
                works[name] = partial(_bring_up, boots, wanted, wait=wait, restart=restart)
        return self._side_by_side(works)

    def _record_of(self, name: str) -> Booted | None:
        """A machine's record; a damaged one is none: `up` writes it anew."""
        try:
            return self.boots().records.find(name)
        except StoreError as e:
            self._watch.monitor(Warned(message=f"{e.brief}; it is written anew, what the machine changed stays"))
            return None

    def boots(self) -> Machines:
        """One by one: the machines of this store that boot."""
        from roost.boot.manage import Machines  # most verbs boot nothing

        return Machines(self.store)

    def _wanted(self, item: MachinePlan, before: Booted | None, *, ephemeral: bool | None = None) -> Booted:
        from roost.bases.recognise import architecture_of
        from roost.boot.manage import record_of

        assert self.definition is not None
        if ephemeral is None and before is not None and item.machine.boot is None:
            ephemeral = before.boot.ephemeral
        return record_of(
            item.machine, item.layers, definition=self.definition.path, pool=self._pool(), before=before, ephemeral=ephemeral,
            architecture=architecture_of(self.store, item),
        )  # fmt: skip

    def _pool(self) -> AddressPool:
        assert self.definition is not None
        return self.definition.definition.network

    def down(self, patterns: Sequence[str] = (), *, remove: bool = False) -> list[Outcome]:
        """Ends machines (none named: all that run); orderly first, firmly when their time is over.

        ``remove``: they are forgotten too, with their changes, units and addresses; their layers stay until ``gc``.
        """
        if remove and not patterns:
            raise StoreError(
                "no machine is named to be removed", hint="name them; '*' means all that were ever brought up"
            )
        boots = self.boots()
        every = bool(patterns)
        names = [name for name in self._booted(patterns) if every or boots.is_up(name) or self.store.is_alive(name)]

        def work(name: str) -> Callable[[int], Outcome]:
            def end(_stop: int) -> Outcome:
                outcome = boots.down(name)
                return boots.remove(name) if remove and outcome.action != "failed" else outcome

            return end

        return self._side_by_side({name: work(name) for name in names})

    def restart(self, patterns: Sequence[str]) -> list[Outcome]:
        """Starts machines again, with the layers and the settings of their records."""
        records = self.boots().records

        def work(record: Booted) -> Callable[[int], Outcome]:
            return lambda stop: self.boots().up(record, restart=True, stop_fd=stop)

        return self._side_by_side({name: work(records.read(name)) for name in self._booted(patterns)})

    def start_enabled(self) -> list[Outcome]:
        """Starts the machines that come up with the host, from their records: no definition is read."""
        boots = self.boots()
        records = [boots.records.read(name) for name in self._booted([]) if boots.host.is_enabled(name)]
        return self._side_by_side(
            {one.name: partial(_bring_up, boots, one, wait=True, restart=False) for one in records}
        )

    def rollback(self, machine: str) -> Outcome:
        """Puts a machine back over the layers that it had before its last update. Raises StoreError."""
        (name,) = self._booted([machine])
        outcome = self.boots().rollback(name)
        outcome.raised()
        return outcome

    def enable(self, patterns: Sequence[str], *, enabled: bool = True) -> list[str]:
        """Lets machines come up with the host, or not; their names."""
        host = self.boots().host
        names = self._booted(patterns)
        for name in names:
            (host.enable if enabled else host.disable)(name)
        return names

    def status(self, patterns: Sequence[str] = ()) -> list[Status]:
        """The machines that were brought up, as they are now; ``outdated`` where the definition says otherwise by now."""
        from roost.boot.changes import changes

        names = self._booted(patterns)
        machines = self.boots()
        plans = {}
        unknown: tuple[str, ...] = ()
        if self.definition is not None:
            known = [name for name in names if name in self.definition.machines]
            try:
                plans = {item.machine.name: item for item in self.plan(known).machines} if known else {}
            except (DefinitionError, StoreError) as e:  # they run, whatever became of what they are defined from
                unknown = (e.brief,)

        def look(name: str) -> Status:
            outdated = unknown
            record = machines.records.known(name)
            if name in plans and record.definition:
                wanted = self._wanted(plans[name], record, ephemeral=record.boot.ephemeral)
                outdated = tuple(change.what for change in changes(record, wanted))
            return machines.status(name, outdated=outdated)

        return looked_at({name: partial(look, name) for name in names}, self._watch.stop)

    def look_at(self, session: str) -> Session:
        """A kept session to look at its changes: a context manager; that of a machine that is up as well."""
        from roost.boot.sessions import Live

        boots = self.boots()
        if boots.is_up(session):
            return Live(self.store, self.store.session(session), boots.leader(session))
        return self.open_session(session)

    def _booted(self, patterns: Sequence[str]) -> list[str]:
        """Names of machines that were brought up; none means all. Raises StoreError."""
        self.prepare()
        names = self.boots().records.names()
        if not patterns or list(patterns) == ["*"]:
            return names
        try:
            return list(dict.fromkeys(name for pattern in patterns for name in select(pattern, names)))
        except DefinitionError as e:
            raise StoreError(f"{e.brief} that was brought up", hint=e.hint if names else "`roost up MACHINE`") from None

    def _side_by_side(self, works: dict[str, Callable[[int], Outcome]]) -> list[Outcome]:
        """The outcomes in the order of ``works``; each is done in a process of its own."""
        import msgspec

        from roost.boot.manage import Outcome
        from roost.pool import Job, Pool

        watch = self._watch

        def job(name: str, work: Callable[[int], Outcome]) -> Job:
            def run(monitor: Any, stop: int) -> Any:
                monitor(MachineStarted(machine=name))
                outcome = work(stop)
                monitor(MachineEnded(machine=name, action=outcome.action, state=outcome.state, seconds=outcome.seconds))
                return msgspec.to_builtins(outcome)

            return Job(key=name, work=run)

        pool = Pool(_JOBS, watch.monitor, stop=watch.stop, tick=watch.tick, interval=watch.interval)
        done = pool.run([job(name, work) for name, work in works.items()])
        if watch.stop is not None and watch.stop.level:
            raise Interrupted("interrupted", hint="`roost status` says what is up; the same command goes on")
        found = []
        for name in works:
            value, error = done[name].value, done[name].error or Error("it was not tried")
            failed = Outcome(machine=name, action="failed", error=tuple(to_parts(error)))
            found.append(failed if value is None else msgspec.convert(value, Outcome))
        return found


def looked_at(looks: dict[str, Callable[[], Status]], stop: Stop | None = None) -> list[Status]:
    """What ``looks`` find, some at a time: a machine that takes its time to answer keeps no other one waiting.

    Raises the first error, in their order.
    """
    if len(looks) < 2:
        return [look() for look in looks.values()]
    import msgspec

    from roost.boot.manage import Status
    from roost.pool import Job, Pool

    def job(name: str, look: Callable[[], Status]) -> Job:
        return Job(key=name, work=lambda _monitor, _stop: msgspec.to_builtins(look()))

    pool = Pool(_JOBS, ignore, stop=stop)
    done = pool.run([job(*item) for item in looks.items()])
    if stop is not None and stop.level:
        raise Interrupted("interrupted", hint="the same command asks again")
    for name in looks:
        if done[name].value is None:
            raise done[name].error or Error(f"{name} was not asked")
    return [msgspec.convert(done[name].value, Status) for name in looks]


def _bring_up(boots: Machines, record: Booted, stop: int, *, wait: bool, restart: bool) -> Outcome:
    return boots.up(record, wait=wait, restart=restart, stop_fd=stop)


def _failing(name: str, error: Error) -> Callable[[int], Outcome]:
    """What to do for a machine that cannot be brought up: to say so."""

    def fail(_stop: int) -> Outcome:
        from roost.boot.manage import Outcome

        return Outcome(machine=name, action="failed", error=tuple(to_parts(error)))

    return fail


def select(pattern: str, names: list[str]) -> Iterator[str]:
    """The names that a comma list of names and globs means. Raises DefinitionError for a part that means none."""
    for word in pattern.split(","):
        found = (
            fnmatch.filter(names, word) if any(c in word for c in "*?[") else [name for name in names if name == word]
        )
        if not found:
            import difflib

            near = difflib.get_close_matches(word, names, 1)
            kind = "no machine matches" if any(c in word for c in "*?[") else "there is no machine"
            hint = f"did you mean {near[0]!r}?" if near else f"the definition has: {', '.join(names)}"
            raise DefinitionError(f"{kind} {word!r}", hint=hint)
        yield from found
