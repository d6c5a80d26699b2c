"""What `inspect` prints, of one kind of object or of any."""

from __future__ import annotations

from poc.cli.output import complain
from poc.cli.parse import FLAG, VALUE, Args, Command, Option
from poc.engine import Engine
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BAD_TEMPLATE = 64  # docker's exit code for one that can't be read
FORMAT = Option(
    "-f --format",
    VALUE,
    "A Go template such as '{{.Name}}', or json: one object a line",
    metavar="FORMAT",
    complete=("json",),
)
SIZE = Option("-s --size", FLAG, "Show what a container has written: SizeRw and SizeRootFs")


def command(kind: str, example: str, *options: Option) -> Command:
    """The command line of `poc KIND inspect`."""
    word = kind.upper()
    return Command(arguments=f"{word} [{word}...]", complete=kind, example=example, options=(FORMAT, *options))


def inspect(args: Args, kind: str = "", size: bool = False) -> int:
    """Print what is known of each name on the command line. Returns 0, 1 when one failed, 64 for a bad template."""
    from poc.cli.template import Template, TemplateError

    try:
        text = args.format or ""
        template = Template("{{json .}}" if text == "json" else text)
    except TemplateError as error:
        complain(f"template parsing error: {error}")
        return _BAD_TEMPLATE
    found, errors = _look(Engine(args.root), args.arguments, kind, size)
    if text:
        errors += _print_each(template, found)
    else:
        import json

        print(json.dumps(found, indent=4))
    for failure in errors:
        complain(failure)
    return 1 if errors else 0


def _look(engine: Engine, names: list[str], kind: str, size: bool) -> tuple[list[dict[str, Any]], list[Exception]]:
    found: list[dict[str, Any]] = []
    errors: list[Exception] = []
    for name in names:
        try:
            found.append(engine.inspect(name, kind, size))
        except (PocError, OSError) as error:
            errors.append(error)
    return found, errors


def _print_each(template: Any, found: list[dict[str, Any]]) -> list[Exception]:
    """A line for each object, an empty one where there is none, as docker does; returns what went wrong."""
    from poc.cli.objects import structured
    from poc.cli.template import TemplateError

    lines, errors = [], []
    for attrs in found:
        try:
            lines.append(template.render(structured(_complete(attrs))))
        except TemplateError as error:
            errors.append(TemplateError(f"template parsing error: {error}"))
    print("\n".join(lines))
    return [*errors]


def _complete(attrs: dict[str, Any]) -> dict[str, Any]:
    """With the fields that docker leaves out where they are nil: a template may ask for them."""
    if "State" not in attrs:
        return attrs
    state = {"Health": None, **attrs["State"]}
    return {"SizeRw": None, "SizeRootFs": None, **attrs, "State": state}
