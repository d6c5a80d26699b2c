"""`poc wait`: the exit code of each container, when it has stopped."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.parse import Args, Command
from poc.engine import Engine

COMMAND = Command(arguments="CONTAINER [CONTAINER...]", complete="container", example="poc wait web")


def run(args: Args) -> int:
    containers = Engine(args.root).containers
    return each(args.arguments, lambda name: containers.get(name).wait(), together=True)
