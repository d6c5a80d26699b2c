"""The command line as data: what the parser reads, that click reads the same, and what is said of a wrong one."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poc.cli import usage
from poc.cli.container_options import CONTAINER_OPTIONS, engine_keywords, read_lines
from poc.cli.main import VERBS, find, load, main
from poc.cli.parse import FLAG, INT, LIST, VALUE, Args, Command, Declined, Option, parse
from poc.errors import InvalidArgument

RUN = Command(example="", arguments="IMAGE [COMMAND] [ARG...]", interspersed=False, options=CONTAINER_OPTIONS)
SHOW = Command(
    example="",
    arguments="NAME [OTHER]",
    options=(
        Option("-a --all", FLAG, ""),
        Option("-n --last", INT, ""),
        Option("-f --filter", LIST, ""),
        Option("--format", VALUE, ""),
    ),
)


def test_every_form_of_an_option_is_read() -> None:
    args = parse(SHOW, ["-an5", "-f", "x=1", "--filter=y=2", "-fz", "-f=w", "web", "--format", "-", "--", "-q"])
    assert (args.all, args.last, args.format) == (True, 5, "-")
    assert args.filter == ["x=1", "y=2", "z", "w"]
    assert args.arguments == ["web", "-q"]

    args = parse(SHOW, ["--all", "--all=false", "--last=1", "-n=-2", "--format=", "web"])
    assert (args.all, args.last, args.format, args.filter) == (False, -2, "", ())


def test_options_of_run_end_at_the_image() -> None:
    args = parse(RUN, ["-it", "-eA=B", "--net", "none", "-m=1g", "--cpus=.5", "ubuntu", "sh", "-c", "--rm"])
    assert args.arguments == ["ubuntu", "sh", "-c", "--rm"]
    assert engine_keywords(args) == {
        "stdin_open": True,
        "tty": True,
        "environment": ["A=B"],
        "network": "none",
        "mem_limit": "1g",
        "cpus": ".5",
    }
    assert parse(RUN, ["--entrypoint=", "--", "ubuntu"]).entrypoint == ""


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["-a", "--bogus", "x"], ["--bogus", "x"]),
        (["x", "-ab"], ["-ab"]),
        (["x", "--format"], ["--format"]),
        (["--last", "1", "-n=many", "x"], ["-n", "many"]),
        (["--all=maybe", "x"], ["--all=maybe", "x"]),
        (["--help"], ["--help"]),
        (["-a"], ["--"]),
        (["a", "b", "c"], ["--", "a", "b", "c"]),
    ],
)
def test_the_rest_begins_with_the_word_that_cannot_be_read(words: list[str], rest: list[str]) -> None:
    with pytest.raises(Declined) as declined:
        parse(SHOW, words)
    assert declined.value.rest == rest


def _spellings(option: Option) -> st.SearchStrategy[list[str]]:
    """One option in every form that click knows too: it has no `-n=5` and no `--flag=false`."""
    name = st.sampled_from(option.names)
    if option.kind == FLAG:
        return name.map(lambda name: [name])
    value = st.integers().map(str) if option.kind == INT else st.text("ab=-/: é", max_size=4)
    return st.builds(_spell, name, value, st.booleans())


def _spell(name: str, value: str, joined: bool) -> list[str]:
    if not joined or (not name.startswith("--") and (not value or value[0] == "=")):
        return [name, value]
    return [f"{name}={value}" if name.startswith("--") else name + value]


def command_lines(shape: Command) -> st.SearchStrategy[list[str]]:
    """Mostly well-formed lines of a command, some with words that are not."""
    options = st.one_of([_spellings(option) for option in shape.options])
    words = st.text("ait-nz05 é", max_size=5).map(lambda word: [word])
    return st.lists(options | words, max_size=6).map(lambda parts: [*chain(*parts)])


def _clicked(shape: Command, words: list[str]) -> Args | None:
    """What click makes of the words; None where it shows help or complains."""
    command = usage.LazyCommand("show", "", lambda: shape)
    try:
        context = command.make_context("show", list(words))
    except (click.UsageError, click.exceptions.Exit):
        return None
    values = dict(context.params)
    return Args(values, list(values.pop("arguments")))


@pytest.mark.parametrize("shape", [RUN, SHOW], ids=["run", "show"])
@settings(deadline=None)
@given(data=st.data())
def test_click_reads_what_the_parser_reads(shape: Command, data: st.DataObject) -> None:
    words = data.draw(command_lines(shape))
    clicked = _clicked(shape, words)
    try:
        parsed = parse(shape, words)
    except Declined as declined:
        assert clicked is None
        assert _clicked(shape, declined.rest) is None, "click would not say what is wrong"
        return
    assert clicked is not None
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(clicked).items()}
    assert listed == {key: list(value) if isinstance(value, tuple) else value for key, value in vars(parsed).items()}


def test_tables_are_consistent() -> None:
    for verb in VERBS:
        shape = load(verb).COMMAND
        names = [name for option in shape.options for name in option.names]
        keys = [option.key for option in shape.options]
        assert len(set(names)) == len(names), verb
        assert len(set(keys)) == len(keys), verb
        assert all(key.isidentifier() and key not in ("root", "arguments") for key in keys), verb
        assert shape.example.startswith(f"poc {verb}"), verb


def test_verbs_are_found_by_all_their_names() -> None:
    assert find(["run", "ubuntu"]) == ("run", 1)
    assert find(["container", "ls", "-a"]) == ("ps", 2)
    assert find(["image", "rm", "x"]) == ("rmi", 2)
    assert find(["container"]) == (None, 0)
    assert find([]) == (None, 0)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--bogus"], 125, "poc: unknown flag: --bogus (see 'poc --help')"),
        (["bogus", "-x"], 1, "poc: No such command 'bogus'"),
        (["container", "bogus"], 1, "poc: No such command 'bogus'"),
        (["run", "-m", "1g"], 1, "poc: 'poc run' requires at least 1 argument (see 'poc run --help')"),
        (["run", "--rmx", "ubuntu"], 125, "poc: unknown flag: --rmx, did you mean --rm? (see 'poc run --help')"),
        (["run", "--rm=no", "ubuntu"], 125, "poc: Option '--rm' does not take a value (see 'poc run --help')"),
        (["run", "--cpus"], 125, "poc: Option '--cpus' requires an argument (see 'poc run --help')"),
        (["ps", "x"], 1, "poc: 'poc ps' accepts no arguments (see 'poc ps --help')"),
        (["container", "ls", "-xq"], 125, "poc: unknown flag: -x (see 'poc container ls --help')"),
        (["logs", "a", "b"], 1, "poc: 'poc logs' accepts at most 1 argument (see 'poc logs --help')"),
        (["stop", "-t", "soon", "web"], 125, "poc: Invalid value for '-t' / '--timeout' / '--time': 'soon' is not a"),
    ],
)
def test_a_wrong_command_line_gets_one_line(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)
    assert err.count("\n") == 1


def test_help_names_every_verb_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb.split()[0]} " in text for verb in VERBS)
    management, commands = text.split("Management Commands:")[1].split("\nCommands:")
    assert "  image " in management and "  network " in management and "  ps " not in management
    assert "  ps " in commands and "  image " not in commands
    assert main(["image"]) == 0
    assert "ls " in capsys.readouterr().out
    for verb in VERBS:
        assert main([*verb.split(), "--help"]) == 0
        text = capsys.readouterr().out
        shape = load(verb).COMMAND
        assert shape.example in text
        assert all(name in text for option in shape.options for name in option.names)


def test_the_list_of_verbs_imports_none_of_them_and_run_no_click() -> None:
    def imported(code: str) -> list[str]:
        code += "; import sys; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1].split()

    modules = imported("from poc.cli.main import main; main(['--help'])")
    assert not [name for name in modules if name.startswith(("poc.cli.commands.", "poc.engine"))]

    modules = imported(
        "from poc.cli.main import load; from poc.cli.parse import parse;"
        "parse(load('run').COMMAND, ['-it', '--rm', '--cpus=1', 'ubuntu', 'true'])"
    )
    assert [name for name in modules if name.startswith("poc.cli.commands.")] == ["poc.cli.commands.run"]
    assert not {"click", "typing", "dataclasses", "pathlib", "subprocess", "tabulate", "rich"} & {*modules}


def test_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def offers(line: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        assert main([]) == 0
        return [offer.partition(",")[2] for offer in capsys.readouterr().out.split("\n") if offer]

    monkeypatch.setenv("_POC_COMPLETE", "bash_complete")
    assert offers("poc pr") == ["prune"]
    assert offers("poc container l") == ["list", "logs", "ls"]
    assert offers("poc run --memory-r") == ["--memory-reservation"]
    assert offers("poc run --rm --network n") == ["none"]


def test_files_of_variables(tmp_path: pytest.TempPathFactory) -> None:
    path = f"{tmp_path}/variables"
    with open(path, "wb") as file:
        file.write(b"\xef\xbb\xbfA=1\n# B=2\n\n  C=x = y \r\nHOME\nD=\xff'\n")
    assert list(read_lines(path)) == ["A=1", "C=x = y ", "HOME", "D=\udcff'"]
    args = parse(RUN, ["-e", "A=2", "--env-file", path, "-l", "k=v", "ubuntu"])
    keywords = engine_keywords(args)
    assert keywords == {"environment": ["A=1", "C=x = y ", "HOME", "D=\udcff'", "A=2"], "labels": ["k=v"]}

    with open(path, "w") as file:
        file.write("A=1\nexport B=2\n")
    with pytest.raises(InvalidArgument, match="line 2: 'export B' can't be a name"):
        list(read_lines(path))
