"""`poc inspect`: docker's description of containers, images, networks and volumes, as one JSON array."""

from __future__ import annotations

from poc.cli import inspecting
from poc.cli.parse import VALUE, Args, Command, Option

COMMAND = Command(
    arguments="NAME [NAME...]",
    complete="object",
    example="poc inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web",
    options=(
        inspecting.FORMAT,
        inspecting.SIZE,
        Option(
            "--type",
            VALUE,
            "Only look for a container, image, network or volume",
            metavar="TYPE",
            complete=("container", "image", "network", "volume"),
        ),
    ),
)


def run(args: Args) -> int:
    return inspecting.inspect(args, args.type or "", args.size)
