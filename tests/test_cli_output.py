"""What a person reads: docker's words for times, sizes and states, tables, filters, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from poc.cli.output import complain, duration, ellipsis, quote, show, size, table
from poc.engine.filters import matches, parse_filters
from poc.errors import ContainerNotFound, InvalidArgument


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_are_worded_as_docker_words_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_quotes_and_cuts() -> None:
    sizes = {0: "0B", 999: "999B", 1000: "1kB", 77_900_000: "77.9MB", 999_900: "1MB", 12 * 10**9: "12GB"}
    assert {number: size(number) for number in sizes} == sizes
    assert ellipsis("sleep 1000", 10) == "sleep 1000"
    assert ellipsis("/docker-entrypoint.sh x", 20) == "/docker-entrypoint.…"
    assert quote('sh -c "é\n\x1b\udcff"') == r'"sh -c \"\u00e9\n\u001b\udcff\""'
    assert quote("é…") == '"é…"'


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Names": "web"}, {"ID": "0e5", "Names": "a much longer name"}]
    columns = [("CONTAINER ID", "ID"), ("NAMES", "Names")]
    assert table(["ID"], []) == "ID"
    show(rows, columns, None)
    assert capsys.readouterr().out.splitlines() == [
        "CONTAINER ID   NAMES",
        "1              web",
        "0e5            a much longer name",
    ]
    show(rows, columns, "json")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    with pytest.raises(InvalidArgument, match="neither 'table' nor 'json'"):
        show(rows, columns, "{{.ID}}")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ContainerNotFound("web"), "Error: no such container: web"),
        (OSError(22, "mount overlay on /x: Invalid argument"), "Error: mount overlay on /x: Invalid argument"),
        (FileNotFoundError(2, "No such file", "/x"), "Error: /x: No such file"),
        (InvalidArgument("a\nb\x1b[2J"), r"Error: a b\x1b[2J"),
        (KeyError("x"), "Error: unexpected KeyError: 'x' (poc --debug … shows where)"),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain(error)
    assert capsys.readouterr().err == f"{line}\n"


CONTAINER: dict[str, Any] = {
    "Id": "0123456789ab" + "c" * 52,
    "Name": "/web-1",
    "Image": "sha256:feed",
    "Config": {"Image": "ubuntu", "Labels": {"tier": "front", "empty": ""}},
    "State": {"Status": "exited", "ExitCode": 137},
}


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ([], True),
        (["name=web"], True),
        (["name=^eb"], False),
        (["name=nothing", "name=1$"], True),
        (["name=web", "id=^ffff"], False),
        (["id=^0123"], True),
        (["label=tier"], True),
        (["label=tier=front", "label=empty"], True),
        (["label=tier=front", "label=other"], False),
        (["label=tier=back"], False),
        (["status=exited"], True),
        (["status=running", "status=created"], False),
        (["exited=137"], True),
        (["exited=0"], False),
        (["ancestor=ubuntu"], True),
        (["ancestor=debian:12"], True),
        (["ancestor=alpine"], False),
    ],
)
def test_filters(texts: list[str], shown: bool) -> None:
    images = {"debian:12": "sha256:feed"}
    assert matches(CONTAINER, parse_filters(texts), images.get) is shown


@pytest.mark.parametrize("text", ["name", "color=red", "status=gone", "exited=x", "name=("])
def test_a_filter_nothing_can_match_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--filter"):
        parse_filters([text])
