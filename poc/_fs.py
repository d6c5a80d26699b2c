"""Files: written whole or not at all, read without surprises. Knows nothing of containers."""

from __future__ import annotations

import _thread
import errno
import os
import stat

from poc._lean import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def write_atomic(path: str, data: bytes | str, mode: int = 0o644, sync: bool = False) -> None:
    """Write ``data`` under a temporary name and rename it over ``path``: a reader never sees half a file.

    ``sync`` also survives a power cut; without it the file survives any crash but that one.
    """
    # The thread's id: two threads of one process may write the same file at once.
    temporary = f"{path}.{_thread.get_native_id()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data.encode() if isinstance(data, str) else data)
        if sync:
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise
    finally:
        os.close(fd)
    if sync:
        sync_directory(os.path.dirname(path) or ".")


def write_new(path: str, data: str, mode: int = 0o644) -> None:
    """Write a file that nobody looks for yet. Raises FileExistsError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)  # whatever the caller's umask
        write_all(fd, data.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def overwrite(path: str, data: str) -> None:
    """Write over what a file has: not atomic, but no larger than before it needs no space on a full disk.

    Raises FileNotFoundError.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        write_all(fd, data.encode())
        os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """`write` until all of ``data`` is written; a pipe or a full disk may take it in parts."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Whoever shares a standard stream with us (node does) may have made it non-blocking.
            import select

            select.select((), (fd,), ())


def sync_directory(path: str) -> None:
    """Make renames in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: str, value: Any, mode: int = 0o644, sync: bool = False) -> None:
    """`write_atomic` of ``value`` as JSON."""
    write_atomic(path, json.dumps(value), mode, sync)


def read_json(path: str) -> Any:
    """The JSON value in a file. Raises OSError, and ValueError naming the file when it is not JSON."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_bytes(path: str) -> bytes:
    """A whole file, without the cost of `open`'s text layer."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Read until end of file."""
    chunks = []
    while chunk := os.read(fd, 1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def read_text(path: str) -> str:
    """A small text file (procfs, cgroupfs), stripped."""
    return read_bytes(path).decode("utf-8", "surrogateescape").strip()


def write_text(path: str, *values: str) -> None:
    """One `write` for each value to an existing kernel file (procfs, cgroupfs). The OSError names the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for value in values:
            os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {value!r} to {path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(fd)


def unescape_mountinfo(path: str) -> str:
    """A path as proc_pid_mountinfo(5) and its like write it."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        path = path.replace(code, character)
    return path


def remove_file(path: str) -> None:
    """`unlink`, content when there is nothing."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # somebody else's clean-up was first


def remove_tree(path: str) -> None:
    """Delete a directory tree, however deep, without following links or crossing into another file system.

    Content when it is gone already, or goes meanwhile by another's hand. Raises OSError (EXDEV) at a mount point: a
    tree with something mounted in it is never emptied through the mount.
    """
    try:
        parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove_at(parent, os.path.basename(path), os.fstat(parent).st_dev)
    finally:
        os.close(parent)


def _remove_at(parent: int, name: str, device: int, top: int = -1, depth: int = 0) -> None:
    try:
        entry = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(entry.st_mode):
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass  # somebody else's clean-up was first
        return
    if entry.st_dev != device:
        raise OSError(errno.EXDEV, f"{name} is a mount point; not deleting through it")
    while not _removed(name, parent):
        if depth > 50:
            # A container can nest directories deeper than we have stack and descriptors: this one goes up to the top.
            os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=top)
            return
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            return
        try:
            for child in os.listdir(fd):
                _remove_at(fd, child, device, fd if top == -1 else top, depth + 1)
        finally:
            os.close(fd)


def _removed(directory: str, parent: int) -> bool:
    """Remove an empty directory; False when it is not. Of most that a container leaves it saves a look inside."""
    try:
        os.rmdir(directory, dir_fd=parent)
    except FileNotFoundError:
        pass  # somebody else's clean-up was first
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


class _Linked:
    """The files with several names that a copy has met: where the first of each is, below the top of the copy."""

    __slots__ = ("places", "top")

    def __init__(self, top: int) -> None:
        self.top = top
        self.places: dict[tuple[int, int], str] = {}

    def link(self, entry: os.stat_result, path: str, target: int) -> bool:
        """Give the file another name; False for the first time."""
        if entry.st_nlink < 2 or stat.S_ISDIR(entry.st_mode):
            return False
        first = self.places.setdefault((entry.st_dev, entry.st_ino), path)
        if first is path:
            return False
        name = path.rpartition("/")[2]
        os.link(first, name, src_dir_fd=self.top, dst_dir_fd=target, follow_symlinks=False)
        return True


def copy_tree(source: int, target: int, linked: _Linked | None = None, place: str = "") -> None:
    """Copy what is in one open directory into another: files, links, nodes, with owner, mode, times and attributes.

    Links are copied, not followed, and a mount below the source is copied as what it shows. Imports nothing.
    """
    linked = linked or _Linked(target)
    for name in os.listdir(source):
        entry = os.stat(name, dir_fd=source, follow_symlinks=False)
        path = f"{place}{name}"
        if linked.link(entry, path, target):
            continue
        if stat.S_ISLNK(entry.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, entry.st_uid, entry.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISDIR(entry.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            _copy(source, target, name, os.O_RDONLY | os.O_DIRECTORY, _copy_below(linked, f"{path}/"))
        elif stat.S_ISREG(entry.st_mode):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=target))
            _copy(source, target, name, os.O_RDWR, _copy_content)
        elif not stat.S_ISSOCK(entry.st_mode):
            os.mknod(name, entry.st_mode, entry.st_rdev, dir_fd=target)
            os.chmod(name, stat.S_IMODE(entry.st_mode), dir_fd=target)  # whatever the umask
            os.chown(name, entry.st_uid, entry.st_gid, dir_fd=target, follow_symlinks=False)


def _copy(source: int, target: int, name: str, flags: int, content: Callable[[int, int], None]) -> None:
    readable = os.O_RDONLY | (flags & os.O_DIRECTORY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    old = os.open(name, readable, dir_fd=source)
    try:
        new = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            content(old, new)
            copy_attributes(old, new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_below(linked: _Linked, place: str) -> Callable[[int, int], None]:
    return lambda source, target: copy_tree(source, target, linked, place)


def _copy_content(source: int, target: int) -> None:
    """What is a hole stays one: a file of an image may be larger than the disk."""
    end = 0
    while True:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # from here on there is no data
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < end and (sent := os.sendfile(target, source, start, min(end - start, 1 << 30))):
            start += sent
    os.ftruncate(target, os.fstat(source).st_size)


def copy_attributes(source: int, target: int) -> None:
    """Owner, mode, extended attributes and times of one open file to another."""
    entry = os.fstat(source)
    os.fchown(target, entry.st_uid, entry.st_gid)
    os.fchmod(target, stat.S_IMODE(entry.st_mode))
    for name in os.listxattr(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            continue  # one that the other file system does not have
    os.utime(target, ns=(entry.st_atime_ns, entry.st_mtime_ns))


def process_start(pid: int) -> tuple[int | None, int]:
    """(start time, flags) of a process: fields 22, in clock ticks since boot, and 9 of proc_pid_stat(5).

    The time is None when there is no such process, or it is a zombie.
    """
    try:
        fields = read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None, 0
    return (None if fields[0] in (b"Z", b"X") else int(fields[19])), int(fields[6])


def identity(pid: int) -> list[int] | None:
    """[pid, start time], which names one process for ever: pids are used again, the pair is not. None: none such."""
    started = process_start(pid)[0]
    return None if started is None else [pid, started]


def is_alive(process: list[int] | None) -> bool:
    """Is the process of this `identity` still there?"""
    return process is not None and process_start(process[0])[0] == process[1]


def pidfd_open(pid: int) -> int:
    """pidfd_open(2). Raises ProcessLookupError for one that has ended, whichever way the kernel says so."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Its number is still known, as to who holds a pidfd of it, but it has been reaped; later kernels say ESRCH.
        raise ProcessLookupError(errno.ESRCH, f"pidfd_open {pid}: {os.strerror(errno.ESRCH)}") from None


def close_all_but(*kept: int) -> None:
    """Close every descriptor of this process above 2, but for these."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = max(first, fd + 1)
    os.closerange(first, 1 << 20)


def close_elsewhere(fd: int) -> None:
    """Close a descriptor whose last close takes long, such as one that ends a mount namespace, without waiting.

    It is put on its way through a socket to that socket itself, and both ends are closed: such a cycle is left to
    the kernel's garbage collector (unix(7), net/unix/garbage.c), which since Linux 6.8 works in a thread of its own.
    """
    import socket

    near, far = socket.socketpair()
    with near, far:
        socket.send_fds(near, [b"-"], [far.fileno(), fd])
        os.close(fd)  # while the other copy is certainly on its way
