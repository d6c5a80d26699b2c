"""How Go prints values: `fmt.Sprint`, `Sprintln` and `Sprintf`, for what a template can hold. Pure.

A value is a bool, int, float, str, list, dict, callable or None (a nil pointer). Source: https://pkg.go.dev/fmt
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_VERB = re.compile(r"%([-+# 0]*)(\*|\d+)?(?:(\.)(\*|\d+)?)?(.?)", re.DOTALL)
_BASES = {"b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
_PREFIXES = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}
WIDEST = 1_000_000  # of a field; Go's limit too
_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v", "\\": r"\\"}


def sprint(values: Sequence[Any]) -> str:
    """The values one after the other, with a blank between two that are no strings."""
    text = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            text += " "
        text += plain(value)
    return text


def sprintln(values: Sequence[Any]) -> str:
    """The values with blanks between them, and the end of a line."""
    return " ".join(map(plain, values)) + "\n"


def plain(value: Any) -> str:
    """A value as ``%v`` prints it."""
    return _format(value, _Verb("v"))


def type_name(value: Any) -> str:
    """What Go would call its type."""
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float64"), (str, "string")):
        if isinstance(value, kind):
            return name
    if isinstance(value, list):
        return "[]string" if value and all(isinstance(item, str) for item in value) else "[]interface {}"
    if isinstance(value, dict):
        return "map[string]interface {}"
    return "<nil>" if value is None else "func()"


def sprintf(text: str, values: Sequence[Any]) -> str:
    """Go's printf: what it can't do is written into the result (``%!d(string=hi)``), and is never an error."""
    rest = list(values)

    def convert(match: re.Match[str]) -> str:
        flags, width, dot, precision, letter = match.groups()
        if letter == "%":
            return "%"
        verb = _Verb(letter, flags)
        if note := verb.measure(width, dot, precision, rest):
            return note + _one(verb, rest)
        return _one(verb, rest)

    result = _VERB.sub(convert, text)
    if rest:
        extra = ", ".join("<nil>" if value is None else f"{type_name(value)}={plain(value)}" for value in rest)
        result += f"%!(EXTRA {extra})"
    return result


def _one(verb: _Verb, rest: list[Any]) -> str:
    if not verb.letter:
        return "%!(NOVERB)"
    if not rest:
        return f"%!{verb.letter}(MISSING)"
    return _format(rest.pop(0), verb)


class _Verb:
    """One ``%-10.3f``, taken apart. ``precision`` and ``width`` are None where there is none."""

    __slots__ = ("flags", "letter", "precision", "width")

    def __init__(self, letter: str, flags: str = "") -> None:
        self.letter = letter
        self.flags = set(flags) - {"+"} if letter == "v" else set(flags)  # %+v is about the fields of structs
        self.width: int | None = None
        self.precision: int | None = None

    def measure(self, width: str | None, dot: str | None, precision: str | None, rest: list[Any]) -> str:
        """Take what stands for ``*`` from the values; returns Go's note where that is no number."""
        note = ""
        try:
            self.width = _measure(width, rest)
        except ValueError:
            note = "%!(BADWIDTH)"
        if self.width is not None and self.width < 0:
            self.flags.add("-")
            self.width = -self.width
        try:
            self.precision = _measure(precision or "0", rest) if dot else None
        except ValueError:
            note += "%!(BADPREC)"
        if "-" in self.flags:
            self.flags.discard("0")
        return note

    def pad(self, text: str, zeros: bool = True) -> str:
        missing = (self.width or 0) - len(text)
        if missing <= 0:
            return text
        if "-" in self.flags:
            return text + " " * missing
        if "0" in self.flags and zeros:
            sign = text[:1] if text[:1] in ("+", "-", " ") else ""
            return f"{sign}{'0' * missing}{text[len(sign) :]}"
        return " " * missing + text


def _measure(text: str | None, rest: list[Any]) -> int | None:
    if text is None:
        return None
    value = (rest.pop(0) if rest else None) if text == "*" else int(text)
    if type(value) is not int or abs(value) > WIDEST:
        raise ValueError(text)
    return value


def _format(value: Any, verb: _Verb) -> str:
    if verb.letter == "T":
        return verb.pad(type_name(value))
    if value is None:
        return verb.pad("<nil>", zeros=False) if verb.letter == "v" else f"%!{verb.letter}(<nil>)"
    if isinstance(value, list):
        return "[" + " ".join(_format(item, verb) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{_format(k, verb)}:{_format(v, verb)}" for k, v in in_order(value)) + "]"
    for kind, formatter in _FORMATTERS:
        if isinstance(value, kind):
            text = formatter(value, verb)
            return _bad(value, verb) if text is None else text
    return verb.pad(f"0x{id(value):x}")


def _bad(value: Any, verb: _Verb) -> str:
    letter, verb.letter = verb.letter, "v"
    text = _format(value, verb)
    verb.letter = letter
    return f"%!{letter}({type_name(value)}={text})"


def in_order(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The entries of a map as Go prints and ranges over them: sorted, and without what can only be called."""
    return sorted(
        ((k, v) for k, v in mapping.items() if not callable(v)), key=lambda entry: (str(type(entry[0])), entry[0])
    )


def _bool(value: bool, verb: _Verb) -> str | None:
    return verb.pad("true" if value else "false") if verb.letter in "vt" else None


def _string(value: str, verb: _Verb) -> str | None:
    value = value if verb.precision is None or verb.letter in "xX" else value[: verb.precision]
    if verb.letter == "q" or (verb.letter == "v" and "#" in verb.flags):
        return verb.pad(_quote(value, "#" in verb.flags and verb.letter == "q", "+" in verb.flags))
    if verb.letter in "vs":
        return verb.pad(value)
    if verb.letter in "xX":
        text = value.encode("utf-8", "surrogateescape")[: verb.precision].hex(*" " * (" " in verb.flags))
        text = f"0x{text}" if "#" in verb.flags and text else text
        return verb.pad(text.upper() if verb.letter == "X" else text)
    return None


def _quote(text: str, raw: bool, ascii: bool) -> str:
    if raw and "`" not in text and all(c.isprintable() or c == "\t" for c in text):
        return f"`{text}`"
    return '"' + "".join(r"\"" if c == '"' else _escape(c, ascii) for c in text) + '"'


def _escape(character: str, ascii: bool = False) -> str:
    number = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and (number < 128 or not ascii):
        return character
    if 0xDC80 <= number <= 0xDCFF or number < 128:  # a byte that is no UTF-8, or a control character
        return f"\\x{number & 0xFF:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _integer(value: int, verb: _Verb) -> str | None:
    if verb.letter in "vd":
        digits = str(abs(value))
    elif verb.letter in _BASES:
        digits = format(abs(value), _BASES[verb.letter])
    elif verb.letter in "cqU":
        return _character(value, verb)
    else:
        return None
    if verb.precision is not None:
        digits = "" if value == verb.precision == 0 else digits.rjust(verb.precision, "0")
    if verb.letter == "O" or "#" in verb.flags:
        prefix = "0o" if verb.letter == "O" else _PREFIXES.get(verb.letter, "")
        digits = digits if prefix == "0" and digits.startswith("0") else prefix + digits
    return verb.pad(_sign(value < 0, verb) + digits, zeros=verb.precision is None)


def _character(value: int, verb: _Verb) -> str:
    character = chr(value) if 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000 else "\ufffd"
    if verb.letter == "U":
        text = f"U+{max(value, 0):04X}"
        return verb.pad(f"{text} '{character}'" if "#" in verb.flags and character.isprintable() else text, False)
    if verb.letter == "q":
        return verb.pad(r"'\''" if character == "'" else f"'{_escape(character, '+' in verb.flags)}'")
    return verb.pad(character)


def _sign(negative: bool, verb: _Verb) -> str:
    return "-" if negative else "+" if "+" in verb.flags else " " if " " in verb.flags else ""


def _float(value: float, verb: _Verb) -> str | None:
    letter = "g" if verb.letter == "v" else verb.letter
    if letter not in "eEfFgG":
        return None
    if value != value or value in (float("inf"), float("-inf")):
        name = "NaN" if value != value else "Inf"
        sign = _sign(value < 0, verb) or ("+" if name == "Inf" else "")
        return verb.pad(sign + name, zeros=False)
    if letter in "gG" and verb.precision is None:
        text = _shortest(abs(value))
        text = text.upper() if letter == "G" else text
    else:
        text = format(
            abs(value), f"{'#' if '#' in verb.flags else ''}.{6 if verb.precision is None else verb.precision}{letter}"
        )
    negative = value < 0 or str(value).startswith("-")
    return verb.pad(_sign(negative, verb) + text)


def _shortest(value: float) -> str:
    """The fewest digits that mean this number; with an exponent below -4, and from 6 on."""
    digits, _, exponent = f"{value!r}".partition("e")
    whole, _, fraction = digits.partition(".")
    fraction = "" if fraction == "0" else fraction
    place = len(whole) + int(exponent or 0)  # of the point, counted from the first digit
    digits = whole + fraction
    stripped = digits.lstrip("0")
    place -= len(digits) - len(stripped)
    stripped = stripped.rstrip("0")
    if not stripped:
        return "0"
    if place - 1 < -4 or place - 1 >= 6:
        mantissa = stripped[0] + (f".{stripped[1:]}" if stripped[1:] else "")
        return f"{mantissa}e{'-' if place < 1 else '+'}{abs(place - 1):02d}"
    if place <= 0:
        return f"0.{'0' * -place}{stripped}"
    return stripped.ljust(place, "0")[:place] + (f".{stripped[place:]}" if stripped[place:] else "")


_FORMATTERS: tuple[tuple[type, Callable[[Any, _Verb], str | None]], ...] = (
    (bool, _bool),
    (int, _integer),
    (float, _float),
    (str, _string),
)
