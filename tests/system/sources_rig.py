"""Trees as other tools make them, tiny and real: archives, images, a server that misbehaves."""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from system.rig import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_tree(path: Path, identity: str = "ID=tiny\n", *programs: str) -> Path:
    """A tree that runs a shell; ``programs`` are empty files with a package manager's name."""
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/lib"):
        (path / name).mkdir(parents=True)
    os.chmod(path / "tmp", 0o1777)
    (path / "bin/busybox").write_bytes(open(BUSYBOX, "rb").read())  # noqa: SIM115
    os.chmod(path / "bin/busybox", 0o755)
    for name in ("sh", "cat", "ls", "id", "stat", "test", "true", "mkdir", "mktemp", "head", "chmod", "rm", "chown"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/os-release").write_text(identity)
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\n")
    for name in programs:
        (path / name.strip("/")).parent.mkdir(parents=True, exist_ok=True)
        (path / name.strip("/")).touch(0o755)
    return path


def call(*argv: str | Path, **more: Any) -> str:
    """A program that has to succeed; what it prints."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=120, **more
    )
    return done.stdout


class Keys:
    """A key that signs, made in a moment. ``then``: it was made and signs in the first days of 2020, and is good until ``until``."""

    def __init__(self, home: Path, *, then: bool = False, until: str = "never") -> None:
        home.mkdir(mode=0o700)
        self._home = home
        self._faked = ("--faked-system-time", "20200102T000000!") if then else ()
        words = ("--quick-gen-key", "--passphrase", "", "Releases <releases@example.org>", "ed25519", "sign", until)
        self._gpg(words[0], "--batch", *words[1:3], *words[3:])

    def _gpg(self, *words: str) -> str:
        common = ("--homedir", str(self._home), "--batch", "--yes", "--pinentry-mode", "loopback", *self._faked)
        return call("gpg", *common, *words)

    def public(self, path: Path) -> Path:
        """The public key in a file."""
        self._gpg("--armor", "--output", str(path), "--export")
        return path

    def sign(self, path: Path, *more: str) -> Path:
        """A signature beside a file."""
        self._gpg("--armor", "--output", f"{path}.asc", *more, "--detach-sign", str(path))
        return path.with_name(f"{path.name}.asc")

    def clearsign(self, path: Path, *more: str) -> None:
        """Signs a text in its own file."""
        text = path.read_bytes()
        whole = path.with_name("whole")
        whole.write_bytes(text)
        self._gpg("--output", str(path), *more, "--clearsign", str(whole))
        whole.unlink()

    def revoke(self) -> None:
        """By the certificate that gpg has made with the key; what was signed before stays."""
        [file] = (self._home / "openpgp-revocs.d").iterdir()
        file.write_text(file.read_text().replace("\n:---", "\n---"))  # the colon is there lest it is taken by mistake
        self._gpg("--import", str(file))

    def close(self) -> None:
        """Ends gpg's agent."""
        call("gpgconf", "--homedir", self._home, "--kill", "all")


@contextlib.contextmanager
def served(directory: Path, *, cut: int = 0, once: bool = True, ranges: bool = True) -> Iterator[tuple[str, list[str]]]:
    """A web server for a directory: its address, and the ranges that it was asked for.

    ``cut``: it closes the connection after so many bytes, the first time or (not ``once``) every time.
    """
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the base class's
            path = directory / self.path.strip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            wanted = self.headers.get("Range", "")
            if self.path.endswith(".asc"):
                wanted = ""
            else:
                asked.append(wanted)
            mark = f'"{path.stat().st_mtime_ns}"'
            start = 0
            if ranges and wanted and self.headers.get("If-Range") == mark:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", mark)
            self.end_headers()
            stop = len(data)
            if cut and not self.path.endswith(".asc") and (not once or len(asked) == 1):
                stop = min(stop, start + cut)
            with contextlib.suppress(OSError):
                self.wfile.write(data[start:stop])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
