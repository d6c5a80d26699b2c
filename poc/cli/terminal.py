"""The caller's side of an attached container: raw mode, the window's size, and signals that are passed on.

The bytes themselves are pumped by the engine's attach session. `signal` is imported late: by now the monitor is
forked, so that neither the start nor its memory pays for it.
"""

from __future__ import annotations

import os
import signal
from signal import Signals

from poc.cli.output import complain, window_size
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from poc.engine.attach import Exit, Session
    from poc.engine.containers import Container

# Left alone: what the kernel says to poc itself (its children, pipes and faults), and job control, which is
# between the caller's shell and poc.
_NOT_PASSED_ON = {
    *(Signals.SIGKILL, Signals.SIGSTOP, Signals.SIGCHLD, Signals.SIGPIPE, Signals.SIGURG, Signals.SIGWINCH),
    *(Signals.SIGSEGV, Signals.SIGBUS, Signals.SIGFPE, Signals.SIGILL),
    *(Signals.SIGTSTP, Signals.SIGTTIN, Signals.SIGTTOU, Signals.SIGCONT),
}


def attach(container: Container, session: Session, stdin: bool, tty: bool) -> int:
    """Connect the caller's terminal or pipes with a container until it ends; returns its exit code.

    With a terminal at both ends, keys such as ctrl-c reach the container as bytes, and a signal to poc ends poc
    alone, the terminal restored. Otherwise signals go on to the container. Raises PocError if its monitor is killed.
    """
    raw = stdin and tty and os.isatty(0)
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if raw:
        handlers = dict.fromkeys((signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT), _leave)
    else:
        # Not through the session: input that the container does not read would keep them waiting.
        handlers = dict.fromkeys(_passed_on(), lambda number, _: _signal(container, number))
    if tty:
        handlers[signal.SIGWINCH] = lambda *_: _resize(session)
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    restore = _make_raw(0) if raw else None
    try:
        if tty:
            _resize(session)
        return _report(session.run(0 if stdin else None, 1, 2))
    finally:
        if restore:
            restore()
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


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


def _signal(container: Container, number: int) -> None:
    try:
        container.kill(number)
    except PocError:
        pass  # it has just ended


def _resize(session: Session) -> None:
    if size := window_size():
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
