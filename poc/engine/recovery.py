"""The end of a container, however it came: the same steps for the monitor's orderly one and for a killed one.

All that a run makes is named after the container's id (cgroup ``poc-<id>``, its link, its leases, its
directory in <run>), so whoever finds that directory without a living monitor can finish.
"""

from __future__ import annotations

import os
import time

from poc import _fs
from poc.cgroups import Cgroup
from poc.engine.store import Lock, append_end, is_alive, read_optional, read_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine import Engine

KILLED = 137


class Status:
    """How a run ended; kept as status.json. Times are Unix seconds, 0 for never."""

    __slots__ = ("error", "exit_code", "finished_at", "oom_killed", "started_at")

    def __init__(
        self,
        exit_code: int = 0,
        oom_killed: bool = False,
        started_at: float = 0.0,
        finished_at: float = 0.0,
        error: str = "",
    ) -> None:
        self.exit_code = exit_code
        self.oom_killed = oom_killed
        self.started_at = started_at
        self.finished_at = finished_at
        self.error = error

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def cgroup_path(id: str) -> str:
    """Where a container's cgroup is, below the root of each hierarchy."""
    return f"poc-{id}"


def conclude(engine: Engine, id: str, status: Status, remove: bool) -> None:
    """Clear away what running it made, and keep how it ended; the container's lock is held. Idempotent."""
    try:
        append_end(engine.paths.runtime(id, "state.json"), status.as_dict())
        if not remove:
            _fs.write_json(engine.paths.container(id, "status.json"), status.as_dict())
    except OSError:
        pass  # a full disk must not keep the rest from being cleared away
    if remove:
        delete(engine, id)
    _fs.remove_tree(engine.paths.runtime(id))


def end_processes(id: str) -> None:
    """Kill whatever still runs in a container's cgroup, and remove that; content when it is gone."""
    group = Cgroup(cgroup_path(id))
    if group.exists():
        group.kill()
        group.remove()


def delete(engine: Engine, id: str) -> None:
    """Delete a stopped container, whose lock is held; its name becomes free."""
    directory = engine.paths.container(id)
    record = read_optional(f"{directory}/container.json")
    # Without this file it does not exist any more, so it goes first, and the name right after it.
    _fs.remove_file(f"{directory}/container.json")
    if name := record.get("name"):
        free_name(engine, name, id)
    _fs.remove_tree(directory)


def free_name(engine: Engine, name: str, id: str) -> None:
    """Give a name back if it is this container's."""
    try:
        if os.readlink(engine.paths.name(name)) == id:
            os.unlink(engine.paths.name(name))
    except FileNotFoundError:
        pass  # freed already


def recover(engine: Engine, id: str) -> bool:
    """Finish for a monitor that was killed. False when the container is in somebody's hands."""
    try:
        lock = Lock.take(engine.paths.container(id), patience=0.0)
    except FileNotFoundError:
        end_processes(id)
        _release_network(engine, id)
        _fs.remove_tree(engine.paths.runtime(id))
        return True
    if lock is None:
        return False
    with lock:
        state, _ = read_state(engine.paths.runtime(id, "state.json"))
        if is_alive(state.get("monitor")) or not os.path.exists(engine.paths.runtime(id)):
            return False
        end_processes(id)
        _release_network(engine, id)
        record = read_optional(engine.paths.container(id, "container.json"))
        status = Status(KILLED, False, state.get("started_at", 0.0), time.time(), "its monitor was killed")
        conclude(engine, id, status, remove=bool(record.get("config", {}).get("remove")))
    return True


def _release_network(engine: Engine, id: str) -> None:
    """The link itself goes with the network namespace, when the cgroup's processes are killed."""
    try:
        engine.networks.leases().release(id)
    except FileNotFoundError:
        pass  # this store never had a bridge


def recover_all(engine: Engine) -> None:
    """Finish for every killed monitor, and for every command killed while it made a container."""
    try:
        found = os.listdir(engine.paths.run)
    except FileNotFoundError:
        found = []
    for id in found:
        if len(id) == 64:
            recover(engine, id)
    _recover_halfmade(engine)


def _recover_halfmade(engine: Engine) -> None:
    try:
        ids = os.listdir(f"{engine.paths.data}/containers")
    except FileNotFoundError:
        return
    for id in ids:
        directory = engine.paths.container(id)
        if os.path.exists(f"{directory}/container.json"):
            continue
        lock = Lock.take(directory, patience=0.0)
        if lock is None:
            continue
        with lock:
            if not os.path.exists(f"{directory}/container.json"):
                _free_names_of(engine, id)
                _fs.remove_tree(directory)


def _free_names_of(engine: Engine, id: str) -> None:
    for name in os.listdir(f"{engine.paths.data}/names"):
        free_name(engine, name, id)
