"""Carries out a plan: makes the layers that are missing, each in a process of its own, independent ones side by side.

A layer is made in a staging directory and published by rename; whatever fails or is killed leaves nothing but a log.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

from roost import archives
from roost.distro import family as family_of
from roost.distro.own import recipe_of
from roost.distro.recipe import Origin, family_of_tree
from roost.engine import seccomp
from roost.engine.execute import Streams, execute
from roost.engine.spec import MOUNT_POINTS, PROVISION, Bound, Limits, Overlaid, Spec, emulated
from roost.errors import DefinitionError, Error, HostError, NetworkDown, StepError, StoreError, of_os
from roost.events import LayerEnded, LayerOutput, LayerStarted, LayerStep
from roost.host import architectures, files, foreign, runner, syscalls
from roost.pool import Job, Pool
from roost.records import LayerRecord, SessionRecord
from roost.session.overlay import Overlay, mount_overlay
from roost.sessions import init_path
from roost.steps import steps_of
from roost.store import new_id
from roost.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from roost.definition.model import Base
    from roost.distro.recipe import Family, Provision, Recipe
    from roost.events import Monitor
    from roost.plan import LayerPlan, Plan
    from roost.stop import Stop
    from roost.store import Store

_OUTPUT_KEPT = 65536  # bytes of a step's output that its failure is explained from
_TAIL = 20  # lines of a failed step's output that its error repeats


class Builder:
    """Makes layers. ``tick`` is called every ``interval`` seconds meanwhile, to draw."""

    def __init__(
        self, store: Store, monitor: Monitor, *, jobs: int, keep_failed: bool = False, stop: Stop | None = None,
        tick: Callable[[], None] | None = None, interval: float | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._monitor = monitor
        self._jobs = jobs
        self._keep_failed = keep_failed
        self._stop = stop
        self._tick = tick
        self._interval = interval

    def build(
        self, plan: Plan, *, failed: Mapping[str, Error] | None = None, sources: bool = False
    ) -> dict[str, Error]:
        """Makes what is missing; the errors by layer. What stands on a failed layer is not tried.

        ``failed`` are layers that are known not to succeed; with ``sources`` only bases from sources are made.
        """
        wanted = tuple(layer for layer in plan.to_build if not sources or layer.is_given)
        digests = {layer.digest for layer in wanted}
        parents = _parents(plan)
        origins = {p.machine.name: p.machine.base for p in plan.machines}
        jobs = []
        refused: dict[str, Error] = dict(failed or {})
        for layer in wanted:
            if layer.digest in refused:
                continue
            if layer.parent in refused:
                refused[layer.digest] = refused[layer.parent]
                continue
            after = (layer.parent,) if layer.parent in digests else ()
            try:
                base = layer.base or origins[layer.machines[0]]
                maker = LayerMaker(self._store, layer, parents[layer.digest], base, keep_failed=self._keep_failed)
            except DefinitionError as e:  # its family makes no layers yet; those of others are made all the same
                refused[layer.digest] = DefinitionError(f"{layer.name}: {e.brief}", details=e.details, hint=e.hint)
                continue
            except HostError as e:
                refused[layer.digest] = HostError(f"{layer.name}: {e.brief}", details=e.details, hint=e.hint)
                continue
            jobs.append(Job(key=layer.digest, work=maker.make, after=after))
        pool = Pool(
            self._jobs, self._monitor, stop=self._stop, tick=self._tick, interval=self._interval, polite=False,
        )  # fmt: skip
        done = pool.run(jobs)
        names = {layer.digest: layer.name for layer in wanted}
        for digest, outcome in done.items():
            if outcome.skipped:
                self._monitor(LayerEnded(layer=digest, name=names[digest], outcome="skipped", seconds=0.0))
        first = {
            layer.digest: refused[layer.digest]
            for layer in wanted
            if layer.digest in refused and layer.parent not in refused
        }
        return {**first, **{digest: outcome.error for digest, outcome in done.items() if outcome.error is not None}}


def _parents(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Every layer's layers below it, the base first."""
    found: dict[str, tuple[str, ...]] = {}
    for machine in plan.machines:
        for number, digest in enumerate(machine.layers):
            found[digest] = machine.layers[:number]
    return found


class LayerMaker:
    """Makes one layer, in a process of its own."""

    def __init__(
        self, store: Store, layer: LayerPlan, parents: tuple[str, ...], base: Base, *, keep_failed: bool
    ) -> None:
        self._store = store
        self._layer = layer
        self._parents = parents
        self._base = base
        self._family: Family = (family_of if base.distribution else family_of_tree)(layer.family)
        self._made_family = layer.family
        if layer.contents is not None and self._family.NAME == "none":
            from roost.distro import unmanaged

            unmanaged.refuse(layer.contents, layer.family, base.source or f"layer:{base.from_layer}")
        if layer.contents is not None and layer.contents.open:
            raise DefinitionError(
                f"its package sets are not known: {layer.contents.open}", hint="name the packages instead of @SETS"
            )
        self._recipe: Recipe | None = recipe_of(base)
        self._architecture = self._found_architecture()
        self._keep_failed = keep_failed
        self._output = bytearray()
        self._step = "prepare"
        self._mount_points: tuple[str, ...] = ()

    def _found_architecture(self) -> str:
        """What the layer is made for, as its record has it. Raises HostError when what makes it cannot be run here."""
        found = self._base.architecture if self._recipe is not None else ""
        if not found and self._parents:
            with contextlib.suppress(StoreError):  # it is not made yet
                found = self._store.layer(self._parents[-1]).architecture
        if found in ("", architectures.of_host()):
            return ""
        way = foreign.check(found)
        if way.emulator and self._layer.base is not None and self._base.bootstrap == "debootstrap":
            raise HostError(
                f"debootstrap cannot make a base of {found} with an emulator that Roost registers itself",
                details="it makes devices, which nobody can in a user namespace",
                hint=f'bootstrap = "mmdebstrap"; or {foreign.remedy(found)}, which registers one for the whole host',
            )
        return found

    def make(self, monitor: Monitor, _stop: int) -> str:
        """The outcome: built, or reused when somebody else has made it meanwhile."""
        layer = self._layer
        self._monitor = monitor
        began = time.monotonic()
        monitor(LayerStarted(layer=layer.digest, name=layer.name, reason=layer.reason))
        outcome = "failed"
        try:
            # single flight: who waits here finds the layer made
            with files.locked(f"{self._store.run}/locks/layer-{layer.digest}"):
                outcome = "reused" if self._store.has(layer.digest) else self._made(began)
        finally:
            self._store.ranges.close()
            event = LayerEnded(layer=layer.digest, name=layer.name, outcome=outcome, seconds=time.monotonic() - began)
            monitor(event)
        return outcome

    def _made(self, began: float) -> str:
        layer = self._layer
        with self._store.staged("stage") as stage:
            self._log = open(f"{stage}/log", "wb", buffering=0)  # noqa: SIM115  # closed with the process
            try:
                if layer.base is not None and layer.base.source:
                    self._make_from_source(stage, layer.base)
                elif layer.base is not None:
                    self._make_base(stage)
                else:
                    self._architecture = self._found_architecture()  # by now it is known
                    self._make_upper(stage)
            except (Error, OSError) as e:
                raise self._failed(stage, e) from e
            record = LayerRecord(
                digest=layer.digest, parents=self._parents, kind=layer.kind, name=layer.name, family=self._made_family,
                facts=layer.facts, created=time.time(), seconds=time.monotonic() - began, roost=__version__,
                architecture=self._architecture,
            )  # fmt: skip
            return "built" if self._store.publish(stage, record) else "reused"

    def _said(self, data: bytes) -> None:
        self._output += data
        del self._output[:-_OUTPUT_KEPT]
        self._log.write(data)
        self._monitor(LayerOutput(layer=self._layer.digest, data=data))

    def _begin(self, name: str, number: int, total: int) -> None:
        self._step = name
        self._output.clear()
        self._log.write(f"== {name}\n".encode())
        self._monitor(LayerStep(layer=self._layer.digest, step=name, number=number, total=total))

    # the base

    def _make_from_source(self, stage: str, base: Base) -> None:
        from roost.bases import make, recognise

        lowers = tuple(self._store.tree(digest) for digest in reversed(self._parents))
        work = make.Work(
            store=self._store, layer=self._layer, base=base, stage=stage, lowers=lowers, begin=self._begin, say=self._said
        )  # fmt: skip
        self._made_family = make.make(work)
        if self._made_family:  # else another layer of the image is the last
            found = recognise.architecture((f"{stage}/tree", *lowers), base.architecture, base.source)
            self._architecture = "" if found == architectures.of_host() else found

    def _make_base(self, stage: str) -> None:
        assert self._recipe is not None
        host = self._family.read_host()
        provision = self._family.provision(self._base, self._recipe, host=host)
        private, tree = f"{stage}/private", f"{stage}/tree"
        os.mkdir(private, 0o700)
        os.mkdir(tree, 0o755)
        self._begin(self._base.bootstrap, 1, 2)
        with self._archives(stage, provision) as place:
            plan = self._family.bootstrap(
                self._base, self._recipe, host=host, target=tree, private=private, archives=place
            )
            for name, content in plan.files.items():
                files.write_atomic(f"{private}/{name}", content, mode=0o600)
            if plan.archives:
                from roost.bases import released

                released.fill(self._store, plan.archives, tree=tree, private=private, say=self._said)
            if plan.argv:
                self._on_host(runner.Command(argv=plan.argv, env=plan.env, private=True))
        self._begin("finish", 2, 2)
        inside = self._family.finish(self._base, self._recipe, host=host)
        argv = ("chroot", tree, *inside.argv)
        self._on_host(runner.Command(argv=argv, stdin=inside.stdin, env=_plain_env(provision), private=True))
        files.remove_tree(private)

    @contextlib.contextmanager
    def _archives(self, stage: str, provision: Provision) -> Iterator[str]:
        """The package cache as a copy-on-write tree, seen by this process alone; what is new goes into the cache."""
        cache = archives.directory(self._store.cache, provision, base=True)
        merged = f"{stage}/archives/merged"
        archives.overlay_directories(stage, "archives")
        os.mkdir(merged)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        overlay = Overlay(lower=(cache,), upper=f"{stage}/archives/upper", work=f"{stage}/archives/work")
        mount_overlay(overlay, merged, owner=0)
        try:
            yield merged
        finally:
            syscalls.umount(merged)
        archives.keep(stage, cache, self._family.ARCHIVE_ENDINGS)

    def _on_host(self, command: runner.Command) -> None:
        way = foreign.find(self._architecture)
        status, output = foreign.emulating(way, lambda: self._ran(command))
        if way.is_special:  # said in a child
            self._output += bytes.fromhex(output)
        if status != 0:
            raise StoreError(f"{os.path.basename(command.argv[0])}: {runner.ending(status)}")

    def _ran(self, command: runner.Command) -> tuple[int, str]:
        """The status of a program of the host's, and the end of what it said."""
        done = runner.run(command, on_output=self._said)
        return done.status, done.output[-_OUTPUT_KEPT:].hex()

    # layers above it

    def _make_upper(self, stage: str) -> None:
        host = self._family.read_host()
        provision = self._family.provision(self._base, self._recipe, host=host, repositories=self._origins())
        assert self._layer.contents is not None
        steps = steps_of(self._layer.contents, self._family)
        archives.overlay_directories(stage, "")
        overlaid: tuple[Overlaid, ...] = ()
        if provision.cache:
            archives.overlay_directories(stage, "archives")
            source = archives.directory(self._store.cache, provision)
            overlaid = (Overlaid(source=source, target=provision.cache, name="archives", give=False),)
        self._mount_points = (*(item.target for item in overlaid), *MOUNT_POINTS)
        name = os.path.basename(stage)
        held = self._store.ranges.take(name)
        try:
            for number, step in enumerate(steps, 1):
                self._begin(step.name, number, len(steps))
                spec = Spec(
                    machine=_host_name(self._layer), layers=tuple(self._store.tree(d) for d in reversed(self._parents)),
                    directory=stage, mount_point=self._store.mount_point, init=init_path(), base=held.base, userns=held.userns, chdir="/",
                    command=step.inside.argv, env=dict(provision.env), overlaid=overlaid, provision=provision.files,
                    bound=tuple(Bound(source=path, target=path, read_only=True) for path in provision.binds),
                    suppress_sync=True, volatile=False, tmpfs_tmp=True, emulated=emulated(self._architecture, private_users=True),
                )  # fmt: skip
                self._inside(spec, name, step.inside.stdin)
                if provision.cache and step.manager and not any(later.manager for later in steps[number:]):
                    # before a script of the definition's could put something there: others install from the cache
                    archives.keep(stage, archives.directory(self._store.cache, provision), self._family.ARCHIVE_ENDINGS)
                    archives.overlay_directories(stage, "archives")
        finally:
            self._store.ranges.give_back(held)
        files.remove_tree(f"{stage}/archives")
        os.rename(f"{stage}/upper", f"{stage}/tree")
        _clear_mount_points(f"{stage}/tree", self._mount_points)
        files.remove_tree(f"{stage}/work")

    def _inside(self, spec: Spec, name: str, stdin: bytes) -> None:
        group = self._store.group_of(name)
        programs = seccomp.filters(spec, directory=self._store.state, name=group)
        with contextlib.ExitStack() as stack:
            fd = None
            if stdin:
                fd = os.memfd_create("roost-stdin", os.MFD_CLOEXEC)
                stack.callback(os.close, fd)
                with open(os.dup(fd), "wb") as stream:
                    stream.write(stdin)
                os.lseek(fd, 0, os.SEEK_SET)
                os.fchown(fd, spec.base, spec.base)
            streams = Streams(on_output=lambda _stream, data: self._said(data), stdin=fd, merged=True)
            ended = execute(spec, name=group, filters=programs, limits=Limits(), streams=streams)
        if ended.error:
            raise StoreError(ended.error, hint=ended.hint)
        if ended.status != 0:
            how = f"killed by {runner.signal_name(ended.signal)}" if ended.signal else f"exit status {ended.status}"
            raise StoreError(how)

    def _origins(self) -> tuple[Origin, ...]:
        """The repositories of this layer and of those below it, whoever has made them."""
        written = [self._store.layer(digest).facts for digest in self._parents]
        found = [one for facts in (*written, self._layer.facts) for one in facts.get("repositories", {}).values()]
        return tuple(Origin(url=url, keys=keys) for url, _, _, keys in found)

    # failure

    def _failed(self, stage: str, error: Error | OSError) -> Error:
        """The error with its step, its log and the way on; the layer's directory goes, unless it is kept as a session."""
        layer = self._layer
        if isinstance(error, OSError):
            error = of_os(error)
        if isinstance(error, NetworkDown):
            return NetworkDown(f"{layer.name}: {error.brief}", details=error.details, hint=error.hint)
        text = self._output.decode(errors="replace")
        log = f"{self._store.state}/results/{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{layer.digest[:12]}.log"
        with contextlib.suppress(OSError):
            shutil.copyfile(f"{stage}/log", log)
        step = self._step
        brief, hint = self._family.explain(text)
        details = error.details or "\n".join(text.rstrip().splitlines()[-_TAIL:])
        if mirror := self._family.unreachable(text):
            return NetworkDown(
                f"{layer.name}: {mirror} cannot be reached",
                details=details,
                hint=f"{hint or 'is the network up? is the mirror right?'}; the whole log: {log}",
            )
        what = f"{layer.name}: step {step!r} failed: {brief or error.brief}"
        hints = [hint or error.hint]
        if self._keep_failed and layer.base is None and (session := self._keep(stage)):
            hints.append(f"look into it: roost session shell {session}")
        elif layer.base is None:
            hints.append("`roost build --keep-failed` leaves a session to look into")
        return StepError(what, step=step, log=log, details=details, hint="\n".join(h for h in hints if h))

    def _keep(self, stage: str) -> str:
        """Turns what a failed layer has so far into a session."""
        if not os.path.isdir(f"{stage}/upper"):
            return ""
        session = new_id("failed")
        record = SessionRecord(
            id=session, machine=_host_name(self._layer), layers=self._parents, family=self._layer.family, created=time.time(),
            kept=True, mount_points=self._mount_points, reason=f"failed: {self._layer.name}", state="failed",
            architecture=self._architecture,
        )  # fmt: skip
        directory = self._store.running_directory(session)
        with self._store.alive(session):
            os.mkdir(directory, 0o700)
            os.rename(f"{stage}/upper", f"{directory}/upper")
            os.mkdir(f"{directory}/work", 0o700)
            files.sync(directory)  # nothing of it was synced while its steps ran
            self._store.write_session(record, directory, durable=True)
            self._store.keep_session(record)
        return session


def _plain_env(provision: Provision) -> dict[str, str]:
    """A step's environment without the words for files that are not shown to it."""
    return {name: value for name, value in provision.env.items() if not value.startswith(PROVISION)}


def _host_name(layer: LayerPlan) -> str:
    """What the inside of a build is called: the layer's own word."""
    return "".join(c if c.isalnum() else "-" for c in layer.name.split()[-1].lower()).strip("-")[:63] or "layer"


def _clear_mount_points(tree: str, targets: Sequence[str]) -> None:
    """Removes the empty files that stood below mounts; a directory stays, as the package manager wants it."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target in targets:
            with contextlib.suppress(OSError):
                parent = syscalls.openat2(os.path.dirname(target), os.O_PATH | os.O_DIRECTORY, root=root)
                try:
                    info = os.stat(os.path.basename(target), dir_fd=parent, follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode) and info.st_size == 0:
                        os.unlink(os.path.basename(target), dir_fd=parent)
                finally:
                    os.close(parent)
    finally:
        os.close(root)


def default_jobs() -> int:
    """How many jobs side by side: one for each processor, as far as there is a GiB of memory for each."""
    cores = len(os.sched_getaffinity(0))
    with open("/proc/meminfo", encoding="ascii") as stream:
        available = next((int(line.split()[1]) for line in stream if line.startswith("MemAvailable:")), 1 << 20)
    return max(1, min(cores, available >> 20))
