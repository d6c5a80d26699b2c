"""Points in time as docker takes them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poc.engine.spans import parse_span
from poc.engine.times import parse_time, rfc3339
from poc.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = 10**9


@pytest.fixture(params=["UTC", "Asia/Kathmandu", "XYZ+3:30"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2024-05-01T12:00:00Z", 1714564800 * SECOND),
        ("2024-05-01T12:00:00.123456789Z", 1714564800 * SECOND + 123456789),
        ("2024-05-01T12:00:00.5+02:00", 1714557600 * SECOND + SECOND // 2),
        ("2024-05-01T12:00-05:45", 1714564800 * SECOND + 20700 * SECOND),
        ("2024-05-01T12Z", 1714564800 * SECOND),
        ("2024-05-01Z", 1714521600 * SECOND),
        ("2024-05-01T12:00:00,25Z", 1714564800 * SECOND + SECOND // 4),
        ("1714564800", 1714564800 * SECOND),
        ("1714564800.000000001", 1714564800 * SECOND + 1),
        ("1714564800.25", 1714564800 * SECOND + SECOND // 4),
        ("0", 0),
        ("-1.5", -1_500_000_000),
        (1714564800, 1714564800 * SECOND),
        (1714564800.5, 1714564800 * SECOND + SECOND // 2),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), 1714564800 * SECOND),
    ],
)
def test_points(zone: None, text: str | float | datetime, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds


@pytest.mark.parametrize("text", ["2024-05-01T12:34:56.5", "2024-05-01T12:34:56", "2024-05-01T12:34", "2024-05-01"])
def test_without_a_zone_it_is_local(zone: None, text: str) -> None:
    assert parse_time(text) == int(datetime.fromisoformat(text).timestamp() * 10) * SECOND // 10
    assert parse_time(datetime.fromisoformat(text)) == parse_time(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("1.5s", 1.5), ("-10m", -600), ("250ms", 0.25), ("0s", 0)]
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds * SECOND
    before = time.time_ns()
    assert before <= parse_time(text) + seconds * SECOND <= time.time_ns()


@pytest.mark.parametrize(
    "text",
    [*("", "yesterday", "10", "2024-13-01", "2024-02-30", "2024-05-01 12:00:00", "10 m", "1e9", "m", "٣", "--1", "5d")],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no time span" if text == "10" else "--since: .* is no time;"):
        parse_span(text) if text == "10" else parse_time(text, "--since")


@given(st.integers(0, 4_000_000_000 * SECOND))
def test_what_is_printed_can_be_read(nanoseconds: int) -> None:
    assert parse_time(rfc3339(nanoseconds)) == nanoseconds


def test_printed_in_local_time(zone: None) -> None:
    text = rfc3339(1714564800 * SECOND + 5)
    assert parse_time(text) == 1714564800 * SECOND + 5
    assert text.endswith({"UTC": "Z", "Asia/Kathmandu": "+05:45", "XYZ+3:30": "-03:30"}[os.environ["TZ"]])
