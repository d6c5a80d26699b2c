"""docker's objects as a template sees them: what has a fixed set of fields, and what is a map of any names. Pure.

In Go the types tell. Asking an object for a field that it does not have is an error, asking a map prints
``<no value>``; a list or a map that is null is an empty one.
"""

from __future__ import annotations

from poc.cli.template import NullList, NullMap, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Fields that are maps, of names that a user or a driver chooses.
MAPS = frozenset(
    (
        *("Annotations", "Attributes", "Containers", "Data", "DriverOpts", "ExposedPorts", "IndexConfigs"),
        *("Labels", "LogOpts", "Networks", "Options", "Ports", "Runtimes", "Storage", "StorageOpt", "Sysctls"),
        *("Tmpfs", "Volumes"),
    )
)
# Fields that are lists, also where they are null.
LISTS = frozenset(
    (
        *("Aliases", "Args", "Binds", "CapAdd", "CapDrop", "Cmd", "Devices", "Dns", "DnsOptions", "DnsSearch"),
        *("Entrypoint", "Env", "ExecIDs", "ExtraHosts", "GroupAdd", "Links", "MaskedPaths", "Mounts", "OnBuild"),
        *("ReadonlyPaths", "RepoDigests", "RepoTags", "SecurityOpt", "Shell", "Ulimits", "VolumesFrom"),
    )
)


def structured(value: Any, key: str = "", parent: str = "") -> Any:
    """A JSON value with `Struct` in place of each dict whose keys are fixed."""
    if isinstance(value, dict):
        entries = {name: structured(item, name, key) for name, item in value.items()}
        return entries if _is_map(key, parent) else Struct(entries)
    if isinstance(value, list):
        return [structured(item, "", key) for item in value]
    if value is None:
        return NullList() if key in LISTS else NullMap() if _is_map(key, parent) else None
    return value


def _is_map(key: str, parent: str) -> bool:
    # Config is a map only in LogConfig; and an entry of a map is an object, whatever its name.
    return parent == "LogConfig" if key == "Config" else key in MAPS and parent not in MAPS
