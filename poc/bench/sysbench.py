"""sysbench 1.0: its command lines, and every number of the reports it writes. Pure: runs nothing.

A report is read into one flat mapping, ``section.name``: "general.total_time" (s), "latency.p95" (ms),
"fairness.events.stddev", "cpu.events_per_second", "memory.mib_per_second", "fileio.reads_per_second" and so on. What a
percentile is called depends on ``--percentile``: "latency.p99".
"""

from __future__ import annotations

import re

from poc.errors import PocError

_NUMBER = r"([\d.]+)"

# What stands in a report, and what its numbers are called here, in their order.
_LINES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"total time:\s+{_NUMBER}s$", ("general.total_time",)),
    (rf"total number of events:\s+{_NUMBER}$", ("general.events",)),
    (rf"min:\s+{_NUMBER}$", ("latency.min",)),
    (rf"avg:\s+{_NUMBER}$", ("latency.avg",)),
    (rf"max:\s+{_NUMBER}$", ("latency.max",)),
    (rf"sum:\s+{_NUMBER}$", ("latency.sum",)),
    (rf"events \(avg/stddev\):\s+{_NUMBER}/{_NUMBER}$", ("fairness.events.avg", "fairness.events.stddev")),
    (rf"execution time \(avg/stddev\):\s+{_NUMBER}/{_NUMBER}$", ("fairness.time.avg", "fairness.time.stddev")),
    (rf"events per second:\s+{_NUMBER}$", ("cpu.events_per_second",)),
    (
        rf"Total operations: {_NUMBER} \(\s*{_NUMBER} per second\)$",
        ("memory.operations", "memory.operations_per_second"),
    ),
    (rf"{_NUMBER} MiB transferred \({_NUMBER} MiB/sec\)$", ("memory.mib", "memory.mib_per_second")),
    (rf"reads/s:\s+{_NUMBER}$", ("fileio.reads_per_second",)),
    (rf"writes/s:\s+{_NUMBER}$", ("fileio.writes_per_second",)),
    (rf"fsyncs/s:\s+{_NUMBER}$", ("fileio.fsyncs_per_second",)),
    (rf"read, MiB/s:\s+{_NUMBER}$", ("throughput.read_mib_per_second",)),
    (rf"written, MiB/s:\s+{_NUMBER}$", ("throughput.written_mib_per_second",)),
)
_PATTERNS = tuple((re.compile(rf"^\s*{pattern}", re.MULTILINE), names) for pattern, names in _LINES)
_PERCENTILE = re.compile(rf"^\s*(\d+)th percentile:\s+{_NUMBER}$", re.MULTILINE)
_VERSION = re.compile(r"^sysbench (\d\S*)", re.MULTILINE)


class BadReport(PocError):
    """What sysbench wrote is no report, or one that was cut off."""


def parse(report: str) -> dict[str, float]:
    """Every number of a report. Raises BadReport, with sysbench's own complaint where there is one.

    What follows from it is added: "general.events_per_second", and "latency.mean" (ms), of which "latency.avg" shows
    two places.
    """
    found: dict[str, float] = {}
    for pattern, names in _PATTERNS:
        if match := pattern.search(report):
            found.update(zip(names, map(float, match.groups()), strict=True))
    if match := _PERCENTILE.search(report):
        found[f"latency.p{match[1]}"] = float(match[2])
    if "general.events" not in found or "fairness.time.avg" not in found:
        raise BadReport(f"sysbench: {_complaint(report)}")
    if time := found["general.total_time"]:
        found["general.events_per_second"] = found["general.events"] / time
    if events := found["general.events"]:
        found["latency.mean"] = found.get("latency.sum", 0.0) / events
    return found


def version(report: str) -> str:
    """As the first line of everything it prints tells it, "" if it does not."""
    match = _VERSION.search(report)
    return match[1] if match else ""


def _complaint(report: str) -> str:
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("FATAL")]
    return (fatal or lines[-1:] or ["it has written nothing"])[0]
