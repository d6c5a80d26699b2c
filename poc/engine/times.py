"""Points in time as docker takes and prints them; here, nanoseconds since 1970."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone

from poc.errors import InvalidArgument

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9})\d*)?", re.ASCII)
_SPAN = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SPANS = re.compile(rf"[+-]?(?:{_SPAN.pattern})+", re.ASCII)
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


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
    if match := _SPANS.fullmatch(text):
        return time.time_ns() - parse_span(text)
    if match := _RFC3339.fullmatch(text):
        try:
            return _of_date(match)
        except (ValueError, OverflowError):
            pass  # such as the 31st of February
    raise InvalidArgument(
        f"{what}: {value!r} is no time; write one such as 2024-05-01T12:00:00Z, 1714564800 (Unix seconds) or 10m (ago)"
    )


def parse_span(text: str) -> int:
    """Nanoseconds of Go's ``1h30m``, ``1.5s`` or ``-10ms``. Raises InvalidArgument."""
    if not _SPANS.fullmatch(text):
        raise InvalidArgument(f"{text!r} is no time span; write one such as 30s, 10m or 1h30m")
    total = sum(round(float(number) * _UNITS[unit]) for number, unit in _SPAN.findall(text))
    return -total if text.startswith("-") else total


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
