"""Firewalls of others on the host: chains that drop what nobody has named, of which machines would have to be named.

Roost puts a rule with the comment ``roost`` at the beginning of such a chain (ufw's, docker's, an administrator's own) and
takes it out with the last link. What machines may do is in Roost's own table, which is asked as well.
"""

from __future__ import annotations

from roost.host import runner
from roost.network import netlink, writing
from roost.network.records import PREFIX
from roost.structs import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMENT = "roost"
_HOOKS = {"forward": ("iifname", "oifname"), "input": ("iifname",)}
_OWN = ("roost", "firewalld")  # firewalld is told through its own files
_TIMEOUT = 30.0


class Chain(Struct, frozen=True):
    """A base chain that drops what it does not know: ``rule`` says whether by its policy or by its last rule."""

    family: str
    table: str
    name: str
    hook: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


def listing(*words: str) -> list[dict[str, Any]]:
    """The objects of ``nft -j list WORDS``; none when there is no such thing."""
    import json

    done = runner.run(runner.Command(argv=("nft", "-j", "list", *words), timeout=_TIMEOUT))
    start = done.output.find(b'{"nftables"')
    if done.status or start < 0:
        return []
    found: list[dict[str, Any]] = json.JSONDecoder().raw_decode(done.output[start:].decode(errors="replace"))[0][
        "nftables"
    ]
    return found


def closed() -> list[Chain]:
    """The chains of others that drop by their policy."""
    try:
        every = netlink.base_chains()  # nft would take its time for the same, before each first link
    except OSError:
        return []
    return [
        chain
        for one in every
        if one.drops and (chain := _chain(one.family, one.table, one.name, one.kind, one.hook)) is not None
    ]


def blocking() -> list[Chain]:
    """The chains of others that drop or refuse in the end, and have no rule that speaks of links."""
    every = listing("ruleset")
    texts: dict[tuple[str, str], str] = {}
    last: dict[tuple[str, str, str], list[str]] = {}
    for item in every:
        rule = item.get("rule")
        if rule:
            place = rule["family"], rule["table"]
            texts[place] = texts.get(place, "") + str(rule.get("expr"))
            last[*place, rule["chain"]] = [word for part in rule.get("expr", ()) for word in part if word != "counter"]
    found = []
    for raw in (item["chain"] for item in every if "chain" in item):
        chain = _chain(raw["family"], raw["table"], raw["name"], raw.get("type", ""), raw.get("hook", ""))
        if chain is None or f"'{PREFIX}" in texts.get((chain.family, chain.table), ""):
            continue
        ends = last.get((chain.family, chain.table, chain.name), [])
        if raw.get("policy") == "drop" or ends in (["drop"], ["reject"]):
            found.append(chain)
    return found


def _chain(family: str, table: str, name: str, kind: str, hook: str) -> Chain | None:
    if hook not in _HOOKS or kind != "filter" or table in _OWN or family not in ("ip", "ip6", "inet"):
        return None
    return Chain(family, table, name, hook)


def insertion(chain: Chain) -> str:
    """What nft is told to let links through a chain."""
    words = _HOOKS[chain.hook]
    return "".join(f'insert rule {chain} {word} "{PREFIX}*" accept comment "{COMMENT}"\n' for word in words)


def let_through(memory: str) -> None:
    """Adds the rules where they are needed and missing; which chains have them is kept in the file ``memory``."""
    chains = closed()
    if not chains:
        return
    known = [*recall(memory), *(str(chain) for chain in chains)]
    writing.write(memory, "".join(f"{name}\n" for name in dict.fromkeys(known)).encode(), mode=0o600)
    text = "".join(insertion(chain) for chain in chains if not _handles(str(chain)))
    if text:
        runner.check(runner.run(runner.Command(argv=("nft", "-f", "-"), stdin=text.encode(), timeout=_TIMEOUT)))


def recall(memory: str) -> list[str]:
    """The chains that have got rules, as nft names them."""
    try:
        with open(memory, encoding="utf-8") as stream:
            return [line for line in stream.read().splitlines() if len(line.split()) == 3]
    except FileNotFoundError:
        return []


def withdraw(memory: str) -> None:
    """Takes the rules out again."""
    lines = [f"delete rule {name} handle {handle}\n" for name in recall(memory) for handle in _handles(name)]
    for line in lines:  # one by one: a chain may go meanwhile
        runner.run(runner.Command(argv=("nft", "-f", "-"), stdin=line.encode(), timeout=_TIMEOUT))
    writing.remove(memory)


def _handles(name: str) -> list[int]:
    """The handles of our rules in a chain."""
    rules = [item["rule"] for item in listing("chain", *name.split()) if "rule" in item]
    return [rule["handle"] for rule in rules if rule.get("comment") == COMMENT]
