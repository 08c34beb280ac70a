"""What a container shall be, as a value; nspawn's command line is a pure function of it."""

from __future__ import annotations

from roost.host import capabilities
from roost.structs import Struct, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

INIT = "/run/roost-init"  # where roost-init is seen inside
EMULATOR = "/run/roost-emulator"  # and an emulator that it registers with the container's own binfmt_misc,
REGISTRATION = "/run/roost-binfmt"  # by this line (roost-init.c)
ENVIRONMENT = "/run/roost-environment"  # for roost-init alone: a command line can be read by every user of the host
PROVISION = "/run/roost/provision"  # where a layer's steps see what they may use and must not keep
MOUNT_POINTS = ("/etc/hosts", "/etc/resolv.conf")  # files of a session's own, bound above those of its tree
# what nspawn's payload may have in any case (systemd-nspawn(1), --capability=); roost-init drops what a spec lacks
_RETAINED = frozenset(capabilities.names(0xFDECAFFF))


class Overlaid(Struct, frozen=True, kw_only=True):
    """A host directory seen inside as a copy-on-write tree; changes go to ``name`` in the session's directory.

    With ``give``, what the directory's owner has on the host belongs to the session's user inside.
    """

    source: str
    target: str
    name: str
    give: bool = True


class Bound(Struct, frozen=True, kw_only=True):
    """A host path seen inside as it is, its owner as the session's user."""

    source: str
    target: str
    read_only: bool


class Limits(Struct, frozen=True, kw_only=True):
    """Upper bounds of a run: ``memory``, ``disk`` and ``output`` in bytes, ``time`` in seconds; None: none."""

    memory: int | None = None
    cpus: float | None = None
    tasks: int | None = None
    disk: int | None = None
    time: float | None = None
    output: int | None = None

    def changed(self, changes: Mapping[str, float | None]) -> Limits:
        """With some of them replaced, by name; None lifts one."""
        return replace(self, **changes) if changes else self


class Emulated(Struct, frozen=True, kw_only=True):
    """How programs of another architecture are run: ``personality`` as nspawn has it, the host path of an ``emulator``
    and what binfmt_misc has to be told of it; all empty for the host's own."""

    personality: str = ""
    emulator: str = ""
    registration: bytes = b""


class Spec(Struct, frozen=True, kw_only=True):
    """A command in a container.

    ``layers`` are directories on the host, the top one first; ``directory`` is the session's, with ``upper`` and
    ``work``; with ``disk``, a file with a file system, these are in there instead. ``base`` is the host id of the
    container's root, 0 for no user namespace; ``userns`` is a descriptor of one with that range, for mounts.
    ``tmpfs_tmp``: /tmp is a tmpfs and no part of the tree. ``mount_point`` is an existing host directory, used inside a
    private mount namespace only. ``init`` is the host path of roost-init.
    ``resolv_conf`` is /etc/resolv.conf of a private network, ``hosts`` is added to /etc/hosts.
    ``capabilities`` is the bounding set of all that runs inside; with ``no_new_privileges`` no program gains any from
    its file (set-user-id and file capabilities), sudo among them.
    ``emulated`` is how the programs of the layers' architecture are run, see ``roost.host.foreign``.
    """

    machine: str
    layers: tuple[str, ...]
    directory: str
    disk: str = ""
    mount_point: str
    init: str
    command: tuple[str, ...]
    base: int = 0
    userns: int | None = None
    capabilities: frozenset[str] = capabilities.default(private_users=True)
    no_new_privileges: bool = True
    user: str = "root"
    chdir: str = ""
    env: dict[str, str] = {}
    overlaid: tuple[Overlaid, ...] = ()
    bound: tuple[Bound, ...] = ()
    provision: dict[str, bytes] = {}
    network: Literal["host", "private", "none"] = "host"
    resolv_conf: bytes = b""
    hosts: bytes = b""
    terminal: bool = False
    volatile: bool = True
    tmpfs_tmp: bool = False
    suppress_sync: bool = False
    emulated: Emulated = Emulated()


def emulated(architecture: str, *, private_users: bool) -> Emulated:
    """How a container runs programs of ``architecture`` (empty: the host's own). Raises HostError when it cannot."""
    if not architecture:
        return Emulated()
    from roost.host import foreign  # few machines are of another architecture

    way = foreign.find(architecture, private_users=private_users)
    registration = way.registration(EMULATOR) if way.emulator else b""
    return Emulated(personality=way.personality, emulator=way.emulator, registration=registration)


def escape(path: str) -> str:
    """A path for --bind=: ':' separates there, and '\\' escapes (systemd-nspawn(1))."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


def filter_options(spec: Spec) -> tuple[str, ...]:
    """The options that nspawn's seccomp filters depend on; the others do not change them."""
    options = [] if spec.network == "host" else ["--private-network"]
    if more := sorted(spec.capabilities - _RETAINED):
        options.append(f"--capability={','.join(more)}")
    return (*options, *(["--suppress-sync=yes"] if spec.suppress_sync else []))


def nspawn_argv(spec: Spec) -> tuple[str, ...]:
    """The command line. Paths below ``mount_point`` are those that ``roost.engine.launch`` mounts."""
    here = spec.mount_point
    argv = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--settings=no", f"--machine={spec.machine}"]
    argv += [f"--directory={here}/merged", "--link-journal=no", "--timezone=off"]
    argv += ["--resolv-conf=" + ("bind-host" if spec.network == "host" else "off")]
    argv += ["--console=" + ("interactive" if spec.terminal else "pipe")]
    if spec.base:
        argv += [f"--private-users={spec.base}:65536", "--private-users-ownership=off"]
    if spec.emulated.personality:
        argv.append(f"--personality={spec.emulated.personality}")
    argv += [*filter_options(spec), f"--no-new-privileges={'yes' if spec.no_new_privileges else 'no'}"]
    argv.append(f"--bind-ro={escape(here)}/init:{INIT}")
    argv.append(f"--bind-ro={escape(here)}/environment:{ENVIRONMENT}")
    if spec.emulated.emulator:
        argv += [f"--bind-ro={escape(here)}/emulator:{EMULATOR}", f"--bind-ro={escape(here)}/binfmt:{REGISTRATION}"]
    argv.append(f"--bind={escape(here)}/hosts:/etc/hosts")
    if spec.network == "private":
        argv.append(f"--bind={escape(here)}/resolv.conf:/etc/resolv.conf")
    if spec.provision:
        argv.append(f"--bind-ro={escape(here)}/provision:{PROVISION}")
    argv += [f"--bind={escape(here)}/o{n}:{escape(item.target)}" for n, item in enumerate(spec.overlaid)]
    for n, item in enumerate(spec.bound):
        argv.append(f"--bind{'-ro' if item.read_only else ''}={escape(here)}/b{n}:{escape(item.target)}")
    flags = str(spec.terminal + 2 * (spec.network == "private") + 4 * bool(spec.emulated.emulator))
    bounds = f"{capabilities.mask(spec.capabilities):x}"
    return (*argv, "--", INIT, spec.user, spec.chdir, flags, bounds, *spec.command)
