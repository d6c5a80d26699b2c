"""`poc logs`: what a container has printed, on the streams it was printed on."""

from __future__ import annotations

from poc._fs import write_all
from poc.cli.parse import FLAG, VALUE, Args, Command, Option
from poc.engine import Engine
from poc.errors import InvalidArgument

COMMAND = Command(
    arguments="CONTAINER",
    complete="container",
    example="poc logs -f --tail 20 web",
    options=(
        Option("-f --follow", FLAG, "Go on until the container stops"),
        Option("-n --tail", VALUE, "Begin with the last lines (default: all)", metavar="NUMBER"),
        Option("-t --timestamps", FLAG, "Begin each line with its time"),
    ),
)

_FDS = {"stdout": 1, "stderr": 2}


def run(args: Args) -> int:
    container = Engine(args.root).containers.get(args.arguments[0])
    entries = container.logs(follow=args.follow, tail=_tail(args.tail), timestamps=args.timestamps)
    for stream, data in entries:
        write_all(_FDS[stream], data)
    return 0


def _tail(text: str | None) -> int | None:
    if text in (None, "all", "-1"):
        return None
    if not text.isdigit():
        raise InvalidArgument(f"--tail: {text!r} is neither a number of lines nor 'all'")
    return int(text)
