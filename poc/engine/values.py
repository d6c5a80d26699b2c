"""Readers of what the user wrote, one for each kind of value; `poc.engine.config` says which field takes which.

Pure, but for asking how many CPUs there are. Each raises InvalidArgument, which names the flag.
"""

from __future__ import annotations

import os

from poc.errors import InvalidArgument
from poc.oci.defaults import ALL_CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_PUNCTUATION = dict.fromkeys(map(ord, "_.-"))  # in a name
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
NETWORK_MODES = ("bridge", "internal", "none", "host")


def parse_size(value: str | int, what: str = "size") -> int:
    """Bytes from ``64m``, ``1.5g``, ``512kb`` or a number; k, m, g, t, p are powers of 1024 (docker's RAMInBytes)."""
    text = str(value).strip().lower()
    text = text[:-2] if text.endswith("ib") else text.removesuffix("b")
    unit = text[-1:] if text[-1:] in _POWERS else ""
    number = text.removesuffix(unit).rstrip()
    if not number.isascii() or not all(part.isdecimal() for part in number.split(".", 1)):
        raise InvalidArgument(f"{what}: {value!r} is not a size; write a number with b, k, m, g or t, such as 512m")
    return int(float(number) * 1024 ** _POWERS[unit])


def parse_limit(what: str) -> Any:
    def parse(value: str | int) -> int:
        return -1 if str(value).strip() == "-1" else parse_size(value, what)

    return parse


def parse_shm_size(value: str | int) -> int:
    size = parse_size(value, "--shm-size")
    if size == 0:
        raise InvalidArgument("--shm-size: it must be more than 0")
    return size


def parse_int(what: str, low: int, high: int | None = None) -> Any:
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


def parse_cpus(value: str | float) -> float:
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


def parse_name(value: str) -> str:
    value = value.removeprefix("/")  # as inspect shows it
    if not is_name(value):
        raise InvalidArgument(
            f"invalid container name {value!r:.100}: it takes 2 to 255 of [a-zA-Z0-9_.-], a letter or digit first"
        )
    return value


def is_name(value: str) -> bool:
    """Can a container or a volume be called that?"""
    return 2 <= len(value) <= 255 and value[0] in _ALNUM and _ALNUM.issuperset(value.translate(_PUNCTUATION))


def parse_hostname(value: str) -> str:
    if not value.isprintable() or "/" in value or not 0 < len(value.encode()) <= 63:
        raise InvalidArgument(
            f"invalid hostname {value!r:.100}: it takes 1 to 63 characters (sethostname(2), RFC 1123)"
        )
    return value


def parse_working_dir(value: str) -> str:
    if value and not is_absolute(value):
        raise InvalidArgument(f"invalid working directory {value!r:.100}: it must be an absolute path")
    return value


def is_absolute(path: str) -> bool:
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


def parse_labels(value: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    labels = dict(value.items() if hasattr(value, "items") else (entry.partition("=")[::2] for entry in value))
    if "" in labels:
        raise InvalidArgument(f"invalid label: '={labels['']:.100}' has no name")
    return labels


def parse_command(value: str | Sequence[str]) -> list[str]:
    if isinstance(value, str):
        import shlex

        return shlex.split(value)
    return parse_words(value)


def parse_words(value: Iterable[str]) -> list[str]:
    words = list(value)
    for word in words:
        if not isinstance(word, str) or "\0" in word:
            raise InvalidArgument(f"a command is made of strings without NUL characters, not {word!r:.100}")
    return words


def parse_capabilities(value: Iterable[str]) -> list[str]:
    result = []
    for name in value:
        upper = name.upper()
        full = upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in ALL_CAPABILITIES and full != "ALL":
            raise InvalidArgument(f"unknown capability: {name!r}")
        result.append(full)
    return result


def parse_cgroup_parent(value: str) -> str:
    """A path below the root of the hierarchies, without its slashes at both ends."""
    parts = value.strip("/").split("/")
    if parts == [""]:
        return ""
    if not value.isprintable() or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise InvalidArgument(f"--cgroup-parent: {value!r:.100} is no path below the root of the hierarchies")
    return "/".join(parts)


def parse_throttle(what: str, size: bool) -> Any:
    def parse(value: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [_throttle(what, entry, size) for entry in value]

    return parse


def _throttle(what: str, entry: str | Mapping[str, Any], size: bool) -> dict[str, Any]:
    path, _, rate = entry.rpartition(":") if isinstance(entry, str) else (entry["Path"], ":", entry["Rate"])
    if not path.startswith("/"):
        raise InvalidArgument(f"{what}: {entry!r} is not /dev/DEVICE:RATE")
    number = parse_size(rate, what) if size else parse_int(what, 1)(rate)
    if number <= 0:
        raise InvalidArgument(f"{what}: the rate must be more than 0")
    return {"path": path, "rate": number}


def parse_storage(value: Mapping[str, str] | Iterable[str]) -> dict[str, int]:
    pairs = dict(value.items()) if hasattr(value, "items") else dict(entry.partition("=")[::2] for entry in value)
    for key in pairs.keys() - {"size"}:
        raise InvalidArgument(f"--storage-opt: unknown option {key!r}; there is size, such as size=20G")
    sizes = {key: parse_size(size, "--storage-opt size") for key, size in pairs.items()}
    if sizes and sizes["size"] < 8 << 20:
        raise InvalidArgument("--storage-opt: size must be 8m or more")
    return sizes


def parse_network(value: str) -> str:
    if value not in NETWORK_MODES and not (value.startswith("container:") and value != "container:"):
        raise InvalidArgument(f"no such network: {value}; there are {', '.join(NETWORK_MODES)} and container:NAME")
    return value


def parse_restart_policy(value: str | Mapping[str, Any]) -> dict[str, Any]:
    from poc.engine.restart import parse_policy

    return parse_policy(value)


def parse_healthcheck(value: Mapping[str, Any]) -> dict[str, Any]:
    from poc.engine.health import parse_check

    return parse_check(value)


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


def parse_stop_signal(value: str | int) -> str:
    parse_signal(value)
    return str(value)


def parse_log_options(value: Mapping[str, object] | Iterable[str]) -> dict[str, str]:
    if hasattr(value, "items"):
        return {key: str(text).lower() if isinstance(text, bool) else str(text) for key, text in value.items()}
    options = {}
    for entry in value:
        key, equals, text = entry.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"invalid log option {entry!r}; write KEY=VALUE")
        options[key] = text
    return options
