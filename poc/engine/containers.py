"""Containers: made, found, started, ended, removed. docker-py's words on poc's own mechanisms."""

from __future__ import annotations

import json
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
from poc.engine.store import PATIENCE, Lock, is_alive, read_optional
from poc.errors import (
    Conflict,
    ContainerError,
    ContainerExists,
    ContainerNotFound,
    PocError,
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
_START_PATIENCE, _END_PATIENCE = 60.0, 30.0  # seconds: for another command's start, for a monitor to clear up
_LOOK_INTERVAL = 0.005


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

    def create(
        self, image: str, command: str | Sequence[str] | None = None, *, hold: bool = False, **options: Any
    ) -> Container:
        """Make a container without starting it. ``options`` as for `run`. Raises PocError and OSError.

        ``hold``: the caller is going to start it at once, and nobody comes in between; if the caller is killed
        before, it counts as one that was started.
        """
        config = ContainerConfig(image=image, command=command, **options)
        enforceable(config)  # a limit that can't be enforced is refused before anything is made
        with self._engine.paths.share():
            found = self._engine.images.get(image)
            id, lock = self._new_directory()
            try:
                container = self._fill(id, config, found, lock if hold else None)
            except BaseException:
                with lock:
                    recovery.delete(self._engine, id)
                    _fs.remove_tree(self._engine.paths.runtime(id))
                raise
        if not hold:
            lock.release()
        return container

    def _new_directory(self) -> tuple[str, Lock]:
        while True:
            id = os.urandom(32).hex()
            os.mkdir(self._engine.paths.container(id), 0o711)
            try:
                lock = Lock.take(self._engine.paths.container(id))
            except FileNotFoundError:
                continue  # taken for a killed command's before it was locked
            if lock is not None:
                return id, lock

    def _fill(self, id: str, config: ContainerConfig, image: Image, held: Lock | None) -> Container:
        record: dict[str, Any] = {
            "id": id,
            "name": self._take_name(id, config.name),
            "created": time.time(),
            "image": image.id,
            "image_config": image.config,
            "layers": image.layers,
            "config": config.values,
        }
        container = Container(self._engine, record, held)
        container.bundle.make()
        if held is not None:
            os.mkdir(self._engine.paths.runtime(id), 0o700)
        _fs.write_json(self._engine.paths.container(id, "container.json"), record)
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
        """A command that was killed may have left a name to a container that never came to be, or is no more."""
        try:
            owner = os.readlink(path)
        except FileNotFoundError:
            return
        if not self._engine.paths.has(owner):
            recovery.recover(self._engine, owner)

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
        container = self.create(image, command, remove=remove, hold=True, **options)
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
            recovery.recover(self._engine, id)
            raise ContainerNotFound(reference) from None

    def _load(self, id: str) -> Container:
        return Container(self._engine, _fs.read_json(self._engine.paths.container(id, "container.json")))

    def list(self, all: bool = False) -> list[Container]:
        """The running containers, or all; newest first. Finishes for whoever was killed, as far as that is possible."""
        try:
            recovery.recover_all(self._engine)
        except (PocError, OSError):
            pass  # a listing is not the place to report it: the next start, or `prune`, fails with it
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

    __slots__ = (
        *("_engine", "_held", "_record", "bundle", "config", "created", "id", "image", "labels", "name", "warnings"),
    )

    def __init__(self, engine: Engine, record: dict[str, Any], held: Lock | None = None) -> None:
        self._engine = engine
        self._held = held
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
    def status_path(self) -> str:
        """How it last ended, see `poc.engine.recovery.Status`."""
        return self._path("status.json")

    def _path(self, name: str) -> str:
        return self._engine.paths.container(self.id, name)

    # ── living ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, attach: bool = False, size: tuple[int, int] | None = None) -> Session | None:
        """Start it, and return when its program runs; with ``attach`` a `Session` to its streams.

        ``size`` is (rows, columns) of its terminal; ``warnings`` says afterwards what the user should know.
        Content when it runs already, unless to ``attach``: Conflict. Raises what kept the program from running.
        """
        if self._held is None and not attach and self.status in ("running", "paused"):
            return None
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
        lock, self._held = self._held, None
        if lock is None:
            lock = self._lock("is already running")
            self._engine.paths.make()  # a reboot clears those in <run> away
        try:
            os.makedirs(self._engine.paths.runtime(self.id), 0o700, exist_ok=True)
            if self.config.network in ("bridge", "internal"):
                self._engine.networks.bridge()
        except BaseException:
            recovery.finish(self._engine, self.id)
            lock.release()
            raise
        return lock

    def _lock(self, refusal: str) -> Lock:
        """The lock, of a container that does not run. Raises Conflict with ``refusal`` when it does."""
        deadline = time.monotonic() + PATIENCE
        while True:
            lock = self._try_lock()
            if lock is not None:
                return lock
            if self.status in ("running", "paused"):
                raise Conflict(f"container {self.name} {refusal}")
            if time.monotonic() > deadline:
                raise Conflict(f"container {self.name} is being used by another command, or its monitor hangs")
            time.sleep(_LOOK_INTERVAL)

    def _lock_by_force(self) -> Lock:
        """The lock, of a container that is killed if it runs; again, if somebody comes in between and starts it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            if state := self._state_once_started():
                _send_signal(state["init"], signal.SIGKILL)
                self._await_end(state, _END_PATIENCE)
            try:
                return self._lock("is running again")
            except Conflict:
                if time.monotonic() > deadline:
                    raise

    def _try_lock(self) -> Lock | None:
        """The lock, and nothing left of a killed monitor; None when somebody has it. Raises ContainerNotFound."""
        if not self._engine.paths.has(self.id):
            raise ContainerNotFound(self.name)
        try:
            lock = Lock.take(self._path(""), patience=0.0)
        except FileNotFoundError:
            raise ContainerNotFound(self.name) from None
        if lock is None:
            return None
        try:
            recovery.finish(self._engine, self.id)
            if not self._engine.paths.has(self.id):
                raise ContainerNotFound(self.name)
        except BaseException:
            lock.release()
            raise
        return lock

    def _state(self) -> dict[str, Any]:
        """What the monitor of its running program wrote, else {}; clears up after a killed one."""
        state = read_optional(self._engine.paths.runtime(self.id, "state.json"))
        if is_alive(state.get("monitor")):
            return state
        if os.path.exists(self._engine.paths.runtime(self.id)):
            recovery.recover(self._engine, self.id)
        return {}

    def _state_once_started(self) -> dict[str, Any]:
        """As `_state`, of one that is just being started a moment later. Raises Conflict when that takes too long."""
        deadline = time.monotonic() + _START_PATIENCE
        while not (state := self._state()) and os.path.exists(self._engine.paths.runtime(self.id)):
            if time.monotonic() > deadline:
                raise Conflict(f"container {self.name} has been starting for {_START_PATIENCE} seconds")
            time.sleep(_LOOK_INTERVAL)
        return state

    def _seen(self) -> dict[str, Any]:
        """As `_state`, for a look that must not fail because the remains of a killed monitor can't be cleared up."""
        try:
            return self._state()
        except OSError:
            return {}

    @property
    def status(self) -> str:
        """ "created", "running", "paused" or "exited", as the kernel sees it now."""
        return self._status(self._seen(), self._last_end())

    def _status(self, state: dict[str, Any], ended: dict[str, Any]) -> str:
        if state:
            concluded = ended.get("finished_at") and ended["started_at"] == state["started_at"]
            return "exited" if concluded else "running"
        return "exited" if ended.get("started_at") else "created"

    def _last_end(self) -> dict[str, Any]:
        """How it last ended, {} when it never did. Read after the state."""
        ended = read_optional(self.status_path)
        if ended and not ended["finished_at"] and os.path.exists(self._engine.paths.runtime(self.id)):
            return {}  # it is being started, or runs; without that directory it was lost with its host
        return ended

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

        Content when it does not run. One that is just being started is stopped when it has been.
        """
        state = self._state_once_started()
        if not state:
            return
        name = self.config.stop_signal or self._record["image_config"].get("StopSignal") or "TERM"
        if timeout is None:
            timeout = STOP_TIMEOUT if self.config.stop_timeout is None else self.config.stop_timeout
        _send_signal(state["init"], parse_signal(name))
        if not self._await_end(state, None if timeout < 0 else float(timeout)):
            _send_signal(state["init"], signal.SIGKILL)
            self._await_end(state, _END_PATIENCE)

    def _await_end(self, state: dict[str, Any], timeout: float | None) -> bool:
        """Until its program has ended and everything is cleared up, at most ``timeout`` seconds; has it?"""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        if not _await_either((state["init"], state["monitor"]), timeout):
            return False
        # Its monitor is clearing up now, and need not end with that: it may be a program that uses the library.
        while self._state().get("started_at") == state["started_at"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_INTERVAL)
        return True

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; the exit code, 0 if it never ran. Raises TimeoutError, and ContainerNotFound."""
        state = self._state_once_started()
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
        ended = read_optional(self.status_path) or json.loads(text)
        return int(ended["exit_code"])

    def remove(self, force: bool = False) -> None:
        """Delete it with all it wrote. A running one only with ``force``, which kills it. Raises Conflict."""
        lock, self._held = self._held, None
        try:
            if lock is None:
                lock = self._lock_by_force() if force else self._lock("is running; stop it first, or use force")
            with lock:
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
        """docker's ``inspect`` object, looked up now. Raises ContainerNotFound."""
        from poc.engine.inspection import describe

        state, ended = self._seen(), self._last_end()
        status = self._status(state, ended)
        if status in ("running", "paused"):
            state["oom_killed"] = Cgroup(recovery.cgroup_path(self.id)).oom_kills() > 0
        return describe(self, self._record, state, status, ended)

    def spec(self) -> Spec:
        """Its OCI configuration. Raises ContainerNotFound when it has been removed."""
        try:
            return self.bundle.spec()
        except FileNotFoundError:
            raise ContainerNotFound(self.name) from None


def _open_process(process: list[int] | None) -> int | None:
    """A pidfd, so that a pid used again is never meant; None when the process has ended."""
    if process is None:
        return None
    try:
        pidfd = os.pidfd_open(process[0])
    except ProcessLookupError:
        return None
    if is_alive(process):
        return pidfd
    os.close(pidfd)
    return None


def _send_signal(process: list[int] | None, number: int) -> None:
    """Content when the process has ended."""
    pidfd = _open_process(process)
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass  # just now
    finally:
        os.close(pidfd)


def _await_either(processes: Sequence[list[int] | None], timeout: float | None) -> bool:
    """Until one of these has ended, at most ``timeout`` seconds; has one?"""
    pidfds = [_open_process(process) for process in processes]
    try:
        poller = select.poll()
        for pidfd in pidfds:
            if pidfd is None:
                return True
            poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))
    finally:
        for pidfd in pidfds:
            if pidfd is not None:
                os.close(pidfd)
