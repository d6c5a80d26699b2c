"""The values of a template: what is nil, what is missing, what a field or a function of them gives. Pure."""

from __future__ import annotations

from poc.cli.template.gofmt import in_order, plain, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Failure(Exception):
    """What a function or a field objects to; becomes a `TemplateError` that says where.

    ``name``: it is about this function or field, not about the whole command.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Struct(dict[str, "Any"]):
    """A dict with fixed keys: asking for another one is an error."""


class NullList(list["Any"]):
    """An empty list that JSON calls null, as Go has it."""


class NullMap(dict[str, "Any"]):
    """An empty map of the same kind."""


class _NoValue:
    """What is not there at all."""

    __slots__ = ()


NO_VALUE = _NoValue()


def truth(value: Any) -> bool:
    """False for zero, what is empty, nil and what is not there."""
    return value is not NO_VALUE and (callable(value) or bool(value))


def printable(value: Any) -> str:
    """What an action prints."""
    if callable(value):
        raise Failure(f"can't print {type_name(value)}")
    return "<no value>" if value is NO_VALUE else plain(value)


def ask(value: Any, name: str, arguments: list[Any]) -> Any:
    """What a field of a value holds, or gives when it is a method. Raises Failure."""
    if value is NO_VALUE:
        return NO_VALUE
    found = field_of(value, name)
    if callable(found):
        return call(name, found, arguments)
    if arguments:
        raise Failure(f"{name} is not a method but has arguments")
    return found


def field_of(value: Any, name: str) -> Any:
    """A field of a value. Raises Failure where there can't be one."""
    if isinstance(value, dict):
        if name not in value and isinstance(value, Struct):
            name = _spelled(value, name)
        return value.get(name, NO_VALUE)
    if value is None:
        raise Failure(f"nil pointer evaluating interface {{}}.{name}")
    raise Failure(f"can't evaluate field {name} in type {type_name(value)}")


def _spelled(value: Struct, name: str) -> str:
    """The key that a field of Go's has in JSON, where that is another: ``.ID`` is Id, ``.NanoCPUs`` NanoCpus."""
    for key in value:
        if key.lower() == name.lower() and name[:1].isupper():
            return key
    raise Failure(f'map has no entry for key "{name}"')


def call(name: str, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call a function or method with the arguments it takes, or raise Failure."""
    code = function.__code__
    least = code.co_argcount - len(function.__defaults__ or ())
    most = None if code.co_flags & 0x04 else code.co_argcount  # CO_VARARGS
    if len(arguments) < least or (most is not None and len(arguments) > most):
        refuse_count(name, len(arguments), f"at least {least}" if most is None else str(least))
    try:
        return function(*arguments)
    except Failure as failure:
        raise Failure(f"error calling {name}: {failure}") from None


def refuse_count(name: str, got: int, want: str) -> None:
    raise Failure(f"wrong number of args for {name}: want {want} got {got}", name)


def entries(value: Any) -> list[tuple[Any, Any]]:
    """What a range goes over: (index or key, element)."""
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, dict):
        return in_order(value)
    if value is None or value is NO_VALUE:
        return []
    raise Failure(f"range can't iterate over {plain(value)}")
