"""Results as one HTML file that needs nothing but a browser: `page` fills `report.html` beside this module.

All figures and sentences are made here; the page's script only chooses which of them to show.
"""

from __future__ import annotations

import json
import os

from poc.bench import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from poc.bench.results import Results

_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "report.html")
_PLACE = "/*results*/null"


def page(results: Sequence[Results]) -> str:
    """The whole file."""
    with open(_TEMPLATE, encoding="utf-8") as file:
        template = file.read()
    # A sample's error may hold anything, "</script>" too.
    data = json.dumps([_shown(one) for one in results], separators=(",", ":")).replace("<", "\\u003c")
    return template.replace(_PLACE, data)


def _shown(results: Results) -> dict[str, Any]:
    data = results.data
    suites = [_suite(results, name, suite) for name, suite in data["suites"].items()]
    failed = [f"{sample['suite']} {sample['runtime']} failed: {sample['error']}" for sample in results.failures]
    warnings = [*report.busy(results), *dict.fromkeys(failed)]
    return {
        "started": data["started"],
        "state": data["state"],
        "runtimes": data["runtimes"],
        "warnings": warnings,
        "notes": [note for note in (*report.notes(results), *report.skipped(results)) if note not in warnings],
        "suites": [suite for suite in suites if suite["metrics"]],
    }


def _suite(results: Results, name: str, suite: dict[str, Any]) -> dict[str, Any]:
    """With the metric that it goes by first."""
    metrics = [_metric(results, name, metric) for metric in suite["metrics"]]
    metrics.sort(key=lambda metric: metric["key"] != suite["headline"])
    found = [metric for metric in metrics if metric["runtimes"]]
    return {"name": name, "title": suite["title"], "command": suite.get("command", ""), "metrics": found}


def _metric(results: Results, suite: str, metric: Sequence[Any]) -> dict[str, Any]:
    key, title, unit, better, _ = metric
    found = results.data["summary"].get(suite, {}).get(key, {})
    runtimes = [
        {**found[name], "name": name, "samples": list(results.samples(suite, key, name).values())}
        for name in results.data["runtimes"]
        if name in found
    ]
    names = [runtime["name"] for runtime in runtimes]
    sentences = {
        base: [report.compared("", results, suite, metric, name, base) for name in names if name != base]
        for base in names
        if better
    }
    return {"key": key, "title": title, "unit": unit, "better": better, "runtimes": runtimes, "sentences": sentences}
