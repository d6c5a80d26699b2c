"""What `Container.logs` shows of a log: some streams, from a time on, with times and details as docker writes them."""

from __future__ import annotations

from poc.engine.logs import reading, timestamp_of
from poc.engine.logs.options import is_readable
from poc.engine.times import parse_time
from poc.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from poc.engine import Moment
    from poc.engine.container import Container
    from poc.engine.logs.reading import Entry


def show(
    container: Container,
    streams: Collection[str],
    follow: bool,
    tail: int | str | None,
    since: Moment | None,
    until: Moment | None,
    timestamps: bool,
    details: bool,
) -> Iterator[tuple[str, bytes]]:
    """(stream, bytes). Raises InvalidArgument and Unsupported at once, not when it is read."""
    config = container.config
    if not is_readable(config.log_driver, config.log_opts):
        raise Unsupported(f"container {container.name}: its log driver, {config.log_driver}, does not support reading")
    entries = reading.read(
        container.log_path,
        parse_tail(tail),
        _limit(since, "--since"),
        _limit(until, "--until"),
        container.is_going_on if follow else None,
        container.followers_path if follow and config.remove else "",
    )
    return _written(entries, streams, timestamps, details)


def parse_tail(tail: int | str | None) -> int | None:
    """A number of lines; None for all of them. Raises InvalidArgument."""
    if tail in (None, "", "all") or (text := str(tail)).startswith("-"):
        return None  # docker's -1
    if not (text.isdecimal() and text.isascii()):
        raise InvalidArgument(f"--tail: {tail!r} is neither a number of lines nor 'all'")
    return int(text)


def _limit(moment: Moment | None, what: str) -> str:
    return "" if moment is None else timestamp_of(max(parse_time(moment, what), 0))


def _written(
    entries: Iterator[Entry], streams: Collection[str], timestamps: bool, details: bool
) -> Iterator[tuple[str, bytes]]:
    begins = dict.fromkeys(streams, True)
    for entry in entries:
        if entry.stream not in streams:
            continue
        head = b""
        if begins[entry.stream]:  # and not in the middle of a long line
            head = f"{entry.time} ".encode() if timestamps else b""
            head += _details(entry.attrs) if details else b""
        begins[entry.stream] = entry.data.endswith(b"\n")
        yield entry.stream, head + entry.data


def _details(attrs: dict[str, str]) -> bytes:
    from urllib.parse import quote_plus

    pairs = (f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(attrs.items()))
    return ",".join(pairs).encode() + b" "
