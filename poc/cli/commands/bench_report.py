"""`poc bench report`: results as one HTML file that needs nothing but a browser, or as Markdown."""

from __future__ import annotations

from poc.cli.commands.bench import RELATIVE_TO
from poc.cli.parse import VALUE, Args, Command, Option
from poc.errors import InvalidArgument

COMMAND = Command(
    arguments="[FILE|DIR...]",
    complete="file",
    example="poc bench report results/ -o report.html",
    options=(
        Option("-o --output", VALUE, "Write it here (default: to stdout)", metavar="FILE", complete="file"),
        Option(
            "--format", VALUE, "html or markdown (default: as the name of --output ends)", complete=("html", "markdown")
        ),
        RELATIVE_TO,
    ),
    root=False,
)


def run(args: Args) -> int:
    from poc.bench import html, report
    from poc.bench.results import load_all

    if args.format not in (None, "html", "markdown"):
        raise InvalidArgument(f"--format: {args.format!r} is neither html nor markdown")
    wanted = args.format or ("markdown" if str(args.output).endswith(".md") else "html")
    if wanted == "html" and args.relative_to:
        raise InvalidArgument("--relative-to is chosen in the page itself")
    found = load_all(args.arguments or ["."])
    text = html.page(found) if wanted == "html" else "\n\n".join(report.text(one, args.relative_to) for one in found)
    if args.output in (None, "-"):
        print(text)
        return 0
    with open(args.output, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return 0
