"""One container: started, used, ended, removed; in docker-py's words. How it stands says `poc.engine.state`."""

from __future__ import annotations

import os
import time

from poc import _fs
from poc._fs import is_alive
from poc._lean import json, signal, socket
from poc._processes import send_signal
from poc.engine import monitor, recovery
from poc.engine.attach import Session
from poc.engine.bundle import enforceable
from poc.engine.clients import at_short_path
from poc.engine.config import OWN_RUNTIME, ContainerConfig
from poc.engine.results import ExecResult, RunResult, collect
from poc.engine.state import ALIVE, ContainerState
from poc.engine.store import PATIENCE, STOPPED, Lock, read_optional
from poc.engine.values import parse_signal
from poc.errors import Conflict, ContainerExists, ContainerNotFound, SetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO, Any, Self

    from poc.engine import Moment, Progress
    from poc.images import Image

STOP_TIMEOUT = 10  # seconds, docker's
_END_PATIENCE = 30.0  # seconds: for a monitor to clear up
_KILL = signal.SIGKILL
_NOT_RUNNING = {"paused": "paused", "restarting": "restarting"}


class Container(ContainerState):
    """One container. Its attributes are what it was asked to be; `status` and `attrs` are looked up anew."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and remove it with its anonymous volumes; content when that has been done."""
        try:
            self.remove(force=True, v=True)
        except ContainerNotFound:
            pass

    # ── living ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, attach: bool = False, size: tuple[int, int] | None = None, stdin: bool = True) -> Session | None:
        """Start it, and return when its program runs; with ``attach`` a `Session` to its streams.

        ``size`` is (rows, columns) of its terminal; ``stdin`` and what is returned as for `attach`; ``warnings`` says
        afterwards what the user should know.
        Content when it runs already, unless to ``attach``: Conflict. Raises what kept the program from running.
        """
        if self._held is None and not attach and self.status in ALIVE:
            return None
        if size is not None:
            self.spec()["process"]["consoleSize"] = {"height": size[0], "width": size[1]}
        monitor.load_ahead(self._engine, self)
        try:
            lock = self._claim()
        except Conflict:
            if attach or self.status not in ALIVE:
                raise
            return None  # another command's start was first
        if attach:
            self.emit("attach")
        session = Session(monitor.launch(self._engine, self, lock, attach and stdin), self.emit)
        try:
            session.wait_started()
        except BaseException:
            session.close()
            raise
        self.warnings = session.warnings
        if attach:
            return session
        session.close()
        return None

    def attach(self, stdin: bool = True) -> Session:
        """A `Session` to the streams of one that runs, which others may have too. `Session.close` lets go of it.

        With ``stdin`` its stdin ends with the session, if it is one of ``stdin_once``. Raises Conflict unless it runs.
        """
        status = self.status
        if status != "running":
            raise Conflict(f"cannot attach to a {_NOT_RUNNING.get(status, 'stopped')} container: {self.name}")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        session = Session(connection, self.emit)
        try:
            at_short_path(self._engine.paths.runtime(self.id, "attach"), connection.connect)
            if session.join(stdin):
                self.emit("attach")
                return session
        except (FileNotFoundError, ConnectionError):
            pass
        except BaseException:
            session.close()
            raise
        session.close()
        raise Conflict(f"cannot attach to a stopped container: {self.name}")

    def run_here(self, stdin: bytes | None = None) -> RunResult:
        """Start it, wait until it has ended, and hand back what it wrote. It ends with the calling process.

        Raises what kept the program from running.
        """
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL or self.config.runtime != OWN_RUNTIME:
            return self._run_apart(stdin)
        if self.config.restart_policy["Name"] != "no":
            return self._run_apart(stdin)  # it may outlive us
        done = monitor.run_here(self._engine, self, self._claim(), stdin)
        return RunResult(b"".join(done.stdout), b"".join(done.stderr), **done.ended)

    def _run_apart(self, stdin: bytes | None) -> RunResult:
        """`run_here` with a monitor of its own: this program may reap children it does not know.

        And the monitor of another runtime's container has mounts and children that would be in the program's way.
        """
        session = self.start(attach=True)
        assert session is not None
        stdout, stderr, ended = collect(session, stdin, self._end_at_once)
        if ended is None:
            raise SetupError("the container's monitor was killed, and the container with it")
        return RunResult(stdout, stderr, ended.exit_code, ended.oom_killed)

    def _end_at_once(self) -> None:
        self.kill()
        self.wait()

    def discard(self) -> None:
        """Remove it if it never ran; content when it has removed itself."""
        try:
            if self.status == "created":
                self.remove(v=True)
        except ContainerNotFound:
            pass

    def _claim(self) -> Lock:
        """The lock and the runtime directory, for whoever will be the monitor. Raises Conflict when it runs."""
        held, self._held = self._held, None
        lock = held or self._lock("is already running")
        try:
            if held is None:
                _fs.remove_file(self._path(STOPPED))
                self._engine.paths.make()  # a reboot clears those in <run> away
                os.makedirs(self._engine.paths.runtime(self.id), 0o700, exist_ok=True)
            if self.config.network in ("bridge", "internal") or self.config.needs_gateway:
                self._engine.networks.bridge()
        except BaseException:
            recovery.finish(self._engine, self.id)
            lock.release()
            raise
        return lock

    def _lock_by_force(self) -> Lock:
        """The lock, of a container that is killed if it runs; again, if somebody comes in between and starts it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            if state := self._state_to_end():
                self._signal(state["init"], signal.SIGKILL)
                self._thaw()
                self._await_end(state, _END_PATIENCE)
            try:
                return self._lock("is running again")
            except Conflict:
                if time.monotonic() > deadline:
                    raise

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to its first process. Raises Conflict when it does not run.

        It is not started again then, whatever its policy; of a signal that is not its stop signal that is so only if it
        was not given one (docker's rule).
        """
        number = parse_signal(signal)
        state = self._state()
        init = state.get("init")
        named = self._stop_signal()
        by_hand = not named or number in (_KILL, parse_signal(named))
        if by_hand and state.get("restarting"):
            self._state_to_end()
            return
        if not is_alive(init):
            raise Conflict(f"container {self.name} is not running")
        assert init is not None
        if by_hand:
            self._note_stopped()
        self._signal(init, number)
        if number == _KILL:
            self._thaw()  # frozen it would not end

    def _signal(self, init: list[int], number: int) -> None:
        self.emit("kill", signal=number)  # before it may have ended of it
        send_signal(init, number)

    def _thaw(self) -> None:
        if self.is_frozen():
            self.cgroup.thaw()

    def exec_run(
        self, command: str | Sequence[str], *, stdin: bytes | None = None, detach: bool = False, **options: Any
    ) -> ExecResult | None:
        """Run another program in it, and return an `ExecResult` when that has ended, or None with ``detach``.

        Options: environment (as for `Containers.run`), working_dir, user, privileged (all capabilities), tty. Raises
        Conflict unless the container runs, CommandNotFound, CommandNotExecutable, SetupError.
        """
        from poc.engine import execution
        from poc.engine.values import parse_command, parse_environment

        options["environment"] = parse_environment(options.get("environment") or ())
        if detach:
            execution.run_apart(self, parse_command(command), options)
            return None
        return execution.run(self, parse_command(command), stdin, options)

    def pause(self) -> None:
        """Stop all of its processes where they are. Raises Conflict unless it runs."""
        self.first_process()
        self.cgroup.freeze()
        self.emit("pause")

    def unpause(self) -> None:
        """Let them go on. Raises Conflict unless it is paused."""
        if self.status != "paused":
            raise Conflict(f"container {self.name} is not paused")
        self._thaw()
        self.emit("unpause")

    def rename(self, name: str) -> None:
        """Give it another name, whether it runs or not. Raises ContainerExists, InvalidArgument, ContainerNotFound."""
        from poc.engine.values import parse_name

        name = parse_name(name)
        if name == self.name:
            raise Conflict(f"container {name} has this name already")
        path = self._engine.paths.name(name)
        if os.path.lexists(path):
            recovery.free_stale_name(self._engine, name)
        with recovery.lock_names(self._engine):
            try:
                os.symlink(self.id, path)
            except FileExistsError:
                raise ContainerExists(name) from None
            try:
                _fs.write_json(self._path("container.json"), {**self._record, "name": name})
            except BaseException as error:
                os.unlink(path)
                if isinstance(error, FileNotFoundError):
                    raise ContainerNotFound(self.name) from None
                raise
            _fs.remove_file(self._engine.paths.name(self.name))
        old, self._record["name"] = self.name, name
        self.name = name
        self.emit("rename", oldName=f"/{old}")

    def update(self, **limits: Any) -> None:
        """Put other limits into force, at once where it runs: ``mem_limit``, ``cpus`` … as for `Containers.run`.

        Those not given, or None, stay. Raises InvalidArgument, Unsupported, ContainerNotFound, and Conflict for less
        memory than is in use.
        """
        with recovery.lock_names(self._engine):
            record = _fs.read_json(self._path("container.json"))
            config = ContainerConfig.loaded(record["config"]).changed(**limits)
            resources = enforceable(config)
            if self.status in ("running", "paused"):
                self.cgroup.apply(_checked(resources) if limits.get("mem_limit") else resources)
            self.bundle.change_resources(resources)
            _fs.write_json(self._path("container.json"), {**record, "config": config.values})
        self.config = config
        self.emit("update")

    def top(self, arguments: Sequence[str] = ("-ef",)) -> tuple[list[str], list[list[str]]]:
        """Its processes as this host's ps(1) lists them with ``arguments``: the titles, and a row for each.

        Raises Conflict unless it runs, and InvalidArgument.
        """
        from poc.runtime.report import list_processes

        self.living_process()
        self.emit("top")
        return list_processes(self.cgroup.pids(), arguments)

    def restart(self, timeout: int | None = None) -> None:
        """`stop`, and `start` again."""
        self.stop(timeout)
        self.start()
        self.emit("restart")

    def stop(self, timeout: int | None = None) -> None:
        """Send the stop signal, and SIGKILL when it still runs after ``timeout`` seconds (default 10; -1: for ever).

        Content when it does not run. One that is just being started is stopped when it has been, and none is started
        again by its policy. Raises Conflict when it does not end.
        """
        if not self._state_once_started():
            return
        if timeout is None:
            timeout = STOP_TIMEOUT if self.config.stop_timeout is None else self.config.stop_timeout
        while state := self._state_to_end():
            if not self._end(state, timeout):
                raise Conflict(f"container {self.name} was killed, but has not ended: is a `poc exec` in it stopped?")
            if not os.path.exists(self._path(STOPPED)):
                break  # somebody has started it meanwhile; else its monitor had just decided on another run
        self.emit("stop")

    def _stop_signal(self) -> str:
        """Its own, or else the image's; "" without either."""
        return str(self.config.stop_signal or self._record["image_config"].get("StopSignal") or "")

    def _end(self, state: dict[str, Any], timeout: int) -> bool:
        """End the run with this state; has it ended?"""
        self._signal(state["init"], parse_signal(self._stop_signal() or "TERM"))
        self._thaw()
        if self._await_end(state, None if timeout < 0 else float(timeout)):
            return True
        self._signal(state["init"], signal.SIGKILL)
        return self._await_end(state, _END_PATIENCE)

    def _note_stopped(self) -> None:
        """It is being stopped by hand: for its monitor, and for after a reboot."""
        try:
            _fs.write_new(self._path(STOPPED), "")
        except (FileExistsError, FileNotFoundError):
            pass  # noted already, or it removed itself just now
        except OSError:
            pass  # a full disk: it ends all the same

    def _state_to_end(self) -> dict[str, Any]:
        """The state of a run that is to be ended by hand and so will be its last, {} when there is none any more.

        Where its monitor is waiting to start the next one, that waits no longer.
        """
        while state := self._state_once_started():
            self._note_stopped()
            if not state.get("restarting"):
                return state
            self._wake_monitor()
            if not self._await_end(state, _END_PATIENCE):
                raise Conflict(f"container {self.name}: its monitor hangs")
        return {}

    def _wake_monitor(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            try:
                at_short_path(self._engine.paths.runtime(self.id, "attach"), connection.connect)
            except (FileNotFoundError, ConnectionError):
                pass  # it has just ended

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; the exit code, 0 if it never ran. Raises TimeoutError, and ContainerNotFound.

        Of one with a restart policy: until the end of this run, or of the next.
        """
        state = self._state_once_started()
        if state.get("restarting"):
            if not self._await_end(state, timeout):
                raise TimeoutError(f"container {self.name} still restarts after {timeout} seconds")
            state = self._state_once_started()
            if not state.get("restarting"):
                return self.wait(timeout)
            return int(state["ended"]["exit_code"])  # the next run has come and gone
        try:
            # Opened now: of a container with ``remove`` this file is written for the last time, then deleted.
            fd = os.open(self.status_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not self._engine.paths.has(self.id):
                raise ContainerNotFound(self.name) from None
            return 0
        try:
            if state and not self._await_end(state, timeout):
                raise TimeoutError(f"container {self.name} still runs after {timeout} seconds")
            text = _fs.read_all(fd)
        finally:
            os.close(fd)
        ended = self._state().get("ended") or read_optional(self.status_path) or json.loads(text)
        if not ended["finished_at"] and self._state():
            return self.wait(timeout)  # the next run has begun
        return int(ended["exit_code"])

    def remove(self, force: bool = False, v: bool = False) -> None:
        """Delete it with all it wrote, with ``v`` its anonymous volumes too, as far as no other container has them.

        A running one only with ``force``, which kills it. Raises Conflict.
        """
        lock, self._held = self._held, None
        try:
            if lock is None:
                lock = self._lock_by_force() if force else self._lock("is running; stop it first, or use force")
            with lock:
                if not (v or self.config.remove):
                    _fs.remove_file(self._path(recovery.ANONYMOUS))
                recovery.delete(self._engine, self.id)
                _fs.remove_tree(self._engine.paths.runtime(self.id))
        except ContainerNotFound:
            if not (force and self.config.remove):
                raise

    def logs(
        self,
        stdout: bool = True,
        stderr: bool = True,
        follow: bool = False,
        tail: int | str | None = None,
        timestamps: bool = False,
        since: Moment | None = None,
        until: Moment | None = None,
        details: bool = False,
    ) -> Iterator[tuple[str, bytes]]:
        """(stream, bytes) of each logged line, or of each part of a long one; with ``follow`` until it ends for good.

        ``tail`` is a number of lines, or "all"; times are a datetime, Unix seconds, RFC 3339 or "10m" (ago). Lines can
        begin with their time, and the ``details`` that --log-opt labels and env ask for. Raises InvalidArgument, and
        Unsupported for a log driver that keeps nothing to read.
        """
        from poc.engine.logs import view

        shown = [name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted]
        return view.show(self, shown, follow, tail, since, until, timestamps, details)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def attrs(self) -> dict[str, Any]:
        """docker's ``inspect`` object, looked up now. Raises ContainerNotFound."""
        self.reload()
        return self.described()

    def described(self) -> dict[str, Any]:
        """The same of one that was loaded just now. Raises ContainerNotFound."""
        from poc.engine.inspection import describe

        state = self._seen()
        ended = state.get("ended") or self._last_end()
        status = self._status(state, ended)
        if status in ("running", "paused"):
            state["oom_killed"] = self.cgroup.oom_kills() > 0
        if self.health_command and (run := state or ended):
            health = read_optional(self._engine.paths.runtime(self.id, "health.json"))
            run["health"] = health or read_optional(self.health_path)
        return describe(self, self._record, state, status, ended)

    def diff(self) -> list[dict[str, Any]]:
        """What it has changed of its image's files: docker-py's ``Path`` and ``Kind`` (0 modified, 1 added, 2 deleted).

        Raises ContainerNotFound, Conflict, OSError.
        """
        from poc.engine.tree import Tree

        with Tree(self) as tree:
            return [{"Path": path, "Kind": kind} for path, kind in tree.changes()]

    def sizes(self) -> tuple[int, int]:
        """Bytes that it has written, and these with its image's (docker's SizeRw and SizeRootFs)."""
        from poc.engine.sizes import written

        own = written(self.bundle.overlay())
        return own, own + self._engine.images.get(self._record["image"]).size

    # ── its files ────────────────────────────────────────────────────────────────────────────────────

    def get_archive(self, path: str, follow: bool = False) -> tuple[Iterator[bytes], dict[str, Any]]:
        """A tar stream of a file or directory in it, running or not, and docker's description of that.

        The description has ``name``, ``size``, ``mode`` (Go's), ``mtime`` and ``linkTarget``. Until the iterator has
        ended, or is closed, a stopped container can't be started. ``follow``: what a symlink leads to.

        Raises NotFound, Conflict, OSError.
        """
        from poc.engine import copying

        return copying.read(self, path, follow)

    def put_archive(self, path: str, data: bytes | IO[bytes] | Iterable[bytes], archive: bool = False) -> bool:
        """Unpack a tar archive, perhaps compressed, in a directory of it, running or not.

        Files belong to whom the archive says; with ``archive`` to the container's user, if it has one. Raises
        NotFound, InvalidArgument, Conflict, OSError; then part of it may be there.
        """
        from poc.engine import copying

        copying.write(self, path, data, archive)
        return True

    def copy_from(
        self, path: str, local: str, *, archive: bool = False, follow: bool = False, progress: Progress | None = None
    ) -> tuple[int, int]:
        """Copy a file or a directory of it to ``local``, by the rules of docker-cp(1). ``follow``: a symlink's target.

        Files get the caller's user and group, no set-user-ID, and devices are left out, unless with ``archive``.
        Returns the number of bytes, and of devices that were left out. Raises as `get_archive`, and InvalidArgument.
        """
        from poc.engine import copying

        return copying.copy_from(self, path, local, archive, follow, progress)

    def copy_to(
        self, local: str, path: str, *, archive: bool = False, follow: bool = False, progress: Progress | None = None
    ) -> int:
        """Copy ``local`` to a file or into a directory of it; as `put_archive`, and `copy_from`."""
        from poc.engine import copying

        return copying.copy_to(self, local, path, archive, follow, progress)

    def export(self) -> Iterator[bytes]:
        """A tar stream of its whole root file system, without what is mounted there. As `get_archive`."""
        from poc.engine import copying

        return copying.export(self)

    def commit(
        self,
        repository: str = "",
        tag: str = "",
        message: str = "",
        author: str = "",
        changes: str | Sequence[str] = (),
        pause: bool = True,
    ) -> Image:
        """Make an image of it: what it has written becomes a layer on those of its image. Returns the image.

        ``changes`` are a Dockerfile's instructions; ``pause``: nothing of it runs meanwhile. Raises InvalidArgument,
        Conflict, OSError; then there is no image.
        """
        from poc.engine.commit import commit
        from poc.engine.images import Images

        reference = f"{repository}:{tag}" if tag else repository
        changes = [changes] if isinstance(changes, str) else changes
        images = Images(self._engine)
        return commit(self, images, reference, message=message, author=author, changes=changes, pause=pause)


def _checked(resources: dict[str, Any]) -> dict[str, Any]:
    """Less memory than is in use is to be refused, where the kernel would kill to have its way."""
    return {**resources, "memory": {**resources["memory"], "checkBeforeUpdate": True}}
