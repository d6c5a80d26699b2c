"""One benchmark: rounds of all runtimes, suite by suite, each round in an order of its own.

::

    for each suite:
        rounds -warmup … -1     measured and kept, but not counted
        rounds 0 … runs - 1     every runtime once in each, shuffled by the seed

So whatever else the machine does hits all alike, and two values of one round can be compared. A measurement that fails
is noted and the others go on; an interrupt ends it all with what there is, and `Config.output` given again goes on.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

from poc.bench import machine
from poc.bench.image import Image
from poc.bench.results import Results
from poc.bench.runtimes import choose as choose_runtimes
from poc.bench.runtimes.base import Host
from poc.bench.suites import SUITES
from poc.bench.suites import choose as choose_suites
from poc.bench.suites.base import Settings
from poc.bench.workspace import Workspace
from poc.engine import Engine
from poc.errors import PocError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poc.bench.config import Config
    from poc.bench.runtimes.base import Runtime
    from poc.bench.suites.base import Suite

    Progress = Callable[[str, int, int], object]

_HARNESS_SAMPLES = 10


class Bench:
    """A benchmark that is going to be. Raises Absent, InvalidArgument, before anything is made.

    ``runtimes`` and ``suites`` stand in for those that the configuration names: that is how tests measure what they
    know the answer of.
    """

    def __init__(
        self, config: Config, runtimes: Sequence[Runtime] | None = None, suites: Sequence[Suite] = SUITES
    ) -> None:
        self.config = config.checked()
        self.suites = choose_suites(config.suites, suites)
        self.runtimes = choose_runtimes(config.runtimes, config.paths) if runtimes is None else list(runtimes)
        self.settings = Settings(config.quick, config.scale)

    def seconds(self) -> float:
        """About how long it will take, if nothing has to be skipped."""
        each = sum(suite.seconds(self.settings) for suite in self.suites)
        return 5 + each * len(self.runtimes) * (self.config.rounds + self.config.warmup)

    def run(self, progress: Progress | None = None, resume: bool = False) -> Results:
        """Measure. What there is, is in the file whenever this ends, also by KeyboardInterrupt.

        ``progress`` is told what is being done, and how many of how many seconds are done.
        """
        results = self._results(resume)
        tell = progress or (lambda text, done, total: None)
        try:
            with ExitStack() as undo:
                tell("preparing", 0, 0)
                image = self._prepare(undo, results)
                self._measure(results, image, tell)
        except BaseException:
            results.finish("interrupted")
            raise
        results.finish("complete")
        return results

    def _results(self, resume: bool) -> Results:
        config = self.config
        asked = {
            "runtimes": [runtime.name for runtime in self.runtimes],
            "suites": [suite.name for suite in self.suites],
            "runs": config.rounds,
            **{key: getattr(config, key) for key in ("warmup", "quick", "scale", "seed", "image")},
        }
        if not resume or config.output is None:
            return Results.new(asked, config.output)
        results = Results.load(config.output)
        self.config = config._replace(seed=results.data["settings"]["seed"])  # it had one, or found one
        results.resume({**asked, "seed": self.config.seed})
        return results

    def _prepare(self, undo: ExitStack, results: Results) -> Image:
        workspace = undo.enter_context(Workspace(self.config.directory))
        image = self._image(workspace)
        results.describe(self.suites, self.settings)
        results.data["machine"] = machine.describe(workspace.path)
        results.data["harness"] += _harness_cost(workspace, image)
        for runtime in self.runtimes:
            undo.callback(runtime.close)
            runtime.prepare(workspace, image)
            results.data["runtimes"][runtime.name] = runtime.version()
        self._check(results, image)
        results.save()
        return image

    def _image(self, workspace: Workspace) -> Image:
        if self.config.image is None:
            return Image.of_host(workspace)
        return Image.of_store(workspace, Engine(self.config.root).images.get(self.config.image))

    def _check(self, results: Results, image: Image) -> None:
        """Note what can't be measured. Raises Unsupported where nothing can be."""
        for suite, runtime in self._combinations():
            if reason := suite.lacks(runtime, image):
                results.skip(suite.name, runtime.name, reason)
        skipped = results.data["skipped"]
        for suite in self.suites:
            if len(skipped.get(suite.name, {})) < len(self.runtimes):
                return
        first = self.suites[0].name
        raise Unsupported(f"{first}: {next(iter(skipped[first].values()))}")

    def _combinations(self) -> Iterator[tuple[Suite, Runtime]]:
        return ((suite, runtime) for suite in self.suites for runtime in self.runtimes)

    def _tasks(self, results: Results) -> Iterator[tuple[Suite, int, Runtime]]:
        skipped = results.data["skipped"]
        for suite in self.suites:
            able = [runtime for runtime in self.runtimes if runtime.name not in skipped.get(suite.name, ())]
            for round in range(-self.config.warmup, self.config.rounds):
                order = list(able)
                random.Random(f"{self.config.seed} {suite.name} {round}").shuffle(order)
                yield from ((suite, round, runtime) for runtime in order)

    def _measure(self, results: Results, image: Image, tell: Progress) -> None:
        tasks = [task for task in self._tasks(results) if not results.has(task[0].name, task[2].name, task[1])]
        clock = _Clock(tasks, self.settings)
        for number, (suite, round, runtime) in enumerate(tasks):
            tell(f"{suite.name} {runtime.name}", *clock.at(number))
            start = time.perf_counter()
            try:
                measured = suite.measure(runtime, self.settings)
            except (PocError, OSError, ValueError) as error:
                results.fail(suite.name, runtime.name, round, " ".join(str(error).split()))
            else:
                results.add(suite.name, runtime.name, round, time.perf_counter() - start, measured)
            clock.took(suite, runtime, time.perf_counter() - start)


class _Clock:
    """How much is done and left: first by what the suites expect, then by what the same has taken before."""

    def __init__(self, tasks: Sequence[tuple[Suite, int, Runtime]], settings: Settings) -> None:
        self._tasks = tasks
        self._settings = settings
        self._taken: dict[tuple[str, str], float] = {}
        self._start = time.monotonic()

    def took(self, suite: Suite, runtime: Runtime, seconds: float) -> None:
        self._taken[suite.name, runtime.name] = seconds

    def at(self, number: int) -> tuple[int, int]:
        """(seconds passed, seconds in all) before the task of that number."""
        passed = time.monotonic() - self._start
        left = sum(
            self._taken.get((suite.name, runtime.name)) or suite.seconds(self._settings)
            for suite, _, runtime in self._tasks[number:]
        )
        return round(passed), max(1, round(passed + left))


def _harness_cost(workspace: Workspace, image: Image) -> list[float]:
    """Seconds of `true` on the host, through the calls that every runtime's programs go through."""
    host = Host("host")
    host.prepare(workspace, image)
    found = []
    for _ in range(_HARNESS_SAMPLES):
        start = time.perf_counter()
        host.run(["true"])
        found.append(time.perf_counter() - start)
    return found
