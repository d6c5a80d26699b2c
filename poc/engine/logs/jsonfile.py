"""docker's json-file: one JSON object a line, ``log``, ``stream``, ``time`` and perhaps ``attrs``, in rotated files.

    <path>      written to, until it has ``max_size`` bytes
    <path>.1    the one before, and so on; or .1.gz

Bytes that are no UTF-8 are kept as lone surrogates (``\\udcff``), so that what is read is what was written. A line
without its newline is logged when the container ends, one of more than 16 KiB in parts, as docker does.

A program can print two bytes a line, as fast as they are taken: usually, nothing here is done for each line in Python.
"""

from __future__ import annotations

import os
import struct

from poc import _fs
from poc._fs import write_all
from poc._lean.json import quoted
from poc.engine.logs import timestamp

LONGEST_PART = 16 << 10  # bytes
# Bytes, and lines in them: each takes 70 bytes or more in the file, and that many of memory several times.
_BATCH, _MANY = 4 << 10, 200
MAX_SIZE, MAX_FILES = 10_000_000, 3
_HEADER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"  # RFC 1952: gzip, deflate, with an extra field
_EXTRA_NAME, _EXTRA = b"PC", struct.Struct("<HQQ")


class JsonFile:
    """Appends to a log file, made with the first line.

    An entry that was cut off, by a full disk or because the monitor before was killed, stays a line of its own,
    which readers leave out. ``attrs`` is a JSON object for every entry, "" for none; ``max_size`` -1: never rotated.
    """

    __slots__ = ("_attrs", "_compress", "_cut", "_fd", "_max_files", "_max_size", "_partial", "_path", "_size")

    def __init__(
        self,
        path: str,
        max_size: int = MAX_SIZE,
        max_files: int = MAX_FILES,
        compress: bool = False,
        attrs: str = "",
    ) -> None:
        self._path = path
        self._max_size, self._max_files, self._compress = max_size, max_files, compress
        self._attrs = f'"attrs":{attrs},' if attrs else ""
        self._fd = -1
        self._size = 0
        self._cut = False
        self._partial = {"stdout": b"", "stderr": b""}

    def write(self, stream: str, data: bytes) -> None:
        """Log the lines that ``data`` completes. Raises OSError when the disk is full."""
        data = self._partial[stream] + data
        self._partial[stream] = b""  # even if the disk is full: the memory must stay bounded
        end = self._end(stream)
        start = 0
        while size := part_size(data, start):
            self._append(data[start : start + size], end)
            start += size
        self._partial[stream] = data[start:]

    def close(self) -> None:
        """Log what lacks its newline, and close."""
        try:
            for stream, rest in self._partial.items():
                if rest:
                    self._append(rest, self._end(stream))
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _end(self, stream: str) -> str:
        return f',"stream":"{stream}",{self._attrs}"time":"{timestamp()}"}}\n'

    def _append(self, part: bytes, end: str) -> None:
        text = _entries(part, end)
        while text:
            if self._fd < 0:
                self._open()
            if 0 < self._max_size <= self._size:
                self._rotate()
                continue
            if 0 < self._max_size < self._size + len(text):
                length = text.find("\n", self._max_size - self._size - 1) + 1
            else:
                length = len(text)
            self._put(text[:length])
            text = text[length:]

    def _put(self, text: str) -> None:
        cut, self._cut = self._cut, True
        data = ("\n" + text if cut else text).encode()
        write_all(self._fd, data)
        self._size += len(data)
        self._cut = False

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size
        self._cut = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"

    def _rotate(self) -> None:
        """Who reads the full file finds the next by this order of steps: see `poc.engine.logs.reading`."""
        written = os.fstat(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._max_files == 1:
            os.unlink(self._path)
            return
        gap = 1
        while gap < self._max_files - 1 and _is_there(f"{self._path}.{gap}"):
            gap += 1
        for number in range(gap - 1, 0, -1):
            for suffix in ("", ".gz"):
                _shift(f"{self._path}.{number}{suffix}", f"{self._path}.{number + 1}{suffix}")
        _fs.remove_file(f"{self._path}.1.gz")
        os.rename(self._path, f"{self._path}.1")
        if self._compress:
            try:
                compress(f"{self._path}.1", written)
            except OSError:
                _fs.remove_file(f"{self._path}.1.gz.tmp")  # no room; it stays as it is


def part_size(data: bytes, start: int) -> int:
    """How many bytes to log together: whole lines, or a part of a long one. 0: what there is waits for its newline."""
    batch = _BATCH if data.count(b"\n", start, start + _BATCH) > _MANY else LONGEST_PART
    if found := data.rfind(b"\n", start, start + batch) + 1:
        return found - start
    if len(data) - start < LONGEST_PART:
        return 0
    for size in range(LONGEST_PART, LONGEST_PART - 4, -1):
        if start + size == len(data) or data[start + size] & 0xC0 != 0x80:
            return size  # not in the middle of a UTF-8 character
    return LONGEST_PART


def _entries(part: bytes, end: str) -> str:
    text = part.decode("utf-8", "surrogateescape")
    if not part.endswith(b"\n"):
        return f'{{"log":{quoted(text)}{end}'
    if "\\" in text:
        between = f'{end}{{"log":'
        body = between.join([quoted(line + "\n") for line in text[:-1].split("\n")])
    else:
        # Each backslash that is there now begins an escape, so that these two characters are a newline.
        body = quoted(text)[:-3].replace("\\n", f'\\n"{end}{{"log":"') + '\\n"'
    return f'{{"log":{body}{end}'


def _is_there(path: str) -> bool:
    return os.path.exists(path) or os.path.exists(f"{path}.gz")


def _shift(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        _fs.remove_file(new)


def compress(path: str, written: os.stat_result) -> None:
    """Put ``path``.gz in its place, with what it was in the header: who has read the file knows it by that."""
    import zlib

    extra = _EXTRA_NAME + _EXTRA.pack(16, written.st_ino, written.st_mtime_ns)
    packer, check, size = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS), 0, 0
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(f"{path}.gz.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        write_all(target, _HEADER + len(extra).to_bytes(2, "little") + extra)
        while data := os.read(source, 1 << 16):
            check, size = zlib.crc32(data, check), size + len(data)
            write_all(target, packer.compress(data))
        write_all(target, packer.flush() + check.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))
    finally:
        os.close(source)
        os.close(target)
    os.rename(f"{path}.gz.tmp", f"{path}.gz")
    os.unlink(path)


def compressed_from(path: str) -> tuple[int, int] | None:
    """Inode number and mtime, in nanoseconds, of what `compress` has read. None: somebody else made this."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.read(fd, len(_HEADER) + 4 + _EXTRA.size)
    finally:
        os.close(fd)
    extra = head[len(_HEADER) + 2 :]
    if not head.startswith(_HEADER) or not extra.startswith(_EXTRA_NAME):
        return None
    _, inode, written_at = _EXTRA.unpack(extra[2:])
    return inode, written_at
