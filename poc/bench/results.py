"""What was measured, in one JSON file that is whole after every measurement, so that a run can be gone on with.

The schema ("poc-bench/1")::

    schema        "poc-bench/1"; another number: the keys mean something else
    state         "running", "interrupted" or "complete"
    started       RFC 3339, as `finished` ("" as long as it runs)
    settings      runtimes, suites, runs, warmup, quick, scale, seed, image: what was asked for
    machine       cpu, cpus, memory (bytes), kernel, machine, system, cgroup, filesystem, load, python, poc, sysbench
    runtimes      name → version
    suites        name → title, headline, command (of sysbench, else ""), metrics: [key, title, unit, better, words];
                  better: "lower", "higher", ""
    skipped       suite → runtime → why it could not be measured
    harness       seconds of `true` on the host through the same calls: what every measurement costs by itself
    samples       [{suite, runtime, round, at, seconds, values: {key: number}, notes: […], raw: "…"}], rounds below 0
                  are warm-up; or {…, error: "…"} in place of values
    summary       suite → key → runtime → n, min, mean, median, max, stddev, outliers; without the warm-up

Every sample is there, with every number that a program told and its own words in ``raw``.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime

from poc.bench.statistics import summarize
from poc.errors import Conflict, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from poc.bench.suites.base import Measured, Settings, Suite

SCHEMA = "poc-bench/1"
_SAVE_SECONDS = 0.5  # not after each of many short measurements


class Results:
    """The results of one run. ``path`` None: nothing is written."""

    def __init__(self, data: dict[str, Any], path: str | None = None) -> None:
        self.data = data
        self.path = path
        self._saved = 0.0
        self._done = {_key(sample) for sample in data["samples"] if "error" not in sample}

    @classmethod
    def new(cls, settings: Mapping[str, Any], path: str | None) -> Results:
        return cls(
            {
                "schema": SCHEMA,
                "state": "running",
                "started": _now(),
                "finished": "",
                "settings": dict(settings),
                **{name: {} for name in ("machine", "runtimes", "suites", "skipped")},
                "harness": [],
                "samples": [],
                "summary": {},
            },
            path,
        )

    @classmethod
    def load(cls, path: str) -> Results:
        """Raises InvalidArgument for a file that is not of this schema, and OSError."""
        with open(path) as file:
            try:
                data = json.load(file)
            except ValueError as error:
                raise InvalidArgument(f"{path} is no JSON: {error}") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise InvalidArgument(f"{path} holds no results of the schema {SCHEMA}")
        return cls(data, path)

    def resume(self, settings: Mapping[str, Any]) -> None:
        """Go on with it. Raises Conflict unless the same is asked for; more runs may be."""
        differing = [
            key
            for key, value in settings.items()
            if key != "runs" and json.loads(json.dumps(value)) != self.data["settings"].get(key)
        ]
        if differing:
            raise Conflict(f"{self.path} was made with other settings: {', '.join(differing)}")
        self.data["settings"]["runs"] = settings["runs"]
        self.data["samples"] = [sample for sample in self.data["samples"] if "error" not in sample]
        self.data.update(state="running", finished="")

    # ── taking ───────────────────────────────────────────────────────────────────────────────────────

    def describe(self, suites: Sequence[Suite], settings: Settings) -> None:
        """Note what the suites' numbers mean, and what they run."""
        for suite in suites:
            metrics = [[metric.key, metric.title, metric.unit, metric.better, metric.words] for metric in suite.metrics]
            about = {"title": suite.title, "headline": suite.headline, "command": suite.command(settings)}
            self.data["suites"][suite.name] = {**about, "metrics": metrics}

    def has(self, suite: str, runtime: str, round: int) -> bool:
        return (suite, runtime, round) in self._done

    def skip(self, suite: str, runtime: str, reason: str) -> None:
        self.data["skipped"].setdefault(suite, {})[runtime] = reason

    def add(self, suite: str, runtime: str, round: int, seconds: float, measured: Measured) -> None:
        sample = {"suite": suite, "runtime": runtime, "round": round, "at": _now(), "seconds": seconds}
        more = {"values": measured.values, "notes": list(measured.notes), "raw": measured.raw}
        self.data["samples"].append({**sample, **more})
        self._done.add((suite, runtime, round))
        self._save_soon()

    def fail(self, suite: str, runtime: str, round: int, reason: str) -> None:
        sample = {"suite": suite, "runtime": runtime, "round": round, "at": _now(), "error": reason}
        self.data["samples"].append(sample)
        self._save_soon()

    def finish(self, state: str) -> None:
        self.data.update(state=state, finished=_now())
        self.save()

    def _save_soon(self) -> None:
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Written beside it and renamed: whoever reads or is killed finds a whole file; none before a first sample."""
        self.data["summary"] = self._summary()
        self._saved = time.monotonic()
        if self.path is None or not self.data["samples"]:
            return
        new = f"{self.path}.new"
        with open(new, "w") as file:
            json.dump(self.data, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, self.path)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [sample for sample in self.data["samples"] if "error" in sample]

    def samples(self, suite: str, key: str, runtime: str) -> dict[int, float]:
        """The values of one metric by round, without the warm-up."""
        return {
            sample["round"]: sample["values"][key]
            for sample in self.data["samples"]
            if (sample["suite"], sample["runtime"]) == (suite, runtime)
            and sample["round"] >= 0
            and key in sample.get("values", ())
        }

    def pairs(self, suite: str, key: str, runtime: str, base: str) -> tuple[list[float], list[float]]:
        """The samples of two runtimes, of the rounds that both have."""
        mine, theirs = self.samples(suite, key, runtime), self.samples(suite, key, base)
        rounds = sorted(mine.keys() & theirs.keys())
        return [mine[round] for round in rounds], [theirs[round] for round in rounds]

    def _summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, suite in self.data["suites"].items():
            for key, *_ in suite["metrics"]:
                for runtime in self.data["runtimes"]:
                    if samples := self.samples(name, key, runtime):
                        summary = summarize(list(samples.values()))._asdict()
                        found.setdefault(name, {}).setdefault(key, {})[runtime] = summary
        return found


def load_all(places: Sequence[str]) -> list[Results]:
    """Those of files, and of all files in directories that hold some. Raises InvalidArgument, OSError."""
    return [
        found for place in places for found in (_of_directory(place) if os.path.isdir(place) else [Results.load(place)])
    ]


def _of_directory(path: str) -> list[Results]:
    found = []
    for name in sorted(os.listdir(path)):
        if name.endswith(".json"):
            try:
                found.append(Results.load(os.path.join(path, name)))
            except InvalidArgument:
                pass  # somebody else's
    if not found:
        raise InvalidArgument(f"{path} holds no results (*.json of the schema {SCHEMA})")
    return found


def _key(sample: Mapping[str, Any]) -> tuple[str, str, int]:
    return sample["suite"], sample["runtime"], sample["round"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
