"""The doors through which input comes, each as a function of bytes that fails when Roost does what it must not.

``place`` is a directory of the caller's, for files; what a target makes there it makes again at each call.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec

import roost
from fuzz import checks, given, networks, recipes, shown
from roost import facts, ready
from roost.artifacts import expand
from roost.cli import main
from roost.cli.parser import parse
from roost.cli.running import run_of
from roost.definition import with_family
from roost.definition.package_sets import is_open
from roost.definition.schema import json_schema
from roost.distro import family
from roost.engine import execute, seccomp
from roost.engine.spec import Bound, Spec, nspawn_argv
from roost.errors import DefinitionError, Error, StoreError
from roost.host import files, selinux, syscalls
from roost.plan import Known, make
from roost.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

NOTHING = Known(present=(), last={}, names={"tuned": ("a" * 64, ("b" * 64, "a" * 64), "apt")})
_schema: list[Any] = []


def definition(data: bytes, place: Path) -> None:
    """A file is a definition or it is told why not; what is one can be planned, and fits the schema."""
    file = place / "roost.toml"
    file.write_bytes(data)
    try:
        loaded = roost.load(file)
    except DefinitionError as e:
        checks.told(e)
        if "mistake" in e.brief:
            lines = e.details.splitlines()
            assert all(line.startswith(f"{file}:") for line in lines)
            assert all(line.removeprefix(f"{file}:").split(":")[0].isdecimal() for line in lines[:200])
        return
    if not _schema:
        _schema.append(jsonschema.Draft202012Validator(json_schema()))
    _schema[0].validate(tomllib.loads(data.decode("utf-8-sig")))
    machines = list(loaded.machines.values())
    try:
        make(machines, NOTHING, facts.versions)
    except DefinitionError as e:
        checks.told(e)
    for machine in machines:
        manager = family("apt")
        for layer in with_family(machine, "apt").layers:
            if not is_open(layer.packages):  # which packages those are, only the tree says
                manager.install(layer.packages)
            for user in layer.users:
                manager.add_user(user)
        bound = tuple(Bound(source=b.source, target=b.target, read_only=b.read_only) for b in machine.binds)
        spec = Spec(
            machine=machine.name, layers=("/l",), directory="/d", mount_point="/m", init="/i", command=("true",),
            bound=bound, env=machine.environment,
        )  # fmt: skip
        assert not any("\0" in word or "\n" in word for word in nspawn_argv(spec))


def names(data: bytes, place: Path) -> None:
    """No name of a session, layer or machine leads out of the store, or is taken for another."""
    name = os.fsdecode(data)
    store = Store(str(place / "state"))
    for directory in ("layers", "machines", "names", "run/locks", "running", "sessions", "staging"):
        os.makedirs(f"{store.state}/{directory}", exist_ok=True)
    asks: list[Callable[[str], object]] = [
        store.session, store.session_directory, store.find_layer, store.remove_name, store.ask_to_keep,
        lambda name: store.set_name(name, "a" * 64), store.find_layer, store.remove_name,
    ]  # fmt: skip
    for ask in asks:
        try:
            found = ask(name)
        except StoreError as e:
            checks.told(e)
        else:
            if isinstance(found, str):
                assert os.path.dirname(os.path.normpath(found)) in {f"{store.state}/sessions", f"{store.state}/running"}
    assert sorted(os.listdir(place / "state")) == [
        "layers",
        "machines",
        "names",
        "run",
        "running",
        "sessions",
        "staging",
    ]
    assert not os.listdir(place / "state/names")
    assert os.listdir(place / "state/run") == ["locks"]
    assert not os.listdir(place / "state/run/locks")
    file = place / "named.toml"
    file.write_text('[machines.one]\nfrom = "layer:tuned"\n[machines.two-2]\nfrom = "layer:tuned"\n')
    try:
        chosen = roost.Manager(roost.load(file), state=store.state).machines([name])
    except DefinitionError as e:
        checks.told(e)
    else:
        assert {machine.name for machine in chosen} <= {"one", "two-2"}


def globs(data: bytes, place: Path) -> None:
    """Artifacts are found below the root only, each once, however the pattern and the links are."""
    tree = place / "tree"
    if not tree.exists():
        (tree / "a/b/c/a").mkdir(parents=True)
        (tree / "a/.hidden").mkdir()
        (tree / "a/b/file.log").write_text("x")
        (tree / "a/new\nline\x1b").write_text("x")
        for number in range(4):
            (tree / f"a/up{number}").symlink_to("..")
        (tree / "out").symlink_to("/etc")
        (tree / "far").symlink_to("../../../../../..")
        (tree / "self").symlink_to("self")
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    try:
        for pattern in os.fsdecode(data).split("\0")[:3]:
            found = list(expand(root, pattern))
            assert len(found) == len(set(found))
            for path in found[:50]:
                assert not path.startswith("/")
                assert ".." not in path.split("/")
                with contextlib.suppress(OSError):
                    fd = syscalls.openat2(path, os.O_PATH, root=root)
                    try:
                        assert files.printable(os.readlink(f"/proc/self/fd/{fd}")).startswith(str(tree))
                    finally:
                        os.close(fd)
    finally:
        os.close(root)


def command(data: bytes, place: Path) -> None:
    """A command line is understood, or refused in words; verbs that change nothing end with a status."""
    argv = [os.fsdecode(word) for word in data.split(b"\0")]
    file = place / "roost.toml"
    file.write_text('[machines.one]\ndistribution = "debian"\nrelease = "bookworm"\n[profiles.p]\n')
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            _command(argv, place)
    finally:
        os.chdir(before)
    checks.harmless(err.getvalue())
    assert "Traceback" not in err.getvalue()


def _command(argv: list[str], place: Path) -> None:
    try:
        options = parse(argv)
    except SystemExit as e:
        status = e.code
    else:
        status = _carried_out(options, argv, place)
    assert status in {0, 2, 3, 6, 125}


def _carried_out(options: argparse.Namespace, argv: list[str], place: Path) -> int:
    where = options.code.split(":")[1]
    if where in {"list_", "plan", "schema"}:
        before = argv[: argv.index("--")] if "--" in argv else argv
        return main([*before, "--state", str(place / "state")])
    if where == "run":
        try:
            run_of(options)
        except DefinitionError as e:
            checks.told(e)
    return 0


def records(data: bytes, place: Path) -> None:
    """A damaged record is an error in words, or is left out."""
    store = Store(str(place / "records"))
    digest, session = "a" * 64, "one-123456"
    definition = place / "roost.toml"
    definition.write_text('[machines.one]\ndistribution = "debian"\nrelease = "bookworm"\npackages = ["gcc"]\n')
    machines = store.machines_path(str(definition))
    os.makedirs(f"{store.state}/ready", exist_ok=True)
    paths = [
        ready._path(store, str(definition)),
        f"{store.state}/layers/{digest}/layer.json", f"{store.state}/sessions/{session}/session.json", machines,
        f"{store.state}/names/tuned",
    ]  # fmt: skip
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)
    for ask in (lambda: store.layer(digest), lambda: store.session(session), lambda: store.find_layer("tuned")):
        try:
            ask()
        except StoreError as e:
            checks.told(e)
    store.all_remembered()
    roost.Manager(roost.load(definition), state=store.state).plan()
    assert [layer.digest for layer in store.layers()] in ([], [digest])
    assert [record.id for record, _ in store.sessions()] in ([], [session])
    assert ready.find(store, str(definition), "one") is None
    with contextlib.suppress(seccomp._Other):
        seccomp._read(b"key", data)
    execute.unpack((data + bytes(execute.ENDED.size))[: execute.ENDED.size])
    msgspec.msgpack.encode(execute.unpack((data + bytes(execute.ENDED.size))[: execute.ENDED.size]))


def host_apt(data: bytes, place: Path) -> None:
    """What the host's apt is told may be anything: it is used, or named as a problem."""
    from roost.definition.model import Base
    from roost.distro import apt
    from roost.distro.recipe import recipe
    from roost.host import apt_conf

    root = place / "host"
    keyring = root / "usr/share/keyrings/debian-archive-keyring.gpg"
    for directory in ("etc/apt/apt.conf.d", "etc/apt/sources.list.d", "usr/share/keyrings"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    keyring.write_bytes(bytes([0x99, 0, 1]) + b"keys")
    (root / "etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    parts = data.split(b"\0")
    names = (
        "sources.list",
        "apt.conf",
        "sources.list.d/a.sources",
        "auth.conf",
        "sources.list.d/b.list",
        "apt.conf.d/c",
    )
    for number, name in enumerate(names):
        (root / "etc/apt" / name).write_bytes(parts[number] if number < len(parts) else b"")
    with contextlib.suppress(ValueError):
        settings = apt_conf.apply([], apt_conf.parse(data.decode(errors="replace")))
        settings = [setting for setting in settings if apt_conf.can_be_said(setting)]
        assert apt_conf.apply([], apt_conf.parse(apt_conf.dump(settings))) == settings
    host = apt.read_host(str(root))
    debian = recipe("debian")
    base = Base(
        distribution="debian", release="bookworm", architecture="amd64", bootstrap="mmdebstrap", variant="minbase",
        components=("main",),
    )  # fmt: skip
    debootstrap = msgspec.structs.replace(base, bootstrap="debootstrap")
    for tool in (base, debootstrap):
        try:
            made = apt.bootstrap(tool, debian, host=host, target="/t", private="/p", archives="/a")
            apt.finish(tool, debian, host=host)
            provision = apt.provision(tool, debian, host=host)
            assert not any("\0" in word for word in made.argv)
            apt_conf.parse(provision.files["apt.conf"].decode())
        except Error as e:
            checks.told(e)


def apt_said(data: bytes, place: Path) -> None:
    """The output of package managers, lists of installed packages and keyrings are read, whatever they hold."""
    from roost.distro import apt, dnf, keyring, pacman, zypper

    text = data.decode(errors="replace")
    for manager in (apt, dnf, zypper, pacman):
        checks.harmless(" ".join(repr(part) for part in (manager.unreachable(text), *manager.explain(text))))
        checks.harmless(" ".join(repr(item) for item in manager.packages(data).items()))
    try:
        keyring.binary(data, "keys")
        assert keyring.binary(keyring.armoured(data, "keys"), "keys") == keyring.binary(data, "keys")
    except Error as e:
        checks.told(e)


def denials(data: bytes, place: Path) -> None:
    """A log of SELinux's: whatever it holds, the module has nothing but rules, each of which a denial asked for."""
    text = data.decode(errors="backslashreplace")
    read = selinux.parse(text)
    taken = [one for one in read.denials if selinux.judge(one)[0]]
    rules = selinux.rules_of(taken)
    module = selinux.module_text(rules, [selinux.described(one) for one in read.denials])
    lines = [line for line in module.splitlines() if not line.startswith(";")]
    assert all(re.fullmatch(r"\((allow|typeattributeset cil_gen_require) [\w. ()]+\)", line) for line in lines)
    assert selinux.installed_rules("\n".join(lines)) == rules
    for (source, target, kind), permissions in rules.items():
        words = {source, kind, *permissions, *({target} - {"self"})}
        assert all(word in text for word in words)


_WORDS = Path(__file__).with_name("words")
_FLOODS = (b"a" * 300, b"\0" * 5000, b"\x1b" * 5000, b"\r" * 70000, b"x" * 70000)
_LONG = {
    "output": _FLOODS,
    "monitor": _FLOODS,
    "init": (b"a" * 5000, b"g:x:5:" + b"user," * 400 + b"\n"),
    "records": (b"[" * 3000,),
}


def words(name: str) -> tuple[bytes, ...]:
    """What gets further than chance would in a target: hypothesis puts it together, atheris has it as a dictionary."""
    lines = (_WORDS / name).read_text("ascii").splitlines()
    return (*(line.encode().decode("unicode_escape").encode("latin-1") for line in lines), *_LONG.get(name, ()))


def seeds(name: str) -> list[Path]:
    """Files with what people write."""
    top = Path(__file__).parents[2]
    written = (
        [
            top / "src/roost/definition/starter.toml",
            *sorted(top.glob("examples/*/roost.toml")),
            top / "examples/sai-farm.toml",
        ]
        if name == "definition"
        else []
    )
    return written + sorted((_WORDS.parent / "corpus" / name).glob("*"))


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    one.__name__: one
    for one in (
        definition,
        names,
        globs,
        command,
        records,
        host_apt,
        apt_said,
        denials,
        given.archive,
        given.image,
        networks.networks,
        recipes.recipe,
        shown.output,
        shown.monitor,
    )
}
