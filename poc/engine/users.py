"""``-u user[:group]`` resolved in the container's own /etc/passwd and /etc/group (passwd(5), group(5)).

The host's user database and its C library have no say: the files are the image's and may be hostile.
"""

from __future__ import annotations

import os
import stat

from poc._fs import read_all
from poc.errors import InvalidArgument
from poc.rootfs import open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST_ID = (1 << 32) - 2
_LONGEST_FILE = 16 << 20


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
    name, colon, group_name = text.partition(":")
    entries, groups = _fields(passwd, 7), _fields(group, 4)
    account = _find(entries, name or "0")
    if account is None and not name.isdigit() and name:
        raise InvalidArgument(f"unable to find user {name}: no matching entries in the container's /etc/passwd")
    uid = _number(account[2] if account else name or "0")
    gid = _number(account[3]) if account else 0
    home = (account[5] if account else "") or "/"
    if colon:
        return User(uid, _group_id(group_name, groups), (), home)
    member_of = [_number(entry[2]) for entry in groups if account and account[0] in entry[3].split(",")]
    return User(uid, gid, [number for number in member_of if number != gid], home)


def _group_id(name: str, groups: list[list[str]]) -> int:
    found = _find(groups, name)
    if found is None and not name.isdigit():
        raise InvalidArgument(f"unable to find group {name}: no matching entries in the container's /etc/group")
    return _number(found[2] if found else name)


def _fields(data: bytes, count: int) -> list[list[str]]:
    rows = (line.split(":") for line in data.decode("utf-8", "surrogateescape").splitlines())
    return [row for row in rows if len(row) >= count and row[2].isdigit() and (count < 7 or row[3].isdigit())]


def _find(rows: list[list[str]], name: str) -> list[str] | None:
    """By name first: a user may be called "1000"."""
    for column in (0, 2):
        for row in rows:
            if row[column] == name:
                return row
    return None


def _number(text: str) -> int:
    number = int(text)
    if number > _LARGEST_ID:
        raise InvalidArgument(f"user or group id {text} is larger than {_LARGEST_ID}")
    return number


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
        finally:
            os.close(root)
    return b""


def _read_in_root(root: int, path: str) -> bytes:
    # Opened without blocking, then checked: the image may have a FIFO there, or a device.
    fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LONGEST_FILE:
            return b""
        return read_all(fd)
    finally:
        os.close(fd)
