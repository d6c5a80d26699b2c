"""`poc inspect`: docker's description of containers, as one JSON array."""

from __future__ import annotations

import json

from poc.cli.output import complain
from poc.cli.parse import Args, Command
from poc.engine import Engine
from poc.errors import NotFound

COMMAND = Command(arguments="CONTAINER [CONTAINER...]", complete="container", example="poc inspect web")


def run(args: Args) -> int:
    containers = Engine(args.root).containers
    found, code = [], 0
    for name in args.arguments:
        try:
            found.append(containers.get(name).attrs)
        except NotFound as error:
            complain(error)
            code = 1
    print(json.dumps(found, indent=4))
    return code
