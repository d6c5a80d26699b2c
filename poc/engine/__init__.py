"""The engine: containers, images, volumes, networks of one store, in docker's words. There is no daemon behind it."""

from __future__ import annotations

from poc.engine.networks import Networks
from poc.engine.store import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from poc.engine.containers import Containers
    from poc.engine.doctor import Finding
    from poc.engine.history import Events
    from poc.engine.images import Images
    from poc.engine.volumes import Volumes

    Moment = str | float | datetime
    Progress = Callable[[str, int, int], object]


class Engine:
    """One store of containers, images, volumes and networks.

    ``root`` moves all of it to another directory, so that several stores can stand side by side; without it
    the environment variable POC_ROOT is used, and then /var/lib/poc and /run/poc. Needs root.
    """

    __slots__ = ("networks", "paths")

    def __init__(self, root: str | None = None) -> None:
        self.paths = Paths(root)
        self.networks: Networks = Networks(self.paths)

    @property
    def containers(self) -> Containers:
        """The containers: create, run, get, list."""
        from poc.engine.containers import Containers

        return Containers(self)

    @property
    def images(self) -> Images:
        """The images: get, list, remove, tag, make_base."""
        from poc.engine.images import Images

        return Images(self)

    @property
    def volumes(self) -> Volumes:
        """The volumes: create, get, list, prune."""
        from poc.engine.volumes import Volumes

        return Volumes(self)

    def init(
        self, source: str | None = None, argument: str | None = None, progress: Progress | None = None
    ) -> list[str]:
        """Make the base image, the directories and the bridge with its NAT; what is there is kept or repaired.

        Returns what a person should know, one line each. Raises PocError and OSError.
        """
        from poc.engine import recovery

        with self.paths.share():
            recovery.recover_all(self)
            image = self.images.make_base(source, argument, progress)
            self.networks.ensure()
        return [image.note] if image.note else []

    def events(
        self,
        since: Moment | None = None,
        until: Moment | None = None,
        filters: Mapping[str, str | Sequence[str]] | Sequence[str] = (),
        follow: bool = True,
    ) -> Events:
        """What happens, as dictionaries of docker's keys: from now on, or ``since`` a time; for ever, or ``until`` one.

        Times are a datetime, Unix seconds, RFC 3339 or "10m" (ago). Filters are docker's: container, event, image,
        label, network, scope, type, volume. Without ``follow`` only what has happened. Raises InvalidArgument.
        """
        from poc.engine.history import Events, parse_filters
        from poc.engine.times import parse_time

        begin = None if since is None else parse_time(since, "--since")
        end = None if until is None else parse_time(until, "--until")
        return Events(self.paths, begin, end, parse_filters(filters), follow)

    def inspect(self, name: str, type: str = "", size: bool = False) -> dict[str, Any]:
        """docker's description of the container, image, network or volume with this name; or only of that ``type``.

        ``size``: with what a container has written, in bytes. Raises NotFound, Conflict, InvalidArgument.
        """
        from poc.engine.lookup import inspect

        return inspect(self, name, type, size)

    def info(self) -> dict[str, Any]:
        """What there is, and what this host offers, in docker's words (``GET /info``)."""
        from poc.engine import system

        return system.info(self)

    def version(self) -> dict[str, Any]:
        """The versions of poc and of what it runs on: docker's ``{"Client": …, "Server": …}``."""
        from poc.engine import system

        return system.version()

    def df(self) -> dict[str, Any]:
        """How much room images, containers and volumes take, in bytes (docker's ``GET /system/df``)."""
        from poc.engine import system

        return system.df(self)

    def doctor(self) -> list[Finding]:
        """What this host offers and what lacks, with what stops working and how to mend it. Changes nothing."""
        from poc.engine.doctor import examine

        return examine(self.paths)

    def prune_unused(
        self, all: bool = False, volumes: bool = False, filters: Mapping[str, str | Sequence[str]] | Sequence[str] = ()
    ) -> dict[str, Any]:
        """Remove stopped containers, images without a name (``all``: without a container), with ``volumes`` anonymous
        ones too. Filters: until, label, label!. Returns ContainersDeleted, ImagesDeleted, VolumesDeleted (docker's
        words) and SpaceReclaimed, in bytes. Raises InvalidArgument.
        """
        from poc.engine.cleaning import prune_unused

        return prune_unused(self, all, volumes, filters)

    def prune(self, images: bool = False, volumes: bool = False) -> list[str]:
        """Remove everything poc made here: containers (running ones too), bridge, nftables table, state.

        With ``images`` the images as well, with ``volumes`` the volumes too. Returns what was removed, one line each.
        """
        from poc.engine.prune import prune

        return prune(self, images, volumes)
