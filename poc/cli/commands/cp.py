"""`poc cp`: files between a container and this host."""

from __future__ import annotations

import os
import sys

from poc import _fs
from poc.cli.output import complain, size
from poc.cli.parse import FLAG, Args, Command, Option
from poc.cli.progress import progress
from poc.engine import Engine
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from poc.engine.container import Container

COMMAND = Command(
    arguments="SOURCE DESTINATION",
    complete="file",
    example="poc cp web:/var/log/nginx ./logs",
    options=(
        Option(
            "-a --archive",
            FLAG,
            "Out of a container: keep owners, set-user-ID and devices."
            " Into it: give the files to its user, if it has one",
        ),
        Option("-L --follow-link", FLAG, "Copy what a symlink in SOURCE leads to, not the link"),
        Option("-q --quiet", FLAG, "No progress; nor is there any without a terminal"),
    ),
)

_CHUNK = 1 << 18


def run(args: Args) -> int:
    source, destination = args.arguments
    (there, source), (here, destination) = split(source), split(destination)
    if there and here:
        raise InvalidArgument("copying between containers is not supported")
    if not there and not here:
        raise InvalidArgument("must specify at least one container source: CONTAINER:PATH")
    container = Engine(args.root).containers.get(there or here)
    if there:
        return _copy_from(container, source, destination, args)
    return _copy_to(container, source, destination, args)


def split(argument: str) -> tuple[str, str]:
    """The container, "" for a path on this host, and the path (docker's rule)."""
    container, colon, path = argument.partition(":")
    return (container, path) if colon and not argument.startswith(("/", ".")) else ("", argument)


def _copy_from(container: Container, source: str, destination: str, args: Args) -> int:
    if destination == "-":
        write_out(container.get_archive(source, follow=args.follow_link)[0])
        return 0
    with progress(args.quiet) as report:
        count, left_out = container.copy_from(
            source, destination, archive=args.archive, follow=args.follow_link, progress=report
        )
    if left_out:
        complain(f"{left_out} devices were left out; -a copies them too", prefix="Warning")
    _conclude(args, count, destination)
    return 0


def _copy_to(container: Container, source: str, destination: str, args: Args) -> int:
    if source == "-":
        container.put_archive(destination, iter(lambda: os.read(0, _CHUNK), b""), archive=args.archive)
        return 0
    with progress(args.quiet) as report:
        count = container.copy_to(source, destination, archive=args.archive, follow=args.follow_link, progress=report)
    _conclude(args, count, f"{container.name}:{destination}")
    return 0


def write_out(chunks: Iterator[bytes]) -> None:
    """Write a stream to stdout."""
    for chunk in chunks:
        _fs.write_all(1, chunk)


def _conclude(args: Args, count: int, where: str) -> None:
    if not args.quiet and sys.stdout.isatty():
        print(f"Successfully copied {size(count)} to {where}", file=sys.stderr)
