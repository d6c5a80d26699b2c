"""`poc prune`: everything poc has made on this machine is gone, images only on request."""

from __future__ import annotations

from poc.cli import pruning
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.errors import PocError

COMMAND = Command(
    example="poc prune --force --images",
    options=(
        pruning.FORCE,
        Option("-a --all --images", FLAG, "Remove the images too", key="images"),
        Option("--volumes", FLAG, "Remove the volumes too, not only the anonymous ones of these containers"),
    ),
)

_ALWAYS = (
    "all containers, running ones too, with their anonymous volumes",
    "the bridge, its leases and the nftables table",
    "cgroups and state directories",
)


def run(args: Args) -> int:
    if not args.force:
        more = [f"all {kind}" for kind in ("images", "volumes") if getattr(args, kind)]
        if not pruning.confirmed(*_ALWAYS, *more):
            raise PocError("nothing was removed (--force does not ask)")
    for line in Engine(args.root).prune(images=args.images, volumes=args.volumes):
        print(line)
    return 0
