"""`poc system autostart`: the systemd unit that starts containers again after a reboot."""

from __future__ import annotations

import os
import sys

from poc.cli.output import complain
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.errors import InvalidArgument

COMMAND = Command(
    example="poc system autostart --install",
    options=(
        Option("--install", FLAG, "Put the unit in place, to be started at boot; without an option it is printed"),
        Option("--remove", FLAG, "Take it away again"),
        Option(
            "--start",
            FLAG,
            "Start the containers now: always, and those of unless-stopped and on-failure not stopped by hand",
        ),
    ),
)


def run(args: Args) -> int:
    from poc.engine import autostart

    if args.install + args.remove + args.start > 1:
        raise InvalidArgument("--install, --remove and --start exclude each other")
    engine = Engine(args.root)
    if args.start:
        return _start(engine)
    if args.install:
        print(autostart.install(engine.paths, command()))
    elif args.remove:
        print(autostart.remove(engine.paths))
    else:
        print(autostart.unit(engine.paths, command()), end="")
    return 0


def _start(engine: Engine) -> int:
    from poc.engine import autostart

    started, failed = autostart.start_all(engine)
    for container in started:
        print(container.name)
    for container, error in failed:
        complain(f"{container.name}: {error}")
    return 1 if failed else 0


def command() -> list[str]:
    """How this very poc was called, without its arguments, from anywhere."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return [sys.executable, *(os.path.abspath(word) if os.path.isfile(word) else word for word in words[1:])]
