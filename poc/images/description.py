"""docker's ``inspect`` object of an image. Pure but for a look at the blob of its configuration."""

from __future__ import annotations

import os

from poc import _fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.images.store import Image

# What docker says of how containers are made from an image that says nothing itself.
_DEFAULTS: dict[str, Any] = {
    **{"Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False},
    **{"AttachStderr": False, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None},
    **{"Image": "", "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": None},
}


def describe(image: Image, blobs: str) -> dict[str, Any]:
    """``blobs``: the directory of the store that holds the configurations."""
    written = _configuration(os.path.join(blobs, image.id[7:]))
    comments = [entry.get("comment", "") for entry in written.get("history", ())]
    return {
        "Id": image.id,
        "RepoTags": image.references,
        "RepoDigests": [],
        "Parent": "",
        "Comment": comments[-1] if comments else "",
        "Created": image.created,
        "DockerVersion": "",
        "Author": written.get("author", ""),
        "Config": {**_DEFAULTS, **image.config},
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": _layers(image.layers)},
        "RootFS": {"Type": "layers", "Layers": [f"sha256:{os.path.basename(layer)}" for layer in image.layers]},
        "Metadata": {"LastTagTime": image.tagged or "0001-01-01T00:00:00Z"},
    }


def _configuration(path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _fs.read_json(path)
    except FileNotFoundError:
        return {}
    return found


def _layers(layers: list[str]) -> dict[str, str]:
    below, top = layers[:-1], layers[-1:]
    data = {"LowerDir": ":".join(reversed(below))} if below else {}
    return {**data, "UpperDir": "".join(top)}
