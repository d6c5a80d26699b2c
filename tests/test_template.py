"""Go templates: what the documentation of text/template and of docker says of them, and that no text breaks them.

The tables hold what Go 1.19 printed for the same templates; https://pkg.go.dev/text/template and /fmt say why.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poc.cli.objects import structured
from poc.cli.template import Struct, Template, TemplateError
from poc.cli.template.functions import HEADING_FUNCTIONS
from poc.cli.template.gofmt import plain, sprintf

DATA: dict[str, Any] = {
    **{"A": {"B": 1, "C": "x y", "D": ["a", "b", "c"], "E": [1, 2, 3]}, "S": "héllo", "N": 42, "F": 2.5, "G": 1e6},
    **{"T": True, "L": {"z": "w", "k": "v"}, "Z": 0, "EM": "", "EL": [], "M": [{"n": "a", "v": 1}, {"n": "b", "v": 2}]},
    **{"Nil": None, "Method": lambda name: f"<{name}>"},
}


def render(text: str, data: Any = DATA) -> str:
    return Template(text).render(data)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        # Fields, what is missing, nil
        ("{{.A.B}} {{.S}} {{.F}} {{.G}} {{.T}}", "1 héllo 2.5 1e+06 true"),
        ("{{.A}}", "map[B:1 C:x y D:[a b c] E:[1 2 3]]"),
        ("{{.Nope}} {{.Nope.X.Y}} {{.L.nope}} {{.Nil}}", "<no value> <no value> <no value> <nil>"),
        ("{{(index .M 1).n}} {{$.A.B}} {{($).N}}", "b 1 42"),
        ('{{.Method "x"}} {{"y" | .Method}}', "<x> <y>"),
        # Blanks and comments
        ("a {{- .N -}} b", "a42b"),
        ("a\n {{- /* a comment }} */ -}} \n b", "ab"),
        ("{{/* one */}}x {{ .N }}", "x 42"),
        ("{{- 3}}{{-3}}", "3-3"),
        # Constants
        ("{{\"a\\t\\\"\\u00e9\\x41\\101\"}} {{`r\\n\"`}} {{'a'}} {{0x1F}} {{1_000}} {{1.5e3}} {{.5}}",
         'a\t"éAA r\\n" 97 31 1000 1500 0.5'),
        ("{{true}} {{print nil}} {{0b101}} {{0o17}} {{017}}", "true <nil> 5 15 15"),
        # Variables
        ("{{$x := 1}}{{$x}}{{$x = .N}}{{$x}}", "142"),
        ("{{$x := 1}}{{range .A.E}}{{$x = .}}{{end}}{{$x}}", "3"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        # Decisions
        ("{{if .Z}}a{{else if .EM}}b{{else}}c{{end}}", "c"),
        ("{{if .EL}}1{{end}}{{if .A}}2{{end}}{{if .Nope}}3{{end}}{{if .Nil}}4{{end}}{{if .L.k}}5{{end}}", "25"),
        ("{{with .A}}{{.B}}{{$.N}}{{else}}no{{end}}{{with .EM}}x{{else}}{{.N}}{{end}}", "14242"),
        ("{{with $y := .A.C}}{{$y}}{{end}}", "x y"),
        ("{{and 1 0 .Nope}} {{or 0 .S}}", "0 héllo"),
        ("{{if and .Nil .Nil.X}}x{{end}}{{or .N .Nil.X}}", "42"),
        ("{{not .Z}} {{not .S}}", "true false"),
        # Loops
        ("{{range .A.D}}{{.}},{{end}}", "a,b,c,"),
        ("{{range $i, $e := .A.D}}{{$i}}{{$e}} {{end}}", "0a 1b 2c "),
        ("{{range $k, $v := .L}}{{$k}}={{$v}} {{end}}", "k=v z=w "),
        ("{{range $e := .M}}{{$e.n}}{{end}}", "ab"),
        ("{{range .EL}}x{{else}}none{{end}}{{range .Nope}}x{{else}}none{{end}}", "nonenone"),
        ("{{range .A.E}}{{if eq . 2}}{{continue}}{{end}}{{.}}{{end}}", "13"),
        ("{{range .A.E}}{{if eq . 2}}{{break}}{{end}}{{.}}{{end}}", "1"),
        ("{{range .M}}{{range $.A.D}}{{.}}{{break}}{{end}}{{.v}}{{end}}", "a1a2"),
        # Pipelines
        ('{{.A.B | printf "%d-%d" 3}} {{(len .S)}} {{.S | len | printf "%03d"}}', "3-1 6 006"),
        # Go's functions
        ('{{eq .N 1 42}} {{ne .S "x"}} {{lt 1 2}} {{le 2 2}} {{gt "b" "a"}} {{ge 1.5 2.5}} {{eq .Nope .Nil}}',
         "true true true true true false true"),
        ('{{index .A.D 1}} {{index .L "k"}} {{index .L "nope"}}| {{index .M 0 "n"}}', "b v | a"),
        ('{{slice .S 0 3}} {{slice .A.D 1}} {{slice .A.E 0 1}}', "hé [b c] [1]"),
        ('{{len .A.D}} {{len .L}} {{print 1 2 "a" "b" 3}} {{println "x" 1}}', "3 2 1 2ab3 x 1\n"),
        ('{{html "<a href=\'x\'>&"}} {{js "it\'s <b>"}} {{urlquery "a b&c/é~"}}',
         "&lt;a href=&#39;x&#39;&gt;&amp; it\\'s \\u003Cb\\u003E a+b%26c%2F%C3%A9~"),
        # docker's
        ("{{json .L}} {{json .A.D}} {{json .Nil}} {{json .G}} {{json \"<é>\"}}",
         '{"k":"v","z":"w"} ["a","b","c"] null 1000000 "<é>"'),
        ('{{join .A.D "-"}} {{join .A.E ","}} {{split "a,b" ","}} {{upper "aé"}} {{lower "AÉ"}} {{title "one two"}}',
         "a-b-c 1,2,3 [a b] AÉ aé One Two"),
        ('{{pad "x" 1 2}}|{{pad "" 1 2}}|{{truncate "abcdef" 3}}|{{truncate "ab" 3}}', " x  ||abc|ab"),
    ],
)  # fmt: skip
def test_what_a_template_prints(text: str, result: str) -> None:
    assert render(text) == result


@pytest.mark.parametrize(
    ("format", "values", "result"),
    [
        ("%v %d %s %q %t", [1, 42, "a", 'b"\n', True], r'1 42 a "b\"\n" true'),
        ("%5d|%-5d|%05d|%+d|% d|%x|%X|%#x|%o|%b|%c|%U", [-42, 42, -42, 5, 5, 255, 255, 255, 8, 5, 65, 233],
         "  -42|42   |-0042|+5| 5|ff|FF|0xff|10|101|A|U+00E9"),
        ("%5s|%-5s|%.2s|%x|% x|%5.1s|", ["ab", "ab", "abc", "hi", "hi", "xyz"], "   ab|ab   |ab|6869|68 69|    x|"),
        ("%f|%.2f|%8.3f|%e|%g|%G|%v|%06.1f", [2.5, 3.14159, 3.14159, 1e6, 1e-5, 1e20, 123456.0, -2.5],
         "2.500000|3.14|   3.142|1.000000e+06|1e-05|1E+20|123456|-002.5"),
        ("%T %T %T %T %T %T", [1, 1.5, "a", True, None, {}], "int float64 string bool <nil> map[string]interface {}"),
        ("%s %d %q %v", [["a", "b"], [1, 2], ["x"], {"b": None, "a": 1}], '[a b] [1 2] ["x"] map[a:1 b:<nil>]'),
        ("%*d|%-*d|%.*f", [5, 42, 5, 42, 2, 3.14159], "   42|42   |3.14"),
        ("%d %s %z %d", ["hi", 5, 1], "%!d(string=hi) %!s(int=5) %!z(int=1) %!d(MISSING)"),
        ("%d %%", [1, "x", None], "1 %%!(EXTRA string=x, <nil>)"),
        ("%", [], "%!(NOVERB)"),
        ("%*d", ["x", 1], "%!(BADWIDTH)1"),
    ],
)  # fmt: skip
def test_printf_prints_as_go_does(format: str, values: list[Any], result: str) -> None:
    assert sprintf(format, values) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.a", "template: :1: unclosed action"),
        ("x\n{{if}}", "template: :2: missing value for if"),
        ("{{if .A}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{else}}", "template: :1: unexpected {{else}}"),
        ("{{if 1}}{{else}}{{else}}{{end}}", "template: :1: expected end; found {{else}}"),
        ("{{nosuch 1}}", 'template: :1: function "nosuch" not defined'),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ("{{range $x := .}}{{end}}{{$x}}", 'template: :1: undefined variable "$x"'),
        ('{{"a}}', "template: :1: unterminated quoted string"),
        ("{{`a}}", "template: :1: unterminated raw quoted string"),
        ("{{/* x}}", "template: :1: unclosed comment"),
        ("{{(.A}}", "template: :1: unclosed left paren"),
        ("{{.A)}}", "template: :1: unexpected right paren U+0029 ')'"),
        ("{{1 | 2}}", "template: :1: non executable command in pipeline stage 2"),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ("{{12x}}", 'template: :1: bad number syntax: "12x"'),
        ("{{.A | }}", "template: :1: missing value for command"),
        ("{{define `x`}}", "template: :1: there is no {{define}} in a format"),
        ("{{'ab'}}", "template: :1: malformed character constant: 'ab'"),
        ("{{.A!}}", "template: :1: unrecognized character in action: U+0021 '!'"),
    ],
)
def test_what_is_no_template(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text)
    assert (str(caught.value), caught.value.parsing) == (message, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.S.X}}", '1:4: executing "" at <.S.X>: can\'t evaluate field X in type string'),
        ("a\n{{.Nil.X}}", '2:6: executing "" at <.Nil.X>: nil pointer evaluating interface {}.X'),
        ("{{index .A.D 5}}", '1:2: executing "" at <index .A.D 5>: error calling index: index out of range: 5'),
        ('{{eq 1 "1"}}', '1:2: executing "" at <eq 1 "1">: error calling eq: incompatible types for comparison'),
        ("{{len 3}}", '1:2: executing "" at <len 3>: error calling len: len of type int'),
        ("{{lower 1 2}}", '1:2: executing "" at <lower>: wrong number of args for lower: want 1 got 2'),
        ("{{range .N}}{{end}}", '1:8: executing "" at <.N>: range can\'t iterate over 42'),
        ("{{.S 1}}", '1:2: executing "" at <.S 1>: S is not a method but has arguments'),
        ("{{nil}}", '1:2: executing "" at <nil>: nil is not a command'),
        ("{{3 4}}", '1:2: executing "" at <3 4>: can\'t give argument to non-function 3'),
    ],
)
def test_what_fails_on_its_data(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(text)
    assert (str(caught.value), caught.value.parsing) == (f"template: :{message}", False)


def test_an_object_has_only_its_fields() -> None:
    with pytest.raises(TemplateError, match='map has no entry for key "Nope"'):
        render("{{.Nope}}", Struct(ID="1"))
    attrs = {"Config": {"Labels": {"a": "b"}, "Cmd": None}, "LogConfig": {"Config": {}}}
    found = structured(attrs)
    assert render("{{.Config.Labels.x}} {{.LogConfig.Config.x}} {{.Config.Cmd}}", found) == "<no value> <no value> []"
    assert json.loads(render("{{json .}}", found)) == attrs
    with pytest.raises(TemplateError, match="Nope"):
        render("{{.Config.Nope}}", found)


def test_headings_pass_through_functions() -> None:
    template = Template("{{upper .ID}} {{json .Names}} {{truncate .ID 3}} {{pad .ID 1 0}}")
    headings = {"ID": "Container Id", "Names": "Names"}
    assert template.render(headings, HEADING_FUNCTIONS) == "Container Id Names Container Id  Container Id"


def test_nested_without_end_is_one_error() -> None:
    for text in ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "{{if 1}}" * 5000 + "{{end}}" * 5000):
        with pytest.raises(TemplateError, match="nested too deeply"):
            render(text)


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
PIECES = st.sampled_from(
    (
        "{{_}}_{{- _ -}}_{{/*_*/}}_(_)_|_,_:=_=_ _\n_\"_`_'_\\_%_._.A_.A.B_.L_.S_.M_.Nil_.Method_$_$x_$i, $e := _$x := "
        '_nil_1_-3_2.5_0x1F_"a"_"%v"_\'a\'_if _else if _end_range _with _break_continue_{{end}}_and _or _not _eq '
        "_lt _index _slice _len _print _printf _html _js _call _json _split _join _title _pad _truncate _urlquery "
    ).split("_")
)


@unhurried
@given(st.lists(PIECES | st.text(max_size=5), max_size=25).map("".join))
def test_whatever_is_typed_is_printed_or_one_kind_of_error(text: str) -> None:
    try:
        assert isinstance(render("{{" + text if len(text) % 2 else text), str)
    except TemplateError as error:
        assert str(error).startswith("template: ")


@unhurried
@given(st.text().filter(lambda text: "{{" not in text), st.text().filter(lambda text: "{{" not in text))
def test_text_between_actions_survives(before: str, after: str) -> None:
    before = before.rstrip("{")
    assert render(f"{before}{{{{.N}}}}{after}") == f"{before}42{after}"
    blanks = " \t\r\n"
    assert render(f"{before}{{{{- .N -}}}}{after}") == f"{before.rstrip(blanks)}42{after.lstrip(blanks)}"


@unhurried
@given(VALUES)
def test_json_is_what_json_says(value: Any) -> None:
    assert json.loads(render("{{json .}}", value)) == value


@unhurried
@given(st.text(), st.integers(), st.integers(0, 40), st.integers(0, 12))
def test_printf_agrees_with_python(text: str, number: int, width: int, precision: int) -> None:
    data = {"T": text, "I": number, "W": width, "P": precision, "F": number / 8 if abs(number) < 2**50 else 0.125}
    assert render('{{printf "%*d|%-*d|" .W .I .W .I}}', data) == f"{number:>{width}}|{number:<{width}}|"
    assert render('{{printf "%x %o %b" .I .I .I}}', data) == f"{number:x} {number:o} {number:b}"
    assert render('{{printf "%*s|%.*s" .W .T .P .T}}', data) == f"{text:>{width}}|{text[:precision]}"
    assert render('{{printf "%.*f" .P .F}}', data) == f"{data['F']:.{precision}f}"
    assert float(plain(data["F"])) == data["F"]


@unhurried
@given(st.lists(st.text(), min_size=1), st.data())
def test_len_index_slice_and_range_agree_with_python(items: list[str], choose: st.DataObject) -> None:
    place = choose.draw(st.integers(0, len(items) - 1))
    data = {"L": items, "P": place}
    assert render("{{len .L}} {{index .L .P}}", data) == f"{len(items)} {items[place]}"
    assert render("{{range $i, $e := .L}}{{$i}}:{{$e}},{{end}}", data) == "".join(
        f"{i}:{e}," for i, e in enumerate(items)
    )
    assert render('{{join (slice .L .P) "/"}}', data) == "/".join(items[place:])
    assert render('{{join (split (join .L "\\x00") "\\x00") "\\x00"}}', data) == "\0".join(items)
    assert render("{{len (index .L .P)}}", data) == str(len(items[place].encode()))


@unhurried
@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_maps_are_walked_in_order(entries: dict[str, str]) -> None:
    walked = render('{{range $k, $v := .}}{{printf "%q" $k}}{{$v}};{{end}}', entries)
    assert walked == "".join(f"{sprintf('%q', [key])}{entries[key]};" for key in sorted(entries))
    for key in entries:
        assert render("{{index .E .K}}", {"E": entries, "K": key}) == entries[key]


@unhurried
@given(st.text())
def test_a_quoted_text_is_read_as_it_was(text: str) -> None:
    assert render("{{" + sprintf("%q", [text]) + "}}") == text
    assert render("{{" + sprintf("%+q", [text]) + "}}") == text
