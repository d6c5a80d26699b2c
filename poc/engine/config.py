"""What the user asked of a container: one `ContainerConfig`, checked when it is made, kept as container.json.

Its fields are docker-py's keyword arguments of ``containers.run``; the command line passes them on as
typed. Parsing and checking live here, so that the library and the command line refuse the same things
with the same words. Pure, but for asking how many CPUs there are and whether a bind's source exists.
"""

from __future__ import annotations

import os
import re

from poc.errors import InvalidArgument, Unsupported
from poc.oci.defaults import ALL_CAPABILITIES, CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}\Z")  # it is a file's name too
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
MINIMUM_MEMORY = 6 << 20
NETWORK_MODES = ("bridge", "internal", "none", "host")

# field: its value when nothing is said
DEFAULTS: dict[str, Any] = {
    "image": "",
    "command": [],
    "entrypoint": None,
    "environment": [],
    "working_dir": "",
    "user": "",
    "name": "",
    "hostname": "",
    "labels": {},
    "network": "bridge",
    "tty": False,
    "stdin_open": False,
    "remove": False,
    "init": False,
    "read_only": False,
    "privileged": False,
    "volumes": [],
    "tmpfs": {},
    "shm_size": None,
    "storage_opt": {},
    "cap_add": [],
    "cap_drop": [],
    "cpus": None,
    "cpu_quota": None,
    "cpu_period": None,
    "cpu_shares": None,
    "cpuset_cpus": "",
    "cpuset_mems": "",
    "pids_limit": None,
    "blkio_weight": None,
    "mem_limit": None,
    "memswap_limit": None,
    "mem_reservation": None,
    "oom_kill_disable": False,
    "device_read_bps": [],
    "device_write_bps": [],
    "device_read_iops": [],
    "device_write_iops": [],
    "stop_signal": "",
    "stop_timeout": None,
}


class ContainerConfig:
    """The checked wishes; ``values`` has every field of `DEFAULTS`, JSON types only."""

    __slots__ = ("values",)

    def __init__(self, **options: Any) -> None:
        """Take docker-py's keyword arguments. Raises InvalidArgument, Unsupported, and TypeError for an unknown one."""
        unknown = sorted(options.keys() - DEFAULTS.keys())
        if unknown:
            raise TypeError(f"unknown option: {', '.join(unknown)}")
        given = {key: value for key, value in options.items() if value is not None}
        self.values: dict[str, Any] = {**DEFAULTS, **given}
        for key, parse in _PARSERS.items():
            if key in given:
                self.values[key] = parse(given[key])
        _check(self.values)

    @classmethod
    def loaded(cls, values: Mapping[str, Any]) -> ContainerConfig:
        """One that was checked before, from container.json."""
        config = cls.__new__(cls)
        config.values = {**DEFAULTS, **values}
        return config

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def capabilities(self) -> list[str]:
        """The capability names after ``cap_add``, ``cap_drop`` and ``privileged``, in the kernel's order.

        What is dropped is dropped from a privileged container too; docker would keep it, without a word.
        """
        add, drop = set(self.cap_add), set(self.cap_drop)
        if "ALL" in drop:
            kept = set() if "ALL" in add else add
        else:
            kept = set(ALL_CAPABILITIES) if self.privileged or "ALL" in add else set(CAPABILITIES) | add
        return [name for name in ALL_CAPABILITIES if name in kept - drop]

    def resources(self, swap_counted: bool = True) -> dict[str, Any]:
        """OCI ``linux.resources`` (config-linux.md) without the devices' access rules.

        On a host that does not account for swap (not ``swap_counted``) a limit on memory alone is one without swap's.
        """
        result = {
            "cpu": _cpu_resources(self.values),
            "memory": _memory_resources(self.values, swap_counted),
            "pids": {} if not self.pids_limit else {"limit": self.pids_limit},
            "blockIO": _io_resources(self.values),
        }
        return {controller: limits for controller, limits in result.items() if limits}


def parse_size(value: str | int, what: str = "size") -> int:
    """Bytes from ``64m``, ``1.5g``, ``512kb`` or a number; k, m, g, t, p are powers of 1024 (docker's RAMInBytes)."""
    match = _SIZE.match(str(value).strip())
    if match is None:
        raise InvalidArgument(f"{what}: {value!r} is not a size; write a number with b, k, m, g or t, such as 512m")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def _parse_limit(what: str) -> Any:
    def parse(value: str | int) -> int:
        return -1 if str(value).strip() == "-1" else parse_size(value, what)

    return parse


def _parse_shm_size(value: str | int) -> int:
    size = parse_size(value, "--shm-size")
    if size == 0:
        raise InvalidArgument("--shm-size: it must be more than 0")
    return size


def _parse_int(what: str, low: int, high: int | None = None) -> Any:
    def parse(value: str | int) -> int:
        try:
            number = int(value)
        except ValueError:
            raise InvalidArgument(f"{what}: {value!r} is not a whole number") from None
        if number < low or (high is not None and number > high):
            upper = "or more" if high is None else f"to {high}"
            raise InvalidArgument(f"{what}: {number} is out of range; it takes {low} {upper}")
        return number

    return parse


def _parse_cpus(value: str | float) -> float:
    try:
        cpus = float(value)
    except ValueError:
        raise InvalidArgument(f"--cpus: {value!r} is not a number") from None
    available = os.cpu_count() or 1
    if not 0.01 <= cpus <= available:
        raise InvalidArgument(
            f"--cpus: {value} is out of range; it takes 0.01 to {available}.00, as there are {available} CPUs here"
        )
    return cpus


def _parse_name(value: str) -> str:
    if not _NAME.match(value):
        raise InvalidArgument(
            f"invalid container name {value!r:.100}: it takes 2 to 255 of [a-zA-Z0-9_.-], a letter or digit first"
        )
    return value


def _parse_hostname(value: str) -> str:
    if not value.isprintable() or "/" in value or not 0 < len(value.encode()) <= 63:
        raise InvalidArgument(
            f"invalid hostname {value!r:.100}: it takes 1 to 63 characters (sethostname(2), RFC 1123)"
        )
    return value


def _parse_working_dir(value: str) -> str:
    if value and not _is_absolute(value):
        raise InvalidArgument(f"invalid working directory {value!r:.100}: it must be an absolute path")
    return value


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and "\0" not in path


def parse_environment(value: Mapping[str, str] | Iterable[str]) -> list[str]:
    """``NAME=value`` entries; a bare ``NAME`` takes the caller's value, or is left out when there is none."""
    entries = [f"{key}={text}" for key, text in value.items()] if hasattr(value, "items") else list(value)
    result = []
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if not name or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry!r}; write NAME=value")
        if equals:
            result.append(entry)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
    return result


def _parse_labels(value: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    if hasattr(value, "items"):
        return dict(value.items())
    return dict(entry.partition("=")[::2] for entry in value)


def _parse_command(value: str | Sequence[str]) -> list[str]:
    if isinstance(value, str):
        import shlex

        return shlex.split(value)
    return _parse_words(value)


def _parse_words(value: Iterable[str]) -> list[str]:
    words = list(value)
    for word in words:
        if not isinstance(word, str) or "\0" in word:
            raise InvalidArgument(f"a command is made of strings without NUL characters, not {word!r:.100}")
    return words


def _parse_volumes(value: Iterable[str] | Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    if hasattr(value, "items"):
        return [_volume(source, bind["bind"], bind.get("mode", "rw"), source) for source, bind in value.items()]
    return [_parse_volume(entry) for entry in value]


def _parse_volume(entry: str) -> dict[str, Any]:
    parts = entry.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidArgument(
            f"invalid volume specification: {entry!r}; write /source:/destination or /source:/destination:ro"
        )
    return _volume(parts[0], parts[1], parts[2] if len(parts) == 3 else "rw", entry)


def _volume(source: str, destination: str, mode: str, entry: str) -> dict[str, Any]:
    target = _normal(destination)
    if target is None:
        raise InvalidArgument(
            f"invalid volume specification: {entry!r}: the destination must be an absolute path other than /"
        )
    if source.startswith("."):
        source = os.path.abspath(source)
    if not source.startswith("/"):
        raise Unsupported(f"volume {source!r}: named volumes do not exist yet; give an absolute path of the host")
    if mode not in ("ro", "rw"):
        raise InvalidArgument(f"invalid volume specification: {entry!r}: the mode is ro or rw, not {mode!r}")
    if not os.path.exists(source):
        raise InvalidArgument(f"bind source path does not exist: {source}")
    return {"source": os.path.realpath(source), "destination": target, "readonly": mode == "ro"}


def _parse_tmpfs(value: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    pairs = value.items() if hasattr(value, "items") else [entry.partition(":")[::2] for entry in value]
    result = {}
    for destination, options in pairs:
        target = _normal(destination)
        if target is None:
            raise InvalidArgument(f"invalid tmpfs mount: {destination!r} must be an absolute path other than /")
        result[target] = options
    return result


def _normal(path: str) -> str | None:
    """An absolute path other than the root, without ``..``, ``//`` and the like; None if it is none."""
    normal = os.path.normpath(path).lstrip("/")  # which keeps two slashes at the beginning
    return f"/{normal}" if _is_absolute(path) and normal else None


def _parse_capabilities(value: Iterable[str]) -> list[str]:
    result = []
    for name in value:
        upper = name.upper()
        full = upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in ALL_CAPABILITIES and full != "ALL":
            raise InvalidArgument(f"unknown capability: {name!r}")
        result.append(full)
    return result


def _parse_throttle(what: str, size: bool) -> Any:
    def parse(value: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [_throttle(what, entry, size) for entry in value]

    return parse


def _throttle(what: str, entry: str | Mapping[str, Any], size: bool) -> dict[str, Any]:
    path, _, rate = entry.rpartition(":") if isinstance(entry, str) else (entry["Path"], ":", entry["Rate"])
    if not path.startswith("/"):
        raise InvalidArgument(f"{what}: {entry!r} is not /dev/DEVICE:RATE")
    number = parse_size(rate, what) if size else _parse_int(what, 1)(rate)
    if number <= 0:
        raise InvalidArgument(f"{what}: the rate must be more than 0")
    return {"path": path, "rate": number}


def _parse_storage(value: Mapping[str, str] | Iterable[str]) -> dict[str, int]:
    pairs = dict(value.items()) if hasattr(value, "items") else dict(entry.partition("=")[::2] for entry in value)
    for key in pairs.keys() - {"size"}:
        raise InvalidArgument(f"--storage-opt: unknown option {key!r}; there is size, such as size=20G")
    sizes = {key: parse_size(size, "--storage-opt size") for key, size in pairs.items()}
    if sizes and sizes["size"] < 8 << 20:
        raise InvalidArgument("--storage-opt: size must be 8m or more")
    return sizes


def _parse_network(value: str) -> str:
    if value not in NETWORK_MODES:
        raise InvalidArgument(f"no such network: {value}; there are {', '.join(NETWORK_MODES)}")
    return value


def parse_signal(value: str | int) -> int:
    """The number of ``SIGTERM``, ``term`` or ``15``. Raises InvalidArgument."""
    import signal

    name = str(value).upper()
    if name.isdecimal() and len(name) < 3 and 0 < int(name) <= signal.SIGRTMAX:
        return int(name)
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidArgument(f"invalid signal: {value}")
    return int(found)


def _parse_stop_signal(value: str | int) -> str:
    parse_signal(value)
    return str(value)


_PARSERS: dict[str, Any] = {
    "command": _parse_command,
    "entrypoint": lambda value: _parse_words([value] if isinstance(value, str) else value),
    "environment": parse_environment,
    "working_dir": _parse_working_dir,
    "name": _parse_name,
    "hostname": _parse_hostname,
    "labels": _parse_labels,
    "network": _parse_network,
    "volumes": _parse_volumes,
    "tmpfs": _parse_tmpfs,
    "shm_size": _parse_shm_size,
    "storage_opt": _parse_storage,
    "cap_add": _parse_capabilities,
    "cap_drop": _parse_capabilities,
    "cpus": _parse_cpus,
    "cpu_quota": _parse_int("--cpu-quota", 1000),
    "cpu_period": _parse_int("--cpu-period", 1000, 1_000_000),
    "cpu_shares": _parse_int("--cpu-shares", 2, 262144),
    "pids_limit": _parse_int("--pids-limit", -1),
    "blkio_weight": _parse_int("--blkio-weight", 10, 1000),
    "mem_limit": lambda value: parse_size(value, "--memory"),
    "memswap_limit": _parse_limit("--memory-swap"),
    "mem_reservation": lambda value: parse_size(value, "--memory-reservation"),
    "device_read_bps": _parse_throttle("--device-read-bps", size=True),
    "device_write_bps": _parse_throttle("--device-write-bps", size=True),
    "device_read_iops": _parse_throttle("--device-read-iops", size=False),
    "device_write_iops": _parse_throttle("--device-write-iops", size=False),
    "stop_signal": _parse_stop_signal,
    "stop_timeout": _parse_int("--stop-timeout", -1),
}


def _check(values: Mapping[str, Any]) -> None:
    """What one field alone can't tell."""
    if values["cpus"] is not None and (values["cpu_quota"] is not None or values["cpu_period"] is not None):
        raise InvalidArgument("--cpus and --cpu-quota or --cpu-period exclude each other")
    memory, swap, reservation = values["mem_limit"], values["memswap_limit"], values["mem_reservation"]
    if memory is not None and memory < MINIMUM_MEMORY:
        raise InvalidArgument("--memory: the minimum is 6m")
    if reservation is not None and reservation < MINIMUM_MEMORY:
        raise InvalidArgument("--memory-reservation: the minimum is 6m")
    if memory is not None and reservation is not None and reservation > memory:
        raise InvalidArgument("--memory-reservation must not be larger than --memory")
    if swap is not None and memory is None:
        raise InvalidArgument("--memory-swap needs --memory beside it")
    if swap is not None and -1 != swap < memory:
        raise InvalidArgument("--memory-swap is memory and swap together: it must not be smaller than --memory")
    if values["init"] and values["pids_limit"] == 1:
        raise InvalidArgument("--pids-limit must be 2 or more with --init, which is a process itself")
    if values["oom_kill_disable"] and memory is None:
        raise InvalidArgument("--oom-kill-disable needs --memory: without a limit the host itself would run out")
    destinations = [volume["destination"] for volume in values["volumes"]] + list(values["tmpfs"])
    for destination in destinations:
        if destinations.count(destination) > 1:
            raise InvalidArgument(f"duplicate mount point: {destination}")


def _cpu_resources(values: Mapping[str, Any]) -> dict[str, Any]:
    period, quota = values["cpu_period"], values["cpu_quota"]
    if values["cpus"] is not None:
        period = 100_000
        quota = round(values["cpus"] * period)
    limits = {
        "period": period,
        "quota": quota,
        "shares": values["cpu_shares"],
        "cpus": values["cpuset_cpus"] or None,
        "mems": values["cpuset_mems"] or None,
    }
    return {key: value for key, value in limits.items() if value is not None}


def _memory_resources(values: Mapping[str, Any], swap_counted: bool) -> dict[str, Any]:
    limit, swap = values["mem_limit"], values["memswap_limit"]
    if limit is not None and swap is None and swap_counted:
        swap = 2 * limit  # docker's: as much swap again
    limits = {"limit": limit, "swap": swap, "reservation": values["mem_reservation"]}
    if values["oom_kill_disable"]:
        limits["disableOOMKiller"] = True
    return {key: value for key, value in limits.items() if value is not None}


def _io_resources(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "device_read_bps": "throttleReadBpsDevice",
        "device_write_bps": "throttleWriteBpsDevice",
        "device_read_iops": "throttleReadIOPSDevice",
        "device_write_iops": "throttleWriteIOPSDevice",
    }
    result: dict[str, Any] = {} if values["blkio_weight"] is None else {"weight": values["blkio_weight"]}
    for key, name in names.items():
        if values[key]:
            result[name] = [{**_device_number(entry["path"]), "rate": entry["rate"]} for entry in values[key]]
    return result


def _device_number(path: str) -> dict[str, int]:
    import stat

    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"device {path}: {error.strerror}") from None
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidArgument(f"device {path}: not a block device")
    return {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
