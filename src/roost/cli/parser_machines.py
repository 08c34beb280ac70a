"""The verbs about machines that boot, as argparse sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roost.cli.parser import add_common, add_verb, add_who, count, seconds

if TYPE_CHECKING:
    import argparse


def add_verbs(verbs: Any) -> None:
    """Adds them to the command line."""
    up = add_verb(
        verbs, "up", "machines:up", "boot machines, making what is missing; change what the definition changed"
    )
    _machines(up, "names, comma lists or globs", needed=False)
    up.add_argument("--ephemeral", action="store_true", help="throw away what the machine changes when it goes down")
    up.add_argument(
        "--update", action="store_true", help="make its layers anew from today's packages; `roost rollback` goes back"
    )
    up.add_argument("--no-wait", action="store_true", help="do not wait until the machine is ready")
    up.add_argument("--enabled", action="store_true", help="those that come up with the host")
    up.add_argument(
        "-j", "--jobs", type=count, metavar="N", help="layers made at a time (default: by cores and memory)"
    )
    add_common(up)
    down = add_verb(verbs, "down", "machines:down", "end machines: orderly, then firmly")
    _machines(down, "machines that are up (default: all)", needed=False)
    down.add_argument(
        "--remove", action="store_true", help="forget the named ones ('*': all) too: their changes, units and addresses"
    )
    add_common(down)
    restart = add_verb(verbs, "restart", "machines:restart", "end machines and boot them again")
    _machines(restart, "machines that were brought up")
    add_common(restart)
    rollback = add_verb(
        verbs, "rollback", "machines:rollback", "put a machine back over the layers before its last update"
    )
    rollback.add_argument("machine", metavar="MACHINE", help="a machine that was updated")
    add_common(rollback)
    status = add_verb(verbs, "status", "machines:status", "say how the machines are that were brought up")
    _machines(status, "names, comma lists or globs (default: all)", needed=False)
    add_common(status)
    for name, summary in (
        ("enable", "let machines come up with the host"),
        ("disable", "do not let machines come up with the host any more"),
    ):
        verb = add_verb(verbs, name, "machines:enable", summary)
        _machines(verb, "machines that were brought up")
        add_common(verb)
    _add_inside(verbs)
    _add_network(verbs)


def _add_network(verbs: Any) -> None:
    network = add_verb(verbs, "network", "", "look into private networks: list, check, repair")
    below = network.add_subparsers(metavar="VERB", required=True, dest="network_verb")
    add_common(
        add_verb(below, "list", "networking:network_list", "list the addresses of machines, and their published ports")
    )
    for name, summary in (
        ("check", "follow a packet from machines to the outside, and name the hop that fails"),
        ("repair", "set up again what is missing: the firewall's table, addresses, routes, settings"),
    ):
        verb = add_verb(below, name, f"networking:network_{name}", summary)
        verb.add_argument(
            "machines", nargs="*", metavar="MACHINE", help="machines with a private network (default: all that are up)"
        )
        add_common(verb)


def _add_inside(verbs: Any) -> None:
    run = add_verb(verbs, "exec", "machines:exec_", "run a command in a machine that is up", command="must")
    run.add_argument("machine", metavar="MACHINE", help="a machine that is up")
    add_who(run)
    run.add_argument(
        "--timeout", type=seconds, metavar="TIME", help="end it after TIME (90, 15m, 2h): first SIGTERM, then SIGKILL"
    )
    add_common(run)
    login = add_verb(
        verbs, "login", "machines:login", "log into a machine that is up, as its own login(1) lets", command="own"
    )
    login.add_argument("machine", metavar="MACHINE", help="a machine that is up")
    add_common(login)
    logs = add_verb(verbs, "logs", "machines:logs", "show a machine's journal, or what its console said")
    logs.add_argument("machine", metavar="MACHINE", help="a machine that was brought up")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what it says")
    logs.add_argument("-n", "--lines", type=count, default=50, metavar="N", help="the last N lines (default: 50)")
    add_common(logs, file=("--file",))


def _machines(to: argparse.ArgumentParser, text: str, *, needed: bool = True) -> None:
    to.add_argument("machines", nargs="+" if needed else "*", metavar="MACHINES", help=text)
