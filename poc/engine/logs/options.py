"""--log-driver and --log-opt: which there are, whether a wish is one of them, and the writer that it means."""

from __future__ import annotations

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from poc.engine.container import Container
    from poc.engine.logs import Writer

UNLIMITED = -1
_CACHE_SIZE, _CACHE_FILES = 20_000_000, 5  # docker's: what `logs` reads when the log itself is elsewhere
_LONGEST_QUEUE = 1 << 20  # bytes
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
SYSLOG_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
TAG_FIELDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName")


def parse_log_size(text: str, what: str) -> int:
    """Bytes of ``10m``; here k, m and g are powers of 1000, as docker has it. -1: no limit."""
    if text == "-1":
        return UNLIMITED
    stem = text.lower().removesuffix("b")
    unit = stem[-1:] if stem[-1:] in ("k", "m", "g", "t") else ""
    try:
        size = int(float(stem.removesuffix(unit)) * 1000 ** _UNITS[unit])
    except (ValueError, OverflowError):
        raise InvalidArgument(f"log opt {what}: {text!r} is no size; write one such as 10m") from None
    if size <= 0:
        raise InvalidArgument(f"log opt {what}: it must be more than 0")
    return size


def _parse_count(text: str, what: str) -> int:
    if not (text.isdecimal() and text.isascii()) or int(text) < 1:
        raise InvalidArgument(f"log opt {what}: {text!r} is no number of files; it takes 1 or more")
    return int(text)


def _parse_flag(text: str, what: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidArgument(f"log opt {what}: {text!r} is neither true nor false")
    return text == "true"


def _parse_choice(*choices: str) -> Callable[[str, str], str]:
    def parse(text: str, what: str) -> str:
        if text not in choices:
            raise InvalidArgument(f"log opt {what}: {text!r} is none of {', '.join(filter(None, choices))}")
        return text

    return parse


def _parse_pattern(text: str, what: str) -> str:
    import re

    try:
        re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"log opt {what}: {text!r} is no regular expression: {error}") from None
    return text


def parse_facility(text: str, what: str = "syslog-facility") -> int:
    """The number of ``local3``, or of ``19``."""
    if text and text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isdecimal() and text.isascii() and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgument(f"log opt {what}: {text!r} is none of {', '.join(filter(None, _FACILITIES))}, nor 0 to 23")


def _parse_tag(text: str, what: str) -> str:
    expand(text, dict.fromkeys(TAG_FIELDS, ""))
    return text


def expand(template: str, fields: Mapping[str, str]) -> str:
    """``{{.Name}}`` and the like replaced, which is all that docker's tags can hold. Raises InvalidArgument."""
    result, rest = "", template
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        name, closed, rest = rest.partition("}}")
        field = name.strip()
        if not closed or field[:1] != "." or field[1:] not in fields:
            known = ", ".join(f".{known}" for known in fields)
            raise InvalidArgument(f"log opt tag: {template!r}: in double braces there can be {known}")
        result += before + fields[field[1:]]
    return result + rest


def _parse_address(text: str, what: str) -> object:
    from poc.engine.logs.syslog import parse_address

    return parse_address(text)


def _any(text: str, what: str) -> str:
    return text


_ATTRS = {"labels": _any, "labels-regex": _parse_pattern, "env": _any, "env-regex": _parse_pattern, "tag": _parse_tag}
_REMOTE = {
    "mode": _parse_choice("blocking", "non-blocking"),
    "max-buffer-size": parse_log_size,
    "cache-disabled": _parse_flag,
    "cache-max-size": parse_log_size,
    "cache-max-file": _parse_count,
    "cache-compress": _parse_flag,
}
DRIVERS: dict[str, dict[str, Callable[[str, str], Any]]] = {
    "json-file": {
        "max-size": parse_log_size,
        "max-file": _parse_count,
        "compress": _parse_flag,
        "mode": _parse_choice("blocking"),
        **_ATTRS,
    },
    "none": {},
    "journald": {**_ATTRS, **_REMOTE},
    "syslog": {
        "syslog-address": _parse_address,
        "syslog-facility": parse_facility,
        "syslog-format": _parse_choice(*SYSLOG_FORMATS),
        **_ATTRS,
        **_REMOTE,
    },
}


def check(driver: str, options: Mapping[str, str]) -> None:
    """Raises InvalidArgument for what can't be had."""
    if driver not in DRIVERS:
        raise InvalidArgument(f"no log driver named {driver!r}; there are {', '.join(DRIVERS)}")
    _read(driver, options)


def _read(driver: str, options: Mapping[str, str]) -> dict[str, Any]:
    known = DRIVERS[driver]
    for key in options:
        if key not in known:
            hint = f"; there are {', '.join(known)}" if known else ""
            raise InvalidArgument(f"unknown log opt {key!r} for {driver} log driver{hint}")
    values = {key: known[key](text, key) for key, text in options.items()}
    if values.get("compress") and (values.get("max-file") == 1 or values.get("max-size") == UNLIMITED):
        raise InvalidArgument("log opt compress: it needs a max-size, and a max-file of 2 or more")
    if "max-buffer-size" in values and values.get("mode") != "non-blocking":
        raise InvalidArgument("log opt max-buffer-size: it is for mode=non-blocking")
    return values


def is_readable(driver: str, options: Mapping[str, str]) -> bool:
    """Is there something for `logs` to read?"""
    return driver != "none" and options.get("cache-disabled") != "true"


# ── what they mean ───────────────────────────────────────────────────────────────────────────────────


def open_as_wished(container: Container) -> Writer:
    """The writer for a container's wishes. Raises Unsupported where the host has not what it needs, and OSError."""
    driver, options = container.config.log_driver, container.config.log_opts
    if driver == "none":
        return _Nothing()
    values = _read(driver, options)
    if driver == "json-file":
        return _open_json_file(container, values)
    remote = _open_remote(driver, container, values)
    if values.get("cache-disabled"):
        return remote
    from poc.engine.logs.jsonfile import JsonFile

    size, files = values.get("cache-max-size", _CACHE_SIZE), values.get("cache-max-file", _CACHE_FILES)
    compressed = values.get("cache-compress", False)
    return _Both(remote, JsonFile(container.log_path, size, files, compressed, _attrs_of_entries(container, values)))


def _open_json_file(container: Container, values: dict[str, Any]) -> Writer:
    from poc.engine.logs.jsonfile import MAX_FILES, MAX_SIZE, JsonFile

    return JsonFile(
        container.log_path,
        values.get("max-size", MAX_SIZE),
        values.get("max-file", MAX_FILES),
        values.get("compress", False),
        _attrs_of_entries(container, values),
    )


def _attrs_of_entries(container: Container, values: dict[str, Any]) -> str:
    from poc._lean import json

    attrs = _attributes(container, values)
    if "tag" in values:
        attrs["tag"] = expand(values["tag"], _tag_fields(container))
    return json.dumps(attrs) if attrs else ""


def _open_remote(driver: str, container: Container, values: dict[str, Any]) -> Writer:
    queue = values.get("max-buffer-size", _LONGEST_QUEUE) if values.get("mode") == "non-blocking" else 0
    tag = expand(values.get("tag", "{{.ID}}"), _tag_fields(container))
    if driver == "journald":
        from poc.engine.logs.journald import Journald

        return Journald(_journal_fields(container, tag, _attributes(container, values)), queue)
    from poc.engine.logs.syslog import Syslog, parse_address

    facility = values.get("syslog-facility", _FACILITIES.index("daemon"))
    address = values.get("syslog-address") or parse_address("")
    return Syslog(address, facility, values.get("syslog-format", ""), tag, queue)


def _journal_fields(container: Container, tag: str, attributes: dict[str, str]) -> dict[str, str]:
    """docker's names; what labels and variables are called there takes letters, digits and _ only."""
    known = {
        "CONTAINER_ID": container.short_id,
        "CONTAINER_ID_FULL": container.id,
        "CONTAINER_NAME": container.name,
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": container.image,
        "SYSLOG_IDENTIFIER": tag,
    }
    added = {}
    for key, value in attributes.items():
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in key.upper()).lstrip("_0123456789")
        if name:
            added[name[:64]] = value
    return {**added, **known}


def _attributes(container: Container, values: dict[str, Any]) -> dict[str, str]:
    """The labels and variables that are asked for by name or pattern."""
    environment = dict(entry.partition("=")[::2] for entry in container.spec()["process"]["env"])
    return {
        **_chosen(container.labels, values.get("labels", ""), values.get("labels-regex", "")),
        **_chosen(environment, values.get("env", ""), values.get("env-regex", "")),
    }


def _chosen(values: Mapping[str, str], names: str, pattern: str) -> dict[str, str]:
    found = {name: values[name] for name in names.split(",") if name in values}
    if pattern:
        import re

        found.update({name: value for name, value in values.items() if re.search(pattern, name)})
    return found


def _tag_fields(container: Container) -> dict[str, str]:
    image = container.image_id
    texts = (container.short_id, container.id, container.name, image[7:19], image, container.image, "poc")
    return dict(zip(TAG_FIELDS, texts, strict=True))


class _Nothing:
    """--log-driver none."""

    __slots__ = ()

    def write(self, stream: str, data: bytes) -> None:
        """It is gone."""

    def close(self) -> None:
        """Nothing was kept."""


class _Both:
    """Two logs; what goes wrong with one does not keep anything from the other."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Writer, second: Writer) -> None:
        self._first, self._second = first, second

    def write(self, stream: str, data: bytes) -> None:
        try:
            self._first.write(stream, data)
        finally:
            self._second.write(stream, data)

    def close(self) -> None:
        try:
            self._first.close()
        finally:
            self._second.close()
