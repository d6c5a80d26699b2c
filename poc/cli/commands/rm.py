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
        Option("-f --force", FLAG, "Kill the container if it runs; a missing one is no failure"),
        Option("-v --volumes", FLAG, "Remove its anonymous volumes too"),
    ),
)


def run(args: Args) -> int:
    containers = Engine(args.root).containers

    def remove(name: str) -> None:
        containers.get(name).remove(force=args.force, v=args.volumes)

    return each(args.arguments, remove, together=True, forgiven=(ContainerNotFound,) if args.force else ())
