"""`poc image prune`: remove the images that have no name, or no container."""

from __future__ import annotations

from poc.cli import pruning
from poc.cli.parse import FLAG, Args, Command, Option
from poc.cli.progress import waiting
from poc.engine import Engine

COMMAND = Command(
    example="poc image prune --all --force",
    options=(
        Option("-a --all", FLAG, "Remove all that no container was made from, not only those without a name"),
        pruning.FILTER,
        pruning.FORCE,
    ),
)


def run(args: Args) -> int:
    if not args.force and not pruning.confirmed(pruning.images(args.all)):
        return 0
    with waiting("removing images"):
        pruned = Engine(args.root).images.prune(args.all, args.filter)
    pruning.show(pruned)
    return 0
