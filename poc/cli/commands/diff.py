"""`poc diff`: what a container has changed of its image's files."""

from __future__ import annotations

from poc.cli.parse import Args, Command
from poc.engine import Engine

COMMAND = Command(arguments="CONTAINER", complete="container", example="poc diff web")


def run(args: Args) -> int:
    for change in Engine(args.root).containers.get(args.arguments[0]).diff():
        print("CAD"[change["Kind"]], change["Path"])
    return 0
