"""`poc volume prune`: remove the volumes that no container has."""

from __future__ import annotations

import sys

from poc.cli.output import size
from poc.cli.parse import FLAG, LIST, Args, Command, Option
from poc.engine import Engine
from poc.engine.volumes import parse_filters

COMMAND = Command(
    example="poc volume prune --all --force",
    options=(
        Option("-a --all", FLAG, "Named volumes too, not only anonymous ones"),
        Option("--filter", LIST, "Remove only those with label=KEY[=VALUE], or without: label!=", metavar="KEY=VALUE"),
        Option("-f --force", FLAG, "Do not ask"),
    ),
)


def run(args: Args) -> int:
    filters = parse_filters(args.filter)
    if not args.force and not _confirmed(args.all):
        return 0
    pruned = Engine(args.root).volumes.prune(filters, all=args.all)
    if pruned["VolumesDeleted"]:
        print("Deleted Volumes:", *pruned["VolumesDeleted"], "", sep="\n")
    print(f"Total reclaimed space: {size(pruned['SpaceReclaimed'])}")
    return 0


def _confirmed(everything: bool) -> bool:
    kind = "all" if everything else "anonymous"
    print(f"WARNING! This will remove {kind} local volumes not used by at least one container.", file=sys.stderr)
    print("Are you sure you want to continue? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
