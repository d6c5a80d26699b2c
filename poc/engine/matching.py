"""What docker's filters have in common, whatever they are asked of. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


def has_label(labels: Mapping[str, str], text: str) -> bool:
    """Is there this label: ``KEY``, whatever its value, or ``KEY=VALUE``?"""
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def split(text: str) -> tuple[str, str]:
    """Key and value of ``KEY=VALUE``; of a text without an equals sign the value is ""."""
    key, _, value = text.partition("=")
    return key, value


def pairs(
    filters: Mapping[str, str | Iterable[str]] | Iterable[str],
    read: Callable[[str], tuple[str, str]] = split,
) -> Iterator[tuple[str, str]]:
    """Key and value of each filter: of texts, which ``read`` takes apart, or of a mapping with a value or several."""
    if not hasattr(filters, "items"):
        yield from map(read, filters)
        return
    for key, values in filters.items():
        yield from ((key, value) for value in ([values] if isinstance(values, str) else values))
