"""`poc bench prepare`: an image with all programs that suites need, from the sources that `poc init` has."""

from __future__ import annotations

from poc.cli.commands.init import FROM
from poc.cli.parse import Args, Command
from poc.cli.progress import progress

COMMAND = Command(
    arguments="[FILE|PATH]", complete="file", example="poc bench prepare --from tar rootfs.tar.zst", options=(FROM,)
)


def run(args: Args) -> int:
    from poc.bench import image
    from poc.engine import Engine

    argument = args.arguments[0] if args.arguments else None
    with progress() as report:
        made = image.prepare(Engine(args.root), args.source, argument, report)
    print(f"{image.PREPARED} ({made.origin}): poc bench --image {image.PREPARED} …")
    if lacking := image.lacking(made):
        print(f"it lacks {', '.join(lacking)}; what needs these is skipped")
    return 0
