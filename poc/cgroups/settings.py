"""From OCI resources to cgroup files: a pure plan, so that it can be read and tested without a kernel.

Values are the OCI runtime specification's (config-linux.md): bytes, microseconds, v1's scales. Unset is None,
and 0 where the specification's JSON makes no difference (all but pids and swappiness); -1 is "no limit".
For v2 they are converted as runc converts them. What can't be enforced on these hierarchies is refused.
"""

from __future__ import annotations

from poc.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from poc.cgroups.hierarchies import Hierarchies

    Resources = Mapping[str, Any]

# (lowest, highest) that the kernel takes as it is: beyond these v1 clamps shares and blkio refuses with EINVAL.
_SHARES, _PERIOD, _WEIGHT, _SWAPPINESS = (2, 262144), (1000, 1_000_000), (10, 1000), (0, 100)
_MINIMUM_QUOTA = 1000

_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


class Setting:
    """One write: ``value`` into ``file`` of the group in ``controller``'s hierarchy."""

    __slots__ = ("controller", "file", "value")

    def __init__(self, controller: str, file: str, value: str | int) -> None:
        self.controller = controller
        self.file = file
        self.value = str(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Setting) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Setting({self.controller!r}, {self.file!r}, {self.value!r})"

    def _key(self) -> tuple[str, str, str]:
        return self.controller, self.file, self.value


def plan(resources: Resources, hierarchies: Hierarchies) -> list[Setting]:
    """The writes that put ``resources`` (OCI ``linux.resources``) into force, in the order for a new group.

    The whole wish goes in at once: a memory.swap without memory.limit has no meaning, and on v2 a period
    without its quota lifts the quota. Devices are `Cgroup.allow_devices`'s.

    Raises InvalidArgument for a value that no host takes, Unsupported for what this one lacks.
    """
    settings: list[Setting] = []
    for name, planner in _PLANNERS:
        if wish := resources.get(name):
            settings.extend(planner(wish, hierarchies))
    for setting in settings:
        _require(setting, hierarchies)
    return settings


def _require(setting: Setting, hierarchies: Hierarchies) -> None:
    if setting.controller in hierarchies.controllers or setting.controller == "cgroup":
        return
    where = f"{hierarchies.unified}/cgroup.controllers" if hierarchies.mode == "v2" else "/proc/self/mountinfo"
    raise Unsupported(
        f"{setting.controller}: this host has no such cgroup controller (see {where}), "
        f"so {setting.file} can't be set to {setting.value}"
    )


def _cpu(cpu: Resources, host: Hierarchies) -> Iterator[Setting]:
    shares, quota, period = cpu.get("shares"), cpu.get("quota"), cpu.get("period")
    if shares:
        _in_range("cpu.shares", shares, _SHARES)
    if period:
        _in_range("cpu.period", period, _PERIOD)
    if quota and 0 < quota < _MINIMUM_QUOTA:
        raise InvalidArgument(f"cpu.quota: {quota} µs is less than {_MINIMUM_QUOTA} µs, the least the kernel schedules")
    yield from (_cpu_v2 if host.v2("cpu") else _cpu_v1)(cpu, shares, quota, period)
    yield from _cpuset(cpu, host)


def _cpu_v1(cpu: Resources, shares: int | None, quota: int | None, period: int | None) -> Iterator[Setting]:
    if shares:
        yield Setting("cpu", "cpu.shares", shares)
    if period:
        yield Setting("cpu", "cpu.cfs_period_us", period)
    if quota:
        yield Setting("cpu", "cpu.cfs_quota_us", max(quota, -1))
    for key, file in (
        ("burst", "cpu.cfs_burst_us"),
        ("idle", "cpu.idle"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
    ):
        if cpu.get(key):
            yield Setting("cpu", file, cpu[key])


def _cpu_v2(cpu: Resources, shares: int | None, quota: int | None, period: int | None) -> Iterator[Setting]:
    if cpu.get("realtimePeriod") or cpu.get("realtimeRuntime"):
        raise Unsupported("cpu: cgroup v2 has no real-time budget (cpu.rt_runtime_us is v1's)")
    if shares:
        yield Setting("cpu", "cpu.weight", cpu_weight(shares))
    if quota or period:
        amount = str(quota) if quota and quota > 0 else "max"
        yield Setting("cpu", "cpu.max", f"{amount} {period}" if period else amount)
    if cpu.get("burst"):
        yield Setting("cpu", "cpu.max.burst", cpu["burst"])
    if cpu.get("idle"):
        yield Setting("cpu", "cpu.idle", cpu["idle"])


def cpu_weight(shares: int) -> int:
    """v2's cpu.weight (1 to 10000, default 100) for v1's shares (2 to 262144, default 1024).

    The curve goes through both ends and the default: 10^((l² + 125 l) / 612 - 7 / 34), l = log2(shares).
    """
    from math import ceil, log2

    if shares >= _SHARES[1]:
        return 10000
    level = log2(max(shares, 2))
    return ceil(10 ** ((level * level + 125 * level) / 612 - 7 / 34))


def _cpuset(cpu: Resources, host: Hierarchies) -> Iterator[Setting]:
    for key, what in (("cpus", "CPU"), ("mems", "memory node")):
        if wish := cpu.get(key):
            _available(key, what, wish, host)
            yield Setting("cpuset", f"cpuset.{key}", wish)


def _available(key: str, what: str, wish: str, host: Hierarchies) -> None:
    # v2 takes any number that the kernel was built for, and then runs the group wherever its parent may.
    have = str(host.fact(key))
    ranges = parse_list(have)
    for first, last in parse_list(wish):
        if not any(low <= first and last <= high for low, high in ranges):
            raise InvalidArgument(f"cpuset.{key}: {wish} asks for a {what} that this host does not have; it has {have}")


def parse_list(text: str) -> list[tuple[int, int]]:
    """The (first, last) ranges of a list of CPUs or memory nodes, "0-2,7" (cpuset(7)), adjoining ones merged."""
    ranges: list[tuple[int, int]] = []
    for part in sorted(_parse_range(part, text) for part in text.strip().split(",")):
        if ranges and part[0] <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], part[1]))
        else:
            ranges.append(part)
    return ranges


def _parse_range(part: str, text: str) -> tuple[int, int]:
    first, dash, last = part.strip().partition("-")
    if not (first.isdecimal() and first.isascii()) or (dash and not (last.isdecimal() and last.isascii())):
        raise InvalidArgument(f"cpuset: {text!r} is no list of numbers and ranges such as 0-2,7")
    low, high = int(first), int(last or first)
    if low > high:
        raise InvalidArgument(f"cpuset: the range {part} in {text!r} ends before it begins")
    return low, high


def _memory(memory: Resources, host: Hierarchies) -> Iterator[Setting]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if (memory.get("kernel") or 0) > 0:
        raise Unsupported("memory.kernel: Linux no longer limits kernel memory apart from the rest (since 5.16)")
    if swap > 0 and limit <= 0:
        raise InvalidArgument("memory.swap: a limit on memory and swap together needs memory.limit too")
    if 0 < swap < limit:
        raise InvalidArgument(f"memory.swap: {swap} is less than memory.limit, {limit}, which it includes")
    if swap > 0 and not host.fact("swap"):
        raise Unsupported(
            "memory.swap: this kernel does not account for swap (no memory.memsw.limit_in_bytes; "
            "boot it with swapaccount=1)"
        )
    yield from (_memory_v2 if host.v2("memory") else _memory_v1)(memory, limit, swap, host)


def _memory_v1(memory: Resources, limit: int, swap: int, host: Hierarchies) -> Iterator[Setting]:
    if limit:
        yield Setting("memory", "memory.limit_in_bytes", max(limit, -1))
    # Without a limit on memory one on both can't stand, and would be in the way.
    if (swap or limit < 0) and host.fact("swap"):
        yield Setting("memory", "memory.memsw.limit_in_bytes", swap if swap > 0 else -1)
    if memory.get("reservation"):
        yield Setting("memory", "memory.soft_limit_in_bytes", max(memory["reservation"], -1))
    if memory.get("kernelTCP"):
        yield Setting("memory", "memory.kmem.tcp.limit_in_bytes", max(memory["kernelTCP"], -1))
    if memory.get("disableOOMKiller"):
        yield Setting("memory", "memory.oom_control", 1)
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        _in_range("memory.swappiness", swappiness, _SWAPPINESS)
        yield Setting("memory", "memory.swappiness", swappiness)


def _memory_v2(memory: Resources, limit: int, swap: int, host: Hierarchies) -> Iterator[Setting]:
    if memory.get("disableOOMKiller"):
        raise Unsupported("memory.disableOOMKiller: cgroup v2 always kills in a group out of memory; only v1 can wait")
    if memory.get("swappiness") not in (None, -1):
        raise Unsupported("memory.swappiness: on cgroup v2 a group has none of its own (memory.swappiness is v1's)")
    if (memory.get("kernelTCP") or 0) > 0:
        raise Unsupported("memory.kernelTCP: cgroup v2 has no limit on TCP buffers alone")
    if limit:
        yield Setting("memory", "memory.max", _or_max(limit))
    if (swap or limit < 0) and host.fact("swap"):
        yield Setting("memory", "memory.swap.max", swap - limit if swap > 0 else "max")
    if memory.get("reservation"):
        yield Setting("memory", "memory.low", _or_max(memory["reservation"]))


def _pids(pids: Resources, _: Hierarchies) -> Iterator[Setting]:
    limit = pids.get("limit")
    if limit is not None:
        yield Setting("pids", "pids.max", _or_max(limit))


def _block_io(block: Resources, host: Hierarchies) -> Iterator[Setting]:
    for key in ("leafWeight", "weight"):
        if block.get(key):
            _in_range(f"blockIO.{key}", block[key], _WEIGHT)
    if block.get("leafWeight") or any(device.get("leafWeight") for device in block.get("weightDevice") or ()):
        raise Unsupported("blockIO.leafWeight: went with the CFQ scheduler in Linux 5.0")
    if block.get("weight"):
        yield from _weights("", block["weight"], host)
    for device in block.get("weightDevice") or ():
        if device.get("weight"):
            _in_range("blockIO.weightDevice", device["weight"], _WEIGHT)
            yield from _weights(_number(device), device["weight"], host)
    yield from _throttles(block, host)


def _weights(disk: str, weight: int, host: Hierarchies) -> Iterator[Setting]:
    """The kernel takes a weight always, and heeds it only on disks scheduled by BFQ, or by v2's I/O cost model."""
    controller, file = ("io", "io.bfq.weight") if host.v2("io") else ("blkio", "blkio.bfq.weight")
    bfq, cost = _heeds(disk, host.fact("bfq")), host.v2("io") and _heeds(disk, host.fact("cost"))
    if not (bfq or cost):
        raise Unsupported(
            f"{controller}: {file} would have no effect, because "
            + (f"disk {disk} does not use" if disk else "no disk here uses")
            + " the bfq I/O scheduler (echo bfq > /sys/block/DISK/queue/scheduler)"
        )
    if bfq:
        yield Setting(
            controller, file + ("_device" if disk and controller == "blkio" else ""), f"{disk} {weight}".strip()
        )
    if cost:
        yield Setting("io", "io.weight", f"{disk} {io_weight(weight)}".strip())


def _heeds(disk: str, disks: tuple[str, ...]) -> bool:
    return disk in disks if disk else bool(disks)


def io_weight(weight: int) -> int:
    """v2's io.weight (1 to 10000) for v1's blkio weight (10 to 1000): a straight line."""
    return 1 + (weight - 10) * 9999 // 990


def _throttles(block: Resources, host: Hierarchies) -> Iterator[Setting]:
    for key, file, word in _THROTTLES:
        for device in block.get(key) or ():
            disk, rate = _number(device), device["rate"]
            if host.v2("io"):
                yield Setting("io", "io.max", f"{disk} {word}={rate or 'max'}")
            else:
                yield Setting("blkio", file, f"{disk} {rate}")


def _number(device: Resources) -> str:
    return f"{device['major']}:{device['minor']}"


def _huge_pages(limits: list[Resources], host: Hierarchies) -> Iterator[Setting]:
    ending = "max" if host.v2("hugetlb") else "limit_in_bytes"
    for limit in limits:
        # Page faults alone would end in SIGBUS; the reservation is refused in time, with ENOMEM from mmap.
        for kind in ("", "rsvd."):
            yield Setting("hugetlb", f"hugetlb.{limit['pageSize']}.{kind}{ending}", limit["limit"])


def _network(network: Resources, _: Hierarchies) -> Iterator[Setting]:
    if network.get("classID"):
        yield Setting("net_cls", "net_cls.classid", network["classID"])
    for entry in network.get("priorities") or ():
        yield Setting("net_prio", "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}")


def _rdma(devices: Resources, _: Hierarchies) -> Iterator[Setting]:
    for device, limits in devices.items():
        for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(key) is not None:
                yield Setting("rdma", "rdma.max", f"{device} {word}={limits[key]}")


def _unified(files: Resources, host: Hierarchies) -> Iterator[Setting]:
    for file, value in files.items():
        controller, dot, _ = file.partition(".")
        if not dot or "/" in file:
            raise InvalidArgument(f"unified: {file!r} is no name of a cgroup v2 file, such as memory.high")
        if controller == "cgroup" and not file.startswith("cgroup.max."):  # frozen or killed before it begins
            raise InvalidArgument(f"unified: {file} is no limit")
        if host.unified is None or not (controller == "cgroup" or host.v2(controller)):
            raise Unsupported(f"unified: {file} needs the controller {controller} on cgroup v2, where it is not here")
        # A file with a line per device takes one line in one write.
        for line in value.splitlines():
            yield Setting(controller, file, line)


def _or_max(value: int) -> str | int:
    return "max" if value < 0 else value


def _in_range(name: str, value: int, bounds: tuple[int, int]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise InvalidArgument(f"{name}: {value} is not between {bounds[0]} and {bounds[1]}")


_PLANNERS: tuple[tuple[str, Any], ...] = (
    ("cpu", _cpu),
    ("memory", _memory),
    ("pids", _pids),
    ("blockIO", _block_io),
    ("hugepageLimits", _huge_pages),
    ("network", _network),
    ("rdma", _rdma),
    ("unified", _unified),
)
