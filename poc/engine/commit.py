"""A container becomes an image: what it has written is a layer on those of its own image.

::

    caller                                     child (`poc.engine.copying`)
    ──────                                     ─────
    a work directory in the store              lets the container stand still (`poc.engine.standstill`)
    unpacks, and digests what it reads ◀────── packs the upper directory as a layer (image-spec, layer.md)
                                               lets it go on
    layer, configuration, reference enter the store in one step

Killed anywhere, there is no image, and at most a work directory that the next commit removes.
"""

from __future__ import annotations

import hashlib
import os

from poc.engine import mounts
from poc.engine.archive import CHUNK, Packer, Sink, Unpacker
from poc.engine.changes import MOUNT_POINTS
from poc.engine.copying import Child
from poc.engine.instructions import change
from poc.engine.standstill import Standstill, end_abandoned
from poc.engine.tree import Tree
from poc.errors import InvalidArgument
from poc.images import references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from poc.engine.container import Container
    from poc.engine.images import Images
    from poc.images.store import Image


def commit(
    container: Container,
    images: Images,
    reference: str,
    *,
    message: str,
    author: str,
    changes: Sequence[str],
    pause: bool,
) -> Image:
    """See `Container.commit`."""
    reference = references.normalize(reference) if reference else ""
    if "@" in reference:
        raise InvalidArgument(f"{reference}: an image can't be committed to a digest")
    config = change(configuration(container), changes)
    step = {"created_by": " ".join(container.spec()["process"]["args"]), "author": author, "comment": message}
    store = images.store
    with container.paths.share(), Tree(container) as tree:
        base = images.get(container.image_id)
        store.sweep()
        with store.work() as work:
            rootfs = work.rootfs()
            layer = _take_layer(container, tree, rootfs, pause)
            image = store.stack(base, rootfs, layer, reference, config, step)
    container.emit("commit", comment=message, imageID=image.id, imageRef=reference)
    return image


def configuration(container: Container) -> dict[str, Any]:
    """The image's, with what was said when the container was made."""
    config, image = container.config, container.image_config
    variables = [*(image.get("Env") or ()), *config.environment]
    ports = [port if "/" in port else f"{port}/tcp" for port in config.expose]
    said = {
        "Env": list({entry.partition("=")[0]: entry for entry in variables}.values()),
        "Labels": container.labels,
        "User": config.user or image.get("User"),
        "WorkingDir": config.working_dir or image.get("WorkingDir"),
        "StopSignal": config.stop_signal or image.get("StopSignal"),
        "ExposedPorts": {**(image.get("ExposedPorts") or {}), **{port: {} for port in ports}},
        "Volumes": mounts.config_volumes(config.values, image.get("Volumes") or {}),
        "Healthcheck": container.healthcheck,
        "Cmd": config.command or image.get("Cmd"),
    }
    if config.entrypoint is not None:
        said |= {"Entrypoint": [part for part in config.entrypoint if part], "Cmd": config.command or None}
    return {key: value for key, value in {**image, **said}.items() if value or key in ("Cmd", "Env")}


def _take_layer(container: Container, tree: Tree, rootfs: str, pause: bool) -> str:
    """Unpack what the container has written in ``rootfs``. Returns the digest of the stream, "" for nothing."""

    def pack(stream: int, tell: Callable[..., None]) -> None:
        if pause and tree.runs:
            with Standstill(container):
                _pack(tree, stream, tell)
        else:
            _pack(tree, stream, tell)

    try:
        with Child(tree, pack, reads=False) as child:
            if not child.hear():
                child.finish()
                return ""
            file = _Digesting(child.stream)
            place = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                Unpacker(place, overlay=True).run(file)  # type: ignore[arg-type]
            except InvalidArgument:
                child.finish()  # which knows better why the stream has ended
                raise
            finally:
                os.close(place)
            child.finish()
            return f"sha256:{file.digest.hexdigest()}"
    finally:
        end_abandoned(container)  # the child may have been killed


def _pack(tree: Tree, stream: int, tell: Callable[..., None]) -> None:
    changed = {path for path, _ in tree.changes()}
    tell(bool(changed))
    if changed:
        own = {path.lstrip("/") for path in MOUNT_POINTS - changed}
        Packer(tree.open_upper(), ".", ".", Sink(stream), overlay=True, without=own).run()


class _Digesting:
    """A file that is digested as it is read."""

    __slots__ = ("_fd", "digest")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.digest = hashlib.sha256()

    def read(self, size: int = CHUNK) -> bytes:
        data = os.read(self._fd, size)
        self.digest.update(data)
        return data
