"""Reading and writing files inside: dd, and fio with direct I/O, 128 KiB at a time."""

from __future__ import annotations

import json
import re

from poc.bench.runtimes.base import CallFailed
from poc.bench.statistics import HIGHER
from poc.bench.suites.base import Measured, Metric, Settings, Suite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.runtimes.base import Runtime

_MIB = 1 << 20
_COPIED = re.compile(r"^(\d+) bytes .*copied, ([\d.e-]+) s", re.MULTILINE)


def rate(text: str) -> float:
    """MiB a second, from what dd says. Raises CallFailed."""
    found = _COPIED.search(text)
    if found is None:
        raise CallFailed(f"dd says {text.strip()!r}")
    return int(found[1]) / _MIB / float(found[2])


def write(mib: int, *options: str, block: str = "64k") -> list[str]:
    """A script that writes a file of so many MiB, tells what dd said, and removes it."""
    count = mib * (16 if block == "64k" else 1)
    words = f"dd if=/dev/zero of=bench.data bs={block} count={count} {' '.join(options)}"
    return ["sh", "-c", f"{words} 2>&1; code=$?; rm -f bench.data; exit $code"]


class Dd(Suite):
    """A file written with dd, and carried to the disk."""

    name = "io.dd"
    title = "A file written with dd"
    headline = "rate"
    metrics = (Metric("rate", "written", "MiB/s", HIGHER),)
    programs = ("dd", "rm")

    def seconds(self, settings: Settings) -> float:
        return settings.pick(3, 0.5)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        raw = runtime.run(write(settings.whole(512, 64), "conv=fdatasync", block="1M"))
        return Measured({"rate": rate(raw)}, raw)


class Fio(Suite):
    """One job with a queue of 1 that goes past the page cache; the file is laid out before it is timed."""

    programs = ("fio",)
    headline = "rate"
    metrics = (
        Metric("rate", "transfer", "MiB/s", HIGHER),
        Metric("iops", "operations", "1/s", HIGHER),
        Metric("latency.mean", "latency, average", "ms"),
        Metric("latency.p95", "latency, 95th percentile", "ms"),
        Metric("latency.p99", "latency, 99th percentile", "ms"),
    )

    def __init__(self, mode: str, title: str) -> None:
        self.name = f"io.fio.{mode}"
        self.title = title
        self._mode = mode

    def seconds(self, settings: Settings) -> float:
        return settings.whole(10, 1) + 1

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        size, seconds = settings.whole(1024, 64, 16), settings.whole(10, 1)
        words = ["fio", "--name=bench", "--filename=bench.data", "--unlink=1", f"--size={size}M", f"--rw={self._mode}"]
        words += ["--bs=128k", "--direct=1", "--time_based", f"--runtime={seconds}", "--output-format=json"]
        raw = runtime.run(words)
        return Measured(fio_figures(raw), raw)


def fio_figures(text: str) -> dict[str, float]:
    """Of the one job in fio's JSON, whichever way it went. Raises CallFailed."""
    try:
        (job,) = json.loads(text[text.index("{") :])["jobs"]  # notes may come before it
        way = max((job["read"], job["write"]), key=lambda side: side["io_bytes"])
        latency = way["clat_ns"]
        return {
            "rate": way["bw_bytes"] / _MIB,
            "iops": way["iops"],
            "latency.mean": latency["mean"] / 1e6,
            **{f"latency.p{percent}": latency["percentile"][f"{percent}.000000"] / 1e6 for percent in (95, 99)},
        }
    except (ValueError, KeyError) as error:
        raise CallFailed(f"fio's report can't be read: {error}") from None


DISK = (
    Dd(),
    Fio("randread", "Random reads with fio"),
    Fio("randwrite", "Random writes with fio"),
    Fio("read", "Sequential reads with fio"),
    Fio("write", "Sequential writes with fio"),
)
