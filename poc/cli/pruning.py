"""What the prune commands share: the question, the filter, and what was removed, in docker's words."""

from __future__ import annotations

import sys

from poc.cli.output import size
from poc.cli.parse import FLAG, LIST, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORCE = Option("-f --force", FLAG, "Do not ask")
FILTER = Option(
    "--filter",
    LIST,
    "Only what was made until=TIME (or 24h ago), has label=KEY[=VALUE], or has it not: label!=; repeatable",
    metavar="KEY=VALUE",
)


def confirmed(*what: str) -> bool:
    """Ask on stderr, and read from stdin whether the answer is a yes. Else docker's commands end, content."""
    print("WARNING! This will remove:", *(f"  - {line}" for line in what), sep="\n", file=sys.stderr)
    print("Are you sure you want to continue? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


def images(everything: bool) -> str:
    """Which images go, in docker's words."""
    return "all images without at least one container associated to them" if everything else "all dangling images"


def show(pruned: dict[str, Any]) -> None:
    """Print what a prune of the library returned."""
    for kind in ("Containers", "Volumes"):
        if names := pruned.get(f"{kind}Deleted"):
            print(f"Deleted {kind}:", *names, "", sep="\n")
    if images := pruned.get("ImagesDeleted"):
        lines = [f"{key.lower()}: {value}" for entry in images for key, value in entry.items()]
        print("Deleted Images:", *lines, "", sep="\n")
    print(f"Total reclaimed space: {size(pruned['SpaceReclaimed'])}")
