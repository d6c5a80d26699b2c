"""The caller's side of an attached container: raw mode, the window's size, and signals that are passed on.

The bytes themselves are pumped by the engine's attach session.
"""

from __future__ import annotations

import os

from poc._lean import signal
from poc.cli.output import complain, window_size
from poc.cli.parse import FLAG, VALUE, Option
from poc.engine.attach import DETACHED
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from poc.engine.attach import Exit, Session
    from poc.engine.container import Container
    from poc.engine.execution import Execution

DETACH_OPTION = Option(
    "--detach-keys", VALUE, "Keys that let go of the container's terminal (default: ctrl-p,ctrl-q)", metavar="KEYS"
)
SIGNAL_OPTION = Option("--sig-proxy", FLAG, "Pass signals on (default: true), unless there is a terminal", on=True)

# Left alone: what the kernel says to poc itself (its children, pipes and faults), and job control, which is
# between the caller's shell and poc.
_NOT_PASSED_ON = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
}


def attach(
    container: Container | Execution,
    session: Session | Execution,
    stdin: bool,
    tty: bool,
    keys: bytes,
    signals: bool = True,
    redraw: bool = False,
    outputs: tuple[int, int] = (1, 2),
) -> int | None:
    """Connect the caller's terminal or pipes with a container, or a program in one, until it ends; its exit code.

    With a terminal at both ends, keys such as ctrl-c reach the container as bytes, and a signal to poc ends poc
    alone, the terminal restored. Otherwise ``signals`` go on to the container. None after ``keys``, which the
    container's terminal must have. With ``redraw`` the program is made to show again what is on its screen.
    ``outputs`` are where its stdout and stderr go. Raises PocError if its monitor is killed.
    """
    raw = stdin and tty and os.isatty(0)
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if raw:
        handlers = dict.fromkeys((signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT), _leave)
    elif signals:
        # Not through the session: input that the container does not read would keep them waiting.
        handlers = dict.fromkeys(_passed_on(), lambda number, _: _signal(container, number))
    if tty:
        handlers[signal.SIGWINCH] = lambda *_: _resize(session)
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.set_wakeup_fd(session.wake, warn_on_full_buffer=False)
    restore = _make_raw(0) if raw else None
    try:
        if tty:
            _resize(session, redraw)
        end = session.run(0 if stdin else None, *outputs, keys if tty else b"")
        if end is None:
            _clear_up(container)
        return None if end is DETACHED else _report(end)
    finally:
        if restore:
            restore()
        signal.set_wakeup_fd(-1)
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _clear_up(container: Container | Execution) -> None:
    """After a monitor that was killed; whoever waits for the container does that."""
    try:
        container.wait()
    except (PocError, OSError):
        pass  # removed with it, or the next command's task


def _report(end: Exit | None) -> int:
    """The exit code; an OOM kill is told, also when it took only a child and the container went on without it."""
    if end is None:
        raise PocError("the container's monitor was killed, and the container with it")
    if end.oom_killed:
        prefix = "Error" if end.exit_code else "Warning"
        complain("out of memory: the container reached its limit, and the kernel killed a process of it", prefix)
    return end.exit_code


def _passed_on() -> list[int]:
    """Signals to pass on. A caller who ignores SIGHUP (nohup) means it for the container as well."""
    return [
        number
        for number in signal.valid_signals() - _NOT_PASSED_ON
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]


def _signal(container: Container | Execution, number: int) -> None:
    try:
        container.kill(number)
    except PocError:
        pass  # it has just ended


def _resize(session: Session | Execution, redraw: bool = False) -> None:
    if size := window_size():
        if redraw:
            session.resize(size[0] + 1, size[1] + 1)  # a size that stays the same is no news to it
        session.resize(*size)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _make_raw(fd: int) -> Callable[[], None]:
    """Hand keys through as they are typed; returns what puts the terminal back."""
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)  # not TCSAFLUSH: what was typed ahead is the container's
    return lambda: termios.tcsetattr(fd, termios.TCSANOW, before)
