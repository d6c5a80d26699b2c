"""The functions of a template: Go's own, and those that docker adds. Pure.

Each raises `Failure` for what it can't take. Lengths and places in strings count bytes, as Go's do.
"""

from __future__ import annotations

from poc.cli.template.gofmt import WIDEST, in_order, plain, sprint, sprintf, sprintln, type_name
from poc.cli.template.values import NO_VALUE, Failure, NullList, NullMap, call, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_HTML = {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _seen(value: Any) -> Any:
    """A value for printing: what is not there is nil to a function."""
    return None if value is NO_VALUE else value


def _print(*values: Any) -> str:
    return sprint([_seen(value) for value in values])


def _println(*values: Any) -> str:
    return sprintln([_seen(value) for value in values])


def _printf(format: str, *values: Any) -> str:
    return sprintf(_text(format), [_seen(value) for value in values])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Failure(f"wrong type for value; expected string; got {type_name(_seen(value))}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Failure(f"wrong type for value; expected int; got {type_name(_seen(value))}")
    return value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _index(item: Any, *places: Any) -> Any:
    if item is NO_VALUE or item is None:
        raise Failure("index of untyped nil")
    for place in places:
        item = _one(item, place)
    return item


def _one(item: Any, place: Any) -> Any:
    if isinstance(item, dict):
        if not isinstance(place, str):
            raise Failure(f"value has type {type_name(_seen(place))}; should be string")
        # A missing entry is the zero value of the elements' type, which the others tell.
        zero = "" if all(isinstance(value, str) for value in item.values()) else NO_VALUE
        return item.get(place, zero)
    if isinstance(item, str | list):
        values: Any = _bytes(item) if isinstance(item, str) else item
        return values[_place(place, len(values), below=True)]
    if item is None or item is NO_VALUE:
        raise Failure("index of nil pointer")
    raise Failure(f"can't index item of type {type_name(item)}")


def _place(place: Any, length: int, below: bool = False) -> int:
    if place is None or place is NO_VALUE:
        raise Failure("cannot index slice/array with nil")
    if isinstance(place, bool) or not isinstance(place, int):
        raise Failure(f"cannot index slice/array with type {type_name(place)}")
    if not 0 <= place <= length - below:
        raise Failure(f"index out of range: {place}")
    return place


def _slice(item: Any, *places: Any) -> Any:
    if item is None or item is NO_VALUE:
        raise Failure("slice of untyped nil")
    if len(places) > 3:
        raise Failure(f"too many slice indexes: {len(places)}")
    if not isinstance(item, str | list):
        raise Failure(f"can't slice item of type {type_name(item)}")
    if isinstance(item, str) and len(places) == 3:
        raise Failure("cannot 3-index slice a string")
    values: Any = _bytes(item) if isinstance(item, str) else item
    bounds = [_place(place, len(values)) for place in places]
    if bounds != sorted(bounds):
        raise Failure(f"invalid slice index: {bounds[-2]} > {bounds[-1]}")
    part = values[slice(*bounds[:2])] if len(bounds) > 1 else values[bounds[0] if bounds else 0 :]
    return part.decode("utf-8", "surrogateescape") if isinstance(item, str) else part


def _len(item: Any) -> int:
    if isinstance(item, str | list | dict):
        return len(_bytes(item) if isinstance(item, str) else item)
    if item is None or item is NO_VALUE:
        raise Failure("len of nil pointer")
    raise Failure(f"len of type {type_name(item)}")


def _not(value: Any) -> bool:
    return not truth(value)


def _call(function: Any, *values: Any) -> Any:
    if not callable(function):
        nil = function is None or function is NO_VALUE
        raise Failure("call of nil" if nil else f"non-function of type {type_name(function)}")
    return call("call", function, values)


def _html(*values: Any) -> str:
    return _escape(values, _HTML)


def _js(*values: Any) -> str:
    control = {chr(number): f"\\u{number:04X}" for number in range(32)}
    return _escape(values, {**control, **_JS})


def _escape(values: tuple[Any, ...], table: dict[str, str]) -> str:
    return "".join(table.get(character, character) for character in _shown(values))


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_bytes(_shown(values)), safe="~")


def _shown(values: tuple[Any, ...]) -> str:
    return sprint(["<no value>" if value is NO_VALUE else value for value in values])


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────


def _kind(value: Any) -> str:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind.__name__
    return ""


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise Failure("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _same(a: Any, b: Any) -> bool:
    a, b = _seen(a), _seen(b)
    if a is None or b is None:
        return a is b
    if _kind(a) != _kind(b):
        raise Failure("incompatible types for comparison")
    if not _kind(a):
        raise Failure(f"non-comparable type {plain(a)}: {type_name(a)}")
    return bool(a == b)


def _ne(a: Any, b: Any) -> bool:
    return not _same(a, b)


def _less(a: Any, b: Any) -> bool:
    if not (_kind(a) and _kind(b)):
        raise Failure("invalid type for comparison")
    if _kind(a) != _kind(b):
        raise Failure("incompatible types for comparison")
    if isinstance(a, bool):
        raise Failure("invalid type for comparison")
    return bool(_bytes(a) < _bytes(b) if isinstance(a, str) else a < b)


def _lt(a: Any, b: Any) -> bool:
    return _less(a, b)


def _le(a: Any, b: Any) -> bool:
    return _less(a, b) or _same(a, b)


def _gt(a: Any, b: Any) -> bool:
    return not _le(a, b)


def _ge(a: Any, b: Any) -> bool:
    return not _less(a, b)


# ── docker's ─────────────────────────────────────────────────────────────────────────────────────────


def encode(value: Any) -> str:
    """As one line of JSON: docker's ``json``. Methods are left out, as Go leaves them."""
    import json

    def plain_data(value: Any) -> Any:
        if isinstance(value, NullList | NullMap):
            return None
        if isinstance(value, dict):
            entries = value.items() if type(value) is not dict else in_order(value)
            return {key: plain_data(item) for key, item in entries if not callable(item)}
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
            return int(value)  # Go has one kind of number in JSON
        return [plain_data(item) for item in value] if isinstance(value, list) else _seen(value)

    text = json.dumps(plain_data(value), ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no text
        return json.dumps(plain_data(value), separators=(",", ":"))
    return text


def _split(text: str, separator: str) -> list[Any]:
    if not _text(separator):
        return list(_text(text))
    return list(_text(text).split(separator))


def _join(items: Any, separator: str) -> str:
    _text(separator)
    if items is None or items is NO_VALUE:
        return ""
    if not isinstance(items, list):
        raise Failure(f"expected slice, got {type_name(items)}")
    return separator.join(item if isinstance(item, str) else plain(_seen(item)) for item in items)


def _title(text: str) -> str:
    before = [" ", *_text(text)]
    return "".join(c if p.isalnum() or p in "_'" else c.title() for p, c in zip(before, text, strict=False))


def _lower(text: str) -> str:
    return _text(text).lower()


def _upper(text: str) -> str:
    return _text(text).upper()


def _pad(text: str, before: int, after: int) -> str:
    if not (0 <= _whole(before) <= WIDEST and 0 <= _whole(after) <= WIDEST):
        raise Failure(f"strings: Repeat count must be 0 to {WIDEST}")
    return " " * before + text + " " * after if _text(text) else text


def _truncate(text: str, length: int) -> str:
    if _whole(length) < 0:
        raise Failure(f"slice bounds out of range [:{length}]")
    return _bytes(_text(text))[:length].decode("utf-8", "surrogateescape")


def _settled(first: Any, *others: Any) -> Any:
    """``and`` and ``or`` are the evaluator's own: they don't evaluate all of their arguments."""
    return (first, *others)[-1]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{"and": _settled, "or": _settled, "not": _not, "call": _call, "html": _html, "js": _js, "urlquery": _urlquery},
    **{"index": _index, "slice": _slice, "len": _len, "print": _print, "printf": _printf, "println": _println},
    **{"eq": _eq, "ne": _ne, "lt": _lt, "le": _le, "gt": _gt, "ge": _ge},
    **{"json": encode, "split": _split, "join": _join, "title": _title, "lower": _lower, "upper": _upper},
    **{"pad": _pad, "truncate": _truncate},
}


def _heading(text: Any, *_: Any) -> Any:
    return text


# In a table's line of headings these leave what they get as it is.
HEADING_FUNCTIONS = dict.fromkeys(("json", "split", "join", "title", "lower", "upper", "truncate"), _heading)
