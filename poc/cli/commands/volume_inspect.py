"""`poc volume inspect`: docker's description of volumes, as one JSON array."""

from __future__ import annotations

from poc.cli import inspecting
from poc.cli.parse import Args

COMMAND = inspecting.command("volume", "poc volume inspect --format '{{.Mountpoint}}' cache")


def run(args: Args) -> int:
    return inspecting.inspect(args, "volume")
