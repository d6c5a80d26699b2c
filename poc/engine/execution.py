"""Another process in a running container: `poc exec` and `Container.exec_run`.

It is a child of whoever asked for it, without a monitor in between: there is no log to keep, and with the container
it ends anyway. When its caller is killed it goes on without streams, as docker's does.
"""

from __future__ import annotations

import os
import select

from poc import _fs
from poc._lean import json
from poc.engine.attach import DETACHED, Exit, failure
from poc.engine.keys import Watch
from poc.engine.results import ExecResult, collect
from poc.engine.streams import Streams
from poc.errors import PocError, Unsupported, pack
from poc.namespaces import fork, reap, run_and_exit
from poc.runtime.joining import enter_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.engine.container import Container
    from poc.namespaces import Process
    from poc.runtime.create import Created

_CHUNK = 1 << 16


def run(container: Container, command: Sequence[str], stdin: bytes | None, options: dict[str, Any]) -> ExecResult:
    """Run a program to its end, and keep what it writes. Raises what kept it from running."""
    execution = Execution(container, command, stdin is not None, options)
    stdout, stderr, ended = collect(execution, stdin, lambda: execution.kill(9))
    assert ended is not None
    return ExecResult(stdout, stderr, ended.exit_code)


def run_apart(container: Container, command: Sequence[str], options: dict[str, Any]) -> None:
    """Start a program and leave it to the container, whose first process reaps it. Raises what kept it from running."""
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        run_and_exit(lambda: _leave(container, command, options, writer))
    os.close(writer)
    try:
        said = _fs.read_all(reader)
    finally:
        os.close(reader)
    reap(child)
    if said:
        raise failure(json.loads(said))


def _leave(container: Container, command: Sequence[str], options: dict[str, Any], writer: int) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        plan = Plan(container, command, {**options, "tty": False})
        plan.start(plan.carry_out((null, null, null)))
    except (PocError, OSError) as error:
        _fs.write_all(writer, json.dumps(pack(error)).encode())


class Plan:
    """What is going to run where, before anything is made."""

    __slots__ = ("_command", "_container", "_first", "_id", "process")

    def __init__(self, container: Container, command: Sequence[str], options: dict[str, Any]) -> None:
        self._container = container
        self._command = " ".join(command)
        self._id = os.urandom(32).hex()
        self._first = container.first_process()
        if container.is_apart:  # beside its first process, a program would run on this host, outside the walls
            raise Unsupported(f"exec: {container.config.runtime} does not run containers as processes of this host")
        self.process = container.bundle.process_beside(self._first[0], command, **options)

    def carry_out(self, stdio: tuple[int, int, int] | None) -> Created:
        container = self._container
        self.emit(f"exec_create: {self._command}")
        return enter_running(
            self._first, container.cgroup, container.spec(), self.process, cache=container.bundle.cache, stdio=stdio
        )

    def start(self, created: Created) -> None:
        """Let the program run that `carry_out` has made. Raises what keeps it from running."""
        created.start()
        self.emit(f"exec_start: {self._command}")

    def emit(self, action: str, **attributes: object) -> None:
        self._container.emit(action, execID=self._id, **attributes)


class Execution:
    """A process started in a running container, with streams to carry: the face of `poc.engine.attach.Session`."""

    __slots__ = ("_plan", "_process", "_streams", "_woken", "wake")

    def __init__(self, container: Container, command: Sequence[str], stdin_open: bool, options: dict[str, Any]) -> None:
        """Raises what keeps the program from running: Conflict, CommandNotFound, CommandNotExecutable, SetupError."""
        self._streams = Streams()
        self._woken, self.wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._process = self._start(container, command, stdin_open, options)
        except BaseException:
            self.close()
            raise

    def _start(
        self, container: Container, command: Sequence[str], stdin_open: bool, options: dict[str, Any]
    ) -> Process:
        plan = self._plan = Plan(container, command, options)
        stdio = None if options.get("tty") else self._streams.open_pipes(stdin_open, plan.process["user"])
        try:
            created = plan.carry_out(stdio)
        finally:
            for fd in stdio or ():
                os.close(fd)
        if created.console is not None:
            self._streams.use_console(created.console, True)
        try:
            plan.start(created)
        except BaseException:
            created.process.kill()
            created.process.wait()
            raise
        return created.process

    def kill(self, signum: int) -> None:
        """Send it a signal; content when it has ended."""
        self._process.kill(signum)

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal's new size."""
        self._streams.resize(rows, columns)

    def run(self, stdin: int | None, stdout: int, stderr: int, keys: bytes = b"") -> Exit:
        """Carry bytes both ways until it ends. Where nobody reads its output any more, it hears of that.

        `DETACHED` after ``keys``: then another process keeps its terminal.
        """
        sinks, watch = {"stdout": stdout, "stderr": stderr}, Watch(keys)
        streams = self._streams
        streams.input.ended = stdin is None and streams.console < 0  # a terminal waits for one that is never typed on
        running = True
        while running:
            for fd in self._poll(stdin):
                if fd == self._process.pidfd:
                    running = False
                elif fd == self._woken:
                    os.read(fd, _CHUNK)
                elif fd == stdin:
                    more = self._take(fd, watch)
                    if more is None:
                        self._leave()
                        return DETACHED
                    stdin = fd if more else None
                elif fd in streams.outputs:
                    self._pass_on(fd, sinks)
            streams.input.flush()
        streams.drain(lambda fd: self._pass_on(fd, sinks))
        code = self.wait()
        self._plan.emit("exec_die", exitCode=code)
        return Exit(code, False)

    def wait(self) -> int:
        """Its exit status as a shell has it."""
        return self._process.exit_code()

    def _poll(self, stdin: int | None) -> list[int]:
        poller = select.poll()
        for fd in (self._process.pidfd, self._woken):
            poller.register(fd, select.POLLIN)
        if stdin is not None and not self._streams.input.waiting:
            poller.register(stdin, select.POLLIN)
        self._streams.watch(poller, True)
        return [fd for fd, events in poller.poll() if events & ~select.POLLOUT]

    def _take(self, stdin: int, watch: Watch) -> bool | None:
        """Is there more to come? None: not by us, the keys were typed."""
        try:
            data = os.read(stdin, _CHUNK)
        except OSError:
            data = b""  # EIO: the terminal hung up, or we are in the background
        typed, detached = watch.feed(data)
        self._streams.input.waiting += typed
        self._streams.input.ended = not data
        return None if detached else bool(data)

    def _leave(self) -> None:
        """Let a process of its own read what it still writes: without anybody its terminal would hang up on it."""
        self._plan.emit("exec_detach")
        child = fork()
        if child == 0:
            run_and_exit(self._read_on)
        reap(child)

    def _read_on(self) -> None:
        os.setsid()
        if fork() != 0:
            return
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _fs.close_all_but(self._process.pidfd, *self._streams.outputs)
        poller = select.poll()
        poller.register(self._process.pidfd, select.POLLIN)
        self._streams.watch(poller, True)
        while self._process.pidfd not in (ready := [fd for fd, _ in poller.poll()]):
            for fd in ready:
                if self._streams.read(fd) == b"":
                    poller.unregister(fd)

    def _pass_on(self, fd: int, sinks: dict[str, int]) -> bool:
        """Pass on what can be read; was there anything?"""
        name = self._streams.outputs[fd]
        data = self._streams.read(fd)
        try:
            _fs.write_all(sinks[name], data or b"")
        except BrokenPipeError:
            self._streams.end_output(name)
        return bool(data)

    def close(self) -> None:
        """Let go of its streams; it runs on."""
        self._streams.close()
        for fd in {self._woken, self.wake} - {-1}:
            os.close(fd)
        self._woken = self.wake = -1
