"""`poc bench`: what a container costs against the host, and beside every other runtime of this machine."""

from __future__ import annotations

import json
import os
import sys
import time

from poc._lean import signal
from poc.cli.output import complain, table
from poc.cli.parse import FLAG, INT, LIST, VALUE, Args, Command, Option
from poc.cli.progress import time_left
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from poc.bench.config import Config
    from poc.bench.results import Results
    from poc.bench.runner import Bench

RUNTIME_PATH = Option("--runtime-path", LIST, "An OCI runtime by its path, and its name here", metavar="NAME=PATH")
RELATIVE_TO = Option("--relative-to", VALUE, "The runtime that ratios are made with", metavar="NAME")

COMMAND = Command(
    arguments="[SUITE...]",
    complete=(
        *("compare", "prepare", "report", "runtimes", "suites"),
        *("app", "boot", "footprint", "io", "limits", "network", "operations", "performance", "scalability"),
    ),
    example="poc bench --runtimes host,poc,runc,docker operations boot footprint",
    options=(
        Option("--vs-host", FLAG, "Five workloads of sysbench, on the host and in a container in turn"),
        Option("--quick", FLAG, "Short and small: about two minutes for --vs-host"),
        Option("--full", FLAG, "Long: hours for --vs-host (the default without a terminal)"),
        Option("--runtimes", VALUE, "Which to compare, with commas between (default: host,poc)", metavar="NAME,NAME"),
        RUNTIME_PATH,
        Option("--runs", INT, "Times that each is measured (default: 10, with --quick 5)", metavar="NUMBER"),
        Option("--warmup", INT, "Times before that, which do not count (default: 1)", metavar="NUMBER"),
        Option("--scale", VALUE, "Make all work so many times as large", metavar="NUMBER"),
        Option("--seed", INT, "Repeat the order that a seed gave", metavar="NUMBER"),
        Option("--config", LIST, "Read what to do from a YAML file; may be repeated", metavar="FILE", complete="file"),
        Option(
            "-o --output",
            VALUE,
            "Keep the results here (default: poc-bench-TIME.json)",
            metavar="FILE",
            complete="file",
        ),
        Option("--resume", FLAG, "Go on with the results in --output"),
        Option(
            "--image",
            VALUE,
            "Run the programs of this image of poc's, such as `poc bench prepare` makes, not copies of the host's",
            complete="image",
        ),
        RELATIVE_TO,
        Option("--directory", VALUE, "Work in this directory's file system (default: /var/tmp)", metavar="DIR"),
        Option("--format", VALUE, "table, markdown or json", complete=("table", "markdown", "json")),
    ),
)


def run(args: Args) -> int:
    from poc.bench import machine, runtimes
    from poc.bench.runner import Bench

    _check(args)
    configs = _configs(args)
    machine.go_apart_for(runtimes.find(name, one.paths) for one in configs for name in one.runtimes)
    if args.vs_host and not (args.quick or args.full):
        quick = _ask(configs)
        configs = [one._replace(quick=quick) for one in configs]
    benches = [Bench(one) for one in configs]
    return max(_measure(bench, args) for bench in benches)


def _check(args: Args) -> None:
    if args.format not in (None, "table", "markdown", "json"):
        raise InvalidArgument(f"--format: {args.format!r} is neither table, markdown nor json")
    if args.quick and args.full:
        raise InvalidArgument("--quick or --full, not both")
    if args.vs_host and args.arguments:
        raise InvalidArgument("--vs-host has its own suites; name either it or suites")
    if args.resume and args.output is None:
        raise InvalidArgument("--resume goes on with the results in --output FILE")


# ── what to do ───────────────────────────────────────────────────────────────────────────────────────────


def _configs(args: Args) -> list[Config]:
    """One benchmark, or one for each --config; what the command line says goes before what the file does."""
    from poc.bench import config

    base = config.Config(directory=args.directory, root=args.root)
    given = _given(args)
    found = [config.load(path, base).given(**given) for path in args.config] or [base.given(**given)]
    named = config.with_outputs(found, time.strftime("poc-bench-%Y%m%d-%H%M%S"))
    for one in named:
        if args.vs_host and "host" not in one.runtimes:
            raise InvalidArgument(f"--vs-host compares with host, which is not among {', '.join(one.runtimes)}")
        if args.relative_to and args.relative_to not in one.runtimes:
            raise InvalidArgument(f"--relative-to {args.relative_to}: not among {', '.join(one.runtimes)}")
    return named


def _given(args: Args) -> dict[str, Any]:
    """What the command line says, by `Config`'s keys."""
    from poc.bench import config

    given: dict[str, Any] = {
        key: getattr(args, key)
        for key in ("runs", "warmup", "seed", "output", "image")
        if getattr(args, key) is not None
    }
    if args.quick or args.full:
        given["quick"] = args.quick
    if args.runtimes:
        given["runtimes"] = tuple(filter(None, args.runtimes.split(",")))
    if args.runtime_path:
        given["paths"] = config.paths(args.runtime_path)
    if args.vs_host or args.arguments:
        given["suites"] = ("compare",) if args.vs_host else tuple(args.arguments)
    if args.scale is not None:
        given["scale"] = _number(args.scale)
    return given


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(f"--scale: {text!r} is no number") from None


def _ask(configs: list[Config]) -> bool:
    """Quick or full? Without a terminal it is the full one."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    from poc.bench.runner import Bench

    quick, full = (_span(sum(Bench(one._replace(quick=quick)).seconds() for one in configs)) for quick in (True, False))
    print(f"quick takes {quick}, full {full} (--quick or --full does not ask).\nWhich? ", end="", file=sys.stderr)
    sys.stderr.flush()
    answer = sys.stdin.readline().strip().lower()
    if answer not in ("quick", "full"):
        raise InvalidArgument(f"{answer!r} is neither quick nor full; nothing was measured")
    return answer == "quick"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} seconds"
    return f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _measure(bench: Bench, args: Args) -> int:
    for number in _ENDING:
        signal.signal(number, _interrupt)
    try:
        with time_left() as report:
            results = bench.run(report, args.resume)
    except (KeyboardInterrupt, SystemExit):
        if os.path.exists(path := str(bench.config.output)):
            complain(f"what was measured is in {path}; the same call with -o {path} --resume goes on", "Interrupted")
        raise
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    _print(results, args)
    return 1 if results.failures else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first one ends the benchmark, in order; another must not disturb that."""
    for other in _ENDING:
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _print(results: Results, args: Args) -> None:
    from poc.bench import report

    if args.format == "json":
        print(json.dumps(results.data, indent=1))
        return
    if args.format == "markdown":
        print(report.text(results, args.relative_to))
    else:
        print(report.text(results, args.relative_to, lambda found: table(*report.folded(found)), ""))
    print(f"\nevery sample: {results.path}")
