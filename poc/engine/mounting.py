"""The mounts of one container: decided and provided when it is made, looked at when it starts, let go of with it."""

from __future__ import annotations

import os

from poc import _fs, _libc, rootfs
from poc.engine import events, filling, mounts
from poc.engine.recovery import ANONYMOUS
from poc.engine.store import listed, read_optional
from poc.engine.volumes import ANONYMOUS_LABEL, Volume, establish, read, take
from poc.errors import Conflict, ContainerNotFound, InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from poc.engine import Engine
    from poc.engine.config import ContainerConfig
    from poc.engine.mounts import Point
    from poc.engine.store import Paths
    from poc.images import Image
    from poc.oci.types import Spec

_SELINUX = "/sys/fs/selinux/enforce"


def provide(engine: Engine, id: str, config: ContainerConfig, image: Image) -> list[Point]:
    """Decide what a container that is being made has mounted, and make what is not there: volumes, directories.

    Raises PocError and OSError.
    """
    inherited = [point for wish in config.volumes_from for point in _points_of(engine, wish)]
    points = mounts.plan(config.values, image.config.get("Volumes") or {}, inherited)
    known = {point["name"] for point in inherited}
    for point in points:
        if point["type"] == "volume" and not point["name"]:
            point["name"] = os.urandom(32).hex()
    if anonymous := [point["name"] for point in points if point["anonymous"]]:
        _fs.write_json(engine.paths.container(id, ANONYMOUS), anonymous)
    _refuse_labels(config)
    for point in points:
        if point["type"] == "volume":
            _provide_volume(engine.paths, id, point, image.layers, make=point["name"] not in known)
        elif point["type"] == "bind":
            _provide_directory(point)
    return points


def _points_of(engine: Engine, wish: dict[str, Any]) -> list[Point]:
    id = engine.paths.find(wish["container"])
    record = read_optional(engine.paths.container(id, "container.json"))
    if not record:
        raise ContainerNotFound(wish["container"])
    return mounts.shared(record.get("mounts", ()), wish["mode"])


def _refuse_labels(config: ContainerConfig) -> None:
    """z and Z ask for an SELinux label, which is nothing where there is no SELinux."""
    wanted = {word for wish in [*config.volumes, *config.volumes_from] for word in wish["mode"].split(",")}
    if wanted & {"z", "Z"} and os.path.exists(_SELINUX):
        raise Unsupported("z, Z: poc can't give files SELinux labels; use chcon(1), and leave it out")


def _provide_directory(point: Point) -> None:
    source = point["source"]
    try:
        os.stat(source)
    except FileNotFoundError:
        if not point["create"]:
            reason = f"bind source path does not exist: {source:.200}"
            raise InvalidArgument(f'invalid mount config for type "bind": {reason}') from None
        _make_directories(source)
    except OSError as error:
        raise OSError(error.errno, f"bind source {source:.200}: {filling.reason(error)}") from None


def _make_directories(path: str) -> None:
    """Not `os.makedirs`, which goes down as deep as the path does."""
    place = ""
    for name in path.split("/")[1:]:
        place += f"/{name}"
        try:
            os.mkdir(place, 0o755)
            os.chmod(place, 0o755)  # whatever the caller's umask
        except FileExistsError:
            continue  # as most of them
        except OSError as error:
            raise OSError(error.errno, f"mkdir {place:.200}: {filling.reason(error)}") from None


def _provide_volume(paths: Paths, id: str, point: Point, layers: Sequence[str], make: bool) -> None:
    labels = {**point["labels"], ANONYMOUS_LABEL: ""} if point["anonymous"] else point["labels"]
    with take(paths, point["name"], make):
        if not make:
            read(paths, point["name"])
        volume = establish(paths, point["name"], point["driver_opts"], labels)
        point["source"], point["driver_opts"] = volume.source, volume.options
        _fs.write_atomic(f"{paths.volume(volume.name)}/users/{id}", "")
        if volume.options and not mounts.is_bound(volume.options):
            return  # a tmpfs, new for each run
        if not os.path.isdir(volume.source):
            raise InvalidArgument(f"volume {volume.name}: its device {volume.source:.200} is no directory")
        if not point["nocopy"] and not point["subpath"]:
            volume.fill(layers, point["destination"])


def release(paths: Paths, id: str, points: Iterable[Point]) -> None:
    """A container that is being deleted lets go of its volumes; those in its file `ANONYMOUS` go with it."""
    doomed: Any = read_optional(paths.container(id, ANONYMOUS)) or ()
    for name in {*doomed, *(point["name"] for point in points if point["type"] == "volume")}:
        _fs.remove_file(f"{paths.volume(name)}/users/{id}")
    for name in doomed:
        try:
            Volume(paths, {"name": name, "options": {}, "labels": {}}).remove(force=True)
        except Conflict:
            pass  # another container has it by --volumes-from


# ── at its start ─────────────────────────────────────────────────────────────────────────────────────────


def prepare(paths: Paths, id: str, spec: Spec, points: Sequence[Point]) -> tuple[Spec, dict[str, int]]:
    """The OCI configuration as its mounts need it now, and detached mounts by what it has as their source.

    The caller closes those. Raises PocError and OSError.
    """
    spec = {**spec, "linux": {**spec["linux"]}, "mounts": [{**entry} for entry in spec["mounts"]]}
    if wanted := mounts.propagation(points):
        spec["linux"]["rootfsPropagation"] = wanted
    trees: dict[str, int] = {}
    try:
        for point in points:
            if point["type"] == "bind":
                _provide_directory(point)
                _check_propagation(point)
            elif point["type"] == "volume":
                _refuse_second_tmpfs(paths, id, point)
            if point["subpath"]:
                source = f"{point['name']} for {point['destination']}"
                trees[source] = _open_subpath(point)
                _entry(spec, point)["source"] = source
    except BaseException:
        for tree in trees.values():
            os.close(tree)
        raise
    return spec, trees


def _entry(spec: Spec, point: Point) -> Any:
    return next(entry for entry in spec["mounts"] if entry["destination"] == point["destination"])


def _open_subpath(point: Point) -> int:
    """By descriptor, as whoever else has the volume could put a link in its place (CVE-2021-25741)."""
    root = os.open(point["source"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = rootfs.open_in_root(root, point["subpath"])
        try:
            return _libc.open_tree("", recursive=True, directory=place)
        finally:
            os.close(place)
    except OSError as error:
        text = f"volume {point['name']}: subpath {point['subpath']:.200}: {filling.reason(error)}"
        raise OSError(error.errno, text) from None
    finally:
        os.close(root)


def _check_propagation(point: Point) -> None:
    """Nothing propagates from a private mount, nor to one (docker's check). Raises InvalidArgument."""
    kind = point["propagation"].removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    place, tags = _mount_of(os.path.realpath(point["source"]))
    if "shared" in tags or (kind == "slave" and "master" in tags):
        return
    needed = "a shared mount" if kind == "shared" else "a shared or slave mount"
    raise InvalidArgument(f"path {point['source']:.200} is mounted on {place:.200} but it is not {needed}")


def _mount_of(path: str) -> tuple[str, set[str]]:
    """Where the mount is on which a path lies, and the kinds of its tags: shared, master (proc_pid_mountinfo(5))."""
    found = ("/", set[str]())
    for line in _fs.read_text("/proc/self/mountinfo").splitlines():
        fields = line.partition(" - ")[0].split(" ")
        place = _fs.unescape_mountinfo(fields[4])
        if (path == place or path.startswith(place.rstrip("/") + "/")) and len(place) >= len(found[0]):
            found = place, {tag.partition(":")[0] for tag in fields[6:]}
    return found


def _refuse_second_tmpfs(paths: Paths, id: str, point: Point) -> None:
    """Two runs would each have a tmpfs of their own, where docker's share one. Raises Conflict."""
    if not point["driver_opts"] or mounts.is_bound(point["driver_opts"]):
        return
    for other in listed(f"{paths.volume(point['name'])}/users"):
        state = read_optional(paths.runtime(other, "state.json"))
        if other != id and _fs.is_alive(state.get("monitor")):
            raise Conflict(f"volume {point['name']} is a tmpfs, and in use by {other[:12]}: poc can't share it")


def emit(paths: Paths, id: str, points: Iterable[Point], action: str) -> None:
    """Note that the volumes of a container are mounted (docker's mount) or not any more (unmount)."""
    for point in points:
        if point["type"] == "volume":
            said = {"container": id, "driver": "local"}
            if action == "mount":
                said |= {
                    "destination": point["destination"],
                    "propagation": point["propagation"],
                    "read/write": str(not point["readonly"]).lower(),
                }
            events.emit(paths, "volume", action, point["name"], **said)
