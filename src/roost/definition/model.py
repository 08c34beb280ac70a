"""What a definition says, as values. Keys in the file are these names with ``-`` for ``_``.

The raw records (``Machine``, ``Profile``, ``Definition``) mirror the file; ``Resolved`` is one machine after
inheritance, with every default filled in and every file's content read: all that the planner needs.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

Packages = list[str] | dict[str, list[str]]
"""A list for every family, or one list per family name."""


class User(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """An account made in a layer. ``group`` empty: the family's group for nobody (nogroup, nobody).

    ``sudo`` "nopasswd" writes ``/etc/sudoers.d/roost-NAME`` and installs sudo. ``home`` empty: ``/home/NAME``.
    """

    name: str
    uid: int | None = None
    group: str = ""
    groups: list[str] = []
    home: str = ""
    shell: str = "/bin/sh"
    sudo: Literal["no", "nopasswd"] = "no"


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A file put into a layer: exactly one of ``content`` (text) and ``source`` (a path beside the definition)."""

    content: str | None = None
    source: str | None = None
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"


class ScriptSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A script kept in a file beside the definition."""

    source: str


class Bind(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A host path seen inside every session of a machine."""

    source: str
    target: str = ""
    read_only: bool = True


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Upper bounds of a session and its runs.

    ``memory``, ``disk`` and ``output``: bytes, or with K, M, G, T (powers of 1024). ``cpus`` may be a fraction.
    ``time``: seconds, or with s, m, h.
    """

    memory: str | int | None = None
    cpus: float | None = None
    tasks: int | None = None
    disk: str | int | None = None
    time: str | float | None = None
    output: str | int | None = None


class Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """``host``: the host's own network. ``none``: a loopback device and nothing else. ``private``: a network of its own.

    Not written: ``private`` for a machine that is booted, ``host`` for the sessions of a run. The rest is of private
    ones: ``bridge`` names a network that machines share, ``isolated`` keeps it from other machines, ``publish`` has
    ports of the host ("8080:80", "127.0.0.1:2222:22/tcp"), ``egress`` what may be reached (not written: everything
    but the host): addresses, networks and host names, each with a port or without ("192.0.2.1", "198.51.100.0/24:443",
    "example.org:443/tcp"), "any", and "host" for the host itself ("host:4444").
    """

    mode: Literal["host", "private", "none"] | None = None
    bridge: str | None = None
    isolated: bool | None = None
    publish: list[str] | None = None
    egress: list[str] | None = None
    address: str | None = None


class Pool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where private addresses come from; not written: networks that the host has no route to."""

    pool: str | None = None
    pool6: str | None = None


class Boot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How a machine is booted; that it is there lets the machine's layers have an init.

    ``enable``: it comes up with the host. ``ready`` is a command that succeeds inside once the machine is ready; empty:
    its init is asked. ``timeout`` (until it is ready) and ``stop_timeout``: seconds, or with s, m, h. ``nested``: it may
    run containers itself.
    """

    enable: bool | None = None
    hostname: str | None = None
    ephemeral: bool | None = None
    ready: str | None = None
    timeout: str | float | None = None
    stop_timeout: str | float | None = None
    link_journal: Literal["no", "host", "try-host", "guest", "try-guest", "auto"] | None = None
    nested: bool | None = None


class Repository(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A repository of packages that a layer gets before its packages: one of somebody else.

    ``suites`` and ``components`` are apt's words (not written: the machine's release, and "main"). ``key`` is the file
    with the keys that sign it, relative to the definition. It stays in the layer, under ``name``.
    """

    name: str
    url: str
    suites: list[str] = []
    components: list[str] = []
    key: str = ""


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A reusable layer. ``environment`` and ``binds`` do not change the layer: they apply to its sessions.

    ``recipe`` is a shipped one that stands for packages, users, files and scripts; ``options`` are what it asks for.
    """

    description: str = ""
    recipe: str = ""
    options: dict[str, Any] = {}
    packages: Packages = []
    remove_packages: Packages = []
    user: User | list[User] = []
    files: dict[str, File] = {}
    scripts: list[str | ScriptSource] = []
    repositories: list[Repository] = []
    services: list[str] = []
    firstboot: list[str | ScriptSource] = []
    environment: dict[str, str] = {}
    binds: list[str | Bind] = []


class Machine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """One machine as written. What is not written is decided by ``[defaults]``, then by the distribution's recipe.

    ``options`` are those of its profiles' recipes, by profile, in front of what the profile says.
    """

    description: str | None = None
    distribution: str | None = None
    release: str | None = None
    architecture: str | None = None
    from_: str | None = field(default=None, name="from")
    sha256: str | None = None
    signature: str | None = None
    family: str | None = None
    profiles: list[str] | None = None
    options: dict[str, dict[str, Any]] | None = None
    packages: Packages | None = None
    remove_packages: Packages | None = None
    user: User | list[User] | None = None
    files: dict[str, File] | None = None
    scripts: list[str | ScriptSource] | None = None
    repositories: list[Repository] | None = None
    services: list[str] | None = None
    locale: str | None = None
    timezone: str | None = None
    root_password: str | None = None
    firstboot: list[str | ScriptSource] | None = None
    environment: dict[str, str] | None = None
    binds: list[str | Bind] | None = None
    bootstrap: str | None = None
    variant: str | None = None
    mirror: str | None = None
    components: list[str] | None = None
    keyring: str | None = None
    check_valid_until: bool | None = None
    source_packages: bool | None = None
    private_users: bool | None = None
    capabilities: list[str] | None = None
    no_new_privileges: bool | None = None
    limits: Limits | None = None
    network: Network | None = None
    boot: Boot | None = None


class Definition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A whole file as written."""

    defaults: Machine = field(default_factory=Machine)
    network: Pool = Pool()
    machines: dict[str, Machine] = {}
    profiles: dict[str, Profile] = {}


class Obsolete(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A package's name of another time: ``use`` is what is installed instead, and ``why``.

    ``releases`` are those that have the old name all the same.
    """

    use: str
    why: str
    releases: list[str] = []


class OwnRecipe(Struct, frozen=True, kw_only=True):
    """A recipe that came with the definition: its file; by release what of it counts for a base (a SHA-256), and the
    keyring beside it, as its path and the SHA-256 of its content.
    """

    path: str
    digests: dict[str, str] = {}
    keyrings: dict[str, tuple[str, str]] = {}


class DistributionFacts(Struct, frozen=True, kw_only=True):
    """What the loader has to know of a distribution, taken from its recipe by the caller.

    ``releases`` are in an order for people, the newest first. ``release_architectures`` has only the releases that differ
    from ``architectures``. ``components`` are those used when the definition does not say; ``bootstrap`` and ``variant``
    likewise. A family has no components, or no variants, when there are none here. ``versions`` are numbers by which people
    call releases that have names. ``sets`` and ``obsolete`` are the recipe's, those of releases come before them.
    """

    family: str
    architectures: list[str]
    releases: list[str]
    release_architectures: dict[str, list[str]] = {}
    components: list[str] = []
    bootstraps: list[str]
    bootstrap: str
    variants: list[str] = []
    variant: str = ""
    keyring: str = ""
    versions: dict[str, str] = {}
    sets: dict[str, list[str]] = {}
    release_sets: dict[str, dict[str, list[str]]] = {}
    obsolete: dict[str, Obsolete] = {}
    release_obsolete: dict[str, dict[str, Obsolete]] = {}
    own: OwnRecipe | None = None


class FileContent(Struct, frozen=True, kw_only=True):
    """A file of a layer with its content read. ``mode`` is the permission bits as a number."""

    path: str
    content: bytes
    mode: int
    owner: str
    group: str


class Script(Struct, frozen=True, kw_only=True):
    """A script of a layer. ``name`` is how a person finds it: ``script 2`` or the source's path."""

    name: str
    content: bytes


class RepositoryKeys(Struct, frozen=True, kw_only=True):
    """A repository with the content of its key file read."""

    name: str
    url: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    key: bytes


class BootTerms(Struct, frozen=True, kw_only=True):
    """How a machine is booted, every default filled in. ``timeout`` and ``stop_timeout`` are seconds."""

    enable: bool = False
    hostname: str = ""
    ephemeral: bool = False
    ready: str = ""
    timeout: float = 90.0
    stop_timeout: float = 30.0
    link_journal: str = "try-guest"
    nested: bool = False


class NetworkTerms(Struct, frozen=True, kw_only=True):
    """A private network, every default filled in. ``egress`` None: everything but the host."""

    bridge: str = ""
    isolated: bool = False
    publish: tuple[str, ...] = ()
    egress: tuple[str, ...] | None = None
    address: str = ""


class Contents(Struct, frozen=True, kw_only=True):
    """What one layer above the base adds. ``name`` is the profile's, or empty for the machine's own layer.

    ``packages`` are those for the machine's family. ``choices`` (packages by family) is filled only while the family
    is not known, which is so for a machine made from a layer until ``with_family`` says what that layer is.
    ``remove_packages`` and ``remove_choices`` are those that go once these are installed.
    ``notes`` say what became of names that are not installed as they are written; ``open`` says why ``@SETS`` among the
    packages cannot be. ``init``: the family's packages for a machine that boots are added. ``upgrade``: what is installed
    below is brought up to date, and nothing else. ``root_password`` is a crypt(5) hash, or empty
    for none at all; None leaves it as it is.
    """

    name: str
    packages: tuple[str, ...] = ()
    choices: dict[str, tuple[str, ...]] = {}
    remove_packages: tuple[str, ...] = ()
    remove_choices: dict[str, tuple[str, ...]] = {}
    notes: tuple[str, ...] = ()
    open: str = ""
    users: tuple[User, ...] = ()
    files: tuple[FileContent, ...] = ()
    scripts: tuple[Script, ...] = ()
    repositories: tuple[RepositoryKeys, ...] = ()
    services: tuple[str, ...] = ()
    locale: str = ""
    timezone: str = ""
    root_password: str | None = None
    init: bool = False
    upgrade: bool = False


class Base(Struct, frozen=True, kw_only=True):
    """What the base layer is made from, with the recipe's defaults filled in.

    ``mirror`` and ``keyring`` are empty when the definition does not say: then the host's own apt configuration or
    the recipe decides at build time, and they are no part of the layer's identity. ``keyring`` is a path and
    ``keyring_digest`` what stands for its content (``roost.definition.keyrings.digest``). ``from_layer`` names a committed
    layer instead of all the rest.
    ``recipe`` is the file of a recipe that came with the definition, and ``recipe_digest`` what of it counts.
    ``source`` is what else a base is made from ("tar:/FILE", see ``roost.definition.origins``), ``sha256`` what a tar must
    have, ``signature`` the address or path of the one that ``keyring`` is for.
    """

    distribution: str = ""
    release: str = ""
    architecture: str = ""
    bootstrap: str = ""
    variant: str = ""
    components: tuple[str, ...] = ()
    mirror: str = ""
    keyring: str = ""
    keyring_digest: str = ""
    check_valid_until: bool | None = None
    source_packages: bool = False
    from_layer: str = ""
    source: str = ""
    sha256: str = ""
    signature: str = ""
    recipe: str = ""
    recipe_digest: str = ""


class Resolved(Struct, frozen=True, kw_only=True):
    """One machine, ready to be planned. ``layers`` are its profiles in order, then its own (when it adds anything).

    ``family`` is empty for a machine made from a layer, or from a source whose family it does not say: ``with_family``
    fills it. ``binds`` have absolute sources and targets. ``memory``, ``disk`` and ``output`` are bytes, ``time`` is
    seconds. ``capabilities`` are those beyond the
    default ones. ``boot`` None: the definition does not say that it boots. ``network`` is the mode of runs,
    ``boot_network`` that of the booted machine. ``no_new_privileges`` None: nobody says, and the layer that it stands on
    may have a user with sudo; ``boot_no_new_privileges`` is that of the booted machine, which has users and their su.
    Lookups that fail later (a package that the mirror does not have) are the build's.
    """

    name: str
    description: str
    base: Base
    family: str
    profiles: tuple[str, ...]
    layers: tuple[Contents, ...]
    environment: dict[str, str]
    binds: tuple[Bind, ...]
    memory: int | None
    cpus: float | None
    tasks: int | None
    disk: int | None
    time: float | None
    output: int | None
    network: str
    private_users: bool
    capabilities: tuple[str, ...]
    no_new_privileges: bool | None
    boot: BootTerms | None = None
    boot_network: str = "private"
    boot_no_new_privileges: bool = False
    private_network: NetworkTerms = NetworkTerms()
    firstboot: tuple[Script, ...] = ()
