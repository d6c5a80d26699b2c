"""What programs do inside: sysbench, as it is compared with the host (`poc bench --vs-host`) and in the matrix.

``compare.sysbench.*`` are the original's five workloads, 60 and 300 seconds long. ``performance.*`` are Touchstone's,
with a fixed number of events where it asks for a time: sysbench 1.x would end after 10 seconds whatever it got done.
"""

from __future__ import annotations

import math
import subprocess

from poc.bench import sysbench
from poc.bench.runtimes.base import EXEC, LIFE
from poc.bench.statistics import HIGHER
from poc.bench.suites.base import Measured, Metric, Settings, Suite, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poc.bench.image import Image
    from poc.bench.runtimes.base import Runtime

_EVENTS = Metric("general.events_per_second", "events", "1/s", HIGHER)
_TIME = Metric("general.total_time", "total time", "s")
_AVERAGE = Metric("latency.mean", "latency, average", "ms")
_P95 = Metric("latency.p95", "latency, 95th percentile", "ms")
_MAX = Metric("latency.max", "latency, maximum", "ms")
_MIN = Metric("latency.min", "latency, minimum", "ms")
_UNFAIR = Metric("fairness.events.stddev", "spread of events over threads", "events")
_LATENCIES = (_AVERAGE, _P95, _MAX)
_OPERATIONS = Metric("memory.operations_per_second", "operations", "1/s", HIGHER)
_TRANSFER = Metric("memory.mib_per_second", "transfer", "MiB/s", HIGHER)
_READS = Metric("fileio.reads_per_second", "reads", "1/s", HIGHER)
_WRITES = Metric("fileio.writes_per_second", "writes", "1/s", HIGHER)
_SYNCS = Metric("fileio.fsyncs_per_second", "fsyncs", "1/s", HIGHER)
_READ = Metric("throughput.read_mib_per_second", "read", "MiB/s", HIGHER)
_WRITTEN = Metric("throughput.written_mib_per_second", "written", "MiB/s", HIGHER)


class Workload(Suite):
    """One call of sysbench. ``arguments`` makes its command line, ``time`` tells about how many seconds it takes."""

    programs = ("sysbench",)

    def __init__(
        self,
        name: str,
        title: str,
        metrics: tuple[Metric, ...],
        arguments: Callable[[Settings], list[str]],
        time: Callable[[Settings], float],
    ) -> None:
        self.name = name
        self.title = title
        self.metrics = metrics
        self.headline = metrics[0].key
        self._arguments = arguments
        self._time = time

    def seconds(self, settings: Settings) -> float:
        return self._time(settings) + 0.5

    def command(self, settings: Settings) -> str:
        return " ".join(["sysbench", *self._arguments(settings), "run"])

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        raw = runtime.run(["sysbench", *self._arguments(settings), "run"])
        return Measured(sysbench.parse(raw), raw)


class FileWorkload(Workload):
    """sysbench fileio: files made, the page cache dropped, measured, files removed; all on one file system."""

    def lacks(self, runtime: Runtime, image: Image) -> str:
        if LIFE in runtime.can and EXEC not in runtime.can:
            return f"{runtime.name} has no {EXEC}"
        return super().lacks(runtime, image)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        command = ["sysbench", *self._arguments(settings)]
        with place(runtime) as run:
            run([*command, "prepare"])
            try:
                note = "page cache dropped" if drop_caches() else "the page cache could not be dropped"
                raw = run([*command, "run"])
            finally:
                run([*command, "cleanup"])
        return Measured(sysbench.parse(raw), raw, (note,))


def drop_caches() -> bool:
    """Write back what is dirty and forget all cached files (proc_sys_vm(5)); can that be done here?"""
    subprocess.run(["sync"], check=False)
    try:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
    except OSError:
        return False
    return True


def _timed(
    name: str,
    title: str,
    metrics: tuple[Metric, ...],
    fixed: str,
    full: int,
    quick: int,
    at_most: float = math.inf,
) -> Workload:
    """One that runs for so many seconds, whatever it gets done; ``at_most``: what it usually takes to be through."""
    return Workload(
        name,
        title,
        metrics,
        lambda settings: [*fixed.split(), f"--time={settings.whole(full, quick)}"],
        lambda settings: min(settings.whole(full, quick), at_most),
    )


def _mib(settings: Settings, full: int, quick: int, least: int = 16) -> str:
    return f"{settings.whole(full, quick, least)}M"


def _file_arguments(settings: Settings) -> list[str]:
    size = _mib(settings, 10240, 128)
    files = [] if not settings.quick else ["--file-num=16"]  # 128 of them are 10 % of the time of a short run
    time = f"--time={settings.whole(300, 3)}"
    return ["fileio", f"--file-total-size={size}", *files, "--file-test-mode=rndrw", time, "--max-requests=0"]


COMPARE = (
    _timed(
        "compare.sysbench.cpu",
        "CPU",
        (Metric("cpu.events_per_second", "events", "1/s", HIGHER), *_LATENCIES, _UNFAIR),
        "cpu --threads=100 --cpu-max-prime=64000",
        full=60,
        quick=2,
    ),
    _timed(
        "compare.sysbench.threads",
        "Threads",
        (_EVENTS, *_LATENCIES, _UNFAIR),
        "threads --threads=64 --thread-yields=100 --thread-locks=2",
        full=10,
        quick=2,
    ),
    _timed(
        "compare.sysbench.memory",
        "Memory, 100 threads",
        (_OPERATIONS, _TRANSFER, _MAX, _UNFAIR),
        "memory --threads=100 --memory-oper=write",
        full=60,
        quick=2,
        at_most=25,  # sysbench ends when it has written 100 GiB
    ),
    Workload(
        "compare.sysbench.memory-blocks",
        "Memory, blocks of 1 MiB",
        (_TRANSFER, _OPERATIONS, *_LATENCIES),
        lambda settings: [
            *("memory", "--memory-block-size=1M"),
            f"--memory-total-size={_mib(settings, 10240, 10240, 1024)}",
        ],
        lambda settings: 1.0,
    ),
    FileWorkload(
        "compare.sysbench.fileio",
        "Files",
        (_READS, _WRITES, _SYNCS, _READ, _WRITTEN, *_LATENCIES),
        _file_arguments,
        lambda settings: settings.pick(300 + 30, 3 + 1),
    ),
)


def _memory(settings: Settings) -> list[str]:
    return ["memory", "--memory-block-size=1K", f"--memory-total-size={_mib(settings, 8192, 2048)}", "--time=0"]


def _disk(mode: str) -> Callable[[Settings], list[str]]:
    def arguments(settings: Settings) -> list[str]:
        size, time = _mib(settings, 1024, 64), f"--time={settings.whole(10, 1)}"
        return ["fileio", f"--file-total-size={size}", "--file-num=16", f"--file-test-mode={mode}", time]

    return arguments


PERFORMANCE = (
    Workload(
        "performance.cpu.time",
        "CPU, a fixed number of primes",
        (_TIME, _AVERAGE),
        lambda settings: [
            *("cpu", "--cpu-max-prime=20000", "--time=0"),
            f"--events={settings.whole(5000, 500, 10)}",
        ],
        lambda settings: settings.pick(4, 0.4),
    ),
    *(
        Workload(f"performance.memory.{facet}", title, metrics, _memory, lambda settings: settings.pick(2, 0.5))
        for facet, title, metrics in (
            ("total", "Memory, total time", (_TIME, _TRANSFER)),
            ("minavglatency", "Memory, least and average latency", (_AVERAGE, _MIN)),
            ("maxlatency", "Memory, largest latency", (_MAX,)),
        )
    ),
    FileWorkload(
        "performance.disk.read",
        "Disk, random reads",
        (_READ, _READS, *_LATENCIES),
        _disk("rndrd"),
        lambda settings: settings.pick(15, 2),
    ),
    FileWorkload(
        "performance.disk.write",
        "Disk, random writes",
        (_WRITTEN, _WRITES, _SYNCS, *_LATENCIES),
        _disk("rndwr"),
        lambda settings: settings.pick(15, 2),
    ),
    Workload(
        "performance.threads",
        "Threads that yield and lock",
        (_TIME, *_LATENCIES),
        lambda settings: [
            *("threads", "--threads=64", "--thread-yields=100", "--thread-locks=2", "--time=0"),
            f"--events={settings.whole(20000, 2000, 100)}",
        ],
        lambda settings: settings.pick(8, 1),
    ),
)
