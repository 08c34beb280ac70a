"""The steps that make a layer above a base: what its definition asks for, in the order in which it can be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from roost.distro.recipe import Inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roost.definition.model import Contents
    from roost.distro.recipe import Family

_PUT_FILE = """set -e
parent=${4%/*}
[ -z "$parent" ] || mkdir -p "$parent"
rm -f "$4"
cat > "$4"
chown "$2:$3" "$4"
chmod "$1" "$4"
"""
_RUN_SCRIPT = """set -e
file=$(mktemp /tmp/roost-script.XXXXXX)
cat > "$file"
chmod 700 "$file"
status=0
if [ "$(head -c 2 "$file")" = '#!' ]; then "$file" </dev/null || status=$?; else sh "$file" </dev/null || status=$?; fi
rm -f "$file"
exit "$status"
"""


class Step(Struct, frozen=True, kw_only=True):
    """A named command for the inside; ``manager``: the package manager's own work."""

    name: str
    inside: Inside
    manager: bool = False


def steps_of(contents: Contents, family: Family) -> Sequence[Step]:
    """All that ``contents`` asks for: repositories, packages, settings, users, files, scripts, services."""
    if contents.upgrade:
        return [Step(name="upgrade packages", inside=family.upgrade(), manager=True)]
    steps = [Step(name=f"repository {one.name}", inside=family.add_repository(one)) for one in contents.repositories]
    if contents.packages or contents.init or contents.repositories:
        count = len(contents.packages)
        packages = "" if not count else contents.packages[0] if count == 1 else f"{count} packages"
        what = " and ".join(word for word in ("an init" if contents.init else "", packages) if word)
        name = f"install {what}" if what else "look at the repositories"
        inside = family.install(contents.packages, init=contents.init)
        steps.append(Step(name=name, inside=inside, manager=True))
    if gone := contents.remove_packages:
        name = f"remove {gone[0] if len(gone) == 1 else f'{len(gone)} packages'}"
        steps.append(Step(name=name, inside=family.remove(gone), manager=True))
    if contents.locale:
        steps.append(Step(name=f"locale {contents.locale}", inside=family.set_locale(contents.locale), manager=True))
    if contents.timezone:
        zone = contents.timezone
        steps.append(Step(name=f"timezone {zone}", inside=family.set_timezone(zone), manager=True))
    steps += [Step(name=f"user {user.name}", inside=family.add_user(user), manager=True) for user in contents.users]
    if contents.root_password is not None:
        inside = family.set_root_password(contents.root_password)
        steps.append(Step(name="root password", inside=inside, manager=True))
    for file in contents.files:
        argv = ("sh", "-c", _PUT_FILE, "sh", f"{file.mode:o}", file.owner, file.group, file.path)
        steps.append(Step(name=f"file {file.path}", inside=Inside(argv=argv, stdin=file.content)))
    steps += [
        Step(name=script.name, inside=Inside(argv=("sh", "-c", _RUN_SCRIPT), stdin=script.content))
        for script in contents.scripts
    ]
    if contents.scripts and (listing := family.list_packages()):
        steps.append(Step(name="list packages", inside=listing))
    if contents.services:  # after the scripts, which may have brought their units
        steps.append(Step(name="enable services", inside=family.enable(contents.services)))
    if contents.init:
        steps.append(Step(name="ready to boot", inside=family.ready_to_boot()))
    return steps
