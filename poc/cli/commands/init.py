"""`poc init`: the base image `ubuntu`, the bridge with its NAT, and the state directories."""

from __future__ import annotations

import sys

from poc.cli.parse import VALUE, Args, Command, Option
from poc.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOURCES = ("registry", "bootstrap", "tar", "dir", "docker")

COMMAND = Command(
    arguments="[FILE|PATH]",
    complete="file",
    example="poc init --from tar rootfs.tar.zst",
    options=(
        Option(
            "--from",
            VALUE,
            "Where the image comes from: registry, bootstrap (debootstrap from a package archive), tar FILE,"
            " dir PATH or docker (default: the first that works)",
            key="source",
            metavar="SOURCE",
            complete=SOURCES,
        ),
    ),
)


def run(args: Args) -> int:
    argument = args.arguments[0] if args.arguments else None
    print(make(Engine(args.root), args.source, argument))
    return 0


def make(engine: Engine, source: str | None = None, argument: str | None = None) -> Any:
    """`Engine.init`, with a progress bar on a terminal. Running it again repairs, or does nothing."""
    if not sys.stderr.isatty():
        return engine.init(source, argument)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        return engine.init(
            source, argument, lambda text, done, total: bar.update(task, description=text, completed=done, total=total)
        )
