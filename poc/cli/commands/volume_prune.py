"""`poc volume prune`: remove the volumes that no container has."""

from __future__ import annotations

from poc.cli import pruning
from poc.cli.parse import FLAG, LIST, Args, Command, Option
from poc.engine import Engine
from poc.engine.volumes import parse_filters

COMMAND = Command(
    example="poc volume prune --all --force",
    options=(
        Option("-a --all", FLAG, "Named volumes too, not only anonymous ones"),
        Option("--filter", LIST, "Remove only those with label=KEY[=VALUE], or without: label!=", metavar="KEY=VALUE"),
        pruning.FORCE,
    ),
)


def run(args: Args) -> int:
    filters = parse_filters(args.filter)
    kind = "all" if args.all else "anonymous"
    if not args.force and not pruning.confirmed(f"{kind} local volumes not used by at least one container"):
        return 0
    pruning.show(Engine(args.root).volumes.prune(filters, all=args.all))
    return 0
