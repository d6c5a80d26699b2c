"""`poc volume rm`: remove volumes with what is in them."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.errors import VolumeNotFound

COMMAND = Command(
    arguments="VOLUME [VOLUME...]",
    complete="volume",
    example="poc volume rm cache",
    options=(Option("-f --force", FLAG, "A missing volume is no error; one that a container has stays all the same"),),
)


def run(args: Args) -> int:
    volumes = Engine(args.root).volumes

    def remove(name: str) -> None:
        try:
            volumes.get(name).remove()
        except VolumeNotFound:
            if not args.force:
                raise

    return each(args.arguments, remove)
