"""One run of a container: created, started, its streams carried, its end seen to. `poc.engine.monitor` has it done."""

from __future__ import annotations

import os
import select
import time

from poc import _fs
from poc._fs import identity
from poc._lean import json
from poc.engine import footprint, frames, networks, recovery
from poc.engine.config import OWN_RUNTIME
from poc.engine.logs import open_log
from poc.engine.store import read_optional
from poc.engine.streams import Streams
from poc.rootfs import Overlay
from poc.runtime.create import create

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine import Engine
    from poc.engine.checks import Checks
    from poc.engine.clients import Clients
    from poc.engine.container import Container
    from poc.engine.logs import Writer
    from poc.engine.sharing import Joined
    from poc.namespaces import Process
    from poc.runtime.create import Created

_BACKLOG = 1 << 18  # bytes of stdin that may wait for a program that does not read
_QUIET = 2.0  # seconds without any event, after which the monitor makes itself small


class Run:
    """Made anew for each start. Whoever is attached is in ``clients``; ``status`` is how it ended."""

    __slots__ = (
        *(
            "_attachment",
            "_before",
            "_checks",
            "_clients",
            "_config",
            "_container",
            "_created",
            "_ended",
            "_engine",
        ),
        *("_log", "_mounts", "_restarts", "_shrinks", "_shrunk", "_streams", "state", "status", "warnings"),
    )

    def __init__(
        self,
        engine: Engine,
        container: Container,
        clients: Clients,
        stdin: bytes | None = None,
        small: bool = False,
        restarts: int = 0,
    ) -> None:
        """``small``: the process is not ours to shrink. ``restarts``: how many of its policy's this one makes."""
        self._engine = engine
        self._container = container
        self._config = container.config
        self._clients = clients
        self._streams = Streams(stdin)
        self._shrinks = not small
        self._shrunk = 0.0  # when
        self._restarts = restarts
        self._log: Writer | None = None
        self._created: Created | None = None
        self._checks: Checks | None = None
        self._attachment: networks.Attachment | None = None
        self._before: dict[str, Any] = {}
        self._mounts = -1
        self.warnings: list[str] = []
        self.state: dict[str, Any] = {}
        self.status = recovery.Status()
        self._ended = False

    # ── the beginning ────────────────────────────────────────────────────────────────────────────────

    def start(self, withheld: list[int]) -> None:
        """Returns when the program runs. Raises what kept it from running; then `give_up` is to be called.

        ``withheld`` are descriptors that the container's process must not hold.
        """
        self._log = open_log(self._container)
        created = self._created = self._create(withheld)
        if self._attachment is not None:
            self.warnings = self._attachment.finish()
        created.start()
        self._begin_checks()
        # Only now: who finds it may send the program a signal.
        _fs.write_json(self._engine.paths.runtime(self._container.id, "state.json"), self.state)
        self._emit_volumes("mount")
        self._container.emit("start")

    def _begin_checks(self) -> None:
        if command := self._container.health_command:
            from poc.engine.checks import Checks

            path = self._engine.paths.runtime(self._container.id, "health.json")
            check = self._container.healthcheck
            self._checks = Checks(self._container, check, command, path, self.state)

    def _create(self, withheld: list[int]) -> Created:
        if not self._config.joins:
            return self._create_with(withheld, None)
        from poc.engine import sharing

        with sharing.join(self._engine, self._config) as joined:
            return self._create_with(withheld, joined)

    def _create_with(self, withheld: list[int], joined: Joined | None) -> Created:
        paths, id = self._engine.paths, self._container.id
        if self._config.network in ("bridge", "internal"):
            internal, hardware = self._config.network == "internal", self._config.mac_address
            self._attachment = networks.Attachment(self._engine.networks, id, internal, hardware)
        spec = self._container.bundle.prepare(self._attachment.address if self._attachment else None)
        if joined is not None:
            spec = joined.put_into(spec)
        if self._config.cgroup_parent:
            recovery.note_parents(self._engine, id, self._container.cgroup)
        overlay = Overlay(**self._container.bundle.overlay())
        stdio = None
        if not self._config.tty:
            stdio = self._streams.open_pipes(self._config.stdin_open, spec["process"]["user"])
        created: Created
        trees = {**self._container.bundle.trees, **(joined.trees if joined is not None else {})}
        try:
            if self._config.runtime != OWN_RUNTIME:
                from poc.engine import foreign

                runtime = self._config.runtime
                created = foreign.create(runtime, spec, paths, id, overlay, stdio, self._while_mounting, trees)
            else:
                created = create(
                    spec,
                    paths.container(id),
                    cache=paths.cache,
                    overlay=overlay,
                    stdio=stdio,
                    reaper=self._config.init,
                    tied_to_parent=True,
                    withheld=withheld,
                    hold=self._attachment is not None,
                    while_mounting=self._while_mounting,
                    group=self._container.cgroup,
                    joined=joined.namespaces if joined is not None else None,
                    trees=trees,
                )
        finally:
            for fd in stdio or ():
                os.close(fd)
            self._container.bundle.close()
        if created.console is not None:
            self._streams.use_console(created.console, self._config.stdin_open)
        return created

    def _while_mounting(self, process: Process) -> None:
        if not self._config.storage_opt:
            self._mounts = _open_mounts(process.pid)
        self.state = {
            "monitor": identity(os.getpid()),
            "init": identity(process.pid),
            "started_at": time.time(),
            "address": self._attachment.address if self._attachment else "",
            "restarts": self._restarts,
        }
        path = self._container.status_path
        self._before = read_optional(path)
        _fs.write_atomic(path, recovery.Status.begun(self.state["started_at"], self._restarts).as_text())
        if self._attachment is not None:
            self._attachment.begin(process.pid)

    # ── the streams ──────────────────────────────────────────────────────────────────────────────────

    def carry(self) -> None:
        """Carry bytes until the process has ended and its output is at its end."""
        assert self._created is not None
        pidfd = self._created.process.pidfd
        running = True
        while running:
            others = []
            for fd, events in self._poll(pidfd):
                if fd == pidfd:
                    running = False
                elif fd not in self._streams.outputs:
                    others.append((fd, events))
                elif events & ~select.POLLOUT:
                    self._read_output(fd)
            for kind, payload in self._clients.serve(others):
                self._obey(kind, payload)
            self._streams.input.flush()
        # However slow the clients. Who else wrote to the pipes ended before process 1.
        self._streams.drain(self._read_output)

    def _poll(self, pidfd: int) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        self._streams.watch(poller, self._clients.keep_up)
        self._clients.watch(poller, len(self._streams.input.waiting) < _BACKLOG)
        if self._checks is not None:
            return self._poll_and_check(poller, self._checks)
        if not self._shrinks or self._shrunk:
            return poller.poll()
        ready = poller.poll(_QUIET * 1000)
        if not ready:
            self._shrink()
        return ready

    def _poll_and_check(self, poller: select.poll, checks: Checks) -> list[tuple[int, int]]:
        helper = checks.watch(poller)
        ready = poller.poll(checks.patience() * 1000)
        if checks.attend() and self._shrinks and time.monotonic() - self._shrunk > _QUIET:
            self._shrink()  # each of them makes it grow a little
        return [event for event in ready if event[0] != helper]

    def _shrink(self) -> None:
        self._shrunk = time.monotonic()
        try:
            footprint.shrink()
        except OSError:
            pass  # a kernel without smaps; it stays as it is

    def _read_output(self, fd: int) -> bool:
        """Pass on what can be read; was there anything?"""
        stream = self._streams.outputs[fd]
        data = self._streams.read(fd)
        if not data:
            return False
        assert self._log is not None
        try:
            self._log.write(stream, data)
        except OSError:
            pass  # the disk is full: the container goes on, its log has a gap
        self._clients.pass_on(stream, data)
        return True

    def _obey(self, kind: int, payload: bytes) -> None:
        stdin = self._streams.input
        if kind == frames.STDIN:
            stdin.waiting += payload
        elif kind == frames.STDIN_END or (kind == frames.GONE and self._streams.console < 0):
            stdin.ended = stdin.ended or self._config.stdin_once
        elif kind == frames.RESIZE:
            self._streams.resize(**json.loads(payload))
        elif kind == frames.OUTPUT_END:
            self._streams.end_output(frames.NAMES[json.loads(payload)["stream"]])

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────

    def give_up(self, code: int, text: str) -> None:
        """The container never ran: clear up."""
        self._close_streams()
        if self._created is not None:
            self._created.abandon()
        started_at = self._before.get("started_at", 0.0)
        self.status = recovery.Status(code, False, started_at, time.time(), text, self._restarts)
        self._leave_network()

    def finish(self) -> None:
        """End what still runs, and clear all away but what a next run can use."""
        created = self._created
        assert created is not None
        if self._checks is not None:
            self._checks.close()
        created.process.kill()  # a signal handler of the caller raised; else it has ended
        exit_code = created.process.exit_code()
        self._close_streams()
        oom_killed = created.cgroup.oom_kills() > 0
        try:
            if self._config.pid_mode:
                self._container.cgroup.end()  # its first process was none to the kernel
            created.cgroup.remove()  # with its first process the kernel ended all others
        except OSError:
            self._container.cgroup.end()  # but for one that was put there from outside
        started_at = self.state["started_at"]
        self.status = recovery.Status(exit_code, oom_killed, started_at, time.time(), restarts=self._restarts)
        self._ended = True
        self._leave_network()

    def tell_end(self) -> None:
        """Emit the events of it, unless it never began."""
        if not self._ended:
            return
        if self.status.oom_killed:
            self._container.emit("oom")
        self._container.emit("die", exitCode=self.status.exit_code)
        self._emit_volumes("unmount")

    def _emit_volumes(self, action: str) -> None:
        if points := self._container.mounts:
            from poc.engine import mounting

            mounting.emit(self._engine.paths, self._container.id, points, action)

    def _close_streams(self) -> None:
        """Our ends of them, and the log."""
        self._streams.close()
        try:
            if self._log is not None:
                self._log.close()
        except OSError:
            pass  # a full disk

    def _leave_network(self) -> None:
        if self._attachment is not None:
            self._attachment.cancel()
        if self._config.network in ("bridge", "internal"):
            self._engine.networks.release(self._container.id)

    def let_go_of_mounts(self) -> None:
        """Last of all, for the end of an overlay syncs the whole file system below it.

        Held by us until now, that happens after everything else and keeps nobody waiting, instead of holding up the
        news that the process has ended.
        """
        if self._mounts >= 0:
            _fs.close_elsewhere(self._mounts)
            self._mounts = -1


def _open_mounts(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1  # it was killed, and its channel says so
