"""What a person reads: tables, ages, sizes, errors and progress, in docker's words."""

from __future__ import annotations

import os
import sys

from poc.cli.parse import VALUE, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, TextIO

    from poc.cli.template import Template

FORMAT = Option(
    "--format",
    VALUE,
    "table, json (one object a line), a Go template such as '{{.ID}}', or 'table TEMPLATE'",
    metavar="FORMAT",
    complete=("json", "table"),
)
_BOLD, _RED = "1", "31"


def complain(error: object, prefix: str = "Error") -> None:
    """One line on stderr. An `OSError` is told without its number; a fault of poc's own names its kind."""
    from poc.errors import PocError, explain

    if isinstance(error, OSError):
        error = explain(error)
    elif isinstance(error, Exception) and not isinstance(error, PocError):
        error = f"unexpected {type(error).__name__}: {error} (poc --debug … shows where)"
    line = " ".join(str(error).split())
    line = line if line.isprintable() else line.encode("unicode_escape").decode()
    line = ellipsis(line, 1000)  # a name that is refused can be as long as the kernel lets an argument be
    try:
        print(f"{paint(prefix, _RED, sys.stderr)}: {line}", file=sys.stderr)
    except OSError:
        pass  # nobody listens; the exit code still tells


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in a colour where ``stream`` is a terminal and nobody has objected (https://no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


def show(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[tuple[str, str]],
    format: str | None,
    headings: Mapping[str, Any] | None = None,
) -> None:
    """Print a listing: ``rows`` are docker's keys and values, ``columns`` the heading and key of each table column.

    ``format`` is docker's: None or "table"; "json", one object a line; a Go template, one line each; or "table" and a
    template, whose headings are those of ``columns`` and ``headings``, by key. Raises TemplateError.
    """
    if format in (None, "", "table"):
        print(table([heading for heading, _ in columns], [[row[key] for _, key in columns] for row in rows]))
    elif format == "json":
        from poc.cli.template.functions import encode

        for row in rows:
            print(encode(dict(row)))
    elif format.startswith("table"):
        known = {key: heading for heading, key in columns}
        _show_table(rows, format.removeprefix("table"), {**known, **(headings or {})})
    else:
        template = compiled(format)
        for row in rows:
            print(template.render(_fields(row)))


def show_object(value: Mapping[str, Any], format: str) -> None:
    """Print one object as ``format`` says: "json", or a Go template. Raises TemplateError."""
    from poc.cli.objects import structured

    print(compiled("{{json .}}" if format == "json" else format).render(structured(value)))


def _show_table(rows: Iterable[Mapping[str, Any]], format: str, headings: Mapping[str, Any]) -> None:
    from poc.cli.template.functions import HEADING_FUNCTIONS

    template = compiled(format)
    first, *lines = [
        template.render(_Headings(headings), HEADING_FUNCTIONS),
        *(template.render(_fields(row)) for row in rows),
    ]
    cells = [text.split("\t") for line in lines for text in line.split("\n")]
    width = max(len(row) for row in [first.split("\t"), *cells])
    head = first.replace("\n", " ").split("\t")
    print(table([*head, *[""] * (width - len(head))], [[*row, *[""] * (width - len(row))] for row in cells]))


class _Headings(dict[str, "Any"]):
    """What a placeholder is headed with: its own name where docker has nothing else."""

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else key.upper()


def _fields(row: Mapping[str, Any]) -> Any:
    from poc.cli.template import Struct

    return Struct(sorted(row.items()))


_compiled: dict[str, Template] = {}


def compiled(format: str) -> Template:
    r"""The template of a ``--format``, in which ``\t`` and ``\n`` stand for the characters. Raises TemplateError."""
    from poc.cli.template import Template, TemplateError

    if format not in _compiled:
        try:
            _compiled[format] = Template(format.strip(" ").replace(r"\t", "\t").replace(r"\n", "\n"))
        except TemplateError as error:
            raise TemplateError(f"template parsing error: {error}", parsing=True) from None
    return _compiled[format]


_NARROWEST = 7  # characters of a column; with the three blanks docker's tables have ten


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, three blanks apart as docker's."""
    columns = zip(headings, *rows, strict=True)
    widths = [max(_NARROWEST, *map(len, column)) for column in columns]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (headings, *rows)]
    head, *others = ("   ".join(line).rstrip() for line in lines)
    return "\n".join([paint(head, _BOLD, sys.stdout), *others])


def ellipsis(text: str, width: int) -> str:
    """``text``, or its beginning and an ellipsis where it is longer than ``width``."""
    return text if len(text) <= width else text[: width - 1] + "…"


def quote(text: str) -> str:
    """In double quotes; what a terminal would not show as a character is escaped."""
    import json

    return json.dumps(text, ensure_ascii=not text.isprintable())


def age(time: str) -> str:
    """How long ago an RFC 3339 time was, in docker's words."""
    from datetime import UTC, datetime

    return duration((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def local_time(time: str) -> str:
    """An RFC 3339 time as Go prints it: 2024-05-06 07:08:09 +0000 UTC."""
    from datetime import datetime

    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")


def duration(seconds: float) -> str:
    """A time span as docker words it (go-units' HumanDuration)."""
    minutes, hours = int(seconds // 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return _count(int(seconds), "second")
    if minutes < 60:
        return "About a minute" if minutes == 1 else _count(minutes, "minute")
    for unit, length, until in (("hour", 1, 48), ("day", 24, 24 * 14), ("week", 168, 24 * 60), ("month", 720, 17520)):
        if hours < until:
            return "About an hour" if hours == 1 else _count(hours // length, unit)
    return _count(int(seconds // 3600) // 24 // 365, "year")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def size(number: float) -> str:
    """Bytes as docker prints them: three digits, powers of 1000."""
    return _scaled(number, 1000, 3, ("B", "kB", "MB", "GB", "TB", "PB"))


def binary_size(number: float) -> str:
    """The same in powers of 1024, four digits."""
    return _scaled(number, 1024, 4, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(number: float, base: int, digits: int, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if float(f"{number:.{digits}g}") < base:
            return f"{number:.{digits}g}{unit}"
        number /= base
    return f"{number:.{digits}g}{units[-1]}"


def window_size() -> tuple[int, int] | None:
    """Rows and columns of the caller's terminal, on whichever of its streams there is one."""
    for fd in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        return rows, columns
    return None
