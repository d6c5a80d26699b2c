"""The process that looks after one running container: a fork of the command that started it, without an exec.

It owns the container's stdio, its log and its exit status, so that a container outlives the command::

    command                         monitor                              container
    ───────                         ───────                              ─────────
    lock, fork, fork ─────────────▶ detached from terminal and caller
                                    lease, bundle, create ─────────────▶ mounts
                                    start ─────────────────────────────▶ execve
              ◀──────────── STARTED
    stdin ──▶                       ─────────────────────────────────▶ stdin
              ◀──── STDOUT, STDERR  ◀───────────────────────────────── stdout, stderr
                                    └─▶ log
                                    ◀─────────────────────────────────── ends
                                    cgroup, lease, state cleared away; status written
              ◀───────────── EXITED

If it is killed, so is the container (PR_SET_PDEATHSIG), and the next command that looks at the container
clears away what is left (`poc.engine.recovery`). It never imports pyroute2 or click: its memory is kept
for as long as the container runs.
"""

from __future__ import annotations

import _thread
import fcntl
import gc
import json
import os
import select
import signal
import socket
import time

import prctl

from poc import _fs
from poc.engine import footprint, frames, networks, recovery
from poc.engine.logs import LogWriter
from poc.engine.store import identity, read_optional
from poc.errors import PocError
from poc.namespaces import fork, reap, run_and_exit
from poc.rootfs import Overlay
from poc.runtime import seccomp
from poc.runtime.create import create
from poc.runtime.terminal import resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine import Engine
    from poc.engine.containers import Container
    from poc.engine.store import Lock
    from poc.namespaces import Process
    from poc.oci.types import User
    from poc.runtime.create import Created


_CHUNK = 1 << 16
_BACKLOG = 1 << 18  # bytes that may wait for a slow reader before the container is slowed
_LAST_READS = 64  # of _CHUNK bytes, from each stream after the end; a pipe holds at most 1 MiB
_QUIET = 2.0  # seconds without any event, after which the monitor makes itself small


def load_ahead(engine: Engine, container: Container) -> None:
    """Before `launch`, in a program with threads: load what the fork would have to import (`networks.load_ahead`)."""
    if not _thread._count():
        return
    if filter_ := container.spec()["linux"].get("seccomp"):
        seccomp.program(filter_, engine.paths.cache)
    if container.config.network in ("bridge", "internal"):
        networks.load_ahead()


def launch(engine: Engine, container: Container, lock: Lock, attached: bool) -> socket.socket:
    """Fork the monitor of a container whose lock is held; the lock is the monitor's from here on.

    ``attached``: the caller stays, and the container's stdin ends when the caller does.
    Returns the stream socket on which it says STARTED or FAILED first (`poc.engine.frames`). Raises OSError; then
    the lock is free.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    if theirs.fileno() < 3:  # the caller has closed its own streams; the monitor is about to
        theirs = socket.socket(fileno=fcntl.fcntl(theirs.detach(), fcntl.F_DUPFD_CLOEXEC, 3))
    try:
        child = fork()
    except OSError:
        with lock, ours, theirs:
            recovery.finish(engine, container.id)
        raise
    if child == 0:
        # Twice, so that it is nobody's child: the caller may be a program with children of its own.
        run_and_exit(lambda: _detach(engine, container, lock, ours, theirs, attached))
    theirs.close()
    lock.hand_over()
    reap(child)
    return ours


def _detach(
    engine: Engine, container: Container, lock: Lock, ours: socket.socket, theirs: socket.socket, attached: bool
) -> None:
    os.setsid()
    gc.disable()  # what the caller left here must never be finalised here
    ours.close()
    monitor = Monitor(engine, container, lock, Connection(theirs), attached=attached)
    try:
        if fork() != 0:
            return
    except OSError as error:
        monitor.give_up(None, error)
        return
    _close_all_but(lock.fd, theirs.fileno())
    _forget_signals()
    prctl.set_name("poc-monitor")
    try:
        monitor.run()
    except (PocError, OSError):
        pass  # told to the client


def _forget_signals() -> None:
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)) or signum == signal.SIGCHLD:
            signal.signal(signum, signal.SIG_DFL)  # what the caller does about it is not ours to do
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def run_here(engine: Engine, container: Container, lock: Lock, stdin: bytes | None) -> Collector:
    """Be the monitor of a container oneself, until it ends; the lock, which is held, is let go of at the end.

    For a caller who waits anyway it saves a fork, which costs as much as starting the container. It ends
    with the caller: a killed program takes it along, and so does a signal handler that raises.
    Raises what kept the program from running.
    """
    collector = Collector()
    Monitor(engine, container, lock, collector, stdin).run()
    return collector


def _json(**payload: Any) -> bytes:
    return json.dumps(payload).encode()


def _close_all_but(*kept: int) -> None:
    os.chdir("/")
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    _fs.close_all_but(*kept)


class Connection:
    """The one who is attached over a socket: frames come in, output goes out, neither without bound."""

    __slots__ = ("_decoder", "_outgoing", "socket")

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._outgoing = bytearray()
        self._decoder = frames.Decoder()

    @property
    def waiting(self) -> int:
        """Bytes that it has not taken yet."""
        return len(self._outgoing)

    def send(self, kind: int, payload: bytes) -> None:
        """Say one thing, now or when the socket takes it. Raises OSError when the client is gone."""
        self._outgoing += frames.frame(kind, payload)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes. Raises OSError when the client is gone."""
        while self._outgoing:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return
            del self._outgoing[:sent]

    def receive(self) -> list[tuple[int, bytes]] | None:
        """The frames that came, None when the client is gone."""
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self._decoder.feed(data)) if data else None

    def close(self) -> None:
        """Everything has been said: wait until it is taken, and hang up."""
        self.socket.setblocking(True)
        try:
            self.socket.sendall(self._outgoing)
        except OSError:
            pass  # the client is gone
        self.socket.close()


class Collector:
    """The caller of the library, when the monitor runs in its own process: everything is kept for it."""

    __slots__ = ("ended", "stderr", "stdout", "warnings")

    socket = None
    waiting = 0

    def __init__(self) -> None:
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.ended: dict[str, Any] = {}
        self.warnings: list[str] = []

    def send(self, kind: int, payload: bytes) -> None:
        """Take one thing."""
        if kind == frames.STDOUT:
            self.stdout.append(payload)
        elif kind == frames.STDERR:
            self.stderr.append(payload)
        elif kind == frames.STARTED:
            self.warnings = json.loads(payload)["warnings"]
        elif kind == frames.EXITED:
            self.ended = json.loads(payload)

    def close(self) -> None:
        """Nothing to let go of."""


class Monitor:
    """Starts a container, carries its streams, waits for its end and clears up."""

    def __init__(
        self,
        engine: Engine,
        container: Container,
        lock: Lock,
        client: Connection | Collector,
        stdin: bytes | None = None,
        attached: bool = True,
    ) -> None:
        self._engine = engine
        self._container = container
        self._lock = lock
        self._config = container.config
        self._client: Connection | Collector | None = client
        self._attached = attached
        self._outputs: dict[int, tuple[str, int]] = {}
        self._stdin = -1
        self._input = bytearray(stdin or b"")
        self._stdin_ended = stdin is not None
        self._console: int | None = None
        self._log: LogWriter | None = None
        self._process: Process | None = None
        self._attachment: networks.Attachment | None = None
        self._warnings: list[str] = []
        self._state: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._small = not isinstance(client, Connection)  # in the caller's process nothing is ours to shrink
        self._mounts = -1

    def run(self) -> None:
        """Everything. Raises what kept the program from running, and what a signal handler of the caller's raises.

        Whatever it is, all is cleared up by then.
        """
        with self._lock:
            self._run()

    def _run(self) -> None:
        created: Created | None = None
        try:
            self._log = LogWriter(self._container.log_path)
            created = self._create()
            self._start(created)
        except BaseException as error:
            self.give_up(created, error)
            raise
        try:
            self._tell(frames.STARTED, _json(warnings=self._warnings))
            self._carry(created.process)
        finally:
            created.process.kill()  # a signal handler of the caller raised; else it has ended
            self._finish(created)

    def _create(self) -> Created:
        paths, id = self._engine.paths, self._container.id
        if self._config.network in ("bridge", "internal"):
            self._attachment = networks.Attachment(self._engine.networks, id, self._config.network == "internal")
        spec = self._container.bundle.prepare(self._attachment.address if self._attachment else None)
        stdio = None if self._config.tty else self._open_pipes(spec["process"]["user"])
        try:
            created = create(
                spec,
                paths.container(id),
                cache=paths.cache,
                overlay=Overlay(**self._container.bundle.overlay()),
                stdio=stdio,
                reaper=self._config.init,
                tied_to_parent=True,
                withheld=self._withheld(),
                hold=self._attachment is not None,
                while_mounting=self._while_mounting,
            )
        finally:
            for fd in stdio or ():
                os.close(fd)
        if created.console is not None:
            self._use_console(created.console)
        return created

    def _withheld(self) -> list[int]:
        connection = [self._client.socket.fileno()] if isinstance(self._client, Connection) else []
        return [self._lock.fd, *connection]

    def _while_mounting(self, process: Process) -> None:
        self._process = process
        if not self._config.storage_opt:
            self._mounts = _open_mounts(process.pid)
        self._state = {
            "monitor": identity(os.getpid()),
            "init": identity(process.pid),
            "started_at": time.time(),
            "address": self._attachment.address if self._attachment else "",
        }
        path = self._container.status_path
        self._before = read_optional(path)
        _fs.write_atomic(path, recovery.Status.begun(self._state["started_at"]).as_text())
        if self._attachment is not None:
            self._attachment.begin(process.pid)

    def _open_pipes(self, user: User) -> tuple[int, int, int]:
        """The container's ends of its three streams; ours are kept for `_carry`."""
        if self._config.stdin_open:
            stdin, self._stdin = os.pipe()
            os.set_blocking(self._stdin, False)
        else:
            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        ends = [stdin]
        for name, kind in (("stdout", frames.STDOUT), ("stderr", frames.STDERR)):
            reader, writer = os.pipe()
            self._outputs[reader] = (name, kind)
            ends.append(writer)
        for fd in ends:
            # Or a program of another user could not open its own /dev/stdout.
            if os.fstat(fd).st_uid != user["uid"] and (fd != stdin or self._config.stdin_open):
                os.fchown(fd, user["uid"], user["gid"])
        return ends[0], ends[1], ends[2]

    def _use_console(self, console: int) -> None:
        os.set_blocking(console, False)
        self._console = console
        self._outputs[console] = ("stdout", frames.STDOUT)
        if self._config.stdin_open:
            self._stdin = console

    def _start(self, created: Created) -> None:
        if self._attachment is not None:
            self._warnings = self._attachment.finish()
        created.start()
        # Only now: who finds it may send the program a signal.
        _fs.write_json(self._engine.paths.runtime(self._container.id, "state.json"), self._state)

    def give_up(self, created: Created | None, error: BaseException) -> None:
        """The container never ran: clear up, and tell why."""
        self._close_streams()
        if created is not None:
            created.abandon()
        code = error.exit_code if isinstance(error, PocError) else PocError.exit_code
        started_at = self._before.get("started_at", 0.0)
        self._release(recovery.Status(code, False, started_at, time.time(), _explain(error)))
        self._tell(frames.FAILED, _json(failure=type(error).__name__, text=_explain(error)))
        self._hang_up()
        self._let_go_of_mounts()

    # ── the streams ──────────────────────────────────────────────────────────────────────────────────

    def _carry(self, process: Process) -> None:
        """Carry bytes until the process has ended and its output is at its end."""
        running = True
        while running:
            for fd, events in self._poll(process.pidfd):
                if fd == process.pidfd:
                    running = False
                elif fd in self._outputs and events & ~select.POLLOUT:
                    self._read_output(fd)
                elif isinstance(self._client, Connection):
                    self._serve(self._client, events)
            self._write_input()
        self._drain()

    def _drain(self) -> None:
        """Read what is still in the pipes, however slow the client. Who else wrote to them ended before process 1."""
        for fd in list(self._outputs):
            os.set_blocking(fd, False)
            for _ in range(_LAST_READS):
                if fd not in self._outputs or not self._read_output(fd):
                    break

    def _poll(self, pidfd: int) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        client = self._client
        if client is None or client.waiting < _BACKLOG:
            for fd in self._outputs:
                poller.register(fd, select.POLLIN)
        if isinstance(client, Connection):
            wanted = select.POLLIN if len(self._input) < _BACKLOG else 0
            poller.register(client.socket, wanted | (select.POLLOUT if client.waiting else 0))
        if self._input and self._stdin >= 0:
            both = select.POLLIN if self._stdin in self._outputs else 0
            poller.register(self._stdin, select.POLLOUT | both)
        return poller.poll() if self._small else self._poll_and_shrink(poller)

    def _poll_and_shrink(self, poller: select.poll) -> list[tuple[int, int]]:
        ready = poller.poll(_QUIET * 1000)
        if not ready:
            self._small = True
            try:
                footprint.shrink()
            except OSError:
                pass  # a kernel without smaps; it stays as it is
        return ready

    def _read_output(self, fd: int) -> bool:
        """Pass on what can be read; was there anything?"""
        stream, kind = self._outputs[fd]
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # EIO: the last process let go of the terminal
        if not data:
            del self._outputs[fd]
            if fd != self._console:
                os.close(fd)
            return False
        assert self._log is not None
        try:
            self._log.write(stream, data)
        except OSError:
            pass  # the disk is full: the container goes on, its log has a gap
        self._tell(kind, data)
        return True

    def _serve(self, client: Connection, events: int) -> None:
        received: list[tuple[int, bytes]] | None = []
        try:
            client.flush()
            if events & ~select.POLLOUT:
                received = client.receive()
        except OSError:
            received = None
        if received is None:
            self._drop_client()
        for kind, payload in received or ():
            self._obey(kind, payload)

    def _obey(self, kind: int, payload: bytes) -> None:
        if kind == frames.STDIN:
            self._input += payload
        elif kind == frames.STDIN_END:
            self._stdin_ended = True
        elif kind == frames.RESIZE and self._console is not None:
            size = json.loads(payload)
            resize(self._console, size["rows"], size["columns"])
        elif kind == frames.OUTPUT_END:
            self._end_output(json.loads(payload)["stream"])

    def _end_output(self, kind: int) -> None:
        """Close a pipe that nobody reads any more; a terminal stays, it is not only output."""
        for fd in [fd for fd, (_, known) in self._outputs.items() if known == kind and fd != self._console]:
            del self._outputs[fd]
            os.close(fd)

    def _write_input(self) -> None:
        if self._stdin < 0:
            self._input.clear()
            return
        try:
            while self._input:
                del self._input[: os.write(self._stdin, self._input)]
        except BlockingIOError:
            return
        except OSError:
            self._input.clear()
            self._stdin_ended = True  # EPIPE: the program closed its stdin
        if self._stdin_ended:
            self._close_input()

    def _close_input(self) -> None:
        if self._stdin == self._console:
            self._input += b"\x04"  # a terminal has no end; the program reads one at ctrl-d
            self._stdin_ended = False
            return
        os.close(self._stdin)
        self._stdin = -1

    def _tell(self, kind: int, payload: bytes) -> None:
        if self._client is None:
            return
        try:
            self._client.send(kind, payload)
        except OSError:
            self._drop_client()

    def _drop_client(self) -> None:
        self._hang_up()
        # docker's StdinOnce: with the client it was made for gone, nobody can write to it any more
        self._stdin_ended = self._stdin_ended or self._attached

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, created: Created) -> None:
        code = created.process.wait()
        self._close_streams()
        oom_killed = created.cgroup.oom_kills() > 0
        exit_code = code if code >= 0 else 128 - code
        try:
            created.cgroup.remove()  # with its first process the kernel ended all others
        except OSError:
            recovery.end_processes(self._container.id)  # but for one that was put there from outside
        self._release(recovery.Status(exit_code, oom_killed, self._state["started_at"], time.time()))
        self._tell(frames.EXITED, _json(exit_code=exit_code, oom_killed=oom_killed))
        self._hang_up()
        self._let_go_of_mounts()

    def _close_streams(self) -> None:
        """Our ends of them, and the log."""
        console = -1 if self._console is None else self._console
        for fd in {self._stdin, console, *self._outputs} - {-1}:
            os.close(fd)
        self._stdin, self._console = -1, None
        self._outputs.clear()
        try:
            if self._log is not None:
                self._log.close()
        except OSError:
            pass  # a full disk

    def _let_go_of_mounts(self) -> None:
        # The end of an overlay syncs the whole file system below it. Held by us until now, that happens after
        # everything else and keeps nobody waiting, instead of holding up the news that the process has ended.
        if self._mounts >= 0:
            _fs.close_elsewhere(self._mounts)

    def _release(self, status: recovery.Status) -> None:
        """Let go of everything; of the lock last, but before a client may keep us waiting who reads no more."""
        if self._attachment is not None:
            self._attachment.cancel()
        if self._config.network in ("bridge", "internal"):
            self._engine.networks.release(self._container.id)
        recovery.conclude(self._engine, self._container.id, status, remove=self._config.remove)
        self._lock.release()


def _open_mounts(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1  # it was killed, and its channel says so


def _explain(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return str(error) or repr(error)
    text = error.strerror or repr(error)
    return f"{error.filename}: {text}" if error.filename else text
