"""What a process that only waits need not keep in memory: the monitor's, between one event and the next.

An interpreter that has just started a container has mapped most of its own program and of the libraries. Waiting
takes little of that, and what is needed later comes from the page cache. The heap stays: it is in use.
"""

from __future__ import annotations

from poc import _libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def shrink() -> None:
    """Give back the free part of the heap, and every page that is as its file has it. Takes about a millisecond.

    Only for a process without other threads: a mapping must not change between the look at it and the call.
    """
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as smaps:
        mappings = clean_mappings(smaps)
    _libc.malloc_trim()
    # Highest addresses first: this loop runs in the interpreter's own text, which lies below the libraries'.
    for start, length in reversed(mappings):
        _libc.forget_pages(start, length)


def clean_mappings(smaps: Iterable[str]) -> list[tuple[int, int]]:
    """(start, length) of the mappings in proc_pid_smaps(5) that hold nothing but what stands in their file."""
    found: dict[int, int] = {}
    start = 0
    for line in smaps:
        name, value, *rest = line.split()
        if not name.endswith(":"):
            start, end = (int(address, 16) for address in name.split("-"))
            if "w" not in value and rest[2] != "0":  # the inode
                found[start] = end - start
        # Not written to now, but once: a relocated table, made read-only since. Swapped out it is as private.
        elif name in ("Anonymous:", "Swap:") and value != "0":
            found.pop(start, None)
    return list(found.items())
