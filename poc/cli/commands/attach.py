"""`poc attach`: the streams of a container that runs."""

from __future__ import annotations

import sys

from poc.cli.parse import FLAG, Args, Command, Option
from poc.cli.terminal import DETACH_OPTION, SIGNAL_OPTION, attach
from poc.engine import Engine
from poc.engine.keys import parse_keys

COMMAND = Command(
    arguments="CONTAINER",
    complete="container",
    example="poc attach --detach-keys ctrl-x web",
    options=(Option("--no-stdin", FLAG, "Do not attach stdin"), SIGNAL_OPTION, DETACH_OPTION),
)


def run(args: Args) -> int:
    keys = parse_keys(args.detach_keys)
    container = Engine(args.root).containers.get(args.arguments[0])
    stdin = container.config.stdin_open and not args.no_stdin
    session = container.attach(stdin)
    code = attach(container, session, stdin, container.config.tty, keys, signals=args.sig_proxy, redraw=True)
    if code is None:
        print("read escape sequence", file=sys.stderr)
    return 1 if code is None else code
