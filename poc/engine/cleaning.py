"""What nobody needs any more, removed: stopped containers, images without a name or without a container.

Not to be mixed up with `poc.engine.prune`, which takes away everything that poc has made.
"""

from __future__ import annotations

from poc.engine import events, recovery
from poc.engine.matching import has_label, pairs
from poc.engine.times import parse_time
from poc.errors import Conflict, InvalidArgument, NotFound, PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from typing import Any

    from poc.engine import Engine

    Filters = Mapping[str, str | Iterable[str]] | Iterable[str]
    Pruned = dict[str, Any]


class Wanted:
    """docker's filters of what is to go: ``until``, ``label`` and ``label!``."""

    __slots__ = ("_labels", "_unwanted", "until")

    def __init__(self, filters: Filters, more: Iterable[str] = ()) -> None:
        """``more``: keys that are somebody else's. Raises InvalidArgument."""
        self.until: int | None = None
        self._labels: list[str] = []
        self._unwanted: list[str] = []
        for key, value in pairs(filters):
            if key == "until":
                self.until = parse_time(value, "--filter until")
            elif key == "label":
                self._labels.append(value)
            elif key == "label!":
                self._unwanted.append(value)
            elif key not in more:
                known = ", ".join(sorted(("label", "label!", "until", *more)))
                raise InvalidArgument(f"--filter: {f'{key}={value}'!r} is not KEY=VALUE with a key of {known}")

    def takes(self, created: float | str | datetime, labels: Mapping[str, str]) -> bool:
        """Is something of this time (as `parse_time` reads it), with these labels, to go?"""
        if self.until is not None and parse_time(created) > self.until:
            return False
        return all(has_label(labels, text) for text in self._labels) and not any(
            has_label(labels, text) for text in self._unwanted
        )


def prune_containers(engine: Engine, filters: Filters = ()) -> Pruned:
    """Remove those that don't run. Returns docker's ``{"ContainersDeleted": ids, "SpaceReclaimed": bytes}``."""
    wanted = Wanted(filters)
    recovery.recover_all(engine)
    ids, space = [], 0
    for container in engine.containers.list(all=True):
        if container.status not in ("created", "exited") or not wanted.takes(container.created, container.labels):
            continue
        try:
            size = container.sizes()[0]
            container.remove()
        except (Conflict, NotFound):
            continue  # started, or removed, meanwhile
        ids.append(container.id)
        space += size
    if ids:
        events.emit(engine.paths, "container", "prune", "", reclaimed=space)
    return {"ContainersDeleted": ids, "SpaceReclaimed": space}


def prune_images(engine: Engine, all: bool = False, filters: Filters = ()) -> Pruned:
    """Remove those without a name; with ``all``, or the filter dangling=false, all that no container was made from.

    Returns docker's ``{"ImagesDeleted": [{"Untagged": reference} or {"Deleted": id}], "SpaceReclaimed": bytes}``.
    """
    wanted = Wanted(filters, ("dangling",))
    for value in (value for key, value in pairs(filters) if key == "dangling"):
        if value not in ("true", "false", "1", "0"):
            raise InvalidArgument(f"--filter: dangling is true or false, not {value!r}")
        all = value in ("false", "0")
    done: list[dict[str, str]] = []
    space = 0
    for image in engine.images.list():
        labels = image.config.get("Labels") or {}
        if (image.references and not all) or not wanted.takes(image.created, labels) or engine.images.users(image.id):
            continue
        try:
            names, ids = engine.images.remove(image.id, force=True)
        except (PocError, FileNotFoundError):
            continue  # a container has come, or another command was first
        done += [{"Untagged": name} for name in names] + [{"Deleted": id} for id in ids]
        space += image.size if ids else 0
    if done:
        events.emit(engine.paths, "image", "prune", "", reclaimed=space)
    return {"ImagesDeleted": done, "SpaceReclaimed": space}


def prune_unused(engine: Engine, all: bool = False, volumes: bool = False, filters: Filters = ()) -> Pruned:
    """`docker system prune`: containers, then images, with ``volumes`` anonymous ones. What they return, in one."""
    wanted = Wanted(filters)
    if volumes and wanted.until is not None:
        raise InvalidArgument('--filter: "until" is not supported together with --volumes')
    parts = [prune_containers(engine, filters)]
    if volumes:
        by_label = [(key, value) for key, value in pairs(filters) if key.startswith("label")]
        keys = dict.fromkeys(key for key, _ in by_label)
        parts.append(engine.volumes.prune(filters={key: [v for k, v in by_label if k == key] for key in keys}))
    parts.append(prune_images(engine, all, filters))
    found = {key: value for part in parts for key, value in part.items()}
    return {"VolumesDeleted": [], **found, "SpaceReclaimed": sum(part["SpaceReclaimed"] for part in parts)}
