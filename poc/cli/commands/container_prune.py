"""`poc container prune`: remove the containers that don't run."""

from __future__ import annotations

from poc.cli import pruning
from poc.cli.parse import Args, Command
from poc.cli.progress import waiting
from poc.engine import Engine

COMMAND = Command(
    example="poc container prune --force --filter until=24h",
    options=(pruning.FILTER, pruning.FORCE),
)


def run(args: Args) -> int:
    if not args.force and not pruning.confirmed("all stopped containers"):
        return 0
    with waiting("removing containers"):
        pruned = Engine(args.root).containers.prune(args.filter)
    pruning.show(pruned)
    return 0
