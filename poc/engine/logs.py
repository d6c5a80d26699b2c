"""A container's log: docker's json-file format, one JSON object a line: ``log``, ``stream``, ``time``.

Bytes that are no UTF-8 are kept as lone surrogates (``\\udcff``), so that what is read is what was written.
A line without its newline is logged when the container ends, one of more than 16 KiB in parts, as docker does.
"""

from __future__ import annotations

import json
import os
import time
from json.encoder import encode_basestring_ascii as _quoted

from poc._fs import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Line = tuple[str, str, bytes]

LONGEST_LINE = 16 << 10
_POLL_INTERVAL = 0.05  # seconds between two looks at a log that is followed


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC with nanoseconds, such as 2024-05-01T12:00:00.123456789Z."""
    nanoseconds = time.time_ns() if seconds is None else int(seconds * 1_000_000_000)
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{rest:09d}Z"


class LogWriter:
    """Appends to a log file, made with the first line. ``write`` takes a stream's bytes in pieces of any size.

    An entry that was cut off, by a full disk or because the monitor before was killed, stays a line of its own,
    which `read` leaves out.
    """

    __slots__ = ("_cut", "_fd", "_partial", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._cut = False
        self._partial = {"stdout": b"", "stderr": b""}

    def write(self, stream: str, data: bytes) -> None:
        """Log the lines that ``data`` completes. Raises OSError when the disk is full."""
        lines = (self._partial[stream] + data).split(b"\n")
        self._partial[stream] = b""  # even if the disk is full: the memory must stay bounded
        last = lines.pop()
        if len(last) >= LONGEST_LINE:
            whole, last = last, b""
        else:
            whole = b""
        parts = [part for line in lines for part in _split(line + b"\n")] + _split(whole)
        if parts:
            self._append(parts, stream)
        self._partial[stream] = last

    def close(self) -> None:
        """Log what lacks its newline, and close."""
        try:
            for stream, rest in self._partial.items():
                if rest:
                    self._append([rest], stream)
        finally:
            if self._fd >= 0:
                os.close(self._fd)

    def _append(self, parts: list[bytes], stream: str) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            size = os.fstat(self._fd).st_size
            self._cut = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        # Put together by hand: a dict and an encoder for each line would slow down who writes short ones.
        end = f', "stream": "{stream}", "time": "{timestamp()}"}}\n'
        entries = [f'{{"log": {_quoted(part.decode("utf-8", "surrogateescape"))}{end}' for part in parts]
        text = "\n" * self._cut + "".join(entries)
        self._cut = True
        write_all(self._fd, text.encode())
        self._cut = False


def _split(line: bytes) -> list[bytes]:
    return [line[start : start + LONGEST_LINE] for start in range(0, len(line), LONGEST_LINE)]


def read(path: str, tail: int | None = None, is_running: Callable[[], bool] | None = None) -> Iterator[Line]:
    """(time, stream, bytes) of each entry; the last ``tail`` lines only.

    With ``is_running`` the log is followed until that says no and the last line has been read.
    """
    while not os.path.exists(path):
        if is_running is None or not is_running():
            return  # it wrote nothing
        time.sleep(_POLL_INTERVAL)
    with open(path, "rb", buffering=1 << 16) as file:
        if tail is not None:
            file.seek(_tail_offset(path, tail))
        pending = b""
        while True:
            # Asked before the read: what is written before the end is then read after it.
            running = is_running is not None and is_running()
            for row in file:
                pending += row
                if pending.endswith(b"\n"):
                    yield from _decode(pending)
                    pending = b""
            if not running:
                return
            time.sleep(_POLL_INTERVAL)


def _decode(row: bytes) -> list[Line]:
    try:
        entry = json.loads(row)
    except ValueError:
        return []  # it was cut off
    return [(entry["time"], entry["stream"], entry["log"].encode("utf-8", "surrogateescape"))]


def _tail_offset(path: str, count: int) -> int:
    """Where the last ``count`` lines begin, found from the end of the file."""
    if count <= 0:
        return os.path.getsize(path)
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        found = 0
        while position > 0:
            step = min(1 << 16, position)
            position -= step
            file.seek(position)
            block = file.read(step)
            for offset in range(len(block) - 1, -1, -1):
                if block[offset] == 0x0A and position + offset != end - 1:
                    found += 1
                    if found == count:
                        return position + offset + 1
    return 0
