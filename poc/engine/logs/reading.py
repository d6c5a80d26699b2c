"""A json-file log, read: from its beginning, its last lines or a time on, through rotated files, perhaps for ever.

A file is known by its inode number, under whatever name it is found, and a compressed one by that and the mtime of
what it was made from. The writer closes a file before it renames it,
so that a file which is no longer the last has been written to its end; the next one is the one after it in the order
of names, all of which are looked at twice, so that no rotation happens in between.
"""

from __future__ import annotations

import fcntl
import os
import time

from poc._lean import json
from poc.engine.logs.jsonfile import compressed_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Key = tuple[int, int]

_POLL_INTERVAL = 0.05  # seconds between two looks at a log that is followed
_CHUNK = 1 << 18


class Entry:
    """A line, or a part of a long one. ``time`` is RFC 3339, ``attrs`` what --log-opt labels and env added."""

    __slots__ = ("attrs", "data", "stream", "time")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.time: str = fields["time"]
        self.stream: str = fields["stream"]
        self.data: bytes = fields["log"].encode("utf-8", "surrogateescape")
        self.attrs: dict[str, str] = fields.get("attrs") or {}


def read(
    path: str,
    tail: int | None = None,
    since: str = "",
    until: str = "",
    is_running: Callable[[], bool] | None = None,
    attendance: str = "",
) -> Iterator[Entry]:
    """The entries; of the last ``tail`` lines only, and of those no earlier and no later than two timestamps.

    With ``is_running`` the log is followed until that says no and the last entry has been read. ``attendance`` is the
    path of a file that tells who deletes the log that it is followed.
    """
    reader = Reader(path, follow=is_running is not None, attendance=attendance)
    if tail is not None:
        reader.skip_to(*_tail_start(path, tail))
    return _entries(reader, since, until, is_running)


def _entries(reader: Reader, since: str, until: str, is_running: Callable[[], bool] | None) -> Iterator[Entry]:
    try:
        while True:
            # Asked before the read: what is written before the end is then read after it.
            running = is_running is not None and is_running() and not (until and _now() > until)
            if not running:
                reader.open_all()
            rows = reader.read()
            for entry in map(decode, rows):
                if entry and entry.time >= since and not (until and entry.time > until):
                    yield entry
            if rows or reader.advance():
                continue
            if not running:
                return
            time.sleep(_POLL_INTERVAL)
    finally:
        reader.close()


def _now() -> str:
    from poc.engine.logs import timestamp

    return timestamp()


def decode(row: bytes) -> Entry | None:
    """None for a row that was cut off."""
    try:
        return Entry(json.loads(row))
    except (ValueError, KeyError, TypeError):
        return None


# ── files ────────────────────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads rows, file after file. Without ``follow``: of what there was when it was made."""

    __slots__ = ("_attendance", "_end", "_end_size", "_file", "_path", "_pending", "_rest")

    def __init__(self, path: str, follow: bool, attendance: str = "") -> None:
        self._path = path
        self._attendance = _attend(attendance) if attendance else -1
        self._rest: list[_File] | None = None
        self._pending = b""
        self._file: _File | None = None
        if follow:
            self._make()
        files = _scan(path)
        self._end: _File | None = None  # kept open: so its inode number is not used again
        self._end_size = 0
        if files and not follow:
            self._end = _open_last(path)
            self._end_size = self._end.size()
        self._open_one_of(files)

    def _make(self) -> None:
        """Have a file before the first line: that of a container with --rm might be gone before the next look."""
        try:
            os.close(os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        except FileNotFoundError:
            pass  # removed

    def skip_to(self, key: Key, offset: int) -> None:
        """Go on at this place, unless it is gone meanwhile."""
        for found, path in _scan(self._path):
            if found == key and self._open_one_of([(key, path)]):
                assert self._file is not None
                self._file.skip(offset)
                return

    def read(self) -> list[bytes]:
        """Some of the rows that there are; none at the end of a file."""
        file = self._file
        if file is None:
            return []
        ends_here = self._end is not None and self._end.is_known_as(file.key)
        while True:
            size = min(_CHUNK, self._end_size - file.position) if ends_here else _CHUNK
            data = file.read(size) if size > 0 else b""
            if not data:
                return []
            rows = (self._pending + data).split(b"\n")
            self._pending = rows.pop()
            if rows:
                return rows

    def advance(self) -> bool:
        """At the end of a file: is there another, or more of this one?"""
        if self._rest is not None:
            return bool(self._rest) and self._use(self._rest.pop(0))
        files = _scan(self._path)
        if self._file is None:
            return self._open_one_of(files)
        if not files or (self._end is not None and self._end.is_known_as(self._file.key)):
            return False
        places = [place for place, (key, _) in enumerate(files) if self._file.is_known_as(key)]
        if places == [len(files) - 1]:
            return False
        if not self._file.at_end():
            return True  # it was written to after we looked, and became full
        if not places:
            return not self._file.is_deleted() or self._open_one_of(files)
        self._go_on_with(*files[places[0] + 1])
        return True

    def _go_on_with(self, key: Key, path: str) -> None:
        """With the next file; unless it was rotated meanwhile, and its inode number used again."""
        assert self._file is not None
        try:
            file = _File(path)
        except FileNotFoundError:
            return
        files = [known for known, _ in _scan(self._path)]
        ours = [place for place, known in enumerate(files) if self._file.is_known_as(known)]
        if file.key == key and (ours[0] + 1 if ours else 0) in [
            place for place, known in enumerate(files) if file.is_known_as(known)
        ]:
            self._use(file)
        else:
            file.close()

    def _open_one_of(self, files: list[tuple[Key, str]]) -> bool:
        """The first that is still what it was; False: there is none."""
        for key, path in files:
            try:
                file = _File(path)
            except FileNotFoundError:
                continue
            if file.key != key:
                file.close()
                continue
            return self._use(file)
        return False

    def _use(self, file: _File) -> bool:
        if self._file is not None:
            self._file.close()
        self._file, self._pending = file, b""
        return True

    def open_all(self) -> None:
        """Nothing is written any more: have all that is left to read open before it is deleted."""
        if self._attendance < 0:
            return
        files = _scan(self._path)
        places = [place for place, (key, _) in enumerate(files) if self._file and self._file.is_known_as(key)]
        self._rest = [_File(path) for _, path in files[places[0] + 1 if places else 0 :]]
        os.close(self._attendance)
        self._attendance = -1

    def close(self) -> None:
        for file in (self._file, self._end, *(self._rest or ())):
            if file is not None:
                file.close()
        self._file = self._end = self._rest = None
        if self._attendance >= 0:
            os.close(self._attendance)
            self._attendance = -1

    def __del__(self) -> None:
        self.close()  # nobody has read from it


def _attend(path: str) -> int:
    """A descriptor that holds a shared lock; see `poc.engine.logs.await_readers`. -1 when all is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return -1
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _open_last(path: str) -> _File:
    while True:
        try:
            return _File(path)
        except FileNotFoundError:
            if not (files := _scan(path)) or files[-1][1] == path:
                raise
            path = files[-1][1]  # only rotated ones


class _File:
    """One file, compressed or not; ``key`` is the inode number that it had as a plain one, and 0 if it is one."""

    __slots__ = ("_fd", "_unpacked", "_unpacker", "key", "position")

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._unpacker: Any = None
        self._unpacked = b""
        self.position = 0
        self.key = _key(path) if path.endswith(".gz") else (os.fstat(self._fd).st_ino, 0)
        if path.endswith(".gz"):
            import zlib

            self._unpacker = zlib.decompressobj(31)

    def read(self, size: int) -> bytes:
        data = os.read(self._fd, size) if self._unpacker is None else self._unpack(size)
        self.position += len(data)
        return data

    def _unpack(self, size: int) -> bytes:
        while len(self._unpacked) < size and (packed := os.read(self._fd, _CHUNK)):
            self._unpacked += self._unpacker.decompress(packed)
        data, self._unpacked = self._unpacked[:size], self._unpacked[size:]
        return data

    def skip(self, offset: int) -> None:
        if self._unpacker is None:
            self.position = os.lseek(self._fd, offset, os.SEEK_SET)
        while self.position < offset and self.read(min(_CHUNK, offset - self.position)):
            pass

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def at_end(self) -> bool:
        """Has all of a plain file been read? A compressed one is not written to."""
        return self._unpacker is not None or self.position >= self.size()

    def is_known_as(self, key: Key) -> bool:
        """Is that this file, perhaps compressed meanwhile?"""
        return key == self.key or (self.key[1] == 0 and key == (self.key[0], os.fstat(self._fd).st_mtime_ns))

    def is_deleted(self) -> bool:
        return os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _scan(path: str) -> list[tuple[Key, str]]:
    """(key, path) of all files of a log, the oldest first."""
    before: list[tuple[Key, str]] | None = None
    while (now := _look(path)) != before:
        before = now
    return now


def _look(path: str) -> list[tuple[Key, str]]:
    directory, name = os.path.split(path)
    numbers: dict[int, str] = {}
    for entry in sorted(_listed(directory), reverse=True):
        number = entry[len(name) + 1 :].removesuffix(".gz") or "0"
        if entry == name or (entry.startswith(f"{name}.") and number.isdecimal()):
            numbers[int(number)] = f"{directory}/{entry}"  # the plain one, while a file is being compressed
    found = []
    for _, where in sorted(numbers.items(), reverse=True):
        try:
            found.append((_key(where), where))
        except FileNotFoundError:
            continue  # renamed just now
    return found


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _key(path: str) -> Key:
    entry = os.stat(path)
    if not path.endswith(".gz"):
        return entry.st_ino, 0
    return compressed_from(path) or (entry.st_ino, entry.st_mtime_ns)


# ── the last lines ───────────────────────────────────────────────────────────────────────────────────


def _tail_start(path: str, count: int) -> tuple[Key, int]:
    """(key, offset) where the last ``count`` lines begin; a line in parts is one, and so is one without its newline."""
    started: set[str] = set()  # streams of which a line has been seen
    place: tuple[Key, int] = ((-1, 0), 0)
    for key, name in reversed(_scan(path)):
        try:
            with _File(name) as file:
                rows = _rows_backwards(file)
                if count <= 0:
                    return key, file.size()
                for offset, row in rows:
                    if entry := decode(row):
                        if entry.data.endswith(b"\n") or entry.stream not in started:
                            count -= 1
                            started.add(entry.stream)
                        if count < 0:
                            return place
                        place = key, offset
        except FileNotFoundError:
            break  # rotated away
    return place


def _rows_backwards(file: _File) -> Iterator[tuple[int, bytes]]:
    """(offset, row), from the last."""
    if file._unpacker is not None:
        data = b""
        while more := file.read(_CHUNK):
            data += more
        yield from _split_backwards(data, 0)
        return
    position, rest = file.size(), b""
    while position > 0:
        step = min(1 << 16, position)
        position -= step
        rest = os.pread(file._fd, step, position) + rest
        first = rest.find(b"\n") + 1
        if position > 0 and first == 0:
            continue
        yield from _split_backwards(rest[first:] if position else rest, position + (first if position else 0))
        rest = rest[:first] if position else b""


def _split_backwards(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    end = len(data)
    while end > 0:
        start = data.rfind(b"\n", 0, end - 1) + 1
        yield offset + start, data[start:end]
        end = start
