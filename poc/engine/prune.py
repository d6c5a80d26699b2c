"""Everything poc made in a store, gone: what is left afterwards is what was there before `init`."""

from __future__ import annotations

import os

from poc import _fs
from poc.engine import recovery
from poc.errors import ContainerNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine import Engine


def prune(engine: Engine, images: bool = False, volumes: bool = False) -> list[str]:
    """Containers, bridge, nftables table and state; with ``images``, ``volumes`` those too. Returns a line for each."""
    try:
        lock = engine.paths.alone()
    except FileNotFoundError:
        return []
    with lock:
        recovery.recover_all(engine)
        removed = _remove_containers(engine)
        if engine.networks.exist():
            removed.append(f"network {engine.networks.remove()}")
        removed += _remove_volumes(engine, volumes)
        if images:
            removed += _remove_images(engine)
        _remove_state(engine, images)
    return removed


def _remove_containers(engine: Engine) -> list[str]:
    removed = []
    for container in engine.containers.list(all=True):
        try:
            container.remove(force=True, v=True)
            removed.append(f"container {container.id}")
        except ContainerNotFound:
            pass  # --rm was faster
    return removed


def _remove_volumes(engine: Engine, wanted: bool) -> list[str]:
    if not os.path.isdir(engine.paths.volumes) or not engine.volumes.list() or not wanted:
        return []
    return [f"volume {name}" for name in engine.volumes.prune(all=True)["VolumesDeleted"]]


def _remove_images(engine: Engine) -> list[str]:
    found = engine.images.list()
    for image in found:
        engine.images.store.remove(image.id, force=True)
    return [f"image {', '.join(image.references) or image.id}" for image in found]


def _remove_state(engine: Engine, images: bool) -> None:
    paths = engine.paths
    for directory in (paths.cache, paths.leases, paths.names, f"{paths.data}/networks"):
        _fs.remove_tree(directory)
    _fs.remove_tree(f"{paths.data}/events")
    stores = ("blobs", "layers", "images") if images else ()
    for directory in stores:
        _fs.remove_tree(f"{paths.data}/{directory}")
    for directory in (f"{paths.data}/containers", paths.volumes, paths.run, paths.data):
        try:
            os.rmdir(directory)
        except (FileNotFoundError, OSError):
            pass  # somebody began a new container, or the images or volumes stay
