"""Archives that are checked before they are unpacked: by keys of every kind, and while somebody else writes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tarfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

from roost.bases import released
from roost.distro.keyring import binary
from roost.distro.recipe import Archive
from roost.errors import StoreError
from roost.store import Store
from system.sources_rig import Keys, call, make_tree
from system.test_sources import half_made, machine, packed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from system.rig import Rig

SAYS = {
    "revoked": "the key that signed it was revoked",
    "expired": "the key that signed it has expired",
    "past": "it was good until a day that has passed",
    "wrong": "it is by another key",
}


def key_of(kind: str, place: Path, sign: Callable[[Keys, tuple[str, ...]], object]) -> Path:
    """A keyring, after something was signed by what it holds, or does not."""
    keys = Keys(place / "gnupg", then=kind in ("expired", "past"), until="2020-02-01" if kind == "expired" else "never")
    sign(keys, ("--default-sig-expire", "1d") if kind == "past" else ())
    if kind == "revoked":
        keys.revoke()
    elif kind == "wrong":
        keys.close()
        keys = Keys(place / "other")
    keys.close()
    return keys.public(place / "keys.asc")


@pytest.mark.parametrize("kind", SAYS)
def test_an_archive_that_is_signed_by_a_key_of_no_worth(tiny: Rig, tmp_path: Path, kind: str) -> None:
    archive = packed(make_tree(tmp_path / "tree"), tiny.directory / "root.tar")
    key = key_of(kind, tmp_path, lambda keys, more: keys.sign(archive, *more))
    tiny.define(machine("tar:root.tar", f'keyring = "{key}"'))
    done = tiny("build")
    assert done.status == 10, done
    assert f"root.tar.asc is no good signature by one of the keys of keys.asc: {SAYS[kind]}" in done.said
    assert "hint:" in done.said
    assert half_made(tiny) == []


class Mirror(NamedTuple):
    """A mirror on this disk, of one archive, with a text that says where it is."""

    directory: Path
    archive: Path

    def of(self, keys: Path, **more: object) -> Archive:
        """The archive, as a family asks for it."""
        return Archive(
            url=f"file://{self.directory}/latest.txt", keys=binary(keys.read_bytes(), str(keys)), pointer=r"^(root\.tar)$",
            clearsigned=True, signature=".asc", digests=".DIGESTS", **more,  # type: ignore[arg-type]
        )  # fmt: skip

    def sign(self, keys: Keys, more: tuple[str, ...] = ()) -> None:
        """Writes what says where and what the archive is, and signs all of it."""
        (self.directory / "latest.txt").write_text("root.tar\n")
        digest = hashlib.sha512(self.archive.read_bytes()).hexdigest()
        (self.directory / "root.tar.DIGESTS").write_text(f"{digest}  root.tar\n")
        for name in ("latest.txt", "root.tar.DIGESTS"):
            keys.clearsign(self.directory / name, *more)
        keys.sign(self.archive, *more)


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """Nothing in it is signed yet."""
    directory = tmp_path / "mirror"
    directory.mkdir()
    tree = tmp_path / "tree"
    (tree / "top/profiles").mkdir(parents=True)
    (tree / "top/profiles/one").write_text("one\n")
    (tree / "top/profiles/two").hardlink_to(tree / "top/profiles/one")
    (tree / "top/three").hardlink_to(tree / "top/profiles/one")
    with tarfile.open(directory / "root.tar", "w") as archive:
        archive.add(tree / "top", "top")
    return Mirror(directory, directory / "root.tar")


def fill(archive: Archive, place: Path, say: Callable[[bytes], None] = lambda _: None) -> Path:
    """What comes of an archive."""
    tree, private = place / "made", place / "private"
    tree.mkdir()
    private.mkdir()
    released.fill(Store(str(place / "state")), [archive], tree=str(tree), private=str(private), say=say)
    return tree


@pytest.mark.parametrize("kind", SAYS)
def test_a_mirror_that_is_signed_by_a_key_of_no_worth(mirror: Mirror, tmp_path: Path, kind: str) -> None:
    """The texts, and the archive when the texts are good."""
    key = key_of(kind, tmp_path, mirror.sign)
    with pytest.raises(StoreError) as caught:
        fill(mirror.of(key), tmp_path)
    assert caught.value.brief == (
        f"latest.txt of the mirror has no good signature by one of the keys of the keyring: {SAYS[kind]}"
    )
    good = Keys(tmp_path / "good")
    both = tmp_path / "both.gpg"
    both.write_bytes(key.read_bytes() + good.public(tmp_path / "good.asc").read_bytes())
    signature = (mirror.directory / "root.tar.asc").read_bytes()
    mirror.sign(good)
    good.close()
    (mirror.directory / "root.tar.asc").write_bytes(signature)
    (tmp_path / "made").rmdir()
    call("rm", "-r", tmp_path / "private")
    with pytest.raises(StoreError) as caught:
        fill(mirror.of(both), tmp_path)
    assert caught.value.brief == (f"root.tar.asc is no good signature by one of the keys of the keyring: {SAYS[kind]}")


def test_a_text_that_is_signed_by_nobody_or_was_changed(mirror: Mirror, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "gnupg")
    mirror.sign(keys)
    keys.close()
    archive = mirror.of(keys.public(tmp_path / "keys.asc"))
    text = (mirror.directory / "latest.txt").read_text()
    for other, says in (("root.tar\n", "there is none"), (text.replace("root", "boot"), "another content")):
        (mirror.directory / "latest.txt").write_text(other)
        with pytest.raises(StoreError) as caught:
            fill(archive, tmp_path)
        assert caught.value.brief.startswith("latest.txt of the mirror has no good signature"), caught.value
        assert says in caught.value.brief
        call("rm", "-r", tmp_path / "private", tmp_path / "made")


def test_hard_links_of_an_archive_that_has_another_place(mirror: Mirror, tmp_path: Path) -> None:
    """A link is to a path of the archive, of which a part is taken."""
    with contextlib.closing(Keys(tmp_path / "gnupg")) as keys:
        mirror.sign(keys)
        archive = mirror.of(keys.public(tmp_path / "keys.asc"), place="var/db/repos/x", only=("profiles",))
        made = fill(archive, tmp_path) / "var/db/repos/x"
        assert sorted(path.name for path in made.rglob("*")) == ["one", "profiles", "two"]
        assert (made / "profiles/one").samefile(made / "profiles/two")
        call("rm", "-r", tmp_path / "private", tmp_path / "made")
        with tarfile.open(mirror.archive, "w") as tar:
            tar.add(tmp_path / "tree/top/three", "top/three")
            tar.add(tmp_path / "tree/top/profiles", "top/profiles")
        mirror.sign(keys)
    with pytest.raises(StoreError) as caught:
        fill(archive, tmp_path)
    assert caught.value.brief == "root.tar: 'top/profiles/one' is a link to 'top/three', which is left out"


# -- a host without gpgv


def test_a_host_without_gpgv(tiny: Rig, tmp_path: Path) -> None:
    """No signature was found to be bad: nobody has looked at it."""
    archive = packed(make_tree(tmp_path / "tree"), tiny.directory / "root.tar")
    key = key_of("good", tmp_path, lambda keys, more: keys.sign(archive, *more))
    tiny.define(machine("tar:root.tar", f'keyring = "{key}"'))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    os.mknod(hidden / "gpgv", stat.S_IFCHR, 0)  # as overlayfs hides a file
    script = f'mount -t overlay none -o lowerdir={hidden}:/usr/bin /usr/bin && exec "$@"'
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")
    done = tiny("build", prefix=prefix)
    assert done.status == 10, done
    assert "gpgv is not installed" in done.said
    assert "apt install gpgv" in done.said
    assert "no good signature" not in done.said
    done = tiny("doctor", "--json", prefix=prefix)
    [found] = [one for one in json.loads(done.text) if one["name"] == "bootstrap"]
    assert (found["state"], "apt install gpgv" in found["remedy"]) == ("warning", True)
    assert tiny("build").status == 0


# -- what changes meanwhile


@pytest.mark.parametrize("how", ["another file", "the same file"])
def test_an_archive_that_is_changed_when_it_was_checked(mirror: Mirror, tmp_path: Path, how: str) -> None:
    """What was checked is unpacked, or nothing."""
    keys = Keys(tmp_path / "gnupg")
    mirror.sign(keys)
    keys.close()
    bad = tmp_path / "bad.tar"
    bad.write_bytes(mirror.archive.read_bytes().replace(b"one\n", b"bad\n"))

    def say(text: bytes) -> None:
        if b"the digest is right" not in text:
            return
        if how == "another file":
            bad.rename(mirror.archive)
        else:
            mirror.archive.write_bytes(bad.read_bytes())

    archive = mirror.of(keys.public(tmp_path / "keys.asc"))
    if how == "another file":
        assert (fill(archive, tmp_path, say) / "top/profiles/one").read_text() == "one\n"
        return
    with pytest.raises(StoreError) as caught:
        fill(archive, tmp_path, say)
    assert caught.value.brief == "root.tar changed while it was read"


def test_a_mirror_of_what_are_no_files(mirror: Mirror, tmp_path: Path) -> None:
    """Nobody waits for a pipe's other end."""
    keys = Keys(tmp_path / "gnupg")
    mirror.sign(keys)
    keys.close()
    for name in ("root.tar.asc", "root.tar", "latest.txt"):
        (mirror.directory / name).unlink()
        os.mkfifo(mirror.directory / name)
        with pytest.raises(StoreError) as caught:
            fill(mirror.of(keys.public(tmp_path / "keys.asc")), tmp_path)
        assert caught.value.brief == f"file://{mirror.directory}/{name} is no file"
        call("rm", "-r", tmp_path / "private", tmp_path / "made")
