"""The directory that a benchmark works in: all it makes lies there, and whoever was killed is cleaned up after.

A workspace is locked as long as its benchmark runs. One without a lock was left by a benchmark that was killed: the
next one ends what still runs in it, by what stands in its ``undo`` file, and removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time

from poc.bench.command import own_command
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "pb-"  # short: a socket's path has 107 bytes, and the ids in it have 64
DEFAULT_PLACE = "/var/tmp"  # a disk, where /tmp may be memory
_UNMOUNT = 'grep -F " $0/" /proc/self/mountinfo | cut -d" " -f5 | sort -r | xargs -r umount -l'
# Whoever still starts a container in the middle of it (its name has the tag), what runs in the groups, the groups.
_END = """
for attempt in $(seq 100); do
    {
        grep -lsaF "$0" /proc/[0-9]*/cmdline | cut -d/ -f3
        find /sys/fs/cgroup -path "*/$0*" -name cgroup.procs -exec cat {} +
    } | grep -vxF $$ | xargs -r kill -9
    find /sys/fs/cgroup -depth -type d -path "*/$0*" -exec rmdir {} +
    [ -n "$(find /sys/fs/cgroup -type d -path "*/$0*")" ] || exit 0
    sleep 0.1
done
"""
# The bridges of stores of poc's, whoever made them, once nobody starts a container on them any more.
_REMOVE_BRIDGES = (
    'for at in "$0"/poc/networks "$0"/network/networks; do [ ! -d "$at" ] || "$@" --root "${at%/*}" prune --force; done'
)
_PATIENCE = 30.0  # seconds for one undo


class Workspace:
    """One benchmark's directory, ``path``. ``tag`` is in the names of all its containers. Raises InvalidArgument."""

    def __init__(self, place: str | None = None) -> None:
        place = place or DEFAULT_PLACE
        if not os.path.isdir(place):
            raise InvalidArgument(f"no directory {place} to work in")
        clean(place)
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        os.chmod(self.path, 0o711)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

        self.tag = f"poc-bench-{os.urandom(4).hex()}"
        self.undo("sh", "-c", _UNMOUNT, self.path)
        self.undo("sh", "-c", _REMOVE_BRIDGES, self.path, *own_command())
        self.undo("sh", "-c", _END, self.tag)

    def directory(self, name: str) -> str:
        """A directory in it, made when it is first asked for."""
        path = f"{self.path}/{name}"
        os.makedirs(path, exist_ok=True)
        return path

    def undo(self, *command: str) -> None:
        """Note, before a thing is made, the command that takes it away should this process be killed."""
        with open(f"{self.path}/undo", "ab") as file:
            file.write(json.dumps(command).encode() + b"\n")

    def close(self) -> None:
        """Carry out what is noted, latest first, and remove the directory; an interrupt makes it begin again."""
        try:
            _remove(self.path)
        except BaseException:
            _remove(self.path)
            raise
        finally:
            os.close(self._lock)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def clean(place: str) -> list[str]:
    """Remove the workspaces in ``place`` of benchmarks that were killed; returns their paths."""
    removed = []
    for name in os.listdir(place) if os.path.isdir(place) else ():
        path = f"{place}/{name}"
        if name.startswith(PREFIX) and _is_left(path):
            _remove(path)
            removed.append(path)
    return removed


def _is_left(path: str) -> bool:
    """Is it a workspace, and nobody's any more? In a place where anybody may write, only what is ours is believed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022 or not os.path.isfile(f"{path}/undo"):
            return False
        if time.time() - found.st_ctime < 1:
            return False  # just made, and about to be locked
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _remove(path: str) -> None:
    for command in reversed(_noted(path)):
        _carry_out(command)
    shutil.rmtree(path, ignore_errors=True)


def _noted(path: str) -> list[list[str]]:
    try:
        with open(f"{path}/undo", "rb") as file:
            return [json.loads(line) for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        return []


def _carry_out(command: Sequence[str]) -> None:
    """What it takes away may be gone already: that it fails is no news."""
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        pass
