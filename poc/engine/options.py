"""Readers of what few containers ask for, field by field of `poc.engine.config`; loaded only when one is given.

What they return is kept as docker's inspect object shows it. Each raises InvalidArgument or Unsupported, which names
the flag. Pure, but for reading a seccomp profile.
"""

from __future__ import annotations

import os

from poc.engine.values import parse_int, parse_size
from poc.errors import InvalidArgument, Unsupported
from poc.oci.validate import IPC_SYSCTLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

# docker's; it leaves out "as", which bounds the runtime itself before the program is there
ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)
GATEWAY = "host-gateway"
PROTOCOLS = ("tcp", "udp", "sctp")
_NO_ULIMIT = (1 << 63) - 1
_LABELS = ("user", "role", "type", "level", "filetype")
_SWITCHES = {
    **dict.fromkeys(("1", "t", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "f", "false", "no", "off"), False),
}


def _pairs(flag: str, value: Mapping[str, Any] | Iterable[str]) -> dict[str, str]:
    """From KEY=VALUE, or a mapping."""
    if hasattr(value, "items"):
        return {str(key): str(text) for key, text in value.items()}
    result = {}
    for entry in value:
        key, equals, text = entry.partition("=")
        if not key or not equals:
            raise InvalidArgument(f"{flag}: {entry!r:.100} is not KEY=VALUE")
        result[key] = text
    return result


def _words(flag: str) -> Callable[[Iterable[str] | str], list[str]]:
    """Texts that go into one line of a file each."""

    def parse(value: Iterable[str] | str) -> list[str]:
        words = [value] if isinstance(value, str) else [str(word) for word in value]
        for word in words:
            if not word.isprintable() or not word.strip():
                raise InvalidArgument(f"{flag}: {word!r:.100} can't be used")
        return words

    return parse


# ── what a process may ──


def _parse_ulimits(value: Iterable[Any]) -> list[dict[str, Any]]:
    """docker-py's Ulimit objects, which are mappings, or ``name=soft[:hard]``; of two with one name the last."""
    found = {}
    for entry in value:
        limit = _parse_ulimit(entry) if isinstance(entry, str) else _checked_ulimit(entry, _lower(entry))
        found[limit["Name"]] = limit
    return list(found.values())


def _lower(entry: Mapping[str, Any]) -> tuple[str, int, int]:
    given = {key.lower(): value for key, value in entry.items()}
    soft = given.get("soft") or 0
    return given.get("name", ""), soft, given.get("hard") or soft


def _parse_ulimit(entry: str) -> dict[str, Any]:
    name, _, rest = entry.partition("=")
    soft, colon, hard = rest.partition(":")
    try:
        return _checked_ulimit(entry, (name, int(soft), int(hard if colon else soft)))
    except ValueError:
        raise InvalidArgument(f"--ulimit: {entry!r:.100} is not NAME=SOFT[:HARD], such as nofile=1024:2048") from None


def _checked_ulimit(entry: object, limit: tuple[str, int, int]) -> dict[str, Any]:
    name, soft, hard = limit
    if name not in ULIMITS:
        raise InvalidArgument(f"--ulimit: {name!r:.100} is none of {', '.join(ULIMITS)}")
    if not (-1 <= soft <= _NO_ULIMIT and -1 <= hard <= _NO_ULIMIT):
        raise InvalidArgument(f"--ulimit: {entry!r:.100}: a limit is from 0 to {_NO_ULIMIT}, or -1 for none")
    if hard >= 0 and (soft < 0 or soft > hard):
        raise InvalidArgument(f"--ulimit: {entry!r:.100}: the soft limit is more than the hard one")
    return {"Name": name, "Soft": soft, "Hard": hard}


def _parse_sysctls(value: Mapping[str, Any] | Iterable[str]) -> dict[str, str]:
    sysctls = _pairs("--sysctl", value)
    for key, text in sysctls.items():
        if not (key in IPC_SYSCTLS or key.startswith(("net.", "fs.mqueue."))) or not _is_sysctl(key):
            raise InvalidArgument(f"--sysctl: {key!r:.100} is not allowed: it is not a setting of a container's own")
        if not text.replace("\t", " ").isprintable():
            raise InvalidArgument(f"--sysctl: {key}: {text!r:.100} can't be written")
    return sysctls


def _is_sysctl(key: str) -> bool:
    return key.isprintable() and "/" not in key and "" not in key.split(".")


def _parse_groups(value: Iterable[str | int]) -> list[str]:
    groups = [str(group) for group in value]
    for group in groups:
        if not group or not group.isprintable() or ":" in group:
            raise InvalidArgument(f"--group-add: {group!r:.100} is neither a group's name nor its number")
    return groups


def _parse_annotations(value: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    if hasattr(value, "items"):
        return {str(key): str(text) for key, text in value.items()}
    annotations = dict(entry.partition("=")[::2] for entry in value)
    if "" in annotations:
        raise InvalidArgument("--annotation: a name is missing; write NAME=VALUE")
    return annotations


# ── devices ──


def _parse_devices(value: Iterable[str | Mapping[str, str]]) -> list[dict[str, str]]:
    return [_parse_device(entry) if isinstance(entry, str) else _checked_device(dict(entry)) for entry in value]


def _parse_device(entry: str) -> dict[str, str]:
    """``HOST[:CONTAINER][:rwm]``; what stands in the middle alone is a mode if it can be one."""
    parts = entry.split(":")
    if len(parts) > 3 or not parts[0]:
        raise InvalidArgument(f"--device: {entry!r:.100} is not HOST[:CONTAINER][:rwm]")
    host, mode = parts[0], "rwm"
    if len(parts) == 3 or (len(parts) == 2 and _is_access(parts[1])):
        mode = parts.pop()
    path = parts[1] if len(parts) == 2 and parts[1] else host
    return _checked_device({"PathOnHost": host, "PathInContainer": path, "CgroupPermissions": mode})


def _checked_device(device: dict[str, str]) -> dict[str, str]:
    mode = device["CgroupPermissions"]
    if not _is_access(mode):
        raise InvalidArgument(f"--device: bad mode {mode!r:.100}; it is made of r, w and m")
    for key in ("PathOnHost", "PathInContainer"):
        path = device[key]
        if not path.startswith("/") or not path.isprintable() or not path.strip("/."):
            raise InvalidArgument(f"--device: {path!r:.100} is not an absolute path other than /")
        device[key] = os.path.normpath(path)
    return device


def _is_access(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def _parse_device_rules(value: Iterable[str]) -> list[str]:
    rules = list(value)
    for rule in rules:
        parse_device_rule(rule)
    return rules


def parse_device_rule(rule: str) -> dict[str, Any]:
    """OCI ``linux.resources.devices`` entry for ``c 42:* rwm``."""
    words = rule.split(" ")
    numbers = words[1].split(":") if len(words) == 3 else []
    good = all(number == "*" or (number.isascii() and number.isdecimal() and len(number) < 10) for number in numbers)
    if len(numbers) != 2 or not good or words[0] not in ("a", "b", "c") or not _is_access(words[2]):
        raise InvalidArgument(f"invalid device cgroup format {rule!r:.100}; write 'c 42:* rwm'")
    named = zip(("major", "minor"), numbers, strict=True)
    which = {key: int(number) for key, number in named if number != "*"}
    return {"allow": True, "type": words[0], "access": words[2], **which}


def _parse_weights(value: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for entry in value:
        path, _, weight = entry.rpartition(":") if isinstance(entry, str) else (entry["Path"], "", entry["Weight"])
        if not path.startswith("/"):
            raise InvalidArgument(f"--blkio-weight-device: {entry!r:.100} is not /dev/DEVICE:WEIGHT")
        found.append({"path": path, "weight": parse_int("--blkio-weight-device", 10, 1000)(weight)})
    return found


# ── names and addresses ──


def _parse_hosts(value: Mapping[str, str] | Iterable[str]) -> list[str]:
    """``NAME:ADDRESS``, or with "="; the address may stand in brackets, or be host-gateway."""
    entries = [f"{name}:{text}" for name, text in value.items()] if hasattr(value, "items") else list(value)
    return [_parse_host(entry) for entry in entries]


def _parse_host(entry: str) -> str:
    sign = "=" if "=" in entry else ":"
    name, _, address = entry.partition(sign)
    if not name or ":" in name or not name.isprintable() or name.split() != [name] or "#" in name:
        raise InvalidArgument(f"bad format for --add-host: {entry!r:.100}; write NAME:ADDRESS")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != GATEWAY:
        _check_address("--add-host", address)
    return f"{name}:{address}"


def _check_address(flag: str, address: str) -> None:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
            return
        except (OSError, ValueError):
            continue  # of the other family, or none
    raise InvalidArgument(f"{flag}: {address!r:.100} is not an IP address")


def _parse_dns(value: Iterable[str]) -> list[str]:
    servers = [str(address).strip() for address in value]
    for address in servers:
        _check_address("--dns", address)
    return servers


def _parse_search(value: Iterable[str]) -> list[str]:
    domains = [domain.strip(" ").rstrip(".") or domain.strip(" ") for domain in value]
    for domain in domains:
        if domain != "." and not _is_domain(domain):
            raise InvalidArgument(f"--dns-search: {domain!r:.100} is not a valid domain")
    return domains


def _is_domain(text: str) -> bool:
    parts = text.split(".")
    good = all(part.replace("-", "").isalnum() and part == part.strip("-") for part in parts)
    return text.isascii() and 0 < len(text) < 255 and good and any(character.isalpha() for character in text)


def _parse_domainname(value: str) -> str:
    if value and (not value.isprintable() or value.split() != [value] or len(value.encode()) > 64):
        raise InvalidArgument(f"invalid domain name {value!r:.100}: it takes at most 64 characters (setdomainname(2))")
    return value


def _parse_mac(value: str) -> str:
    """``92:d0:c6:0a:29:33``, also with dashes, of one station."""
    parts = value.strip().lower().replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts):
        raise InvalidArgument(f"--mac-address: {value!r:.100} is not a valid mac address")
    if int(parts[0], 16) & 1 or not any(int(part, 16) for part in parts):
        raise InvalidArgument(f"--mac-address: {value!r:.100} is not the address of one station")
    return ":".join(parts)


def _parse_ports(value: Iterable[str | int]) -> list[str]:
    """``80``, ``53/udp`` or ``8000-8010/tcp``, as ["8000/tcp", …]."""
    found: dict[str, None] = {}
    for entry in value:
        ports, slash, protocol = str(entry).partition("/")
        first, dash, last = ports.partition("-")
        numbers = [first, last] if dash else [first, first]
        good = all(number.isascii() and number.isdecimal() and 0 < int(number[:6]) < 65536 for number in numbers)
        protocol = protocol.lower() if slash else "tcp"
        if not good or protocol not in PROTOCOLS or int(numbers[0]) > int(numbers[1]):
            raise InvalidArgument(f"invalid range format for --expose: {str(entry)!r:.100}; write PORT[-PORT][/tcp]")
        found.update((f"{number}/{protocol}", None) for number in range(int(numbers[0]), int(numbers[1]) + 1))
    return list(found)


def _parse_platform(value: str) -> str:
    """``linux/amd64``, ``amd64`` or ``linux``, of which the host must be."""
    machine = os.uname().machine
    names = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}
    own = names.get(machine, machine)
    parts = value.lower().split("/")
    system, kind = ("linux", parts[0]) if len(parts) == 1 and parts[0] != "linux" else (parts[0], (*parts, own)[1])
    variants = {"arm64": ("v8",), "arm": ("v7", "v6", "v5"), "amd64": ("v1",)}
    if system == "linux" and names.get(kind, kind) == own and all(part in variants.get(own, ()) for part in parts[2:]):
        return f"linux/{own}"
    raise Unsupported(f"--platform {value!r:.100}: this host is linux/{own}, and poc runs no other")


# ── security ──


def _parse_security(value: Iterable[str]) -> list[str]:
    """As docker's command line sends them: in place of a seccomp profile's file what it holds."""
    return [_parse_security_option(entry) for entry in value]


def _parse_security_option(entry: str) -> str:
    sign = "=" if "=" in entry else ":"
    key, given, text = entry.partition(sign)
    if key == "no-new-privileges":
        if given and text.lower() not in _SWITCHES:
            raise InvalidArgument(f"invalid --security-opt: {entry!r:.100}: it is true or false")
        return f"{key}={str(_SWITCHES[text.lower()]).lower()}" if given else key
    if not text:
        raise InvalidArgument(f"invalid --security-opt: {entry!r:.100}")
    if key == "seccomp":
        return f"seccomp={text if text in ('unconfined', 'builtin') else _profile(text)}"
    if key == "apparmor":
        _require_apparmor(text)
    elif key == "label":
        _check_label(entry, text)
    elif (key, text) != ("systempaths", "unconfined"):
        raise InvalidArgument(f"invalid --security-opt: {entry!r:.100}")
    return f"{key}={text}"


def _profile(text: str) -> str:
    """A seccomp profile as one line of JSON, from a file, or from itself as docker-py hands it over."""
    import json

    name = "the seccomp profile"
    if not text.lstrip().startswith("{"):
        name = f"seccomp profile {text!r:.100}"
        try:
            with open(text, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"opening {name} failed: {getattr(error, 'strerror', None) or error}") from None
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name} is not JSON: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidArgument(f"{name} is no JSON object")
    from poc.engine.profiles import to_oci

    to_oci(profile, ())  # or its faults would show only at the start
    return json.dumps(profile, separators=(",", ":"))


def _require_apparmor(profile: str) -> None:
    from poc.runtime.traits import has_apparmor

    if not profile.isprintable():
        raise InvalidArgument(f"invalid --security-opt: apparmor={profile!r:.100}")
    if profile != "unconfined" and not has_apparmor():
        raise Unsupported(f"--security-opt apparmor={profile}: AppArmor is not on here, and would confine nothing")


def _check_label(entry: str, text: str) -> None:
    # Where SELinux is not in use docker takes these words and does nothing; what is no such word it refuses.
    kind, colon, value = text.partition(":")
    if text != "disable" and not (kind in _LABELS and colon and value):
        raise InvalidArgument(f"invalid --security-opt: {entry!r:.100}: it is disable, or one of {', '.join(_LABELS)}")
    from poc.runtime.traits import has_selinux

    if text != "disable" and has_selinux():
        raise Unsupported(f"--security-opt {entry}: poc sets no SELinux labels")


def _mode(flag: str, *known: str, container: bool = False) -> Callable[[str], str]:
    def parse(value: str) -> str:
        joins = container and value.startswith("container:") and value != "container:"
        if value and value not in known and not joins:
            others = (*known, "container:NAME") if container else known
            raise InvalidArgument(f"{flag}: invalid mode {value!r:.100}; there is {', '.join(others)}")
        return value

    return parse


def _parse_userns(value: str) -> str:
    if value not in ("", "host"):
        raise Unsupported(f"--userns: {value!r:.100}: poc's containers are all in the host's user namespace")
    return value


def _parse_kernel_memory(value: str | int) -> int:
    parse_size(value, "--kernel-memory")
    raise Unsupported("--kernel-memory: deprecated; Linux no longer limits kernel memory apart from the rest")


def _parse_swappiness(value: str | int) -> int | None:
    number: int = parse_int("--memory-swappiness", -1, 100)(value)
    return None if number < 0 else number


PARSERS: dict[str, Callable[[Any], Any]] = {
    "ulimits": _parse_ulimits,
    "sysctls": _parse_sysctls,
    "oom_score_adj": parse_int("--oom-score-adj", -1000, 1000),
    "group_add": _parse_groups,
    "annotations": _parse_annotations,
    "devices": _parse_devices,
    "device_cgroup_rules": _parse_device_rules,
    "blkio_weight_device": _parse_weights,
    "extra_hosts": _parse_hosts,
    "dns": _parse_dns,
    "dns_search": _parse_search,
    "dns_opt": _words("--dns-option"),
    "domainname": _parse_domainname,
    "pid_mode": _mode("--pid", "host", container=True),
    "ipc_mode": _mode("--ipc", "none", "private", "shareable", "host", container=True),
    "uts_mode": _mode("--uts", "host"),
    "cgroupns": _mode("--cgroupns", "host", "private"),
    "userns_mode": _parse_userns,
    "expose": _parse_ports,
    "mac_address": _parse_mac,
    "platform": _parse_platform,
    "security_opt": _parse_security,
    "mem_swappiness": _parse_swappiness,
    "kernel_memory": _parse_kernel_memory,
    "cpu_rt_period": parse_int("--cpu-rt-period", 1, 1 << 30),
    "cpu_rt_runtime": parse_int("--cpu-rt-runtime", 1, 1 << 30),
}
