"""What an edit of the definition changes of a machine, in words, and whether it has to be started again for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

if TYPE_CHECKING:
    from roost.boot.record import Booted

# what a running machine takes over at once; everything else needs a start
_LIVE = {"environment", "definition"}
_LIVE_PARTS = {"boot": {"enable", "ready", "timeout"}, "terms": {"publish", "egress", "isolated"}}
_UNTOLD = {"previous", "refused", "uuid", "definition", "family", "architecture"}


class Change(Struct, frozen=True, kw_only=True):
    """One thing that changed: ``what`` a person calls it, with ``live`` when no start is needed for it."""

    what: str
    live: bool


def changes(old: Booted, new: Booted) -> list[Change]:
    """The differences of two records of one machine."""
    found = []
    for key, before in structs.asdict(old).items():
        after = getattr(new, key)
        if before == after or key in _UNTOLD:
            continue
        if isinstance(after, Struct) and isinstance(before, Struct):
            for name, one in structs.asdict(before).items():
                other = getattr(after, name)
                if one != other:
                    live = name in _LIVE_PARTS.get(key, ())
                    found.append(Change(what=_told(f"{key}.{name}", one, other), live=live))
        else:
            found.append(Change(what=_told(key, before, after), live=key in _LIVE))
    return found


_NAMES = {"terms": "network", "boot": "boot", "limits": "limits"}


def _told(key: str, before: Any, after: Any) -> str:
    top, _, name = key.partition(".")
    title = f"{_NAMES[top]}.{name.replace('_', '-')}" if name else top.replace("_", "-")
    if top in ("layers", "firstboot", "binds", "environment"):
        return f"{title} changed"
    shown = {"terms.egress": _egress, "limits.memory": _size}.get(key, _shown)
    return f"{title}: {shown(before)} to {shown(after)}"


def _egress(value: Any) -> str:
    return "everything" if value is None else "nothing" if not value else _shown(value)


def _size(value: int | None) -> str:
    """Bytes as a definition has them: ``2G``; what is no whole number of K stays one of bytes."""
    if not value:
        return _shown(value)
    unit = ""
    for larger in "KMGT":
        if value % 1024:
            break
        value, unit = value // 1024, larger
    return f"{value}{unit}"


def _shown(value: Any) -> str:
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
