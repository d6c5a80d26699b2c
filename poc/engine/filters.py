"""Which containers a listing shows: docker's ``--filter KEY=VALUE``, as pure functions over inspect's attributes.

Values of one key are alternatives, keys must all match; only labels must all be there (docker's `filters.Args`).
"""

from __future__ import annotations

import re

from poc.engine.matching import has_label, pairs
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Attrs = Mapping[str, Any]

STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
HEALTH = ("none", "starting", "healthy", "unhealthy")
_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_filters(wanted: Mapping[str, str | Iterable[str]] | Iterable[str]) -> dict[str, list[str]]:
    """``["status=exited", …]`` or ``{"status": "exited"}`` as values by key.

    Raises InvalidArgument for what no container could be asked.
    """
    filters: dict[str, list[str]] = {}
    for key, value in pairs(wanted, _pair):
        if key not in _MATCH:
            raise _unknown(f"{key}={value}")
        _check(key, value)
        filters.setdefault(key, []).append(value)
    return filters


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise _unknown(text)
    return key.strip().lower(), value.strip()


def _unknown(text: str) -> InvalidArgument:
    return InvalidArgument(f"--filter: {text!r} is not KEY=VALUE with a key of {', '.join(sorted(_MATCH))}")


def resolve(
    filters: Mapping[str, list[str]], image_id: Callable[[str], str | None], created: Callable[[str], str]
) -> dict[str, list[str]]:
    """The same with what other objects' names stand for.

    ``image_id`` finds the id of an image by any of its names, or None; ``created`` when a container was created.
    """
    result = dict(filters)
    if "ancestor" in filters:
        result["ancestor"] = [image_id(value) or value for value in filters["ancestor"]]
    for key in ("before", "since"):
        if key in filters:
            result[key] = [created(value) for value in filters[key]]
    return result


def matches(attrs: Attrs, filters: Mapping[str, list[str]]) -> bool:
    """Whether a container is shown, by filters that are resolved."""
    return all(
        (all if key == "label" else any)(_MATCH[key](attrs, value) for value in values)
        for key, values in filters.items()
    )


def _check(key: str, value: str) -> None:
    if key == "status" and value not in STATES:
        raise InvalidArgument(f"--filter: {value!r} is no status; there are {', '.join(STATES)}")
    if key == "health" and value not in HEALTH:
        raise InvalidArgument(f"--filter: {value!r} is no state of health; there are {', '.join(HEALTH)}")
    if key == "exited" and not value.isdigit():
        raise InvalidArgument(f"--filter: exited takes an exit code, not {value!r}")
    if key == "is-task" and value not in ("true", "false", "1", "0"):
        raise InvalidArgument(f"--filter: is-task is true or false, not {value!r}")
    if key in ("publish", "expose"):
        _ports(value)
    if key in ("name", "id"):
        try:
            re.compile(value)
        except re.error as error:
            raise InvalidArgument(f"--filter: {value!r} is no regular expression: {error}") from None


def _ports(text: str) -> list[str]:
    """``80``, ``80/udp``, ``8000-8010/tcp`` as the keys that inspect has for ports. Raises InvalidArgument."""
    numbers, _, protocol = text.partition("/")
    first, _, last = numbers.partition("-")
    last, protocol = last or first, protocol or "tcp"
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 65536 and protocol in _PROTOCOLS):
        raise InvalidArgument(f"--filter: {text!r} is not PORT[-PORT][/PROTOCOL]")
    return [f"{number}/{protocol}" for number in range(int(first), int(last) + 1)]


def _has_label(attrs: Attrs, text: str) -> bool:
    return has_label(attrs["Config"]["Labels"], text)


def _exited_with(attrs: Attrs, code: str) -> bool:
    state = attrs["State"]
    return bool(state["Status"] == "exited" and state["ExitCode"] == int(code))


def _is_of(attrs: Attrs, image: str) -> bool:
    return image in (attrs["Image"], attrs["Config"]["Image"])


def _is_named(attrs: Attrs, pattern: str) -> bool:
    name = attrs["Name"]
    return any(re.search(pattern, form) for form in (name, name.removeprefix("/")))


def _has_mount(attrs: Attrs, text: str) -> bool:
    return any(text in (mount.get("Name") or mount["Source"], mount["Destination"]) for mount in attrs["Mounts"])


def _is_connected(attrs: Attrs, text: str) -> bool:
    networks = attrs["NetworkSettings"]["Networks"]
    return text in networks or any(text and text == network.get("NetworkID") for network in networks.values())


def _publishes(attrs: Attrs, text: str) -> bool:
    published = attrs["NetworkSettings"]["Ports"] or {}
    return any(published.get(port) for port in _ports(text))


def _exposes(attrs: Attrs, text: str) -> bool:
    exposed = {**(attrs["Config"].get("ExposedPorts") or {}), **(attrs["NetworkSettings"]["Ports"] or {})}
    return any(port in exposed for port in _ports(text))


def _has_health(attrs: Attrs, health: str) -> bool:
    return bool(((attrs["State"].get("Health") or {}).get("Status") or "none") == health)


_MATCH: dict[str, Callable[[Attrs, str], bool]] = {
    "ancestor": _is_of,
    "before": lambda attrs, created: bool(attrs["Created"] < created),
    "exited": _exited_with,
    "expose": _exposes,
    "health": _has_health,
    "id": lambda attrs, pattern: re.search(pattern, attrs["Id"]) is not None,
    "is-task": lambda attrs, value: value in ("false", "0"),  # a task is swarm's, and there is none
    "label": _has_label,
    "name": _is_named,
    "network": _is_connected,
    "publish": _publishes,
    "since": lambda attrs, created: bool(attrs["Created"] > created),
    "status": lambda attrs, status: bool(attrs["State"]["Status"] == status),
    "volume": _has_mount,
}
