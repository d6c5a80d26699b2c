"""Are limits kept? Asked for so much, got how much: of CPU time, memory and disk."""

from __future__ import annotations

import os
import time

import psutil

from poc.bench import sysbench
from poc.bench.machine import disk_of
from poc.bench.runtimes.base import LIFE, LIMITS, UPDATE, CallFailed, Limits
from poc.bench.statistics import LOWER, Words
from poc.bench.suites.base import NONE, Measured, Metric, Settings, Suite, created
from poc.bench.suites.disk import rate, write
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.image import Image
    from poc.bench.runtimes.base import Runtime

_MIB = 1 << 20
_CLOSER: Words = ("closer", "further off")
_ERROR = Metric("error", "largest deviation from what was asked", "%", LOWER, _CLOSER)


def deviation(got: float, asked: float) -> float:
    """In per cent of what was asked."""
    return abs(got / asked - 1) * 100


class Accuracy(Suite):
    """How many CPUs a container gets that is allowed 0.1 to 2: what loops in it have used, by the clock."""

    name = "limits.accuracy"
    title = "CPU limits: asked and got"
    needs = frozenset((LIMITS,))
    programs = ("date",)
    headline = "error"

    _ASKED = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
    metrics = (_ERROR, *(Metric(f"got.{asked:g}", f"got where {asked:g} were asked", "CPUs", NONE) for asked in _ASKED))
    _SCRIPT = (
        "spin() {{ while :; do :; done; }}; start=$(date +%s%N); pids=; i=0;"
        ' while [ $i -lt {loops} ]; do spin & pids="$pids $!"; i=$((i+1)); done;'
        " sleep {seconds:g}; kill $pids; wait; end=$(date +%s%N); echo $((end - start)); times"
    )

    def seconds(self, settings: Settings) -> float:
        return len(self._ASKED) * (settings.pick(5, 2) + 0.5)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        values, seconds = {}, settings.pick(5, 2)
        here = psutil.cpu_count() or 1
        for asked in self._ASKED:
            if asked <= here:
                script = self._SCRIPT.format(loops=here, seconds=seconds)
                values[f"got.{asked:g}"] = used_cpus(runtime.run(["sh", "-c", script], Limits(cpus=asked)))
        values["error"] = max(deviation(got, float(key[4:])) for key, got in values.items())
        return Measured(values, notes=_busy())


def _busy() -> tuple[str, ...]:
    """What else runs takes CPUs away that a limit would have left."""
    load, cpus = os.getloadavg()[0], psutil.cpu_count() or 1
    return ("others were at work too, so there was less CPU time than the limits leave",) if load > cpus else ()


def used_cpus(text: str) -> float:
    """From what `Accuracy`'s script prints: nanoseconds by the clock, then what `times` of a shell tells."""
    clock, _, children = text.splitlines()[:3]
    times = [word.rstrip("s").split("m") for word in children.split()]  # 0m1.50s
    used = sum(60 * float(minutes) + float(seconds) for minutes, seconds in times)
    return used / (int(clock) / 1e9)


class CpuTime(Suite):
    """A fixed number of primes in half a CPU."""

    name = "limits.cpu.time"
    title = "A fixed number of primes in half a CPU"
    headline = "general.total_time"
    metrics = (Metric("general.total_time", "total time", "s"),)
    needs = frozenset((LIMITS,))
    programs = ("sysbench",)

    def seconds(self, settings: Settings) -> float:
        return settings.pick(8, 1)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        events = f"--events={settings.whole(5000, 500, 10)}"
        command = ["sysbench", "cpu", "--cpu-max-prime=20000", "--time=0", events, "run"]
        raw = runtime.run(command, Limits(cpus=0.5))
        return Measured(sysbench.parse(raw), raw)


class CpuScaling(Suite):
    """The quota is raised each second while a loop runs: what it has used in each, seen from the host."""

    name = "limits.cpu.scaling"
    title = "A CPU limit that is raised while it runs"
    headline = "error"
    needs = frozenset((LIFE, LIMITS, UPDATE))

    _STEPS = (0.2, 0.4, 0.6, 0.8)
    metrics = (
        _ERROR,
        Metric("update", "change a limit", "ms"),
        *(Metric(f"got.{asked:g}", f"got where {asked:g} were asked", "CPUs", NONE) for asked in _STEPS),
    )

    def seconds(self, settings: Settings) -> float:
        return len(self._STEPS) * (self._span(settings) + 0.1) + 0.5

    def _span(self, settings: Settings) -> float:
        return max(0.4, settings.pick(1, 1))

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        token = f"spin-{os.urandom(6).hex()}"
        values, spent = {}, 0.0
        with created(runtime, ["sh", "-c", "while :; do :; done", token]) as name:
            runtime.start(name)
            process = _find(token)
            for asked in self._STEPS:
                start = time.perf_counter()
                runtime.update(name, Limits(cpus=asked))
                spent += time.perf_counter() - start
                values[f"got.{asked:g}"] = _use(process, self._span(settings))
        values["error"] = max(deviation(got, float(key[4:])) for key, got in values.items())
        return Measured({**values, "update": spent / len(self._STEPS) * 1000}, notes=_busy())


def _find(token: str) -> psutil.Process:
    """The program of that name of its own, in whichever container. Raises CallFailed: it has a kernel of its own."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[-1:] == [token] and words[0].endswith("sh"):
            return process
    raise CallFailed("the container's program is not among the host's processes")


def _use(process: psutil.Process, span: float) -> float:
    """CPUs that it uses over so many seconds."""
    before, start = process.cpu_times(), time.perf_counter()
    time.sleep(span)
    after, passed = process.cpu_times(), time.perf_counter() - start
    return float(after.user + after.system - before.user - before.system) / passed


class Memory(Suite):
    """How large a buffer a program can fill in a container of 64 MiB: halved until it is known to 1 MiB."""

    name = "limits.memory"
    title = "A memory limit of 64 MiB"
    headline = "error"
    metrics = (Metric("got", "the most that could be used", "MiB", NONE), _ERROR)
    needs = frozenset((LIMITS,))
    programs = ("dd",)

    _ASKED = 64

    def seconds(self, settings: Settings) -> float:
        return 3.0

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        fits, fails = 1, 2 * self._ASKED
        if not self._can_use(runtime, fits):
            raise CallFailed(f"{runtime.name}: not even {fits} MiB could be used in a container of {self._ASKED}")
        if self._can_use(runtime, fails):
            raise CallFailed(f"{runtime.name}: {fails} MiB could be used in a container of {self._ASKED}")
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if self._can_use(runtime, middle) else (fits, middle)
        return Measured({"got": fits, "error": deviation(fits, self._ASKED)})

    def _can_use(self, runtime: Runtime, mib: int) -> bool:
        command = ["dd", "if=/dev/zero", "of=/dev/null", f"bs={mib}M", "count=1"]
        try:
            runtime.run(command, Limits(memory=self._ASKED * _MIB))
        except PocError:
            return False
        return True


class BlockIo(Suite):
    """Direct writes where 4 MiB a second are allowed."""

    name = "limits.blkio"
    title = "A disk limit of 4 MiB a second"
    headline = "error"
    metrics = (Metric("got", "got where 4 MiB/s were asked", "MiB/s", NONE), _ERROR)
    needs = frozenset((LIMITS,))
    programs = ("dd", "rm")

    _ASKED = 4

    def lacks(self, runtime: Runtime, image: Image) -> str:
        if reason := super().lacks(runtime, image):
            return reason
        if "write_bps" not in runtime.limits:
            return f"{runtime.name} has no limits of block devices"
        return "" if disk_of(runtime.workspace.path) else "the file system it works in is on no disk"

    def seconds(self, settings: Settings) -> float:
        return settings.whole(16, 8, 4) / self._ASKED

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        limits = Limits(write_bps=(disk_of(runtime.workspace.path), self._ASKED * _MIB))
        raw = runtime.run(write(settings.whole(16, 8, 4), "oflag=direct"), limits)
        return Measured({"got": rate(raw), "error": deviation(rate(raw), self._ASKED)}, raw)


LIMITS_KEPT = (CpuTime(), CpuScaling(), Memory(), BlockIo(), Accuracy())
