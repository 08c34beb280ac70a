"""``python -m roost``."""

from roost.cli import run

run()
