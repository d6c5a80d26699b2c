"""`poc volume ls`: list the volumes."""

from __future__ import annotations

from poc.cli.output import FORMAT, show
from poc.cli.parse import FLAG, LIST, Args, Command, Option
from poc.engine import Engine
from poc.engine.volumes import parse_filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.volumes import Volume

COMMAND = Command(
    example="poc volume ls --filter dangling=true",
    options=(
        Option("-f --filter", LIST, "Show only those with dangling, driver, label or name", metavar="KEY=VALUE"),
        FORMAT,
        Option("-q --quiet", FLAG, "Print names alone"),
    ),
)
_COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))


def run(args: Args) -> int:
    volumes = Engine(args.root).volumes.list(parse_filters(args.filter))
    if args.quiet and not args.format:
        for volume in volumes:
            print(volume.name)
        return 0
    show([_row(volume) for volume in volumes], _COLUMNS, args.format)
    return 0


def _row(volume: Volume) -> dict[str, object]:
    """The keys of docker's; what only a swarm or `system df` knows is N/A there too."""
    return {
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items())),
        "Label": lambda name: volume.labels.get(name, ""),
        "Links": "N/A",
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
    }
