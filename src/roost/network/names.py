"""Names: which servers a machine asks, and hosts files with the machines' own names."""

from __future__ import annotations

import contextlib
import errno
import os

from roost.errors import Error
from roost.host import runner
from roost.network import writing
from roost.network.addresses import number_of, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from roost.network.records import Link

BEGIN, END = "# BEGIN roost", "# END roost"
# systemd-resolved(8) and NetworkManager.conf(5): where the servers are that the host's own resolver asks
_UPSTREAM = ("run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf", "run/NetworkManager/resolv.conf")  # fmt: skip
_PLAIN = "etc/resolv.conf"
_MOST = 3  # MAXNS, resolv.h
_TIMEOUT = 20.0
_AT_ONCE = 32  # names that are looked up side by side
_LONGEST = 1 << 18  # bytes of a hosts file that a machine may write: it is read by the host's root
# whoever owns a file may take a lease on it, F_SETLEASE in fcntl(2): without O_NONBLOCK every open waits for 45 s
_UNAWAITED = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def is_loopback(address: str) -> bool:
    """127.0.0.0/8 or ::1."""
    found = number_of(address)
    return found is not None and (found == (128, 1) or (found[0] == 32 and found[1] >> 24 == 127))


def configuration(root: str) -> tuple[list[str], list[str]]:
    """(servers, other lines) of the host's resolver: those that it asks itself, not the one that it is."""
    plain = _servers(f"{root}/{_PLAIN}")
    for path in _UPSTREAM:
        servers, more = _servers(f"{root}/{path}")
        stub = not plain[0] or any(map(is_loopback, plain[0]))
        if stub and any(not is_loopback(server) for server in servers):
            return servers, more
    return plain


def _servers(path: str) -> tuple[list[str], list[str]]:
    servers, more = [], []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            words = line.split()
            if len(words) < 2:
                continue
            if words[0] == "nameserver":
                found = number_of(words[1])
                if found:  # a link-local one with its interface means nothing in a machine
                    servers.append(text_of(*found))
            elif words[0] in ("search", "domain", "options"):
                more.append(" ".join(words))
    return servers, more


def resolvers(root: str) -> tuple[list[str], str]:
    """(servers that machines can ask, the host's own one that only loopback reaches, when there is no other)."""
    servers, _ = configuration(root)
    usable = [server for server in servers if not is_loopback(server)][:_MOST]
    local = next((server for server in servers if is_loopback(server) and ":" not in server), "")
    return usable, "" if usable else local


def resolv_conf(link: Link, root: str) -> bytes:
    """A machine's /etc/resolv.conf: the host's servers, or the gateway, behind which the host's own one stands."""
    usable, local = resolvers(root)
    _, more = configuration(root)
    servers = usable or ([link.gateway] if local else [])
    return "".join(f"{line}\n" for line in (*(f"nameserver {server}" for server in servers), *more)).encode()


def resolve(names: tuple[str, ...]) -> dict[str, list[str]]:
    """The addresses of names, as the host finds them: none of one that it does not find in time."""
    import threading

    found: dict[str, list[str]] = {}
    waiting = list(reversed(names))

    def look() -> None:
        with contextlib.suppress(IndexError):
            while True:
                name = waiting.pop()
                found[name] = _addresses_of(name)

    # a server that does not answer takes its time for each name: all are asked at once
    threads = [threading.Thread(target=look, daemon=True) for _ in range(min(len(names), _AT_ONCE))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _addresses_of(name: str) -> list[str]:
    try:
        answer = runner.run(runner.Command(argv=("getent", "ahosts", name), timeout=_TIMEOUT))
    except Error:  # no time left, or no getent
        return []
    words = [line.split()[0] for line in answer.output.decode(errors="replace").splitlines() if line.split()]
    return list(dict.fromkeys(word for word in words if answer.status == 0 and number_of(word)))


def block(entries: Iterable[tuple[str, str]]) -> bytes:
    """The lines of (address, name) between the marks; nothing when there are none."""
    lines = [f"{address}\t{name}" for address, name in entries]
    return "".join(f"{line}\n" for line in (BEGIN, *lines, END)).encode() if lines else b""


def entries_of(links: Iterable[Link]) -> list[tuple[str, str]]:
    """(address, name) of machines, both families."""
    found = []
    for link in sorted(links, key=lambda link: link.machine):
        found += [(text.partition("/")[0], link.machine) for text in (link.address, link.address6) if text]
    return found


def merged(old: bytes, new: bytes) -> bytes:
    """A hosts file with another block of ours; the rest stays as it is, and so does a mark without its other one."""
    kept: list[bytes] = []
    begun = -1
    for line in old.splitlines(keepends=True):
        word = line.strip()
        if word == BEGIN.encode():
            begun = len(kept)
        kept.append(line)
        if word == END.encode() and begun >= 0:
            del kept[begun:]
            begun = -1
    text = b"".join(kept)
    return text + (b"\n" if new and text and not text.endswith(b"\n") else b"") + new


def names_outside(old: bytes) -> set[str]:
    """The names that a hosts file has without our block."""
    words = [line.partition(b"#")[0].split() for line in merged(old, b"").splitlines()]
    return {word.decode(errors="replace") for line in words for word in line[1:]}


def update(path: str, entries: Iterable[tuple[str, str]]) -> None:
    """Puts the block into a hosts file, or takes it out; a name that stands there already is somebody else's.

    A file that is bound into a machine is written in place: a rename would give it another inode, which nobody sees.
    """
    try:
        with open(path, "rb") as stream:
            old = stream.read()
    except FileNotFoundError:
        old = b""
    other = names_outside(old)
    new = merged(old, block((address, name) for address, name in entries if name not in other))
    if new != old:
        write_same(path, new)


def is_outdated(path: str, entries: Iterable[tuple[str, str]]) -> bool:
    """Whether ``update`` would change a hosts file that has our block."""
    try:
        with open(path, "rb") as stream:
            old = stream.read()
    except OSError:
        return False
    if BEGIN.encode() not in old:
        return False
    other = names_outside(old)
    return merged(old, block((address, name) for address, name in entries if name not in other)) != old


def write_same(path: str, data: bytes) -> None:
    """Replaces a file's content; by a rename where that can be, so that a reader never sees a part."""
    path = os.path.realpath(path)
    try:
        writing.write(path, data, mode=os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0o644)
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        in_place(path, data)


def in_place(path: str, data: bytes) -> None:
    """Replaces a file's content and keeps its inode. Raises BlockingIOError when somebody has a lease on it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | _UNAWAITED, 0o644)
    with open(fd, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.ftruncate(fd, len(data))


def machine_hosts(machine: str, entries: Iterable[tuple[str, str]]) -> bytes:
    """The whole hosts file of a machine."""
    head = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{machine}\n"
    return head.encode() + block(entry for entry in entries if entry[1] != machine)


def refresh(paths: Mapping[str, str], entries: Iterable[tuple[str, str]]) -> None:
    """The same block in the files of several machines, each without its own name.

    The rest is the machine's, which may have written anything: one that is too long is made anew. One that the machine
    has a lease on keeps its old names.
    """
    every = list(entries)
    for machine, path in paths.items():
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            with open(os.open(path, os.O_RDONLY | _UNAWAITED), "rb") as stream:
                old = stream.read(_LONGEST + 1)
            own = block(entry for entry in every if entry[1] != machine)
            new = merged(old, own) if len(old) <= _LONGEST else machine_hosts(machine, every)
            if new != old:
                in_place(path, new)
