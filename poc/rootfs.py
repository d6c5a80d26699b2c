"""The container's file system: an overlay, a plan of mounts, and `pivot_root`.

A plan is a list of operations made from an OCI configuration by a pure function (`plan`); applying one
means calling ``apply(root_fd)`` on each in order, inside the container's own mount namespace::

    clone(["mount"])
      └─ detach_propagation()         nothing mounted from here on reaches the host
         Overlay(...).mount(root)     the image's layers below a writable one
         for step in plan(spec): step.apply(root_fd)
         enter(root)                  pivot_root, old root gone

Every target is a path that the image may have prepared, so it is resolved with openat2(2) and
RESOLVE_IN_ROOT and mounted on by descriptor: a symlink to ``/`` leads to the container's own root.
Knows nothing of processes, networks or limits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from poc import _fs, _libc
from poc._libc import (
    MNT_DETACH,
    MS_BIND,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_MOVE,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Protocol

    class Step(Protocol):
        """One operation of a plan. ``root_fd`` is an O_PATH descriptor of the container's root."""

        def apply(self, root_fd: int) -> None: ...


# mount(8): the option that sets a flag, the one that clears it, the flag
_SWITCHES = (
    ("ro", "rw", MS_RDONLY),
    ("nosuid", "suid", MS_NOSUID),
    ("nodev", "dev", MS_NODEV),
    ("noexec", "exec", MS_NOEXEC),
    ("sync", "async", MS_SYNCHRONOUS),
    ("mand", "nomand", MS_MANDLOCK),
    ("noatime", "atime", MS_NOATIME),
    ("nodiratime", "diratime", MS_NODIRATIME),
    ("relatime", "norelatime", MS_RELATIME),
    ("strictatime", "nostrictatime", MS_STRICTATIME),
    ("lazytime", "nolazytime", MS_LAZYTIME),
    ("nosymfollow", "symfollow", MS_NOSYMFOLLOW),
    ("silent", "loud", MS_SILENT),
)
# mount(8) option: (flags set, flags cleared)
_FLAGS = {"defaults": (0, 0), "dirsync": (MS_DIRSYNC, 0), "bind": (MS_BIND, 0), "rbind": (MS_BIND | MS_REC, 0)}
_FLAGS.update((on, (flag, 0)) for on, _, flag in _SWITCHES)
_FLAGS.update((off, (0, flag)) for _, off, flag in _SWITCHES)
PROPAGATION = {"private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED, "unbindable": MS_UNBINDABLE}
PROPAGATION.update([("r" + name, flag | MS_REC) for name, flag in PROPAGATION.items()])
# mount(2) flag: the mount_setattr(2) attribute, for what can be set on a detached bind mount
_ATTRIBUTES = {
    MS_RDONLY: 1,
    MS_NOSUID: 2,
    MS_NODEV: 4,
    MS_NOEXEC: 8,
    MS_NODIRATIME: 0x80,
    MS_NOSYMFOLLOW: 0x200000,
    MS_NOATIME: 0x10,
    MS_STRICTATIME: 0x20,
    MS_RELATIME: 0,
}
_ATIME_MASK = 0x70
_ATIME_FLAGS = MS_NOATIME | MS_STRICTATIME | MS_RELATIME
# config-linux.md's "rro" and the like: (set, cleared) attributes for a mount and all below it
_RECURSIVE = {}
for _on, _off, _flag in _SWITCHES:
    if _flag in _ATTRIBUTES:
        _mask = _ATIME_MASK if _flag & _ATIME_FLAGS else 0
        _RECURSIVE["r" + _on] = (_ATTRIBUTES[_flag], _mask)
        _RECURSIVE["r" + _off] = (0, _mask or _ATTRIBUTES[_flag])
# What a bind mount is told in vain (mount(2): data is ignored), and configurations tell it nevertheless.
_TMPFS_OPTIONS = ("mode=", "size=", "nr_inodes=", "nr_blocks=", "uid=", "gid=")
_IDMAP = {"idmap": 0, "ridmap": MS_REC}
OPTIONS = (*_FLAGS, *PROPAGATION, *_RECURSIVE, *_IDMAP, "tmpcopyup")  # that are poc's, not the file system's

DEV_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
)
DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_PROC_ROOT_INODE = 1
_DEVICE_OPTIONS = ("nosuid", "noexec")
_NULL_DEVICE = os.makedev(1, 3)
# What lxcfs and the like give a container its own of (the same files as runc's).
_PROC_FILES = ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev")


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH) -> int:
    """Open a path as a process chrooted to ``root_fd`` would find it, symlinks included (openat2(2))."""
    return _libc.openat2(root_fd, path.lstrip("/") or ".", flags, RESOLVE_IN_ROOT)


def write_proc(root_fd: int, path: str, value: str) -> None:
    """Write to a file of the procfs on /proc below ``root_fd``, never to what lies there in its place or over it.

    CVE-2025-52881: otherwise it could be sent to /proc/sysrq-trigger, or to any file. Raises OSError naming the file.
    """
    try:
        proc = open_in_root(root_fd, "/proc")
        try:
            if _libc.filesystem_type(proc) != PROC_SUPER_MAGIC or os.fstat(proc).st_ino != _PROC_ROOT_INODE:
                raise OSError(errno.ENODEV, "there is no procfs")
            beneath = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
            fd = _libc.openat2(proc, path, os.O_WRONLY, beneath)
        finally:
            os.close(proc)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"write {value!r} to /proc/{path}: {os.strerror(error.errno or 0)}") from None


def make_in_root(root_fd: int, path: str, directory: bool = True) -> int:
    """Like `open_in_root`, and makes what is missing: parents as directories, the last as asked.

    Of a symlink that leads nowhere, such as /etc/resolv.conf in the image of a system with systemd, it makes the end.
    """
    path = os.path.normpath("/" + path).lstrip("/")
    try:
        return open_in_root(root_fd, path)
    except FileNotFoundError:
        pass  # the common case is that it is there
    parent_path, name = os.path.split(path)
    parent = make_in_root(root_fd, parent_path)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
        return _libc.openat2(parent, name, os.O_PATH, RESOLVE_NO_SYMLINKS)
    except FileExistsError:
        return make_in_root(root_fd, _link_target(root_fd, parent, name), directory)
    finally:
        os.close(parent)


def _link_target(root_fd: int, parent: int, name: str) -> str:
    """Where a symlink leads, as a path from the root."""
    root, here = (os.readlink(proc_path(fd)) for fd in (root_fd, parent))
    return os.path.join(here.removeprefix(root), os.readlink(name, dir_fd=parent))


def proc_path(fd: int) -> str:
    """A path that names what an O_PATH descriptor refers to, for calls that take no descriptor."""
    return f"/proc/self/fd/{fd}"


def spare_proc(target: int, name: str) -> None:
    """Refuse to mount there. CVE-2019-16884: over a false /proc a program would be told a wrong confinement."""
    if _libc.filesystem_type(target) != PROC_SUPER_MAGIC:
        return
    if os.readlink(proc_path(target)).rpartition("/proc/")[2] not in _PROC_FILES:
        raise InvalidArgument(f"mount on {name}: nothing may hide what the kernel tells in /proc")


class Mount:
    """One OCI mount (config-linux.md, Mounts): where from, where to, and its options taken apart.

    ``flags`` and ``cleared`` are mount(2) flags, ``propagation`` a tuple of them, ``data`` what is left
    for the file system itself. ``recursive`` are pairs of attributes for mount_setattr(2). With ``copy_up``
    a new file system begins with what the image has at its target. ``idmap`` is None, 0, or MS_REC for all that is
    mounted below the source too, and ``mappings`` how then, as (uidMappings, gidMappings); see `map_ids`.
    """

    __slots__ = (
        *("cleared", "copy_up", "data", "flags", "idmap", "kind", "mappings", "propagation", "recursive"),
        *("source", "target", "tree"),
    )

    def __init__(
        self,
        target: str,
        kind: str,
        source: str | None = None,
        options: Iterable[str] = (),
        mappings: tuple[Any, Any] | None = None,
    ) -> None:
        self.target = target
        self.kind = kind
        self.source = source
        self.flags = MS_BIND if kind == "bind" else 0
        self.cleared = 0
        self.tree = -1
        self.copy_up = False
        self.mappings = mappings
        self.idmap = None if mappings is None else 0
        propagation = []
        recursive = []
        data = []
        for option in options:
            if option in _FLAGS:
                on, off = _FLAGS[option]
                self.flags = (self.flags | on) & ~off
                self.cleared = (self.cleared | off) & ~on
            elif option in PROPAGATION:
                propagation.append(PROPAGATION[option])
            elif option in _RECURSIVE:
                recursive.append(_RECURSIVE[option])
            elif option == "tmpcopyup":
                self.copy_up = True
            elif option in _IDMAP:
                self.idmap = _IDMAP[option]
            else:
                data.append(option)
        self.propagation = tuple(propagation)
        self.recursive = tuple(recursive)
        if self.flags & MS_BIND:
            data = [option for option in data if not option.startswith(_TMPFS_OPTIONS)]
        self.data = ",".join(data)
        if self.copy_up and kind != "tmpfs":
            raise InvalidArgument(f"mount {target}: tmpcopyup is for tmpfs, not for {kind}")
        if self.idmap is not None and not self.flags & MS_BIND:
            raise InvalidArgument(f"mount {target}: ids are mapped in bind mounts, not in {kind}")
        if self.data and self.flags & MS_BIND:
            raise InvalidArgument(f"mount {target}: {self.data} means nothing for a bind mount")

    def open_source(self, private: bool = False) -> None:
        """Open what is to be bound, for an `apply` that may no longer be let into its directory. Raises OSError.

        With ``private`` nothing that is mounted below it will reach it, nor leave it.
        """
        if self.flags & MS_BIND and self.tree < 0:
            self.tree = _libc.open_tree(self.source or "", recursive=bool(self.flags & MS_REC))
            if private:
                _libc.mount_setattr(self.tree, propagation=MS_PRIVATE, recursive=True)

    def close_source(self) -> None:
        if self.tree >= 0:
            os.close(self.tree)
            self.tree = -1

    def map_ids(self, user_namespace: int) -> None:
        """`open_source`, with the ids of its files mapped as in a user namespace (mount_setattr(2), ID-mapped mounts).

        For a caller with CAP_SYS_ADMIN over the file system, so not in a user namespace. Raises OSError.
        """
        try:
            self.open_source(private=True)
            recursive = self.idmap == MS_REC
            _libc.mount_setattr(self.tree, _libc.MOUNT_ATTR_IDMAP, recursive=recursive, userns_fd=user_namespace)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            if error.errno == errno.EINVAL:
                reason = "this file system does not know that, or its ids are mapped already"
            raise OSError(error.errno, f"map ids of {self.source} on {self.target}: {reason}") from None

    def is_public(self) -> bool:
        """May everybody pass through the directories above what is to be bound?"""
        path = os.path.realpath(self.source or "") if self.flags & MS_BIND else "/"
        while path != "/":
            path = os.path.dirname(path)
            if not os.stat(path).st_mode & stat.S_IXOTH:
                return False
        return True

    def is_root(self) -> bool:
        """Does it cover the container's root itself?"""
        return not self.target.strip("/")

    def apply(self, root_fd: int) -> None:
        """Mount it below ``root_fd``. Raises OSError naming source and target."""
        try:
            if self.flags & MS_BIND:
                self._bind(root_fd)
            else:
                try:
                    self._mount(root_fd)
                except PermissionError:
                    if self.kind != "sysfs":
                        raise
                    self._borrow_sys(root_fd)
            self._propagate(root_fd)
        except OSError as error:
            what = f"bind {self.source}" if self.flags & MS_BIND else self.kind
            options = f" with {self.data}" if self.data else ""
            reason = os.strerror(error.errno or 0)
            raise OSError(error.errno, f"mount {what} on {self.target}{options}: {reason}") from None

    def _mount(self, root_fd: int) -> None:
        data = self.data
        if self.kind == "tmpfs" and "mode=" not in data:
            data = self._with_mode(root_fd)
        target = self._own_directory(root_fd) if self.kind in ("proc", "sysfs") else make_in_root(root_fd, self.target)
        try:
            if self.kind != "proc":
                spare_proc(target, self.target)
            flags = self.flags & ~MS_RDONLY if self.copy_up else self.flags
            _libc.mount(self.source or self.kind, proc_path(target), self.kind, flags, data or None)
            if self.copy_up:
                self._copy_up(root_fd, target)
        finally:
            os.close(target)
        if self.recursive:
            target = open_in_root(root_fd, self.target)
            self._change_below(target)
            os.close(target)

    def _borrow_sys(self, root_fd: int) -> None:
        # It shows a network namespace, which a user namespace that does not own it may not mount. As in crun.
        self.source = "/sys"
        self.flags |= MS_BIND | MS_REC
        self.recursive = (*self.recursive, self.attributes() or (0, 0))  # what is mounted below it is the host's, too
        self._bind(root_fd)

    def _with_mode(self, root_fd: int) -> str:
        """The options with the mode of the directory that a tmpfs is to cover, as in runc."""
        try:
            covered = open_in_root(root_fd, self.target)
        except FileNotFoundError:
            return self.data
        mode = f"mode={stat.S_IMODE(os.fstat(covered).st_mode):o}"
        os.close(covered)
        return f"{self.data},{mode}" if self.data else mode

    def _copy_up(self, root_fd: int, hidden: int) -> None:
        # Through "." of the directory below the mount: its own path leads to the mount now.
        source = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=hidden)
        mounted = open_in_root(root_fd, self.target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _fs.copy_tree(source, mounted)
            if "mode=" not in self.data:
                _fs.copy_attributes(source, mounted)
            if self.flags & MS_RDONLY:
                _libc.mount_setattr(mounted, set=_libc.MOUNT_ATTR_RDONLY)
        finally:
            os.close(source)
            os.close(mounted)

    def _own_directory(self, root_fd: int) -> int:
        # CVE-2019-19921: an image whose /proc is a symlink could have it mounted elsewhere, and then
        # write its own "/proc/self/attr/exec". These two go on a real directory or nowhere.
        os.close(make_in_root(root_fd, self.target))
        path = self.target.lstrip("/")
        return _libc.openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)

    def _bind(self, root_fd: int) -> None:
        self.open_source()
        tree, self.tree = self.tree, -1
        try:
            if attributes := self.attributes():
                _libc.mount_setattr(tree, *attributes)
            self._change_below(tree)
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            target = make_in_root(root_fd, self.target, directory)
            try:
                self._check_target(root_fd, target, directory)
                if _libc.filesystem_type(tree) != PROC_SUPER_MAGIC:
                    spare_proc(target, self.target)
                _libc.move_mount(tree, target)
            finally:
                os.close(target)
        finally:
            os.close(tree)

    def _check_target(self, root_fd: int, target: int, directory: bool) -> None:
        found = os.fstat(target)
        if os.path.samestat(found, os.fstat(root_fd)) and not self.is_root():
            raise InvalidArgument(f"mount bind {self.source}: {self.target} leads to the container's root")
        if stat.S_ISDIR(found.st_mode) != directory:  # for move_mount(2) no more than an invalid argument
            raise NotADirectoryError(20, "") if directory else IsADirectoryError(21, "")

    def attributes(self) -> tuple[int, int] | None:
        """(set, cleared) for mount_setattr(2), None when nothing changes."""
        on = off = 0
        for flag, attribute in _ATTRIBUTES.items():
            on |= attribute if self.flags & flag else 0
            off |= attribute if self.cleared & flag else 0
        if self.flags & _ATIME_FLAGS:
            off |= _ATIME_MASK  # EINVAL unless the whole mask is cleared when one of the atime modes is set
        return (on, off) if on or off else None

    def _change_below(self, mount: int) -> None:
        for on, off in self.recursive:
            _libc.mount_setattr(mount, on, off, recursive=True)

    def _propagate(self, root_fd: int) -> None:
        for flag in self.propagation:
            target = open_in_root(root_fd, self.target)
            try:
                _libc.mount(None, proc_path(target), None, flag)
            finally:
                os.close(target)


class Device:
    """A device node made with mknod(2), as in OCI ``linux.devices``."""

    __slots__ = ("gid", "mode", "path", "rdev", "uid")

    def __init__(
        self, path: str, kind: str, major: int = 0, minor: int = 0, mode: int = 0o666, uid: int = 0, gid: int = 0
    ) -> None:
        types = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
        self.path = os.path.normpath(path)
        self.mode = types[kind] | stat.S_IMODE(mode)
        self.rdev = 0 if kind == "p" else os.makedev(major, minor)
        self.uid = uid
        self.gid = gid

    def apply(self, root_fd: int) -> None:
        """Make the node, and its parents; a file of that name that is there already stays."""
        directory, name = os.path.split(self.path)
        parent = make_in_root(root_fd, directory)
        try:
            if _make_node(name, self.mode, self.rdev, parent) and (self.uid or self.gid):
                os.chown(name, self.uid, self.gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise OSError(error.errno, f"mknod {self.path}: {_reason(error)}") from None
        finally:
            os.close(parent)


class BoundDevice(Mount):
    """A device for a user namespace: bound from a node that the caller, outside, makes where nobody sees it."""

    __slots__ = ("device", "owner")

    def __init__(self, device: Device, linux: Mapping[str, Any]) -> None:
        super().__init__(device.path, "bind", device.path, _DEVICE_OPTIONS)
        self.device = device
        self.owner = (
            _outside(device.uid, linux.get("uidMappings", ())),
            _outside(device.gid, linux.get("gidMappings", ())),
        )

    def is_public(self) -> bool:
        return False

    def open_source(self, private: bool = False) -> None:
        if self.tree >= 0:
            return
        place = _libc.new_mount("tmpfs", {})
        try:
            os.mknod("node", self.device.mode, self.device.rdev, dir_fd=place)
            os.chmod("node", stat.S_IMODE(self.device.mode), dir_fd=place)  # whatever the umask
            os.chown("node", *self.owner, dir_fd=place)
            self.tree = _libc.open_tree("node", directory=place)
        except OSError as error:
            raise OSError(error.errno, f"mknod {self.target}: {_reason(error)}") from None
        finally:
            os.close(place)


def _outside(id: int, mappings: Iterable[Mapping[str, int]]) -> int:
    """A user's number on the host; the same where it is not mapped."""
    for entry in mappings:
        if 0 <= id - entry["containerID"] < entry["size"]:
            return entry["hostID"] + id - entry["containerID"]
    return id


class DefaultDevices:
    """What every container has in /dev, asked for or not (config-linux.md, Default Devices, and runc's links)."""

    __slots__ = ()

    def apply(self, root_fd: int) -> None:
        directory = make_in_root(root_fd, "/dev")
        try:
            for name, major, minor in DEFAULT_DEVICES:
                _make_node(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), directory)
            for name, to in DEV_LINKS:
                _make_link(name, to, directory)
        except OSError as error:
            raise OSError(error.errno, f"fill /dev: {_reason(error)}") from None
        finally:
            os.close(directory)


def _make_node(name: str, mode: int, rdev: int, directory: int) -> bool:
    try:
        os.mknod(name, mode, rdev, dir_fd=directory)
    except FileExistsError:
        return False  # never replaced: it may lie in a directory of the host's
    return True


def _make_link(name: str, to: str, directory: int) -> None:
    try:
        os.symlink(to, name, dir_fd=directory)
    except FileExistsError:
        pass  # an image with its own /dev, bind-mounted


class Link:
    """A symlink; one that is there already stays."""

    __slots__ = ("path", "to")

    def __init__(self, path: str, to: str) -> None:
        self.path = path
        self.to = to

    def apply(self, root_fd: int) -> None:
        directory, name = os.path.split(self.path)
        parent = make_in_root(root_fd, directory)
        try:
            _make_link(name, self.to, parent)
        finally:
            os.close(parent)


class Directories:
    """Directories in the one at ``target``, which is a new file system of ours: made without a look for each."""

    __slots__ = ("names", "target")

    def __init__(self, target: str, names: Sequence[str]) -> None:
        self.target = target
        self.names = names

    def apply(self, root_fd: int) -> None:
        directory = open_in_root(root_fd, self.target)
        try:
            for name in self.names:
                os.mkdir(name, 0o755, dir_fd=directory)
        finally:
            os.close(directory)


class Mask:
    """Hide a path (OCI ``linux.maskedPaths``): /dev/null over a file, an empty read-only tmpfs over a directory."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def apply(self, root_fd: int) -> None:
        try:
            target = open_in_root(root_fd, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return  # not on this kernel
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode):
                cover = _libc.new_mount("tmpfs", {"size": "0k", "nr_inodes": "2", "ro": None}, attributes=MS_RDONLY)
            else:
                cover = _libc.open_tree("/dev/null")
                if os.fstat(cover).st_rdev != _NULL_DEVICE:
                    raise OSError(19, "/dev/null is not the null device")
            _libc.move_mount(cover, target)
            os.close(cover)
        except OSError as error:
            raise OSError(error.errno, f"mask {self.path}: {_reason(error)}") from None
        finally:
            os.close(target)


class Readonly:
    """Make a path read-only with all that is mounted below it (OCI ``linux.readonlyPaths``)."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def apply(self, root_fd: int) -> None:
        try:
            target = open_in_root(root_fd, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return  # not on this kernel
        try:
            tree = _libc.open_tree("", recursive=True, directory=target)
            _libc.mount_setattr(tree, set=_libc.MOUNT_ATTR_RDONLY, recursive=True)
            _libc.move_mount(tree, target)
            os.close(tree)
        except OSError as error:
            raise OSError(error.errno, f"make {self.path} read-only: {_reason(error)}") from None
        finally:
            os.close(target)


class Remount:
    """Change a mount's attributes, such as the root's to read-only."""

    __slots__ = ("attributes", "path")

    def __init__(self, path: str, attributes: int) -> None:
        self.path = path
        self.attributes = attributes

    def apply(self, root_fd: int) -> None:
        # O_PATH descriptors of a path resolve to the topmost mount there; root_fd itself predates nothing on "/".
        fd = open_in_root(root_fd, self.path)
        try:
            _libc.mount_setattr(fd, set=self.attributes)
        finally:
            os.close(fd)


def plan(spec: Mapping[str, Any], hierarchies: Sequence[tuple[str, str, str]] = ()) -> list[Step]:
    """What to do below the root, in order, for an OCI configuration. Pure.

    ``hierarchies`` are this host's cgroup mounts as (name of the directory, v1 mount data or "" for
    cgroup2, host directory of the container's cgroup), for a mount of type ``cgroup``.
    """
    linux = spec.get("linux", {})
    steps: list[Step] = []
    for entry in spec.get("mounts", ()):
        steps.extend(_plan_mount(entry, hierarchies, _has_namespace(linux, "cgroup")))
    if any(_is_bind_on_dev(entry) for entry in spec.get("mounts", ())):
        return steps
    if _has_namespace(linux, "user"):
        # There mknod(2) is refused to everybody; the host's nodes are bound instead (config-linux.md, Devices).
        nodes = [f"/dev/{name}" for name, _, _ in DEFAULT_DEVICES]
        steps.extend(Mount(path, "bind", path, _DEVICE_OPTIONS) for path in nodes)
        others = [_plan_device(entry) for entry in linux.get("devices", ()) if entry["path"] not in nodes]
        steps.extend(BoundDevice(device, linux) for device in others)
        steps.extend(Link(f"/dev/{name}", to) for name, to in DEV_LINKS)
        return steps
    steps.append(DefaultDevices())
    steps.extend(_plan_device(entry) for entry in linux.get("devices", ()))
    return steps


def _is_bind_on_dev(entry: Mapping[str, Any]) -> bool:
    """A /dev that is brought along is complete, and its owner's: nothing is made in it (runc's rule)."""
    options = entry.get("options", ())
    return os.path.normpath(entry["destination"]) == "/dev" and ("bind" in options or "rbind" in options)


def plan_protection(spec: Mapping[str, Any]) -> list[Step]:
    """What to do last of all, once nothing below the root has to be written any more. Pure."""
    linux = spec.get("linux", {})
    steps: list[Step] = [Readonly(path) for path in linux.get("readonlyPaths", ())]
    steps.extend(Mask(path) for path in linux.get("maskedPaths", ()))
    if spec.get("root", {}).get("readonly", False):
        steps.append(Remount("/", _libc.MOUNT_ATTR_RDONLY))
    return steps


def _has_namespace(linux: Mapping[str, Any], kind: str) -> bool:
    return any(namespace["type"] == kind for namespace in linux.get("namespaces", ()))


def _plan_mount(
    entry: Mapping[str, Any], hierarchies: Sequence[tuple[str, str, str]], private_cgroups: bool
) -> list[Step]:
    target, options = entry["destination"], entry.get("options", ())
    kind = entry.get("type") or "none"
    mappings = (entry["uidMappings"], entry["gidMappings"]) if entry.get("uidMappings") else None
    if kind not in ("cgroup", "cgroup2") or mappings:
        return [Mount(target, kind, entry.get("source"), options, mappings)]
    if not any(data for _, data, _ in hierarchies):
        directory = hierarchies[0][2] if hierarchies else ""
        return [_cgroup_mount(target, "", directory, options, private_cgroups)]
    return _plan_cgroup_v1(target, hierarchies, options, private_cgroups)


def _plan_cgroup_v1(
    target: str, hierarchies: Sequence[tuple[str, str, str]], options: Iterable[str], private: bool
) -> list[Step]:
    attributes = [option for option in options if option in _FLAGS and option != "ro"]
    steps: list[Step] = [Mount(target, "tmpfs", "tmpfs", (*attributes, "mode=755"))]
    steps.append(Directories(target, [name for name, _, _ in hierarchies]))
    for name, data, directory in hierarchies:
        steps.append(_cgroup_mount(f"{target}/{name}", data, directory, options, private))
        if "," in name:  # co-mounted controllers are found under each one's name too
            steps.extend(Link(f"{target}/{controller}", name) for controller in name.split(","))
    if "ro" in options:
        steps.append(Remount(target, _libc.MOUNT_ATTR_RDONLY))
    return steps


def _cgroup_mount(target: str, data: str, directory: str, options: Iterable[str], private: bool) -> Mount:
    flags = [option for option in options if option in _FLAGS or option in PROPAGATION]
    if not private:  # without a cgroup namespace a fresh mount would show the host's whole tree
        return Mount(target, "bind", directory, ("bind", *flags))
    kind = "cgroup" if data else "cgroup2"
    return Mount(target, kind, kind, (*flags, data) if data else flags)


def _plan_device(entry: Mapping[str, Any]) -> Device:
    return Device(
        entry["path"],
        entry["type"],
        entry.get("major", 0),
        entry.get("minor", 0),
        entry.get("fileMode", 0o666),
        entry.get("uid", 0),
        entry.get("gid", 0),
    )


class Overlay:
    """An overlay file system (overlayfs.rst): ``lower`` directories, top first, below ``upper`` and ``work``.

    ``disk`` is the path of an ext4 image that holds upper and work instead, so that the container can
    write no more than its size; ``upper`` and ``work`` are then directories at its root's path.
    """

    __slots__ = ("_disk_fd", "disk", "lower", "upper", "work")

    def __init__(self, lower: Sequence[str], upper: str, work: str, disk: str | None = None) -> None:
        self.lower = tuple(lower)
        self.upper = upper
        self.work = work
        self.disk = disk
        self._disk_fd = -1

    def open(self) -> None:
        """Get the disk ready, if there is one. `mount` does it otherwise, but not in a cgroup that denies devices."""
        if self.disk is not None:
            self._disk_fd = open_disk(self.disk)

    def close(self) -> None:
        """Let go of what `open` got; a child that has a copy keeps it."""
        if self._disk_fd >= 0:
            os.close(self._disk_fd)
            self._disk_fd = -1

    def options(self) -> str:
        """The mount data, escaped: backslash for the parser's own ``\\``, ``:`` and ``,``."""
        lower = ":".join(escape_overlay(path) for path in self.lower)
        upper, work = (escape_overlay(path, colon=False) for path in (self.upper, self.work))
        return f"lowerdir={lower},upperdir={upper},workdir={work}"

    def mount(self, target: str) -> None:
        """Mount it on ``target``, in the calling process's mount namespace. Raises OSError."""
        if self.disk is not None:
            self._mount_disk()
        # Whatever the module's defaults: what is in the upper directory is to be understood without the lower ones.
        _libc.mount("overlay", target, "overlay", 0, f"{self.options()},redirect_dir=off,metacopy=off")
        if os.statvfs(target).f_flag & os.ST_RDONLY:
            # overlayfs does that, without a word, when it can make nothing in its work directory.
            raise OSError(30, f"mount overlay on {target}: read-only, as {self.work} can't be used; is the disk full?")

    def _mount_disk(self) -> None:
        if self._disk_fd < 0:
            self.open()
        place = os.open(os.path.dirname(self.upper), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _libc.move_mount(self._disk_fd, place)
        finally:
            os.close(place)
            self.close()
        for directory in (self.upper, self.work):
            os.makedirs(directory, 0o755, exist_ok=True)


def escape_overlay(path: str, colon: bool = True) -> str:
    """Protect what overlayfs's option parser would take for a separator."""
    path = path.replace("\\", "\\\\").replace(",", "\\,")
    return path.replace(":", "\\:") if colon else path


_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LO_FLAGS_AUTOCLEAR, _LO_FLAGS_DIRECT_IO = 4, 16


def open_disk(image: str) -> int:
    """A detached mount of an ext4 image file, as a descriptor for move_mount(2).

    Its loop device frees itself with its last mount (loop(4), autoclear).
    """
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        loop, path = _attach_loop(backing)
    finally:
        os.close(backing)
    try:
        return _libc.new_mount("ext4", {}, path, _libc.MOUNT_ATTR_NODEV | _libc.MOUNT_ATTR_NOSUID)
    finally:
        os.close(loop)


def _attach_loop(backing: int) -> tuple[int, str]:
    # struct loop_config: fd, block size, struct loop_info64 (flags at its byte 52), reserved
    flags = _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO
    config = bytearray(struct.pack("II", backing, 4096) + bytes(232 + 64))
    struct.pack_into("I", config, 8 + 52, flags)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _LOOP_CONFIGURE, bytes(config))
                return loop, path
            except OSError as error:
                os.close(loop)
                if error.errno != 16:
                    raise OSError(error.errno, f"loop device {path}: {_reason(error)}") from None
                # EBUSY: another process took the free device between the two calls
    finally:
        os.close(control)


def detach_propagation(flag: int = MS_PRIVATE | MS_REC) -> None:
    """Let no mount made in this namespace reach the host's (mount_namespaces(7))."""
    _libc.mount(None, "/", None, flag)


def separate(path: str) -> None:
    """Make the mount that ``path`` lies on private, so that what is mounted below it is not shared with anybody."""
    while True:
        try:
            return _libc.mount(None, path, None, MS_PRIVATE)
        except OSError as error:
            if error.errno != errno.EINVAL or path == "/":
                raise
        path = os.path.dirname(path)  # EINVAL: not the root of a mount


def bind_self(path: str) -> None:
    """Make a directory a mount of its own: pivot_root(2) takes nothing else as the new root."""
    _libc.mount(path, path, None, MS_BIND | MS_REC)


def mount_beside(root: str) -> int:
    """Make a container's root a mount in this namespace, for one that has none of its own. Returns its mount id.

    What is mounted in it goes with it (`unmount_from_host`).
    """
    if os.path.samefile(root, "/"):
        raise InvalidArgument(f"/root/path: {root} is everybody's root; that takes a mount namespace of its own")
    bind_self(root)
    _libc.mount(None, root, None, MS_PRIVATE | MS_REC)
    return _mount_id(root)


def unmount_from_host(root: str, mount_id: int) -> None:
    """Undo `mount_beside`, unless that is done already. What the container's processes use they keep."""
    if os.path.isdir(root) and _mount_id(root) == mount_id:
        _libc.umount(root, MNT_DETACH)


def _mount_id(path: str) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return int(_fs.read_text(f"/proc/self/fdinfo/{fd}").partition("mnt_id:")[2].split()[0])
    finally:
        os.close(fd)


def confine(root: int) -> None:
    """chroot(2) to a directory: all there is where the mount namespace is everybody's."""
    os.chdir(root)
    os.chroot(".")


def enter(root: str | int) -> None:
    """Make ``root``, a path or a descriptor, this namespace's root and let go of the old one (pivot_root(2), NOTES)."""
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(root)
    _libc.pivot_root(".", ".")
    # Both roots are stacked on "/" now, the old one on top. Where that is shared, its unmount would be the host's too.
    os.chdir(old)
    os.close(old)
    _libc.mount(None, ".", None, MS_SLAVE | MS_REC)
    _libc.umount(".", MNT_DETACH)
    os.chdir("/")


def move_to_root(root_fd: int, path: str) -> None:
    """Make a mount the root where pivot_root(2) can't, over an initramfs: move it onto the old root, and chroot(2).

    Who may unmount it finds the old one below. What is most dangerous there, the host's /proc and /sys, is taken away
    first; ``path`` says where the new root is, whose own stay.
    """
    for mountpoint in _kernel_file_systems(path):
        _libc.mount(None, mountpoint, None, MS_SLAVE | MS_REC)
        try:
            _libc.umount(mountpoint, MNT_DETACH)
        except OSError:
            _libc.mount("tmpfs", mountpoint, "tmpfs", MS_RDONLY)  # in a user namespace, to which it is locked
    os.chdir(root_fd)
    _libc.mount(None, "/", None, MS_SLAVE)  # or where that is shared, the move would be the host's too
    _libc.mount(".", "/", None, MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _kernel_file_systems(but_below: str) -> list[str]:
    """Where procfs and sysfs are mounted as a whole, the innermost first."""
    found = []
    for line in _fs.read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        root, mountpoint = left.split(" ")[3:5]
        mountpoint = _fs.unescape_mountinfo(mountpoint)
        if root == "/" and right.split(" ")[0] in ("proc", "sysfs") and not mountpoint.startswith(f"{but_below}/"):
            found.append(mountpoint)
    return found[::-1]


def parse_propagation(name: str) -> int:
    """The mount(2) flag of ``linux.rootfsPropagation``. Raises InvalidArgument."""
    try:
        return PROPAGATION[name] | MS_REC
    except KeyError:
        raise InvalidArgument(f"rootfsPropagation {name!r} is none of {', '.join(sorted(PROPAGATION))}") from None


def _reason(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)
