"""`poc ps`: docker's list of containers."""

from __future__ import annotations

from poc.cli.output import age, ellipsis, local_time, quote, show
from poc.cli.parse import FLAG, INT, LIST, VALUE, Args, Command, Option
from poc.engine import Engine
from poc.engine.filters import matches, parse_filters
from poc.errors import ContainerNotFound, ImageNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

COMMAND = Command(
    example="poc ps -a --filter status=exited",
    options=(
        Option("-a --all", FLAG, "Show all containers, not only those that run"),
        Option("-q --quiet", FLAG, "Show ids only"),
        Option("-n --last", INT, "Show the last NUMBER created, in any state", metavar="NUMBER"),
        Option("-l --latest", FLAG, "Show the one created last, in any state"),
        Option("--no-trunc", FLAG, "Show ids and commands in full"),
        Option(
            "-f --filter",
            LIST,
            "Show those that match: id, name (regular expressions), label, status, exited or ancestor; repeatable",
            metavar="KEY=VALUE",
        ),
        Option("--format", VALUE, "table, or json: one object a line", metavar="FORMAT", complete=("json", "table")),
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


def run(args: Args) -> int:
    found = list(_select(Engine(args.root), args))
    if args.quiet:
        for attrs in found:
            print(attrs["Id"] if args.no_trunc else attrs["Id"][:12])
    else:
        show([row(attrs, args.no_trunc) for attrs in found], COLUMNS, args.format)
    return 0


def _select(engine: Engine, args: Args) -> Iterator[Mapping[str, Any]]:
    """The attributes of the containers to show, the newest first."""
    filters = parse_filters(args.filter)
    last = 1 if args.latest else args.last if args.last is not None and args.last >= 0 else None
    everything = args.all or last is not None or "status" in filters or "exited" in filters

    def image_id(name: str) -> str | None:
        try:
            return str(engine.images.get(name).id)
        except ImageNotFound:
            return None

    for container in engine.containers.list(all=everything)[:last]:
        try:
            attrs = container.attrs
        except ContainerNotFound:
            continue  # removed since it was listed
        if matches(attrs, filters, image_id):
            yield attrs


def row(attrs: Mapping[str, Any], full: bool = False) -> dict[str, str]:
    """docker's keys and values of one container, from what inspect tells of it."""
    command = _command(attrs["Path"], attrs["Args"])
    created = age(attrs["Created"])
    return {
        "ID": attrs["Id"] if full else attrs["Id"][:12],
        "Image": attrs["Config"]["Image"],
        "Command": quote(command if full else ellipsis(command, 20)),
        "CreatedAt": local_time(attrs["Created"]),
        "RunningFor": f"{created} ago",
        "Ports": "",
        "State": attrs["State"]["Status"],
        "Status": status(attrs["State"]),
        "Size": "0B",
        "Names": attrs["Name"].removeprefix("/"),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(attrs["Config"]["Labels"].items())),
        "Mounts": ",".join(mount.get("Name") or mount["Source"] for mount in attrs["Mounts"]),
        "Networks": ",".join(attrs["NetworkSettings"]["Networks"]),
    }


def status(state: Mapping[str, Any]) -> str:
    """docker's sentence: "Up 5 minutes (Paused)", "Exited (137) 3 seconds ago", "Created"."""
    if state["Running"] or state["Paused"]:
        up = f"Up {age(state['StartedAt'])}"
        return f"{up} (Paused)" if state["Paused"] else up
    if state["Status"] == "exited":
        return f"Exited ({state['ExitCode']}) {age(state['FinishedAt'])} ago"
    return str(state["Status"]).capitalize()


def _command(path: str, arguments: list[str]) -> str:
    return " ".join([path, *(f"'{word}'" if " " in word else word for word in arguments)])
