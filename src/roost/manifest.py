"""What a layer's tree must look like, file by file: written when the layer is made, compared when somebody asks.

The format is mtree(5), as libarchive's bsdtar and the BSDs' mtree read and write it: a line for each file, in the order
of names, a directory's own lines after it and ``..`` at their end. So it grows with the number of files and not with the
length of their paths. Names and link targets are in vis(3) octal: a newline is ``\\012``. ``device`` is libarchive's
``native,MAJOR,MINOR``. Extended attributes, which mtree(5) has no word for, are ``xattr.NAME=`` with the value in
base64, as go-mtree (which umoci uses) has them. overlayfs keeps its marks there (trusted.overlay.opaque), and the
kernel file capabilities (security.capability).

Everything is opened by descriptor from the directory that has it, and no link is followed: a tree is hostile input.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections import deque
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from roost.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST_LINE = b"#mtree"
UP = b".."
SHOWN = 200  # differences that a report names; the others are counted

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 1 << 20
_LARGE = 1 << 18  # bytes; a file of this size is worth handing to a thread
_THREADS = 4
_PENDING = 64  # files that are open at a time

# Of the host's own policy: an administrator may relabel or sign a tree without changing it.
_HOSTS_OWN = frozenset({"security.selinux", "security.ima", "security.evm", "security.SMACK64"})
_PLAIN = re.compile(rb"[A-Za-z0-9@%_./,:+~^-]+")
_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9@%_./,:+~^-]")
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_TYPES = {
    stat.S_IFREG: b"file", stat.S_IFDIR: b"dir", stat.S_IFLNK: b"link", stat.S_IFCHR: b"char", stat.S_IFBLK: b"block",
    stat.S_IFIFO: b"fifo", stat.S_IFSOCK: b"socket",
}  # fmt: skip
_WORDS = {
    "sha256digest": "content", "uid": "owner", "gid": "group", "link": "link target", "type": "type", "size": "size",
    "mode": "mode", "time": "time", "device": "device",
}  # fmt: skip


class Written(Struct, frozen=True, kw_only=True):
    """A manifest's own SHA-256, and what the tree occupies: ``size`` in bytes of disk blocks, ``files`` once per inode."""

    sha256: str
    size: int
    files: int


class Difference(Struct, frozen=True, kw_only=True):
    """``kind``: changed, missing, added or unreadable; ``path`` as the machine has it; ``what`` changed, in words."""

    kind: str
    path: str
    what: str = ""


class Compared(Struct, frozen=True, kw_only=True):
    """``count`` differences, of which ``differences`` has the first ``SHOWN``; ``size`` and ``files`` as in Written."""

    differences: tuple[Difference, ...]
    count: int
    size: int
    files: int


def write(tree: str, path: str) -> Written:
    """Writes the manifest of a tree to a new file; whoever publishes it makes it durable. Raises OSError."""
    walk = _Walk(strict=True)
    total = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=_BLOCK) as stream:
        for line in walk.lines(tree):
            stream.write(line + b"\n")
            total.update(line + b"\n")
    return Written(sha256=total.hexdigest(), size=walk.size, files=walk.files)


def compare(tree: str, path: str, sha256: str) -> Compared:
    """How a tree differs from its manifest at ``path``, whose own digest was ``sha256``. Raises StoreError when not."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise StoreError("its manifest was changed")
        stream.seek(0)
        walk = _Walk(strict=False)
        shown: list[Difference] = []
        count = 0
        for difference in _merged((line.rstrip(b"\n") for line in stream), walk.lines(tree)):
            count += 1
            if len(shown) < SHOWN:
                shown.append(difference)
    return Compared(differences=tuple(shown), count=count, size=walk.size, files=walk.files)


def settings(path: str, top: bytes) -> dict[str, bytes]:
    """What a manifest says of the files below the directory ``top``, without their times: path → its line's words.

    A layer without a manifest has none.
    """
    found: dict[str, bytes] = {}
    above: list[bytes] = []
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        for line in stream:
            name, _, words = line.rstrip(b"\n").partition(b" ")
            if name == UP:
                del above[-1:]
                continue
            is_directory = words.startswith(b"type=dir") and name != b"."
            if above[:1] == [top] and not is_directory:
                kept = (word for word in words.split() if not word.startswith((b"time=", b"xattr.trusted.overlay.")))
                found[os.fsdecode(_unquoted(b"/" + b"/".join((*above, name))))] = b" ".join(kept)
            if is_directory:
                above.append(name)
    return found


# the lines of a tree


class _Walk:
    """Describes a tree. ``strict``: what cannot be read is an error; else its line says so."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._seen: set[int] = set()
        self.size = 0
        self.files = 0

    def lines(self, tree: str) -> Iterator[bytes]:
        """The manifest, a line at a time, without newlines; large files are read ahead by threads."""
        pending: deque[bytes | _Digest] = deque()
        large = 0
        with _Hashers() as hashers:
            for item in self._items(tree, hashers):
                pending.append(item)
                large += not isinstance(item, bytes)
                while pending and (isinstance(pending[0], bytes) or large >= _PENDING or pending[0].done.is_set()):
                    first = pending.popleft()
                    large -= not isinstance(first, bytes)
                    yield first if isinstance(first, bytes) else self._settled(first)
            for item in pending:
                yield item if isinstance(item, bytes) else self._settled(item)

    def _settled(self, digest: _Digest) -> bytes:
        digest.done.wait()
        if digest.error is not None:
            if self._strict:
                raise digest.error
            return digest.line + _unreadable(digest.error)
        return digest.line + b" sha256digest=" + digest.text

    def _items(self, tree: str, hashers: _Hashers) -> Iterator[bytes | _Digest]:
        """Depth first with one descriptor: a tree may be deeper than Python's stack, PATH_MAX and the open files' limit."""
        fd = os.open(tree, _DIRECTORY)
        try:
            yield FIRST_LINE
            yield self._line(b".", os.fstat(fd), fd)
            self.size = self.files = 0  # of what is in the tree
            stack = [(self._names(fd), (0, 0))]
            while stack:
                names, above = stack[-1]
                if names:
                    name, is_directory = names.pop()
                    if not is_directory:
                        yield self._entry(fd, name, hashers)
                        continue
                    here = os.fstat(fd)
                    line, child = self._directory(fd, name)
                    yield line
                    if child is None:
                        yield UP
                        continue
                    os.close(fd)
                    fd = child
                    stack.append((self._names(fd), (here.st_dev, here.st_ino)))
                    continue
                stack.pop()
                yield UP
                if stack:
                    fd = _up(fd, above)
        finally:
            os.close(fd)

    def _names(self, fd: int) -> list[tuple[bytes, bool]]:
        """A directory's names, the last first, and whether each is a directory."""
        with os.scandir(fd) as entries:
            found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        found.sort(reverse=True)
        return found

    def _directory(self, parent: int, name: bytes) -> tuple[bytes, int | None]:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as e:
            if self._strict:
                raise
            return _quoted(name) + b" type=dir" + _unreadable(e), None
        return self._line(name, os.fstat(fd), fd), fd

    def _entry(self, parent: int, name: bytes, hashers: _Hashers) -> bytes | _Digest:
        """The line of something that is no directory."""
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(info.st_mode):
                return self._special(parent, name, info)
            fd = os.open(name, _FILE, dir_fd=parent)
        except OSError as e:
            if self._strict:
                raise
            return _quoted(name) + b" type=file" + _unreadable(e)
        try:
            info = os.fstat(fd)
            line = self._line(name, info, fd)
            if info.st_size >= _LARGE:
                digest = _Digest(line, fd)
                fd = -1
                hashers.put(digest)
                return digest
            return line + b" sha256digest=" + _digest(fd, info.st_size + 1, go_on=lambda: True)
        except OSError as e:
            if self._strict:
                raise
            return _quoted(name) + b" type=file" + _unreadable(e)
        finally:
            if fd >= 0:
                os.close(fd)

    def _special(self, parent: int, name: bytes, info: os.stat_result) -> bytes:
        # a link has no descriptor to ask: its directory's, and its name as the last part, which is not followed
        line = self._line(name, info, b"/proc/self/fd/%d/" % parent + name)
        if stat.S_ISLNK(info.st_mode):
            return line + b" link=" + _quoted(os.readlink(name, dir_fd=parent))
        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            return line + b" device=native,%d,%d" % (os.major(info.st_rdev), os.minor(info.st_rdev))
        return line

    def _line(self, name: bytes, info: os.stat_result, where: int | bytes) -> bytes:
        """Everything but the content; ``where`` is a descriptor, or a path whose last part is not followed."""
        if info.st_nlink < 2 or stat.S_ISDIR(info.st_mode) or info.st_ino not in self._seen:
            if info.st_nlink > 1:
                self._seen.add(info.st_ino)
            self.size += info.st_blocks * 512
            self.files += 1
        line = b"%b type=%b mode=%04o uid=%d gid=%d time=%d.%09d" % (
            _quoted(name), _TYPES[stat.S_IFMT(info.st_mode)], stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid,
            *divmod(info.st_mtime_ns, 10**9),
        )  # fmt: skip
        if stat.S_ISREG(info.st_mode):
            line += b" size=%d" % info.st_size
        if names := os.listxattr(where, follow_symlinks=isinstance(where, int)):
            line += _attributes(where, names)
        return line


def _attributes(where: int | bytes, names: list[str]) -> bytes:
    from base64 import b64encode  # few files have any

    words = b""
    for name in sorted(set(names) - _HOSTS_OWN):
        value = os.getxattr(where, name, follow_symlinks=isinstance(where, int))
        words += b" xattr.%b=%b" % (_quoted(os.fsencode(name)), b64encode(value))
    return words


def _up(fd: int, above: tuple[int, int]) -> int:
    """The directory above, in the place of ``fd``. Raises StoreError when it is not the one that it was."""
    up = os.open("..", _DIRECTORY, dir_fd=fd)
    info = os.fstat(up)
    if (info.st_dev, info.st_ino) != above:
        os.close(up)
        raise StoreError("the tree is being moved", hint="end what works in it, then try again")
    os.close(fd)
    return up


def _unreadable(error: OSError) -> bytes:
    return b" unreadable=" + _quoted(os.fsencode(error.strerror or str(error)))


def _quoted(text: bytes) -> bytes:
    r"""vis(3), VIS_OCTAL, as libarchive's mtree_quote() does it: what is not plain becomes \ooo."""
    if _PLAIN.fullmatch(text):
        return text
    return _NOT_PLAIN.sub(lambda found: b"\\%03o" % found.group()[0], text)


def _unquoted(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: bytes([int(found.group(1), 8)]), text)


# digests


def _digest(fd: int, block: int, go_on: Callable[[], bool]) -> bytes:
    """SHA-256 of what is left to read, as long as ``go_on`` says so."""
    total = hashlib.sha256()
    while go_on() and (data := os.read(fd, block)):
        total.update(data)
    return total.hexdigest().encode()


class _Digest:
    """A large file's line that waits for its digest."""

    def __init__(self, line: bytes, fd: int) -> None:
        self.line = line
        self.fd = fd
        self.done = Event()
        self.text = b""
        self.error: OSError | None = None

    def work(self, go_on: Callable[[], bool]) -> None:
        """Reads the file to its end, and closes it."""
        try:
            self.text = _digest(self.fd, _BLOCK, go_on)
        except OSError as e:
            self.error = e
        finally:
            os.close(self.fd)
            self.done.set()


class _Hashers:
    """Threads that digest large files: hashlib and read(2) let go of the interpreter meanwhile."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Digest | None] = SimpleQueue()
        self._threads: list[Callable[[], None]] = []
        self._wanted = True

    def __enter__(self) -> Self:
        return self

    def put(self, digest: _Digest) -> None:
        """Gives a file to whoever is free."""
        if len(self._threads) < min(_THREADS, len(os.sched_getaffinity(0))):
            thread = Thread(target=self._serve, daemon=True)
            with contextlib.suppress(RuntimeError):  # no memory for one more, or no more may be started
                thread.start()
                self._threads.append(thread.join)
        if self._threads:
            self._queue.put(digest)
        else:
            digest.work(lambda: True)

    def _serve(self) -> None:
        while (digest := self._queue.get()) is not None:
            digest.work(lambda: self._wanted)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._wanted = kind is None
        for _thread in range(_THREADS):  # not as many as are known: an exception may come while one is being started
            self._queue.put(None)
        if kind is None:
            for join in self._threads:
                join()


# what is different


def _merged(expected: Iterator[bytes], found: Iterator[bytes]) -> Iterator[Difference]:
    """Walks two manifests side by side; both have their names in the same order."""
    path: list[bytes] = []
    wanted, actual = next(expected, None), next(found, None)
    while wanted is not None or actual is not None:
        if wanted == actual:
            assert wanted is not None
            if wanted == UP:
                path.pop()
            elif b" type=dir " in wanted:
                path.append(_name(wanted))
            wanted, actual = next(expected, None), next(found, None)
            continue
        name, other = _name(wanted), _name(actual)
        if name and name == other:
            assert wanted is not None
            assert actual is not None
            yield _changed(_shown(path, name), wanted, actual)
            if _is_directory(wanted) and _is_directory(actual):
                path.append(name)
                wanted, actual = next(expected, None), next(found, None)
            else:
                wanted, actual = _after(wanted, expected), _after(actual, found)
        elif name and (not other or name < other):
            yield Difference(kind="missing", path=_shown(path, name))
            wanted = _after(wanted, expected)
        elif other:
            yield Difference(kind="added", path=_shown(path, other))
            actual = _after(actual, found)
        else:
            raise StoreError("its manifest cannot be read")


def _name(line: bytes | None) -> bytes:
    """The name of a line's file; empty for the end of a directory."""
    if line is None or line == UP:
        return b""
    return _unquoted(line.partition(b" ")[0])


def _is_directory(line: bytes | None) -> bool:
    return line is not None and b" type=dir " in line


def _after(line: bytes | None, lines: Iterator[bytes]) -> bytes | None:
    """The line after an entry with all that is below it."""
    depth = int(_is_directory(line))
    while depth:
        line = next(lines, None)
        if line is None:
            return None
        depth += _is_directory(line) - (line == UP)
    return next(lines, None)


def _shown(path: list[bytes], name: bytes) -> str:
    """The path as the machine has it."""
    parts = [*path, name][1:]
    return (b"/" + b"/".join(parts)).decode(errors="backslashreplace")


def _changed(path: str, wanted: bytes, actual: bytes) -> Difference:
    before, after = _keywords(wanted), _keywords(actual)
    if error := after.get("unreadable"):
        return Difference(kind="unreadable", path=path, what=error)
    words = []
    if before.get("type") != after.get("type"):
        return Difference(kind="changed", path=path, what=f"it is a {after.get('type')}, was a {before.get('type')}")
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        word = f"attribute {key.removeprefix('xattr.')}" if key.startswith("xattr.") else _WORDS.get(key, key)
        if key in ("uid", "gid", "mode", "size"):
            word += f" {new}, was {old}"
        elif old is None or new is None:
            word += " added" if old is None else " missing"
        words.append(word)
    return Difference(kind="changed", path=path, what=", ".join(words))


def _keywords(line: bytes) -> dict[str, str]:
    found = {}
    for word in line.split(b" ")[1:]:
        key, _, value = word.partition(b"=")
        found[os.fsdecode(_unquoted(key))] = os.fsdecode(_unquoted(value))
    return found
