"""`poc volume create`: make a volume, or take the one of that name; its name is printed."""

from __future__ import annotations

from poc.cli.parse import LIST, VALUE, Args, Command, Option
from poc.engine import Engine
from poc.errors import InvalidArgument

COMMAND = Command(
    arguments="[VOLUME]",
    example="poc volume create --label purpose=cache cache",
    options=(
        Option("-d --driver", VALUE, "Driver of the volume; there is only local", metavar="DRIVER"),
        Option("--label", LIST, "Set a label", metavar="KEY[=VALUE]"),
        Option("--name", VALUE, "Name of the volume, for those who do not give it as the argument", metavar="NAME"),
        Option(
            "-o --opt",
            LIST,
            "type, device and o of mount(8): a tmpfs, or with type=none and o=bind a directory of the host",
            metavar="KEY=VALUE",
        ),
    ),
)


def run(args: Args) -> int:
    if args.name is not None and args.arguments:
        raise InvalidArgument("the name of the volume is given twice")
    name = args.arguments[0] if args.arguments else args.name
    labels, options = (dict(text.partition("=")[::2] for text in texts) for texts in (args.label, args.opt))
    print(Engine(args.root).volumes.create(name, args.driver or "local", options, labels).name)
    return 0
