"""A container of `poc-runtime`: its directory, and what state it is really in.

    <root>/<id>/state.json    who and where, written before anything is made, and again when it is ready
                config.json   the configuration as it was at `create`; later changes in the bundle count for nothing
                gate          the socket on which the first process waits for `start`

Making the directory takes the name. Status is derived from living processes: a pid counts only with its start
time, and the kernel itself says whether the process has come to its program (PF_FORKNOEXEC).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from poc import _fs
from poc.errors import Conflict, InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from poc.namespaces import Process
    from poc.oci.types import Spec

DEFAULT_ROOT = "/run/poc-runtime"
CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"

_LONGEST_ID = 255  # a file name
_FORKNOEXEC = 0x40  # linux/sched.h: forked, but has not executed a program


class State:
    """One container. ``values`` is what state.json holds."""

    __slots__ = ("id", "root", "values")

    def __init__(self, root: str, id: str, values: dict[str, Any]) -> None:
        self.root = root
        self.id = id
        self.values = values

    @classmethod
    def new(cls, root: str, id: str, values: dict[str, Any]) -> State:
        """Take the id and write down what is going to be made. Raises Conflict when it is taken."""
        check_id(id)
        os.makedirs(root, 0o711, exist_ok=True)
        state = cls(root, id, values)
        try:
            os.mkdir(state.directory, 0o700)
        except FileExistsError:
            raise Conflict(f"container with given ID already exists: {id}") from None
        values.update(creator=identity(os.getpid()), pid=0, started=None, ready=False)
        state.save()
        return state

    @classmethod
    def load(cls, root: str, id: str) -> State:
        """An existing container. Raises NotFound."""
        check_id(id)
        try:
            return cls(root, id, _fs.read_json(f"{root}/{id}/state.json"))
        except FileNotFoundError:
            raise NotFound(f"container {id!r} does not exist in {root}") from None

    @property
    def directory(self) -> str:
        return f"{self.root}/{self.id}"

    def save(self) -> None:
        _fs.write_json(f"{self.directory}/state.json", self.values, 0o600)

    def note_process(self, process: Process) -> None:
        """Write down the container's first process, which is not ready yet."""
        self.values.update(pid=process.pid, started=_look_at(process.pid)[0])
        self.save()

    def remove(self) -> None:
        """Forget it. state.json goes first: without it the container does not exist any more."""
        _fs.remove_file(f"{self.directory}/state.json")
        _fs.remove_tree(self.directory)

    @classmethod
    @contextmanager
    def locked(cls, root: str, id: str) -> Iterator[State]:
        """An existing container, which nobody else starts or deletes meanwhile. Raises NotFound."""
        check_id(id)
        try:
            fd = os.open(f"{root}/{id}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"container {id!r} does not exist in {root}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield cls.load(root, id)
        finally:
            os.close(fd)

    def spec(self) -> Spec:
        """The configuration it was created with."""
        spec: Spec = _fs.read_json(f"{self.directory}/config.json")
        return spec

    def status(self) -> str:
        """What it is doing at this moment."""
        started, flags = _look_at(self.values["pid"]) if self.values["pid"] else (None, 0)
        if not self.values["ready"]:
            return CREATING if is_alive(self.values["creator"]) else STOPPED
        if started is None or started != self.values["started"]:
            return STOPPED
        if flags & _FORKNOEXEC:
            return CREATED
        return PAUSED if self._frozen() else RUNNING

    def _frozen(self) -> bool:
        try:
            return _fs.read_text(self.values["freezer"]) == "1"
        except OSError:
            return False  # gone, or a host without any freezer

    def as_json(self, status: str | None = None) -> dict[str, Any]:
        """runc's ``state``: the specification's properties (runtime.md, State) and four more."""
        status = status or self.status()
        values = self.values
        shown = {
            "ociVersion": values["ociVersion"],
            "id": self.id,
            "pid": 0 if status == STOPPED else values["pid"],
            "status": status,
            "bundle": values["bundle"],
            "rootfs": values["rootfs"],
            "created": values["created"],
        }
        if values["annotations"]:
            shown["annotations"] = values["annotations"]
        return {**shown, "owner": ""}


def all_of(root: str) -> Iterator[State]:
    """Every container below ``root``, by id."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        try:
            yield State.load(root, name)
        except (NotFound, InvalidArgument, OSError):
            continue  # deleted meanwhile, or no container


def check_id(id: str) -> None:
    """Raises InvalidArgument unless ``id`` can be the name of a directory and of a cgroup."""
    good = id.replace("_", "").replace("-", "").replace("+", "").replace(".", "")
    if not (good.isalnum() and good.isascii()) or id in (".", "..") or len(id) > _LONGEST_ID:
        raise InvalidArgument(
            f"container id {id!r:.80}: it is made of letters, digits and _ + - . and has 1 to {_LONGEST_ID} of them"
        )


def identity(pid: int) -> list[int] | None:
    """[pid, start time], to be recognised by `is_alive`."""
    started = _look_at(pid)[0]
    return None if started is None else [pid, started]


def is_alive(process: list[int] | None) -> bool:
    """Is the process with this pid *and* this start time still there?"""
    return process is not None and _look_at(process[0])[0] == process[1]


def _look_at(pid: int) -> tuple[int | None, int]:
    """(start time or None, flags) of a process: fields 22 and 9 of proc_pid_stat(5)."""
    try:
        fields = _fs.read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None, 0
    return (None if fields[0] in (b"Z", b"X") else int(fields[19])), int(fields[6])
