"""`poc export`: a container's root file system as a tar archive."""

from __future__ import annotations

import errno
import os
import sys

from poc import _fs
from poc.cli.commands.cp import write_out
from poc.cli.parse import VALUE, Args, Command, Option
from poc.engine import Engine
from poc.errors import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from poc.engine.container import Container

COMMAND = Command(
    arguments="CONTAINER",
    complete="container",
    example="poc export web | tar -t",
    options=(Option("-o --output", VALUE, "Write to this file instead of stdout", metavar="FILE", complete="file"),),
)


def run(args: Args) -> int:
    container = Engine(args.root).containers.get(args.arguments[0])
    if args.output is not None:
        _write_file(container, args.output)
    elif sys.stdout.isatty():
        raise InvalidArgument("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    else:
        write_out(container.export())
    return 0


def _write_file(container: Container, path: str) -> None:
    """Not seen under its name before it is whole, and nothing of it left before; into a device or a FIFO at once."""
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise NotFound(f"failed to export container: invalid output path: directory {directory!r} does not exist")
    chunks = container.export()
    if not os.path.exists(path) or os.path.isfile(path):
        _write_whole(chunks, path)
        return
    with open(path, "wb") as file:
        file.writelines(chunks)


def _write_whole(chunks: Iterator[bytes], path: str) -> None:
    temporary = f"{os.path.dirname(path)}/.poc-export-{os.getpid()}"
    try:
        with os.fdopen(_open_unnamed(temporary), "wb") as file:
            file.writelines(chunks)
            file.flush()
            if not os.path.exists(temporary):
                # With a descriptor, Python has it follow the link that procfs shows (linkat(2), AT_SYMLINK_FOLLOW).
                os.link(f"/proc/self/fd/{file.fileno()}", temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
            os.rename(temporary, path)
    except BaseException:
        _fs.remove_file(temporary)
        raise


def _open_unnamed(path: str) -> int:
    """A file that gets its name when it is whole, and is gone if it comes to nothing (open(2), O_TMPFILE)."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(os.path.dirname(path), flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    return os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o600)  # a file system without such files
