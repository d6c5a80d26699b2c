"""A container as it stands: what it was asked to be, whether it runs, and who has its lock. Does nothing to it.

But where its monitor was killed, whoever looks clears up (`poc.engine.recovery`).
"""

from __future__ import annotations

import os
import time

from poc import _fs
from poc._fs import is_alive
from poc._processes import await_either
from poc.engine import events, recovery
from poc.engine.bundle import Bundle
from poc.engine.config import APART, OWN_RUNTIME, ContainerConfig
from poc.engine.store import PATIENCE, Lock, read_optional
from poc.errors import Conflict, ContainerNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.cgroups import Cgroup
    from poc.engine import Engine
    from poc.engine.store import Paths
    from poc.oci.types import Spec

_START_PATIENCE = 60.0  # seconds: for another command's start
_LOOK_INTERVAL, _LONGEST_INTERVAL = 0.005, 0.08  # seconds; many may look at once, as in a stop of all
ALIVE = ("running", "paused", "restarting")


class ContainerState:
    """A container as it stands. Its attributes are what it was asked to be; `status` is looked up anew."""

    __slots__ = (
        *("_engine", "_held", "_record", "bundle", "config", "created", "id", "image", "labels", "name", "warnings"),
    )

    def __init__(self, engine: Engine, record: dict[str, Any], held: Lock | None = None) -> None:
        self._engine = engine
        self._held = held
        self.warnings: list[str] = []
        self.id: str = record["id"]
        self.created: float = record["created"]
        self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        self._record = record
        self.name: str = record["name"]
        self.config = ContainerConfig.loaded(record["config"])
        self.bundle = Bundle(self._engine.paths, record, self.config)
        self.image: str = self.config.image
        self.labels: dict[str, str] = {**(record["image_config"].get("Labels") or {}), **self.config.labels}

    def reload(self) -> None:
        """Learn what others have changed: its name, its limits. Raises ContainerNotFound."""
        try:
            self._take(_fs.read_json(self._path("container.json")))
        except FileNotFoundError:
            raise ContainerNotFound(self.name) from None

    def __repr__(self) -> str:
        return f"<Container {self.short_id} {self.name}>"

    @property
    def short_id(self) -> str:
        """The first 12 digits of the id."""
        return self.id[:12]

    @property
    def image_id(self) -> str:
        """The id of the image it was made from."""
        return str(self._record["image"])

    @property
    def image_config(self) -> dict[str, Any]:
        """What its image says of containers: Cmd, Env, ExposedPorts …"""
        found: dict[str, Any] = self._record["image_config"]
        return found

    @property
    def mounts(self) -> Sequence[dict[str, Any]]:
        """What was decided to be mounted in it: the points of `poc.engine.mounts`."""
        points: Sequence[dict[str, Any]] = self._record.get("mounts", ())
        return points

    @property
    def healthcheck(self) -> dict[str, Any]:
        """docker's object (`poc.engine.health`) of what was asked for and what the image says; {} without any."""
        wanted, image = self.config.healthcheck, self._record["image_config"].get("Healthcheck")
        if not (wanted or image):
            return {}
        from poc.engine.health import effective

        return effective(wanted, image)

    @property
    def health_command(self) -> list[str]:
        """What is to be run to check its health, [] for nothing."""
        if not (check := self.healthcheck):
            return []
        from poc.engine.health import command

        return command(check, self._record["image_config"].get("Shell"))

    def spec(self) -> Spec:
        """Its OCI configuration. Raises ContainerNotFound when it has been removed."""
        try:
            return self.bundle.spec()
        except FileNotFoundError:
            raise ContainerNotFound(self.name) from None

    @property
    def cgroup(self) -> Cgroup:
        """Its cgroup, which exists as long as it runs."""
        return recovery.cgroup(self.id, self.config.cgroup_parent)

    @property
    def paths(self) -> Paths:
        """Where its store keeps what."""
        return self._engine.paths

    @property
    def log_path(self) -> str:
        """The json-file log, whichever log driver it has; `poc.engine.logs`."""
        return self._path(f"{self.id}-json.log")

    @property
    def followers_path(self) -> str:
        """Locked by those who follow the log of a container that is going to remove itself."""
        return self._path("followers")

    @property
    def status_path(self) -> str:
        """How it last ended, see `poc.engine.recovery.Status`."""
        return self._path("status.json")

    @property
    def health_path(self) -> str:
        """What its health was at the end of its last run, docker's State.Health."""
        return self._path("health.json")

    def _path(self, name: str) -> str:
        return self._engine.paths.container(self.id, name)

    def emit(self, action: str, /, **attributes: object) -> None:
        """Note that something has happened to it (`poc.engine.events`)."""
        events.emit_container(self._engine.paths, self._record, action, **attributes)

    # ── whether it runs ──────────────────────────────────────────────────────────────────────────────

    @property
    def status(self) -> str:
        """ "created", "running", "paused", "restarting" or "exited", as the kernel sees it now."""
        return self._status(self._seen(), self._last_end())

    def _status(self, state: dict[str, Any], ended: dict[str, Any]) -> str:
        if state.get("restarting"):
            return "restarting"
        if state:
            concluded = ended.get("finished_at") and ended["started_at"] == state["started_at"]
            return "exited" if concluded else "paused" if self.is_frozen() else "running"
        return "exited" if ended.get("started_at") else "created"

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

    def _last_end(self) -> dict[str, Any]:
        """How it last ended, {} when it never did. Read after the state."""
        ended = read_optional(self.status_path)
        if ended and not ended["finished_at"] and os.path.exists(self._engine.paths.runtime(self.id)):
            return {}  # it is being started, or runs; without that directory it was lost with its host
        return ended

    def is_going_on(self) -> bool:
        """Is there a monitor that may still log something?"""
        state = self._state()
        if not self.config.remove:
            return bool(state)  # it may start it again
        return bool(state) and self._last_end().get("finished_at") in (None, 0)

    def is_frozen(self) -> bool:
        """Has it been paused? As the kernel sees it, whether it runs or not."""
        group = self.cgroup
        if not (group.freezer() and group.frozen()):
            return False
        from poc.engine.standstill import end_abandoned

        return not end_abandoned(self)

    @property
    def is_apart(self) -> bool:
        """Has its runtime a kernel of its own, so that its processes are none of this host's?"""
        mark = self._engine.paths.runtime(self.id, f"runtime/{APART}")
        return self.config.runtime != OWN_RUNTIME and os.path.exists(mark)

    def first_process(self) -> tuple[int, int]:
        """(pid, start time) of its first process. Raises Conflict unless it runs, and is not paused."""
        status = self.status
        if status == "paused":
            raise Conflict(f"container {self.name} is paused; unpause it first")
        if status == "restarting":
            raise Conflict(f"container {self.name} is restarting; wait until it runs")
        return self.living_process()

    def living_process(self) -> tuple[int, int]:
        """The same of one that may be paused."""
        init = self._state().get("init")
        if not is_alive(init):
            raise Conflict(f"container {self.name} is not running")
        assert init is not None
        return init[0], init[1]

    def _await_end(self, state: dict[str, Any], timeout: float | None) -> bool:
        """Until its program has ended and everything is cleared up, at most ``timeout`` seconds; has it?

        Of one that is between two runs: until either it has ended, or the next has begun.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        restarting = state.get("restarting", False)
        if not restarting and not await_either((state["init"], state["monitor"]), timeout):
            return False
        # Its monitor is clearing up now, and need not end with that: it may be a program that uses the library.
        interval = _LOOK_INTERVAL
        while (now := self._state()).get("started_at") == state["started_at"]:
            if now.get("restarting", False) != restarting:
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(interval)
            interval = min(2 * interval, _LONGEST_INTERVAL)
        return True

    # ── its lock ─────────────────────────────────────────────────────────────────────────────────────

    def hold(self, patience: float = PATIENCE) -> Lock | None:
        """The lock, so that nobody starts or removes it; None when it runs. Raises Conflict, ContainerNotFound."""
        while not self._state_once_started():
            try:
                return self._lock("is running", patience)
            except Conflict:
                if self.status not in ("running", "paused"):
                    raise
        return None

    def _lock(self, refusal: str, patience: float = PATIENCE) -> Lock:
        """The lock, of a container that does not run. Raises Conflict with ``refusal`` when it does."""
        deadline = time.monotonic() + patience
        while True:
            lock = self._try_lock()
            if lock is not None:
                return lock
            if self.status in ALIVE:
                raise Conflict(f"container {self.name} {refusal}")
            if time.monotonic() > deadline:
                raise Conflict(f"container {self.name} is being used by another command, or its monitor hangs")
            time.sleep(_LOOK_INTERVAL)

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
