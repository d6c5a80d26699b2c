"""Which containers a listing shows: docker's ``--filter KEY=VALUE``, as pure functions over inspect's attributes.

Values of one key are alternatives, keys must all match; only labels must all be there (docker's `filters.Args`).
"""

from __future__ import annotations

import re

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def parse_filters(texts: Iterable[str]) -> dict[str, list[str]]:
    """``["status=exited", …]`` as values by key. Raises InvalidArgument for what no container could be asked."""
    filters: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in _MATCH:
            raise InvalidArgument(f"--filter: {text!r} is not KEY=VALUE with a key of {', '.join(sorted(_MATCH))}")
        _check(key, value)
        filters.setdefault(key, []).append(value)
    return filters


def matches(attrs: Mapping[str, Any], filters: Mapping[str, list[str]], image_id: Callable[[str], str | None]) -> bool:
    """Whether a container is shown. ``image_id`` finds the id of an image by any of its names, or None."""
    for key, values in filters.items():
        wanted = [image_id(value) or value for value in values] if key == "ancestor" else values
        combine = all if key == "label" else any
        if not combine(_MATCH[key](attrs, value) for value in wanted):
            return False
    return True


def _check(key: str, value: str) -> None:
    if key == "status" and value not in STATES:
        raise InvalidArgument(f"--filter: {value!r} is no status; there are {', '.join(STATES)}")
    if key == "exited" and not value.isdigit():
        raise InvalidArgument(f"--filter: exited takes an exit code, not {value!r}")
    if key in ("name", "id"):
        try:
            re.compile(value)
        except re.error as error:
            raise InvalidArgument(f"--filter: {value!r} is no regular expression: {error}") from None


def _has_label(attrs: Mapping[str, Any], text: str) -> bool:
    labels = attrs["Config"]["Labels"]
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _exited_with(attrs: Mapping[str, Any], code: str) -> bool:
    state = attrs["State"]
    return bool(state["Status"] == "exited" and state["ExitCode"] == int(code))


def _is_of(attrs: Mapping[str, Any], image: str) -> bool:
    return image in (attrs["Image"], attrs["Config"]["Image"])


_MATCH: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "ancestor": _is_of,
    "exited": _exited_with,
    "id": lambda attrs, pattern: re.search(pattern, attrs["Id"]) is not None,
    "label": _has_label,
    "name": lambda attrs, pattern: re.search(pattern, attrs["Name"].removeprefix("/")) is not None,
    "status": lambda attrs, status: bool(attrs["State"]["Status"] == status),
}
