"""What has happened, read from the lines of `poc.engine.events`: the past, then what happens from now on."""

from __future__ import annotations

import os
import time

from poc._lean import json
from poc.engine import events
from poc.engine.matching import has_label, pairs
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from typing import Any

    from poc.engine.store import Paths

    Event = dict[str, Any]

_POLL_INTERVAL = 0.05  # seconds between two looks for something new
_CHUNK = 1 << 18


def last_action(paths: Paths, id: str, actions: Collection[str]) -> str:
    """Which of these has happened to the object with this id last; "" when none has, or it is forgotten."""
    for path in reversed(_files(paths)):
        try:
            with open(path, "rb") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            continue  # rotated meanwhile
        for line in reversed(lines):
            if id.encode() in line and (event := decode(line)) and event["Actor"]["ID"] == id:
                action: str = event["Action"]
                if action in actions:
                    return action
    return ""


def decode(line: bytes) -> Event:
    """An event, {} for an empty line or one that was cut off."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "timeNano" in event else {}


def _files(paths: Paths) -> list[str]:
    """All there are, the oldest first."""
    directory = f"{paths.data}/events"
    try:
        full = events.numbers(directory)
    except FileNotFoundError:
        return []
    return [*(f"{directory}/log.{number}" for number in full), f"{directory}/log"]


# ── reading on ───────────────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads events in the order in which they were written, through as many files as there are.

    Begins with the oldest known one, or ``anew`` with what is written from now on.
    """

    __slots__ = ("_fd", "_paths", "_pending")

    def __init__(self, paths: Paths, anew: bool = False) -> None:
        self._paths = paths
        self._pending = b""
        self._fd = -1
        if anew:
            self._open(reversed(_files(paths)))
            if self._fd >= 0:
                os.lseek(self._fd, 0, os.SEEK_END)
        else:
            self._open(_files(paths))

    def read(self) -> list[Event]:
        """Those that have been written since the last call; may be none although there are more: see `ended`."""
        if self._fd < 0:
            self._open(_files(self._paths))
        data = os.read(self._fd, _CHUNK) if self._fd >= 0 else b""
        if not data:
            return []
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        return [event for line in lines if (event := decode(line))]

    def ended(self) -> bool:
        """After a `read` that found nothing: is this all there is? If not, the next `read` goes on in the next file."""
        if self._fd < 0:
            return True
        files = [(path, _stat(path)) for path in _files(self._paths)]
        ours = os.fstat(self._fd)
        places = [place for place, (_, entry) in enumerate(files) if entry and os.path.samestat(entry, ours)]
        if places and places[0] == len(files) - 1:
            return True
        if os.lseek(self._fd, 0, os.SEEK_CUR) < ours.st_size:
            return False  # it was full by then, but not when `read` looked
        if not places and ours.st_nlink:
            return False  # it was renamed just now
        after = [path for path, entry in files[places[0] + 1 if places else 0 :] if entry]
        if not after:
            return True
        self._open(after)
        return False

    def _open(self, candidates: Iterable[str]) -> None:
        """The first that there is, if there is any."""
        for path in candidates:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # removed meanwhile
            self.close()
            self._fd, self._pending = fd, b""
            return

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


class Events:
    """An iterator over events, as dictionaries of docker's keys; `close` lets go of it, as does the end of a ``with``.

    What happens once it is made is not missed, whenever it is asked for the first one.
    """

    __slots__ = ("_filters", "_follow", "_reader", "_since", "_stream", "_until")

    def __init__(
        self, paths: Paths, since: int | None, until: int | None, filters: Mapping[str, list[str]], follow: bool
    ) -> None:
        """``since`` and ``until`` are nanoseconds; without either only what happens from now on is told."""
        self._reader = Reader(paths, anew=follow and since is None and until is None)
        self._since, self._until, self._filters = since or 0, until, filters
        self._follow = follow
        self._stream = self._read()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._stream)

    def _read(self) -> Iterator[Event]:
        while True:
            # Looked at before the file is: what happens until then is read.
            over = not self._follow or (self._until is not None and time.time_ns() > self._until)
            found = self._reader.read()
            yield from (event for event in found if self._wanted(event))
            if found or not self._reader.ended():
                continue
            if over:
                return
            time.sleep(_POLL_INTERVAL)

    def _wanted(self, event: Event) -> bool:
        when: int = event["timeNano"]
        if when < self._since or (self._until is not None and when > self._until):
            return False
        return matches(event, self._filters)

    def close(self) -> None:
        """No more is read."""
        self._stream.close()  # type: ignore[attr-defined]
        self._reader.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._reader.close()


# ── docker's filters ─────────────────────────────────────────────────────────────────────────────────


def parse_filters(wanted: Mapping[str, str | Iterable[str]] | Iterable[str]) -> dict[str, list[str]]:
    """``{"type": "container"}`` or ``["type=container"]`` as values by key. Raises InvalidArgument."""
    filters: dict[str, list[str]] = {}
    for key, value in pairs(wanted):
        if key not in _MATCH or not value:
            known = ", ".join(sorted(_MATCH))
            raise InvalidArgument(f"--filter: {f'{key}={value}'!r} is not KEY=VALUE with a key of {known}")
        filters.setdefault(key, []).append(value)
    return filters


def matches(event: Event, filters: Mapping[str, list[str]]) -> bool:
    """Values of one key are alternatives, keys must all match; only labels must all be there, as docker has it."""
    return all(
        (all if key == "label" else any)(_MATCH[key](event, value) for value in values)
        for key, values in filters.items()
    )


def _is_named(kind: str) -> Callable[[Event, str], bool]:
    """Is it about the object of this kind whose id or name begins so?"""

    def match(event: Event, value: str) -> bool:
        actor = event["Actor"]
        names = (actor["ID"], actor["Attributes"].get("name", ""))
        return event["Type"] == kind and any(name.startswith(value) for name in names)

    return match


def _is_of_image(event: Event, value: str) -> bool:
    actor = event["Actor"]
    name = actor["Attributes"].get("name" if event["Type"] == "image" else "image", "")
    return value in (actor["ID"], name, _without_tag(name))


def _without_tag(name: str) -> str:
    stem, _, tag = name.rpartition(":")
    return stem if stem and "/" not in tag else name


def _has_label(event: Event, value: str) -> bool:
    return has_label(event["Actor"]["Attributes"], value)


def _is_action(event: Event, value: str) -> bool:
    action: str = event["Action"]
    # These go on after a colon: with the command, or the state of health.
    return action == value or (
        value in ("exec_create", "exec_start", "health_status") and action.startswith(f"{value}:")
    )


_MATCH: dict[str, Callable[[Event, str], bool]] = {
    "container": _is_named("container"),
    "event": _is_action,
    "image": _is_of_image,
    "label": _has_label,
    "network": _is_named("network"),
    "scope": lambda event, value: bool(event["scope"] == value),
    "type": lambda event, value: bool(event["Type"] == value),
    "volume": _is_named("volume"),
}
