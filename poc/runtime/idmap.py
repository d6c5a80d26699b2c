"""ID-mapped mounts (config.md, Mounts: uidMappings, gidMappings; mount_setattr(2)), before the container's clone.

Only who may administer the file system may map its ids. In a user namespace of its own the container's process may not.
"""

from __future__ import annotations

import os

from poc.namespaces import clone
from poc.runtime.create import map_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from poc.oci.types import Linux
    from poc.rootfs import Mount


def map_mounts(mounts: Sequence[Mount], linux: Linux, joined: Mapping[str, int]) -> None:
    """`Mount.map_ids` for each, as it says itself or as the container's user namespace does. Raises OSError."""
    for mount in mounts:
        if mount.mappings is None and "user" in joined:
            mount.map_ids(joined["user"])
            continue
        uids, gids = mount.mappings or (linux["uidMappings"], linux["gidMappings"])
        namespace = _user_namespace(uids, gids)
        try:
            mount.map_ids(namespace)
        finally:
            os.close(namespace)


def _user_namespace(uids: Any, gids: Any) -> int:
    """A descriptor of a new one, in which nobody is."""
    reader, writer = os.pipe()

    def wait() -> None:
        os.close(writer)
        os.read(reader, 1)

    try:
        process = clone(("user",), wait)
        try:
            map_ids(process.pid, {"uidMappings": uids, "gidMappings": gids})
            return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(reader)
        os.close(writer)
