"""Copying what an image has at a path, as a volume's first content: see `poc.engine.volumes`."""

from __future__ import annotations

import errno
import os

import prctl

from poc import _fs, _libc, namespaces, rootfs
from poc._lean import json, signal
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def reason(error: OSError) -> str:
    """The kernel's answer alone; `error.strerror` may name the path, which can be as long as the user's argument."""
    return os.strerror(error.errno or errno.EIO)


def move(staging: str, target: str) -> None:
    """What is there already stays: somebody else has put it there in the meantime."""
    for name in os.listdir(staging):
        if not os.path.lexists(f"{target}/{name}"):
            os.rename(f"{staging}/{name}", f"{target}/{name}")
    old, new = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in (staging, target))
    try:
        _fs.copy_attributes(old, new)
    finally:
        os.close(old)
        os.close(new)
    _fs.remove_tree(staging)


def copy_from(root: str, destination: str, to: str) -> bool:
    """Copy a directory of the image, found as a process chrooted to ``root`` finds it; False: there is none."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = rootfs.open_in_root(root_fd, destination, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise InvalidArgument(f"cannot mount volume over existing file: {destination:.200} of the image") from None
    finally:
        os.close(root_fd)
    target = os.open(to, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fs.copy_tree(source, target)
        _fs.copy_attributes(source, target)
    finally:
        os.close(source)
        os.close(target)
    return True


def copy_merged(layers: Sequence[str], view: str, destination: str, to: str) -> bool:
    """The same of several layers, which are mounted as one in a mount namespace of our own."""
    namespaces.leave(["mount"])
    rootfs.detach_propagation()
    lower = ":".join(rootfs.escape_overlay(layer) for layer in reversed(layers))
    _libc.mount("overlay", view, "overlay", _libc.MS_RDONLY, f"lowerdir={lower}")
    return copy_from(view, destination, to)


def in_child(work: Callable[[], bool]) -> bool:
    """Do it in a process of its own, which ends with this one. Raises what it raises, as OSError or InvalidArgument."""
    reader, writer = os.pipe()
    parent = os.getpid()
    try:
        child = namespaces.fork()
        if child == 0:
            namespaces.run_and_exit(lambda: _answer(work, writer, parent))
    finally:
        os.close(writer)
    try:
        answer = _fs.read_all(reader)
    finally:
        os.close(reader)
        namespaces.reap(child)
    if not answer:
        raise OSError(errno.EINTR, "the copying process was killed")
    done, number, text = json.loads(answer)
    if number:
        raise OSError(number, text)
    if text:
        raise InvalidArgument(text)
    return bool(done)


def _answer(work: Callable[[], bool], writer: int, parent: int) -> None:
    prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        return  # killed before the call, so there was no signal
    try:
        answer = [work(), 0, ""]
    except OSError as error:
        answer = [False, error.errno or errno.EIO, error.strerror or str(error)]
    except Exception as error:
        answer = [False, 0, str(error) or repr(error)]
    _fs.write_all(writer, json.dumps(answer).encode())
