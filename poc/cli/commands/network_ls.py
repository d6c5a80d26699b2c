"""`poc network ls`: the networks there are."""

from __future__ import annotations

from poc.cli.output import FORMAT, local_time, show
from poc.cli.parse import FLAG, Args, Command, Option
from poc.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMAND = Command(
    example="poc network ls --format '{{.Name}}: {{.Driver}}'",
    options=(
        Option("-q --quiet", FLAG, "Show ids only"),
        Option("--no-trunc", FLAG, "Show ids in full"),
        FORMAT,
    ),
)

COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))


def run(args: Args) -> int:
    rows = [row(network.attrs, args.no_trunc) for network in Engine(args.root).networks.list()]
    if args.quiet:
        for entry in rows:
            print(entry["ID"])
    else:
        show(rows, COLUMNS, args.format, {"IPv6": "IPV6", "CreatedAt": "CREATED AT"})
    return 0


def row(attrs: dict[str, Any], full: bool = False) -> dict[str, Any]:
    """docker's keys and values of one network."""
    labels = attrs["Labels"]
    return {
        "ID": attrs["Id"] if full else attrs["Id"][:12],
        "Name": attrs["Name"],
        "Driver": attrs["Driver"],
        "Scope": attrs["Scope"],
        "IPv6": str(attrs["EnableIPv6"]).lower(),
        "Internal": str(attrs["Internal"]).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "CreatedAt": local_time(attrs["Created"]),
    }
