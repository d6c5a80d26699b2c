"""`poc import`: an image of a root file system that is a tar archive."""

from __future__ import annotations

import sys

from poc.cli.commands.commit import CHANGE
from poc.cli.parse import VALUE, Args, Command, Option
from poc.cli.progress import progress
from poc.engine import Engine
from poc.errors import InvalidArgument

COMMAND = Command(
    arguments="FILE|- [REPOSITORY[:TAG]]",
    complete="file",
    example="poc import -c 'CMD sh' rootfs.tar.xz mine",
    options=(CHANGE, Option("-m --message", VALUE, "What its history says of it", metavar="TEXT")),
)


def run(args: Args) -> int:
    path, reference = (*args.arguments, "")[:2]
    if path.startswith(("http://", "https://")):
        raise InvalidArgument("import takes a file, or - for stdin; to fetch one: curl -L URL | poc import -")
    source = sys.stdin.buffer if path == "-" else path
    with progress() as report:
        image = Engine(args.root).images.import_tar(
            source, reference, changes=args.change, message=args.message or "", progress=report
        )
    print(image.id)
    return 0
