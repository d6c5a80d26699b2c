"""`poc top`: the processes of a container, as the host sees them."""

from __future__ import annotations

from poc.cli.output import table
from poc.cli.parse import Args, Command
from poc.engine import Engine

COMMAND = Command(
    arguments="CONTAINER [PS-OPTION...]",
    complete="container",
    interspersed=False,
    example="poc top web -o pid,rss,cmd",
)


def run(args: Args) -> int:
    name, *options = args.arguments
    print(table(*Engine(args.root).containers.get(name).top(options or ("-ef",))))
    return 0
