"""What a person reads: tables, ages, sizes, errors and progress, in docker's words."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, TextIO

_BOLD, _RED = "1", "31"


def complain(error: object, prefix: str = "Error") -> None:
    """One line on stderr. An `OSError` is told without its number; a fault of poc's own names its kind."""
    from poc.errors import PocError

    if isinstance(error, OSError):
        error = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
    elif isinstance(error, Exception) and not isinstance(error, PocError):
        error = f"unexpected {type(error).__name__}: {error} (poc --debug … shows where)"
    line = " ".join(str(error).split())
    line = line if line.isprintable() else line.encode("unicode_escape").decode()
    line = ellipsis(line, 1000)  # a name that is refused can be as long as the kernel lets an argument be
    try:
        print(f"{paint(prefix, _RED, sys.stderr)}: {line}", file=sys.stderr)
    except OSError:
        pass  # nobody listens; the exit code still tells


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], object] | None]:
    """What long calls of the library take to report to: a bar on stderr, or None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total or None)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in a colour where ``stream`` is a terminal and nobody has objected (https://no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


def show(rows: Iterable[Mapping[str, Any]], columns: Sequence[tuple[str, str]], format: str | None) -> None:
    """Print a listing: ``rows`` are docker's keys and values, ``columns`` the heading and key of each table column.

    ``format``: None or "table", or "json" for one object a line. Raises InvalidArgument.
    """
    if format == "json":
        import json

        for row in rows:
            print(json.dumps(row, sort_keys=True, separators=(",", ":")))
    elif format in (None, "table"):
        print(table([heading for heading, _ in columns], [[row[key] for _, key in columns] for row in rows]))
    else:
        from poc.errors import InvalidArgument

        raise InvalidArgument(f"--format: {format!r} is neither 'table' nor 'json'")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, three blanks apart as docker's."""
    from tabulate import DataRow, TableFormat, tabulate

    row = DataRow("", "   ", "")
    plain = TableFormat(None, None, None, None, row, row, 0, None)
    # As a row among others: what tabulate knows to be headings it makes wider than docker does.
    text = tabulate([headings, *rows], tablefmt=plain, disable_numparse=True)
    head, *lines = (line.rstrip() for line in text.splitlines())
    return "\n".join([paint(head, _BOLD, sys.stdout), *lines])


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
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if float(f"{number:.3g}") < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}PB"


def window_size() -> tuple[int, int] | None:
    """Rows and columns of the caller's terminal, on whichever of its streams there is one."""
    for fd in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        return rows, columns
    return None
