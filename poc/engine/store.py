"""Where the engine keeps what, and what state a container is really in.

    <data>/containers/<id>/container.json   what the user asked; written last: with it the container exists
                           config.json      the OCI configuration
                           status.json      how it last ended
                           upper/ work/ rootfs/ <id>-json.log
    <data>/names/<name>                     a symlink to the id: made exclusively, it is the name's lock
    <run>/<id>/state.json                   pids with their start times, while a monitor looks after it; at the end
                                            a second line, for those who have it open: how the run ended
               hosts hostname resolv.conf   bound into the container
    <run>/leases/                           addresses

One lock per container: an flock(2) on its directory, held by whoever creates, runs or removes it. The
kernel lets go of it when its holder dies, so a directory in <run> whose lock is free is what a killed
monitor left, and `recover` clears it away. Status is derived from living processes only.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from poc import _fs
from poc.errors import Conflict, ContainerNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_SYSTEM = ("/var/lib/poc", "/run/poc")
_PATIENCE = 10.0  # seconds to wait for another command that holds a container's lock


class Paths:
    """The two trees of one store: ``data`` survives a reboot, ``run`` does not."""

    __slots__ = ("data", "run")

    def __init__(self, root: str | None = None) -> None:
        root = root or os.environ.get("POC_ROOT")
        self.data, self.run = (os.path.abspath(root), f"{os.path.abspath(root)}/run") if root else _SYSTEM

    @property
    def is_system(self) -> bool:
        """Is this the machine's own store, not one made with ``--root``?"""
        return self.data == _SYSTEM[0]

    def container(self, id: str, name: str = "") -> str:
        return f"{self.data}/containers/{id}/{name}".rstrip("/")

    def runtime(self, id: str, name: str = "") -> str:
        return f"{self.run}/{id}/{name}".rstrip("/")

    def name(self, name: str) -> str:
        return f"{self.data}/names/{name}"

    @property
    def leases(self) -> str:
        return f"{self.run}/leases"

    @property
    def cache(self) -> str:
        return f"{self.run}/seccomp"

    def make(self) -> None:
        """Make the directories; 0700, because what containers wrote must not be reachable by the host's users."""
        for directory in (f"{self.data}/containers", f"{self.data}/names", self.leases, self.cache):
            os.makedirs(directory, 0o700, exist_ok=True)
        os.chmod(self.data, 0o711)

    def ids(self) -> Iterator[str]:
        """The ids of all containers that exist."""
        try:
            names = os.listdir(f"{self.data}/containers")
        except FileNotFoundError:
            return
        yield from (name for name in names if os.path.exists(self.container(name, "container.json")))

    def find(self, reference: str) -> str:
        """The id for a name, an id or a unique prefix of one. Raises ContainerNotFound, or Conflict when ambiguous."""
        if reference and "/" not in reference and "\0" not in reference:
            try:
                return os.readlink(self.name(reference))
            except OSError:
                pass  # not a name
            matches = [id for id in self.ids() if id.startswith(reference)]
            if len(matches) > 1:
                raise Conflict(f"the id prefix {reference} is ambiguous: {len(matches)} containers have it")
            if matches:
                return matches[0]
        raise ContainerNotFound(reference)


class Lock:
    """A container's lock, as a descriptor that forked children share."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, directory: str, patience: float = _PATIENCE) -> Lock | None:
        """The lock, or None when its holder does not let go in time. Raises FileNotFoundError when all is gone."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if fd < 3:  # the caller has closed its own streams; the monitor, who gets this, is about to
            low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(fd)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return None
            time.sleep(0.005)

    def hand_over(self) -> None:
        """It is now the forked child's alone."""
        os.close(self.fd)

    def release(self) -> None:
        # Explicitly: a child that another thread forked meanwhile may hold a copy of the descriptor.
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_alive(process: list[int] | None) -> bool:
    """Is the process with this pid *and* this start time still there?"""
    return process is not None and _fs.process_start_time(process[0]) == process[1]


def identity(pid: int) -> list[int] | None:
    """[pid, start time], to be recognised by `is_alive`."""
    started = _fs.process_start_time(pid)
    return None if started is None else [pid, started]


def read_state(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both lines of a state.json, {} for one that is not there."""
    try:
        lines = _fs.read_bytes(path).splitlines()
    except FileNotFoundError:
        return {}, {}
    state, ended = (json.loads(line) for line in [*lines, b"{}", b"{}"][:2])
    return state, ended


def append_end(path: str, ended: dict[str, Any]) -> None:
    """Write the second line of a state.json; content when there is no such file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _fs.write_all(fd, f"\n{json.dumps(ended)}".encode())
    finally:
        os.close(fd)


def read_optional(path: str) -> dict[str, Any]:
    """A JSON object, {} when there is none."""
    try:
        value: dict[str, Any] = _fs.read_json(path)
    except FileNotFoundError:
        return {}
    return value
