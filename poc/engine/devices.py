"""The host's devices that a container is given: as nodes, and as rules for its cgroup."""

from __future__ import annotations

import os
import stat

from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from poc.engine.config import ContainerConfig
    from poc.oci.types import Spec

_NOT_DEVICES = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx")


def every() -> list[Any]:
    """OCI ``linux.devices`` of all that the host has below /dev, for a privileged container (docker's rule)."""
    return [node for node in _nodes_below("/dev", "/dev") if node["path"] not in _NOT_DEVICES]


def put_into(spec: Spec, config: ContainerConfig) -> None:
    """``--device`` and ``--device-cgroup-rule``, with the numbers that the host's devices have now."""
    nodes = [(node, mapping["CgroupPermissions"]) for mapping in config.devices for node in _nodes(mapping)]
    if not nodes and not config.device_cgroup_rules:
        return
    from poc.engine.options import parse_device_rule

    linux: Any = spec["linux"]
    paths = {node["path"] for node, _ in nodes}
    linux["devices"] = [node for node in linux.get("devices", ()) if node["path"] not in paths]
    linux["devices"] += [node for node, _ in nodes]
    if config.privileged:
        return  # it may use all devices
    known = linux["resources"]["devices"]
    rules = [_allow(node, access) for node, access in nodes]
    rules += [parse_device_rule(rule) for rule in config.device_cgroup_rules]
    linux["resources"]["devices"] = known + [rule for rule in rules if rule not in known]


def _allow(node: dict[str, Any], access: str) -> dict[str, Any]:
    return {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}


def _nodes(mapping: dict[str, str]) -> list[dict[str, Any]]:
    """OCI ``linux.devices`` for one mapping: a node, or of a directory all below it."""
    place = mapping["PathOnHost"]
    try:
        source = os.path.realpath(place, strict=True)
        found = [node] if (node := _node(source, mapping["PathInContainer"])) else []
    except OSError as error:
        raise InvalidArgument(f"--device {place}: {error.strerror}") from None
    if not found and os.path.isdir(source):
        found = list(_nodes_below(source, mapping["PathInContainer"]))
    if not found:
        raise InvalidArgument(f"--device {place}: not a device node, nor a directory with one in it")
    return found


def _nodes_below(source: str, target: str) -> Iterator[dict[str, Any]]:
    for directory, subdirectories, names in os.walk(source):
        subdirectories[:] = [name for name in subdirectories if f"{directory}/{name}" not in _NOT_DEVICES]
        for name in names:
            path = f"{directory}/{name}"
            try:
                node = _node(path, target + path[len(source) :])
            except FileNotFoundError:
                continue  # a device that has just gone
            if node is not None:
                yield node


def _node(path: str, target: str) -> dict[str, Any] | None:
    """OCI ``linux.devices`` entry at ``target`` for the host's device; None when it is none. Raises OSError."""
    found = os.lstat(path)
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    if not kind:
        return None
    numbers = {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
    owner = {"uid": found.st_uid, "gid": found.st_gid}
    return {"path": target, "type": kind, "fileMode": stat.S_IMODE(found.st_mode), **numbers, **owner}
