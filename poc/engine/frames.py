"""What the monitor and those attached to it say to each other over a stream socket.

Docker's attach framing, one byte of kind, three of nothing, four of length (big-endian), the payload::

    to the monitor     ATTACH {stdin}: the first thing said by who comes later; does stdin end with it? · STDIN bytes ·
                       STDIN_END · RESIZE {rows, columns} · OUTPUT_END {stream}: nobody reads it any more
    from the monitor   STARTED {warnings} · FAILED, see `poc.errors.pack` · STDOUT bytes · STDERR bytes ·
                       EXITED {exit_code, oom_killed}

GONE is never said: it stands for the end of a connection.
"""

from __future__ import annotations

import struct

from poc._lean import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

STDIN, STDOUT, STDERR, STDIN_END, RESIZE, OUTPUT_END, STARTED, FAILED, EXITED, ATTACH, GONE = range(11)
NAMES = {STDOUT: "stdout", STDERR: "stderr"}
_HEADER = struct.Struct(">B3xI")


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(kind, len(payload)) + payload


def message(kind: int, **payload: Any) -> bytes:
    """One frame with a JSON object."""
    return frame(kind, json.dumps(payload).encode())


class Decoder:
    """Bytes as they come in, whole frames out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that ``data`` completes, as (kind, payload)."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield kind, payload
