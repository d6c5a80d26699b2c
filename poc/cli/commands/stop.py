"""`poc stop`: the stop signal, then KILL after some seconds."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.parse import INT, Args, Command, Option
from poc.engine import Engine

TIMEOUT = Option(
    "-t --timeout --time",
    INT,
    "Seconds to wait before KILL (default: the container's, else 10)",
    key="timeout",
    metavar="SECONDS",
)
COMMAND = Command(
    arguments="CONTAINER [CONTAINER...]",
    complete="container",
    example="poc stop -t 2 web",
    options=(TIMEOUT,),
)


def run(args: Args) -> int:
    containers = Engine(args.root).containers
    return each(args.arguments, lambda name: containers.get(name).stop(args.timeout), together=True)
