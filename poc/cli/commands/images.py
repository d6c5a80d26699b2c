"""`poc images`: a row for each reference; two references to one image have the same id."""

from __future__ import annotations

from poc.cli.output import age, local_time, show, size
from poc.cli.parse import FLAG, VALUE, Args, Command, Option
from poc.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from poc.images.store import Image

COMMAND = Command(
    example="poc images --format json",
    options=(
        Option("-q --quiet", FLAG, "Show ids only"),
        Option("--no-trunc", FLAG, "Show ids in full"),
        Option("--format", VALUE, "table, or json: one object a line", metavar="FORMAT", complete=("json", "table")),
    ),
)

COLUMNS = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)


def run(args: Args) -> int:
    found = [row for image in Engine(args.root).images.list() for row in rows(image, args.no_trunc)]
    if args.quiet:
        for identity in dict.fromkeys(row["ID"] for row in found):
            print(identity)
        return 0
    aliases = [("ALIAS OF", "AliasOf")] if any(row["AliasOf"] for row in found) else []
    show(found, [*COLUMNS, *aliases], args.format)
    return 0


def rows(image: Image, full: bool = False) -> Iterator[dict[str, str]]:
    """docker's keys and values for each reference of an image, and what the reference is really an alias of.

    An image knows from its files which distribution it is; where that is one of its references, the others are
    aliases: a Debian that is called ubuntu.
    """
    for reference in image.references or ["<none>:<none>"]:
        repository, _, tag = reference.rpartition(":")
        alias = image.distribution in image.references and reference != image.distribution
        yield {
            "Repository": repository,
            "Tag": tag,
            "ID": image.id if full else image.id.removeprefix("sha256:")[:12],
            "CreatedSince": f"{age(image.created)} ago",
            "CreatedAt": local_time(image.created),
            "Size": size(image.size),
            "AliasOf": image.distribution if alias else "",
        }
