"""Namespaces that a container shares with another one: `--network`, `--pid` and `--ipc` ``container:…``.

With its IPC namespace goes the other's /dev/shm, a mount in the other's mount namespace, from where a process of ours
fetches a copy. The other one is to know that somebody uses its network (`Networks.note_guest`): its interface would
outlive it in a namespace that others are in.
"""

from __future__ import annotations

import os

from poc import _fs, _libc
from poc._lean import socket
from poc.errors import Conflict, ContainerNotFound, InvalidArgument, PocError, SetupError, Unsupported
from poc.namespaces import FLAGS, PROC_NAMES, fork, reap, run_and_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine import Engine
    from poc.engine.config import ContainerConfig
    from poc.engine.container import Container
    from poc.oci.types import Namespace, Spec

# Field of the configuration: OCI namespace, and what docker says when it can't be joined.
_MODES = {
    "network": ("network", "cannot join network of a non running container"),
    "pid_mode": ("pid", "failed to join PID namespace"),
    "ipc_mode": ("ipc", "failed to join IPC namespace"),
}
_PREFIX = "container:"
_SHM = "/dev/shm"
_TMPFS_MAGIC = 0x01021994


def settle(engine: Engine, config: ContainerConfig) -> None:
    """Put the ids of the containers in the place of their names; they must exist. Raises PocError."""
    for field in _MODES:
        reference = config.values[field].removeprefix(_PREFIX)
        if reference == config.values[field]:
            continue
        try:
            other = engine.containers.get(reference)
        except ContainerNotFound as error:
            raise InvalidArgument(str(error)) from None
        if field == "network":
            _check_network(config, other)
            while other.config.network.startswith(_PREFIX):  # whose network is another's again
                other = engine.containers.get(other.config.network.removeprefix(_PREFIX))
        elif field == "ipc_mode":
            _check_ipc(other)
        config.values[field] = f"{_PREFIX}{other.id}"


def _check_network(config: ContainerConfig, other: Container) -> None:
    if other.config.network == "host" and any(key.startswith("net.") for key in config.sysctls):
        raise InvalidArgument(f"--sysctl: net.* would be the host's, whose network container {other.name} uses")


def _check_ipc(other: Container) -> None:
    if other.config.ipc_mode in ("", "none", "private"):
        why = "non-shareable IPC (start it with --ipc shareable)"
        raise Unsupported(f"cannot join IPC namespace of container {other.name}: {why}")


class Joined:
    """What was opened for one start: ``namespaces``, {OCI name: descriptor}, and ``trees``, {source: mount}."""

    __slots__ = ("namespaces", "trees")

    def __init__(self) -> None:
        self.namespaces: dict[str, int] = {}
        self.trees: dict[str, int] = {}

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (*self.namespaces.values(), *self.trees.values()):
            os.close(fd)

    def put_into(self, spec: Spec) -> Spec:
        """The same with the paths of the namespaces, which are good as long as these are open."""
        entries: list[Namespace] = []
        for entry in spec["linux"]["namespaces"]:
            fd = self.namespaces.get(entry["type"])
            entries.append(entry if fd is None else {**entry, "path": f"/proc/{os.getpid()}/fd/{fd}"})
        return {**spec, "linux": {**spec["linux"], "namespaces": entries}}


def join(engine: Engine, config: ContainerConfig) -> Joined:
    """Open the namespaces of the other containers, which must run. Raises PocError and OSError."""
    joined = Joined()
    try:
        for field in _MODES:
            if config.values[field].startswith(_PREFIX):
                _open(engine, joined, config, field)
    except BaseException:
        joined.__exit__()
        raise
    return joined


def shm_of(config: ContainerConfig) -> str:
    """What stands for another container's /dev/shm as the source of a mount; there is no such path."""
    return f"{config.ipc_mode}{_SHM}"


def _open(engine: Engine, joined: Joined, config: ContainerConfig, field: str) -> None:
    kind, failure = _MODES[field]
    id = config.values[field].removeprefix(_PREFIX)
    try:
        other = engine.containers.get(id)
        pid, _ = first = other.living_process()
        if other.is_apart:
            raise Unsupported(f"{other.config.runtime} does not run containers as processes of this host")
        if kind == "network":
            engine.networks.note_guest(id)
        joined.namespaces[kind] = os.open(f"/proc/{pid}/ns/{PROC_NAMES[kind]}", os.O_RDONLY | os.O_CLOEXEC)
        if kind == "ipc":
            joined.trees[shm_of(config)] = _copy_shm(pid)
        if other.living_process() != first:
            raise Conflict(f"container {id} is not running")
    except FileNotFoundError:
        raise SetupError(f"{failure}: container {id} has just ended") from None
    except PocError as error:
        raise SetupError(f"{failure}: {error}") from None


def _copy_shm(pid: int) -> int:
    """A detached mount of a process's /dev/shm: it can be copied only in the mount namespace where it is."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        child = fork()
        if child == 0:
            run_and_exit(lambda: _lend_shm(namespace, theirs))
        theirs.close()
        said, fds, _, _ = socket.recv_fds(ours, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        reap(child)
    finally:
        os.close(namespace)
        ours.close()
        theirs.close()
    if not fds:
        raise Conflict(f"its {_SHM}: {said.decode(errors='replace') or 'the process that fetches it was killed'}")
    fd: int = fds[0]
    return fd


def _lend_shm(namespace: int, to: Any) -> None:
    # From within, nobody may trace us nor read our descriptors (CVE-2016-9962).
    _libc.prctl(_libc.PR_SET_DUMPABLE, 0)
    try:
        _libc.setns(namespace, FLAGS["mount"])
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        strict = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS
        place = _libc.openat2(root, _SHM.lstrip("/"), os.O_PATH | os.O_DIRECTORY, strict)
        if _libc.filesystem_type(place) != _TMPFS_MAGIC:
            raise OSError(19, "is no tmpfs any more")
        socket.send_fds(to, [b"-"], [_libc.open_tree("", directory=place)])
    except OSError as error:
        _fs.write_all(to.fileno(), str(error.strerror).encode())
