"""`poc container inspect`: docker's description of containers, as one JSON array."""

from __future__ import annotations

from poc.cli import inspecting
from poc.cli.parse import Args

COMMAND = inspecting.command("container", "poc container inspect -f '{{json .State}}' web", inspecting.SIZE)


def run(args: Args) -> int:
    return inspecting.inspect(args, "container", args.size)
