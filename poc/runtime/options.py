"""The command line of `poc-runtime`, read from tables. Small, because every start of a container pays for it thrice.

``--name value``, ``--name=value``, ``-n value``, and flags. As in runc, options may stand after arguments too, but
for the commands whose arguments are another program's.
"""

from __future__ import annotations

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FLAG, VALUE, LIST, NUMBER = "flag", "value", "list", "number"


class Command:
    """``options`` maps each long name to its kind, or a short one to the long one; ``arguments`` is (least, most)."""

    __slots__ = ("arguments", "name", "options", "own", "summary")

    def __init__(
        self, name: str, summary: str, options: dict[str, str], arguments: tuple[int, int] = (1, 1), own: bool = False
    ) -> None:
        self.name = name
        self.summary = summary
        self.options = options
        self.arguments = arguments
        self.own = own

    def parse(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """(options by long name, without dashes, arguments). Raises InvalidArgument."""
        values, arguments = read(self.options, words, self.own)
        least, most = self.arguments
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} or more" if most > 99 else f"{least} to {most}"
            raise InvalidArgument(f"{self.name} takes {wanted} argument(s), not {len(arguments)}")
        return values, arguments


def read(options: dict[str, str], words: Sequence[str], stop: bool) -> tuple[dict[str, Any], list[str]]:
    """Take options apart from arguments; with ``stop`` everything from the first argument on is one."""
    values: dict[str, Any] = {}
    arguments: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--" or (stop and not _is_option(word)):
            arguments += words[position - (word != "--") :]
            break
        if not _is_option(word):
            arguments.append(word)
            continue
        name, equals, value = word.partition("=")
        name, kind = _find(options, name)
        if kind != FLAG and not equals:
            if position == len(words):
                raise InvalidArgument(f"{name} needs a value")
            value = words[position]
            position += 1
        _store(values, name, kind, value if kind != FLAG or equals else "true")
    return values, arguments


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _find(options: dict[str, str], name: str) -> tuple[str, str]:
    kind = options.get(name) or options.get(f"-{name}", "")
    if kind.startswith("-"):
        return kind, options[kind]
    if not kind:
        raise InvalidArgument(f"unknown option {name}")
    return (name if name in options else f"-{name}"), kind


def _store(values: dict[str, Any], name: str, kind: str, value: str) -> None:
    key = name.lstrip("-")
    if kind == FLAG:
        if value not in ("true", "false"):
            raise InvalidArgument(f"{name} is true or false, not {value!r}")
        values[key] = value == "true"
    elif kind == NUMBER:
        try:
            values[key] = int(value)
        except ValueError:
            raise InvalidArgument(f"{name} {value!r} is no integer") from None
    elif kind == LIST:
        values.setdefault(key, []).append(value)
    else:
        values[key] = value
