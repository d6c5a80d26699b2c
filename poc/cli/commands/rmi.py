"""`poc rmi`: remove references to images, and an image with its last one."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine

COMMAND = Command(
    arguments="IMAGE [IMAGE...]",
    complete="image",
    example="poc rmi debian:12",
    options=(Option("-f --force", FLAG, "Remove an image with all its references"),),
)


def run(args: Args) -> int:
    images = Engine(args.root).images

    def remove(name: str) -> str:
        references, ids = images.remove(name, force=args.force)
        return "\n".join([*(f"Untagged: {reference}" for reference in references), *(f"Deleted: {id}" for id in ids)])

    return each(args.arguments, remove)
