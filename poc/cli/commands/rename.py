"""`poc rename`: give a container another name."""

from __future__ import annotations

from poc.cli.parse import Args, Command
from poc.engine import Engine

COMMAND = Command(arguments="CONTAINER NAME", complete="container", example="poc rename web old-web")


def run(args: Args) -> int:
    name, new = args.arguments
    Engine(args.root).containers.get(name).rename(new)
    return 0
