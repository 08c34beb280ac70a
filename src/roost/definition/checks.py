"""The rules for single values. Each function takes a value and returns what is wrong with it, or an empty string."""

from __future__ import annotations

import os.path

LOWER = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
LETTERS = LOWER + LOWER.upper()
FAMILIES = ("apt", "dnf", "zypper", "pacman", "apk", "portage")
LIMITS = ("memory", "cpus", "tasks", "disk", "time", "output")
MEMORY_LEAST = 4 << 20
"""Bytes; below it no shell starts."""
DISK_LEAST = 8 << 20
"""Bytes; below it a file system has hardly room for itself."""
UID_MOST = 65533
"""65534 is nobody, 65535 is never valid (systemd, UIDS-GIDS.md), and a session has 65536 ids."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_VIRTUAL = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108  # mounted over in every session


def made_of(text: str, letters: str) -> bool:
    """Whether a text is not empty and has only these letters."""
    return bool(text) and not text.strip(letters)


def machine_name(name: str) -> str:
    """A host name of one label (RFC 1123): machinectl and the machine's own host name must both take it."""
    if made_of(name, LOWER + DIGITS + "-") and len(name) <= 63 and name[0] != "-" and name[-1] != "-":
        return ""
    if "_" in name:
        reason = "systemd (machinectl) refuses '_' in a machine's name"
    elif name != name.lower():
        reason = "a machine's name is a host name, in lower case"
    elif len(name) > 63:
        reason = "a machine's name has at most 63 characters"
    elif name[:1] == "-" or name[-1:] == "-":
        reason = "a machine's name does not begin or end with '-'"
    else:
        reason = "a machine's name is a host name: a-z, 0-9 and '-'"
    better = "".join(c if c in LOWER + DIGITS else "-" for c in name.lower()).strip("-")[:63].strip("-")
    return f"{reason}, write '{better}'" if better else reason


def profile_name(name: str) -> str:
    """Profiles are told apart by eye and in file names."""
    if made_of(name, LOWER + DIGITS + "-._+") and len(name) <= 64 and name[0] in LOWER + DIGITS:
        return ""
    return "a profile's name has a-z, 0-9, '-', '.', '_' and '+', at most 64, and begins with a letter or digit"


def user_name(name: str) -> str:
    """What useradd takes on every distribution (shadow's default; Debian alone would take more)."""
    if name == "root":
        return "root is in every machine already"
    first = LOWER + "_"
    if made_of(name, first + DIGITS + "-") and name[0] in first and len(name) <= 32:
        return ""
    return f"not a user name {name!r}: a-z, 0-9, '-' and '_', at most 32, beginning with a letter or '_'"


def group_name(name: str) -> str:
    """Existing groups may have capitals (Debian-exim)."""
    first = LETTERS + "_"
    if made_of(name, first + DIGITS + "-") and name[0] in first and len(name) <= 32:
        return ""
    return f"not a group name {name!r}: letters, digits, '-' and '_', at most 32, beginning with a letter or '_'"


def owner(name: str) -> str:
    """The owner or group of a file: a name, or an id as a string."""
    if made_of(name, DIGITS):
        return "" if len(name) <= 5 and int(name) <= UID_MOST else f"ids go from 0 to {UID_MOST}"
    return group_name(name)


def uid(number: int) -> str:
    """Ids that a session's user namespace maps and that mean a person."""
    return "" if 0 <= number <= UID_MOST else f"a uid goes from 0 to {UID_MOST}"


def control(text: str) -> str:
    """Text that is shown on one line or becomes part of a path, a command or a unit."""
    bad = next((c for c in text if not c.isprintable()), "")
    return f"has the character U+{ord(bad):04X} in it, which cannot be printed" if bad else ""


def path(text: str, *, home: bool = False) -> str:
    """An absolute path inside a machine, written in its only form."""
    normal = "/" + os.path.normpath(text).lstrip("/")
    if not text.startswith("/"):
        return f"not an absolute path: {text!r} does not begin with '/'"
    if ".." in text.split("/"):
        return "'..' has no place in a path inside a machine"
    if text != normal or text == "/":
        return "'/' itself is not a path for this" if normal == "/" else f"write the path as '{normal}'"
    raw = text.encode(errors="surrogateescape")
    if len(raw) >= 4096 or max(map(len, raw.split(b"/"))) > 255:  # PATH_MAX, NAME_MAX
        return "the path is too long (255 bytes for a name, 4095 in all)"
    if home and ":" in text:
        return "':' has no place here: it separates fields in /etc/passwd"
    return control(text)


def file_target(text: str) -> str:
    """Where a layer's file may go."""
    for top in _VIRTUAL:
        if text == top or text.startswith(f"{top}/"):
            return f"nothing under {top} is kept in a layer: every session has its own"
    return path(text)


def bind_target(text: str) -> str:
    """Where a host path may be seen. The kernel's own trees stay what nspawn made them."""
    if text.startswith(("/proc/", "/sys/")) or text in ("/proc", "/sys"):
        return "/proc and /sys belong to the session: bind elsewhere"
    return path(text)


def mode(text: str) -> str:
    """Permission bits as chmod takes them."""
    if made_of(text, "01234567") and 3 <= len(text) <= 4:
        return ""
    return f'not a mode {text!r}: three or four octal digits, like "0644"'


def variable(name: str) -> str:
    """The name of an environment variable (POSIX, 8.1)."""
    if made_of(name, LETTERS + DIGITS + "_") and name[0] not in DIGITS:
        return ""
    return "not a variable's name: letters, digits and '_', not beginning with a digit"


def nul(text: str) -> str:
    """The kernel ends every string at a zero byte."""
    return "has a NUL character in it" if "\0" in text else ""


def package(name: str) -> str:
    """@SET, NAME, NAME:ARCHITECTURE, NAME=VERSION or NAME/RELEASE; apk's NAME~VERSION, and @TAG behind any of its own.

    Nothing that a package manager takes for an option, a pattern (apt's begin with '~') or (a '-' at the end, apt-get(8))
    an order to remove.
    """
    if name.startswith("@"):
        good = made_of(name[1:], LOWER + DIGITS + "-") and name[1] != "-"
        return "" if good else f"not a package set {name!r}: '@' and its name, like \"@build-essential\""
    if name[:1] == "-":
        return f"not a package's name {name!r}: it begins with '-'"
    word = LETTERS + DIGITS + "+._-"
    plain, at, tag = name.partition("@")
    head, separator, tail = _split(plain)
    stem, colon, architecture = head.partition(":")
    good = made_of(stem, word) and stem[0] in LETTERS + DIGITS
    good = good and (not colon or made_of(architecture, LOWER + DIGITS + "-"))
    good = good and (not separator or made_of(tail, word + ("~:^=" if separator == "/" else "~:^")))
    good = good and (not at or made_of(tag, LETTERS + DIGITS + "_-"))
    if not good:
        return (
            f"not a package's name {name!r}: one name, or NAME:ARCHITECTURE, NAME=VERSION, NAME~VERSION, NAME/RELEASE"
        )
    return f"{name!r} ends with '-', which tells apt to remove it" if name[-1] == "-" else ""


def installed(name: str, family: str = "") -> str:
    """NAME or NAME:ARCHITECTURE: what is removed needs no version. A '/' may follow one of Gentoo's categories."""
    if name.startswith("@"):
        return f"a set ({name!r}) is not removed as such: name the packages"
    wrong = "=~" if family in ("", "portage") else "=~/"
    return f"{name!r}: what is removed is named without a version and a suite" if set(wrong) & set(name) else ""


def _split(name: str) -> tuple[str, str, str]:
    at = next((index for index, char in enumerate(name) if char in "=/~"), len(name))
    return name[:at], name[at : at + 1], name[at + 1 :]


def capability(name: str) -> str:
    """A capability by systemd's name, which is the kernel's."""
    from roost.definition.mistakes import nearest  # few definitions have this key
    from roost.host.capabilities import NAMES

    if name in NAMES:
        return ""
    near = nearest(name.upper().removeprefix("CAP_"), [one.removeprefix("CAP_") for one in NAMES])
    known = f", did you mean 'CAP_{near}'?" if near else ': one like "CAP_SYS_ADMIN"'
    return f"unknown capability {name!r}{known}"


def component(name: str) -> str:
    """One word of a line in sources.list."""
    if made_of(name, LETTERS + DIGITS + "-./_") and name[0] in LETTERS + DIGITS:
        return ""
    return f'not a component {name!r}: one word, like "main"'


def mirror(url: str) -> str:
    """An address that ends up in sources.list: no user or password, which would stay in the layer."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https", "file"):
        return f"not a mirror {url!r}: an http://, https:// or file:// address"
    host, _, directory = rest.partition("/")
    if "@" in host:
        return "no user or password here, they would stay in the layer: put them into the host's /etc/apt/auth.conf.d"
    if any(c.isspace() or not c.isprintable() or c in "\"'<>\\" for c in url):
        return f"not a mirror {url!r}: it has a character that no address has"
    if scheme == "file":
        return "" if not host and directory else f"not a mirror {url!r}: file:///DIRECTORY, with an absolute path"
    name, colon, port = (host, "", "") if host.endswith("]") or ":" not in host else host.rpartition(":")
    inner = name[1:-1] if name[:1] == "[" and name[-1:] == "]" else ""  # an IPv6 address
    good = made_of(inner, "0123456789abcdefABCDEF:.") or made_of(name, LETTERS + DIGITS + "-._")
    if not good or (colon and not made_of(port, DIGITS)):
        return f"not a mirror {url!r}: there is no valid host in it"
    return ""


def limit(name: str, written: str | float) -> tuple[int | float, str]:
    """One of LIMITS as a number (bytes, seconds, processors, tasks; 0 when it is none), and what is wrong with it.

    Numbers may be written as text too, as on a command line.
    """
    if name in _LEAST:
        whole = isinstance(written, str | int) or written == written // 1
        size = bytes_of(written if isinstance(written, str) else int(written)) if whole else None
        return size or 0, _size(name, written, size)
    if name == "time":
        time = seconds_of(written)
        wrong = "" if time is not None else f'not a time {written!r}: seconds, or like "90s", "15m", "2h"'
        return time or 0, wrong
    try:
        number = float(written)
    except ValueError:
        return 0, f"not a number {written!r}"
    if name == "cpus":
        return number, cpus(number)
    return (int(number), tasks(int(number))) if number == number // 1 else (0, f"not a whole number {written!r}")


_LEAST = {
    "memory": (MEMORY_LEAST, "nothing runs in less than 4M"),
    "disk": (DISK_LEAST, "no session fits into less than 8M"),
    "output": (1, "write at least 1"),
}


def _size(name: str, written: str | float, size: int | None) -> str:
    what = "an amount of memory" if name == "memory" else "a size"
    if size is None:
        return f'not {what} {written!r}: bytes, or like "512M", "2G" (K, M, G, T)'
    least, why = _LEAST[name]
    if size < least:
        return f"{written} is too little: {why}"
    return "" if size < (1 << 63 if name == "memory" else 1 << 50) else f"{written} is more than any machine has"


def seconds_of(time: str | float) -> float | None:
    """The seconds of a time (90, 1.5, "90s", "15m", "2h"), None when it is none."""
    try:
        number, unit = (time[:-1], _SECONDS[time[-1]]) if isinstance(time, str) and time[-1:] in "smh" else (time, 1)
        seconds = float(number) * unit
    except (ValueError, KeyError):
        return None
    return seconds if 0 < seconds < 1 << 40 else None


def bytes_of(amount: str | int) -> int | None:
    """The bytes of an amount, None when it is none."""
    if isinstance(amount, int):
        return amount
    number = amount.rstrip("KMGT")
    unit = amount[len(number) :]
    if unit not in _UNITS or not made_of(number, DIGITS) or len(number) > 20:
        return None
    return int(number) * _UNITS[unit]


def cpus(number: float) -> str:
    """A share of processors."""
    return "" if 0 < number < 1 << 20 else "not a number of processors: more than 0, like 2 or 0.5"


def tasks(number: int) -> str:
    """Processes and threads (pids.max)."""
    return "" if 1 <= number <= 1 << 22 else f"from 1 to {1 << 22} tasks (the kernel's PID_MAX_LIMIT)"


def host_name(name: str) -> str:
    """What a machine calls itself: labels as in a machine's name, with dots (RFC 1123; Linux takes 64 characters)."""
    good = len(name) <= 64 and not any(machine_name(label) for label in name.split("."))
    return "" if good else f"not a host name {name!r}: labels of a-z, 0-9 and '-' with dots between, at most 64 in all"


def repository(name: str) -> str:
    """The name of a file that apt and dnf read."""
    if made_of(name, LOWER + DIGITS + "-_") and len(name) <= 64 and name[0] in LOWER + DIGITS:
        return ""
    return f"not a repository's name {name!r}: a-z, 0-9, '-' and '_', at most 64, beginning with a letter or digit"


def suite(name: str) -> str:
    """One word of sources.list; a directory (a flat repository) ends with '/'."""
    if made_of(name, LETTERS + DIGITS + "-._/+~") and ".." not in name.split("/"):
        return ""
    return f'not a suite {name!r}: one word, like "bookworm", or a directory, like "./"'


def keys(content: bytes) -> str:
    """A file with OpenPGP public keys, armoured or not (RFC 9580, 6.2 and 4.2), or with one of apk's (RFC 7468, 13); a
    secret one would stay in the layer.
    """
    if b"-----BEGIN PGP PRIVATE KEY BLOCK-----" in content or b" PRIVATE KEY-----" in content:
        return "this is a private key, and it would stay in the layer: export the public one"
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" in content or b"-----BEGIN PUBLIC KEY-----" in content:
        return ""
    first = content[0] if content else 0
    tag = first & 0x3F if first & 0x40 else (first & 0x3C) >> 2
    if first & 0x80 and tag in (5, 7):  # secret key, secret subkey
        return "this is a private key, and it would stay in the layer: export the public one"
    return "" if first & 0x80 and tag == 6 else "holds no OpenPGP keys: `gpg --export KEY` writes such a file"


def unit(name: str) -> str:
    """A unit of systemd's (systemd.unit(5)); without an ending it is a service."""
    if not made_of(name, LETTERS + DIGITS + ":-_.\\@") or len(name) > 255 or name[0] in "-.@" or name[-1] == ".":
        return f'not a unit {name!r}: one like "ssh", "fstrim.timer" or "getty@tty1.service"'
    return ""


def locale(name: str) -> str:
    """A locale by glibc's name (its SUPPORTED file): LANGUAGE_COUNTRY.CHARSET@MODIFIER."""
    stem, _, modifier = name.partition("@")
    place, dot, charset = stem.partition(".")
    language, _, country = place.partition("_")
    good = language in ("C", "POSIX") or (made_of(language, LOWER) and 2 <= len(language) <= 3)
    good = good and (place == language or (made_of(country, LOWER.upper()) and len(country) == 2))
    good = good and (not dot or made_of(charset, LETTERS + DIGITS + "-")) and ("@" not in name or modifier.isalnum())
    if not good:
        return f'not a locale {name!r}: one like "C.UTF-8" or "de_DE.UTF-8"'
    if charset != "UTF-8" and charset.lower().replace("-", "") == "utf8":
        return f"write the locale as '{place}.UTF-8{name[len(stem) :]}'"
    return ""


def timezone(name: str) -> str:
    """A time zone by its name in the tz database: Area/City, or UTC."""
    parts = name.split("/")
    word = LETTERS + DIGITS + "-_+"
    good = all(made_of(part, word) and part[0].isupper() for part in parts) and 2 <= len(parts) <= 3
    if name == "UTC" or (good and len(name) <= 100):
        return ""
    return f'not a time zone {name!r}: Area/City, like "Europe/Berlin", or "UTC"'


def password_hash(text: str) -> str:
    """A password as crypt(5) stores it, or nothing for none at all. It is never repeated: it may be the password."""
    if not text:
        return ""
    if not text.startswith("$"):
        return "a password itself has no place here, only what crypt(5) makes of it: `openssl passwd -6` asks and prints it"
    _, kind, *rest = text.split("$")
    word = LETTERS + DIGITS + "./=,-_"
    good = made_of(kind, LOWER + DIGITS) and len(rest) >= 2 and all(made_of(part, word) for part in rest)
    if not good:
        return "not a hash of crypt(5): one like $6$SALT$HASH, `openssl passwd -6` prints it"
    wanted = {"1": 22, "5": 43, "6": 86}.get(kind, len(rest[-1]))
    wrong = f"a hash of this kind has {wanted} characters at its end, not {len(rest[-1])}: was a '$' lost on the way?"
    return "" if len(rest[-1]) == wanted else wrong
