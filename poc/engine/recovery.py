"""The end of a container, however it came: the same steps for the monitor's orderly one and for a killed one.

All that a run makes is named after the container's id (cgroup ``poc-<id>``, its link, its leases, its
directory in <run>). That directory is made first and removed last, and a container's own directory likewise,
so whoever finds one of them that nobody has locked can finish: at any step, also of this very clean-up.
"""

from __future__ import annotations

import os
import time

from poc import _fs
from poc._lean import json
from poc.cgroups import Cgroup, claim
from poc.engine import events, logs
from poc.engine.store import Lock, listed, read_optional
from poc.errors import Conflict, PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from poc.engine import Engine

KILLED = 137
_PARENTS = "parents"  # the file
_GONE = "container.json.gone"  # that of one which does not exist any more
ANONYMOUS = "volumes.json"  # the names of its anonymous volumes, as long as they are to go with it
_ROOM = 1024  # bytes; more than a file system keeps in the inode, so that the file has a block of its own


class Status:
    """How a run ended; kept as status.json. Times are Unix seconds, 0 for never.

    It is written when the program starts too (`Status.begun`), as it is to be read if nobody lives to write how
    it ended: a monitor killed, a power cut. And the end finds room then, however full the disk is.
    """

    __slots__ = ("error", "exit_code", "finished_at", "oom_killed", "restarts", "started_at")

    def __init__(
        self,
        exit_code: int = 0,
        oom_killed: bool = False,
        started_at: float = 0.0,
        finished_at: float = 0.0,
        error: str = "",
        restarts: int = 0,
    ) -> None:
        self.exit_code = exit_code
        self.oom_killed = oom_killed
        self.started_at = started_at
        self.finished_at = finished_at
        self.error = error
        self.restarts = restarts

    @classmethod
    def begun(cls, started_at: float, restarts: int = 0) -> Status:
        """Started, and as long as nothing else is written: killed together with its monitor."""
        return cls(KILLED, False, started_at, error="its monitor was killed", restarts=restarts)

    def as_text(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).ljust(_ROOM)


def cgroup_path(id: str, parent: str = "") -> str:
    """Where a container's cgroup is, below the root of each hierarchy; ``parent`` is what the user asked for."""
    return f"{parent}/poc-{id}" if parent else f"poc-{id}"


def conclude(engine: Engine, id: str, status: Status, remove: bool, tell: Callable[[], None]) -> None:
    """Keep how a run ended, of which only the runtime directory is left; the container's lock is held.

    ``tell`` emits the events of that: whoever hears of them finds it ended.
    """
    keep(engine.paths.container(id, "status.json"), status, in_place=remove)
    tell()
    if remove:
        logs.await_readers(engine.paths.container(id, "followers"))
        delete(engine, id)
    _fs.remove_tree(engine.paths.runtime(id))


def keep(path: str, status: Status, in_place: bool) -> None:
    """Write how a run ended.

    In place, whoever has the file open reads it even when it is deleted right away (`Container.wait`).
    """
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


def cgroup(id: str, parent: str = "") -> Cgroup:
    """A container's cgroup, which need not exist."""
    return Cgroup(cgroup_path(id, parent), tidy=True)


def note_parents(engine: Engine, id: str, group: Cgroup) -> None:
    """Before a start: which of the groups above the container's are not there, and will be ours."""
    _fs.write_json(engine.paths.runtime(id, _PARENTS), {"missing": group.missing_parents()})


def end_processes(id: str, parent: str = "") -> None:
    """Kill whatever still runs in a container's cgroup, and remove that; content when it is gone."""
    cgroup(id, parent).end()


def delete(engine: Engine, id: str) -> None:
    """Delete a stopped container, whose lock is held, or what there is of one; its name becomes free.

    With it go its anonymous volumes, unless they are to be kept (`poc.engine.volumes`).
    """
    directory = engine.paths.container(id)
    found = read_optional(f"{directory}/container.json")
    # Without this file it does not exist any more, so it goes first, and the name right after it.
    if found:
        os.rename(f"{directory}/container.json", f"{directory}/{_GONE}")
    record = found or read_optional(f"{directory}/{_GONE}")  # of one whose deletion was cut off
    for name in [found["name"]] if found else listed(engine.paths.names):
        free_name(engine, name, id)
    _release_volumes(engine, id, record.get("mounts", ()))
    if found or (record and not _is_told(engine, id)):
        events.emit_container(engine.paths, record, "destroy")
    _fs.remove_tree(directory)


def _release_volumes(engine: Engine, id: str, points: Sequence[dict[str, Any]]) -> None:
    if points or os.path.exists(engine.paths.container(id, ANONYMOUS)):
        from poc.engine import mounting

        mounting.release(engine.paths, id, points)


def _is_told(engine: Engine, id: str) -> bool:
    """Did who was cut off while deleting it tell of that?"""
    from poc.engine import history

    return history.last_action(engine.paths, id, ("create", "destroy")) == "destroy"


def free_name(engine: Engine, name: str, id: str) -> None:
    """Give a name back if it is this container's. Raises Conflict when another command blocks all names."""
    path = engine.paths.name(name)
    try:
        with lock_names(engine):
            if os.readlink(path) == id:
                os.unlink(path)
    except FileNotFoundError:
        pass  # freed already


def lock_names(engine: Engine) -> Lock:
    """For who frees a name or changes one: names are taken without a lock, but only where there is none.

    What is read under it is what is unlinked. Raises Conflict, and FileNotFoundError.
    """
    lock = Lock.take(engine.paths.names)
    if lock is None:
        raise Conflict(f"{engine.paths.names} is being used by another command")
    return lock


def free_stale_name(engine: Engine, name: str) -> None:
    """A command that was killed may have left a name to a container that never came to be, or has another one."""
    path = engine.paths.name(name)
    try:
        with lock_names(engine):
            owner = os.readlink(path)
            record = read_optional(engine.paths.container(owner, "container.json"))
            if record and record["name"] != name:
                os.unlink(path)
    except FileNotFoundError:
        return
    if not record:
        recover(engine, owner)


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
        if os.path.exists(bundle := engine.paths.runtime(id, "runtime")):
            from poc.engine import foreign

            foreign.forget(bundle, id)
        claim(read_optional(engine.paths.runtime(id, _PARENTS)).get("missing", ()))
        # Without its record it was being deleted: its cgroup had gone before.
        end_processes(id, record["config"].get("cgroup_parent", "") if record else "")
        engine.networks.release(id)
        _note_killed(engine, id, record)
        if not remove:
            _keep_health(engine, id)
    if remove:
        delete(engine, id)
    _fs.remove_tree(engine.paths.runtime(id))


def _keep_health(engine: Engine, id: str) -> None:
    """What its monitor last knew of that; docker calls unhealthy what does not run."""
    if health := read_optional(engine.paths.runtime(id, "health.json")):
        try:
            _fs.write_json(engine.paths.container(id, "health.json"), {**health, "Status": "unhealthy"})
        except OSError:
            pass  # a full disk


def _note_killed(engine: Engine, id: str, record: dict[str, Any]) -> None:
    """Complete what was written at the start; how the run before ended, or this one if it did, stays as it is."""
    path = engine.paths.container(id, "status.json")
    status = Status(**read_optional(path))
    if not status.started_at:
        return
    if not status.finished_at:
        status.finished_at = time.time()
        keep(path, status, in_place=not record or record["config"].get("remove", False))
    if record:
        _emit_death(engine, record, status)


def _emit_death(engine: Engine, record: dict[str, Any], status: Status) -> None:
    """Unless its monitor lived to say so, or was killed before it said that the program had started."""
    from poc.engine import history

    if history.last_action(engine.paths, record["id"], ("start", "die")) == "start":
        events.emit_container(engine.paths, record, "die", exitCode=status.exit_code)
        if record.get("mounts"):
            from poc.engine import mounting

            mounting.emit(engine.paths, record["id"], record["mounts"], "unmount")


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
