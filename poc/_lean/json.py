"""`json` for what poc itself writes and reads: one line, UTF-8, no NaN."""

from __future__ import annotations

from _json import encode_basestring_ascii as quoted
from _json import make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ("dumps", "loads", "quoted")

_BLANKS = " \t\n\r"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class _Rules:
    """What the scanner asks its decoder for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, staticmethod(_no_constant)


_scan = make_scanner(_Rules())  # type: ignore[arg-type]


def loads(data: str | bytes) -> Any:
    """The value in a text or in UTF-8. Raises ValueError."""
    text = data if isinstance(data, str) else data.decode()
    try:
        value, end = _scan(text, _past_blanks(text, 0))
    except StopIteration as error:
        _fail("Expecting value", text, error.value)
    except SystemError:
        # To say what is wrong the C half takes the exception from the Python half, if that is loaded.
        import json

        return json.loads(text, parse_constant=_no_constant)
    if (end := _past_blanks(text, end)) < len(text):
        _fail("Extra data", text, end)
    return value


def _past_blanks(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip(_BLANKS))  # in C: a status.json is mostly blanks


def _fail(why: str, text: str, position: int) -> NoReturn:
    from json import JSONDecodeError

    raise JSONDecodeError(why, text, position)


def dumps(value: Any) -> str:
    """One line of ASCII. Raises TypeError for what JSON can't hold."""
    return "".join(make_encoder({}, _refuse, quoted, None, ": ", ", ", False, False, True)(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
