"""What an update is found to have changed, and what a person is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import to_builtins
from stored_layers import DPKG, dpkg, put
from test_plan import plan

from roost import manifest
from roost.cli.updated import summary, tell
from roost.distro import portage
from roost.plan import Known, upgrade_of
from roost.store import Store
from roost.updates import Change, Update, Updated, compare

if TYPE_CHECKING:
    from pathlib import Path

    from roost.plan import Plan

STAMP = "2026-11-21T10:00:00Z"
ON_ONE_BASE = '[defaults]\ndistribution = "debian"\nrelease = "bookworm"\narchitecture = "amd64"\nprofiles = ["p"]\n'
PROFILE = '[profiles.p]\npackages = ["tool"]\n'


def definition(*machines: str, more: str = "") -> str:
    """Machines on one base and one profile."""
    return ON_ONE_BASE + more + "".join(f"[machines.{name}]\n" for name in machines) + PROFILE


class Story:
    """A definition, its layers before and after an update, and what is said about that."""

    def __init__(self, place: Path, text: str) -> None:
        self.place, self.text = place, text
        self.store = Store(str(place / "state"))
        self.older = self._plan({})
        self.stamps = self.older.anew(STAMP)
        self.newer = self._plan(self.stamps)

    def _plan(self, refreshed: dict[str, str]) -> Plan:
        return plan(self.place, self.text, Known(present=(), last={}, names={}, refreshed=refreshed))

    def put(self, which: Plan, lists: dict[str, tuple[str, ...]], files: dict[str, str] | None = None) -> None:
        """The layers of a plan; ``lists``: packages by the layer's first word, ``files`` are in each, too."""
        for item in which.machines:
            for number, digest in enumerate(item.layers):
                layer = next(one for one in which.layers if one.digest == digest)
                kind = layer.name.split()[0]
                if not self.store.has(digest):
                    own = {DPKG: dpkg(*lists[kind])} if kind in lists else {}
                    put(
                        self.store,
                        layer.name,
                        *item.layers[:number],
                        digest=digest,
                        facts=layer.facts,
                        files={**own, **(files or {})},
                    )

    def update(self) -> Update:
        """With the older plan as what was built last."""
        layers = {layer.digest: layer for layer in self.older.layers}
        last: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
            item.machine.name: [
                ("base" if layers[one].kind == "base" else layers[one].name, one, {}) for one in item.layers
            ]
            for item in self.older.machines
        }
        return Update(self.store, self.older, last)


def test_versions_are_compared_by_name() -> None:
    found = compare({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"})
    assert found == (Change(name="b", before="1", after="2"), Change(name="c", before="1"), Change(name="d", after="1"))
    assert to_builtins(found[0]) == {"name": "b", "from": "1", "to": "2"}


def test_ten_machines_on_one_base_are_told_once(tmp_path: Path) -> None:
    story = Story(tmp_path, definition(*(f"m{number}" for number in range(10))))
    story.put(story.older, {"base": ("libc6 1", "tzdata 1"), "profile": ("libc6 1", "tzdata 1", "tool 1", "old 1")})
    story.put(story.newer, {"base": ("libc6 2", "tzdata 1"), "profile": ("libc6 2", "tzdata 1", "tool 2", "new 1")})
    base, profile = story.update().report(story.newer)
    assert (base.layer, base.changes) == ("base debian bookworm amd64", (Change(name="libc6", before="1", after="2"),))
    assert base.machines == profile.machines == tuple(f"m{number}" for number in range(10))
    assert [one.name for one in profile.changes] == ["new", "old", "tool"]
    assert story.update().needless(story.newer, story.stamps) == set()


def test_layers_that_are_the_same_are_needless(tmp_path: Path) -> None:
    story = Story(tmp_path, definition("a", "b"))
    same = {"base": ("libc6 1",), "profile": ("libc6 1", "tool 1")}
    story.put(story.older, same, {"etc/motd": "x\n", "etc/shadow": "root:*:1\n", "var/log": "yesterday\n"})
    story.put(story.newer, same, {"etc/motd": "x\n", "etc/shadow": "root:*:2\n", "var/log": "today\n"})
    assert story.update().needless(story.newer, story.stamps) == set(story.stamps)
    assert {one.changes for one in story.update().report(story.newer)} == {()}


@pytest.mark.parametrize(("built", "needless"), [("1", True), ("2", False)])
def test_a_base_of_packages_that_were_built_again_is_kept(tmp_path: Path, built: str, needless: bool) -> None:
    """Gentoo's may have the version that they had."""
    text = '[machines.g]\ndistribution = "gentoo"\nrelease = "rolling"\narchitecture = "amd64"\n'
    story = Story(tmp_path, text)
    for which, number in ((story.older, "1"), (story.newer, built)):
        [layer] = which.layers
        listed = {portage.STATUS_PATH: f"app-misc/hello-1\t0\t{number}\n"}
        put(story.store, layer.name, digest=layer.digest, family="portage", facts=layer.facts, files=listed)
    assert story.update().needless(story.newer, story.stamps) == (set(story.stamps) if needless else set())
    assert {one.changes for one in story.update().report(story.newer)} == {()}


@pytest.mark.parametrize(
    ("machine", "before", "after"),
    [
        (
            "",
            {"etc/apt/sources.list": "deb http://one.example\n"},
            {"etc/apt/sources.list": "deb http://two.example\n"},
        ),
        ("", {"etc/new": "x"}, {}),
        ('scripts = ["git clone example"]\n', {}, {}),
    ],
)
def test_layers_that_may_differ_are_kept(
    tmp_path: Path, machine: str, before: dict[str, str], after: dict[str, str]
) -> None:
    """In their settings, or in what a script has found this time."""
    story = Story(tmp_path, definition("a", more=machine))
    same = {"base": ("libc6 1",), "profile": ("libc6 1", "tool 1")}
    story.put(story.older, same, before)
    story.put(story.newer, same, after)
    assert story.update().needless(story.newer, story.stamps) == set()
    assert summary(story.update().report(story.newer)).startswith("no package changed; ")


def test_one_machine_that_needs_the_new_base_keeps_it_for_all(tmp_path: Path) -> None:
    story = Story(tmp_path, definition("a", "b").replace("[machines.b]\n", '[machines.b]\npackages = ["more"]\n'))
    same = {"base": ("libc6 1",), "profile": ("libc6 1", "tool 1")}
    story.put(story.older, {**same, "machine": ("libc6 1", "tool 1", "more 1")})
    story.put(story.newer, {**same, "machine": ("libc6 1", "tool 1", "more 2")})
    update = story.update()
    assert update.needless(story.newer, story.stamps) == set()
    [told] = [one for one in update.report(story.newer) if one.changes]
    assert (told.layer, told.machines) == ("machine b", ("b",))


def test_without_an_earlier_layer_there_is_nothing_to_compare(tmp_path: Path) -> None:
    story = Story(tmp_path, definition("a"))
    story.put(story.newer, {"base": ("libc6 1",), "profile": ("libc6 1", "tool 1")})
    for update in (Update(story.store, story.older, {}), story.update()):  # never built; and built, but removed since
        found = update.report(story.newer)
        assert [(one.compared, one.changes) for one in found] == [(False, ()), (False, ())]
        assert summary(found).startswith("2 layers made for the first time, or")
        assert update.needless(story.newer, story.stamps) == set()


def test_a_profile_that_was_not_there_adds_its_packages(tmp_path: Path) -> None:
    story = Story(tmp_path, definition("a"))
    story.put(story.older, {"base": ("libc6 1",), "profile": ("libc6 1", "tool 1")})
    story.put(story.newer, {"base": ("libc6 1",), "profile": ("libc6 1", "tool 1")})
    update = Update(story.store, story.older, {"a": [("base", story.older.layers[0].digest, {})]})
    assert [one.changes for one in update.report(story.newer)] == [(), (Change(name="tool", after="1"),)]


# -- bases that are given


GIVEN = '[machines.a]\nfrom = "layer:kept"\n[machines.b]\nfrom = "layer:kept"\npackages = ["tool"]\n'
KEPT = {"kept": ("c" * 64, ("b" * 64, "c" * 64), "apt")}


def test_what_is_given_is_upgraded_in_a_layer_on_it(tmp_path: Path) -> None:
    """Which machines share, with layers of their own or without, and which is not made when nothing is to be updated."""
    known = Known(present=(), last={}, names=KEPT)
    before = plan(tmp_path, GIVEN, known)
    assert [layer.name for layer in before.layers] == ["machine b"]
    stamps = before.anew(STAMP)
    assert stamps == {upgrade_of("c" * 64): STAMP}
    after = plan(tmp_path, GIVEN, Known(present=(), last={}, names=KEPT, refreshed=stamps))
    assert [layer.name for layer in after.layers] == ["upgrade of layer:kept", "machine b"]
    upgrade = after.layers[0]
    assert (upgrade.machines, upgrade.parent, upgrade.identity) == (("a", "b"), "c" * 64, upgrade_of("c" * 64))
    assert after.machines[0].layers == ("b" * 64, "c" * 64, upgrade.digest)
    later = "2026-11-22T10:00:00Z"
    assert after.anew(later) == {upgrade_of("c" * 64): later}
    again = plan(tmp_path, GIVEN, Known(present=(), last={}, names=KEPT, refreshed=after.anew(later)))
    assert again.machines[0].layers[:2] == ("b" * 64, "c" * 64)
    assert len(again.machines[0].layers) == 3
    assert again.layers[0].digest != upgrade.digest


def test_where_nobody_can_upgrade_the_layer_above_is_made_anew(tmp_path: Path) -> None:
    names = {"kept": ("c" * 64, ("b" * 64, "c" * 64), "none")}
    text = '[machines.a]\nfrom = "layer:kept"\nscripts = ["true"]\n'
    before = plan(tmp_path, text, Known(present=(), last={}, names=names))
    assert before.anew(STAMP) == {before.layers[0].identity: STAMP}


def test_an_upgrade_that_changed_nothing_is_needless(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "state"))
    put(store, "base", digest="b" * 64, files={DPKG: dpkg("libc6 1")})
    put(store, "layer kept", "b" * 64, digest="c" * 64)
    text = '[machines.a]\nfrom = "layer:kept"\n'
    older = plan(tmp_path, text, Known(present=(), last={}, names=KEPT))
    stamps = older.anew(STAMP)
    newer = plan(tmp_path, text, Known(present=(), last={}, names=KEPT, refreshed=stamps))
    [upgrade] = newer.layers
    update = Update(store, older, {"a": []})
    put(
        store,
        upgrade.name,
        "b" * 64,
        "c" * 64,
        digest=upgrade.digest,
        files={DPKG: dpkg("libc6 1"), "var/lib/x": "today"},
    )
    assert update.needless(newer, stamps) == {upgrade_of("c" * 64)}
    store = Store(str(tmp_path / "other"))
    put(store, "base", digest="b" * 64, files={DPKG: dpkg("libc6 1")})
    put(store, "layer kept", "b" * 64, digest="c" * 64)
    put(store, upgrade.name, "b" * 64, "c" * 64, digest=upgrade.digest, files={DPKG: dpkg("libc6 2")})
    update = Update(store, older, {"a": []})
    assert update.needless(newer, stamps) == set()
    [told] = update.report(newer)
    assert told.changes == (Change(name="libc6", before="1", after="2"),)


def test_a_tree_without_a_list_gained_nothing_by_getting_one(tmp_path: Path) -> None:
    """Of rpm's own database nobody can read, a list is written once a layer of Roost's stands on it."""
    store = Store(str(tmp_path / "state"))
    put(store, "image", digest="b" * 64, family="dnf")
    put(store, "layer kept", "b" * 64, digest="c" * 64, family="dnf")
    names = {"kept": ("c" * 64, ("b" * 64, "c" * 64), "dnf")}
    text = '[machines.a]\nfrom = "layer:kept"\n'
    older = plan(tmp_path, text, Known(present=(), last={}, names=names))
    newer = plan(tmp_path, text, Known(present=(), last={}, names=names, refreshed=older.anew(STAMP)))
    listed = {"var/lib/roost/packages": "bash\t5-1\tx86_64\n"}
    put(store, "upgrade", "b" * 64, "c" * 64, digest=newer.layers[0].digest, family="dnf", files=listed)
    update = Update(store, older, {})
    assert update.needless(newer, older.anew(STAMP)) == set()
    assert [(one.changes, one.compared) for one in update.report(newer)] == [((), False)]


# -- as it is told


def updated(*changes: Change, machines: tuple[str, ...] = ("m",)) -> Updated:
    """A base with these changes."""
    return Updated(
        layer="base debian bookworm amd64", digest="a" * 64, before="b" * 64, machines=machines, changes=changes
    )


def test_a_table_for_each_layer_and_a_line_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    rose, came, went = (
        Change(name="libc6", before="1", after="2"),
        Change(name="new", after="1"),
        Change(name="old", before="1"),
    )
    tell([updated(rose, came, went, machines=tuple("abcdefg")), updated()])
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "base debian bookworm amd64, for a, b, c, d and 3 more",
        "PACKAGE  FROM   TO",
        "libc6    1      2",
        "new      added  1",
        "old      1      removed",
        "",
    ]
    assert err == "packages: 1 changed, 1 added, 1 removed, in 1 layer\n"


def test_what_acts_on_a_terminal_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    tell([updated(Change(name="\x1b[2J", before="1", after="\x07"), machines=("\x1b]0;x",))])
    assert "\x1b" not in capsys.readouterr().out


def test_that_nothing_changed_is_said() -> None:
    assert summary([]) == "nothing changed: the layers that were there stay"
    assert summary([updated()]) == "no package changed; 1 layer may differ otherwise, by scripts or settings"


def test_settings_are_the_files_of_a_directory_without_their_times(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for path in ("etc/a b", "etc/d/e/f", "usr/etc/no", "etc2"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(path)
    (tree / "etc/link").symlink_to("d")
    manifest.write(str(tree), str(tmp_path / "manifest"))
    found = manifest.settings(str(tmp_path / "manifest"), b"etc")
    assert sorted(found) == ["/etc/a b", "/etc/d/e/f", "/etc/link"]
    assert not any(b"time" in words for words in found.values())
    assert manifest.settings(str(tmp_path / "none"), b"etc") == {}
