"""What `poc-runtime` does with the terminals it is given: hand a container's over, or carry bytes in between."""

from __future__ import annotations

import os
import select
import termios
import tty

from poc import _libc
from poc._lean import signal, socket
from poc.errors import InvalidArgument
from poc.runtime.terminal import resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.namespaces import Process

_CHUNK = 1 << 16
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def hand_over(fd: int, message: bytes, path: str) -> None:
    """Send a descriptor, a pty's master or a pidfd, to whoever listens on the unix socket ``path`` (SCM_RIGHTS)."""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as end:
            end.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            socket.send_fds(end, [message], [fd])
    except OSError as error:
        raise OSError(error.errno, f"socket {path}: {error.strerror}") from None
    finally:
        os.close(directory)


def check(terminal: bool, detach: bool, console_socket: str) -> None:
    """Raises InvalidArgument when there would be nobody to have the terminal, or none to give away."""
    if terminal and detach and not console_socket:
        raise InvalidArgument("cannot allocate a terminal for a container that is left alone without --console-socket")
    if console_socket and not terminal:
        raise InvalidArgument("--console-socket is of no use: the process has no terminal (/process/terminal)")


def be_subreaper() -> None:
    """Become the parent of what a container orphans when it has no first process of its own (prctl(2))."""
    _libc.prctl(_libc.PR_SET_CHILD_SUBREAPER, 1)


def attend(process: Process, console: int | None, reaping: bool = False) -> int:
    """Stay with a process until it ends, passing on signals and the terminal. Its exit status as a shell has it.

    With ``reaping`` all other children are waited for as well.
    """
    # Python runs a handler after the call that a signal interrupts; one that comes right before we poll wakes us too.
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    if reaping:
        signal.signal(signal.SIGCHLD, lambda *_: _reap_others(process.pid))
        _reap_others(process.pid)
    for signum in _FORWARDED:
        signal.signal(signum, lambda number, _: process.kill(number))
    if console is not None:
        _carry(console, woken)
    while process.pidfd not in _ready(process.pidfd, woken):
        pass
    code = process.exit_code()
    if reaping:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # hooks are waited for by who calls them
    return code


def _ready(*fds: int) -> list[int]:
    """Those that can be read, the last of which says that a signal came."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    ready = [fd for fd, _ in poller.poll()]
    if fds[-1] in ready:
        os.read(ready.pop(ready.index(fds[-1])), _CHUNK)
    return ready


def _reap_others(pid: int) -> None:
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != pid:
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        pass  # there are none


def _carry(console: int, woken: int) -> None:
    """Between our terminal and the container's, until the last process lets go of that."""
    saved = termios.tcgetattr(0) if os.isatty(0) else None
    if saved is not None:
        signal.signal(signal.SIGWINCH, lambda *_: _copy_size(console))
        _copy_size(console)
        tty.setraw(0)
    try:
        _pump(console, woken)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(console)


def _copy_size(console: int) -> None:
    size = os.get_terminal_size(0)
    resize(console, size.lines, size.columns)


def _pump(console: int, woken: int) -> None:
    readable = [console, 0]
    while True:
        for fd in _ready(*readable, woken):
            try:
                data = os.read(fd, _CHUNK)
            except OSError:
                data = b""  # EIO: no process has the terminal open any more
            if data:
                _write_all(console if fd == 0 else 1, data)
            elif fd == console:
                return
            else:
                readable.remove(0)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
