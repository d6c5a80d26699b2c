"""`poc start`: start containers that are created or stopped."""

from __future__ import annotations

from poc.cli.each import each
from poc.cli.output import complain, window_size
from poc.cli.parse import FLAG, Args, Command, Option
from poc.cli.terminal import DETACH_OPTION
from poc.engine import Engine
from poc.engine.keys import parse_keys
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.attach import Session
    from poc.engine.container import Container

COMMAND = Command(
    arguments="CONTAINER [CONTAINER...]",
    complete="container",
    example="poc start -a web",
    options=(
        Option("-a --attach", FLAG, "Show the container's output and pass signals on"),
        Option("-i --interactive", FLAG, "Attach stdin too"),
        DETACH_OPTION,
    ),
)


def run(args: Args) -> int:
    engine = Engine(args.root)
    if not (args.attach or args.interactive):
        return each(args.arguments, lambda name: _start(engine.containers.get(name)))
    if len(args.arguments) > 1:
        raise InvalidArgument("only one container can be started with -a or -i")
    from poc.cli.terminal import attach

    keys = parse_keys(args.detach_keys)
    container = engine.containers.get(args.arguments[0])
    stdin = args.interactive and container.config.stdin_open
    session = _start(container, attach=True, stdin=stdin)
    assert session is not None
    return attach(container, session, stdin, container.config.tty, keys) or 0


def _start(container: Container, attach: bool = False, stdin: bool = False) -> Session | None:
    session = container.start(attach, window_size() if container.config.tty else None, stdin)
    for warning in container.warnings:
        complain(warning, prefix="Warning")
    return session
