"""Points in time as docker takes and prints them; here, nanoseconds since 1970."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone

from poc.engine.spans import parse_span
from poc.errors import InvalidArgument

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9})\d*)?", re.ASCII)


def parse_time(value: str | float | datetime, what: str = "time") -> int:
    """Nanoseconds since 1970 of ``2024-05-01T12:00:00.5Z``, ``1714564800.5``, ``10m`` (that long ago), or a datetime.

    A date may stop at the day, hour, minute or second; without a zone it is local time. A number is Unix seconds.
    ``what`` names it in the InvalidArgument that is raised for anything else.
    """
    if isinstance(value, datetime):
        return _of_datetime(value)
    text = str(value) if isinstance(value, (str, int)) else f"{value:.9f}"
    if match := _UNIX.fullmatch(text):
        whole, fraction = int(match[1]), _nanoseconds(match[2])
        return whole * 10**9 + (-fraction if text.startswith("-") else fraction)
    if match := _RFC3339.fullmatch(text):
        try:
            return _of_date(match)
        except (ValueError, OverflowError):
            pass  # such as the 31st of February
    try:
        return time.time_ns() - parse_span(text)
    except InvalidArgument:
        pass
    example = "2024-05-01T12:00:00Z, 1714564800 (Unix seconds) or 10m (ago)"
    raise InvalidArgument(f"{what}: {value!r} is no time; write one such as {example}")


def _nanoseconds(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _of_datetime(when: datetime) -> int:
    past = (when if when.tzinfo else when.astimezone()) - datetime.fromtimestamp(0, UTC)
    return (past // timedelta(microseconds=1)) * 1000


def _of_date(match: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (int(group or 0) for group in match.groups()[:6])
    when = datetime(year, month, day, hour, minute, second, tzinfo=_zone(match[8]))
    return _of_datetime(when) + _nanoseconds(match[7])


def _zone(text: str | None) -> timezone | None:
    """None is the local one."""
    if not text or text == "Z":
        return UTC if text else None
    hours, minutes = text[1:].split(":")
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if text[0] == "-" else offset)


def rfc3339(nanoseconds: int) -> str:
    """Local time with nine digits and the zone: 2024-05-01T12:00:00.123456789+02:00, Z where that is UTC."""
    seconds, rest = divmod(nanoseconds, 10**9)
    when = datetime.fromtimestamp(seconds, UTC).astimezone()
    zone = when.isoformat()[19:]
    return f"{when:%Y-%m-%dT%H:%M:%S}.{rest:09d}{'Z' if zone == '+00:00' else zone}"
