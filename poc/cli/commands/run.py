"""`poc run`: create a container, start it, and be its terminal until it ends (or, with -d, print its id)."""

from __future__ import annotations

from poc.cli.container_options import CONTAINER_OPTIONS, create
from poc.cli.output import complain, window_size
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.errors import ContainerNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.containers import Container

COMMAND = Command(
    arguments="IMAGE [COMMAND] [ARG...]",
    complete="image",
    interspersed=False,
    starts=True,
    example="poc run --rm --cpus 0.5 --memory 512m ubuntu sysbench cpu run",
    options=(Option("-d --detach", FLAG, "Print the container's id and leave it running"), *CONTAINER_OPTIONS),
)


def run(args: Args) -> int:
    container = create(Engine(args.root), args, hold=True)
    try:
        session = container.start(attach=not args.detach, size=window_size() if args.tty else None)
    except BaseException:
        _remove(container)
        raise
    for warning in container.warnings:
        complain(warning, prefix="Warning")
    if session is None:
        print(container.id)
        return 0
    from poc.cli.terminal import attach

    return attach(container, session, stdin=args.stdin_open, tty=args.tty)


def _remove(container: Container) -> None:
    """What could not be started is not left behind."""
    try:
        container.remove(force=True)
    except ContainerNotFound:
        pass  # --rm was faster
