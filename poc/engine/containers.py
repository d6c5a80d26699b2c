"""Containers: made, found, started, ended, removed. docker-py's words on poc's own mechanisms."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import ExitStack

from poc import _fs
from poc.cgroups import Cgroup
from poc.engine import logs, monitor, recovery
from poc.engine.attach import Session
from poc.engine.bundle import Bundle, enforceable
from poc.engine.config import ContainerConfig, parse_signal
from poc.engine.store import Lock, is_alive, read_optional, read_state
from poc.errors import (
    Conflict,
    ContainerError,
    ContainerExists,
    ContainerNotFound,
    SetupError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from poc.engine import Engine
    from poc.images import Image
    from poc.oci.types import Spec

STOP_TIMEOUT = 10  # seconds, docker's


class RunResult:
    """What `Containers.run` gives back: ``stdout`` and ``stderr`` as bytes, ``exit_code``, ``oom_killed``."""

    __slots__ = ("exit_code", "oom_killed", "stderr", "stdout")

    def __init__(self, stdout: bytes, stderr: bytes, exit_code: int, oom_killed: bool) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.exit_code = exit_code
        self.oom_killed = oom_killed

    @property
    def output(self) -> str:
        """stdout as text."""
        return self.stdout.decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<RunResult exit_code={self.exit_code} stdout={self.stdout[:60]!r}>"


class Containers:
    """All containers of an engine."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, image: str, command: str | Sequence[str] | None = None, **options: Any) -> Container:
        """Make a container without starting it. ``options`` as for `run`. Raises PocError and OSError."""
        paths = self._engine.paths
        config = ContainerConfig(image=image, command=command, **options)
        found = self._engine.images.get(image)
        enforceable(config)  # a limit that can't be enforced is refused before anything is made
        paths.make()
        id = os.urandom(32).hex()
        directory = paths.container(id)
        os.mkdir(directory, 0o711)
        lock = Lock.take(directory)
        assert lock is not None
        with lock:
            try:
                return self._fill(id, config, found)
            except BaseException:
                recovery.delete(self._engine, id)
                raise

    def _fill(self, id: str, config: ContainerConfig, image: Image) -> Container:
        record: dict[str, Any] = {
            "id": id,
            "name": self._take_name(id, config.name),
            "created": time.time(),
            "image": image.id,
            "image_config": image.config,
            "layers": image.layers,
            "config": config.values,
        }
        container = Container(self._engine, record)
        try:
            container.bundle.make()
            _fs.write_json(self._engine.paths.container(id, "container.json"), record)
        except BaseException:
            recovery.free_name(self._engine, record["name"], id)
            raise
        return container

    def _take_name(self, id: str, wanted: str) -> str:
        """The exclusive symlink is the lock. Without a wish: poc_ and the beginning of the id."""
        name = wanted or f"poc_{id[:12]}"
        path = self._engine.paths.name(name)
        for _ in range(2):
            try:
                os.symlink(id, path)
                return name
            except FileExistsError:
                self._free_stale_name(path)
        raise ContainerExists(name)

    def _free_stale_name(self, path: str) -> None:
        """A command that was killed may have left a name to a container that never came to be."""
        try:
            owner = os.readlink(path)
            lock = Lock.take(self._engine.paths.container(owner), patience=0.0)
        except FileNotFoundError:
            _fs.remove_file(path) if os.path.islink(path) else None
            return
        if lock is not None:
            with lock:
                if not os.path.exists(self._engine.paths.container(owner, "container.json")):
                    recovery.delete(self._engine, owner)
                    _fs.remove_file(path)

    def run(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: bool = False,
        remove: bool = False,
        check: bool = False,
        stdin: bytes | None = None,
        **options: Any,
    ) -> Any:
        """Create and start a container. Returns a `RunResult` when it has ended, or with ``detach`` a `Container`.

        ``stdin`` is what the program reads; ``check`` raises ContainerError on a non-zero status. Options are
        docker-py's: name, hostname, environment, working_dir, user, volumes, read_only, tmpfs, cap_add, cap_drop,
        privileged, entrypoint, init, labels, network, tty, stdin_open, mem_limit, memswap_limit, mem_reservation,
        oom_kill_disable, pids_limit, cpu_quota, cpu_period, cpu_shares, cpuset_cpus, cpuset_mems, blkio_weight,
        device_read_bps, device_write_bps, device_read_iops, device_write_iops, storage_opt, shm_size, stop_signal,
        stop_timeout; and ``cpus``, a float. Sizes are bytes or "64m". Raises PocError and OSError.
        """
        options["stdin_open"] = options.get("stdin_open") or stdin is not None
        container = self.create(image, command, remove=remove, **options)
        try:
            if detach:
                container.start()
                return container
            result = container.run_here(stdin)
        except BaseException:
            container.discard()
            raise
        if check and result.exit_code:
            raise ContainerError(f"{image} {command}: exit status {result.exit_code}", result)
        return result

    def get(self, reference: str) -> Container:
        """The container of this name, id or unique id prefix. Raises ContainerNotFound."""
        id = self._engine.paths.find(reference)
        try:
            return self._load(id)
        except FileNotFoundError:
            raise ContainerNotFound(reference) from None

    def _load(self, id: str) -> Container:
        return Container(self._engine, _fs.read_json(self._engine.paths.container(id, "container.json")))

    def list(self, all: bool = False) -> list[Container]:
        """The running containers, or all; newest first."""
        found = []
        for id in self._engine.paths.ids():
            try:
                container = self._load(id)
            except FileNotFoundError:
                continue  # removed meanwhile
            if all or container.status in ("running", "paused"):
                found.append(container)
        return sorted(found, key=lambda container: -container.created)


class Container:
    """One container. Its attributes are what it was asked to be; `status` and `attrs` are looked up anew."""

    __slots__ = ("_engine", "_record", "bundle", "config", "created", "id", "image", "labels", "name", "warnings")

    def __init__(self, engine: Engine, record: dict[str, Any]) -> None:
        self._engine = engine
        self._record = record
        self.warnings: list[str] = []
        self.id: str = record["id"]
        self.name: str = record["name"]
        self.created: float = record["created"]
        self.config = ContainerConfig.loaded(record["config"])
        self.bundle = Bundle(engine.paths, record, self.config)
        self.image: str = self.config.image
        self.labels: dict[str, str] = {**(record["image_config"].get("Labels") or {}), **self.config.labels}

    def __repr__(self) -> str:
        return f"<Container {self.short_id} {self.name}>"

    @property
    def short_id(self) -> str:
        """The first 12 digits of the id."""
        return self.id[:12]

    @property
    def log_path(self) -> str:
        """The json-file log."""
        return self._path(f"{self.id}-json.log")

    @property
    def _state_path(self) -> str:
        return self._engine.paths.runtime(self.id, "state.json")

    def _path(self, name: str) -> str:
        return self._engine.paths.container(self.id, name)

    # ── living ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, attach: bool = False, size: tuple[int, int] | None = None) -> Session | None:
        """Start it, and return when its program runs; with ``attach`` a `Session` to its streams.

        ``size`` is (rows, columns) of its terminal; ``warnings`` says afterwards what the user should know.
        Raises Conflict when it runs already, and what kept the program from running.
        """
        if size is not None:
            self.spec()["process"]["consoleSize"] = {"height": size[0], "width": size[1]}
        monitor.load_ahead(self._engine, self)
        session = Session(monitor.launch(self._engine, self, self._claim(), attach))
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

    def run_here(self, stdin: bytes | None = None) -> RunResult:
        """Start it, wait until it has ended, and hand back what it wrote. It ends with the calling process.

        Raises what kept the program from running.
        """
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
            return self._run_apart(stdin)
        done = monitor.run_here(self._engine, self, self._claim(), stdin)
        return RunResult(b"".join(done.stdout), b"".join(done.stderr), **done.ended)

    def _run_apart(self, stdin: bytes | None) -> RunResult:
        """`run_here` with a monitor of its own: this program may reap children it does not know."""
        session = self.start(attach=True)
        assert session is not None
        with ExitStack() as undo:
            undo.callback(session.close)
            files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
            for fd in files:
                undo.callback(os.close, fd)
            _fs.write_all(files[0], stdin or b"")
            os.lseek(files[0], 0, os.SEEK_SET)
            try:
                ended = session.run(None if stdin is None else files[0], files[1], files[2])
            except BaseException:
                self.kill()
                self.wait()
                raise
            if ended is None:
                raise SetupError("the container's monitor was killed, and the container with it")
            stdout, stderr = (os.pread(fd, os.fstat(fd).st_size, 0) for fd in files[1:])
        return RunResult(stdout, stderr, ended.exit_code, ended.oom_killed)

    def discard(self) -> None:
        """Remove it if it never ran; content when it has removed itself."""
        try:
            if self.status == "created":
                self.remove()
        except ContainerNotFound:
            pass

    def _claim(self) -> Lock:
        """The lock and the runtime directory, for whoever will be the monitor. Raises Conflict when it runs."""
        if self.config.network in ("bridge", "internal"):
            self._engine.networks.bridge()
        if self._state():
            raise Conflict(f"container {self.name} is already running")
        lock = self._lock()
        try:
            os.mkdir(self._engine.paths.runtime(self.id), 0o700)
        except BaseException:
            lock.release()
            raise
        return lock

    def _lock(self) -> Lock:
        try:
            lock = Lock.take(self._path(""))
        except FileNotFoundError:
            raise ContainerNotFound(self.name) from None
        if lock is None:
            raise Conflict(f"container {self.name} is being used by another command")
        if not os.path.exists(self._path("container.json")):
            lock.release()
            raise ContainerNotFound(self.name)
        return lock

    def _state(self) -> dict[str, Any]:
        """What the monitor wrote, {} when there is none alive; clears up after a killed one."""
        state, _ = read_state(self._state_path)
        if is_alive(state.get("monitor")):
            return state
        if os.path.exists(self._engine.paths.runtime(self.id)):
            recovery.recover(self._engine, self.id)
        return {}

    @property
    def status(self) -> str:
        """ "created", "running", "paused" or "exited", as the kernel sees it now."""
        return self._status(self._state())

    def _status(self, state: dict[str, Any]) -> str:
        if is_alive(state.get("init")):
            return "running"
        ran = read_optional(self._path("status.json")).get("started_at")
        return "exited" if ran else "created"

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to its first process. Raises Conflict when it does not run."""
        number = parse_signal(signal)
        init = self._state().get("init")
        if not is_alive(init):
            raise Conflict(f"container {self.name} is not running")
        assert init is not None
        _send_signal(init, number)

    def stop(self, timeout: int | None = None) -> None:
        """Send the stop signal, and SIGKILL when it still runs after ``timeout`` seconds (default 10; -1: for ever).

        Content when it does not run.
        """
        state = self._state()
        if not is_alive(state.get("init")):
            return
        name = self.config.stop_signal or self._record["image_config"].get("StopSignal") or "TERM"
        if timeout is None:
            timeout = STOP_TIMEOUT if self.config.stop_timeout is None else self.config.stop_timeout
        _send_signal(state["init"], parse_signal(name))
        if not self._await_end(state, None if timeout < 0 else float(timeout)):
            _send_signal(state["init"], signal.SIGKILL)
            self._await_end(state, None)

    def _await_end(self, state: dict[str, Any], timeout: float | None) -> bool:
        """Until it has ended and all is cleared up, at most ``timeout`` seconds; did it end?"""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        if not _await_exit(state["init"], timeout):
            return False
        # Its monitor may be a program that goes on to other things, so that one's end says nothing.
        while self._state() == state:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; the exit code, 0 if it never ran. Raises TimeoutError, and ContainerNotFound."""
        try:
            fd = os.open(self._state_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._last_exit_code()
        try:
            state = self._state()
            if state and not self._await_end(state, timeout):
                raise TimeoutError(f"container {self.name} still runs after {timeout} seconds")
            _, ended = read_state(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return int(ended["exit_code"]) if ended else self._last_exit_code()

    def _last_exit_code(self) -> int:
        if not os.path.exists(self._path("container.json")):
            raise ContainerNotFound(self.name)
        return int(read_optional(self._path("status.json")).get("exit_code", 0))

    def remove(self, force: bool = False) -> None:
        """Delete it with all it wrote. A running one only with ``force``, which kills it. Raises Conflict."""
        state = self._state()
        if state:
            if not force:
                raise Conflict(f"container {self.name} is running; stop it first, or remove it with force")
            if is_alive(state.get("init")):
                _send_signal(state["init"], signal.SIGKILL)
            self._await_end(state, None)
            if self.config.remove:
                return
        with self._lock():
            recovery.delete(self._engine, self.id)

    def logs(
        self,
        stdout: bool = True,
        stderr: bool = True,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[tuple[str, bytes]]:
        """(stream, bytes) of each logged line; with ``follow`` until the container ends."""
        running = (lambda: bool(self._state())) if follow else None
        for when, stream, data in logs.read(self.log_path, tail, running):
            if (stream == "stdout" and stdout) or (stream == "stderr" and stderr):
                yield stream, (f"{when} ".encode() + data if timestamps else data)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def attrs(self) -> dict[str, Any]:
        """docker's ``inspect`` object, looked up now."""
        from poc.engine.inspection import describe

        state, ended = self._state(), read_optional(self._path("status.json"))
        status = self._status(state)
        if status in ("running", "paused"):
            state["oom_killed"] = Cgroup(recovery.cgroup_path(self.id)).oom_kills() > 0
        return describe(self, self._record, state, status, ended)

    def spec(self) -> Spec:
        """Its OCI configuration."""
        return self.bundle.spec()


def _await_exit(process: list[int] | None, timeout: float | None) -> bool:
    """Until a process has ended, at most ``timeout`` seconds; did it?"""
    if process is None:
        return True  # it had before its start time could be read
    try:
        pidfd = os.pidfd_open(process[0])
    except ProcessLookupError:
        return True
    try:
        if not is_alive(process):
            return True
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(pidfd)


def _send_signal(process: list[int], number: int) -> None:
    """By pidfd, so that a pid used again is never hit; content when the process has ended."""
    try:
        pidfd = os.pidfd_open(process[0])
    except ProcessLookupError:
        return
    try:
        if is_alive(process):
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
