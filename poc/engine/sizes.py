"""How much room things take on disk, as docker counts it. Changes nothing."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def written(overlay: Mapping[str, Any]) -> int:
    """Bytes that a container has written; ``overlay`` as `Bundle.overlay` gives it."""
    if overlay["disk"]:
        return _allocated(overlay["disk"])  # its files are in there, and can't be seen while it runs
    return tree_size(overlay["upper"])


def tree_size(directory: str) -> int:
    """Bytes in the files of a tree, one with several links once, what is mounted in it left out; 0 if it is gone.

    What goes away meanwhile counts for nothing, and what is nested deeper than a path can say.
    """
    try:
        device = os.lstat(directory).st_dev
    except OSError:
        return 0
    total, linked, pending = 0, set(), [directory]
    while pending:
        for entry in _entries(pending.pop()):
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_dev != device:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif found.st_nlink == 1 or found.st_ino not in linked:
                total += found.st_size
                linked.add(found.st_ino)
    return total


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _allocated(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
