"""Brings a seccomp listener from the process under the filter to the agent that decides (SCMP_ACT_NOTIFY).

    process                                 whoever waits for its execve
    ───────                                 ────────────────────────────
    LISTENER ─────────────────────────────▶ connects to the agent (listenerPath)
    seccomp(2); looks at shared memory      pidfd_getfd(2), until there is one
             ◀───────────────────────────── writes there
    goes on to its execve                   sends the agent the listener and the container's state

Between the two calls of seccomp(2) and whatever comes after that, the process makes no system call: each could be one
that waits for an agent which has not got the listener yet. So no filter can make the two wait for each other.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import time

from poc import _libc
from poc.errors import SetupError
from poc.runtime import seccomp
from poc.runtime.channel import LISTENER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from poc.runtime.channel import Channel

_PATIENCE = 10.0  # seconds that the process waits to be rid of its listener
_PAUSE = 1  # milliseconds between two looks for the listener
_LINK = "anon_inode:seccomp notify"


class Handover:
    """The process's part. Made before the clone, as it needs imports. ``fd`` is its memory, until `offer`."""

    __slots__ = ("_memory", "fd")

    def __init__(self) -> None:
        self.fd = os.memfd_create("poc-listener", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, 1)
        self._memory = mmap.mmap(self.fd, 1)

    def offer(self, channel: Channel) -> None:
        """Say that the next descriptor will be the listener's."""
        number = os.dup(self.fd)
        os.close(number)
        channel.send(LISTENER, (self.fd,), number=number)

    def wait(self) -> None:
        """Until it is taken. The clock is read without a system call (vdso(7))."""
        deadline = time.monotonic() + _PATIENCE
        while not self._memory[0]:
            if time.monotonic() > deadline:
                os._exit(1)  # nobody is there any more

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


def take_over(channel: Channel, number: int, pid: int, profile: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """The other part, after a LISTENER with its ``number``. ``pid`` is the process, ``state`` the container's.

    Raises SetupError naming the agent. The process must then be killed.
    """
    path, metadata = profile["listenerPath"], profile.get("listenerMetadata", "")
    memory = channel.received_fds.pop()
    pidfd = os.pidfd_open(pid)
    try:
        with seccomp.agent(path) as agent:
            listener = _fetch(channel, pidfd, number)
            try:
                os.pwrite(memory, b"\1", 0)
                seccomp.send_listener(agent, listener, pid, state, metadata)
            finally:
                os.close(listener)
    except OSError as error:
        raise SetupError(f"seccomp agent at {path}: {error.strerror or error}", "seccomp", error.errno) from None
    finally:
        os.close(pidfd)
        os.close(memory)


def _fetch(channel: Channel, pidfd: int, number: int) -> int:
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    while True:
        try:
            fd = _libc.pidfd_getfd(pidfd, number)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ESRCH):
                raise
        else:
            if os.readlink(f"/proc/self/fd/{fd}") == _LINK:
                return fd
            os.close(fd)
        if poller.poll(_PAUSE):  # it says why there is no listener, or has ended
            channel.receive()
            raise SetupError("the container's process ended when its seccomp filter was loaded", "seccomp")
