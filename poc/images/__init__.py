"""The stores: images as content-addressed blobs, unpacked layers and references. Knows nothing of containers.

    references   `ubuntu`, `docker.io/library/ubuntu`, `ghcr.io/a/b:1` and what may be written in one
    store        blobs/, layers/, images/: add, get, list, tag, remove, clean
    archive      tar stream → rootfs directory and back, compression, digests
    bootstrap    the base image `ubuntu`, from whichever source this host can reach

Importing this package imports none of them: `store` and `references` lie on the hot path, the others don't.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.images.store import Image as Image
