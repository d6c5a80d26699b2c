"""`poc kill`: a signal to the first process of containers."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.parse import VALUE, Args, Command, Option
from poc.engine import Engine

COMMAND = Command(
    arguments="CONTAINER [CONTAINER...]",
    complete="container",
    example="poc kill -s HUP web",
    options=(Option("-s --signal", VALUE, "Signal to send, by name or number (default: KILL)", metavar="SIGNAL"),),
)


def run(args: Args) -> int:
    containers = Engine(args.root).containers
    return each(args.arguments, lambda name: containers.get(name).kill(args.signal or "KILL"))
