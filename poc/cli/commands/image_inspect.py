"""`poc image inspect`: docker's description of images, as one JSON array."""

from __future__ import annotations

from poc.cli import inspecting
from poc.cli.parse import Args

COMMAND = inspecting.command("image", "poc image inspect --format '{{.Size}}' ubuntu")


def run(args: Args) -> int:
    return inspecting.inspect(args, "image")
