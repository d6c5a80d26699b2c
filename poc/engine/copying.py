"""Files into and out of a container, by docker's rules: `poc cp`, `Container.get_archive`, `put_archive` and the like.

::

    caller                                     child
    ──────                                     ─────
    holds the `Tree`, forks ─────────────────▶ closes all else, opens the tree
    reads what it says ◀────────────────────── a line of JSON: what it has found, or what is wrong
    ends of a pipe: a tar stream ◀───────────▶ packs, or unpacks
    reads to the end, reaps ◀───────────────── another line when that goes wrong

The child does nothing else and imports nothing any more. When its caller is killed the pipe breaks, and it ends too.

docker's rules (docker-cp(1)): a source ``DIR/.`` is what is in it; where the destination is a directory the source gets
into it by its own name, else it takes the destination's; a file does not become a directory, nor a directory a file.
The source of a symlink is the link itself, unless it ends in a slash, or is to be followed; a destination is followed.
"""

from __future__ import annotations

import fcntl
import json
import os
import posixpath
import signal
import stat

from poc import _fs, _libc
from poc.engine.archive import CHUNK, IN_ROOT, STRICT, Packer, Sink, Unpacker, proc_path
from poc.engine.logs import timestamp
from poc.engine.tree import Tree
from poc.engine.users import read_layered, resolve
from poc.errors import InvalidArgument, NotFound, PocError, SetupError, pack, unpack
from poc.namespaces import fork, reap, run_and_exit
from poc.rootfs import open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO, Any

    from poc.engine import Progress
    from poc.engine.container import Container

_PIPE_SIZE = 1 << 20
_LINKS = 40  # as many as the kernel follows
_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW
# Go's os.FileMode, in which docker's API tells what kind of file it is.
_GO_MODES = (
    (stat.S_IFDIR, 1 << 31),
    (stat.S_IFLNK, 1 << 27),
    (stat.S_IFBLK, 1 << 26),
    (stat.S_IFCHR, 1 << 26 | 1 << 21),
    (stat.S_IFIFO, 1 << 25),
    (stat.S_IFSOCK, 1 << 24),
)
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


# ── the child ────────────────────────────────────────────────────────────────────────────────────────────


class Child:
    """A process that does ``work`` on a container's files; ``work`` gets a function that tells the caller something.

    ``stream`` is the caller's end of a pipe, ``other`` the child's, which reads from it if ``reads``.
    """

    __slots__ = ("_caller", "_pid", "_report", "_unread", "stream")

    def __init__(self, tree: Tree, work: Callable[[int, Callable[..., None]], None], reads: bool) -> None:
        ours, theirs = os.pipe()[:: -1 if reads else 1]
        self._report, report = os.pipe()
        self._unread = b""
        self._caller = os.getpid()
        self.stream = ours
        try:
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except PermissionError:
            pass  # the pipes of all the user's processes are too large together
        try:
            self._pid = fork()
            if self._pid == 0:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to act on
                _libc.prctl(_libc.PR_SET_DUMPABLE, 0)  # for a moment it is in the container's mount namespace
                _fs.close_all_but(theirs, report, *tree.descriptors())
                run_and_exit(lambda: _work(work, theirs, report))
        except BaseException:
            os.close(ours)
            os.close(self._report)
            raise
        finally:
            os.close(theirs)
            os.close(report)

    def hear(self) -> Any:
        """What it says next. Raises what went wrong there."""
        while b"\n" not in self._unread:
            if not (chunk := os.read(self._report, CHUNK)):
                raise SetupError("the process that reads the container's files was killed")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        said = json.loads(line)
        if isinstance(said, dict) and "failure" in said:
            raise unpack(said)
        return said

    def chunks(self) -> Iterator[bytes]:
        """Its stream, to the end. Raises what went wrong there."""
        while chunk := os.read(self.stream, CHUNK):
            yield chunk
        self.finish()

    def finish(self) -> None:
        """Close the stream, and wait until it has done its work. Raises what went wrong there."""
        self._close_stream()
        if self.hear() != "done":
            raise SetupError("the process that reads the container's files has not finished")

    def _close_stream(self) -> None:
        if self.stream >= 0:
            os.close(self.stream)
        self.stream = -1

    def close(self) -> None:
        """End it, whatever it is doing, and let go of all."""
        if self._pid:
            self._close_stream()
            os.close(self._report)
            if os.getpid() == self._caller:  # a child of the caller's has a copy of this object
                os.kill(self._pid, signal.SIGKILL)
                reap(self._pid)
            self._pid = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(work: Callable[[int, Callable[..., None]], None], stream: int, report: int) -> None:
    def tell(said: object) -> None:
        _fs.write_all(report, json.dumps(said).encode() + b"\n")

    try:
        work(stream, tell)
        tell("done")
    except BrokenPipeError:
        pass  # the caller wants no more of it
    except (PocError, OSError, RecursionError, MemoryError) as error:
        tell(pack(error))


# ── paths in a container ─────────────────────────────────────────────────────────────────────────────────


def is_directory_named(path: str) -> bool:
    """Does its end say that it is a directory?"""
    return path.endswith("/") or path.rpartition("/")[2] == "."


def split(path: str) -> tuple[str, str]:
    """Directory and last name, of which ``.`` stays (docker's SplitPathDirEntry)."""
    cleaned = posixpath.normpath(path)
    if path.rpartition("/")[2] == ".":
        return cleaned, "."
    directory, base = posixpath.split(cleaned)
    return directory or ".", base or "/"


def _absolute(path: str) -> str:
    """As docker reads it: from the root, its ``..`` taken away, and what its end says kept. Raises InvalidArgument."""
    if not path or "\0" in path:
        raise InvalidArgument(f"{path!r} is no path in a container")
    cleaned = posixpath.normpath(f"//{path}"[1:] if path.startswith("/") else f"/{path}")
    cleaned = f"/{cleaned.lstrip('/')}"
    if path.rpartition("/")[2] == ".":
        return f"{cleaned.rstrip('/')}/."
    return f"{cleaned.rstrip('/')}/" if path.endswith("/") else cleaned


class _Found:
    """A file in a container. ``directory`` is a descriptor of the one it is in, ``name`` its name there ("." in /)."""

    __slots__ = ("directory", "entry", "name")

    def __init__(self, root: int, path: str) -> None:
        """``path`` is absolute; its last name is not followed. Raises OSError."""
        where, name = posixpath.split(path)
        if name in ("", "."):
            where, name = path, "."
        self.name = name
        self.directory = open_in_root(root, where, os.O_PATH | os.O_DIRECTORY)
        try:
            self.entry = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except BaseException:
            os.close(self.directory)
            raise

    def __enter__(self) -> _Found:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)

    def target(self, path: str) -> str | None:
        """Where it leads from ``path`` if it is a symlink."""
        if not stat.S_ISLNK(self.entry.st_mode):
            return None
        return posixpath.normpath(
            posixpath.join(posixpath.dirname(path), os.readlink(self.name, dir_fd=self.directory))
        )


def _followed(root: int, path: str) -> str:
    """The end of a chain of symlinks, which need not exist. Raises OSError, also for one without end."""
    for _ in range(_LINKS):
        try:
            with _Found(root, path) as found:
                target = found.target(path)
        except (FileNotFoundError, NotADirectoryError):
            return path
        if target is None:
            return path
        path = target
    raise OSError(40, f"{path}: too many levels of symbolic links")


def _look(root: int, container: str, path: str) -> _Found:
    try:
        return _Found(root, path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"Could not find the file {path} in container {container}") from None


def _stat(root: int, path: str, found: _Found) -> dict[str, Any]:
    """docker's answer to a HEAD of an archive."""
    entry = found.entry
    mode = stat.S_IMODE(entry.st_mode) & 0o777
    mode |= sum(bits for kind, bits in _GO_MODES if stat.S_IFMT(entry.st_mode) == kind)
    mode |= sum(bits for bit, bits in _GO_BITS if entry.st_mode & bit)
    return {
        "name": split(path)[1],
        "size": entry.st_size,
        "mode": mode,
        "mtime": timestamp(entry.st_mtime),
        "linkTarget": _followed(root, path) if stat.S_ISLNK(entry.st_mode) else "",
    }


# ── out of it ────────────────────────────────────────────────────────────────────────────────────────────


def read(container: Container, path: str, follow: bool) -> tuple[Iterator[bytes], dict[str, Any]]:
    """A tar stream of a file or a directory, and what that is; see `Container.get_archive`."""
    tree = Tree(container)
    try:
        child = _reader(tree, container.name, path, None, follow)
    except BaseException:
        tree.close()
        raise
    try:
        found: dict[str, Any] = child.hear()
    except BaseException:
        child.close()
        tree.close()
        raise
    container.emit("archive-path", path=path)
    return _Stream(tree, child), found


class _Stream:
    """The chunks of a child's stream. Ends the child when nobody wants it any more."""

    def __init__(self, tree: Tree, child: Child) -> None:
        self._tree = tree
        self._child = child
        self._chunks = child.chunks()

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the container."""
        self._child.close()
        self._tree.close()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _reader(tree: Tree, container: str, path: str, name: str | None, follow: bool) -> Child:
    """A child that says what ``path`` is and packs it, as ``name`` or its own."""

    def pack(stream: int, tell: Callable[..., None]) -> None:
        root = tree.open_whole()
        wanted = _absolute(path)
        if follow:
            wanted = _followed(root, wanted)
        with _look(root, container, wanted) as found:
            tell(_stat(root, wanted, found))
            Packer(found.directory, found.name, name or split(wanted)[1], Sink(stream)).run()

    return Child(tree, pack, reads=False)


def export(container: Container) -> Iterator[bytes]:
    """A tar stream of its whole root file system; see `Container.export`."""
    tree = Tree(container)

    def pack(stream: int, tell: Callable[..., None]) -> None:
        Packer(tree.open_root(), ".", "", Sink(stream)).run()

    try:
        stream = _Stream(tree, Child(tree, pack, reads=False))
    except BaseException:
        tree.close()
        raise
    container.emit("export")
    return stream


def copy_from(
    container: Container, path: str, local: str, archive: bool, follow: bool, progress: Progress | None
) -> tuple[int, int]:
    """Copy out of a container; see `Container.copy_from`."""
    target = _LocalTarget(local)
    name = split(_absolute(path))[1] if target.is_directory else target.name
    with Tree(container) as tree, _reader(tree, container.name, path, name, follow) as child:
        target.accept(bool(child.hear()["mode"] & _GO_MODES[0][1]))
        container.emit("archive-path", path=path)
        place = os.open(target.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            owner = None if archive else (os.geteuid(), os.getegid())
            unpacker = Unpacker(place, resolve=STRICT, owner=owner, tame=not archive)
            with os.fdopen(os.dup(child.stream), "rb", CHUNK) as file:
                counted = _Counted("copying from the container", progress)
                try:
                    unpacker.run(file, counted)
                except InvalidArgument:
                    child.finish()  # which knows better why the stream has ended
                    raise
            child.finish()
        finally:
            os.close(place)
    return counted.size, unpacker.left_out


class _Counted:
    """Passes on how many bytes there were."""

    __slots__ = ("_progress", "_text", "size")

    def __init__(self, text: str, progress: Progress | None) -> None:
        self._text = text
        self._progress = progress
        self.size = 0

    def __call__(self, size: int) -> None:
        self.size = size
        if self._progress:
            self._progress(self._text, size, 0)


class _LocalTarget:
    """Where on the host something is to be put: into ``directory``, as ``name`` unless that is the target itself."""

    def __init__(self, path: str) -> None:
        """Raises NotFound, and InvalidArgument for what is neither a directory nor a file."""
        above = os.path.dirname(os.path.normpath(path)) or "."
        if not os.path.isdir(above):
            raise NotFound(f"invalid output path: directory {os.path.abspath(above)!r} does not exist")
        self._asserted = is_directory_named(path)
        place = os.path.abspath(path)
        self.exists = os.path.exists(place)
        if self.exists and not (os.path.isdir(place) or os.path.isfile(place)):
            raise InvalidArgument(f"invalid output path: {place!r} must be a directory or a regular file")
        self.is_directory = os.path.isdir(place)
        if os.path.islink(place) and not self.is_directory:
            place = os.path.realpath(place)
        self.directory, self.name = (place, "") if self.is_directory else os.path.split(place)

    def accept(self, is_directory: bool) -> None:
        """May a directory, or a file, be put there? Raises InvalidArgument."""
        _accept(is_directory, self.exists, self.is_directory, self._asserted)


def _accept(from_directory: bool, exists: bool, is_directory: bool, asserted: bool) -> None:
    """docker's PrepareArchiveCopy, as far as it refuses."""
    if is_directory:
        return
    if exists and from_directory:
        raise InvalidArgument("cannot copy directory")
    if not from_directory and asserted:
        raise InvalidArgument("no such directory")


# ── into it ──────────────────────────────────────────────────────────────────────────────────────────────


def write(container: Container, path: str, data: bytes | IO[bytes] | Iterable[bytes], archive: bool) -> None:
    """Unpack a tar stream in a directory; see `Container.put_archive`."""

    def unpack(stream: int, tell: Callable[..., None]) -> None:
        root = tree.open_whole(writing=True)
        where = _absolute(path)
        tell(None)
        _unpack(root, container, where, stream, archive)

    with Tree(container) as tree, Child(tree, unpack, reads=True) as child:
        child.hear()
        for chunk in _pieces(data):
            if not _feed(child, chunk):
                break
        child.finish()
    container.emit("extract-to-dir", path=path)


def _feed(child: Child, chunk: bytes) -> bool:
    """False when it has stopped listening."""
    try:
        _fs.write_all(child.stream, chunk)
        return True
    except BrokenPipeError:
        return False


def _unpack(root: int, container: Container, where: str, stream: int, archive: bool) -> None:
    try:
        place = open_in_root(root, where, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NotFound(f"Could not find the file {where} in container {container.name}") from None
    except NotADirectoryError:
        raise InvalidArgument(f'destination "{container.name}:{where}" must be a directory') from None
    try:
        if os.fstatvfs(place).f_flag & os.ST_RDONLY:
            what = "container rootfs" if os.fstat(place).st_dev == os.fstat(root).st_dev else "mounted volume"
            raise InvalidArgument(f"{what} is marked read-only")
    finally:
        os.close(place)
    owner = _user(container, root) if archive else None
    with os.fdopen(stream, "rb", CHUNK) as file:
        Unpacker(root, where, resolve=IN_ROOT, owner=owner).run(file)


def _user(container: Container, root: int) -> tuple[int, int] | None:
    """Whom docker's archive mode gives the files to: the container's user, if it has one."""
    name = container.config.user or container.image_config.get("User")
    if not name:
        return None
    place = [proc_path(root)]
    found = resolve(name, read_layered(place, "etc/passwd"), read_layered(place, "etc/group"))
    return found.uid, found.gid


def copy_to(container: Container, local: str, path: str, archive: bool, follow: bool, progress: Progress | None) -> int:
    """Copy into a container; see `Container.copy_to`."""
    with _LocalSource(local, follow) as source:

        def unpack(stream: int, tell: Callable[..., None]) -> None:
            root = tree.open_whole(writing=True)
            where, name = _target(root, container.name, path, source.is_directory)
            tell(name or source.name)
            _unpack(root, container, where, stream, archive)

        with Tree(container) as tree, Child(tree, unpack, reads=True) as child:
            counted = _Counted("copying to the container", progress)
            packer = Packer(source.directory, source.base, child.hear(), Sink(child.stream, counted))
            try:
                packer.run()
            except BrokenPipeError:
                pass  # it says why
            child.finish()
    container.emit("extract-to-dir", path=path)
    return counted.size


def _target(root: int, container: str, path: str, from_directory: bool) -> tuple[str, str]:
    """The directory to unpack in, and what to call the source there, "" for as it is."""
    where = _followed(root, _absolute(path))
    try:
        with _Found(root, where) as found:
            kind = stat.S_IFMT(found.entry.st_mode)
    except (FileNotFoundError, NotADirectoryError):
        kind = 0
    if kind not in (0, stat.S_IFDIR, stat.S_IFREG):
        raise InvalidArgument(f'destination "{container}:{path}" must be a directory or a regular file')
    _accept(from_directory, bool(kind), kind == stat.S_IFDIR, is_directory_named(path))
    return (where, "") if kind == stat.S_IFDIR else split(where)


class _LocalSource:
    """What on the host is to be copied: ``base`` in ``directory``, a descriptor, known as ``name``."""

    def __init__(self, path: str, follow: bool) -> None:
        """Raises NotFound and OSError."""
        place = os.path.abspath(path) + ("/." if path.rpartition("/")[2] == "." else "/" if path.endswith("/") else "")
        try:
            entry = os.stat(place) if follow else os.lstat(place)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{place}: {error.strerror}") from None
        self.is_directory = stat.S_ISDIR(entry.st_mode)
        directory, self.name = split(place)
        self.base = self.name
        if follow or place.endswith("/"):
            directory, self.base = os.path.split(os.path.realpath(place)) if self.name != "." else (directory, ".")
        self.base = self.base if self.base not in ("", "/") else "."
        self.directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> _LocalSource:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)


def _pieces(data: bytes | IO[bytes] | Iterable[bytes]) -> Iterable[bytes]:
    """What docker-py takes for an archive: bytes, a file, or an iterator."""
    if isinstance(data, bytes):
        return (data,)
    if hasattr(data, "read"):
        return iter(lambda: data.read(CHUNK), b"")
    return data
