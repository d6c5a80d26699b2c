"""`poc system df`: how much room images, containers and volumes take."""

from __future__ import annotations

from poc.cli.commands import ps
from poc.cli.output import FORMAT, age, compiled, local_time, show, size, table
from poc.cli.parse import FLAG, Args, Command, Option
from poc.cli.progress import waiting
from poc.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Row = dict[str, Any]

COMMAND = Command(
    example="poc system df -v --format '{{json .Volumes}}'",
    options=(Option("-v --verbose", FLAG, "Show each image, container and volume"), FORMAT),
)

COLUMNS = (
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
)
_IMAGES = (
    *(("REPOSITORY", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")),
    *(("SHARED SIZE", "SharedSize"), ("UNIQUE SIZE", "UniqueSize"), ("CONTAINERS", "Containers")),
)
_CONTAINERS = (
    *(("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("LOCAL VOLUMES", "LocalVolumes")),
    *(("SIZE", "Size"), ("CREATED", "RunningFor"), ("STATUS", "Status"), ("NAMES", "Names")),
)
_VOLUMES = (("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size"))


def run(args: Args) -> int:
    with waiting("measuring"):
        used = Engine(args.root).df()
    if args.verbose:
        _show_all(used, args.format)
    else:
        show(_summary(used), COLUMNS, args.format)
    return 0


def _summary(used: Row) -> list[Row]:
    images, containers, volumes = used["Images"], used["Containers"], used["Volumes"]
    idle = [c for c in containers if c["State"]["Status"] in ("created", "exited")]
    needed = sum(image["Size"] for image in images if image["Containers"])
    free = [volume["UsageData"]["Size"] for volume in volumes if not volume["UsageData"]["RefCount"]]
    all_volumes = sum(volume["UsageData"]["Size"] for volume in volumes)
    written = sum(container["SizeRw"] for container in containers)
    return [
        _line("Images", len(images), sum(bool(image["Containers"]) for image in images), used["LayersSize"],
              max(used["LayersSize"] - needed, 0)),
        _line("Containers", len(containers), len(containers) - len(idle), written, sum(c["SizeRw"] for c in idle)),
        _line("Local Volumes", len(volumes), len(volumes) - len(free), all_volumes, sum(free)),
        {"Type": "Build Cache", "TotalCount": "0", "Active": "0", "Size": "0B", "Reclaimable": "0B"},
    ]  # fmt: skip


def _line(kind: str, total: int, active: int, taken: int, reclaimable: int) -> Row:
    share = f" ({reclaimable * 100 // taken}%)" if taken else ""
    return {
        **{"Type": kind, "TotalCount": str(total), "Active": str(active), "Size": size(taken)},
        "Reclaimable": f"{size(reclaimable)}{share}",
    }


def _show_all(used: Row, format: str | None) -> None:
    images = [row for image in used["Images"] for row in _image(image)]
    containers = [ps.row(c, size=size(c["SizeRw"])) for c in used["Containers"]]
    volumes = [_volume(volume) for volume in used["Volumes"]]
    if format and format != "table":
        from poc.cli.template import Struct

        every = {"Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": []}
        rows = {kind: [Struct(sorted(row.items())) for row in found] for kind, found in every.items()}
        print(compiled("{{json .}}" if format == "json" else format).render(Struct(rows)))
        return
    for title, found, columns in (
        ("Images", images, _IMAGES),
        ("Containers", containers, _CONTAINERS),
        ("Local Volumes", volumes, _VOLUMES),
    ):
        print(f"{title} space usage:\n\n{_table(found, columns)}\n")
    print("Build cache usage: 0B")


def _table(rows: Iterable[Row], columns: Sequence[tuple[str, str]]) -> str:
    return table([heading for heading, _ in columns], [[row[key] for _, key in columns] for row in rows])


def _image(image: Row) -> Iterable[Row]:
    for reference in image["RepoTags"] or ["<none>:<none>"]:
        repository, _, tag = reference.rpartition(":")
        yield {
            **{"Repository": repository, "Tag": tag, "ID": image["Id"].removeprefix("sha256:")[:12]},
            **{"Digest": "<none>", "CreatedSince": f"{age(image['Created'])} ago"},
            **{
                "CreatedAt": local_time(image["Created"]),
                "Size": size(image["Size"]),
                "VirtualSize": size(image["Size"]),
            },
            **{"SharedSize": "N/A", "UniqueSize": "N/A", "Containers": str(image["Containers"])},
        }


def _volume(volume: Row) -> Row:
    labels = volume["Labels"] or {}
    return {
        **{"Availability": "N/A", "Driver": volume["Driver"], "Group": "N/A", "Mountpoint": volume["Mountpoint"]},
        **{"Name": volume["Name"], "Scope": volume["Scope"], "Status": "N/A"},
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Links": str(volume["UsageData"]["RefCount"]),
        "Size": size(volume["UsageData"]["Size"]),
    }
