"""What running containers use: two readings of their groups make docker's percentages. Changes nothing."""

from __future__ import annotations

import os
import time

from poc import _fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine.container import Container


class Reading:
    """One container at one moment: ``cpu`` in nanoseconds since its start, the rest in bytes and processes.

    ``memory`` leaves out the cache that the kernel would drop first (docker's rule), ``limit`` is the host's memory
    where there is none. ``network`` and ``block`` are (in, out) since its start.
    """

    __slots__ = ("block", "cpu", "limit", "memory", "network", "pids", "when")

    def __init__(self, container: Container) -> None:
        """Raises Conflict unless it runs, or is paused."""
        pid = container.living_process()[0]
        figures: dict[str, Any] = container.cgroup.stats()
        memory = figures.get("memory", {"usage": 0, "inactive_file": 0, "limit": None})
        self.when = time.monotonic_ns()
        self.cpu: int = figures.get("cpu", {}).get("usage") or 0
        self.memory: int = max(memory["usage"] - memory["inactive_file"], 0)
        self.limit: int = min(memory["limit"] or _host_memory(), _host_memory())
        self.pids: int = figures.get("pids", {}).get("current", 0)
        self.block = tuple(sum(disk[key] for disk in figures.get("io", ())) for key in ("read_bytes", "write_bytes"))
        self.network = _network(pid) if container.config.network != "host" else (0, 0)

    def cpu_percent(self, before: Reading) -> float:
        """Of one CPU, since an earlier reading."""
        passed = self.when - before.when
        return 100.0 * (self.cpu - before.cpu) / passed if passed > 0 else 0.0

    def memory_percent(self) -> float:
        return 100.0 * self.memory / self.limit


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _network(pid: int) -> tuple[int, int]:
    """Bytes in and out of all interfaces but lo, of the namespace a process is in (proc_pid_net(5))."""
    try:
        lines = _fs.read_text(f"/proc/{pid}/net/dev").splitlines()[2:]
    except OSError:
        return 0, 0  # it has just ended
    rows = [line.partition(":")[::2] for line in lines]
    counted = [numbers.split() for name, numbers in rows if name.strip() != "lo"]
    return sum(int(numbers[0]) for numbers in counted), sum(int(numbers[8]) for numbers in counted)
