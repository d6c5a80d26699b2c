"""`poc exec`: another program in a running container."""

from __future__ import annotations

import sys

from poc.cli.container_options import read_environment
from poc.cli.output import complain
from poc.cli.parse import FLAG, LIST, VALUE, Args, Command, Option
from poc.cli.terminal import DETACH_OPTION
from poc.engine import Engine
from poc.engine.keys import parse_keys
from poc.errors import CommandNotExecutable, CommandNotFound, Conflict, InvalidArgument, NotFound, SetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine.container import Container

COMMAND = Command(
    arguments="CONTAINER COMMAND [ARG...]",
    complete="container",
    interspersed=False,
    starts=True,
    example="poc exec -it web sh",
    options=(
        Option("-i --interactive", FLAG, "Keep stdin open"),
        Option("-t --tty", FLAG, "Give the program a terminal"),
        Option("-d --detach", FLAG, "Leave it running, without its streams"),
        Option("-u --user", VALUE, "User, by name or id, and perhaps group", metavar="USER[:GROUP]"),
        Option("-w --workdir", VALUE, "Directory to run in", metavar="DIRECTORY"),
        Option("-e --env", LIST, "Set a variable; NAME alone takes the caller's value", metavar="NAME[=VALUE]"),
        Option("--env-file", LIST, "Read variables from a file, one a line", metavar="FILE", complete="file"),
        Option("--privileged", FLAG, "All capabilities"),
        DETACH_OPTION,
    ),
)


def run(args: Args) -> int:
    try:
        return _run(args)
    except (Conflict, NotFound) as error:
        complain(error)
        return 1


def _run(args: Args) -> int:
    keys = parse_keys(args.detach_keys)
    name, *command = args.arguments
    container = Engine(args.root).containers.get(name)
    options = {
        "environment": read_environment(args),
        "working_dir": args.workdir,
        "user": args.user,
        "privileged": args.privileged,
        "tty": args.tty,
    }
    try:
        return _carry_out(container, command, options, args, keys)
    except (CommandNotFound, CommandNotExecutable):
        raise
    except (InvalidArgument, SetupError) as error:  # no such user, no such directory
        raise CommandNotExecutable(str(error)) from error


def _carry_out(container: Container, command: list[str], options: dict[str, Any], args: Args, keys: bytes) -> int:
    from poc.cli.terminal import attach
    from poc.engine.execution import Execution

    if args.detach:
        container.exec_run(command, detach=True, **options)
        return 0
    execution = Execution(container, command, args.interactive, options)
    code = attach(execution, execution, args.interactive, args.tty, keys)
    if code is None:
        print("read escape sequence", file=sys.stderr)
    return 1 if code is None else code
