"""Files below a descriptor become a tar stream, and a tar stream becomes files there.

The format is tarfile's (pax, with extended attributes as SCHILY.xattr.*, as Docker, GNU tar and bsdtar have them); what
tarfile would do with paths is not used: a tree may belong to a container, which changes it meanwhile as it likes, and
a stream may come from anybody. So

* every path is resolved below the descriptor by openat2(2), and nothing is kept but descriptors of directories;
* a file is looked at (O_PATH) before it is opened: in its place there may now be a device, or a FIFO;
* what is written is made anew (O_EXCL), or, where something is mounted on it, checked to be a file.

Nothing is held in memory but a piece of one file, and of a stream's directories what is to be done at the end.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from poc import _fs, _libc
from poc.engine.changes import OPAQUE, is_opaque, is_whiteout
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import IO, Self

    Progress = Callable[[int], object]  # is told how many bytes there were so far

CHUNK = 1 << 18
IN_ROOT = _libc.RESOLVE_IN_ROOT  # as a process of the container would find it
STRICT = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_XATTR = "SCHILY.xattr."
_FORBIDDEN = "trusted.overlay."  # orders to the kernel, not a tree's to give
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"  # image-spec, layer.md
_ZEROS = bytes(CHUNK)


def proc_path(fd: int) -> str:
    """A path for calls that take no O_PATH descriptor; as safe as that, for procfs is the host's."""
    return f"/proc/self/fd/{fd}"


class Sink:
    """What tarfile writes to: a descriptor, in large pieces."""

    __slots__ = ("_fd", "_offset", "_progress", "_waiting")

    def __init__(self, fd: int, progress: Progress | None = None) -> None:
        self._fd = fd
        self._waiting = bytearray()
        self._offset = 0
        self._progress = progress

    def write(self, data: bytes) -> int:
        self._offset += len(data)
        if len(self._waiting) + len(data) > CHUNK:
            self.flush()
        if len(data) < CHUNK:
            self._waiting += data
        else:
            _fs.write_all(self._fd, data)
        return len(data)

    def tell(self) -> int:
        return self._offset

    def flush(self) -> None:
        _fs.write_all(self._fd, memoryview(self._waiting))
        self._waiting = bytearray()
        if self._progress:
            self._progress(self._offset)


class Packer:
    """Writes the tree ``path`` below the directory ``root``, ``path`` itself not followed, as a tar stream.

    ``name`` is what it is called there. ``overlay``: the tree is an overlay's upper directory, and the stream a layer's
    (image-spec, layer.md). What is below a path in ``without`` is left out.
    """

    def __init__(
        self, root: int, path: str, name: str, sink: Sink, *, overlay: bool = False, without: Collection[str] = ()
    ) -> None:
        self._root = root
        self._overlay = overlay
        self._without = without
        self._links: dict[tuple[int, int], str] = {}
        self._sink = sink
        self._waiting = [(path or ".", name)]
        # A TarFile that opens nothing itself, and whose list of members is thrown away again and again.
        self._tar = tarfile.TarFile(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK)  # type: ignore[arg-type]

    def run(self) -> None:
        """To the end of the stream. Raises OSError naming the file."""
        first = True
        while self._waiting:
            path, name = self._waiting.pop()
            try:
                self._add(path, name)
            except OSError as error:
                if first or error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise _naming(error, name) from None
            first = False
        self._tar.close()
        self._sink.flush()

    def _add(self, path: str, name: str) -> None:
        place = _libc.openat2(self._root, path, _PLACE, STRICT)
        try:
            entry = os.fstat(place)
            if stat.S_ISDIR(entry.st_mode):
                self._add_directory(place, path, name, entry)
            elif not stat.S_ISSOCK(entry.st_mode):
                self._add_file(place, name, entry)
        finally:
            os.close(place)

    def _add_directory(self, place: int, path: str, name: str, entry: os.stat_result) -> None:
        # A relative name begins with what stands for the tree; "" is that itself, as in an export.
        if name:
            self._write(self._describe(place, f"{name}/" if name != "/" else name, entry))
        directory = os.open(proc_path(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._overlay and is_opaque(directory):
                self._write(tarfile.TarInfo(f"{name}/{_OPAQUE}"))
            names = sorted(os.listdir(directory), reverse=True)
        finally:
            os.close(directory)
        for child in names:
            below = child if path == "." else f"{path}/{child}"
            if below not in self._without:
                self._waiting.append((below, f"{name.rstrip('/')}/{child}" if name else child))

    def _add_file(self, place: int, name: str, entry: os.stat_result) -> None:
        info = self._describe(place, name, entry)
        if self._overlay and is_whiteout(entry):
            directory, _, last = name.rpartition("/")
            info = tarfile.TarInfo(f"{directory}/{_WHITEOUT}{last}".lstrip("/"))
        elif entry.st_nlink > 1 and (other := self._links.setdefault((entry.st_dev, entry.st_ino), name)) != name:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, other, 0
        elif stat.S_ISLNK(entry.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=place)
        elif stat.S_ISREG(entry.st_mode):
            info.size = entry.st_size
        elif stat.S_ISFIFO(entry.st_mode):
            info.type = tarfile.FIFOTYPE
        else:
            info.type = tarfile.BLKTYPE if stat.S_ISBLK(entry.st_mode) else tarfile.CHRTYPE
            info.devmajor, info.devminor = os.major(entry.st_rdev), os.minor(entry.st_rdev)
        self._write(info, place)

    def _describe(self, place: int, name: str, entry: os.stat_result) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE if stat.S_ISDIR(entry.st_mode) else tarfile.REGTYPE
        info.mode, info.uid, info.gid = stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid
        info.mtime, fraction = divmod(entry.st_mtime_ns, 1_000_000_000)
        headers = {} if stat.S_ISLNK(entry.st_mode) else dict(_attributes(proc_path(place)))
        if fraction:
            headers["mtime"] = f"{info.mtime}.{fraction:09}"
        info.pax_headers = headers
        return info

    def _write(self, info: tarfile.TarInfo, place: int = -1) -> None:
        if not info.size:
            self._tar.addfile(info)
        else:
            fd = os.open(proc_path(place), os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._tar.addfile(info, _Padded(fd))  # type: ignore[arg-type]
            finally:
                os.close(fd)
        self._tar.members.clear()  # type: ignore[attr-defined]


class _Padded:
    """A file that is read as long as it was when it was looked at; it may have been cut off since."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = os.read(self._fd, size) or _ZEROS[:size]
            chunks.append(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _attributes(path: str) -> Iterator[tuple[str, str]]:
    """Extended attributes as pax headers; tarfile writes what is no text as the bytes that it was."""
    try:
        names = sorted(os.listxattr(path))
    except OSError:
        return  # a file system without
    for name in names:
        if name.startswith(_FORBIDDEN):
            continue
        try:
            yield f"{_XATTR}{name}", os.fsdecode(os.getxattr(path, name))
        except OSError:
            continue  # gone, or not ours to read


class Unpacker:
    """Puts what is in a tar stream into the directory ``path`` below ``root``.

    ``resolve``: `IN_ROOT` in a container's tree, else `STRICT`. ``owner``: (uid, gid) of all that is made, else whoever
    the stream names. ``tame``: what could hurt outside a container is left out: devices (``left_out`` counts them),
    set-user-ID and set-group-ID, and attributes but ``user.*``. ``overlay``: a layer, for an overlay's lower directory.

    As in docker, a directory that is there stays and takes the stream's attributes, a file is replaced, and neither
    takes the place of the other.
    """

    def __init__(
        self,
        root: int,
        path: str = "",
        *,
        resolve: int = STRICT,
        owner: tuple[int, int] | None = None,
        tame: bool = False,
        overlay: bool = False,
    ) -> None:
        self._root = root
        self._path = path.strip("/")
        self._resolve = resolve
        self._owner = owner
        self._tame = tame
        self._overlay = overlay
        self._directory = ("", -1)  # the last one opened, for most files share one with the one before
        self._times: list[tuple[str, int]] = []  # of directories, which what is put into them changes
        self.left_out = 0

    def run(self, file: IO[bytes], progress: Progress | None = None) -> None:
        """To the end of the stream, which may be compressed. Raises InvalidArgument, and OSError naming the file."""
        try:
            self._run(file, progress)
        except tarfile.TarError as error:
            if not _is_empty(error):
                raise InvalidArgument(f"not a tar archive, or not whole: {error}") from None
        finally:
            self._close()
        while file.read(CHUNK):
            pass  # what its writer has padded it with; else that would die of the closed pipe

    def _run(self, file: IO[bytes], progress: Progress | None) -> None:
        with tarfile.open(fileobj=file, mode="r|*", bufsize=CHUNK, tarinfo=_Member) as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                try:
                    self._put(tar, info)
                except OSError as error:
                    raise _naming(error, info.name) from None
                if progress:
                    progress(tar.offset)
        for name, when in reversed(self._times):
            self._set_time(name, when)

    def _put(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        name = _inside(info.name)
        if name == ".":
            return  # the directory itself stays as it is
        parent, _, last = name.rpartition("/")
        directory = self._open_directory(parent)
        if self._overlay and last.startswith(_WHITEOUT):
            self._white_out(directory, last)
        elif info.isdir():
            self._make_directory(directory, last, name, info)
        elif self._make_room(directory, last, info):
            self._make_file(directory, last, tar, info)

    def _white_out(self, directory: int, name: str) -> None:
        if name == _OPAQUE:
            os.setxattr(proc_path(directory), OPAQUE, b"y")
        else:
            os.mknod(name.removeprefix(_WHITEOUT), stat.S_IFCHR, 0, dir_fd=directory)

    # ── where ────────────────────────────────────────────────────────────────────────────────────────

    def _open_directory(self, name: str) -> int:
        """The directory of this name in the stream; a stream need not have told of it."""
        if name != self._directory[0] or self._directory[1] < 0:
            self._close()
            self._directory = (name, self._open_or_make(name))
        return self._directory[1]

    def _open_or_make(self, name: str) -> int:
        try:
            return self._open(name)
        except FileNotFoundError:
            if not name:
                raise
        parent, _, last = name.rpartition("/")
        above = self._open_or_make(parent)
        try:
            os.mkdir(last, 0o755, dir_fd=above)
        except FileExistsError:
            pass  # a link to nowhere, or somebody was faster
        finally:
            os.close(above)
        return self._open(name)

    def _open(self, name: str) -> int:
        path = "/".join(part for part in (self._path, name) if part) or "."
        return _libc.openat2(self._root, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, self._resolve)

    def _close(self) -> None:
        if self._directory[1] >= 0:
            os.close(self._directory[1])
        self._directory = ("", -1)

    # ── what ─────────────────────────────────────────────────────────────────────────────────────────

    def _make_directory(self, directory: int, last: str, name: str, info: tarfile.TarInfo) -> None:
        try:
            os.mkdir(last, 0o700, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                raise InvalidArgument(f'cannot overwrite non-directory "{info.name}" with directory') from None
        fd = os.open(last, _DIRECTORY, dir_fd=directory)
        try:
            self._dress(fd, info)
        finally:
            os.close(fd)
        self._times.append((name, _time(info)))

    def _make_room(self, directory: int, last: str, info: tarfile.TarInfo) -> bool:
        """Remove what a file is to replace; False when that is done with, or nothing is to be made."""
        if self._tame and (info.ischr() or info.isblk()):
            self.left_out += 1
            return False
        try:
            if stat.S_ISDIR(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                raise InvalidArgument(f'cannot overwrite directory "{info.name}" with non-directory')
            if not (info.isreg() and _is_mount_point(directory, last)):
                os.unlink(last, dir_fd=directory)
        except FileNotFoundError:
            pass
        return True

    def _make_file(self, directory: int, last: str, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        if info.isreg():
            self._write(directory, last, tar, info)
            return
        if info.islnk():
            self._link(directory, last, info)
            return
        if info.issym():
            os.symlink(info.linkname, last, dir_fd=directory)
        elif info.isfifo():
            os.mkfifo(last, dir_fd=directory)
        elif info.ischr() or info.isblk():
            kind = stat.S_IFCHR if info.ischr() else stat.S_IFBLK
            os.mknod(last, kind, os.makedev(info.devmajor, info.devminor), dir_fd=directory)
        else:
            raise InvalidArgument(f"{info.name}: a tar archive's member of type {info.type!r} can't be unpacked")
        place = _libc.openat2(directory, last, _PLACE, STRICT)
        try:
            os.chown(last, *self._owner_of(info), dir_fd=directory, follow_symlinks=False)
            if not info.issym():
                os.chmod(proc_path(place), self._mode(info))
            os.utime(last, ns=(_time(info), _time(info)), dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(place)

    def _link(self, directory: int, last: str, info: tarfile.TarInfo) -> None:
        parent, _, name = _inside(info.linkname).rpartition("/")
        source = self._open(parent)
        try:
            os.link(name, last, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _write(self, directory: int, last: str, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        try:
            fd = os.open(last, _NEW, 0o600, dir_fd=directory)
        except FileExistsError:
            fd = self._open_mounted(directory, last)
        try:
            source = tar.extractfile(info)
            assert source is not None
            _copy(source, fd)
            self._dress(fd, info)
            os.utime(fd, ns=(_time(info), _time(info)))
        finally:
            os.close(fd)

    def _open_mounted(self, directory: int, last: str) -> int:
        """A file with another mounted on it, such as /etc/hosts: that one is written over."""
        place = _libc.openat2(directory, last, _PLACE, STRICT)
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return os.open(proc_path(place), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        finally:
            os.close(place)

    # ── whose ────────────────────────────────────────────────────────────────────────────────────────

    def _owner_of(self, info: tarfile.TarInfo) -> tuple[int, int]:
        return self._owner or (info.uid, info.gid)

    def _mode(self, info: tarfile.TarInfo) -> int:
        return info.mode & (0o1777 if self._tame else 0o7777)

    def _dress(self, fd: int, info: tarfile.TarInfo) -> None:
        """Owner, attributes and mode, in the order in which the kernel lets them stay."""
        os.fchown(fd, *self._owner_of(info))
        for key, value in info.pax_headers.items():
            name = key.removeprefix(_XATTR)
            if name == key or name.startswith(_FORBIDDEN) or (self._tame and not name.startswith("user.")):
                continue
            try:
                os.setxattr(fd, name, os.fsencode(value))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL):
                    raise
        os.fchmod(fd, self._mode(info))

    def _set_time(self, name: str, when: int) -> None:
        parent, _, last = name.rpartition("/")
        try:
            os.utime(last, ns=(when, when), dir_fd=self._open_directory(parent), follow_symlinks=False)
        except OSError:
            pass  # somebody has removed it already


class _Member(tarfile.TarInfo):
    """A member whose header must be whole: tarfile would take a damaged one for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if not tarfile_.offset:
                raise
            raise tarfile.ReadError(str(error)) from None


def _copy(source: IO[bytes], fd: int) -> None:
    """All of it, with holes where there are only zeros."""
    size = 0
    while chunk := source.read(CHUNK):
        if chunk == _ZEROS[: len(chunk)]:
            os.lseek(fd, len(chunk), os.SEEK_CUR)
        else:
            _fs.write_all(fd, chunk)
        size += len(chunk)
    os.ftruncate(fd, size)


def _is_mount_point(directory: int, name: str) -> bool:
    """Unlinking a file on which another mount namespace than ours has something mounted would unmount that."""
    try:
        os.close(_libc.openat2(directory, name, _PLACE, STRICT | _libc.RESOLVE_NO_XDEV))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return True
    return False


def _inside(name: str) -> str:
    """A member's name as a path below where it is unpacked. Raises InvalidArgument for one that leads out."""
    path = os.path.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../") or "\0" in path:
        raise InvalidArgument(f"{name!r} in the archive leads out of the directory that it is unpacked into")
    return path


def _time(info: tarfile.TarInfo) -> int:
    """The modification time in nanoseconds; a float has not enough digits for it."""
    whole, _, fraction = info.pax_headers.get("mtime", str(info.mtime)).partition(".")
    try:
        return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        return int(info.mtime * 1_000_000_000)


def _is_empty(error: tarfile.TarError) -> bool:
    """An empty stream has nothing in it, as for docker."""
    return str(error) == "empty file"


def _naming(error: OSError, name: str) -> OSError:
    return OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}")
