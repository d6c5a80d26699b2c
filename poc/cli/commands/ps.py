"""`poc ps`: docker's list of containers."""

from __future__ import annotations

from poc.cli import ports
from poc.cli.output import FORMAT, age, ellipsis, local_time, quote, show, size
from poc.cli.parse import FLAG, INT, LIST, Args, Command, Option
from poc.cli.progress import waiting
from poc.engine import Engine
from poc.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from poc.engine.container import Container

COMMAND = Command(
    example="poc ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'",
    options=(
        Option("-a --all", FLAG, "Show all containers, not only those that run"),
        Option("-q --quiet", FLAG, "Show ids only"),
        Option("-n --last", INT, "Show the last NUMBER created, in any state", metavar="NUMBER"),
        Option("-l --latest", FLAG, "Show the one created last, in any state"),
        Option("-s --size", FLAG, "Show what they have written, and their size with the image"),
        Option("--no-trunc", FLAG, "Show ids and commands in full"),
        Option(
            "-f --filter",
            LIST,
            "Show those that match: id, name (regular expressions), label, status, exited, ancestor, before, since,"
            " volume, network, publish, expose or health; repeatable",
            metavar="KEY=VALUE",
        ),
        FORMAT,
    ),
)

COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
)
HEADINGS = {"CreatedAt": "CREATED AT", "LocalVolumes": "LOCAL VOLUMES", "Label": lambda name: heading(name)}


def run(args: Args) -> int:
    last = 1 if args.latest else args.last if args.last is not None and args.last >= 0 else None
    found = Engine(args.root).containers.look(args.all, args.filter, last)
    if args.quiet:
        for _, attrs in found:
            print(attrs["Id"] if args.no_trunc else attrs["Id"][:12])
        return 0
    measured = args.size or ".Size" in (args.format or "")
    sizes = _sizes([container for container, _ in found]) if measured else ["0B"] * len(found)
    rows = [row(attrs, args.no_trunc, size) for (_, attrs), size in zip(found, sizes, strict=True)]
    show(rows, [*COLUMNS, ("SIZE", "Size")] if args.size else COLUMNS, args.format, HEADINGS)
    return 0


def _sizes(containers: list[Container]) -> list[str]:
    with waiting("measuring"):
        return [_size(container) for container in containers]


def _size(container: Container) -> str:
    try:
        own, whole = container.sizes()
    except NotFound:
        return "0B"  # removed meanwhile
    return f"{size(own)} (virtual {size(whole)})"


def heading(label: str) -> str:
    """docker's heading for a label: com.example.my-app is MY APP."""
    return label.rpartition(".")[2].replace("-", " ").replace("_", " ").upper()


def row(attrs: Mapping[str, Any], full: bool = False, size: str = "0B") -> dict[str, Any]:
    """docker's keys and values of one container, from what inspect tells of it."""
    command = _command(attrs["Path"], attrs["Args"])
    labels = attrs["Config"]["Labels"]
    mounts = [mount.get("Name") or mount["Source"] for mount in attrs["Mounts"]]
    return {
        "ID": attrs["Id"] if full else attrs["Id"][:12],
        "Image": attrs["Config"]["Image"],
        "Command": quote(command if full else ellipsis(command, 20)),
        "CreatedAt": local_time(attrs["Created"]),
        "RunningFor": f"{age(attrs['Created'])} ago",
        "Ports": ports.displayed(attrs["NetworkSettings"]["Ports"]),
        "State": attrs["State"]["Status"],
        "Status": status(attrs["State"]),
        "Size": size,
        "Names": attrs["Name"].removeprefix("/"),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": ",".join(mount if full else ellipsis(mount, 15) for mount in mounts),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in attrs["Mounts"])),
        "Networks": ",".join(attrs["NetworkSettings"]["Networks"]),
    }


def status(state: Mapping[str, Any]) -> str:
    """docker's sentence: "Up 5 minutes (healthy)", "Exited (137) 3 seconds ago", "Created"."""
    if state["Restarting"]:
        return f"Restarting ({state['ExitCode']}) {age(state['FinishedAt'])} ago"
    if state["Running"] or state["Paused"]:
        note = "Paused" if state["Paused"] else _health(state)
        return f"Up {age(state['StartedAt'])}" + (f" ({note})" if note else "")
    if state["Status"] == "exited":
        return f"Exited ({state['ExitCode']}) {age(state['FinishedAt'])} ago"
    return str(state["Status"]).capitalize()


def _health(state: Mapping[str, Any]) -> str:
    health = (state.get("Health") or {}).get("Status") or "none"
    return {"none": "", "starting": "health: starting"}.get(health, health)


def _command(path: str, arguments: list[str]) -> str:
    return " ".join([path, *(f"'{word}'" if " " in word else word for word in arguments)])
