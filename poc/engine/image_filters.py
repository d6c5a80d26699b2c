"""Which images a listing shows: docker's ``--filter KEY=VALUE``, as pure functions.

Values of one key are alternatives, keys must all match; only labels must all be there.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from poc.engine.matching import has_label, pairs
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from poc.images.store import Image

_KEYS = ("before", "dangling", "label", "reference", "since")


def select(
    images: Iterable[Image],
    filters: Mapping[str, str | Iterable[str]] | Iterable[str],
    created: Callable[[str], str],
) -> list[Image]:
    """Those that match; with ``reference`` each has only the references that do.

    ``created`` finds when an image was made. Raises InvalidArgument.
    """
    wanted = _parse(filters)
    for key in ("before", "since"):
        wanted[key] = [created(name) for name in wanted[key]]
    found = [image for image in images if _matches(image, wanted)]
    if not wanted["reference"]:
        return found
    return [image.named(_matching(image, wanted["reference"])) for image in found]


def _parse(filters: Mapping[str, str | Iterable[str]] | Iterable[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {key: [] for key in _KEYS}
    for key, value in pairs(filters):
        if key not in wanted or not value:
            raise InvalidArgument(f"--filter: {f'{key}={value}'!r} is not KEY=VALUE with a key of {', '.join(_KEYS)}")
        if key == "dangling" and value not in ("true", "false", "1", "0"):
            raise InvalidArgument(f"--filter: dangling is true or false, not {value!r}")
        wanted[key].append(value)
    return wanted


def _matches(image: Image, wanted: Mapping[str, list[str]]) -> bool:
    labels = image.config.get("Labels") or {}
    dangling = {value in ("true", "1") for value in wanted["dangling"]}
    return (
        all(has_label(labels, text) for text in wanted["label"])
        and (not dangling or (not image.references) in dangling)
        and (not wanted["before"] or any(image.created < time for time in wanted["before"]))
        and (not wanted["since"] or any(image.created > time for time in wanted["since"]))
        and (not wanted["reference"] or bool(_matching(image, wanted["reference"])))
    )


def _matching(image: Image, patterns: Iterable[str]) -> list[str]:
    """The references that fit a pattern: as a whole, or without the tag (path.Match, as docker has it)."""
    return [
        name
        for name in image.references
        if any(fnmatchcase(form, pattern) for pattern in patterns for form in (name, name.rpartition(":")[0]))
    ]
