"""Keeps a record of what this process opens, starts and connects to. Python loads it at its start.

Stand-alone: the standard library, nothing of the harness. Evidence, not a boundary: it works inside
the process that runs an agent's code, which may change what it says; and what happens below Python
(a library's own open, a program that was started) it does not see.

`$HARNESS_OUT/conduct.$HARNESS_STAGE.jsonl` gets a line when something happens first, at once, so
that a kill loses nothing; and more lines for how often it has happened, each time that the number
of all events has doubled and at the end. Every process of a step appends to it, to FILE_BYTES
together. A folder of many files (a package, a cache, what is written) is one entry. It costs about
a microsecond for an event that is none of these, and a hundred for one that is new.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

FILE_BYTES = 256 << 10
"""The file grows no further, but for one line."""
COUNTS_BYTES = 192 << 10
"""From here on there are lines only for what is new."""
ENTRIES = 1000
"""Of one process; what is new after them is counted together."""
WORD_CHARS = 240
"""Characters of a path or a command that are kept."""
REMEMBERED = 20_000
"""Paths of which it is remembered what entry they belong to."""

PATHS = frozenset((
    "open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.link", "os.symlink",
    "os.chmod", "os.truncate", "ctypes.dlopen",
))  # fmt: skip
STARTED = frozenset((
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "os.forkpty", "os.kill", "os.killpg",
))  # fmt: skip
CONNECTED = frozenset(("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"))
WATCHED = PATHS | STARTED | CONNECTED

_CHANGES = ("os.remove", "os.chmod", "os.truncate")
INSIDE_OPEN = "(an open folder)/"
_WRITES = os.O_WRONLY | os.O_RDWR

Entry = tuple[str, str, bool]
"""event, what, whether it was opened to be written"""


class _Record:
    """The entries of this process, and the file that they are written to."""

    def __init__(self, path: str, cached: set[str]) -> None:
        self.path = path
        self.counts: dict[Entry, int] = {}
        self.told: dict[Entry, int] = {}
        self.entries: dict[tuple[object, ...], Entry] = {}
        self.total = 0
        whole = {folder.rstrip("/") + "/" for folder in cached}
        parts = {folder.rstrip("/") + "/" for folder in sys.path if folder.startswith("/")} - whole
        # The longest first, as one may lie in another; of a cache one entry, of a folder of
        # packages one for each.
        self.folders = sorted(
            [(f, False) for f in whole] + [(f, True) for f in parts], key=lambda f: -len(f[0])
        )

    def forked(self) -> None:
        self.counts, self.told, self.total = {}, {}, 0

    def take(self, event: str, args: tuple[Any, ...]) -> None:
        key: tuple[object, ...] | None = None
        entry: Entry | None = None
        if event in PATHS:
            first = args[0]
            if first is None or isinstance(first, int) or first == self.path:
                return
            writes = event == "open" and _writing(args[1], args[2])
            key = (event, first, args[1] if event in ("os.rename", "os.link", "os.symlink") else 0,
                   writes)  # fmt: skip
            entry = self.entries.get(key)
        if entry is None:
            entry = self.entry(event, args)
            if key is not None and len(self.entries) < REMEMBERED:
                self.entries[key] = entry
        count = self.counts.get(entry)
        if count is None and len(self.counts) >= ENTRIES:
            entry = (event, "", False)
            count = self.counts.get(entry)
        self.counts[entry] = (count or 0) + 1
        self.total += 1
        if count is None:
            self.write([entry], FILE_BYTES)
        if self.total >= 256 and not self.total & (self.total - 1):
            self.tell()

    def entry(self, event: str, args: tuple[Any, ...]) -> Entry:
        if event == "open":
            return event, self.folded(args[0]), _writing(args[1], args[2])
        if event in ("os.rename", "os.link", "os.symlink"):
            return event, f"{self.folded(args[0])} to {self.folded(args[1])}", True
        if event == "ctypes.dlopen" and "/" not in str(args[0]):
            return event, str(args[0]), False
        if event == "os.remove" and args[1] != -1:  # below a folder that is known by a number
            return event, f"{INSIDE_OPEN}{_words(args[0])}", True
        if event in PATHS:
            return event, self.folded(args[0]), event in _CHANGES
        if event in ("socket.connect", "socket.bind", "socket.sendto"):
            address = args[1]
            named = isinstance(address, str) and address.startswith("/")
            return event, self.folded(address) if named else _words(address), False
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
            return event, f"{_words(args[0])}: {_words(args[1])}", False
        if event in ("os.kill", "os.killpg"):  # whom, is another number each time
            return event, f"signal {args[1]}", False
        return event, _words(args[:2]), False

    def folded(self, given: Any) -> str:
        """The path, absolute; or the folder that stands for it."""
        path = os.fsdecode(os.fspath(given))
        path = os.path.normpath(path if path.startswith("/") else os.path.join(os.getcwd(), path))
        for folder, by_part in self.folders:
            if path.startswith(folder):
                first, inner, _ = path[len(folder) :].partition("/")
                if not by_part or first.endswith(".dist-info"):
                    return folder + "*"
                return folder + first + (inner and "/*")
        if path.startswith("/proc/"):
            parts = path.split("/")
            if parts[2].isdigit():
                parts[2] = "self" if int(parts[2]) == os.getpid() else "N"
            return "/".join(part if not part.isdigit() else "N" for part in parts)
        return path

    def tell(self) -> None:
        """How often each has happened, where that has changed."""
        changed = [e for e, count in self.counts.items() if self.told.get(e) != count]
        self.write(changed, COUNTS_BYTES)

    def write(self, entries: list[Entry], limit: int) -> None:
        # Opened anew each time: a descriptor that is kept could be closed by others, and its
        # number be that of a checkpoint.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_NONBLOCK
        fd = os.open(self.path, flags, 0o644)
        try:
            if os.fstat(fd).st_size < limit:
                pid = os.getpid()
                lines = [self.line(entry, pid) for entry in entries]
                os.write(fd, "".join(lines).encode())
        finally:
            os.close(fd)
        self.told.update((entry, self.counts[entry]) for entry in entries)

    def line(self, entry: Entry, pid: int) -> str:
        event, what, writes = entry
        written = "true" if writes else "false"
        return (
            f'{{"pid":{pid},"event":"{event}","what":{_quoted(what)},"writes":{written},'
            f'"count":{self.counts[entry]}}}\n'
        )


def _writing(mode: object, flags: object) -> bool:
    if isinstance(flags, int) and flags & _WRITES:
        return True
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


def _words(value: object) -> str:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, str | os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, list | tuple):
        return " ".join(_words(item) for item in value[:20])
    return "" if value is None else str(value)


def _quoted(text: str) -> str:
    """As JSON, whose module not every process would load otherwise."""
    found = []
    for char in text[:WORD_CHARS]:
        plain = " " <= char <= "~" and char not in '"\\'
        found.append(char if plain else f"\\u{min(ord(char), 0xFFFD):04x}")
    return '"' + "".join(found) + '"'


def _hook(record: _Record) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in WATCHED:
            return
        try:
            record.take(event, args)
        except Exception:
            return  # a record that cannot be kept must end nothing

    return hook


def _begin() -> None:
    out = os.environ.get("HARNESS_OUT")
    if not out:
        return
    cached = {out, "/dev/shm", os.path.dirname(os.__file__)}
    cached |= {os.environ[name] for name in ("HARNESS_CACHE", "TMPDIR") if os.environ.get(name)}
    name = os.environ.get("HARNESS_STAGE", "")
    record = _Record(f"{out}/conduct.{name}.jsonl", cached)
    os.register_at_fork(after_in_child=record.forked)
    atexit.register(_hook_end(record))
    sys.addaudithook(_hook(record))


def _hook_end(record: _Record) -> Callable[[], None]:
    def end() -> None:
        try:
            record.tell()
        except Exception:
            return  # as above

    return end


_begin()
