"""Options as data, and the parser of command lines that are well formed.

A command describes its options in one table (`Command`). `parse` reads a well-formed command line from that
table and imports nothing for it: click takes longer to import than poc takes to start a container, and its memory
would stay in the monitor that is forked from the command. What is not well formed is `Declined`, from the first
word that can't be read; `poc.cli.usage` builds click's commands from the same tables, and these then say what is
wrong. Nothing is printed here.

The grammar is docker's (pflag's): `--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, `-it`,
`--flag=false`, and `--` ends the options.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` would cost a third of the interpreter's start; mypy knows the name
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FLAG = "flag"  # False, or True when given
VALUE = "value"  # None, or the string given last
INT = "int"  # None, or the whole number given last
LIST = "list"  # every string given, in order

_DEFAULTS = {FLAG: False, VALUE: None, INT: None, LIST: ()}
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}


class Option:
    """One option. ``names`` are separated by blanks; ``key`` is its attribute in `Args` (default: the long name).

    ``metavar`` stands for the value in the help; ``complete`` says what the shell offers: "container", "image",
    "volume", "file", or a tuple of words. A flag that is ``on`` is so unless it is said to be false.
    """

    __slots__ = ("complete", "help", "key", "kind", "metavar", "names", "on")

    def __init__(
        self,
        names: str,
        kind: str,
        help: str,
        key: str = "",
        metavar: str = "",
        complete: str | Sequence[str] = "",
        on: bool = False,
    ) -> None:
        self.names = names.split()
        self.kind = kind
        self.help = help
        self.key = key or max(self.names, key=len)[2:].replace("-", "_")
        self.metavar = metavar
        self.complete = complete
        self.on = on

    @property
    def default(self) -> Any:
        """What `Args` holds when the option is not given."""
        return self.on or _DEFAULTS[self.kind]


class Command:
    """The shape of a verb's command line.

    ``arguments`` is what its help shows ("CONTAINER [CONTAINER...]"), and says how many there may be.
    ``interspersed``: options may follow arguments; where they may not, the first argument ends them.
    ``starts``: it starts a container, so a failure ends with docker's 125, 126 or 127, not with 1.
    """

    __slots__ = ("arguments", "complete", "example", "interspersed", "least", "most", "options", "root", "starts")

    def __init__(
        self,
        *,
        example: str,
        options: Sequence[Option] = (),
        arguments: str = "",
        complete: str | Sequence[str] = "",
        interspersed: bool = True,
        root: bool = True,
        starts: bool = False,
    ) -> None:
        words = arguments.split()
        self.arguments = arguments
        self.least = sum(not word.startswith("[") for word in words)
        self.most = None if "..." in arguments else len(words)
        self.options = options
        self.example = example
        self.complete = complete
        self.interspersed = interspersed
        self.root = root
        self.starts = starts


class Args:
    """A command line that was understood: an attribute per option, the ``arguments``, and the store's ``root``."""

    def __init__(self, values: dict[str, Any], arguments: list[str]) -> None:
        self.__dict__.update(values)
        self.arguments = arguments
        self.root: str | None = values.get("root")

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Declined(Exception):
    """Not well formed; ``rest`` are the words from the first one that can't be read."""

    def __init__(self, rest: Sequence[str]) -> None:
        super().__init__(rest)
        self.rest = list(rest)


def parse(command: Command, words: Sequence[str]) -> Args:
    """Read a command line. Raises `Declined`."""
    table = {name: option for option in command.options for name in option.names}
    values = {option.key: option.default for option in command.options}
    arguments: list[str] = []
    rest = list(words)
    while rest:
        word = rest[0]
        if word == "--":
            arguments += rest[1:]
            break
        if word == "-" or not word.startswith("-"):
            if not command.interspersed:
                arguments += rest
                break
            arguments.append(rest.pop(0))
            continue
        try:
            used = _read_long(table, values, rest) if word.startswith("--") else _read_short(table, values, rest)
        except LookupError:  # an unknown name, a missing value, neither true nor false
            raise Declined(rest) from None
        del rest[:used]
    _convert(command.options, values)
    if len(arguments) < command.least or (command.most is not None and len(arguments) > command.most):
        raise Declined(["--", *arguments])
    return Args(values, arguments)


def _convert(options: Sequence[Option], values: dict[str, Any]) -> None:
    """Numbers from the text given last, as click does."""
    for option in options:
        if option.kind == INT and (text := values[option.key]) is not None:
            try:
                values[option.key] = int(text)
            except ValueError:
                raise Declined([option.names[0], text]) from None


def _read_long(table: dict[str, Option], values: dict[str, Any], rest: list[str]) -> int:
    """Store `--name[=value]` or `--name value`; returns how many words that took."""
    name, equals, value = rest[0].partition("=")
    option = table[name]
    if equals or option.kind == FLAG:
        _store(values, option, value if equals else "true")
        return 1
    _store(values, option, rest[1])
    return 2


def _read_short(table: dict[str, Option], values: dict[str, Any], rest: list[str]) -> int:
    """Store a cluster: flags, of which the last may be an option with its value; returns how many words that took."""
    letters = rest[0][1:]
    while letters:
        option, letters = table["-" + letters[0]], letters[1:]
        if letters.startswith("="):
            _store(values, option, letters[1:])
            return 1
        if option.kind == FLAG:
            _store(values, option, "true")
        elif letters:
            _store(values, option, letters)
            return 1
        else:
            _store(values, option, rest[1])
            return 2
    return 1


def _store(values: dict[str, Any], option: Option, text: str) -> None:
    if option.kind == FLAG:
        values[option.key] = _BOOLEANS[text]
    elif option.kind == LIST:
        values[option.key] = [*values[option.key], text]
    else:
        values[option.key] = text
