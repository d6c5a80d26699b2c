"""A program's standard streams, from the side of who feeds and reads them: pipes, or the master of its terminal."""

from __future__ import annotations

import os
import select

from poc.runtime.terminal import resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poc.oci.types import User

_CHUNK = 1 << 16
_LAST_READS = 64  # of _CHUNK bytes, from each stream after the end; a pipe holds at most 1 MiB


class Streams:
    """stdin, stdout and stderr of one program. ``outputs`` has those that are not at their end: {fd: name}.

    A terminal, ``console``, is stdin and stdout in one.
    """

    __slots__ = ("console", "input", "outputs")

    def __init__(self, stdin: bytes | None = None) -> None:
        """``stdin`` as for `Input`."""
        self.input = Input(stdin)
        self.outputs: dict[int, str] = {}
        self.console = -1

    def open_pipes(self, stdin_open: bool, user: User) -> tuple[int, int, int]:
        """The program's ends of its three streams."""
        stdin = self.input.open_pipe() if stdin_open else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        ends = [stdin]
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe()
            self.outputs[reader] = name
            ends.append(writer)
        for fd in ends if stdin_open else ends[1:]:
            # Or a program of another user could not open its own /dev/stdout.
            if os.fstat(fd).st_uid != user["uid"]:
                os.fchown(fd, user["uid"], user["gid"])
        return ends[0], ends[1], ends[2]

    def use_console(self, console: int, stdin_open: bool) -> None:
        """Its terminal, in place of pipes."""
        os.set_blocking(console, False)
        self.console = console
        self.outputs[console] = "stdout"
        if stdin_open:
            self.input.use_terminal(console)

    def watch(self, poller: select.poll, reading: bool) -> None:
        """Have told what can be done: to read its output, if we are ``reading``, and to write what waits for it."""
        if reading:
            for fd in self.outputs:
                poller.register(fd, select.POLLIN)
        if self.input.waiting and self.input.fd >= 0:
            both = select.POLLIN if self.input.fd in self.outputs else 0
            poller.register(self.input.fd, select.POLLOUT | both)

    def read(self, fd: int) -> bytes | None:
        """What it has written: None when nothing is there now, b"" at the end, with which the stream is closed."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # EIO: the last process let go of the terminal
        if not data:
            self._end(fd)
        return data

    def drain(self, take: Callable[[int], object]) -> None:
        """Have read what is still in the pipes, after who wrote to them has ended: ``take(fd)`` is truthy for more."""
        for fd in list(self.outputs):
            os.set_blocking(fd, False)
            for _ in range(_LAST_READS):
                if fd not in self.outputs or not take(fd):
                    break

    def end_output(self, name: str) -> None:
        """Close a pipe that nobody reads any more; a terminal stays, it is not only output."""
        for fd in [fd for fd, known in self.outputs.items() if known == name and fd != self.console]:
            self._end(fd)

    def _end(self, fd: int) -> None:
        del self.outputs[fd]
        if fd != self.console:
            os.close(fd)

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal's new size."""
        if self.console >= 0:
            resize(self.console, rows, columns)

    def close(self) -> None:
        """Let go of them all."""
        for fd in {self.input.fd, self.console, *self.outputs} - {-1}:
            os.close(fd)
        self.input.fd = self.console = -1
        self.outputs.clear()


class Input:
    """What the program has not taken yet (``waiting``), and whether more is to come (``ended``).

    ``fd`` is where it goes, -1 when nobody takes it. A terminal has no end: the program reads one at ctrl-d.
    """

    __slots__ = ("_is_terminal", "ended", "fd", "waiting")

    def __init__(self, data: bytes | None = None) -> None:
        """``data`` is all there is to come; None: it is added to ``waiting``."""
        self.fd = -1
        self.waiting = bytearray(data or b"")
        self.ended = data is not None
        self._is_terminal = False

    def open_pipe(self) -> int:
        """Feed it through a pipe, of which this returns the program's end."""
        end, self.fd = os.pipe()
        os.set_blocking(self.fd, False)
        return end

    def use_terminal(self, console: int) -> None:
        """Feed it through a pty, whose master stays the caller's."""
        self.fd = console
        self._is_terminal = True

    def flush(self) -> None:
        """Write what it takes without waiting, and pass the end on when there is nothing else."""
        if self.fd < 0:
            self.waiting.clear()
            return
        try:
            while self.waiting:
                del self.waiting[: os.write(self.fd, self.waiting)]
        except BlockingIOError:
            return
        except OSError:
            self.waiting.clear()
            self.ended = True  # EPIPE: the program closed its stdin
        if self.ended and self._is_terminal:
            self.waiting += b"\x04"
            self.ended = False
        elif self.ended:
            os.close(self.fd)
            self.fd = -1
