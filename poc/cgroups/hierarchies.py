"""Which cgroup hierarchies this host has, where they are mounted, and what they can enforce. Changes nothing."""

from __future__ import annotations

import os

from poc import _fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# What else stands among a v1 mount's options; all the rest are controllers.
_FLAGS = frozenset(("rw", "ro", "all", "none", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"))


class Hierarchies:
    """The hierarchies of one host.

    ``controllers`` maps each controller ("memory", "io", "name=systemd" …) to the directory its hierarchy is
    mounted on; ``unified`` is the mount of v2 or None; ``mode`` is "v1", "v2", or "hybrid" when both are there.
    ``facts`` gives the answers of `fact` beforehand, for plans made for another host than this one.
    """

    __slots__ = ("_facts", "controllers", "mode", "on_v2", "unified")

    def __init__(
        self, v1: dict[str, str], unified: str | None, on_v2: Iterable[str] = (), facts: dict[str, Any] | None = None
    ) -> None:
        self.unified = unified
        self.mode = "v1" if unified is None else "hybrid" if v1 else "v2"
        self.on_v2 = frozenset(on_v2)
        self.controllers = dict(v1)
        if unified is not None:
            self.controllers.update((controller, unified) for controller in self.on_v2)
        self._facts = dict(facts or {})

    def v2(self, controller: str) -> bool:
        """Is this controller on the unified hierarchy?"""
        return controller in self.on_v2

    def v1(self) -> list[str]:
        """The mounts of all v1 hierarchies; co-mounted controllers (cpu,cpuacct) give one."""
        return list(dict.fromkeys(path for path in self.controllers.values() if path != self.unified))

    def directories(self) -> list[str]:
        """All the hierarchies that a container joins, the unified one first."""
        return [self.unified, *self.v1()] if self.unified is not None else self.v1()

    def fact(self, name: str) -> Any:
        """A property of the host, as it is now, that plans depend on.

        "cpus", "mems"  the list of CPUs or memory nodes that groups can be given ("0-3")
        "swap"          is swap accounted for, so that it can be limited?
        "bfq", "cost"   names of disks ("8:0") whose scheduler is BFQ, or that have the I/O cost model on (v2)
        """
        return self._facts[name] if name in self._facts else _PROBES[name](self)


_host: Hierarchies | None = None


def host() -> Hierarchies:
    """The hierarchies of this host, read once per process."""
    global _host
    if _host is None:
        v1, unified = parse_mountinfo(_fs.read_text("/proc/self/mountinfo"))
        on_v2 = _fs.read_text(f"{unified}/cgroup.controllers").split() if unified is not None else ()
        _host = Hierarchies(v1, unified, on_v2)
    return _host


def parse_mountinfo(text: str) -> tuple[dict[str, str], str | None]:
    """The v1 mounts by controller, and the v2 mount, from proc_pid_mountinfo(5).

    A hierarchy can be mounted more than once, and only in part (its field 4, a group bound into a container):
    a mount of the whole comes first, then the first.
    """
    v1: dict[str, tuple[str, str]] = {}
    unified: tuple[str, str] | None = None
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, path = left.split(" ")[3:5]
        mount = (root, _fs.unescape_mountinfo(path))
        if kind == "cgroup2":
            unified = _better(unified, mount)
            continue
        for controller in _controllers(options):
            v1[controller] = _better(v1.get(controller), mount)
    return {name: path for name, (_, path) in v1.items()}, unified and unified[1]


def _better(known: tuple[str, str] | None, new: tuple[str, str]) -> tuple[str, str]:
    if known is None or (new[0] == "/" and known[0] != "/"):
        return new
    return known


def _controllers(options: str) -> list[str]:
    return [
        option
        for option in options.split(",")
        if option not in _FLAGS and (option.startswith("name=") or "=" not in option)
    ]


def _cpus(hierarchies: Hierarchies) -> str:
    return _processors(hierarchies, "cpus", "/sys/devices/system/cpu/online")


def _mems(hierarchies: Hierarchies) -> str:
    return _processors(hierarchies, "mems", "/sys/devices/system/node/online")


def _processors(hierarchies: Hierarchies, kind: str, online: str) -> str:
    directory = hierarchies.controllers.get("cpuset", "")
    file = f"cpuset.{kind}.effective" if hierarchies.v2("cpuset") else f"cpuset.{kind}"
    for path in (f"{directory}/{file}", online):
        try:
            return _fs.read_text(path)
        except FileNotFoundError:
            continue  # v2's root has no cpuset.*.effective before Linux 5.0, a kernel without NUMA no nodes
    return "0"


def _swap(hierarchies: Hierarchies) -> bool:
    # v2's root group has no memory.swap.max to look for: there a missing file is found when it is written.
    if hierarchies.v2("memory"):
        return os.path.exists("/proc/swaps")
    return os.path.exists(f"{hierarchies.controllers.get('memory', '')}/memory.memsw.limit_in_bytes")


def _bfq(_: Hierarchies) -> tuple[str, ...]:
    return tuple(_disks_with_bfq())


def _disks_with_bfq() -> Iterable[str]:
    for disk in os.listdir("/sys/block"):
        try:
            if "[bfq]" in _fs.read_text(f"/sys/block/{disk}/queue/scheduler"):
                yield _fs.read_text(f"/sys/block/{disk}/dev")
        except FileNotFoundError:
            continue  # a disk without a queue (device mapper, NVMe multipath), or one that was just pulled


def _cost(hierarchies: Hierarchies) -> tuple[str, ...]:
    try:
        lines = _fs.read_text(f"{hierarchies.unified}/io.cost.qos").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(line.split(" ")[0] for line in lines if "enable=1" in line.split(" "))


_PROBES: dict[str, Callable[[Hierarchies], Any]] = {
    "cpus": _cpus,
    "mems": _mems,
    "swap": _swap,
    "bfq": _bfq,
    "cost": _cost,
}
