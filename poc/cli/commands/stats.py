"""`poc stats`: what containers use, live or once."""

from __future__ import annotations

import sys
import time

from poc.cli.output import FORMAT, binary_size, show, size
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine
from poc.engine.usage import Reading
from poc.errors import Conflict, ContainerNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.container import Container

COMMAND = Command(
    arguments="[CONTAINER...]",
    complete="container",
    example="poc stats --no-stream --format '{{.Name}}: {{.CPUPerc}}' web",
    options=(
        Option("-a --all", FLAG, "Show all containers, not only those that run"),
        Option("--no-stream", FLAG, "Print once, and end"),
        Option("--no-trunc", FLAG, "Show ids in full"),
        FORMAT,
    ),
)

COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
)
_INTERVAL = 1.0  # seconds


def run(args: Args) -> int:
    engine = Engine(args.root)
    before = _read(_chosen(engine, args))
    while True:
        time.sleep(_INTERVAL)
        now = _read(_chosen(engine, args))
        rows = [row(container, reading, before[id][1] if id in before else None, args)
                for id, (container, reading) in now.items()]  # fmt: skip
        if not args.no_stream and (args.format or "table").startswith("table") and sys.stdout.isatty():
            sys.stdout.write("\033[H\033[J")  # home, and clear what is below
        show(rows, COLUMNS, args.format, {"Container": "CONTAINER"})
        if args.no_stream:
            return 0
        sys.stdout.flush()
        before = now


def _chosen(engine: Engine, args: Args) -> list[Container]:
    if args.arguments:
        return [engine.containers.get(name) for name in args.arguments]
    return engine.containers.list(all=args.all)


def _read(containers: list[Container]) -> dict[str, tuple[Container, Reading | None]]:
    """By id; None for one that does not run."""
    found: dict[str, tuple[Container, Reading | None]] = {}
    for container in containers:
        try:
            found[container.id] = container, Reading(container)
        except ContainerNotFound:
            continue  # removed since it was listed
        except Conflict:
            found[container.id] = container, None
    return found


def row(container: Container, now: Reading | None, before: Reading | None, args: Args) -> dict[str, str]:
    """docker's keys and values; one that does not run uses nothing."""
    id = container.id if args.no_trunc else container.short_id
    names = {"ID": id, "Container": id, "Name": container.name}
    if now is None:
        nothing = "0B / 0B"
        zero = {"CPUPerc": "0.00%", "MemUsage": nothing, "MemPerc": "0.00%", "NetIO": nothing, "BlockIO": nothing}
        return {**names, **zero, "PIDs": "0"}
    return {
        **names,
        "CPUPerc": f"{now.cpu_percent(before) if before else 0.0:.2f}%",
        "MemUsage": f"{binary_size(now.memory)} / {binary_size(now.limit)}",
        "MemPerc": f"{now.memory_percent():.2f}%",
        "NetIO": " / ".join(map(size, now.network)),
        "BlockIO": " / ".join(map(size, now.block)),
        "PIDs": str(now.pids),
    }
