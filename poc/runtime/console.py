"""What `poc-runtime` does with the terminals it is given: hand a container's over, or carry bytes in between."""

from __future__ import annotations

import os
import select
import signal
import socket
import termios
import tty

from poc.errors import InvalidArgument
from poc.runtime.terminal import resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.namespaces import Process

_CHUNK = 1 << 16
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def hand_over(console: int, path: str) -> None:
    """Send the master of a container's pty to whoever listens on the unix socket ``path`` (SCM_RIGHTS)."""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as end:
            end.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            socket.send_fds(end, [b"/dev/ptmx"], [console])
    except OSError as error:
        raise OSError(error.errno, f"console socket {path}: {error.strerror}") from None
    finally:
        os.close(directory)


def check(terminal: bool, detach: bool, console_socket: str) -> None:
    """Raises InvalidArgument when there would be nobody to have the terminal, or none to give away."""
    if terminal and detach and not console_socket:
        raise InvalidArgument("cannot allocate a terminal for a container that is left alone without --console-socket")
    if console_socket and not terminal:
        raise InvalidArgument("--console-socket is of no use: the process has no terminal (/process/terminal)")


def attend(process: Process, console: int | None) -> int:
    """Stay with a process until it ends, passing on signals and the terminal. Its exit status as a shell has it."""
    for signum in _FORWARDED:
        signal.signal(signum, lambda number, _: process.kill(number))
    if console is not None:
        _carry(console)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _carry(console: int) -> None:
    """Between our terminal and the container's, until the last process lets go of that."""
    saved = termios.tcgetattr(0) if os.isatty(0) else None
    if saved is not None:
        signal.signal(signal.SIGWINCH, lambda *_: _copy_size(console))
        _copy_size(console)
        tty.setraw(0)
    try:
        _pump(console)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(console)


def _copy_size(console: int) -> None:
    size = os.get_terminal_size(0)
    resize(console, size.lines, size.columns)


def _pump(console: int) -> None:
    poller = select.poll()
    poller.register(console, select.POLLIN)
    poller.register(0, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            try:
                data = os.read(fd, _CHUNK)
            except OSError:
                data = b""  # EIO: no process has the terminal open any more
            if data:
                _write_all(console if fd == 0 else 1, data)
            elif fd == console:
                return
            else:
                poller.unregister(0)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
