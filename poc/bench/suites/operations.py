"""What runtimes themselves do: one container's life, its first instruction, many at once, what is kept for each."""

from __future__ import annotations

import time
from contextlib import ExitStack

import psutil

from poc.bench.runtimes.base import EXEC, LIFE, LOGS, MARK, PAUSE, CallFailed
from poc.bench.statistics import LOWER
from poc.bench.suites.base import SLEEP, SMALLER, Measured, Metric, Settings, Stopwatch, Suite, created

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.runtimes.base import Runtime

_MIB = 1 << 20


class Lifecycle(Suite):
    """Create, start and destroy one that sleeps; then another's whole life at once, with `true` in it."""

    name = "operations.container.lifecycle"
    title = "A container's life"
    metrics = (
        Metric("create_and_run", "create, run `true`, remove", "ms"),
        Metric("create", "create", "ms"),
        Metric("run", "start", "ms"),
        Metric("destroy", "kill and remove", "ms"),
    )
    headline = "create_and_run"
    needs = frozenset((LIFE,))

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        watch = Stopwatch()
        with watch("create"):
            name = runtime.create(SLEEP)
        try:
            with watch("run"):
                runtime.start(name)
        finally:
            with watch("destroy"):
                runtime.destroy(name)
        with watch("create_and_run"):
            runtime.run(["true"])
        return Measured(watch.values)


class Exec(Suite):
    name = "operations.container.exec"
    title = "Another program in a container"
    metrics = (Metric("exec", "exec `true`", "ms"),)
    headline = "exec"
    needs = frozenset((LIFE, EXEC))

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        watch = Stopwatch()
        with created(runtime) as name:
            runtime.start(name)
            with watch("exec"):
                runtime.exec(name, ["true"])
        return Measured(watch.values)


class Pause(Suite):
    name = "operations.container.pause"
    title = "Pause"
    metrics = (Metric("pause", "pause", "ms"), Metric("unpause", "unpause", "ms"))
    headline = "pause"
    needs = frozenset((LIFE, PAUSE))

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        watch = Stopwatch()
        with created(runtime) as name:
            runtime.start(name)
            with watch("pause"):
                runtime.pause(name)
            with watch("unpause"):
                runtime.unpause(name)
        return Measured(watch.values)


class Logs(Suite):
    """A megabyte of short lines, read back whole."""

    name = "operations.container.logs"
    title = "Logs"
    metrics = (Metric("logs", "read 1 MB of log", "ms"),)
    headline = "logs"
    needs = frozenset((LIFE, LOGS))

    _LINES = 20_000
    _LINE = "a line of the log, which has 50 characters in it"
    _SCRIPT = f"i=0; while [ $i -lt {_LINES} ]; do echo '{_LINE}'; i=$((i+1)); done; echo end; exec {' '.join(SLEEP)}"

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        watch = Stopwatch()
        with created(runtime, ["sh", "-c", self._SCRIPT]) as name:
            runtime.start(name)
            deadline = time.monotonic() + 60
            while "end" not in runtime.logs(name)[-10:]:
                if time.monotonic() > deadline:
                    raise CallFailed(f"{runtime.name}: the log is not complete after 60 s")
                time.sleep(0.1)
            with watch("logs"):
                text = runtime.logs(name)
        if text.count("\n") != self._LINES + 1:
            raise CallFailed(f"{runtime.name}: {self._LINES + 1} lines were written, {text.count(chr(10))} read")
        return Measured(watch.values)


class Boot(Suite):
    """From the call to the first thing that a program in the container does: it tells the time."""

    name = "boot"
    title = "Time to the first instruction"
    metrics = (Metric("boot", "to the first instruction", "ms"),)
    headline = "boot"
    programs = ("date",)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        start = time.time_ns()
        first = int(runtime.run(["date", "+%s%N"]))
        return Measured({"boot": (first - start) / 1e6})


class Scale(Suite):
    """Start so many, have them all there at once, destroy them.

    What the host has less memory meanwhile includes what anybody else has taken; what is kept is as in `Footprint`.
    """

    needs = frozenset((LIFE,))
    headline = "start"
    metrics = (
        Metric("start", "create and start, each", "ms"),
        Metric("destroy", "destroy, each", "ms"),
        Metric("kept", "memory that the runtime keeps, each", "MiB", LOWER, SMALLER),
        Metric("memory", "memory the host has less, each", "MiB", LOWER, SMALLER),
    )

    def __init__(self, count: int) -> None:
        self.name = f"scalability.runtime.{count}"
        self.title = f"{count} containers at once"
        self._count = count

    def seconds(self, settings: Settings) -> float:
        return 0.2 * self._count

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        watch, count = Stopwatch(), self._count
        before = psutil.virtual_memory().available
        with ExitStack() as undo:
            with watch("start"):
                for _ in range(count):
                    runtime.start(undo.enter_context(created(runtime)))
            memory = (before - psutil.virtual_memory().available) / _MIB / count
            kept = kept_memory(runtime) / _MIB / count
            with watch("destroy"):
                undo.close()
        values = {name: value / count for name, value in watch.values.items()}
        return Measured({**values, "memory": memory, "kept": kept}, notes=_notes(runtime))


class Footprint(Suite):
    """PSS (proc_pid_smaps(5)) of all that a runtime keeps: monitors, shims, daemons; not of the programs inside."""

    name = "footprint"
    title = "Memory that is kept"
    metrics = (
        Metric("one", "for one container", "MiB", LOWER, SMALLER),
        Metric("average", "for 20, each", "MiB", LOWER, SMALLER),
    )
    headline = "one"
    needs = frozenset((LIFE,))

    _MANY = 20

    def seconds(self, settings: Settings) -> float:
        return 5.0

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        with ExitStack() as undo:
            values = {}
            for number in range(1, self._MANY + 1):
                runtime.start(undo.enter_context(created(runtime)))
                if number == 1:
                    values["one"] = kept_memory(runtime) / _MIB
            values["average"] = kept_memory(runtime) / _MIB / self._MANY
        return Measured(values, notes=_notes(runtime))


def _notes(runtime: Runtime) -> tuple[str, ...]:
    return (f"{runtime.name}: {runtime.note}",) if runtime.note else ()


def kept_memory(runtime: Runtime) -> int:
    """Bytes of PSS of the processes that are there for this runtime's sake."""
    return sum(_pss(process) for process in psutil.process_iter() if _is_kept(process, runtime))


def _is_kept(process: psutil.Process, runtime: Runtime) -> bool:
    try:
        words = process.cmdline()
        if not words or process.pid in _ourselves() or tuple(words[-2:]) == SLEEP:
            return False
        return runtime.keeps(words, process.environ().get(MARK, ""))
    except psutil.Error:
        return False  # it has ended


def _ourselves() -> set[int]:
    me = psutil.Process()
    return {me.pid, *(parent.pid for parent in me.parents())}


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


OPERATIONS = (Lifecycle(), Exec(), Pause(), Logs())
OTHERS = (Boot(), Footprint(), *(Scale(count) for count in (5, 10, 50, 200)))
