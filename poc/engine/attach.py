"""The other end of a container's monitor: what a foreground ``run``, or an ``attach``, reads from and writes to.

Does not know what a terminal is: the caller gives it descriptors, sizes and signals.
"""

from __future__ import annotations

import os
import select

from poc._fs import write_all
from poc._lean import json
from poc.engine import frames
from poc.engine.keys import Watch
from poc.errors import SetupError, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, Self

_CHUNK = 1 << 16
_BACKLOG = 4  # frames that may wait for the monitor before stdin is left alone


class Exit:
    """How a container ended."""

    __slots__ = ("exit_code", "oom_killed")

    def __init__(self, exit_code: int, oom_killed: bool) -> None:
        self.exit_code = exit_code
        self.oom_killed = oom_killed


DETACHED = Exit(0, False)  # it did not end: whoever was attached has typed the keys to let go of it


class Session:
    """A connection to a monitor. Iterated over it gives (stream, bytes) of what the container writes, until it ends.

    ``ended`` says then how; None when its monitor was killed. ``emit`` is the container's.
    """

    __slots__ = (
        *("_decoder", "_emit", "_failure", "_flushing", "_is_guest", "_outgoing", "_pending", "_socket", "_woken"),
        *("ended", "wake", "warnings"),
    )

    def __init__(self, connection: socket.socket, emit: Callable[[str], object]) -> None:
        self._socket = connection
        self._emit = emit
        # For `signal.set_wakeup_fd`: Python runs a handler after the call that a signal interrupts,
        # and one that comes right before `run` polls would wait for the container's next byte.
        self._woken, self.wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._outgoing: list[bytes] = []
        self._flushing = False
        self._is_guest = False
        self._failure: OSError | None = None
        self._decoder = frames.Decoder()
        self._pending: list[tuple[int, bytes]] = []
        self.warnings: list[str] = []
        self.ended: Exit | None = None

    def join(self, stdin: bool) -> bool:
        """Be attached to a program that runs; with ``stdin`` that may end with us. False when it has just ended."""
        self._is_guest = True
        self._send(frames.message(frames.ATTACH, stdin=stdin))
        while not self._pending:
            if not self._receive():
                return False
        return self._pending.pop(0)[0] == frames.STARTED

    def wait_started(self) -> None:
        """Block until the program runs. Raises what kept it from running, and SetupError when the monitor died."""
        while not self._pending:
            if not self._receive():
                raise SetupError("the container's monitor was killed while it started the container")
        kind, payload = self._pending.pop(0)
        if kind == frames.FAILED:
            raise failure(json.loads(payload))
        self.warnings = json.loads(payload)["warnings"]

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionResetError:
            data = b""  # a monitor that was killed had not read all we sent
        self._pending.extend(self._decoder.feed(data))
        return bool(data)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal's new size."""
        self._send(frames.message(frames.RESIZE, rows=rows, columns=columns))

    def write(self, data: bytes) -> None:
        """Type into it, or write to its stdin."""
        self._send(frames.frame(frames.STDIN, data))

    def end_stdin(self) -> None:
        """There is no more to come; heard where stdin belongs to who is attached (``stdin_once``)."""
        self._send(frames.frame(frames.STDIN_END))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        while True:
            for kind, payload in self._take():
                if kind == frames.EXITED:
                    self.ended = Exit(**json.loads(payload))
                    return
                if kind in frames.NAMES:
                    yield frames.NAMES[kind], payload
            self._flush()
            for fd, events in self._poll(None):
                if fd == self._woken:
                    os.read(fd, _CHUNK)
                elif events & ~select.POLLOUT and not self._receive():
                    return

    def _send(self, data: bytes) -> None:
        """Say one thing whenever the monitor takes it; also from a signal handler, in the middle of another frame."""
        self._outgoing.append(data)
        try:
            os.write(self.wake, b"-")
        except BlockingIOError:
            pass  # woken often enough
        self._flush()

    def _flush(self) -> None:
        if self._flushing:
            return  # this is a signal handler: what it interrupted goes on with our frame
        self._flushing = True
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing[0])
                rest = self._outgoing[0][sent:]
                self._outgoing[:1] = [rest] if rest else []
        except BlockingIOError:
            pass  # the rest when the monitor has read
        except OSError:
            self._outgoing.clear()  # the container ended; reading on tells how
        finally:
            self._flushing = False

    def run(self, stdin: int | None, stdout: int, stderr: int, keys: bytes = b"") -> Exit | None:
        """Carry bytes both ways until the container ends. None when its monitor was killed; `DETACHED` after ``keys``.

        Where nobody reads stdout any more, the container's own is closed, so that it hears of that as in any pipe; but
        not by who came later, who gets a BrokenPipeError.
        """
        outputs: dict[int, int] = {frames.STDOUT: stdout, frames.STDERR: stderr}
        watch = Watch(keys)
        self._socket.setblocking(False)
        while True:
            for kind, payload in self._take():
                if kind == frames.EXITED:
                    if self._failure is not None:
                        raise self._failure
                    return Exit(**json.loads(payload))
                self._write(outputs, kind, payload)
            self._flush()
            for fd, events in self._poll(stdin):
                if fd == stdin:
                    more = self._forward(fd, watch)
                    if more is None:
                        return DETACHED
                    stdin = fd if more else None
                elif fd == self._woken:
                    os.read(fd, _CHUNK)
                elif events & ~select.POLLOUT and not self._receive():
                    return None

    def _write(self, outputs: dict[int, int], kind: int, payload: bytes) -> None:
        if kind not in outputs:
            return
        try:
            write_all(outputs[kind], payload)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self._failure = self._failure or error
            elif self._is_guest:
                raise
            del outputs[kind]
            self._send(frames.message(frames.OUTPUT_END, stream=kind))

    def _poll(self, stdin: int | None) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        # Never wait for the monitor to read: it may be waiting for us to.
        if stdin is not None and len(self._outgoing) < _BACKLOG:
            poller.register(stdin, select.POLLIN)
        return poller.poll()

    def _take(self) -> list[tuple[int, bytes]]:
        taken, self._pending = self._pending, []
        return taken

    def _forward(self, stdin: int, watch: Watch) -> bool | None:
        """Is there more to come? None: not by us, the keys were typed."""
        try:
            data = os.read(stdin, _CHUNK)
        except OSError:
            data = b""  # EIO: the terminal hung up, or we are in the background
        if not data:
            if not (self._is_guest and watch.keys):  # a terminal does not end with whoever looks in
                self.end_stdin()
            return False
        typed, detached = watch.feed(data)
        if typed:
            self.write(typed)
        if detached:
            self._emit("detach")
            return None
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; the container runs on."""
        self._socket.close()
        os.close(self._woken)
        os.close(self.wake)


def failure(said: dict[str, Any]) -> Exception:
    """What kept a program from running, as a FAILED message tells it; a SetupError where that was the kernel."""
    error = unpack(said)
    return SetupError(said["text"], errno=said["errno"]) if isinstance(error, OSError) else error
