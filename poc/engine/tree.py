"""A container's files, from outside: those it sees, its root file system alone, or what it has written.

    runs        what it sees is below the root of its mount namespace, which is opened there and looked at from here;
                its root alone is a copy of that mount, without those on it
    stopped     the overlay is mounted in a mount namespace of the process that reads it, with the volumes where the
                whole is wanted; the container's lock is held, so that it is not started over the same directories

Nothing of this is on the host's mount table, and all of it goes with the process that uses it. That process never
leaves the host's root: every path is resolved below a descriptor (openat2(2), RESOLVE_IN_ROOT), so neither a symlink
that a container puts in place of a directory meanwhile (CVE-2018-15664) nor a library of its (CVE-2019-14271) counts.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from poc import _fs, _libc, namespaces, rootfs
from poc.engine.changes import changes
from poc.errors import Conflict, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poc.engine.container import Container

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_PATIENCE = 60.0  # seconds, for another command that uses the files of the stopped container
_LOOP = "/sys/block"


class Tree:
    """The files of one container, from now on. A context manager; what it opens is for a process of its own."""

    __slots__ = ("_container", "_lock", "_namespace")

    def __init__(self, container: Container) -> None:
        """Raises Conflict when another command has the stopped container, ContainerNotFound."""
        self._container = container
        self._namespace = -1
        self._lock = container.hold(_PATIENCE)
        if self._lock is None:
            self._open_running(container.living_process())

    def _open_running(self, first: tuple[int, int]) -> None:
        if self._container.is_apart:
            return  # what it has written can be read all the same
        try:
            self._namespace = os.open(f"/proc/{first[0]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            if _fs.identity(first[0]) == list(first):
                return
        except (FileNotFoundError, ProcessLookupError):
            pass
        self.close()
        raise Conflict(f"container {self._container.name} has ended just now")

    @property
    def runs(self) -> bool:
        """Or is it kept from running, as long as this is open?"""
        return self._lock is None

    def close(self) -> None:
        """Let it be started again."""
        if self._namespace >= 0:
            os.close(self._namespace)
        self._namespace = -1
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def descriptors(self) -> tuple[int, ...]:
        """Those that a forked child must keep."""
        return tuple({self._namespace, self._lock.fd if self._lock else -1} - {-1})

    # ── for a process of its own ─────────────────────────────────────────────────────────────────────

    def open_whole(self, writing: bool = False) -> int:
        """Its root as it sees it, volumes and all: a descriptor. Raises OSError."""
        if self.runs:
            return self._there(lambda: os.open("/", _PLACE))
        root = self._mount(writing)
        bundle = self._container.bundle
        for wanted in bundle.bound():
            mount = rootfs.Mount(wanted["destination"], "bind", wanted["source"], wanted["options"])
            mount.tree = bundle.trees.pop(wanted["source"], -1)
            try:
                mount.apply(root)
            except OSError as error:
                if writing or error.errno != errno.EROFS:
                    raise  # else there is no room for a mount point, and there was none
        if self._container.config.read_only:
            _libc.mount_setattr(root, set=_libc.MOUNT_ATTR_RDONLY)
        return root

    def open_root(self) -> int:
        """Its root file system, without what is mounted in it. Raises OSError."""
        return self._there(lambda: _libc.open_tree("/")) if self.runs else self._mount(writing=False)

    def _mount(self, writing: bool) -> int:
        namespaces.leave(["mount"])
        rootfs.detach_propagation()
        place = self._container.paths.container(self._container.id, "rootfs")
        try:
            rootfs.Overlay(**self._container.bundle.overlay()).mount(place)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            if writing:
                raise OSError(errno.ENOSPC, f"{place}: {os.strerror(errno.ENOSPC)}") from None
            # It is mounted, but on a full disk overlayfs can't make what it needs to write.
        return os.open(place, _PLACE)

    def _there(self, call: Callable[[], int]) -> int:
        """Its mount namespace has its root, whatever its first process has chosen for its own; one call, and back."""
        if self._namespace < 0:
            raise Unsupported(
                f"container {self._container.name} runs in a machine of its own, whose files can't be reached;"
                " stop it first"
            )
        here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        host = os.open("/", _PLACE)
        try:
            _libc.setns(self._namespace)
            try:
                return call()
            finally:
                _libc.setns(here)
                os.fchdir(host)
                os.chroot(".")
        finally:
            os.close(here)
            os.close(host)

    # ── for any process ──────────────────────────────────────────────────────────────────────────────

    def open_upper(self) -> int:
        """The directory that holds what it has written over its image, in overlayfs's own form. Raises OSError."""
        overlay = self._container.bundle.overlay()
        if overlay["disk"] is None:
            return os.open(overlay["upper"], _PLACE)
        disk = self._open_used_disk(overlay["disk"]) if self.runs else rootfs.open_disk(overlay["disk"])
        try:
            return os.open("upper", _PLACE, dir_fd=disk)
        except FileNotFoundError:
            return os.open(self._container.paths.container(self._container.id, "upper"), _PLACE)  # never started
        finally:
            os.close(disk)

    def changes(self) -> list[tuple[str, int]]:
        """See `poc.engine.changes.changes`."""
        with ExitStack() as undo:
            upper = self.open_upper()
            undo.callback(os.close, upper)
            layers = []
            for path in self._layers():
                layers.append(os.open(path, _PLACE))
                undo.callback(os.close, layers[-1])
            return changes(upper, layers)

    def _layers(self) -> Sequence[str]:
        layers: Sequence[str] = self._container.bundle.overlay()["lower"]
        return layers

    def _open_used_disk(self, image: str) -> int:
        # Through a second loop device the kernel would keep a second, different view of the same file system.
        for name in os.listdir(_LOOP):
            try:
                if os.path.samefile(_fs.read_text(f"{_LOOP}/{name}/loop/backing_file"), image):
                    attributes = _libc.MOUNT_ATTR_NODEV | _libc.MOUNT_ATTR_NOSUID | _libc.MOUNT_ATTR_RDONLY
                    return _libc.new_mount("ext4", {}, f"/dev/{name}", attributes)
            except OSError:
                continue  # not in use, or another's just now
        raise Conflict(f"container {self._container.name} has ended just now")
