"""What a container has changed of its image: docker's ``diff``, read off the upper directory of its overlay.

overlayfs keeps there what was written (overlayfs.rst): new and changed files in full, a device 0:0 for what was
deleted, and a directory with the attribute ``opaque`` where one was deleted and made anew. Whether a file is new or
changed only the layers below can tell; those have the same form where they come from a commit.
"""

from __future__ import annotations

import os
import stat

from poc import _libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODIFIED, ADDED, DELETED = 0, 1, 2  # docker's numbers
OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS | _libc.RESOLVE_NO_XDEV
# What poc itself makes to mount on; docker does not show its own either.
MOUNT_POINTS = frozenset(
    (
        *("/dev", "/proc", "/sys", "/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"),
        *("/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm"),
    )
)


def changes(upper: int, layers: Sequence[int]) -> list[tuple[str, int]]:
    """(path, kind) of all that differs, sorted; a directory in which something does is modified.

    ``upper`` and ``layers``, top first, are descriptors of directories. Raises OSError.
    """
    return _Comparison(upper, layers).run()


class _Comparison:
    """``found`` holds None for a directory of which nothing is known yet but that it is there."""

    __slots__ = ("_layers", "_mount_points", "_upper", "found")

    def __init__(self, upper: int, layers: Sequence[int]) -> None:
        self._upper = upper
        self._layers = layers
        self._mount_points: set[str] = set()
        self.found: dict[str, int | None] = {}

    def run(self) -> list[tuple[str, int]]:
        waiting: list[tuple[str, Sequence[int]]] = [("", range(len(self._layers)))]
        while waiting:
            waiting.extend(self._compare(*waiting.pop()))
        self._forget_mount_points()
        changed = {parent for path, kind in self.found.items() if kind is not None for parent in _parents(path)}
        kinds = {path: MODIFIED if kind is None and path in changed else kind for path, kind in self.found.items()}
        known = [(path, kind) for path, kind in kinds.items() if kind is not None]
        return sorted(known, key=lambda change: change[0].split("/"))

    def _compare(self, path: str, below: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
        """Look through one directory; ``below`` are the layers that have it too. Returns the directories in it."""
        with _Opened(self._upper, path) as upper:
            if upper.fd < 0:
                return  # gone since it was listed
            with _Lower(self._layers, below, path) as lower:
                names = os.listdir(upper.fd)
                for name in names:
                    try:
                        entry = os.stat(name, dir_fd=upper.fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    there = self._note(f"{path}/{name}", entry, lower, name)
                    if stat.S_ISDIR(entry.st_mode):
                        yield f"{path}/{name}", there
                if is_opaque(upper.fd):
                    self.found.update((f"{path}/{name}", DELETED) for name in lower.names() - set(names))

    def _note(self, path: str, entry: os.stat_result, lower: _Lower, name: str) -> Sequence[int]:
        """Remember what this entry says. Returns the layers whose directory it is laid over."""
        old, there = lower.look(name)
        if is_whiteout(entry):
            if old is not None:
                self.found[path] = DELETED
        elif old is None:
            self.found[path] = ADDED
            if path in MOUNT_POINTS and (stat.S_ISDIR(entry.st_mode) or entry.st_size == 0):
                self._mount_points.add(path)
        elif stat.S_ISDIR(entry.st_mode) and there:
            self.found[path] = None if _is_same(entry, old) else MODIFIED
        else:
            self.found[path] = MODIFIED
        return there

    def _forget_mount_points(self) -> None:
        """They are left out unless something has been put into one."""
        for path in sorted(self._mount_points, reverse=True):  # what is in them before them
            if not any(other.startswith(f"{path}/") for other in self.found):
                del self.found[path]


def _is_same(new: os.stat_result, old: os.stat_result) -> bool:
    """Has a directory been laid over the old one for the sake of what is in it only? Its time changes with that."""
    return (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid)


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def is_whiteout(entry: os.stat_result) -> bool:
    """Does it stand for a deleted file?"""
    return stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0


def is_opaque(directory: int) -> bool:
    """Does an open directory hide what the layers below have in its place?"""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


class _Opened:
    """A directory below another, by path; ``fd`` is -1 when it is gone."""

    __slots__ = ("fd",)

    def __init__(self, root: int, path: str) -> None:
        try:
            self.fd = _libc.openat2(root, path.lstrip("/") or ".", _DIRECTORY, _BENEATH)
        except (FileNotFoundError, NotADirectoryError):
            self.fd = -1

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Lower:
    """One directory as the layers below show it."""

    __slots__ = ("_opened",)

    def __init__(self, layers: Sequence[int], below: Sequence[int], path: str) -> None:
        self._opened = [(number, _Opened(layers[number], path)) for number in below]

    def __enter__(self) -> _Lower:
        return self

    def __exit__(self, *_: object) -> None:
        for _number, opened in self._opened:
            opened.__exit__()

    def look(self, name: str) -> tuple[os.stat_result | None, list[int]]:
        """The file of this name, and if that is a directory, the layers that have a part in it."""
        found: os.stat_result | None = None
        there: list[int] = []
        for number, opened in self._opened:
            try:
                entry = os.stat(name, dir_fd=opened.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(entry.st_mode):
                return (found, there) if found or is_whiteout(entry) else (entry, [])
            found = found or entry
            there.append(number)
            with _Opened(opened.fd, name) as directory:
                if is_opaque(directory.fd):
                    break
        return found, there

    def names(self) -> set[str]:
        """All that is in it."""
        listed = {name for _, opened in self._opened for name in os.listdir(opened.fd)}
        return {name for name in listed if self.look(name)[0] is not None}
