"""`poc images`: a row for each reference; two references to one image have the same id."""

from __future__ import annotations

from poc.cli.output import FORMAT, age, local_time, show, size
from poc.cli.parse import FLAG, LIST, Args, Command, Option
from poc.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from poc.images.store import Image

COMMAND = Command(
    arguments="[REPOSITORY[:TAG]]",
    complete="image",
    example="poc images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
    options=(
        Option("-a --all", FLAG, "Show all images; there are no intermediate ones that would be hidden"),
        Option("-q --quiet", FLAG, "Show ids only"),
        Option("--no-trunc", FLAG, "Show ids in full"),
        Option("--digests", FLAG, "Show digests"),
        Option(
            "-f --filter",
            LIST,
            "Show those that match: dangling, label, reference (a pattern), before or since; repeatable",
            metavar="KEY=VALUE",
        ),
        FORMAT,
    ),
)

COLUMNS = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)


HEADINGS = {
    **{"CreatedAt": "CREATED AT", "Digest": "DIGEST", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE"},
    **{"AliasOf": "ALIAS OF", "VirtualSize": "SIZE"},
}


def run(args: Args) -> int:
    patterns = [f"reference={args.arguments[0]}"] if args.arguments else []
    images = Engine(args.root).images.list([*args.filter, *patterns])
    found = [row for image in images for row in rows(image, args.no_trunc)]
    if args.quiet:
        for identity in dict.fromkeys(row["ID"] for row in found):
            print(identity)
        return 0
    aliases = [("ALIAS OF", "AliasOf")] if any(row["AliasOf"] for row in found) else []
    columns = [*COLUMNS[:2], *([("DIGEST", "Digest")] if args.digests else []), *COLUMNS[2:], *aliases]
    show(found, columns, args.format, HEADINGS)
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
            **{"Size": size(image.size), "VirtualSize": size(image.size), "Digest": "<none>"},
            **{"Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A"},
            "AliasOf": image.distribution if alias else "",
        }
