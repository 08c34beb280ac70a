"""``Network``: links are allotted, lent, attached and detached.

What a link needs is set up in an order in which no packet passes before its rules are there, and recorded first: whoever
attaches or detaches next finds what a killed process left, and clears it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from functools import partial

from roost.errors import Error, HostError
from roost.host import files, netns
from roost.network import (
    clashes,
    firewall,
    guests,
    links,
    managers,
    names,
    netlink,
    pools,
    sysctls,
    wanted,
    writing,
)
from roost.network import others as other_firewalls
from roost.network.addresses import number_of
from roost.network.records import PREFIX, Attached, Hop, Link, attached_from
from roost.structs import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from roost.definition.model import NetworkTerms
    from roost.network.records import Terms


class Network:
    """The private networks of a store's machines on this host.

    ``directory`` keeps what is allotted (``STATE/network``); ``run`` has what is attached, and should be the same for all
    stores of a host: empty means ``netns.directory()``. Files below ``root`` are told to network managers and resolvers.
    """

    def __init__(self, directory: str, run: str = "", *, root: str = "") -> None:
        self._directory = directory
        self._run = run or netns.directory()
        self._root = root
        self._held: dict[str, int] = {}

    def allot(
        self, machine: str, terms_: NetworkTerms | Terms, pool: str | None = None, pool6: str | None = None
    ) -> Link:
        """The machine's link, the same one each time while its terms ask for the same.

        Raises HostError when the pool is used up, DefinitionError when a pool or an address is none.
        """
        book = pools.Allotments(self._directory)
        with book.open():
            old = book.links.get(machine)
            if old and self._is_anothers(old):
                old = None  # another store has it by now
            if old and pools.fits(old, terms_, book, pool):
                return old
            book.links.pop(machine, None)
            where = pools.places(pool, pool6, book.blocks())
            used = pools.used_names(book)
            name = old.interface if old else pools.name_for(machine, used)
            link = pools.new_link(machine, name, terms_, book, where, used)
            book.links[machine] = link
            book.write()
            return link

    def lend(
        self, session: str, terms_: NetworkTerms | Terms, pool: str | None = None, pool6: str | None = None
    ) -> Link:
        """A link for a throwaway session, held by a lock until it is given back or this process ends.

        Raises HostError when all are lent, DefinitionError when a pool is none.
        """
        with self._lock():
            os.makedirs(f"{self._run}/lent", mode=0o700, exist_ok=True)
            if terms_.bridge or terms_.address:
                return self._lend_shared(session, terms_, pool, pool6)
            return self._lend_own(session, pools.places(pool, pool6, []))

    def _lend_own(self, session: str, where: pools.Places) -> Link:
        room = max(1, where.count - where.machines)
        start = zlib.crc32(session.encode())
        for step in range(room):
            found = where.free(where.count - room + (start + step) % room)
            if found is None:
                continue
            (address, gateway), six = pools.pair(found[0]), pools.pair(found[1]) if found[1] else ("", "")
            if name := self._hold(session, address):
                return Link(session, name, address, gateway, *six)
        raise pools.used_up(where.pool)

    def give_back(self, link: Link) -> None:
        """A lent link may be anybody's again; one that was not lent here is left alone."""
        self._drop(link.interface)

    def close(self) -> None:
        """Gives back all that was lent here."""
        for name in list(self._held):
            self._drop(name)

    def release(self, machine: str) -> None:
        """Forgets what was allotted to a machine, and a bridge that was its alone."""
        book = pools.Allotments(self._directory)
        with book.open():
            old = book.links.pop(machine, None)
            if old is None:
                return
            if old.bridge and not any(link.bridge == old.bridge for link in (*book.links.values(), *self.attached())):
                book.bridges = {name: b for name, b in book.bridges.items() if b.interface != old.bridge}
            book.write()

    def links(self) -> list[Link]:
        """What is allotted, in the order of the machines' names, then what is lent and attached."""
        own = sorted(pools.Allotments(self._directory).read().links.values(), key=lambda link: link.machine)
        return [*own, *(link for link in self.attached() if link.lent)]

    def attached(self) -> list[Link]:
        """What has a record of being set up."""
        return [one.link for one in self.records()]

    def own(self) -> list[Link]:
        """What is attached of this store's machines."""
        return [one.link for one in self.records() if one.owner == self._directory and not one.link.lent]

    def records(self) -> list[Attached]:
        """All that is set up on this host."""
        found = []
        for name in files.names_in(f"{self._run}/attached"):
            with (
                contextlib.suppress(OSError),
                open(f"{self._run}/attached/{name}", encoding="utf-8", errors="replace") as stream,
            ):
                one = attached_from(stream.read())
                if one is not None and one.link.interface == name:
                    found.append(one)
        return found

    def attach(self, link: Link, terms_: NetworkTerms | Terms, netns_fd: int) -> None:
        """Sets up the network of a machine whose network namespace is ``netns_fd``; again: only what is missing.

        Names in its egress list that have no address are left out, and ``check`` names them; a run's have to have one.
        Raises HostError in three parts, and then nothing of it is left; BusyError never: it waits for its turn.
        """
        new = wanted.by(link, terms_, self._addresses(), self._root, self._directory)
        with self._lock():
            every = self.records()
            others = self._clear([one for one in every if one.link.interface != link.interface])
            if len(others) < len(every):  # somebody has begun with it before
                links.remove_nameless(link)
            clashes.refuse(new, others)
            same = not any(one.elements != new.elements for one in every if one.link.interface == link.interface)
            working = link.interface in netlink.interfaces()
            try:
                self._set_up(new, others, netns_fd, same=same)
            except BaseException:
                if not working:
                    with contextlib.suppress(Error, OSError):
                        self._take_down(new, others)
                raise

    def detach(self, link: Link, *, ended: bool = False) -> None:
        """Removes everything of a link, and with the last one everything of Roost's. Missing is fine. Raises HostError.

        ``ended``: nothing runs in the machine any more. Then its rules need not be there until its interface has gone,
        and both go at once: the kernel takes its time with each.
        """
        with self._lock():
            every = self.records()
            others = self._clear([one for one in every if one.link.interface != link.interface])
            own = next((one for one in every if one.link.interface == link.interface), None)
            self._take_down(own or Attached(link), others, ended=ended)

    def sweep(self) -> list[str]:
        """Clears what has no owner: links whose machine has gone, and what a killed process left. Says what it was."""
        with self._lock():
            found = self.leftovers()
            left = self._clear(self.records())
            for link in links.strays(one.link for one in left):
                links.remove(link, [])
            if not left:
                if firewall.is_there():
                    firewall.replace(())
                self._last()
            self._host_names()
            for name in files.names_in(f"{self._run}/lent"):
                files.drop_free_lock(f"{self._run}/lent/{name}")
            return found

    def check(self, link: Link | None = None, netns_fd: int | None = None) -> list[Hop]:
        """The hops of a packet from a machine to the outside, in order: each is ok or says what is in the way.

        Without a link only what all links share; without the machine's network namespace nothing inside it.
        """
        from roost.network.check import Check

        return Check(self.records(), link, netns_fd, self._root, told=managers.concern_us(self._root)).hops()

    def repair(self, link: Link | None = None, netns_fd: int | None = None) -> list[Hop]:
        """Sets up again what is missing, for all links on the host's side, and inside the machine that is named.

        A link that is not attached gets another address when the host has a route to its own: the next ``allot`` makes
        it. What was wrong is returned, as ``check`` found it. Raises HostError.
        """
        wrong = [hop for hop in self.check(link, netns_fd) if hop.state != "ok"]
        anew = {one: wanted.again(one, self._addresses()) for one in self.records()}  # which may take its time
        every = self.restore(anew)
        if link is not None and netns_fd is not None and any(one.link == link for one in every):
            with self._lock():
                links.make(link, netns_fd)
        if link is not None and not link.lent and not any(one.link == link for one in every):
            own = {one.link.device for one in every}
            if any(clashes.overlapping(block, own) for block in clashes.blocks_of(link)):
                self.release(link.machine)
        return wrong

    def restore(self, anew: Mapping[Attached, Attached] | None = None) -> list[Attached]:
        """Sets the host's side of all links up again, with other records in place of some. Raises HostError."""
        with self._lock():
            every = [(anew or {}).get(one, one) for one in self._clear(self.records())]
            if not every:
                return []
            if managers.concern_us(self._root):
                for one in every:
                    self._tell_managers(one.link, first=True)
            sysctls.turn_on(f"{self._run}/settings", ipv6=any(one.link.address6 for one in every))
            other_firewalls.let_through(f"{self._run}/chains")
            firewall.replace(every)
            for one in every:
                self._write(one)
                links.set_outside(one.link)
                sysctls.of_link(one.link.device, localnet=firewall.needs_localnet(one.link.device, every))
            self._host_names()
            return every

    def leftovers(self) -> list[str]:
        """Whose link ``sweep`` would clear, or the address that was lent; ``the host`` when it is something else."""
        every = self.records()
        gone = self._gone(every)
        found = [one.link.machine for one in gone]
        found += [link.machine for link in links.strays(one.link for one in every)]
        attached = {one.link.address.partition("/")[0] for one in every}
        lent = [name for name in files.names_in(f"{self._run}/lent") if name not in attached]
        found += [name for name in lent if not files.is_held(f"{self._run}/lent/{name}")]
        told = managers.concern_us(self._root) and managers.told(self._root)
        if not every and (told or firewall.is_there()):
            found.append("the host")
        path = f"{self._root}/etc/hosts"
        names_ = names.entries_of(one.link for one in every if one not in gone and not one.link.lent)
        if not gone and names.is_outdated(path, names_):
            found.append("the host")
        return list(dict.fromkeys(found))

    def guest_files(self, link: Link) -> dict[str, bytes]:
        """Files of a machine, below its /run: what its systemd-networkd or NetworkManager has to know."""
        usable, local = names.resolvers(self._root)
        return guests.files_for(link, usable or ([link.gateway] if local else []))

    def resolv_conf(self, link: Link) -> bytes:
        """A machine's /etc/resolv.conf."""
        return names.resolv_conf(link, self._root)

    def write_hosts(self, machine: str, path: str) -> None:
        """Writes the hosts file of a machine, with the names of all others; one that exists keeps its inode."""
        names.in_place(path, names.machine_hosts(machine, self._entries()))

    def hosts_lines(self) -> bytes:
        """The names of all machines, for the hosts file of a session."""
        return names.block(self._entries())

    def refresh_hosts(self, paths: Mapping[str, str]) -> None:
        """Brings the hosts files of machines (by their names) up to date, each in place."""
        names.refresh(paths, self._entries())

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One at a time on this host. Whoever has it is done in a moment: it is waited for."""
        fd = self._locked()
        try:
            os.makedirs(f"{self._run}/attached", mode=0o700, exist_ok=True)
            yield
        finally:
            self._tidy()
            os.close(fd)

    def _locked(self) -> int:
        """The lock, on the file that has its name now: who was last has removed the one before."""
        path = f"{self._run}/lock"
        while True:
            try:
                os.makedirs(self._run, mode=0o700, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue
            except FileExistsError:  # it was there for mkdir(2) and has gone since, unless it is no directory
                if os.path.isfile(self._run) or os.path.islink(self._run):
                    raise
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            os.close(fd)

    def _tidy(self) -> None:
        """With the lock held: what the dead have left goes, and when nothing is attached or lent, all of the directory."""
        for name in files.names_in(f"{self._run}/attached", hidden=True):
            os.unlink(f"{self._run}/attached/{name}")
        for name in files.names_in(f"{self._run}/lent"):
            files.drop_free_lock(f"{self._run}/lent/{name}")
        with contextlib.suppress(OSError):  # there is something
            for name in ("lent", "attached"):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(f"{self._run}/{name}")
            os.unlink(f"{self._run}/lock")
            os.rmdir(self._run)

    def _entries(self) -> list[tuple[str, str]]:
        return names.entries_of(pools.Allotments(self._directory).read().links.values())

    def _addresses(self) -> dict[str, list[str]]:
        """The machines' addresses by their names."""
        found: dict[str, list[str]] = {}
        for address, machine in self._entries():
            found.setdefault(machine, []).append(address)
        return found

    def _drop(self, interface: str) -> None:
        lock = self._held.pop(interface, None)
        if lock is not None:
            with contextlib.suppress(OSError):
                os.unlink(os.readlink(f"/proc/self/fd/{lock}"))
            os.close(lock)
            with self._lock():
                pass  # which leaves nothing when it was the last

    def _hold(self, session: str, address: str) -> str:
        """The interface of a session that has an address now; empty when another one has it."""
        plain = address.partition("/")[0]
        lock = files.try_lock(f"{self._run}/lent/{plain}")
        if lock is None:
            return ""
        number = (number_of(plain) or (0, 0))[1] & 0xFFFFFF
        name = f"{PREFIX}{session[:5]}_{number:06x}"
        self._held[name] = lock
        return name

    def _lend_shared(self, session: str, terms_: NetworkTerms | Terms, pool: str | None, pool6: str | None) -> Link:
        book = pools.Allotments(self._directory)
        with book.open():
            where = pools.places(pool, pool6, book.blocks())
            if terms_.bridge:
                shared = pools.shared_for(book, terms_, where, pools.used_names(book))
                book.write()
                taken = {link.address.partition("/")[0] for link in (*book.links.values(), *self.attached())}
                free = (
                    pools.on_bridge(session, "", shared, number)
                    for number in pools.places_on(shared, terms_, taken, lent=True)
                )
            else:
                block, value = pools.fixed(terms_.address)
                pools.refuse_taken(block, where.taken)
                free = (Link(session, "", *pair) for pair in (pools.pair(block, value),))
        for link in free:
            if name := self._hold(session, link.address):
                return replace(link, interface=name)
        if terms_.address:
            raise HostError(f"the address {terms_.address} is in use", hint="one session at a time can have it")
        raise HostError(f"the network of the bridge {terms_.bridge} is used up", hint="end some sessions on it")

    def _clear(self, every: list[Attached]) -> list[Attached]:
        """Those whose interface is there; the others' traces are removed: their machines are gone."""
        gone = self._gone(every)
        left = [one for one in every if one not in gone]
        if gone:
            firewall.replace(left)
            for one in gone:
                links.remove(one.link, [other.link for other in left])
                self._forget(one.link)
        return left

    def _gone(self, every: list[Attached]) -> list[Attached]:
        """Those whose interface has gone, and those that were lent to a run that was killed: its own may go any moment."""
        known = netlink.interfaces()
        return [
            one
            for one in every
            if one.link.interface not in known
            or (one.link.lent and not files.is_held(f"{self._run}/lent/{one.link.address.partition('/')[0]}"))
        ]

    def _is_anothers(self, link: Link) -> bool:
        """Whether a machine of another store is attached with its interface, or with an address of its network."""
        blocks = clashes.blocks_of(link)
        for one in self.records():
            if one.owner and one.owner != self._directory:
                theirs = clashes.blocks_of(one.link)
                shared = not link.bridge and any(a.overlaps(b) for a in blocks for b in theirs)
                if one.link.interface == link.interface or shared:
                    return True
        return False

    def _set_up(self, new: Attached, others: list[Attached], netns_fd: int, *, same: bool) -> None:
        link = new.link
        if managers.concern_us(self._root):
            self._tell_managers(link, first=not others)
        sysctls.turn_on(f"{self._run}/settings", ipv6=bool(link.address6))
        if not others:
            other_firewalls.let_through(f"{self._run}/chains")
        self._write(new)
        if same:
            firewall.add(new, others)
        else:
            firewall.replace((*others, new))
        links.make(link, netns_fd)
        sysctls.of_link(link.device, localnet=firewall.needs_localnet(link.device, (*others, new)))
        if not link.lent:
            self._host_names()

    def _write(self, one: Attached) -> None:
        writing.write(f"{self._run}/attached/{one.link.interface}", one.to_text().encode(), mode=0o600)

    def _tell_managers(self, link: Link, *, first: bool) -> None:
        if not link.lent:
            managers.distrust(f"{self._run}/trusted", self._root)
        elif first:
            managers.trust(f"{self._run}/trusted", self._root)
        found = managers.running(self._root)
        told = [m for m in found if managers.needed(m, self._root, lent=link.lent, bridge=bool(link.bridge))]
        managers.tell(told, self._root)

    def _take_down(self, one: Attached, others: list[Attached], *, ended: bool = False) -> None:
        link = one.link
        remove = partial(links.remove, link, [other.link for other in others])
        if ended:
            firewall.remove(one, others)
            links.wait_until_gone(link)
            remove()
        else:
            remove()
            firewall.remove(one, others)
        if not others:
            self._last()
        elif link.bridge and link.bridge in netlink.interfaces():
            sysctls.of_link(link.bridge, localnet=firewall.needs_localnet(link.bridge, others))
        self._forget(link)

    def _last(self) -> None:
        if managers.concern_us(self._root):
            managers.withdraw(self._root)
            managers.distrust(f"{self._run}/trusted", self._root)
        other_firewalls.withdraw(f"{self._run}/chains")
        sysctls.put_back(f"{self._run}/settings")

    def _forget(self, link: Link) -> None:
        """Last of all: until its record has gone, whoever comes next takes down what is left."""
        if not link.lent:
            self._host_names(without=link.interface)
        writing.remove(f"{self._run}/attached/{link.interface}")
        if link.lent:
            files.drop_free_lock(f"{self._run}/lent/{link.address.partition('/')[0]}")

    def _host_names(self, *, without: str = "") -> None:
        """The host finds machines by their names while they are attached."""
        path = f"{self._root}/etc/hosts"
        entries = names.entries_of(link for link in self.attached() if not link.lent and link.interface != without)
        if entries or os.path.exists(path):
            names.update(path, entries)
            writing.remove_part(path)
