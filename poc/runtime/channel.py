"""How the parent and the container's first process talk until it executes its program.

One socket pair, one named message per packet, in this order::

    parent                                child
    ──────                                ─────
    clone3 ─────────────────────────────▶ joins its cgroups and makes their namespace
    (the network is attached meanwhile)   mounts, console, pivot_root
           ◀───────────────────────────── CONSOLE with the pty's master, if there is a terminal
           ◀───────────────────────────── READY
    START ──────────────────────────────▶ capabilities, seccomp, execve
           ◀───────────────────────────── end of file: the program runs

At any time the child may send ERROR instead; it is the last thing it says, but for what `poc.runtime.trampoline` has
to say when the program itself can't be executed. If the parent dies the
child reads end of file and ends.
"""

from __future__ import annotations

import os

from poc._lean import json, socket
from poc.errors import CommandNotExecutable, CommandNotFound, SetupError, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CONSOLE, READY, START, ERROR = "console", "ready", "start", "error"
MAPPED, MOUNTED, PROCEED = "mapped", "mounted", "proceed"  # see `poc.runtime.gate`
LISTENER = "listener"  # see `poc.runtime.notify`
_FAILURES = {error.__name__: error for error in (SetupError, CommandNotFound, CommandNotExecutable)}
_LONGEST = 1 << 16


class Channel:
    """One end of the conversation."""

    __slots__ = ("_socket", "received_fds")

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self.received_fds: list[int] = []

    def send(self, kind: str, fds: tuple[int, ...] = (), **payload: Any) -> None:
        """Say one thing. Raises OSError (EPIPE) when the other end is gone."""
        data = json.dumps([kind, payload]).encode()
        if fds:
            socket.send_fds(self._socket, [data], fds)
        else:
            self._socket.send(data)

    def receive(self) -> tuple[str, dict[str, Any]]:
        """The next message, or ("", {}) when the other end is closed. Raises what an ERROR carries."""
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _LONGEST, 4, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # The other end has closed with a message of ours unread. The kernel tells that once, and first; what the
            # other end said before comes after it (net/core/datagram.c).
            data, fds, _, _ = socket.recv_fds(self._socket, _LONGEST, 4, socket.MSG_CMSG_CLOEXEC)
        self.received_fds.extend(fds)
        if not data:
            return "", {}
        if data[2:4] == b"\0\0":  # no JSON
            from poc.runtime import trampoline

            raise trampoline.explain(data)
        try:
            kind, payload = json.loads(data)
            failure = _FAILURES[payload["failure"]] if kind == ERROR else None
        except (ValueError, TypeError, KeyError):  # who may trace the process may speak in its place
            raise SetupError(f"the container's process said {data[:100]!r}") from None
        if failure is not None:
            raise failure(str(payload.get("text")), payload.get("step"), payload.get("errno"))
        return kind, payload

    def expect(self, kind: str) -> dict[str, Any]:
        """The payload of the next message, which must be of this kind. Raises SetupError otherwise."""
        received, payload = self.receive()
        if received != kind:
            said = repr(received) if received else "nothing: it was killed"
            raise SetupError(f"the container's process said {said} where {kind!r} was due", kind)
        return payload

    def await_program(self, on_listener: Callable[[int], None] | None = None) -> None:
        """Wait for the execve. ``on_listener`` is given the number of a seccomp listener on the way, if there is one.

        Raises what an ERROR carries, and what ``on_listener`` raises.
        """
        kind, payload = self.receive()
        if kind == LISTENER and on_listener is not None:
            on_listener(payload["number"])
            self.receive()

    def fail(self, error: BaseException, step: str) -> None:
        """Report a failure to the other end; content when nobody listens any more."""
        failure = type(error).__name__ if type(error).__name__ in _FAILURES else "SetupError"
        errno = error.errno if isinstance(error, (OSError, SetupError)) else None
        text = shorten(_explain(error, step), _LONGEST // 16)  # one character can become 12 bytes of JSON
        try:
            self.send(ERROR, failure=failure, text=text, step=step, errno=errno)
        except OSError:
            pass  # the parent died; there is nobody to tell

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        for fd in self.received_fds:
            os.close(fd)
        self.received_fds.clear()


def _explain(error: BaseException, step: str) -> str:
    """What failed, on what, and why; a bare errno from a call of ``os`` gets the step's name."""
    if not isinstance(error, OSError):
        return str(error) or repr(error)
    if error.strerror != os.strerror(error.errno or 0):
        return error.strerror or repr(error)
    return f"{step}{f' {error.filename}' if error.filename else ''}: {error.strerror}"


def pair() -> tuple[Channel, Channel]:
    """The parent's and the child's end. Each side closes the other's."""
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return Channel(parent), Channel(child)
