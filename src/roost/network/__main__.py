"""``python -m roost.network``: links get back what they need of the host. Units of firewalls call it (``managers``)."""

from __future__ import annotations

import sys

# msgspec looks there for what typing has since 3.11, see roost.cli
sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]

from roost.errors import Error  # noqa: E402
from roost.network import Network  # noqa: E402


def main() -> int:
    """The status of the process."""
    try:
        Network("").restore()  # what is attached is recorded for the host, not for a store
    except Error as e:
        print("\n".join(filter(None, (e.brief, e.details, e.hint and f"hint: {e.hint}"))), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
