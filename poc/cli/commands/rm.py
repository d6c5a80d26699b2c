"""`poc rm`: remove containers, their files and all that belongs to them."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.errors import ContainerNotFound

COMMAND = Command(
    arguments="CONTAINER [CONTAINER...]",
    complete="container",
    example="poc rm -f web",
    options=(
        Option("-f --force", FLAG, "Kill the container if it runs; a missing one is no error"),
        Option("-v --volumes", FLAG, "Remove its anonymous volumes too"),
    ),
)


def run(args: Args) -> int:
    containers = Engine(args.root).containers

    def remove(name: str) -> None:
        try:
            containers.get(name).remove(force=args.force, v=args.volumes)
        except ContainerNotFound:
            if not args.force:
                raise

    return each(args.arguments, remove, together=True)
