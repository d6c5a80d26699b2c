"""What the prune commands share: the question, the filter, and what was removed, in docker's words."""

from __future__ import annotations

import sys

from poc.cli.output import size
from poc.cli.parse import FLAG, LIST, Option
from poc.errors import PocError

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


def confirm(*what: str) -> None:
    """Ask on stderr, read the answer from stdin. Raises PocError unless it is a yes."""
    print("WARNING! This will remove:", *(f"  - {line}" for line in what), sep="\n", file=sys.stderr)
    print("Are you sure you want to continue? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        raise PocError("nothing was removed (--force does not ask)")


def show(pruned: dict[str, Any]) -> None:
    """Print what a prune of the library returned."""
    for kind in ("Containers", "Volumes"):
        if names := pruned.get(f"{kind}Deleted"):
            print(f"Deleted {kind}:", *names, "", sep="\n")
    if images := pruned.get("ImagesDeleted"):
        lines = [f"{key.lower()}: {value}" for entry in images for key, value in entry.items()]
        print("Deleted Images:", *lines, "", sep="\n")
    print(f"Total reclaimed space: {size(pruned['SpaceReclaimed'])}")
