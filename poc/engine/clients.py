"""Those who are attached to a container, from the side of its monitor.

The first is whoever started it; more come through ``<run>/<id>/attach``, a stream socket. All get the output, any may
write to stdin; what is said is in `poc.engine.frames`. One that reads slowly slows the container, one that is gone is
dropped, and nobody is ever waited for but at the very end.
"""

from __future__ import annotations

import os
import select

from poc._fs import remove_file
from poc._lean import json, socket
from poc.engine import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Frames = list[tuple[int, bytes]]

_CHUNK = 1 << 16
_BACKLOG = 1 << 18  # bytes that may wait for a slow reader before the container is slowed
_QUEUE = 16  # who may wait to be accepted
_KINDS = {"stdout": frames.STDOUT, "stderr": frames.STDERR}


class Connection:
    """One who is attached over a socket: frames come in, output goes out, neither without bound.

    ``feeds``: stdin ends with it (docker's StdinOnce). ``first``: it is who started the container.
    """

    __slots__ = ("_decoder", "_outgoing", "deaf", "feeds", "first", "socket")

    def __init__(self, connection: socket.socket, first: bool = False, feeds: bool = False) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.first = first
        self.feeds = feeds
        self.deaf: set[int] = set()
        self._outgoing = bytearray()
        self._decoder = frames.Decoder()

    @property
    def waiting(self) -> int:
        """Bytes that it has not taken yet."""
        return len(self._outgoing)

    def send(self, kind: int, payload: bytes) -> None:
        """Say one thing, now or when the socket takes it. Raises OSError when the client is gone."""
        if kind not in self.deaf:
            self._outgoing += frames.frame(kind, payload)
            self.flush()

    def flush(self) -> None:
        """Write what the socket takes. Raises OSError when the client is gone."""
        while self._outgoing:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return
            del self._outgoing[:sent]

    def receive(self) -> Frames | None:
        """The frames that came, None when the client is gone."""
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self._decoder.feed(data)) if data else None

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Collector:
    """The caller of the library, when the monitor runs in its own process: everything is kept for it."""

    __slots__ = ("ended", "stderr", "stdout", "warnings")

    socket = None
    waiting = 0

    def __init__(self) -> None:
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.ended: dict[str, Any] = {}
        self.warnings: list[str] = []

    def send(self, kind: int, payload: bytes) -> None:
        """Take one thing."""
        if kind == frames.STDOUT:
            self.stdout.append(payload)
        elif kind == frames.STDERR:
            self.stderr.append(payload)
        elif kind == frames.STARTED:
            self.warnings = json.loads(payload)["warnings"]
        elif kind == frames.EXITED:
            self.ended = json.loads(payload)

    def close(self) -> None:
        """Nothing to let go of."""


class Clients:
    """All who are attached now, and those who have been told everything but have not taken it yet."""

    __slots__ = ("_by_fd", "_leaving", "_listener", "_path", "_present")

    def __init__(self, first: Connection | Collector) -> None:
        self._present: list[Connection | Collector] = [first]
        self._by_fd: dict[int, Connection] = {}
        if isinstance(first, Connection):
            self._by_fd[first.socket.fileno()] = first
        self._leaving: list[Connection] = []
        self._listener: socket.socket | None = None
        self._path = ""

    @property
    def descriptors(self) -> list[int]:
        """All that a container's process must not keep."""
        own = [self._listener.fileno()] if self._listener is not None else []
        return [*own, *self._by_fd, *(client.socket.fileno() for client in self._leaving)]

    def listen(self, path: str) -> None:
        """Let more come, through a socket at ``path``."""
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        at_short_path(path, self._listener.bind)
        self._listener.listen(_QUEUE)

    def stop_listening(self) -> None:
        """Let nobody else come."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            remove_file(self._path)

    # ── saying something ─────────────────────────────────────────────────────────────────────────────

    def tell(self, kind: int, payload: bytes) -> None:
        """Say something to all."""
        for client in self._present[:]:
            try:
                client.send(kind, payload)
            except OSError:
                self._drop(client)

    def pass_on(self, stream: str, data: bytes) -> None:
        """Give a program's output to all."""
        self.tell(_KINDS[stream], data)

    @property
    def keep_up(self) -> bool:
        """Are there none who have yet to take much?"""
        return all(client.waiting < _BACKLOG for client in self._present)

    def dismiss(self) -> None:
        """Everything has been said to them; each is let go of as soon as it has taken it."""
        self._leaving += self._by_fd.values()
        self._present.clear()
        self._by_fd.clear()
        for client in self._leaving[:]:
            self._see_off(client)

    def farewell(self) -> None:
        """`dismiss`, and wait until they have taken it all."""
        self.dismiss()
        while self._leaving:
            poller = select.poll()
            self._watch_leaving(poller)
            self.serve(poller.poll())

    # ── hearing something ────────────────────────────────────────────────────────────────────────────

    def watch(self, poller: select.poll, reading: bool) -> None:
        """Have told what there is to do: to read what they say, if we are ``reading``, and to say what waits."""
        if self._listener is not None:
            poller.register(self._listener, select.POLLIN)
        for fd, client in self._by_fd.items():
            poller.register(fd, (select.POLLIN if reading else 0) | (select.POLLOUT if client.waiting else 0))
        self._watch_leaving(poller)

    def _watch_leaving(self, poller: select.poll) -> None:
        for client in self._leaving:
            poller.register(client.socket, select.POLLOUT)

    def serve(self, events: Iterable[tuple[int, int]]) -> Frames:
        """Do what there is to do. Returns what was said to the container; a client that is gone says GONE."""
        said: Frames = []
        for fd, event in events:
            if fd in self._by_fd:
                said += self._hear(self._by_fd[fd], event)
            elif self._listener is not None and fd == self._listener.fileno():
                self._accept()
            else:
                for client in [client for client in self._leaving if client.socket.fileno() == fd]:
                    self._see_off(client)
        return said

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client = Connection(self._listener.accept()[0])
        except OSError:
            return  # gone again, or we have as many descriptors as we may
        self._by_fd[client.socket.fileno()] = client

    def _hear(self, client: Connection, event: int) -> Frames:
        try:
            client.flush()
            received = client.receive() if event & ~select.POLLOUT else []
        except OSError:
            received = None
        if received is None:
            self._drop(client)
            return [(frames.GONE, b"")] if client.feeds else []
        return [frame for frame in received if not self._concerns(client, *frame)]

    def _concerns(self, client: Connection, kind: int, payload: bytes) -> bool:
        """What a client says of itself."""
        if kind == frames.ATTACH:
            self._welcome(client, json.loads(payload)["stdin"])
        elif kind == frames.OUTPUT_END:
            stream = json.loads(payload)["stream"]
            client.deaf.add(stream)
            # Whoever only looks on does not close what others may want to see.
            return not (client.first and len(self._present) == 1)
        return kind == frames.ATTACH

    def _welcome(self, client: Connection, feeds: bool) -> None:
        client.feeds = feeds
        self._present.append(client)
        try:
            client.send(frames.STARTED, json.dumps({"warnings": []}).encode())
        except OSError:
            self._drop(client)

    def _drop(self, client: Connection | Collector) -> None:
        if client in self._present:
            self._present.remove(client)
        if isinstance(client, Connection):
            self._by_fd.pop(client.socket.fileno(), None)
        client.close()

    def _see_off(self, client: Connection) -> None:
        try:
            client.flush()
        except OSError:
            client._outgoing.clear()  # gone
        if not client.waiting:
            self._leaving.remove(client)
            client.close()


def at_short_path(path: str, call: Any) -> None:
    """``call`` with another path to the same place: a socket's must be no longer than 107 bytes (unix(7))."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)
