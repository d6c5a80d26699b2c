"""Where the engine keeps what, and what state a container is really in.

    <data>/containers/<id>/container.json   what the user asked; written last: with it the container exists
                           config.json      the OCI configuration
                           status.json      how it last ended, or that it was started
                           stopped          it was stopped by hand, and not started since
                           upper/ work/ rootfs/ <id>-json.log
    <data>/names/<name>                     a symlink to the id: made exclusively, it is the name's lock
    <run>/<id>/                             made before anything else of a run, removed after it
               state.json                   pids with their start times, from the moment its program runs
               attach                       the socket of `poc.engine.clients`
               hosts hostname resolv.conf   bound into the container
               guest parents                others use its network; cgroups above its own that it will make
               runtime/                     what another runtime keeps of it (`poc.engine.foreign`)
    <run>/leases/                           addresses

One lock per container: an flock(2) on its directory, held by whoever creates, runs or removes it. The
kernel lets go of it when its holder dies, so a directory in <run> whose lock is free is what a killed
monitor left, and `poc.engine.recovery` clears it away. Status is derived from living processes only.

Who makes a container also shares a lock on <data>; who prunes the store or deletes images has it alone,
so that nothing that a new container needs goes while it is made.
"""

from __future__ import annotations

import fcntl
import os
import time

from poc import _fs
from poc._lean import json
from poc.errors import Conflict, ContainerNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

STOPPED = "stopped"
_SYSTEM = ("/var/lib/poc", "/run/poc")
PATIENCE = 10.0  # seconds to wait for another command that holds a container's lock
_ATTEMPTS, _WRITE_TIME = 5, 0.002  # seconds
_LONG_PATIENCE = 120.0  # for the whole store: until all containers have ended, or one has been made


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
        return f"{self.names}/{name}"

    @property
    def leases(self) -> str:
        return f"{self.run}/leases"

    @property
    def cache(self) -> str:
        return f"{self.run}/seccomp"

    @property
    def names(self) -> str:
        return f"{self.data}/names"

    @property
    def volumes(self) -> str:
        return f"{self.data}/volumes"

    def volume(self, name: str) -> str:
        return f"{self.volumes}/{name}"

    def share(self) -> Lock:
        """Make the directories, and keep the store from being pruned until the lock is released. Raises Conflict."""
        while True:
            os.makedirs(self.data, 0o711, exist_ok=True)
            try:
                lock = Lock.take(self.data, _LONG_PATIENCE, shared=True)
            except FileNotFoundError:
                continue  # pruned just now
            if lock is None:
                raise Conflict(f"{self.data} is in use: another command prunes it or removes images")
            self.make()
            return lock

    def alone(self) -> Lock:
        """Have the store for oneself: nothing is being made in it. Raises Conflict; FileNotFoundError: no parent."""
        while True:
            try:
                os.mkdir(self.data, 0o711)
            except FileExistsError:
                pass  # as nearly always
            try:
                lock = Lock.take(self.data, _LONG_PATIENCE)
            except FileNotFoundError:
                continue  # pruned just now
            if lock is None:
                raise Conflict(f"{self.data} is in use: another command makes an image or containers")
            return lock

    def make(self) -> None:
        """Make the directories; 0700, because what containers wrote must not be reachable by the host's users."""
        for directory in (f"{self.data}/containers", self.names, self.leases, self.cache):
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                pass  # as nearly always
            except FileNotFoundError:
                os.makedirs(directory, 0o700, exist_ok=True)
        os.chmod(self.data, 0o711)

    def has(self, id: str) -> bool:
        """Does this container exist? An empty file is what a power cut leaves of one that was just being made."""
        try:
            return os.stat(self.container(id, "container.json")).st_size > 0
        except FileNotFoundError:
            return False

    def ids(self) -> Iterator[str]:
        """The ids of all containers that exist."""
        return (id for id in listed(f"{self.data}/containers") if self.has(id))

    def find(self, reference: str) -> str:
        """The id for a name, an id or a unique prefix of one. Raises ContainerNotFound, or Conflict when ambiguous.

        A name may begin with a slash, as inspect shows it.
        """
        wanted = reference.removeprefix("/")
        if wanted and "/" not in wanted and "\0" not in wanted:
            try:
                return os.readlink(self.name(wanted))
            except OSError:
                pass  # not a name
            matches = [id for id in self.ids() if id.startswith(wanted)]
            if len(matches) > 1:
                raise Conflict(f"the id prefix {wanted} is ambiguous: {len(matches)} containers have it")
            if matches:
                return matches[0]
        raise ContainerNotFound(reference)


class Lock:
    """A lock on a directory, as a descriptor that forked children share."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, directory: str, patience: float = PATIENCE, shared: bool = False) -> Lock | None:
        """The lock, or None when its holder does not let go in time. Raises FileNotFoundError when all is gone."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if fd < 3:  # the caller has closed its own streams; the monitor, who gets this, is about to
            low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        try:
            if _flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, patience):
                # Its last holder may have deleted it, and another made it anew: then this lock is nobody's.
                if os.path.samestat(os.fstat(fd), os.stat(directory)):
                    return cls(fd)
                raise FileNotFoundError(2, os.strerror(2), directory)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def release(self) -> None:
        """Unlock; also for those who have inherited the descriptor, and may keep it open for longer."""
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            self.hand_over()

    def hand_over(self) -> None:
        """Leave the lock to a forked child."""
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _flock(fd: int, kind: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(0.005)


def read_optional(path: str) -> dict[str, Any]:
    """A JSON object, {} when there is none, or only the empty file that a power cut leaves of a new one.

    Raises ValueError naming the file when it is not JSON.
    """
    for _ in range(_ATTEMPTS):
        try:
            value: dict[str, Any] = json.loads(_fs.read_bytes(path) or b"{}")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            reason = error
            time.sleep(_WRITE_TIME)  # it may just be being overwritten (`_fs.overwrite`)
        else:
            return value
    raise ValueError(f"{path}: {reason}")


def listed(directory: str) -> list[str]:
    """The names in a directory, none when it does not exist."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
