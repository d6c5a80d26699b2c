"""`poc logs`: what a container has printed, on the streams it was printed on."""

from __future__ import annotations

from poc._fs import write_all
from poc.cli.parse import FLAG, VALUE, Args, Command, Option
from poc.engine import Engine

COMMAND = Command(
    arguments="CONTAINER",
    complete="container",
    example="poc logs -f --since 10m --tail 20 web",
    options=(
        Option("-f --follow", FLAG, "Go on until the container stops"),
        Option("-n --tail", VALUE, "Begin with the last lines (default: all)", metavar="NUMBER"),
        Option("--since", VALUE, "Show lines from a time on: RFC 3339, Unix seconds, or 10m (ago)", metavar="TIME"),
        Option("--until", VALUE, "Show lines up to a time", metavar="TIME"),
        Option("-t --timestamps", FLAG, "Begin each line with its time"),
        Option("--details", FLAG, "Begin each line with what --log-opt labels, env and tag have added to it"),
    ),
)

_FDS = {"stdout": 1, "stderr": 2}


def run(args: Args) -> int:
    entries = (
        Engine(args.root)
        .containers.get(args.arguments[0])
        .logs(
            follow=args.follow,
            tail=args.tail,
            since=args.since,
            until=args.until,
            timestamps=args.timestamps,
            details=args.details,
        )
    )
    for stream, data in entries:
        write_all(_FDS[stream], data)
    return 0
