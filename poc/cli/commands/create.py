"""`poc create`: a container that is not started, its id on stdout."""

from __future__ import annotations

from poc.cli.container_options import CONTAINER_OPTIONS, create
from poc.cli.parse import Args, Command
from poc.engine import Engine

COMMAND = Command(
    arguments="IMAGE [COMMAND] [ARG...]",
    complete="image",
    interspersed=False,
    starts=True,
    example="poc create --name web -v /srv/www:/www:ro ubuntu python3 -m http.server -d /www",
    options=CONTAINER_OPTIONS,
)


def run(args: Args) -> int:
    print(create(Engine(args.root), args).id)
    return 0
