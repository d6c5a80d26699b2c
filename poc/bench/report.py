"""Results as tables and sentences; prints nothing itself."""

from __future__ import annotations

from poc.bench.statistics import LOWER, Ratio, independent_ratio, ratio, sentence, summarize
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from poc.bench.results import Results

    Table = tuple[list[str], list[list[str]]]  # headings and rows


def text(
    results: Results, base: str | None = None, draw: Callable[[Table], str] | None = None, mark: str = "- "
) -> str:
    """The table, what it means, and what a reader has to know: in Markdown, or as ``draw`` draws a table.

    ``base`` is what the ratios are made with; of a comparison with the host, that. Raises InvalidArgument.
    """
    if base is not None and base not in results.data["runtimes"]:
        raise InvalidArgument(f"--relative-to {base}: that was not measured")
    with_host = "host" in results.data["runtimes"] and all(
        name.startswith("compare.") for name in results.data["suites"]
    )
    base = base or ("host" if with_host else None)
    found = against(results, base) if base and with_host else matrix(results, base)
    commands = [f"{name}: {suite['command']}" for name, suite in results.data["suites"].items() if suite.get("command")]
    failed = [f"failed: {one['suite']} {one['runtime']}: {one['error']}" for one in results.failures]
    parts = [(draw or markdown)(found)]
    for lines in (sentences(results, base), [*notes(results), *(commands if with_host else ())], failed):
        parts.append("\n".join(f"{mark}{line}" for line in lines))
    return "\n\n".join(filter(None, parts))


def against(results: Results, base: str = "host") -> Table:
    """For each metric the medians of the base and of each other runtime, and the ratio with its interval."""
    others = [name for name in results.data["runtimes"] if name != base]
    rows = []
    for name, suite in results.data["suites"].items():
        for key, title, unit, *_ in suite["metrics"]:
            for other in others:
                mine, theirs = results.pairs(name, key, other, base)
                if mine:
                    found = ratio(mine, theirs)
                    row = [suite["title"], title, unit, amount(_median(theirs)), amount(_median(mine))]
                    rows.append([*row, *_cells(found), *([other] if len(others) > 1 else ())])
    container = "container" if len(others) > 1 else (others or ["container"])[0]
    headings = ["WORKLOAD", "METRIC", "UNIT", base.upper(), container.upper(), "RATIO", "95 % INTERVAL"]
    return [*headings, *(["RUNTIME"] if len(others) > 1 else ())], _once(rows)


def matrix(results: Results, base: str | None = None) -> Table:
    """For each metric a row for each runtime; the ratio is to ``base``, without one to the first that was measured."""
    rows, bases = [], set()
    for name, suite in results.data["suites"].items():
        for key, title, unit, *_ in suite["metrics"]:
            measured = [runtime for runtime in results.data["runtimes"] if results.samples(name, key, runtime)]
            first = _base(base, measured)
            bases.add(first)
            for runtime in measured:
                found = summarize(list(results.samples(name, key, runtime).values()))
                figures = (found.median, found.min, found.max, found.stddev)
                cells = [name, f"{title}, {unit}", runtime, str(found.n), *map(amount, figures)]
                compared = None if runtime == first else ratio(*results.pairs(name, key, runtime, first))
                more = f"{compared}" if compared else "1" if runtime == first else "-"
                rows.append([*cells, more])
    headings = ["SUITE", "METRIC", "RUNTIME", "N", "MEDIAN", "MIN", "MAX", "STDDEV"]
    return [*headings, f"RATIO TO {(bases.pop() if len(bases) == 1 else 'the first').upper()}"], _once(rows, 2)


def sentences(results: Results, base: str | None = None) -> Iterator[str]:
    """One for each suite and runtime, by the suite's headline; then what was skipped, and what failed."""
    for name, suite in results.data["suites"].items():
        metric = next(row for row in suite["metrics"] if row[0] == suite["headline"])
        key, better = metric[0], metric[3]
        measured = [runtime for runtime in results.data["runtimes"] if results.samples(name, key, runtime)]
        first = _base(base, measured)
        for runtime in measured:
            if runtime != first and better:
                yield compared(suite["title"], results, name, metric, runtime, first, len(measured) > 2)
    yield from skipped(results)


def skipped(results: Results) -> Iterator[str]:
    """What could not be measured, a line for each reason."""
    found: dict[str, list[str]] = {}
    for name, reasons in results.data["skipped"].items():
        for reason in dict.fromkeys(reasons.values()):
            found.setdefault(reason, []).append(name)
    return (f"not measured: {', '.join(names)}; {reason}" for reason, names in found.items())


def compared(
    title: str, results: Results, suite: str, metric: Sequence[Any], runtime: str, base: str, pair: bool = True
) -> str:
    """How one runtime's values of a metric compare with another's, in words."""
    key, _, unit, better, words = metric
    mine, theirs = results.pairs(suite, key, runtime, base)
    if not mine:
        return f"{title}{': ' if title else ''}{runtime} and {base} have no round in common"
    found = ratio(mine, theirs)
    if found is None:  # nothing is so many times as large as nothing
        told = f"{runtime} {amount(_median(mine))} {unit}, {base} {amount(_median(theirs))} {unit}"
        return f"{title}{': ' if title else ''}{told}"
    return sentence(title, found, better, runtime, base, tuple(words), pair)


def busy(results: Results) -> Iterator[str]:
    """What else went on, where that is too much to be passed over."""
    machine = results.data["machine"]
    if machine and machine["load"][0] > machine["cpus"] / 2:
        yield (
            f"the machine was busy when this began: load {machine['load'][0]:.1f} on {machine['cpus']} CPUs;"
            " against others a container has the CPU share of its own cgroup,"
            " a program on the host that of its caller's"
        )


def notes(results: Results) -> Iterator[str]:
    """What a reader has to know beside the figures."""
    data = results.data
    machine, settings = data["machine"], data["settings"]
    if machine:
        memory = machine["memory"] / 2**30
        yield (
            f"{machine['cpu']}, {machine['cpus']} CPUs, {memory:.1f} GiB, {machine['kernel']}, cgroup"
            f" {machine['cgroup']}, {machine['filesystem']}"
        )
        yield from busy(results)
    runs, warmup = settings["runs"], settings["warmup"]
    yield (
        f"{runs} run{'s' if runs > 1 else ''}{f' after {warmup} to warm up' if warmup else ''}, in an order shuffled"
        f" with the seed {settings['seed']}"
    )
    if image := settings.get("image"):
        yield f"containers ran the programs of the image {image}; the host's may be other builds of them"
    if data["harness"]:
        cost = summarize([seconds * 1000 for seconds in data["harness"]])
        yield f"the harness itself: `true` on the host takes {cost.median:.1f} ms ({cost.min:.1f} to {cost.max:.1f})"
    told = [(sample["suite"], note) for sample in data["samples"] for note in sample.get("notes", ())]
    yield from dict.fromkeys(f"{suite}: {note}" for suite, note in told)
    if outliers := list(_outliers(data)):
        shown = ", ".join(outliers[:_SHOWN]) + (f" and {len(outliers) - _SHOWN} more" if len(outliers) > _SHOWN else "")
        yield f"far from the others of their kind, and counted like them: {shown}"


_SHOWN = 4


def _outliers(data: dict[str, Any]) -> Iterator[str]:
    for name, keys in data["summary"].items():
        for key, title, unit, *_ in data["suites"][name]["metrics"]:
            for runtime, found in keys.get(key, {}).items():
                for value in found["outliers"]:
                    yield f"{amount(value)} {unit} of {runtime} ({name}, {title})"


def markdown(table: Table) -> str:
    """The original's kind of table."""
    from tabulate import tabulate

    return tabulate(table[1], table[0], tablefmt="github", disable_numparse=True)


def regressions(old: Results, new: Results) -> list[tuple[str, bool]]:
    """(sentence, is it worse?) of what both have measured; what only one has is left out. Raises InvalidArgument."""
    found = list(_compared(old, new))
    if not found:
        raise InvalidArgument("the two have measured nothing in common")
    return found


def _compared(old: Results, new: Results) -> Iterator[tuple[str, bool]]:
    for name, suite in new.data["suites"].items():
        for key, title, unit, better, words in suite["metrics"]:
            for runtime in new.data["runtimes"]:
                after, before = (list(found.samples(name, key, runtime).values()) for found in (new, old))
                if after and before and better:
                    found = independent_ratio(after, before)
                    what = f"{name} ({title}) {runtime}"
                    if found is None:
                        yield f"{what}: {amount(_median(after))} {unit}, before {amount(_median(before))} {unit}", False
                    else:
                        worse = found.differs and (found.value > 1) == (better == LOWER)
                        yield sentence(what, found, better, "it", "before", tuple(words)), worse


def folded(table: Table) -> Table:
    """The same, narrower: what the first column says gets a line of its own, the second goes below it."""
    headings, rows = table
    lines = []
    for first, second, *rest in rows:
        if first:
            lines.append([first, *[""] * len(rest)])
        lines.append([f"  {second}" if second else "", *rest])
    return [headings[0], *headings[2:]], lines


def amount(value: float) -> str:
    """Four digits, and never a power of ten."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.6f}"


def _base(wanted: str | None, measured: Sequence[str]) -> str:
    """The runtime that the others are compared with: the first, unless the one that is wanted was measured."""
    return wanted if wanted in measured and wanted is not None else next(iter(measured), "")


def _median(samples: Sequence[float]) -> float:
    return summarize(samples).median


def _cells(found: Ratio | None) -> list[str]:
    if found is None:
        return ["-", "a value of 0 has no ratio"]
    if found.low is None or found.high is None:
        return [f"{found.value:.3f}", "one run has none"]
    return [f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}"]


def _once(rows: list[list[str]], columns: int = 1) -> list[list[str]]:
    """The same words below one another only once, in the first columns."""
    shown: list[Any] = []
    before: list[str] = [""] * columns
    for row in rows:
        same = [row[: at + 1] == before[: at + 1] for at in range(columns)]
        shown.append(["" if at < columns and same[at] else cell for at, cell in enumerate(row)])
        before = row
    return shown
