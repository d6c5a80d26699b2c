"""``-u user[:group]`` resolved in the container's own /etc/passwd and /etc/group (passwd(5), group(5)).

The host's user database and its C library have no say: the files are the image's and may be hostile.
"""

from __future__ import annotations

import os
import stat

from poc._fs import read_bytes
from poc.errors import InvalidArgument
from poc.rootfs import open_in_root, proc_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LARGEST_ID = (1 << 32) - 2
_LONGEST_FILE = 4 << 20


class User:
    """Who a process runs as. ``groups`` are the supplementary ones."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: Sequence[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = tuple(groups)
        self.home = home


def resolve(text: str, passwd: bytes, group: bytes) -> User:
    """The `User` that ``text`` ("", name, uid, each with an optional ":group" or ":gid") means. Pure.

    A uid without an entry is allowed and gets group 0 and home "/"; an unknown name is an InvalidArgument.
    """
    name, _, group_name = text.partition(":")
    account = _find(passwd, 7, name or "0")
    if account is None and name and not _is_number(name):
        raise InvalidArgument(f"unable to find user {name}: no matching entries in the container's /etc/passwd")
    uid = _number(account[2] if account else name or "0")
    gid = _number(account[3]) if account else 0
    home = (account[5] if account else "") or "/"
    if group_name:
        return User(uid, _group_id(group_name, group), (), home)
    member_of = [_number(entry[2]) for entry in _entries(group, 4) if account and account[0] in entry[3].split(",")]
    return User(uid, gid, [number for number in member_of if number != gid], home)


def group_ids(names: Sequence[str], group: bytes) -> list[int]:
    """The groups of these names or numbers. Raises InvalidArgument for an unknown name."""
    return [_group_id(name, group) for name in names]


def _group_id(name: str, group: bytes) -> int:
    found = _find(group, 4, name)
    if found is None and not _is_number(name):
        raise InvalidArgument(f"unable to find group {name}: no matching entries in the container's /etc/group")
    return _number(found[2] if found else name)


def _entries(data: bytes, count: int) -> Iterator[list[str]]:
    """The lines that have the fields of an entry, one at a time: the file may be made to be large."""
    for line in data.split(b"\n"):
        fields = line.decode("utf-8", "surrogateescape").split(":")
        if len(fields) >= count and _is_number(fields[2]) and (count < 7 or _is_number(fields[3])):
            yield fields


def _find(data: bytes, count: int, name: str) -> list[str] | None:
    """By name first: a user may be called "1000"."""
    for column in (0, 2):
        for fields in _entries(data, count):
            if fields[column] == name:
                return fields
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise InvalidArgument(f"user or group id {text:.20} is larger than {_LARGEST_ID}")
    return int(text)


def read_layered(directories: Sequence[str], path: str) -> bytes:
    """A small file of the image: from the topmost of its layers (top first) that has it, b"" when none has."""
    for directory in directories:
        try:
            root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # a disk of its own holds the upper layer
        try:
            return _read_in_root(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return b""  # links in a circle, say
        finally:
            os.close(root)
    return b""


def _read_in_root(root: int, path: str) -> bytes:
    place = open_in_root(root, path)
    try:
        # Looked at before it is opened: opening a device or a FIFO of the image's could do anything.
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LONGEST_FILE:
            return b""
        return read_bytes(proc_path(place))
    finally:
        os.close(place)
