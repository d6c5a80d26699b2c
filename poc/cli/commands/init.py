"""`poc init`: the base image `ubuntu`, the bridge with its NAT, and the state directories."""

from __future__ import annotations

from poc.cli.parse import VALUE, Args, Command, Option
from poc.cli.progress import progress
from poc.engine import Engine

SOURCES = ("registry", "bootstrap", "tar", "dir", "docker")

FROM = Option(
    "--from",
    VALUE,
    "Where the image comes from: registry, bootstrap (debootstrap from a package archive), tar FILE,"
    " dir PATH or docker (default: the first that works)",
    key="source",
    metavar="SOURCE",
    complete=SOURCES,
)

COMMAND = Command(
    arguments="[FILE|PATH]", complete="file", example="poc init --from tar rootfs.tar.zst", options=(FROM,)
)


def run(args: Args) -> int:
    argument = args.arguments[0] if args.arguments else None
    with progress() as report:
        notes = Engine(args.root).init(args.source, argument, report)
    for line in notes:
        print(line)
    return 0
