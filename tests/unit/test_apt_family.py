"""What the apt family has the engine do. What it does then is seen in the system tests."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from roost.definition.model import Base, RepositoryKeys, User
from roost.distro import apt, recipe
from roost.distro.recipe import Origin
from roost.errors import DefinitionError, HostError
from roost.host.apt import Entry, HostApt

if TYPE_CHECKING:
    from pathlib import Path

    from roost.distro.recipe import Bootstrap, Inside

SECRET = "S3cretTok3n"
KEYS = bytes([0x99, 0, 1]) + b"keys"


@pytest.fixture
def host(tmp_path: Path) -> HostApt:
    folder = tmp_path / "usr/share/keyrings"
    folder.mkdir(parents=True)
    for name in ("debian-archive-keyring.gpg", "ubuntu-archive-keyring.gpg", "own.gpg"):
        (folder / name).write_bytes(KEYS)
    own = Entry(
        file="/etc/apt/sources.list",
        types=("deb",),
        uris=(f"https://user:{SECRET}@own.example/debian",),
        suites=("bookworm", "bookworm-security"),
        components=("main",),
        signed_by=("/usr/share/keyrings/own.gpg",),
    )
    return HostApt(
        root=str(tmp_path),
        distribution="debian",
        architecture="amd64",
        entries=(own,),
        options=(
            ("Acquire::https::Proxy", f"http://user:{SECRET}@proxy.example:8080"),
            ("Acquire::https::SslKey", "/etc/ssl/private/me.key"),
            ("Acquire::http::Proxy-Auto-Detect", "/usr/bin/find-proxy"),
        ),
        files={"/etc/ssl/private/me.key": SECRET.encode()},
    )


def base(release: str = "bookworm", distribution: str = "debian", **more: object) -> Base:
    values: dict[str, object] = {"architecture": "amd64", "bootstrap": "mmdebstrap", "variant": "minbase"}
    values |= {"components": tuple(recipe(distribution).components)} | more
    return replace(Base(distribution=distribution, release=release), **values)


def bootstrap(b: Base, host: HostApt) -> Bootstrap:
    return apt.bootstrap(
        b, recipe(b.distribution), host=host, target="/s/tree", private="/s/private", archives="/s/debs"
    )


def written(step: Inside) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(step.stdin)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            assert (member.mode, member.uid, member.gid) == (0o644, 0, 0)
            found[f"/{member.name}"] = content.read()
    return found


def test_no_secret_is_on_a_command_line_or_stays_in_a_tree(host: HostApt) -> None:
    for program in ("mmdebstrap", "debootstrap"):
        b = base(bootstrap=program)
        assert not [word for word in bootstrap(b, host).argv if SECRET in word]
        step = apt.finish(b, recipe("debian"), host=host)
        assert not [word for word in step.argv if SECRET in word]
        assert SECRET.encode() not in step.stdin


def test_secrets_are_where_the_programs_look_for_them(host: HostApt) -> None:
    files = bootstrap(base(), host).files
    assert f"machine https://own.example/debian login user password {SECRET}" in files["auth.conf"].decode()
    assert f'Acquire::https::Proxy "http://user:{SECRET}@proxy.example:8080";' in files["apt.conf"].decode()
    made = bootstrap(base(bootstrap="debootstrap"), host)
    assert made.files[".netrc"].decode() == f"machine own.example login user password {SECRET}\n"
    assert made.env["https_proxy"] == f"http://user:{SECRET}@proxy.example:8080"
    assert b"private_key = /etc/ssl/private/me.key" in made.files["wgetrc"]


def test_signatures_are_always_checked(host: HostApt) -> None:
    for release, distribution in (("bookworm", "debian"), ("sid", "debian"), ("noble", "ubuntu")):
        for program in ("mmdebstrap", "debootstrap"):
            b = base(release, distribution, bootstrap=program)
            made = bootstrap(b, host)
            everything = " ".join(made.argv) + "".join(c.decode("latin1") for c in made.files.values())
            everything += "".join(
                c.decode("latin1") for c in written(apt.finish(b, recipe(distribution), host=host)).values()
            )
            assert not re.search(r"trusted=|no-check-gpg|allow-?(insecure|weak|unauth)", everything, re.IGNORECASE)
            if program == "mmdebstrap":
                assert all("signed-by=" in word for word in made.argv if word.startswith("deb "))
            else:
                assert {"--force-check-gpg", "--keyring=/s/private/keyring.gpg"} <= set(made.argv)


def test_debootstrap_knows_no_name_that_its_script_does_not(host: HostApt) -> None:
    assert bootstrap(base("noble", "ubuntu", bootstrap="debootstrap"), host).argv[-4:] == (
        "noble",
        "/s/tree",
        "http://archive.ubuntu.com/ubuntu",
        "gutsy",
    )
    assert bootstrap(base("forky", bootstrap="debootstrap"), host).argv[-1] == "sid"
    assert not [w for w in bootstrap(base(bootstrap="debootstrap", variant="important"), host).argv if "variant" in w]


def test_the_scripts_are_shell(host: HostApt, tmp_path: Path) -> None:
    hooks = [word.split("=", 1)[1] for word in bootstrap(base(), host).argv if "-hook=" in word]
    steps: tuple[Inside, ...]
    steps = (apt.install(["make"]), apt.add_user(User(name="sai")), apt.finish(base(), recipe("debian"), host=host))
    keys = RepositoryKeys(name="q", url="https://q.example", suites=("./",), components=(), key=KEYS)
    steps += (apt.install(["make"], init=True), apt.add_repository(keys), apt.set_locale("C"), apt.set_timezone("UTC"))
    steps += (apt.remove(["make"]), apt.upgrade())
    steps += (apt.set_root_password(""), apt.enable(["ssh"]), apt.ready_to_boot())
    debootstrap = bootstrap(base(bootstrap="debootstrap"), host)
    for script in (*hooks, *(step.argv[2] for step in steps), debootstrap.argv[2]):
        assert subprocess.run(["/bin/sh", "-n"], check=False, input=script.encode(), capture_output=True).stderr == b""


def test_why_debootstrap_failed_is_shown(host: HostApt, tmp_path: Path) -> None:
    argv = list(bootstrap(base(bootstrap="debootstrap"), host).argv[:6])
    assert argv[3:] == ["sh", "", "/s/tree"]
    argv[5] = str(tmp_path)
    (tmp_path / "debootstrap").mkdir()
    (tmp_path / "debootstrap/debootstrap.log").write_text("wget: unable to resolve host address\n")
    failed = subprocess.run([*argv, "/bin/sh", "-c", "exit 3"], check=False, capture_output=True)
    assert (failed.returncode, failed.stdout) == (3, b"wget: unable to resolve host address\n")
    assert subprocess.check_output([*argv, "true"]) == b""


@pytest.mark.parametrize("variant", ["minbase", "required", "important", "buildd", "standard", "essential", "apt"])
def test_a_base_has_apt_where_that_is_not_required(variant: str, host: HostApt) -> None:
    """Ubuntu's is of priority important only."""
    argv = bootstrap(base("focal", "ubuntu", variant=variant), host).argv
    assert ("--include=apt" in argv) == (variant not in ("essential", "apt"))


def test_expired_keys_are_good_where_the_recipe_says_so_and_nowhere_else(host: HostApt) -> None:
    for release, expired in (("jessie", True), ("stretch", True), ("buster", False), ("bookworm", False)):
        b = base(release, mirror="http://m.example/debian", keyring=f"{host.root}/usr/share/keyrings/own.gpg")
        given = apt.provision(b, recipe("debian"), host=host)
        assert ("gpgv" in given.files) == expired
        assert (b"Apt::Key::gpgvcommand" in given.files["apt.conf"]) == expired
        own = bootstrap(replace(b, bootstrap="debootstrap"), host).files["gpgv"]
        assert (b"for kind in GOODSIG EXPKEYSIG;" in own) == expired


def test_certificates_for_trees_without_any(host: HostApt) -> None:
    """An image, and a repository by https over a mirror that is not."""
    trusting = replace(host, ca_bundle="/all.crt", files={**host.files, "/all.crt": b"all"}, options=())
    plain = base(mirror="http://m.example/debian", keyring=f"{host.root}/usr/share/keyrings/own.gpg")
    assert "certificates.pem" not in apt.provision(plain, recipe("debian"), host=trusting).files
    repository = Origin(url="https://r.example", keys="")
    given = apt.provision(plain, recipe("debian"), host=trusting, repositories=(repository,))
    assert given.files["certificates.pem"] == b"all"
    assert apt.provision(base(source="oci:x"), None, host=trusting).files["certificates.pem"] == b"all"


@pytest.mark.parametrize("path", ["/with space", '/with"quote', "/with$(sub)", "relative", "/x]"])
def test_paths_that_scripts_could_misread_are_refused(path: str, host: HostApt) -> None:
    with pytest.raises(HostError, match="cannot hold"):
        apt.bootstrap(base(), recipe("debian"), host=host, target=path, private="/p", archives="/a")


def test_a_mirror_on_this_disk_is_seen_inside(host: HostApt) -> None:
    local = base(mirror="file:///srv/mirror", bootstrap="debootstrap")
    assert apt.provision(local, recipe("debian"), host=host).binds == ("/srv/mirror",)
    argv = bootstrap(replace(local, bootstrap="mmdebstrap"), host).argv
    assert any('mount --bind -o ro /srv/mirror "$1/srv/mirror"' in word for word in argv)
    with pytest.raises(HostError, match="cannot hold"):
        bootstrap(replace(local, mirror="file:///srv/$x", bootstrap="mmdebstrap"), host)


def test_a_finished_base_has_sources_that_work_in_it(host: HostApt) -> None:
    files = written(apt.finish(base(source_packages=True), recipe("debian"), host=host))
    sources = files["/etc/apt/sources.list"].decode().splitlines()
    assert sources[0] == "deb [signed-by=/etc/apt/keyrings/roost.gpg] https://own.example/debian bookworm main"
    assert sources[1].startswith("deb-src [signed-by=/etc/apt/keyrings/roost.gpg]")
    assert len(sources) == 6
    assert files["/etc/apt/keyrings/roost.gpg"] == KEYS
    assert files["/etc/machine-id"] == files["/etc/resolv.conf"] == b""
    assert b"127.0.0.1 localhost" in files["/etc/hosts"]
    assert "/etc/hostname" not in files


def test_the_same_base_is_finished_the_same_way(host: HostApt) -> None:
    assert apt.finish(base(), recipe("debian"), host=host) == apt.finish(base(), recipe("debian"), host=host)


def test_files_of_the_host_are_handed_in_under_names_of_their_own(host: HostApt) -> None:
    given = apt.provision(base(), recipe("debian"), host=host)
    conf = given.files["apt.conf"].decode()
    (name,) = re.findall(r'SslKey "/run/roost/provision/([^"]+)"', conf)
    assert given.files[name] == SECRET.encode()
    assert "Auto-Detect" not in conf, "a program of the host is not there inside"
    assert 'Dir::Etc::netrc "/run/roost/provision/auth.conf"' in conf
    assert given.env["APT_CONFIG"] == "/run/roost/provision/apt.conf"
    assert given.cache == "/var/cache/apt/archives"


def test_a_layer_of_unknown_origin_gets_no_credentials(host: HostApt) -> None:
    given = apt.provision(
        Base(from_layer="mine"), None, host=replace(host, auth="machine own.example login a password b")
    )
    assert given.files["auth.conf"] == b""
    assert "Acquire::https::Proxy" in given.files["apt.conf"].decode()
    assert given.cache_key not in ("", apt.provision(base(), recipe("debian"), host=host).cache_key)


def test_further_repositories_are_reached_and_have_a_package_cache_of_their_own(host: HostApt) -> None:
    """apt takes a package from the cache by its name and size: another's must not pass for the distribution's."""
    host = replace(
        host, auth=f"machine q.example login me password {SECRET}2\nmachine other.example login a password b"
    )
    plain = apt.provision(base(), recipe("debian"), host=host)
    remote = Origin(url="https://q.example/debian", keys="1")
    local = Origin(url="file:///srv/a%20repository/", keys="1")
    given = apt.provision(base(), recipe("debian"), host=host, repositories=[remote, local])
    auth = given.files["auth.conf"].decode()
    assert f"machine q.example login me password {SECRET}2" in auth
    assert "q.example" not in plain.files["auth.conf"].decode()
    assert "other.example" not in auth
    assert given.binds == ("/srv/a repository",)
    others = [[remote], [local], [replace(remote, keys="2")], [remote, local]]
    keys = [apt.provision(base(), recipe("debian"), host=host, repositories=one).cache_key for one in others]
    assert len({plain.cache_key, *keys}) == 5
    assert apt.provision(base(), recipe("debian"), host=host, repositories=[local, remote]).cache_key == given.cache_key


def test_a_hash_is_on_no_command_line() -> None:
    step = apt.set_root_password("$6$salt$hash")
    assert step.stdin == b"$6$salt$hash\n"
    assert not [word for word in step.argv if "salt" in word]


def test_a_file_without_keys_is_refused_before_anything_is_done() -> None:
    bad = RepositoryKeys(name="q", url="https://q.example", suites=("sid",), components=("main",), key=b"no keys")
    with pytest.raises(HostError, match="holds no OpenPGP keys"):
        apt.add_repository(bad)


@pytest.mark.parametrize("package", ["sysvinit-core", "sysvinit-core=3.06-4", "runit-init/sid"])
def test_another_init_stays_alone(package: str) -> None:
    assert apt.install([package, "make"], init=True) == apt.install([package, "make"])
    assert apt.install(["make"], init=True) != apt.install(["make"])


def test_names_are_arguments_and_never_part_of_a_script() -> None:
    assert apt.install(["make", "g++", "cmake=3.25.1-1", "libc6:i386"]).argv[4:] == (
        "make",
        "g++",
        "cmake=3.25.1-1",
        "libc6:i386",
    )
    for bad in ("-o", "a b", "$(id)", "x;y", "gone-", ""):
        with pytest.raises(DefinitionError, match="not the name of a package"):
            apt.install([bad])


def test_an_account_is_nobody_s_unless_a_group_is_given() -> None:
    words = apt.add_user(User(name="sai", uid=883, sudo="nopasswd", groups=["dialout", "kvm"])).argv[4:]
    assert words == ("sai", "883", "nogroup", "/home/sai", "/bin/sh", "dialout kvm", "nopasswd", "roost-sai")
    assert apt.add_user(User(name="a.b", group="users", home="/srv/a")).argv[4:8] == ("a.b", "", "users", "/srv/a")
    assert apt.add_user(User(name="a.b")).argv[-1] == "roost-a_b", "sudo reads no file with a dot in its name"


@pytest.mark.parametrize(
    "user",
    [
        User(name="a b"),
        User(name="root ALL=(ALL) NOPASSWD"),
        User(name="-x"),
        User(name="a", home="rel"),
        User(name="a", shell="/bin/a:b"),
        User(name="a", groups=["x y"]),
    ],
)
def test_accounts_that_files_cannot_hold_are_refused(user: User) -> None:
    with pytest.raises(DefinitionError):
        apt.add_user(user)


def test_installed_packages_are_listed() -> None:
    status = (
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-2\nDescription: shell\n"
        " Version: no field\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n\n"
        "Package: libc6\nStatus: hold ok installed\nArchitecture: i386\nVersion: 2.36\n"
    )
    assert apt.packages(status.encode()) == {"bash": "5.2-2", "libc6": "2.36", "libc6:i386": "2.36"}
    assert apt.packages(b"") == {}
