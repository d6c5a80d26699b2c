"""Spans of time as Go writes them. Without `re`: a monitor has this loaded (`poc.engine.health`)."""

from __future__ import annotations

from poc.errors import InvalidArgument

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def parse_span(text: str) -> int:
    """Nanoseconds of Go's ``1h30m``, ``1.5s`` or ``-10ms``. Raises InvalidArgument."""
    sign, rest = (text[0], text[1:]) if text.startswith(("+", "-")) else ("", text)
    total = 0
    while True:
        number, rest = _split(rest, "0123456789.")
        unit, rest = _split(rest, "nuµμmsh")
        if not number.replace(".", "", 1).isdecimal() or unit not in _UNITS:
            raise InvalidArgument(f"{text!r} is no time span; write one such as 30s, 10m or 1h30m")
        total += round(float(number) * _UNITS[unit])
        if not rest:
            return -total if sign == "-" else total


def _split(text: str, characters: str) -> tuple[str, str]:
    """As much as there is of these characters at the beginning, and the rest."""
    rest = text.lstrip(characters)
    return text[: len(text) - len(rest)], rest
