"""What a group has used so far, in the same words for v1 and v2. Not on the way of a start."""

from __future__ import annotations

from poc import _fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.cgroups.hierarchies import Hierarchies

_BYTES = {"Read": "read_bytes", "Write": "write_bytes"}
_OPERATIONS = {"Read": "reads", "Write": "writes"}
_UNLIMITED = 1 << 60  # v1 says "no limit" with the highest multiple of a page


def read(hierarchies: Hierarchies, path: str) -> dict[str, Any]:
    """The group's figures, by controller; one that this host lacks, or that is not enabled, is left out.

    cpu      usage, user, system, throttled (nanoseconds), periods, throttled_periods
    memory   usage, peak, limit (bytes; None: no limit), swap (bytes), inactive_file (bytes of cache that
             docker's figure leaves out), oom_kills
    pids     current, limit
    io       a list of {device "8:0", read_bytes, write_bytes, reads, writes}; on v1 some kernels count only
             where a throttle or BFQ is at work

    Source: admin-guide/cgroup-v1/{cpuacct,memory,pids,blkio-controller}.rst, admin-guide/cgroup-v2.rst.
    """
    figures = {}
    for name, v1, v2 in (
        ("cpu", _cpu_v1, _cpu_v2),
        ("memory", _memory_v1, _memory_v2),
        ("pids", _pids, _pids),
        ("io", _io_v1, _io_v2),
    ):
        controller = "blkio" if name == "io" and not hierarchies.v2("io") else name
        root = hierarchies.controllers.get(controller)
        if root is None:
            continue
        try:
            figures[name] = (v2 if hierarchies.v2(controller) else v1)(_Files(hierarchies, path, f"{root}/{path}"))
        except FileNotFoundError:
            continue  # not enabled on v2, or the group is gone
    return figures


class _Files:
    """A group's files, parsed."""

    __slots__ = ("_directory", "_hierarchies", "_path")

    def __init__(self, hierarchies: Hierarchies, path: str, directory: str) -> None:
        self._hierarchies = hierarchies
        self._path = path
        self._directory = directory

    def text(self, file: str) -> str:
        return _fs.read_text(f"{self._directory}/{file}")

    def optional_text(self, file: str) -> str:
        try:
            return self.text(file)
        except FileNotFoundError:
            return ""

    def number(self, file: str) -> int:
        return int(self.text(file))

    def optional(self, file: str) -> int | None:
        text = self.optional_text(file)
        return int(text) if text else None

    def limit(self, file: str) -> int | None:
        text = self.text(file)
        return None if text == "max" or int(text) >= _UNLIMITED else int(text)

    def keyed(self, file: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in self.text(file).splitlines())}

    def other(self, controller: str) -> _Files | None:
        root = self._hierarchies.controllers.get(controller)
        return None if root is None else _Files(self._hierarchies, self._path, f"{root}/{self._path}")


def _cpu_v1(files: _Files) -> dict[str, Any]:
    stat, account = files.keyed("cpu.stat"), files.other("cpuacct")
    return {
        "usage": account.number("cpuacct.usage") if account else None,
        "user": account.number("cpuacct.usage_user") if account else None,
        "system": account.number("cpuacct.usage_sys") if account else None,
        "throttled": stat["throttled_time"],
        "periods": stat["nr_periods"],
        "throttled_periods": stat["nr_throttled"],
    }


def _cpu_v2(files: _Files) -> dict[str, Any]:
    stat = files.keyed("cpu.stat")
    return {
        "usage": stat["usage_usec"] * 1000,
        "user": stat["user_usec"] * 1000,
        "system": stat["system_usec"] * 1000,
        "throttled": stat.get("throttled_usec", 0) * 1000,
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
    }


def _memory_v1(files: _Files) -> dict[str, Any]:
    usage, both = files.number("memory.usage_in_bytes"), files.optional("memory.memsw.usage_in_bytes")
    return {
        "usage": usage,
        "peak": files.number("memory.max_usage_in_bytes"),
        "limit": files.limit("memory.limit_in_bytes"),
        "swap": None if both is None else max(both - usage, 0),
        "inactive_file": files.keyed("memory.stat")["total_inactive_file"],
        "oom_kills": files.keyed("memory.oom_control").get("oom_kill", 0),
    }


def _memory_v2(files: _Files) -> dict[str, Any]:
    return {
        "usage": files.number("memory.current"),
        "peak": files.optional("memory.peak"),
        "limit": files.limit("memory.max"),
        "swap": files.optional("memory.swap.current"),
        "inactive_file": files.keyed("memory.stat")["inactive_file"],
        "oom_kills": files.keyed("memory.events")["oom_kill"],
    }


def _pids(files: _Files) -> dict[str, Any]:
    return {"current": files.number("pids.current"), "limit": files.limit("pids.max")}


def _io_v1(files: _Files) -> list[dict[str, Any]]:
    # The throttle may count only what it throttles, and BFQ only its own disks: whoever saw more is right.
    devices: dict[str, dict[str, Any]] = {}
    for file, names in (
        ("blkio.throttle.io_service_bytes_recursive", _BYTES),
        ("blkio.throttle.io_serviced_recursive", _OPERATIONS),
        ("blkio.bfq.io_service_bytes_recursive", _BYTES),
        ("blkio.bfq.io_serviced_recursive", _OPERATIONS),
    ):
        for device, operation, value in _three(files.optional_text(file)):
            if operation in names:
                figures, name = devices.setdefault(device, _idle(device)), names[operation]
                figures[name] = max(figures[name], int(value))
    return list(devices.values())


def _three(text: str) -> list[list[str]]:
    return [fields for fields in (line.split() for line in text.splitlines()) if len(fields) == 3]


def _io_v2(files: _Files) -> list[dict[str, Any]]:
    names = {"rbytes": "read_bytes", "wbytes": "write_bytes", "rios": "reads", "wios": "writes"}
    devices = []
    for line in files.text("io.stat").splitlines():
        device, *pairs = line.split()
        figures = _idle(device)
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key in names:
                figures[names[key]] = int(value)
        devices.append(figures)
    return devices


def _idle(device: str) -> dict[str, Any]:
    return {"device": device, "read_bytes": 0, "write_bytes": 0, "reads": 0, "writes": 0}
