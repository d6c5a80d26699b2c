"""`poc restart`: stop, then start again."""

from __future__ import annotations

from poc.cli.commands.stop import TIMEOUT
from poc.cli.each import each, outcomes
from poc.cli.parse import Args, Command
from poc.engine import Engine

COMMAND = Command(
    arguments="CONTAINER [CONTAINER...]",
    complete="container",
    example="poc restart -t 2 web",
    options=(TIMEOUT,),
)


def run(args: Args) -> int:
    containers = Engine(args.root).containers
    # The waiting is done together, the starting is not: a monitor forked off a program with threads is a big one.
    if len(args.arguments) > 1:
        list(outcomes(args.arguments, lambda name: containers.get(name).stop(args.timeout), together=True))
    return each(args.arguments, lambda name: containers.get(name).restart(args.timeout))
