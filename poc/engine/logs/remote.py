"""What the drivers have in common that send each line to somebody else: lines, and a socket that must not hold us up.

A receiver that hangs slows the container down, as docker's does, but for no longer than `PATIENCE`; then lines are
lost until `RETRY` has passed: the monitor has more to do than to log. With a queue (``mode=non-blocking``) nothing
waits, and what the queue can't take is lost.
"""

from __future__ import annotations

import time
from collections import deque

from poc._lean import socket
from poc.engine.logs.jsonfile import part_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = tuple[str, int] | str

PATIENCE, RETRY = 1.0, 5.0  # seconds


class Remote:
    """Cuts streams into lines and parts of long ones; a driver says how each is sent (`_say`)."""

    __slots__ = ("_partial", "_sender")

    def __init__(self, sender: Sender) -> None:
        self._partial = {"stdout": b"", "stderr": b""}
        self._sender = sender

    def write(self, stream: str, data: bytes) -> None:
        data = self._partial[stream] + data
        start = 0
        while size := part_size(data, start):
            part = data[start : start + size]
            start += size
            whole = part.endswith(b"\n")
            for line in part[:-1].split(b"\n") if whole else (part,):
                self._say(stream, line, not whole)
        self._partial[stream] = data[start:]

    def close(self) -> None:
        for stream, rest in self._partial.items():
            if rest:
                self._say(stream, rest, False)
        self._sender.close()

    def _say(self, stream: str, line: bytes, is_partial: bool) -> None:
        raise NotImplementedError


class Sender:
    """Sends messages to one address, connecting anew where that has ended."""

    __slots__ = ("_address", "_family", "_kind", "_longest", "_queue", "_queued", "_retry_at", "_socket")

    def __init__(self, family: int, kind: int, address: Address, longest_queue: int) -> None:
        """Raises OSError when nobody is there."""
        self._family, self._kind, self._address = family, kind, address
        self._longest = longest_queue  # bytes; 0: wait
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._retry_at = 0.0
        self._socket: socket.socket | None = self._connect()

    def _connect(self) -> socket.socket:
        end = socket.socket(self._family, self._kind | socket.SOCK_CLOEXEC)
        try:
            end.settimeout(PATIENCE)
            end.connect(self._address)
            end.settimeout(0.0 if self._longest else PATIENCE)
        except BaseException:
            end.close()
            raise
        return end

    def send(self, message: bytes) -> None:
        """Send one; it may be lost. Raises nothing."""
        if self._longest and self._queued + len(message) > self._longest:
            self.flush()
            if self._queued + len(message) > self._longest:
                return
        self._queue.append(message)
        self._queued += len(message)
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as that goes."""
        while self._queue:
            message = self._queue[0]
            rest = self._try(message)
            if rest is not None and self._longest:
                self._queue[0] = rest
                self._queued -= len(message) - len(rest)
                return
            self._queue.popleft()
            self._queued -= len(message)

    def _try(self, message: bytes) -> bytes | None:
        """What could not be sent of it, None: nothing is to be sent any more."""
        for _ in range(2):
            if self._socket is None and not self._reconnect():
                return message
            assert self._socket is not None
            try:
                if self._kind == socket.SOCK_DGRAM:
                    self._socket.send(message)
                    return None
                return self._send_stream(self._socket, message)
            except BlockingIOError:
                return message
            except OSError as error:
                self._hang_up()
                if isinstance(error, TimeoutError):
                    self._retry_at = time.monotonic() + RETRY
        return message

    def _send_stream(self, end: socket.socket, message: bytes) -> bytes | None:
        if not self._longest:
            end.sendall(message)
            return None
        sent = end.send(message)
        return message[sent:] or None

    def _reconnect(self) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + RETRY
        try:
            self._socket = self._connect()
        except OSError:
            return False
        self._retry_at = 0.0
        return True

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Send what is queued still, for a moment, and hang up."""
        if self._socket is not None and self._queue:
            self._socket.settimeout(PATIENCE)
            self._longest = 0
            self.flush()
        self._hang_up()
