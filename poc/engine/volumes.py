"""Volumes: directories that outlive containers, shared by them, filled from the image on their first use.

    <data>/volumes/<name>/volume.json   written last: with it the volume exists
                          _data/        what is in it
                          users/<id>    one for each container that was made with it, made before that exists
                          _fill.tmp/    being copied from the image; _fill: complete, on its way into _data

One lock per volume: an flock(2) on its directory, held by whoever makes, fills or removes it. A container is a user for
as long as it exists, is being made or removed: a file in users that a killed command left counts for nothing. A volume
is filled when it is empty, as docker does it: what the image has is copied beside it, and moved when that is complete,
so that whoever comes after a killed command either copies again or goes on moving.

Anonymous volumes go with their container where it is removed with them. Their names are in the file `ANONYMOUS` of
the container's directory before they are made, and taken out of it where they are to stay.
"""

from __future__ import annotations

import os
import time

from poc import _fs
from poc.engine import events, filling, mounts
from poc.engine.matching import has_label
from poc.engine.sizes import tree_size
from poc.engine.store import Lock, listed, read_optional
from poc.engine.values import parse_labels
from poc.errors import Conflict, InvalidArgument, VolumeNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from poc.engine import Engine
    from poc.engine.store import Paths

    Names = list[str]  # `list` is a method below

ANONYMOUS_LABEL = "com.docker.volume.anonymous"  # docker's, since 23: by it tools and prune know them
_PATIENCE = 600.0  # seconds: another command may be copying a large image


class Volume:
    """One volume. docker-py's words: ``name``, ``id``, ``attrs``, `remove`, `reload`."""

    __slots__ = ("_directory", "_paths", "_record", "name")

    def __init__(self, paths: Paths, record: dict[str, Any]) -> None:
        self._paths = paths
        self._record = record
        self.name: str = record["name"]
        self._directory = paths.volume(self.name)

    def __repr__(self) -> str:
        return f"<Volume {self.name}>"

    @property
    def id(self) -> str:
        """The name, as in docker."""
        return self.name

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._record["labels"])

    @property
    def options(self) -> dict[str, str]:
        """The driver's: type, device, o; {} for a plain directory."""
        return dict(self._record["options"])

    @property
    def anonymous(self) -> bool:
        """Has nobody given it a name?"""
        return ANONYMOUS_LABEL in self._record["labels"]

    @property
    def mountpoint(self) -> str:
        return f"{self._directory}/_data"

    @property
    def source(self) -> str:
        """The directory to be bound: its own, or the host's that it stands for."""
        return self.options["device"] if mounts.is_bound(self.options) else self.mountpoint

    @property
    def attrs(self) -> dict[str, Any]:
        """docker's ``volume inspect`` object."""
        from poc.engine.logs import timestamp

        return {
            "CreatedAt": timestamp(self._record["created"]).partition(".")[0] + "Z",  # docker's has no fraction here
            "Driver": "local",
            "Labels": self.labels or None,
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": self.options or None,
            "Scope": "local",
        }

    def usage(self) -> dict[str, int]:
        """docker's UsageData: ``Size`` in bytes and ``RefCount``, of how many containers it is."""
        return {"Size": tree_size(self.mountpoint), "RefCount": len(self.users())}

    def users(self) -> Names:
        """The ids of the containers made with it, whether they run or not."""
        found = []
        for id in listed(f"{self._directory}/users"):
            if _exists(self._paths, id):
                found.append(id)
            else:
                _fs.remove_file(f"{self._directory}/users/{id}")
        return sorted(found)

    def reload(self) -> None:
        """Look again whether it is there. Raises VolumeNotFound."""
        self._record = read(self._paths, self.name)

    def remove(self, force: bool = False) -> None:
        """Delete it with what is in it. Raises Conflict when a container has it; VolumeNotFound, unless ``force``."""
        try:
            with take(self._paths, self.name):
                self._record = read(self._paths, self.name)
                if users := self.users():
                    raise Conflict(f"remove {self.name}: volume is in use - [{', '.join(users)}]")
                self._delete()
        except VolumeNotFound:
            if not force:
                raise

    def _delete(self) -> None:
        """The lock is held. Without its file it does not exist any more, so that goes first."""
        _fs.remove_file(f"{self._directory}/volume.json")
        if mounts.is_bound(self.options):
            _fs.remove_tree(self._staging)
            _fs.remove_tree(f"{self._staging}.tmp")
        _fs.remove_tree(self._directory)
        events.emit(self._paths, "volume", "destroy", self.name, driver="local")

    # ── filling it ───────────────────────────────────────────────────────────────────────────────────

    @property
    def _staging(self) -> str:
        """Where what the image has is put together: in the file system of the volume, as it is renamed into it."""
        return f"{self.source}/.poc-fill" if mounts.is_bound(self.options) else f"{self._directory}/_fill"

    def fill(self, layers: Sequence[str], destination: str) -> None:
        """If it is empty: copy what an image (its layers, lowest first) has at ``destination``. The lock is held."""
        staging, copy = self._staging, f"{self._staging}.tmp"
        _fs.remove_tree(copy)
        if not os.path.exists(staging):
            if os.listdir(self.source):
                return
            os.mkdir(copy, 0o700)
            try:
                if not self._copy(layers, destination, copy):
                    return
                os.rename(copy, staging)
            finally:
                _fs.remove_tree(copy)
        filling.move(staging, self.source)

    def _copy(self, layers: Sequence[str], destination: str, to: str) -> bool:
        try:
            if len(layers) == 1:
                return filling.copy_from(layers[0], destination, to)
            view = f"{self._directory}/_view"
            os.makedirs(view, 0o700, exist_ok=True)
            try:
                return filling.in_child(lambda: filling.copy_merged(layers, view, destination, to))
            finally:
                os.rmdir(view)
        except OSError as error:
            where = f": {error.filename!s:.200}" if error.filename else ""
            reason = f"fill volume {self.name} from {destination:.200} of the image{where}: {filling.reason(error)}"
            raise OSError(error.errno, reason) from None
        except RecursionError:
            raise InvalidArgument(f"fill volume {self.name}: the image's directories are nested too deep") from None


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────


def _exists(paths: Paths, id: str) -> bool:
    """Is there this container, or is it being made or removed? What a killed command left of one does not count."""
    if paths.has(id):
        return True
    try:
        lock = Lock.take(paths.container(id), patience=0.0)
    except FileNotFoundError:
        return False
    if lock is not None:
        lock.release()
    return lock is None


def take(paths: Paths, name: str, make: bool = False) -> Lock:
    """The lock of a volume; with ``make`` its directory is made. Raises VolumeNotFound and Conflict."""
    directory = paths.volume(name)
    while True:
        if make:
            for place in (paths.volumes, directory):
                os.makedirs(place, 0o700, exist_ok=True)
        try:
            lock = Lock.take(directory, _PATIENCE)
        except FileNotFoundError:
            if make:
                continue  # removed just now
            raise VolumeNotFound(name) from None
        if lock is None:
            raise Conflict(f"volume {name} is being used by another command")
        return lock


def read(paths: Paths, name: str) -> dict[str, Any]:
    record = read_optional(f"{paths.volume(name)}/volume.json")
    if not record:
        raise VolumeNotFound(name)
    return record


def establish(paths: Paths, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
    """The volume of this name, made if there is none; its lock is held. Raises Conflict."""
    try:
        volume = Volume(paths, read(paths, name))
    except VolumeNotFound:
        return _make(paths, name, options, labels)
    if options and dict(options) != volume.options:
        raise Conflict(f"volume {name} exists with other options: {volume.options or 'none'}")
    return volume


def _make(paths: Paths, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
    directory = paths.volume(name)
    for left in os.listdir(directory):
        _fs.remove_tree(f"{directory}/{left}")  # by a command that was killed while it made or removed one
    for part, mode in (("_data", 0o755), ("users", 0o700)):
        os.mkdir(f"{directory}/{part}", mode)
        os.chmod(f"{directory}/{part}", mode)  # whatever the caller's umask
    record = {"name": name, "created": time.time(), "options": dict(options), "labels": dict(labels)}
    _fs.write_json(f"{directory}/volume.json", record, sync=True)
    events.emit(paths, "volume", "create", name, driver="local")
    return Volume(paths, record)


class Volumes:
    """All volumes of an engine."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str | None = None,
        driver: str = "local",
        driver_opts: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or take the one of that name; without a name an anonymous one.

        ``driver_opts``: type, device and o of mount(8), for a tmpfs or a directory (type=none, o=bind). Raises
        InvalidArgument, Unsupported, and Conflict when there is one with other options.
        """
        mounts.check_driver(driver, driver_opts or {})
        if name:
            mounts.check_name(name)
        given = {**parse_labels(labels or {}), **({} if name else {ANONYMOUS_LABEL: ""})}
        paths, name = self._engine.paths, name or os.urandom(32).hex()
        with paths.share(), take(paths, name, make=True):
            return establish(paths, name, driver_opts or {}, given)

    def get(self, name: str) -> Volume:
        """The volume of this name. Raises VolumeNotFound."""
        if not name or "/" in name or "\0" in name or len(name) > 255:
            raise VolumeNotFound(name)
        return Volume(self._engine.paths, read(self._engine.paths, name))

    def list(self, filters: Mapping[str, Any] | None = None) -> list[Volume]:
        """The volumes by name. ``filters``: dangling, driver, label, name, each a value or several.

        Raises InvalidArgument.
        """
        wanted = _filters(filters, ("dangling", "driver", "label", "name"))
        found = []
        for name in sorted(listed(self._engine.paths.volumes)):
            try:
                volume = self.get(name)
            except VolumeNotFound:
                self._clear(name)
                continue
            if _matches(volume, wanted):
                found.append(volume)
        return found

    def _clear(self, name: str) -> None:
        """What a command left that was killed while it made or removed a volume."""
        directory = self._engine.paths.volume(name)
        try:
            if (lock := Lock.take(directory, patience=0.0)) is not None:
                with lock:
                    if not read_optional(f"{directory}/volume.json"):
                        _fs.remove_tree(directory)
        except OSError:
            pass  # somebody else's clean-up was first; or nobody can, and the next who makes one says why

    def prune(self, filters: Mapping[str, Any] | None = None, all: bool = False) -> dict[str, Any]:
        """Remove the anonymous volumes that no container has, with ``all`` named ones too.

        ``filters``: label, label!, all. Returns docker's ``{"VolumesDeleted": names, "SpaceReclaimed": bytes}``.
        """
        wanted = _filters(filters, ("all", "label", "label!"))
        everything = all or any(_truth("all", value) for value in wanted.pop("all", ()))
        names, space = [], 0
        for volume in self.list():
            if not (everything or volume.anonymous) or not _matches(volume, wanted):
                continue
            size = tree_size(volume.mountpoint)
            try:
                volume.remove()
            except (Conflict, VolumeNotFound):
                continue  # a container has it, or another command was first
            names.append(volume.name)
            space += size
        if names:
            events.emit(self._engine.paths, "volume", "prune", "", reclaimed=space)
        return {"VolumesDeleted": names, "SpaceReclaimed": space}


def parse_filters(texts: Iterable[str]) -> dict[str, Names]:
    """``KEY=VALUE`` texts for `Volumes.list` and `Volumes.prune`. Raises InvalidArgument."""
    filters: dict[str, Names] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidArgument(f"--filter: {text!r:.100} is not KEY=VALUE")
        filters.setdefault(key, []).append(value)
    return filters


def _filters(given: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Names]:
    """Each filter as texts. Raises InvalidArgument."""
    result = {}
    for key, value in (given or {}).items():
        if key not in known:
            raise InvalidArgument(f"invalid filter {key!r:.60}; there are {', '.join(known)}")
        values = value if isinstance(value, (list, tuple)) else [value]
        result[key] = [str(each) for each in values]
        if key == "dangling":
            for each in result[key]:
                _truth(key, each)
    return result


def _truth(key: str, text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"invalid filter '{key}={text:.60}'; it takes true or false")


def _matches(volume: Volume, filters: Mapping[str, Names]) -> bool:
    """Values of one key are alternatives; labels must all be there (docker's `filters.Args`)."""
    labels = volume.labels
    checks: dict[str, Callable[[str], bool]] = {
        "dangling": lambda text: _truth("dangling", text) != bool(volume.users()),
        "driver": lambda text: text == "local",
        "label": lambda text: has_label(labels, text),
        "label!": lambda text: not has_label(labels, text),
        "name": lambda text: text in volume.name,
    }
    return all(
        (all if key.startswith("label") else any)(checks[key](text) for text in texts) for key, texts in filters.items()
    )
