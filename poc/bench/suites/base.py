"""What a suite is: a name, what it needs, what it measures, and one measurement with one runtime."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from typing import NamedTuple

from poc.bench.runtimes.base import LIFE, Runtime
from poc.bench.statistics import FASTER, LOWER, Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poc.bench.image import Image

SMALLER: Words = ("smaller", "larger")
NONE = ""  # no direction is the better one


class Metric(NamedTuple):
    """One number that a suite finds. ``better``: which direction is; ``words`` say it."""

    key: str
    title: str
    unit: str
    better: str = LOWER
    words: Words = FASTER


class Measured(NamedTuple):
    """One measurement: ``values`` by the keys of the metrics, and more where a program told more; ``raw``: its words.

    ``notes``: what a reader of the numbers has to know.
    """

    values: dict[str, float]
    raw: str = ""
    notes: tuple[str, ...] = ()


class Settings(NamedTuple):
    """How large a suite makes its work. ``quick``: about two minutes for all of `--vs-host`; ``scale`` times that."""

    quick: bool = False
    scale: float = 1.0

    def pick(self, full: float, quick: float) -> float:
        return (quick if self.quick else full) * self.scale

    def whole(self, full: float, quick: float, least: int = 1) -> int:
        """The same as a whole number, at least ``least``."""
        return max(least, round(self.pick(full, quick)))


class Suite:
    """One benchmark, named context.component.facet. ``headline`` is the metric that a summary goes by.

    ``needs`` are abilities of the runtime, ``programs`` those in the image, ``host_programs`` those beside it.
    """

    name = ""
    title = ""
    metrics: tuple[Metric, ...] = ()
    headline = ""
    needs: frozenset[str] = frozenset()
    programs: tuple[str, ...] = ()
    host_programs: tuple[str, ...] = ()

    def lacks(self, runtime: Runtime, image: Image) -> str:
        """Why it can't be measured with this runtime and image; "" if it can."""
        if missing := sorted(self.needs - runtime.can):
            return f"{runtime.name} has no {', '.join(missing) if LIFE in runtime.can else 'containers'}"
        if absent := [program for program in self.programs if not runtime.has(program, image)]:
            names = ", ".join(absent)
            return f"{names}: not there (install it on this host, or use `poc bench prepare` and --image poc-bench)"
        if absent := [program for program in self.host_programs if not shutil.which(program)]:
            return f"{', '.join(absent)}: not on this host (install it)"
        return ""

    def command(self, settings: Settings) -> str:
        """The command line of the program that is measured, where it is one program."""
        return ""

    def seconds(self, settings: Settings) -> float:
        """About how long one measurement takes."""
        return 1.0

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        """Once. Raises PocError; then nothing of it runs any more."""
        raise NotImplementedError

    def metric(self, key: str) -> Metric:
        return next(metric for metric in self.metrics if metric.key == key)


class Stopwatch:
    """Milliseconds of what is done inside, by name."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.values[name] = (time.perf_counter() - start) * 1000


SLEEP = ("sleep", "86399")  # the program of a container that only has to be there; nobody else sleeps so


@contextmanager
def created(runtime: Runtime, command: Sequence[str] = SLEEP, network: bool = False) -> Iterator[str]:
    """A container that is there as long as this lasts, not started."""
    name = runtime.create(command, network=network)
    try:
        yield name
    finally:
        runtime.destroy(name)


@contextmanager
def place(runtime: Runtime) -> Iterator[Callable[[Sequence[str]], str]]:
    """What runs several programs one after the other in the same place: in one container, or on the host."""
    if LIFE not in runtime.can:
        yield runtime.run
        return
    with created(runtime) as name:
        runtime.start(name)
        yield lambda command: runtime.exec(name, command)
