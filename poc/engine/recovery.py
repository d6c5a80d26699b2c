"""The end of a container, however it came: the same steps for the monitor's orderly one and for a killed one.

All that a run makes is named after the container's id (cgroup ``poc-<id>``, its link, its leases, its
directory in <run>). That directory is made first and removed last, and a container's own directory likewise,
so whoever finds one of them that nobody has locked can finish: at any step, also of this very clean-up.
"""

from __future__ import annotations

import json
import os
import time

from poc import _fs
from poc.cgroups import Cgroup
from poc.engine.store import Lock, listed, read_optional
from poc.errors import Conflict, PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine import Engine

KILLED = 137
_ROOM = 1024  # bytes; more than a file system keeps in the inode, so that the file has a block of its own


class Status:
    """How a run ended; kept as status.json. Times are Unix seconds, 0 for never.

    It is written when the program starts too (`Status.begun`), as it is to be read if nobody lives to write how
    it ended: a monitor killed, a power cut. And the end finds room then, however full the disk is.
    """

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

    @classmethod
    def begun(cls, started_at: float) -> Status:
        """Started, and as long as nothing else is written: killed together with its monitor."""
        return cls(KILLED, False, started_at, error="its monitor was killed")

    def as_text(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).ljust(_ROOM)


def cgroup_path(id: str) -> str:
    """Where a container's cgroup is, below the root of each hierarchy."""
    return f"poc-{id}"


def conclude(engine: Engine, id: str, status: Status, remove: bool) -> None:
    """Keep how a run ended, of which only the runtime directory is left; the container's lock is held."""
    _keep(engine.paths.container(id, "status.json"), status, in_place=remove)
    if remove:
        delete(engine, id)
    _fs.remove_tree(engine.paths.runtime(id))


def _keep(path: str, status: Status, in_place: bool) -> None:
    """In place, whoever has the file open reads it even when it is deleted right away (`Container.wait`)."""
    try:
        if not in_place:
            _fs.write_atomic(path, status.as_text())
            return
    except OSError:
        pass  # a full disk
    try:
        _fs.overwrite(path, status.as_text())
    except OSError:
        pass  # it never started, and there is no room to say why; the rest is cleared away all the same


def end_processes(id: str) -> None:
    """Kill whatever still runs in a container's cgroup, and remove that; content when it is gone."""
    group = Cgroup(cgroup_path(id))
    if group.exists():
        group.kill()
        group.remove()


def delete(engine: Engine, id: str) -> None:
    """Delete a stopped container, whose lock is held, or what there is of one; its name becomes free."""
    directory = engine.paths.container(id)
    record = read_optional(f"{directory}/container.json")
    # Without this file it does not exist any more, so it goes first, and the name right after it.
    _fs.remove_file(f"{directory}/container.json")
    for name in [record["name"]] if record else listed(engine.paths.names):
        free_name(engine, name, id)
    _fs.remove_tree(directory)


def free_name(engine: Engine, name: str, id: str) -> None:
    """Give a name back if it is this container's. Raises Conflict when another command blocks all names."""
    path = engine.paths.name(name)
    try:
        # Names are taken without a lock, but only where there is none; with all who free one taking turns,
        # what is read here is what is unlinked.
        lock = Lock.take(engine.paths.names)
        if lock is None:
            raise Conflict(f"{engine.paths.names} is being used by another command")
        with lock:
            if os.readlink(path) == id:
                os.unlink(path)
    except FileNotFoundError:
        pass  # freed already


def recover(engine: Engine, id: str) -> bool:
    """Finish for a monitor that was killed, or for a command killed while it made or deleted the container.

    False when the container is in somebody's hands. Raises OSError when a process of it can't be ended.
    """
    try:
        lock = Lock.take(engine.paths.container(id), patience=0.0)
    except FileNotFoundError:
        finish(engine, id)  # the last step of deleting one with --rm; or nothing, but a name
        return True
    if lock is None:
        return False
    with lock:
        finish(engine, id)
    return True


def finish(engine: Engine, id: str) -> None:
    """What `recover` does, for who has the container's lock."""
    record = read_optional(engine.paths.container(id, "container.json"))
    ran = os.path.exists(engine.paths.runtime(id))
    remove = not record or (ran and record["config"].get("remove", False))
    if ran:
        end_processes(id)
        engine.networks.release(id)
        _note_killed(engine.paths.container(id, "status.json"), in_place=remove)
    if remove:
        delete(engine, id)
    _fs.remove_tree(engine.paths.runtime(id))


def _note_killed(path: str, in_place: bool) -> None:
    """Complete what was written at the start; how the run before ended, or this one if it did, stays as it is."""
    status = Status(**read_optional(path))
    if status.started_at and not status.finished_at:
        status.finished_at = time.time()
        _keep(path, status, in_place)


def recover_all(engine: Engine) -> None:
    """Finish for everybody who was killed in this store. Raises the first failure, after all have had their turn."""
    failures = []
    for id in _unfinished(engine):
        try:
            recover(engine, id)
        except (OSError, PocError) as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _unfinished(engine: Engine) -> set[str]:
    """The ids of which there is a run, or something without a container; most are in somebody's hands."""
    paths = engine.paths
    found = {id for id in listed(paths.run) if len(id) == 64}
    found.update(id for id in listed(f"{paths.data}/containers") if not paths.has(id))
    for name in listed(paths.names):
        try:
            owner = os.readlink(paths.name(name))
        except OSError:
            continue  # freed since it was listed, or nobody's link
        if not os.path.exists(paths.container(owner)):
            found.add(owner)
    return found
