"""`poc port`: which ports of a container are published, and where."""

from __future__ import annotations

from poc.cli.parse import Args, Command
from poc.cli.ports import published
from poc.engine import Engine
from poc.errors import NotFound

COMMAND = Command(
    arguments="CONTAINER [PORT[/PROTOCOL]]",
    complete="container",
    example="poc port web 80/tcp",
)


def run(args: Args) -> int:
    name, *rest = args.arguments
    ports = Engine(args.root).containers.get(name).attrs["NetworkSettings"]["Ports"]
    wanted = "" if not rest else rest[0] if "/" in rest[0] else f"{rest[0]}/tcp"
    found = published(ports, wanted)
    if wanted and not found:
        raise NotFound(f"no public port '{wanted}' published for {name}")
    for port, at in found:
        print(at if wanted else f"{port} -> {at}")
    return 0
