"""Intel RDT: shares of cache and memory bandwidth by the kernel's resctrl file system, OCI ``linux.intelRdt``.

    <mount>/<closID, or the container's id>/schemata                 the shares
                                            tasks                    who has them
                                            mon_groups/<id>/tasks    who is counted apart

(config-linux.md, IntelRdt; Documentation/filesystems/resctrl.rst.) Mounting it is the host's affair.
"""

from __future__ import annotations

import os

from poc import _fs
from poc.errors import Conflict, NotFound, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


def mount_point() -> str:
    """Where resctrl is mounted. Raises Unsupported."""
    for line in _fs.read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("resctrl "):
            return _fs.unescape_mountinfo(left.split(" ")[4])
    raise Unsupported("/linux/intelRdt: no resctrl file system is mounted here (it takes a processor with RDT)")


def plan(rdt: Mapping[str, Any], id: str, mount: str = "") -> dict[str, Any]:
    """What a container's state keeps of its class: the directories it joins, those it makes, and what to write.

    Raises Unsupported without resctrl, NotFound and Conflict about a class that is said to be there.
    """
    name, lines, monitoring = rdt.get("closID", ""), schemata(rdt), rdt.get("enableMonitoring", False)
    mount = mount or mount_point()
    directory = mount if name == "/" else f"{mount}/{name or id}"
    there = os.path.isdir(directory)
    if name and not lines and not there:
        raise NotFound(f"/linux/intelRdt/closID: there is no {directory}, and nothing is said of what it should hold")
    if name and lines and there:
        _compare(directory, lines)
    monitored = [f"{directory}/mon_groups/{id}"] if monitoring else []
    return {
        "joined": [directory, *monitored],
        "made": [*([] if there else [directory]), *monitored],
        "removed": [*monitored, *([] if name or there else [directory])],
        "schemata": [] if name and there else lines,
    }


def schemata(rdt: Mapping[str, Any]) -> list[str]:
    """The lines for the file schemata, in the specification's order."""
    return [line for line in (rdt.get("l3CacheSchema"), rdt.get("memBwSchema"), *rdt.get("schemata", ())) if line]


def _compare(directory: str, lines: Iterable[str]) -> None:
    have = _shares(_fs.read_text(f"{directory}/schemata").splitlines())
    for key, value in _shares(lines).items():
        if have.get(key) != value:
            raise Conflict(
                f"/linux/intelRdt: {directory} has {have.get(key, 'nothing')} for {':'.join(key)}, not {value}"
            )


def _shares(lines: Iterable[str]) -> dict[tuple[str, str], str]:
    """{(resource, domain): share} of lines such as "L3:0=7f0;1=1f"."""
    shares = {}
    for line in lines:
        resource, _, domains = line.strip().partition(":")
        for entry in filter(None, domains.split(";")):
            domain, _, value = entry.partition("=")
            shares[resource, domain.strip()] = value.strip().lower().lstrip("0")
    return shares


def establish(planned: Mapping[str, Any], pid: int) -> None:
    """Make what `plan` says, and have a process in it. Raises OSError with the kernel's own reason."""
    for directory in planned["made"]:
        os.mkdir(directory, 0o755)
    write(planned, planned["schemata"])
    add(planned, pid)


def write(planned: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Give the class other shares. Raises OSError."""
    for line in lines:
        _write(f"{planned['joined'][0]}/schemata", f"{line}\n")


def add(planned: Mapping[str, Any], pid: int) -> None:
    """Have one more process in the class. Raises OSError."""
    for directory in planned["joined"]:
        _write(f"{directory}/tasks", str(pid))


def _write(path: str, text: str) -> None:
    try:
        _fs.write_text(path, text)
    except OSError as error:
        reason = _fs.read_text(f"{mount_point()}/info/last_cmd_status")
        raise OSError(error.errno, f"/linux/intelRdt: {error.strerror} ({reason})") from None


def remove(planned: Mapping[str, Any]) -> None:
    """Undo `establish`, as far as the specification wants it undone. Content when it is gone."""
    for directory in planned["removed"]:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
