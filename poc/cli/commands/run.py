"""`poc run`: create a container, start it, and be its terminal until it ends (or, with -d, print its id)."""

from __future__ import annotations

import os

from poc.cli.container_options import CONTAINER_OPTIONS, create
from poc.cli.output import complain, window_size
from poc.cli.parse import FLAG, LIST, Args, Command, Option
from poc.cli.terminal import DETACH_OPTION, SIGNAL_OPTION
from poc.engine import Engine
from poc.engine.keys import parse_keys
from poc.errors import ContainerNotFound, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.container import Container

_STREAMS = ("stdin", "stdout", "stderr")
COMMAND = Command(
    arguments="IMAGE [COMMAND] [ARG...]",
    complete="image",
    interspersed=False,
    starts=True,
    example="poc run --rm --cpus 0.5 --memory 512m ubuntu sysbench cpu run",
    options=(
        Option("-d --detach", FLAG, "Print the container's id and leave it running"),
        Option(
            "-a --attach",
            LIST,
            "Attach stdin, stdout or stderr only; may be repeated",
            metavar="STREAM",
            complete=_STREAMS,
        ),
        *CONTAINER_OPTIONS,
        SIGNAL_OPTION,
        DETACH_OPTION,
    ),
)


def run(args: Args) -> int:
    keys = parse_keys(args.detach_keys)
    streams = _attached(args)
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

    outputs = (1 if "stdout" in streams else _nowhere(), 2 if "stderr" in streams else _nowhere())
    if streams == {"stdin"}:
        print(container.id, flush=True)  # docker's: the caller is to find the output in the log
    signals = args.sig_proxy
    return attach(container, session, args.stdin_open, args.tty, keys, signals=signals, outputs=outputs) or 0


def _attached(args: Args) -> set[str]:
    """The streams to attach: without a wish all of them."""
    streams = {name.lower() for name in args.attach}
    if unknown := sorted(streams - set(_STREAMS)):
        raise InvalidArgument(f"--attach: {unknown[0]!r:.100} is none of stdin, stdout and stderr")
    if streams and args.detach:
        raise InvalidArgument("conflicting options: --attach and --detach")
    return streams or set(_STREAMS)


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _remove(container: Container) -> None:
    """What could not be started is not left behind."""
    try:
        container.remove(force=True, v=True)
    except ContainerNotFound:
        pass  # --rm was faster
