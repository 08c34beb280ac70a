"""What starts machines without a person: the programs of their units, and their supervisors. An error goes to the journal."""

from __future__ import annotations

import sys

# msgspec looks there for what typing has since 3.11; where it is installed, that alone takes 7 ms
sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]

from roost.errors import Error  # noqa: E402


def main(argv: list[str]) -> int:
    """The status of the process."""
    # msgspec looks there for what typing has since 3.11, see roost.cli
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    what, state, name, *more = argv[1:]
    if what == "supervise":
        from roost.boot import supervise

        begin = supervise.supervise_later if more[1:] == ["later"] else supervise.supervise
        return begin(state, name, int(more[0]))
    from roost.boot.enter import act

    try:
        act(what, state, name, *map(int, more))
    except Error as e:
        said = "\n".join(filter(None, (e.brief, e.details, e.hint and f"hint: {e.hint}")))
        print("".join(f"<3>{line}\n" for line in said.splitlines()), end="", file=sys.stderr)  # sd-daemon(3): SD_ERR
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
