"""What is mounted in a container: docker's ways to say it, and what they become. Pure: no file is looked at.

::

    -v, volumes=        {source, destination, readonly, propagation, nocopy, mode}  ┐
    --mount, mounts=    docker's Mount object {Type, Source, Target, …}             │ plan()      oci()
    --volumes-from      {container, mode}, and the points of that container         ├───────▶ points ───▶ OCI mounts
    the image           {"/data": {}}                                               ┘

A *point* is one mount of one container as it was decided when that was made; container.json keeps it. It has the keys
of `POINT`. ``--tmpfs`` has its own place beside them, as in docker.
"""

from __future__ import annotations

import os

from poc.engine.values import is_absolute, is_name, parse_size
from poc.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from poc.oci.types import Mount

    Wish = dict[str, Any]
    Point = dict[str, Any]

POINT: Point = {
    "type": "bind",  # or volume, tmpfs
    "name": "",  # of the volume; "" until there is one
    "anonymous": False,  # a volume nobody named: it goes with its container's -v or --rm
    "source": "",  # a path of the host; of a volume where its files are
    "destination": "",
    "mode": "",  # docker's word for -v's last part
    "readonly": False,
    "propagation": "",
    "recursive": "enabled",  # disabled: without what is mounted below; writable: that is not read-only
    "create": False,  # a source that is not there is made
    "nocopy": False,
    "subpath": "",
    "labels": {},  # of a volume that is made for it, and how
    "driver_opts": {},
    "options": "",  # of a tmpfs
}
PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
_CONSISTENCIES = ("consistent", "cached", "delegated", "default")
# The words of -v's last part; of each group there may be one (docker's volume/mounts/linux_parser.go).
_MODES = {
    **dict.fromkeys(("ro", "rw"), "access"),
    **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(_CONSISTENCIES[:3], "consistency"),
    **dict.fromkeys(PROPAGATIONS, "propagation"),
    "nocopy": "copy",
}
_TMPFS = ("noexec", "nosuid", "nodev")
_DRIVER_OPTIONS = ("type", "device", "o")

# ── -v ───────────────────────────────────────────────────────────────────────────────────────────────────


def parse_volumes(value: Iterable[str] | Mapping[str, Any]) -> list[Wish]:
    """``SOURCE:DESTINATION[:OPTIONS]``, ``NAME:DESTINATION[:OPTIONS]`` or ``DESTINATION``; or docker-py's dict.

    Raises InvalidArgument.
    """
    if not hasattr(value, "items"):
        return _unique([_parse_volume(entry) for entry in value])
    return [_volume(source, *_docker_py(source, bind), source) for source, bind in value.items()]


def _parse_volume(entry: str) -> Wish:
    parts = entry.split(":")
    if len(parts) > 3 or not all(parts):
        raise _invalid(entry, "write SOURCE:DESTINATION[:OPTIONS], NAME:DESTINATION[:OPTIONS] or DESTINATION")
    if len(parts) == 1:
        return _volume("", parts[0], "", entry)
    if len(parts) == 2 and _modes(parts[1]) is not None:
        raise _invalid(entry, "an anonymous volume has no options")
    return _volume(parts[0], parts[1], parts[2] if len(parts) == 3 else "", entry)


def _docker_py(source: str, bind: Any) -> tuple[str, str]:
    """Destination and mode of one value of docker-py's ``volumes``."""
    if isinstance(bind, str):
        return bind, ""
    if "bind" not in bind or bind.keys() - {"bind", "mode", "ro", "propagation"}:
        raise _invalid(source, "the keys of its value are bind, and mode or ro, and propagation")
    if "ro" in bind and "mode" in bind:
        raise _invalid(source, "ro and mode exclude each other")
    mode = bind.get("mode", "ro" if bind.get("ro") else "")
    return bind["bind"], ",".join(filter(None, (mode, bind.get("propagation"))))


def _volume(source: str, destination: str, mode: str, entry: str) -> Wish:
    target = normal(destination)
    if target is None:
        raise _invalid(entry, "the destination must be an absolute path other than /")
    words = _modes(mode)
    if words is None:
        raise _invalid(entry, f"invalid mode: {mode!r:.60}")
    bind = source.startswith(("/", "./", "../")) or source in (".", "..")
    if source and not bind:
        check_name(source)
    if "copy" in words and bind:
        raise _invalid(entry, "nocopy is for volumes: nothing is copied to a directory of the host")
    if "propagation" in words and not bind:
        raise _invalid(entry, f"{words['propagation']} is for directories of the host, not for volumes")
    if "\0" in source:
        raise _invalid(entry, "a path has no NUL character")
    return {
        "source": _clean(source) if bind else source,
        "destination": target,
        "readonly": words.get("access") == "ro",
        "propagation": words.get("propagation", ""),
        "nocopy": "copy" in words,
        "mode": mode,
    }


def _modes(text: str) -> dict[str, str] | None:
    """The words of a mode by their group; None when it is none."""
    words: dict[str, str] = {}
    for word in text.split(",") if text else ():
        group = _MODES.get(word)
        if group is None or group in words:
            return None
        words[group] = word
    return words


def _invalid(entry: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"invalid volume specification: {entry!r:.100}: {reason}")


def _unique(wishes: list[Wish]) -> list[Wish]:
    """Without anonymous volumes that were asked for twice: docker keeps those in a set."""
    kept: list[Wish] = []
    for wish in wishes:
        if wish["source"] or wish not in kept:
            kept.append(wish)
    return kept


def _clean(path: str) -> str:
    """As docker: relative paths from the working directory, dots and double slashes away, links left as they are."""
    path = os.path.abspath(path)
    return "/" + path.lstrip("/")


def normal(path: str) -> str | None:
    """An absolute path other than the root, without ``..``, ``//`` and the like; None if it is none."""
    normal = os.path.normpath(path).lstrip("/")  # which keeps two slashes at the beginning
    return f"/{normal}" if is_absolute(path) and normal else None


def check_name(name: str) -> None:
    """Raises InvalidArgument unless a volume can be called that (docker's local driver)."""
    if len(name) == 1:
        raise InvalidArgument(f"volume name {name!r} is too short: it takes at least two alphanumeric characters")
    if not is_name(name):
        raise InvalidArgument(
            f"volume name {name!r:.100} includes invalid characters: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at"
            " most 255. If you intended to pass a host directory, use an absolute path"
        )


# ── --mount ──────────────────────────────────────────────────────────────────────────────────────────────


def parse_mounts(value: Iterable[str | Mapping[str, Any]]) -> list[Wish]:
    """``type=bind,source=…,target=…`` or docker's Mount objects, such as docker-py's. Raises InvalidArgument."""
    return [_check_mount(_parse_mount(entry) if isinstance(entry, str) else _copied(entry)) for entry in value]


def _parse_mount(text: str) -> Wish:
    mount: Wish = {"Type": "volume"}
    for field in _fields(text):
        key, equals, word = field.partition("=")
        if key.lower() not in _KEYS:
            raise InvalidArgument(f"--mount: unexpected key {key!r:.60} in {field!r:.100}")
        path, read = _KEYS[key.lower()]
        if not equals and read is not _boolean:
            raise InvalidArgument(f"--mount: invalid field {field!r:.100} must be a key=value pair")
        try:
            found = read(word) if equals else True
        except ValueError:
            raise InvalidArgument(f"--mount: invalid value for {key}: {word!r:.100}") from None
        _put(mount, path, found)
    return mount


def _fields(text: str) -> list[str]:
    """A line of comma-separated values, of which one in quotes can hold commas (RFC 4180)."""
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidArgument(f"--mount: {text!r:.100}: {error}") from None
    return rows[0]


def _put(mount: Wish, path: tuple[str, ...], value: Any) -> None:
    """Store a value at a path of keys; what is a dict is added to the one there."""
    *parents, key = path
    for parent in parents:
        mount = mount.setdefault(parent, {})
    if isinstance(value, dict):
        mount.setdefault(key, {}).update(value)
    else:
        mount[key] = value


def _boolean(word: str) -> bool:
    if word in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if word in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(word)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word not in words:
            raise ValueError(word)
        return word

    return read


def _pair(word: str) -> dict[str, str]:
    key, _, text = word.partition("=")
    if not key:
        raise ValueError(word)
    return {key: text}


def _recursive(word: str) -> dict[str, bool]:
    """As docker's BindOptions have it."""
    known = {"disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive", "readonly": "ReadOnlyForceRecursive"}
    if word == "enabled":
        return {}
    if word not in known:
        raise ValueError(word)
    return {known[word]: True}


_KEYS: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "type": (("Type",), str.lower),
    **dict.fromkeys(("source", "src"), (("Source",), str)),
    **dict.fromkeys(("target", "dst", "destination"), (("Target",), str)),
    **dict.fromkeys(("readonly", "ro"), (("ReadOnly",), _boolean)),
    "consistency": (("Consistency",), _one_of(*_CONSISTENCIES)),
    "bind-propagation": (("BindOptions", "Propagation"), _one_of(*PROPAGATIONS)),
    "bind-nonrecursive": (("BindOptions", "NonRecursive"), _boolean),
    "bind-recursive": (("BindOptions",), _recursive),
    "volume-nocopy": (("VolumeOptions", "NoCopy"), _boolean),
    "volume-subpath": (("VolumeOptions", "Subpath"), str),
    "volume-label": (("VolumeOptions", "Labels"), _pair),
    "volume-driver": (("VolumeOptions", "DriverConfig", "Name"), str),
    "volume-opt": (("VolumeOptions", "DriverConfig", "Options"), _pair),
    "tmpfs-size": (("TmpfsOptions", "SizeBytes"), lambda word: parse_size(word, "tmpfs-size")),
    "tmpfs-mode": (("TmpfsOptions", "Mode"), lambda word: int(word, 8)),
}
_OPTIONS = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions"}
_KNOWN = {
    "": {"Type", "Source", "Target", "ReadOnly", "Consistency", *_OPTIONS.values()},
    "BindOptions": {
        *("Propagation", "NonRecursive", "ReadOnlyNonRecursive", "ReadOnlyForceRecursive", "CreateMountpoint")
    },
    "VolumeOptions": {"NoCopy", "Subpath", "Labels", "DriverConfig"},
    "TmpfsOptions": {"SizeBytes", "Mode"},
}


def _copied(given: Mapping[str, Any]) -> Wish:
    """docker's object without what it does not say."""
    mount = {key: value for key, value in given.items() if value is not None}
    for place in ("", *(key for key in _OPTIONS.values() if key in mount)):
        there = mount.get(place, {}) if place else mount
        if unknown := sorted(set(there) - _KNOWN[place]):
            raise InvalidArgument(f"mount: unknown key {unknown[0]!r:.60}{place and f' of {place}'}")
    return {"Type": "volume", **mount}


def _check_mount(mount: Wish) -> Wish:
    kind = mount["Type"]
    if kind not in _OPTIONS:
        raise InvalidArgument(f"--mount: unknown type {kind!r:.60}; there are bind, volume and tmpfs")
    for other, options in _OPTIONS.items():
        if options in mount and other != kind:
            raise InvalidArgument(f"cannot mix '{other}-*' options with mount type '{kind}'")
    if not mount.get("Target"):
        raise InvalidArgument("--mount: target is required")
    target = normal(mount["Target"])
    if target is None:
        raise _invalid_mount(kind, f"mount path {mount['Target']!r:.100} must be absolute, and not /")
    mount["Target"] = target
    _CHECKS[kind](mount)
    return mount


def _invalid_mount(kind: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "{kind}": {reason}')


def _check_bind(mount: Wish) -> None:
    source, options = mount.get("Source", ""), mount.get("BindOptions", {})
    if not source:
        raise _invalid_mount("bind", "field Source must not be empty")
    if not source.startswith(("/", "./", "../")) and source not in (".", ".."):
        raise _invalid_mount("bind", f"mount path {source!r:.100} must be absolute")
    if "\0" in source:
        raise _invalid_mount("bind", "a path has no NUL character")
    mount["Source"] = _clean(source)
    if options.get("Propagation", "rprivate") not in PROPAGATIONS:
        raise _invalid_mount("bind", f"invalid propagation mode: {options['Propagation']!r:.60}")
    if options.get("ReadOnlyNonRecursive") and not mount.get("ReadOnly"):
        raise _invalid_mount("bind", "option 'bind-recursive=writable' requires 'readonly' beside it")
    if options.get("ReadOnlyForceRecursive"):
        if not mount.get("ReadOnly"):
            raise _invalid_mount("bind", "option 'bind-recursive=readonly' requires 'readonly' beside it")
        if options.get("Propagation") != "rprivate":
            raise _invalid_mount("bind", "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate'")


def _check_volume(mount: Wish) -> None:
    source, options = mount.get("Source", ""), mount.get("VolumeOptions", {})
    if source:
        check_name(source)
    elif mount.get("ReadOnly"):
        raise _invalid_mount("volume", "must not set ReadOnly mode when using anonymous volumes")
    elif options.get("Subpath"):
        raise _invalid_mount("volume", "must not set Subpath when using anonymous volumes")
    subpath = options.get("Subpath", "")
    if subpath.startswith("/") or ".." in subpath.split("/") or "\0" in subpath:
        raise _invalid_mount("volume", f"subpath {subpath!r:.100} must be a relative path within the volume")
    driver = options.get("DriverConfig", {})
    check_driver(driver.get("Name") or "local", driver.get("Options") or {})


def _check_tmpfs(mount: Wish) -> None:
    options = mount.get("TmpfsOptions", {})
    if mount.get("Source"):
        raise _invalid_mount("tmpfs", "field Source must not be specified")
    if options.get("SizeBytes", 0) < 0:
        raise _invalid_mount("tmpfs", f"invalid size: {options['SizeBytes']}")
    if not 0 <= options.get("Mode", 0) <= 0o7777:
        raise _invalid_mount("tmpfs", f"invalid mode: {options['Mode']:o}")


_CHECKS = {"bind": _check_bind, "volume": _check_volume, "tmpfs": _check_tmpfs}


def check_driver(driver: str, options: Mapping[str, str]) -> None:
    """Can a volume be made so? Raises InvalidArgument and Unsupported."""
    if driver != "local":
        raise Unsupported(f"volume driver {driver!r:.60}: there is only local; poc has no plugins")
    for key in options:
        if key == "size":
            raise Unsupported("volume option size: poc can't limit a volume; type=tmpfs with o=size=… can")
        if key not in _DRIVER_OPTIONS:
            raise InvalidArgument(f"invalid volume option: {key!r:.60}; there are {', '.join(_DRIVER_OPTIONS)}")
    if not options:
        return
    for key in ("type", "device"):
        if not options.get(key):
            raise InvalidArgument(f"missing required volume option: {key!r}")
    if is_bound(options):
        if normal(options["device"]) is None:
            raise InvalidArgument(f"volume option device={options['device']!r:.100}: it must be an absolute path")
    elif options["type"] != "tmpfs":
        raise Unsupported(
            f"volume option type={options['type']!r:.60}: poc mounts tmpfs, and directories (type=none, o=bind);"
            " mount it on the host and use that directory"
        )


def is_bound(options: Mapping[str, str]) -> bool:
    """Is the volume with these driver options a directory of the host's?"""
    return bool({"bind", "rbind"} & set(options.get("o", "").split(",")))


# ── --tmpfs, --volumes-from ──────────────────────────────────────────────────────────────────────────────


def parse_tmpfs(value: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """``DESTINATION[:OPTIONS]``. Raises InvalidArgument."""
    pairs = value.items() if hasattr(value, "items") else [entry.partition(":")[::2] for entry in value]
    result = {}
    for destination, options in pairs:
        target = normal(destination)
        if target is None:
            raise InvalidArgument(f"invalid tmpfs mount: {destination!r:.100} must be an absolute path other than /")
        result[target] = options
    return result


def parse_volumes_from(value: Iterable[str]) -> list[Wish]:
    """``CONTAINER[:ro|rw]``. Raises InvalidArgument."""
    wishes = []
    for entry in value:
        container, colon, mode = entry.partition(":")
        words = _modes(mode)
        if not container or words is None or (colon and not words) or words.keys() - {"access", "label"}:
            raise InvalidArgument(f"--volumes-from: {entry!r:.100} is not CONTAINER[:ro] or CONTAINER[:rw]")
        wishes.append({"container": container, "mode": mode})
    return wishes


# ── what they become ─────────────────────────────────────────────────────────────────────────────────────


def check_destinations(values: Mapping[str, Any]) -> None:
    """Raises InvalidArgument when two are for the same place; an anonymous volume gives way."""
    wanted = [wish["destination"] for wish in values["volumes"] if wish["source"]]
    wanted += [mount["Target"] for mount in values["mounts"]] + list(values["tmpfs"])
    for destination in wanted:
        if wanted.count(destination) > 1:
            raise InvalidArgument(f"duplicate mount point: {destination:.200}")


def plan(values: Mapping[str, Any], image_volumes: Iterable[str], inherited: Iterable[Point]) -> list[Point]:
    """The points of a container whose wishes are ``values``; volumes have no source yet, anonymous ones no name."""
    points = {point["destination"]: point for point in inherited if point["destination"] not in values["tmpfs"]}
    for point in [_point_of_volume(wish) for wish in values["volumes"] if wish["source"]]:
        points[point["destination"]] = point
    for point in [_point_of_mount(mount) for mount in values["mounts"]]:
        points[point["destination"]] = point
    anonymous = [wish["destination"] for wish in values["volumes"] if not wish["source"]]
    for destination in [*anonymous, *filter(None, map(normal, image_volumes))]:
        if destination not in points and destination not in values["tmpfs"]:
            points[destination] = {**POINT, "type": "volume", "anonymous": True, "destination": destination}
    return list(points.values())


def _point_of_volume(wish: Wish) -> Point:
    bind = wish["source"].startswith("/")
    point = {**POINT, **{key: wish[key] for key in ("destination", "mode", "readonly", "nocopy")}}
    if bind:
        return {**point, "source": wish["source"], "propagation": wish["propagation"] or "rprivate", "create": True}
    return {**point, "type": "volume", "name": wish["source"], "mode": wish["mode"] or "z"}


def _point_of_mount(mount: Wish) -> Point:
    kind, readonly = mount["Type"], bool(mount.get("ReadOnly"))
    point = {**POINT, "type": kind, "destination": mount["Target"], "readonly": readonly}
    if kind == "bind":
        return {**point, "source": mount["Source"], **_bind_options(mount.get("BindOptions", {}))}
    if kind == "volume":
        name = mount.get("Source", "")
        return {**point, "name": name, "anonymous": not name, **_volume_options(mount.get("VolumeOptions", {}))}
    return {**point, "options": _tmpfs_options(mount.get("TmpfsOptions", {}))}


def _bind_options(options: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"NonRecursive": "disabled", "ReadOnlyNonRecursive": "writable"}
    recursive = next((kind for key, kind in kinds.items() if options.get(key)), "enabled")
    return {
        "propagation": options.get("Propagation") or "rprivate",
        "recursive": recursive,
        "create": bool(options.get("CreateMountpoint")),
    }


def _volume_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mode": "z",
        "nocopy": bool(options.get("NoCopy")),
        "subpath": options.get("Subpath", ""),
        "labels": options.get("Labels") or {},
        "driver_opts": (options.get("DriverConfig") or {}).get("Options") or {},
    }


def _tmpfs_options(options: Mapping[str, Any]) -> str:
    size, mode = options.get("SizeBytes"), options.get("Mode")
    return ",".join([*([f"size={size}"] if size else []), *([f"mode={mode:o}"] if mode else [])])


def shared(points: Iterable[Point], mode: str) -> list[Point]:
    """The points of another container, for ``--volumes-from`` with this mode."""
    readonly = "ro" in mode.split(",")
    return [{**point, "readonly": point["readonly"] or readonly, "nocopy": True} for point in points]


def oci(points: Iterable[Point], tmpfs: Mapping[str, str]) -> list[Mount]:
    """The mounts of an OCI configuration (config-linux.md)."""
    mounts = [_oci_mount(point) for point in points]
    return mounts + [_oci_tmpfs(destination, text) for destination, text in tmpfs.items()]


def _oci_mount(point: Point) -> Mount:
    options = point["driver_opts"]
    if point["type"] == "tmpfs":
        return _oci_tmpfs(point["destination"], point["options"], point["readonly"])
    if options and not is_bound(options):
        return _oci_tmpfs_volume(point, options)
    recursive = point["recursive"]
    access = "rw" if not point["readonly"] else "rro" if recursive == "enabled" else "ro"
    words = ["bind" if recursive == "disabled" else "rbind", point["propagation"] or "rprivate", access]
    return {
        "destination": point["destination"],
        "type": "bind",
        "source": point["source"],
        "options": [*words, *(["ro"] if "ro" in options.get("o", "").split(",") else [])],
    }


def _oci_tmpfs(destination: str, text: str, readonly: bool = False) -> Mount:
    options = [*_TMPFS, *filter(None, text.split(",")), *(["ro"] if readonly else [])]
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}


def _oci_tmpfs_volume(point: Point, options: Mapping[str, str]) -> Mount:
    """A volume that is a tmpfs is a new one for each run; it begins with what the image has there."""
    words = [*filter(None, options.get("o", "").split(",")), *([] if point["nocopy"] else ["tmpcopyup"])]
    words += ["ro"] if point["readonly"] else []
    return {"destination": point["destination"], "type": "tmpfs", "source": options["device"], "options": words}


def propagation(points: Iterable[Point]) -> str:
    """What the root's has to be for them to have theirs (``linux.rootfsPropagation``); "" for the default."""
    kinds = {point["propagation"].removeprefix("r") for point in points}
    return "shared" if "shared" in kinds else "rslave" if "slave" in kinds else ""


# ── what inspect shows ───────────────────────────────────────────────────────────────────────────────────


def describe(point: Point) -> dict[str, Any]:
    """One entry of inspect's Mounts."""
    volume = {"Name": point["name"]} if point["type"] == "volume" else {}
    driver = {"Driver": "local"} if volume else {}
    return {
        "Type": point["type"],
        **volume,
        "Source": point["source"],
        "Destination": point["destination"],
        **driver,
        "Mode": point["mode"],
        "RW": not point["readonly"],
        "Propagation": point["propagation"],
    }


def host_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What HostConfig says of them."""
    binds = [
        ":".join(filter(None, (wish["source"], wish["destination"], wish["mode"])))
        for wish in values["volumes"]
        if wish["source"]
    ]
    origins = [":".join(filter(None, (wish["container"], wish["mode"]))) for wish in values["volumes_from"]]
    mounts = {"Mounts": values["mounts"]} if values["mounts"] else {}
    return {"Binds": binds or None, "VolumesFrom": origins or None, "Tmpfs": values["tmpfs"], **mounts}


def config_volumes(values: Mapping[str, Any], image_volumes: Iterable[str]) -> dict[str, Any] | None:
    """Config.Volumes: those without a name, the image's and the user's."""
    wanted = [*image_volumes, *(wish["destination"] for wish in values["volumes"] if not wish["source"])]
    return {destination: {} for destination in wanted} or None
