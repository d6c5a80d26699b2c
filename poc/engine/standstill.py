"""A container that stands still while it is committed, and goes on afterwards, whoever is killed.

    <run>/<id>/standstill    made and locked (flock(2)) by the process that freezes the container, and written to,
                             before it does so; removed after the thaw

That process thaws it when its caller is gone. If it is killed itself its lock is free, and whoever next looks at the
container finds it frozen by nobody (`end_abandoned`). One that the user has paused is left as it is.
"""

from __future__ import annotations

import fcntl
import os
import time

from poc import _fs
from poc.errors import Conflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.state import ContainerState

_FROZEN = b"frozen"  # written into the file before that is done
_PATIENCE = 120.0  # seconds, for another commit


class Standstill:
    """Freezes a running container from ``__enter__`` to ``__exit__``. Raises Conflict."""

    __slots__ = ("_container", "_fd", "_path")

    def __init__(self, container: ContainerState) -> None:
        self._container = container
        self._path = _path(container)
        self._fd = -1

    def __enter__(self) -> Standstill:
        deadline = time.monotonic() + _PATIENCE
        while (fd := _locked(self._path, os.O_CREAT)) < 0:
            if time.monotonic() > deadline:
                raise Conflict(f"container {self._container.name} is being committed by another command")
            time.sleep(0.01)
        _let_go_on(self._container, fd)
        if self._container.cgroup.frozen():  # by the user
            _fs.remove_file(self._path)
            os.close(fd)
            return self
        self._fd = fd
        os.write(fd, _FROZEN)
        self._container.cgroup.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            _end(self._container, self._fd)


def end_abandoned(container: ContainerState) -> bool:
    """Let a container go on that a killed commit has left frozen; False if it is frozen for another reason."""
    fd = _locked(_path(container), 0)
    return fd >= 0 and _end(container, fd)


def _path(container: ContainerState) -> str:
    return container.paths.runtime(container.id, "standstill")


def _locked(path: str, flags: int) -> int:
    """The file, locked; -1 when there is none, or somebody has it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # in use, or just done with
    os.close(fd)
    return -1


def _end(container: ContainerState, fd: int) -> bool:
    try:
        return _let_go_on(container, fd)
    finally:
        _fs.remove_file(_path(container))
        os.close(fd)


def _let_go_on(container: ContainerState, fd: int) -> bool:
    """Thaw it if whoever had the file before had frozen it."""
    if not os.pread(fd, len(_FROZEN), 0):
        return False
    container.cgroup.thaw()
    os.ftruncate(fd, 0)
    return True
