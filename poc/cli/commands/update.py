"""`poc update`: other limits for containers, at once where they run."""

from __future__ import annotations

from poc.cli.container_options import ENGINE_OPTIONS
from poc.cli.each import each
from poc.cli.parse import Args, Command
from poc.engine import Engine
from poc.engine.config import LIMITS
from poc.errors import InvalidArgument

OPTIONS = tuple(option for option in ENGINE_OPTIONS if option.key in LIMITS)
COMMAND = Command(
    arguments="CONTAINER [CONTAINER...]",
    complete="container",
    example="poc update --cpus 1.5 --memory 1g web",
    options=OPTIONS,
)


def run(args: Args) -> int:
    limits = {option.key: getattr(args, option.key) for option in OPTIONS}
    if not any(limits.values()):
        raise InvalidArgument("update takes one limit or more")
    containers = Engine(args.root).containers
    return each(args.arguments, lambda name: containers.get(name).update(**limits))
