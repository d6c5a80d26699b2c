"""What ``commit -c`` and ``import -c`` say, in a Dockerfile's words: another configuration of an image. Pure.

The grammar is the Dockerfile's (docs.docker.com/reference/dockerfile): ``CMD`` and the like take a JSON array or a
shell's line; where words are read, quotes hold them together and ``$NAME`` is a variable of the image.
"""

from __future__ import annotations

import json
import posixpath
import string

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    Config = dict[str, Any]

_SHELL = ["/bin/sh", "-c"]
_NAME = frozenset(string.ascii_letters + string.digits + "_")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TIMES = {"--interval": "Interval", "--timeout": "Timeout", "--start-period": "StartPeriod"}


def change(config: Config, instructions: Iterable[str]) -> Config:
    """``config``, an image's, after these instructions. Raises InvalidArgument."""
    changed = dict(config)
    has_command = False
    for line in "\n".join(instructions).splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        name, rest = word.upper(), rest.strip()
        if name not in _INSTRUCTIONS:
            raise InvalidArgument(f"{word.lower()} is not a valid change command")
        if not rest:
            raise InvalidArgument(f"{name} requires at least one argument")
        _INSTRUCTIONS[name](changed, rest)
        has_command |= name == "CMD"
        if name == "ENTRYPOINT" and not has_command:
            changed["Cmd"] = None  # it was made for the one before
    return changed


def _cmd(config: Config, rest: str) -> None:
    config["Cmd"] = _command(rest)


def _entrypoint(config: Config, rest: str) -> None:
    config["Entrypoint"] = _command(rest)


def _command(rest: str) -> list[str]:
    array = _array(rest)
    return [*_SHELL, rest] if array is None else array


def _array(rest: str) -> list[str] | None:
    """A JSON array of strings; None for anything else, which is then a shell's line."""
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except ValueError:
        return None
    return value if all(isinstance(item, str) for item in value) else None


def _env(config: Config, rest: str) -> None:
    variables = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    variables.update(_pairs("ENV", rest, config))
    config["Env"] = [f"{name}={value}" for name, value in variables.items()]


def _label(config: Config, rest: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs("LABEL", rest, config))}


def _pairs(name: str, rest: str, config: Config) -> Iterator[tuple[str, str]]:
    words = _words(rest, config)
    if "=" not in words[0]:
        if len(words) < 2:
            raise InvalidArgument(f"{name} must have two arguments")
        yield words[0], " ".join(words[1:])
        return
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"{name}: can't find = in {word!r}; names can't be blank")
        yield key, value


def _expose(config: Config, rest: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _words(rest, config):
        numbers, _, protocol = word.partition("/")
        first, _, last = numbers.partition("-")
        if protocol not in ("", "tcp", "udp", "sctp") or not all(_is_port(end) for end in (first, last or first)):
            raise InvalidArgument(f"EXPOSE: {word!r} is not a port, such as 80, 80/udp or 8000-8010")
        ports.update((f"{port}/{protocol or 'tcp'}", {}) for port in range(int(first), int(last or first) + 1))
    config["ExposedPorts"] = ports


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


def _user(config: Config, rest: str) -> None:
    config["User"] = _one("USER", rest, config)


def _volume(config: Config, rest: str) -> None:
    paths = _array(rest)
    paths = _words(rest, config) if paths is None else paths
    if not all(path.strip() for path in paths):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}


def _workdir(config: Config, rest: str) -> None:
    path = _one("WORKDIR", rest, config)
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path))


def _stopsignal(config: Config, rest: str) -> None:
    from poc.engine.values import parse_signal

    signal = _one("STOPSIGNAL", rest, config)
    parse_signal(signal)
    config["StopSignal"] = signal


def _onbuild(config: Config, rest: str) -> None:
    word = rest.partition(" ")[0].upper()
    if word == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in ("FROM", "MAINTAINER"):
        raise InvalidArgument(f"{word} isn't allowed as an ONBUILD trigger")
    config["OnBuild"] = [*(config.get("OnBuild") or []), rest]


def _healthcheck(config: Config, rest: str) -> None:
    check: Config = {}
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        key, _, value = option.partition("=")
        if key in _TIMES:
            check[_TIMES[key]] = _nanoseconds(key, value)
        elif key == "--retries" and value.isascii() and value.isdigit():
            check["Retries"] = int(value)
        else:
            raise InvalidArgument(f"HEALTHCHECK: unknown option or value: {option}")
        rest = rest.strip()
    kind, _, command = rest.partition(" ")
    array, command = _array(command.strip()), command.strip()
    if kind.upper() == "NONE" and not command and not check:
        config["Healthcheck"] = {"Test": ["NONE"]}
    elif kind.upper() == "CMD" and command and array != []:
        config["Healthcheck"] = {"Test": ["CMD-SHELL", command] if array is None else ["CMD", *array], **check}
    else:
        raise InvalidArgument("HEALTHCHECK is NONE, or CMD and a command, after its options")


def _nanoseconds(option: str, text: str) -> int:
    """A duration as Go writes it, such as 1m30s."""
    total, number, rest = 0.0, "", text
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµmsh"))]
        rest = rest[len(unit) :]
        if not number.strip(".") or number.count(".") > 1 or unit not in _UNITS:
            break
        total += float(number) * _UNITS[unit]
    else:
        if text:
            return round(total)
    raise InvalidArgument(f"HEALTHCHECK: {option}={text}: not a duration, such as 30s or 1m30s")


def _one(name: str, rest: str, config: Config) -> str:
    words = _words(rest, config)
    if len(words) != 1 or not words[0]:
        raise InvalidArgument(f"{name} requires exactly one argument")
    return words[0]


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _words(text: str, config: Config) -> list[str]:
    """The words of a line, quotes taken away, variables filled in. Raises InvalidArgument. Never empty."""
    return list(_Line(text, config.get("Env") or ()).words())


class _Line:
    """Reads a line character by character."""

    __slots__ = ("_at", "_text", "_variables")

    def __init__(self, text: str, environment: Sequence[str]) -> None:
        self._text = text
        self._at = 0
        self._variables = dict(entry.partition("=")[::2] for entry in environment)

    def words(self) -> Iterator[str]:
        while self._at < len(self._text):
            if self._text[self._at].isspace():
                self._at += 1
            else:
                yield self._word()

    def _word(self) -> str:
        parts = []
        while self._at < len(self._text) and not self._text[self._at].isspace():
            parts.append(self._piece(""))
        return "".join(parts)

    def _piece(self, quote: str) -> str:
        character = self._text[self._at]
        self._at += 1
        if character == "\\" and self._at < len(self._text) and (not quote or self._text[self._at] in '"$\\'):
            self._at += 1
            return self._text[self._at - 1]
        if character == "$":
            return self._variable()
        if character == "'" and not quote:
            end = self._find("'")
            piece, self._at = self._text[self._at : end], end + 1
            return piece
        if character == '"' and not quote:
            return self._quoted()
        return character

    def _quoted(self) -> str:
        parts = []
        while self._at < len(self._text) and self._text[self._at] != '"':
            parts.append(self._piece('"'))
        self._find('"')
        self._at += 1
        return "".join(parts)

    def _find(self, what: str) -> int:
        found = self._text.find(what, self._at)
        if found < 0:
            raise InvalidArgument(f"{self._text!r:.200}: there is no closing {what}")
        return found

    def _variable(self) -> str:
        if self._text[self._at : self._at + 1] == "{":
            end = self._find("}")
            inside, self._at = self._text[self._at + 1 : end], end + 1
            return self._substitute(inside)
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in _NAME:
            self._at += 1
        name = self._text[start : self._at]
        return self._variables.get(name, "") if name else "$"

    def _substitute(self, inside: str) -> str:
        """``NAME``, ``NAME:-instead`` or ``NAME:+if set``."""
        name, colon, rest = inside.partition(":")
        value = self._variables.get(name, "")
        if not colon:
            return value
        if rest[:1] not in ("-", "+"):
            raise InvalidArgument(f"${{{inside}}}: unsupported modifier; there are :- and :+")
        return rest[1:] if bool(value) == (rest[0] == "+") else "" if rest[0] == "+" else value
