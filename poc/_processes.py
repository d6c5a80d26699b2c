"""Signals to processes and waits for them, by their `poc._fs.identity`: a pid used again is never meant."""

from __future__ import annotations

import os
import select

from poc import _fs
from poc._fs import is_alive
from poc._lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def _open(process: list[int] | None) -> int | None:
    """A pidfd; None when the process has ended."""
    if process is None:
        return None
    try:
        pidfd = _fs.pidfd_open(process[0])
    except ProcessLookupError:
        return None
    if is_alive(process):
        return pidfd
    os.close(pidfd)
    return None


def send_signal(process: list[int] | None, number: int) -> bool:
    """False when the process has ended."""
    pidfd = _open(process)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False  # just now
    finally:
        os.close(pidfd)
    return True


def await_either(processes: Sequence[list[int] | None], timeout: float | None) -> bool:
    """Until one of these has ended, at most ``timeout`` seconds; has one?"""
    pidfds = [_open(process) for process in processes]
    try:
        poller = select.poll()
        for pidfd in pidfds:
            if pidfd is None:
                return True
            poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))
    finally:
        for pidfd in pidfds:
            if pidfd is not None:
                os.close(pidfd)
