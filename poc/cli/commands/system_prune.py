"""`poc system prune`: remove stopped containers and what else nobody needs; `poc prune` removes everything."""

from __future__ import annotations

from poc.cli import pruning
from poc.cli.parse import FLAG, Args, Command, Option
from poc.cli.progress import waiting
from poc.engine import Engine

COMMAND = Command(
    example="poc system prune --force --volumes",
    options=(
        Option("-a --all", FLAG, "Remove all images without a container, not only those without a name"),
        Option("--volumes", FLAG, "Remove anonymous volumes that no container has"),
        pruning.FILTER,
        pruning.FORCE,
    ),
)


def run(args: Args) -> int:
    if not args.force:
        volumes = ["all anonymous volumes not used by at least one container"] if args.volumes else []
        if not pruning.confirmed("all stopped containers", *volumes, pruning.images(args.all)):
            return 0
    with waiting("removing what is not needed"):
        pruned = Engine(args.root).prune_unused(args.all, args.volumes, args.filter)
    pruning.show(pruned)
    return 0
