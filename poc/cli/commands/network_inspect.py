"""`poc network inspect`: docker's description of networks, as one JSON array."""

from __future__ import annotations

from poc.cli import inspecting
from poc.cli.parse import Args

COMMAND = inspecting.command("network", "poc network inspect bridge")


def run(args: Args) -> int:
    return inspecting.inspect(args, "network")
