"""A container that is started by another process than the one that created it, as the runtime specification wants.

The container's first process listens on a socket in its state directory, and waits there, with nobody's command
line alive, for `start` to come::

    create                            first process                        start
    ──────                            ─────────────                        ─────
    clone3, uid_map ─── MAPPED ─────▶ mounts, console
          ◀─────────── MOUNTED ────── before pivot_root
    prestart, createRuntime
               ────── PROCEED ──────▶ createContainer, pivot_root
          ◀──────────── READY ──────
    ends                              accept ◀─────────── START ────────── connect
                                      limits, user, capabilities, seccomp
                                      startContainer, execve ────────────▶ end of file, or ERROR

MAPPED comes only with a new user namespace, MOUNTED and PROCEED only with hooks; with network devices to be moved
there is a PROCEED before, when they are there. Whoever connects and goes away
before START changes nothing.
"""

from __future__ import annotations

import os

from poc._lean import socket
from poc.errors import Conflict
from poc.runtime.channel import START, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poc.runtime.hooks import Hooks

_NAME = "gate"


class Gate:
    """What such a container needs beyond the others, for `poc.runtime.create.create`.

    ``joined`` are the namespaces it enters, {OCI name: descriptor}.
    """

    __slots__ = ("_socket", "hooks", "joined")

    def __init__(
        self,
        directory: str,
        hooks: Hooks | None = None,
        joined: Mapping[str, int] | None = None,
    ) -> None:
        self.hooks = hooks
        self.joined = joined or {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            _at(directory, self._socket.bind)
            self._socket.listen(8)
        except BaseException:
            self._socket.close()
            raise

    def wait(self) -> Channel:
        """Wait until somebody says START, and talk to them from then on. For the container's first process."""
        while True:
            channel = Channel(self._socket.accept()[0])
            if channel.receive()[0] == START:
                self._socket.close()
                return channel
            channel.close()

    def close(self) -> None:
        self._socket.close()


def start(directory: str, on_listener: Callable[[Channel, int], None]) -> None:
    """Let the container's first process go on, and wait for its execve, see `Channel.await_program`.

    Raises Conflict when nobody waits there, SetupError and its like when it fails, and closes everything.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    channel = Channel(end)
    try:
        try:
            _at(directory, end.connect)
        except (ConnectionRefusedError, FileNotFoundError):
            raise Conflict("the container's first process does not wait to be started") from None
        channel.send(START)
        channel.await_program(lambda number: on_listener(channel, number))
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was killed meanwhile; its status says so
    finally:
        channel.close()


def _at(directory: str, call: Callable[[str], object]) -> None:
    """Call with the socket's path, however long the directory's is: unix(7) takes 107 bytes."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{fd}/{_NAME}")
    finally:
        os.close(fd)
