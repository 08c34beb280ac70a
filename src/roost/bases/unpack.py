"""Unpacks an archive of somebody else's into a directory, and writes nowhere else, whatever it says.

It is done here and not by tar(1): every name is found with openat2(2) as if the directory were /, so that a link means
the machine's own; nothing that the archive says is followed, made or filled without a look. A name with ".." in it is
refused. A device is left out below /dev, where every session has its own, and refused elsewhere. Set-user-id bits stay:
they are the machine's, whose root is nobody outside, and a store may be read by root alone. Of extended attributes, user.*
and file capabilities are taken; overlayfs's own would let an archive hide what is in other layers.

In a layer of an image a name ".wh.NAME" stands for a NAME that was removed, ".wh..wh..opq" for a directory that shows
nothing of those below (OCI image specification, layer.md); here they become what overlayfs has for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from typing import TYPE_CHECKING

from msgspec import Struct

from roost.bases import below
from roost.bases.room import Room
from roost.bases.streams import BLOCK, Metered
from roost.errors import HostError, StoreError, exhausted, of_os
from roost.host import syscalls
from roost.session.changes import OPAQUE, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roost.bases.streams import Readable

ENTRIES_MOST = 3_000_000
"""Files of one archive; a whole distribution has some 500,000."""
SIZE_MOST = 64 << 30
"""Bytes of one archive's files, holes included: whatever reads the tree reads them."""
ID_MOST = 65534
"""The last uid and gid that a session has."""
_HEADERS_MOST = 4 << 20  # bytes before a file: extended headers hold names and attributes, which the kernel bounds
_MEMORY_MOST = 3 << 30  # bytes of address space: an xz dictionary may have 4 GiB
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_HINT = 'if you trust it, unpack it yourself and write `from = "dir:DIRECTORY"`'
_AGAIN = "get it again, and compare its sha256 with what its makers publish"
_DAMAGED = "it is damaged, cut short, or no tar archive"


class Unpacked(Struct, frozen=True, kw_only=True):
    """``size`` in bytes; ``devices`` were left out; ``sha256`` is that of the archive without its compression."""

    entries: int
    size: int
    devices: int
    sha256: str


class _Header(tarfile.TarInfo):
    """tarfile takes a broken header for the end of the archive: the half before it would be used."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise StoreError(_DAMAGED) from None


def unpack(stream: Readable, tree: str, *, image: bool = False, lowers: Sequence[str] = (), entries: int = ENTRIES_MOST,
           size: int = SIZE_MOST, place: Callable[[list[str]], list[str] | None] | None = None) -> Unpacked:  # fmt: skip
    """Fills the empty directory ``tree``. ``image``: it is a layer of an image, over the trees ``lowers`` (the top first).
    ``place`` says where an entry goes, and what a hard link means, by the parts of their paths; None: it is left out.

    Raises StoreError for an archive that is damaged, too large, or would write elsewhere; HostError when the disk is full.
    What is in ``tree`` then is to be thrown away.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_little_memory())
            work = held.enter_context(contextlib.closing(_Unpacking(Metered(stream), tree, image=image, lowers=lowers)))
            work.place = place
            return work.all(entries, size)
        except MemoryError:
            raise StoreError("it takes more memory to read than an archive should", hint=_HINT) from None
        except OSError as e:
            if e.errno and (e.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ)):
                raise exhausted(e) or of_os(e) from None
            raise StoreError(f"{_DAMAGED}: {e}", hint=_AGAIN) from None
        except StoreError as e:
            raise StoreError(e.brief, details=e.details, hint=e.hint or _AGAIN) from None
        except HostError:
            raise
        except (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
            raise StoreError(f"{_DAMAGED}: {e}", hint=_AGAIN) from None
        except Exception as e:
            if type(e).__module__ in ("zlib", "_lzma", "struct"):  # not imported for the name of an exception
                raise StoreError(f"{_DAMAGED}: {e}", hint=_AGAIN) from None
            raise


@contextlib.contextmanager
def _little_memory():  # type: ignore[no-untyped-def]  # a generator of nothing
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MEMORY_MOST if soft == resource.RLIM_INFINITY else min(soft, _MEMORY_MOST)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Unpacking:
    def __init__(self, stream: Metered, tree: str, *, image: bool, lowers: Sequence[str]) -> None:
        self._stream = stream
        self._image = image
        self._root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lowers = [os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for lower in lowers]
        self._at: tuple[str, int] | None = None  # the directory of the last entry: most are in the same
        self._times: list[tuple[str, int]] = []
        self._devices = 0
        self._room = Room(self._root)
        self.place: Callable[[list[str]], list[str] | None] | None = None
        if self._lowers:
            self._as_below("", self._root)

    def close(self) -> None:
        """Closes every descriptor."""
        self._leave()
        for fd in (self._root, *self._lowers):
            os.close(fd)

    def all(self, entries_most: int, size_most: int) -> Unpacked:
        """Every entry, then the times of the directories, which were written into until then."""
        entries = size = 0
        self._stream.allow(_HEADERS_MOST)
        with tarfile.open(fileobj=self._stream, mode="r|", bufsize=BLOCK, tarinfo=_Header, encoding="utf-8") as archive:  # type: ignore[call-overload]  # it only reads
            while True:
                self._stream.allow(_HEADERS_MOST)
                entry = archive.next()
                if entry is None:
                    break
                archive.members = []  # it would keep them all
                entries += 1
                size += max(0, entry.size)
                if entries > entries_most:
                    raise StoreError(f"it has more than {entries_most} files", hint=_HINT)
                if size > size_most:
                    raise StoreError(f"its files have more than {size_most >> 20} MiB", hint=_HINT)
                self._room.want(0 if entry.issparse() else entry.size)
                self._entry(archive, entry)
        whole = self._stream.to_the_end(size_most)
        for path, when in reversed(self._times):
            with contextlib.suppress(OSError):  # it was replaced by something else
                fd = syscalls.openat2(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, root=self._root)
                os.utime(fd, ns=(when, when))
                os.close(fd)
        return Unpacked(entries=entries, size=size, devices=self._devices, sha256=whole)

    def _entry(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        parts = _parts(entry.name)
        shown = _shown(entry.name)
        if entry.size < 0 or not (0 <= entry.uid <= ID_MOST and 0 <= entry.gid <= ID_MOST):
            raise StoreError(
                f"{shown} has an owner that no session has (0 to {ID_MOST}), or a size below nothing", hint=_HINT
            )
        if self.place is not None:
            placed = self.place(parts)
            if placed is None:
                return
            parts = placed
        try:
            if not parts:
                if not entry.isdir():
                    raise StoreError(f"{shown} is the tree itself, and no directory")
                self._attributes(self._root, "", entry)
            elif self._image and parts[-1].startswith(".wh."):
                self._whiteout(parts, shown)
            else:
                self._make(archive, entry, parts, shown)
        except OSError as e:
            if exhausted(e):
                raise
            raise StoreError(f"{shown} cannot be made: {e.strerror}", hint=_HINT) from None

    def _make(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, parts: list[str], shown: str) -> None:
        if entry.ischr() or entry.isblk():
            if parts[0] != "dev":
                raise StoreError(f"{shown} is a device, and not in /dev", hint=_HINT)
            self._devices += 1
            return
        above, name = "/".join(parts[:-1]), parts[-1]
        parent = self._directory(above)
        if entry.isdir():
            self._make_directory(parent, "/".join(parts), name, entry)
            return
        self._clear(parent, name, shown)
        if entry.isreg():
            self._make_file(archive, parent, name, entry)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(_time(entry), _time(entry)), dir_fd=parent, follow_symlinks=False)
        elif entry.islnk():
            self._link(parent, name, entry, shown)
        elif entry.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, entry.mode & 0o7777, dir_fd=parent)  # it has just been made, and by nobody else
        else:
            raise StoreError(f"{shown} is of a type that no file system has: {entry.type!r}")

    def _make_directory(self, parent: int, path: str, name: str, entry: tarfile.TarInfo) -> None:
        opaque = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
                opaque = self._image and is_whiteout(info)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._attributes(fd, path, entry)
            if opaque:
                os.setxattr(fd, OPAQUE, b"y")
        finally:
            os.close(fd)

    def _make_file(self, archive: tarfile.TarFile, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        with open(fd, "wb", buffering=0) as target:
            source = archive.extractfile(entry)
            assert source is not None
            self._stream.allow(entry.size + _HEADERS_MOST)
            left = entry.size
            while left:
                data = source.read(min(left, BLOCK))
                if not data:
                    raise StoreError(_DAMAGED)
                left -= len(data)
                if entry.issparse() and not any(data):
                    os.lseek(fd, len(data), os.SEEK_CUR)
                else:
                    target.write(data)
            os.ftruncate(fd, entry.size)
            self._attributes(fd, None, entry)

    def _attributes(self, fd: int, directory: str | None, entry: tarfile.TarInfo) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode & 0o7777)  # after the owner, which clears set-user-id
        for key, value in entry.pax_headers.items():
            name = key.removeprefix("SCHILY.xattr.")
            if name != key and (
                name == "security.capability" or (name[:5] == "user." and name[:13] != "user.overlay.")
            ):
                with contextlib.suppress(OSError):  # one that this file system does not take
                    os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
        if directory is None:
            os.utime(fd, ns=(_time(entry), _time(entry)))
        else:
            self._times.append((directory, _time(entry)))

    def _link(self, parent: int, name: str, entry: tarfile.TarInfo, shown: str) -> None:
        target = _parts(entry.linkname)
        if self.place is not None:
            placed = self.place(target)
            if placed is None:
                there = _shown(entry.linkname)
                raise StoreError(
                    f"{shown} is a link to {there}, which is left out", hint="this is Roost's trouble: please report it"
                )
            target = placed
        if not target:
            raise StoreError(f"{shown} is a link to the tree itself")
        there = _shown("/".join(target))
        held = os.dup(parent)  # what is copied up has another parent
        try:
            self._linked(held, name, target, shown, there)
        except FileNotFoundError:
            if not self._image or not self._copied_up(target, shown, there):
                raise StoreError(f"{shown} is a link to {there}, which is not in the archive before it") from None
            self._linked(held, name, target, shown, there)
        finally:
            os.close(held)

    def _linked(self, parent: int, name: str, target: list[str], shown: str, there: str) -> None:
        try:
            above = self._open("/".join(target[:-1]))
        except NotADirectoryError:
            raise StoreError(f"{shown} is a link to {there}, which is no file") from None
        try:
            info = os.stat(target[-1], dir_fd=above, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode) or is_whiteout(info):
                raise StoreError(f"{shown} is a link to {there}, which is no file")
            os.link(target[-1], name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(above)

    def _copied_up(self, target: list[str], shown: str, there: str) -> bool:
        """Whether a file of the layers below is in this one now."""
        try:
            source = below.find((self._root, *self._lowers), target)
        except OSError:
            return False
        try:
            self._room.want(os.fstat(source).st_size)
            below.copy_up(source, self._directory("/".join(target[:-1])), target[-1])
        except ValueError:
            raise StoreError(f"{shown} is a link to {there}, which is no file") from None
        finally:
            os.close(source)
        return True

    def _whiteout(self, parts: list[str], shown: str) -> None:
        name = parts[-1].removeprefix(".wh.")
        if parts[-1] == ".wh..wh..opq":
            if self._lowers:
                here = "/".join(parts[:-1])
                self._directory(here)
                fd = syscalls.openat2(here or ".", os.O_RDONLY | os.O_DIRECTORY, root=self._root)
                os.setxattr(fd, OPAQUE, b"y")
                os.close(fd)
            return
        if name.startswith(".wh."):  # aufs's own
            return
        if name in ("", ".", ".."):
            raise StoreError(f"{shown} removes nothing that has a name")
        if not self._lowers:  # there is nothing below
            return
        parent = self._directory("/".join(parts[:-1]))
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:  # this layer has another in its place
            with contextlib.suppress(NotADirectoryError, OSError):
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                os.setxattr(fd, OPAQUE, b"y")
                os.close(fd)

    def _clear(self, parent: int, name: str, shown: str) -> None:
        """A later entry of the same name is meant."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            raise StoreError(f"{shown} is there twice, once as a directory") from None

    # where an entry is

    def _directory(self, path: str) -> int:
        """The directory ``path``, links in it followed inside, made with those above it when the archive has none."""
        if self._at is not None and self._at[0] == path:
            return self._at[1]
        self._leave()
        try:
            fd = self._open(path)
        except FileNotFoundError:
            done = ""
            for part in path.split("/"):
                here = f"{done}/{part}" if done else part
                try:
                    os.close(self._open(here))
                except FileNotFoundError:
                    self._make_missing(done, here, part)
                done = here
            fd = self._open(path)
        self._at = (path, fd)
        return fd

    def _make_missing(self, above: str, path: str, name: str) -> None:
        parent = self._open(above)
        try:
            with contextlib.suppress(FileNotFoundError):
                if is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                    os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            if self._lowers:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                self._as_below(path, fd)
                os.close(fd)
        finally:
            os.close(parent)

    def _as_below(self, path: str, fd: int) -> None:
        """A directory that a layer only passes through looks as it does in the layers below (as containerd has it)."""
        for lower in self._lowers:
            with contextlib.suppress(OSError):
                there = syscalls.openat2(path or ".", os.O_PATH | os.O_NOFOLLOW, root=lower)
                info = os.fstat(there)
                os.close(there)
                if not stat.S_ISDIR(info.st_mode):
                    return
                os.fchown(fd, info.st_uid, info.st_gid)
                os.fchmod(fd, stat.S_IMODE(info.st_mode))
                self._times.append((path, info.st_mtime_ns))
                return

    def _open(self, path: str) -> int:
        return syscalls.openat2(path or ".", os.O_PATH | os.O_DIRECTORY, root=self._root)

    def _leave(self) -> None:
        if self._at is not None:
            os.close(self._at[1])
            self._at = None


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StoreError(f"{_shown(name)} would climb out of the tree", hint=_HINT)
    return parts


def _shown(name: str) -> str:
    text = os.fsencode(name).decode(errors="backslashreplace")
    return repr(text if len(text) <= 120 else f"{text[:60]}…{text[-50:]}")


def _time(entry: tarfile.TarInfo) -> int:
    """Nanoseconds since the epoch; one that no file system has is the epoch itself."""
    try:
        return int(entry.mtime * 1_000_000_000) if 0 <= entry.mtime < 1 << 33 else 0
    except (ValueError, OverflowError):
        return 0
