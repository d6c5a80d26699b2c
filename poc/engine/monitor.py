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
                                    cgroup, lease, state cleared away; status written;
                                    by its restart policy all again, after a pause
              ◀───────────── EXITED

If it is killed, so is the container (PR_SET_PDEATHSIG; under another runtime see `poc.engine.foreign`), and the next
command that looks at the container clears away what is left (`poc.engine.recovery`). It never imports pyroute2 or
click: its memory is kept for as long as the container runs.
"""

from __future__ import annotations

import _thread
import fcntl
import gc
import os
import select
import time

import prctl

from poc import _fs
from poc._lean import json, signal, socket
from poc.engine import frames, logs, networks, recovery
from poc.engine.clients import Clients, Collector, Connection
from poc.engine.config import OWN_RUNTIME
from poc.engine.run import Run
from poc.engine.store import STOPPED, listed
from poc.errors import PocError, explain, pack
from poc.namespaces import fork, reap, run_and_exit
from poc.runtime import seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine import Engine
    from poc.engine.container import Container
    from poc.engine.restart import Restarts
    from poc.engine.store import Lock


def load_ahead(engine: Engine, container: Container) -> None:
    """Before `launch`, in a program with threads: load what the fork would have to import (`networks.load_ahead`)."""
    if not _thread._count():
        return
    import poc.engine.restart

    if container.health_command:
        import poc.engine.checks
    if container.config.runtime != OWN_RUNTIME:
        import tomllib  # noqa: F401

        import poc.engine.foreign  # noqa: F401
    elif filter_ := container.spec()["linux"].get("seccomp"):
        seccomp.program(filter_, engine.paths.cache)
    logs.load_ahead(container)
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
    first = Connection(theirs, first=True, feeds=attached)
    monitor = Monitor(engine, container, lock, first)
    try:
        if fork() != 0:
            return
    except OSError as error:
        monitor.give_up(error)
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


def _close_all_but(*kept: int) -> None:
    os.chdir("/")
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    _fs.close_all_but(*kept)


class Monitor:
    """Has a container run, again and again if its restart policy says so, and tells those who are attached of it."""

    def __init__(
        self,
        engine: Engine,
        container: Container,
        lock: Lock,
        first: Connection | Collector,
        stdin: bytes | None = None,
    ) -> None:
        self._engine = engine
        self._container = container
        self._lock = lock
        self._clients = Clients(first)
        self._is_ours = isinstance(first, Connection)  # the process, to shrink and to outlive a run with
        self._restarts: Restarts | None = None
        self._run = Run(engine, container, self._clients, stdin, small=not self._is_ours)

    def run(self) -> None:
        """Everything. Raises what kept the program from running, and what a signal handler of the caller's raises.

        Whatever it is, all is cleared up by then.
        """
        with self._lock:
            self._begin()
            try:
                self._tell(frames.STARTED, warnings=self._run.warnings)
                self._carry()
                while (pause := self._pause()) is not None and self._start_again(pause):
                    self._carry()
            finally:
                self._end()

    def _carry(self) -> None:
        try:
            self._run.carry()
        finally:
            self._run.finish()

    def _begin(self) -> None:
        try:
            self._clients.listen(self._engine.paths.runtime(self._container.id, "attach"))
            self._run.start([self._lock.fd, *self._clients.descriptors])
        except BaseException as error:
            self.give_up(error)
            raise

    def give_up(self, error: BaseException) -> None:
        """The container never ran: clear up, and tell why."""
        self._run.give_up(_exit_code(error), explain(error))
        self._conclude()
        self._tell(frames.FAILED, **pack(error))
        self._part()

    # ── between two runs ─────────────────────────────────────────────────────────────────────────────

    def _pause(self) -> float | None:
        """Seconds until the next run, None when there is to be none."""
        if not self._is_ours or self._container.config.remove or self._is_stopped():
            return None
        self._container.reload()  # the policy may be another now
        policy = self._container.config.restart_policy
        if policy["Name"] == "no":
            return None
        if self._restarts is None:
            from poc.engine.restart import Restarts

            self._restarts = Restarts()
        status = self._run.status
        return self._restarts.pause(policy, status.exit_code, status.finished_at - status.started_at)

    def _is_stopped(self) -> bool:
        return os.path.exists(self._engine.paths.container(self._container.id, STOPPED))

    def _start_again(self, pause: float) -> bool:
        """After a pause; False when it is stopped by hand meanwhile, or can't be started."""
        assert self._restarts is not None
        self._rest()
        if not self._await(pause):
            return False
        self._run = Run(self._engine, self._container, self._clients, restarts=self._restarts.count)
        try:
            self._run.start([self._lock.fd, *self._clients.descriptors])
        except (PocError, OSError) as error:
            self._run.give_up(_exit_code(error), explain(error))
            return False
        return True

    def _rest(self) -> None:
        """Tell how the run ended, and clear away what is not for the next."""
        assert self._restarts is not None
        paths, id, status = self._engine.paths, self._container.id, self._run.status
        status.restarts = self._restarts.count
        ended = {name: getattr(status, name) for name in status.__slots__}
        state = {**self._run.state, "init": None, "address": "", "restarting": True}
        _fs.write_json(paths.runtime(id, "state.json"), {**state, "restarts": status.restarts, "ended": ended})
        recovery.keep(self._container.status_path, status, in_place=False)
        self._run.tell_end()
        for name in listed(paths.runtime(id)):
            if name not in ("attach", "state.json"):
                _fs.remove_tree(paths.runtime(id, name))
        self._tell_end()
        self._clients.dismiss()
        self._run.let_go_of_mounts()

    def _await(self, pause: float) -> bool:
        """Let so many seconds pass. False when somebody stops the container; who does wakes us."""
        deadline = time.monotonic() + pause
        while not self._is_stopped():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            poller = select.poll()
            self._clients.watch(poller, True)
            self._clients.serve(poller.poll(left * 1000))
        return False

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────

    def _end(self) -> None:
        self._conclude()
        self._tell_end()
        self._part()

    def _tell_end(self) -> None:
        status = self._run.status
        self._tell(frames.EXITED, exit_code=status.exit_code, oom_killed=status.oom_killed)

    def _conclude(self) -> None:
        """Let go of everything; of the lock last, but before a client may keep us waiting who reads no more."""
        self._clients.stop_listening()
        container = self._container
        run, remove = self._run, container.config.remove
        recovery.conclude(self._engine, container.id, run.status, remove, run.tell_end)
        self._lock.release()

    def _part(self) -> None:
        self._clients.farewell()
        self._run.let_go_of_mounts()

    def _tell(self, kind: int, **payload: Any) -> None:
        self._clients.tell(kind, json.dumps(payload).encode())


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, PocError) else PocError.exit_code
