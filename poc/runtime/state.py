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

from poc import _fs
from poc._fs import identity, is_alive
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
        self.values.update(pid=process.pid, started=_fs.process_start(process.pid)[0])
        self.save()

    def remove(self) -> None:
        """Forget it. state.json goes first: without it the container does not exist any more."""
        _fs.remove_file(f"{self.directory}/state.json")
        _fs.remove_tree(self.directory)

    @classmethod
    def locked(cls, root: str, id: str) -> Locked:
        """A context manager: an existing container, which nobody else starts or deletes meanwhile. Raises NotFound."""
        check_id(id)
        return Locked(root, id)

    def spec(self) -> Spec:
        """The configuration it was created with."""
        spec: Spec = _fs.read_json(f"{self.directory}/config.json")
        return spec

    def status(self) -> str:
        """What it is doing at this moment."""
        started, flags = _fs.process_start(self.values["pid"]) if self.values["pid"] else (None, 0)
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


class Locked:
    """The lock on a container's directory, held within ``with``."""

    __slots__ = ("_fd", "_id", "_root")

    def __init__(self, root: str, id: str) -> None:
        self._root = root
        self._id = id

    def __enter__(self) -> State:
        try:
            self._fd = os.open(f"{self._root}/{self._id}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"container {self._id!r} does not exist in {self._root}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            return State.load(self._root, self._id)
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


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
            f"container ID {id!r:.80}: invalid character, or not 1 to {_LONGEST_ID} letters, digits, _ + - ."
        )
