"""What a person reads: docker's words for times, sizes and states, tables, filters, errors."""

from __future__ import annotations

import json

import pytest

from poc.cli.output import complain, duration, ellipsis, quote, show, show_object, size, table
from poc.cli.template import TemplateError
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
    show(rows, columns, r"{{.ID}}\t{{upper .Names}}\n")
    assert capsys.readouterr().out == "1\tWEB\n\n0e5\tA MUCH LONGER NAME\n\n"
    with pytest.raises(TemplateError, match=r"^template parsing error: template: :1: unclosed action$"):
        show(rows, columns, "{{.ID")
    with pytest.raises(TemplateError, match=r'at <.Nope>: map has no entry for key "Nope"'):
        show(rows, columns, "{{.Nope}}")


def test_a_table_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Size": "3B", "Label": str.upper}, {"ID": "2", "Size": "77.9MB", "Label": str.upper}]
    columns = [("CONTAINER ID", "ID")]
    show(rows, columns, r"table {{lower .Size}}\t{{.ID}}\t{{pad .Size 1 0}}", {"Size": "SIZE"})
    assert capsys.readouterr().out.splitlines() == [
        "SIZE      CONTAINER ID    SIZE",
        "3b        1               3B",
        "77.9mb    2               77.9MB",
    ]
    show([], columns, "table {{.ID}}")
    assert capsys.readouterr().out == "CONTAINER ID\n"
    show(rows, columns, "table {{.ID}} {{json .Size}}")
    assert capsys.readouterr().out.splitlines() == ["CONTAINER ID SIZE", '1 "3B"', '2 "77.9MB"']


def test_an_object_is_printed_as_wished(capsys: pytest.CaptureFixture[str]) -> None:
    show_object({"B": 1, "A": {"x": None}}, "json")
    show_object({"Plugins": {"Volume": ["local"]}, "Labels": {}}, "{{.Plugins.Volume}} {{.Labels.x}}")
    assert capsys.readouterr().out == '{"B":1,"A":{"x":null}}\n[local] <no value>\n'


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
