"""`poc prune`: everything poc has made on this machine is gone, images only on request."""

from __future__ import annotations

import sys

from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.errors import PocError

COMMAND = Command(
    example="poc prune --force --images",
    options=(
        Option("-f --force", FLAG, "Do not ask"),
        Option("-a --all --images", FLAG, "Remove the images too", key="images"),
        Option("--volumes", FLAG, "Remove the volumes too, not only the anonymous ones of these containers"),
    ),
)

_WARNING = """This removes
  - all containers, running ones too, with their anonymous volumes
  - the bridge, its leases and the nftables table
  - cgroups and state directories"""


def run(args: Args) -> int:
    if not args.force:
        _confirm(args.images, args.volumes)
    for line in Engine(args.root).prune(images=args.images, volumes=args.volumes):
        print(line)
    return 0


def _confirm(images: bool, volumes: bool) -> None:
    """Ask on stderr, read the answer from stdin. Raises PocError unless it is a yes."""
    warning = _WARNING + ("\n  - all images" if images else "") + ("\n  - all volumes" if volumes else "")
    print(f"{warning}\nGo on? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        raise PocError("nothing was removed (--force does not ask)")
