"""What happens to containers, images, volumes and networks: one JSON line each, in docker's form.

    <data>/events/log        written now
                  log.1      full, and so read-only; of these the last `_KEPT` stay

Everybody who does something appends its line here; there is nobody else who could know. A line is one write(2) to a
file open with O_APPEND, so that those of parallel writers never mix. It begins with a newline too: what a killed
writer, or a full disk, left of its own line spoils no other. Lines are read by `poc.engine.history`.

    writer   open, lock (shared), written to ``log``? else anew; write, unlock
    rotator  lock (alone), still ``log``? rename to ``log.<n>``, unlock: nobody writes to it any more

That nothing can be written is no reason to stop what happens: an event may be lost then, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import time

from poc import _fs
from poc._lean.json import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from poc.engine.store import Paths

LARGEST = 2 << 20  # bytes, after which a file is full
_KEPT = 4  # full ones
_ATTEMPTS, _PAUSE = 50, 0.001  # seconds: a rotation takes less than one


def emit(paths: Paths, kind: str, action: str, id: str, /, **attributes: object) -> None:
    """Note that ``action`` has happened to the ``kind`` of object that has this id; never fails, costs some 20 µs.

    ``kind`` and ``action`` are docker's words. Attributes that are None are left out.
    """
    try:
        _append(f"{paths.data}/events", _line(kind, action, id, attributes))
    except OSError:
        pass  # a full disk, or a store that is just being pruned


def emit_container(paths: Paths, record: Mapping[str, Any], action: str, /, **attributes: object) -> None:
    """`emit` for the container with this container.json: with its image, name and labels, as docker's."""
    config = record["config"]
    labels = {**(record["image_config"].get("Labels") or {}), **(config.get("labels") or {})}
    known = {"image": config["image"], "name": record["name"]}
    emit(paths, "container", action, record["id"], **{**labels, **known, **attributes})


def _line(kind: str, action: str, id: str, attributes: dict[str, object]) -> bytes:
    said = ",".join(f"{quoted(k)}:{quoted(str(v))}" for k, v in sorted(attributes.items()) if v is not None)
    old = ""  # keys that docker has kept from before there were other objects
    if kind in ("container", "image"):
        old = f'"status":{quoted(action)},"id":{quoted(id)},'
    if kind == "container":
        old += f'"from":{quoted(str(attributes.get("image", "")))},'
    now = time.time_ns()
    return (
        f'\n{{{old}"Type":{quoted(kind)},"Action":{quoted(action)},"Actor":{{"ID":{quoted(id)},"Attributes":{{{said}}}}},'
        f'"scope":"local","time":{now // 1_000_000_000},"timeNano":{now}}}\n'
    ).encode()


def _append(directory: str, line: bytes) -> None:
    path = f"{directory}/log"
    for _ in range(_ATTEMPTS):
        fd = _open(directory, path)
        try:
            if _lock(fd, fcntl.LOCK_SH) and not _is_current(fd, path):
                continue
            os.write(fd, line)
            if os.lseek(fd, 0, os.SEEK_CUR) > LARGEST and _lock(fd, fcntl.LOCK_EX, attempts=1):
                _rotate(directory, fd)
            return
        finally:
            os.close(fd)


def _open(directory: str, path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass  # another's first line
        return os.open(path, flags, 0o600)


def _lock(fd: int, kind: int, attempts: int = _ATTEMPTS) -> bool:
    """Never waits for long: who rotates may have been stopped in the middle of it."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(_PAUSE)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
    return False


def _is_current(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _rotate(directory: str, fd: int) -> None:
    path = f"{directory}/log"
    if _is_current(fd, path):
        full = numbers(directory)
        os.rename(path, f"{path}.{full[-1] + 1 if full else 1}")
        for number in full[: 1 - _KEPT]:
            _fs.remove_file(f"{path}.{number}")
    fcntl.flock(fd, fcntl.LOCK_UN)  # also for a child that another thread has just forked


def numbers(directory: str) -> list[int]:
    """Those of the full files, the oldest first. Raises FileNotFoundError."""
    names = [name.removeprefix("log.") for name in os.listdir(directory)]
    return sorted(int(name) for name in names if name.isdecimal())
