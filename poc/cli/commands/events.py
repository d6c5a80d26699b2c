"""`poc events`: what happens to containers, images, volumes and networks."""

from __future__ import annotations

import sys

from poc.cli.output import compiled
from poc.cli.parse import LIST, VALUE, Args, Command, Option
from poc.cli.template import Struct
from poc.engine import Engine
from poc.engine.times import rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FIELDS = {
    **{"ID": "id", "Status": "status", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"},
    **{"Type": "Type", "Action": "Action", "Actor": "Actor"},
}

COMMAND = Command(
    example="poc events --since 10m --filter event=die",
    options=(
        Option("--since", VALUE, "Begin with what happened since: a time, Unix seconds, or 10m (ago)", metavar="TIME"),
        Option("--until", VALUE, "Stop at this time; without it, go on for ever", metavar="TIME"),
        Option(
            "-f --filter",
            LIST,
            "Show those that match: container, event, image, label, network, scope, type or volume; repeatable",
            metavar="KEY=VALUE",
        ),
        Option(
            "--format",
            VALUE,
            "json: one object a line; or a Go template, '{{.ID}}'",
            metavar="FORMAT",
            complete=("json",),
        ),
    ),
)


class _Event(Struct):
    """An event as a template sees it: JSON has docker's old names, in small letters, for some of the fields."""

    def __contains__(self, name: object) -> bool:
        return name in _FIELDS

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(_FIELDS[name], "")


def run(args: Args) -> int:
    tell = _teller(args.format)
    with Engine(args.root).events(since=args.since, until=args.until, filters=args.filter) as events:
        for event in events:
            print(tell(event))
            sys.stdout.flush()
    return 0


def _teller(format: str | None) -> Callable[[dict[str, Any]], str]:
    if not format:
        return _line
    template = compiled("{{json .}}" if format == "json" else format)
    return lambda event: template.render(_Event(event))


def _line(event: dict[str, Any]) -> str:
    actor = event["Actor"]
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(actor["Attributes"].items()))
    about = f"{event['Type']} {event['Action']} {actor['ID']}"
    text = f"{rfc3339(event['timeNano'])} {about}" + (f" ({attributes})" if attributes else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
