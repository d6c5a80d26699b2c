"""`poc bench`: what a container costs against the host, and beside every other runtime of this machine."""

from __future__ import annotations

import json
import os
import sys
import time

from poc._lean import signal
from poc.cli.output import complain, show, table
from poc.cli.parse import FLAG, INT, LIST, VALUE, Args, Command, Option
from poc.cli.progress import time_left
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from poc.bench.config import Config
    from poc.bench.results import Results

COMMAND = Command(
    arguments="[prepare|runtimes|suites|compare|report|SUITE...]",
    complete=(
        "runtimes",
        "suites",
        "compare",
        "report",
        "prepare",
        "performance",
        "operations",
        "scalability",
        "limits",
    ),
    example="poc bench --runtimes host,poc,runc,docker operations boot footprint",
    options=(
        Option("--vs-host", FLAG, "Five workloads of sysbench, on the host and in a container in turn"),
        Option("--quick", FLAG, "Short and small: about two minutes for --vs-host"),
        Option("--full", FLAG, "Long: hours for --vs-host (the default without a terminal)"),
        Option("--runtimes", VALUE, "Which to compare, with commas between (default: host,poc)", metavar="NAME,NAME"),
        Option("--runtime-path", LIST, "An OCI runtime by its path, and its name here", metavar="NAME=PATH"),
        Option("--runs", INT, "Times that each is measured (default: 10, with --quick 5)", metavar="NUMBER"),
        Option("--warmup", INT, "Times before that, which do not count (default: 1)", metavar="NUMBER"),
        Option("--scale", VALUE, "Make all work so many times as large", metavar="NUMBER"),
        Option("--seed", INT, "Repeat the order that a seed gave", metavar="NUMBER"),
        Option("--config", LIST, "Read what to do from a YAML file; may be repeated", metavar="FILE", complete="file"),
        Option(
            "-o --output",
            VALUE,
            "Keep the results here (default: poc-bench-TIME.json); of `report`: the HTML file",
            metavar="FILE",
            complete="file",
        ),
        Option("--resume", FLAG, "Go on with the results in --output"),
        Option(
            "--image",
            VALUE,
            "Run the programs of this image of poc's, such as `prepare` makes, not copies of the host's",
            complete="image",
        ),
        Option("--relative-to", VALUE, "The runtime that ratios are made with", metavar="NAME"),
        Option("--directory", VALUE, "Work in this directory's file system (default: /var/tmp)", metavar="DIR"),
        Option(
            "--format",
            VALUE,
            "table, markdown or json; of `report`: html or markdown",
            complete=("table", "markdown", "json", "html"),
        ),
    ),
)


def run(args: Args) -> int:
    verb = args.arguments[0] if args.arguments else ""
    if verb in VERBS and (verb != "compare" or _are_files(args.arguments[1:])):
        call, *taken = VERBS[verb]
        _refuse_others(args, verb, taken)
        code: int = call(args)
        return code
    _check(args)
    configs = _configs(args)
    _go_apart(configs)
    return max(_measure(config, args) for config in configs)


def _refuse_others(args: Args, verb: str, taken: list[str]) -> None:
    """An option that would have no effect is refused."""
    for option in COMMAND.options:
        if getattr(args, option.key) != option.default and option.key not in taken:
            raise InvalidArgument(f"poc bench {verb} has no {option.names[-1]}")


def _check(args: Args) -> None:
    if args.format not in (None, "table", "markdown", "json"):
        raise InvalidArgument(f"--format: {args.format!r} is neither table, markdown nor json")
    if args.quick and args.full:
        raise InvalidArgument("--quick or --full, not both")
    if args.vs_host and args.arguments:
        raise InvalidArgument("--vs-host has its own suites; name either it or suites")
    if args.resume and args.output is None:
        raise InvalidArgument("--resume goes on with the results in --output FILE")


def _are_files(names: list[str]) -> bool:
    """`poc bench compare A B`; the suites compare.* could be meant as well."""
    return len(names) == 2 and all(name.endswith(".json") or os.path.isfile(name) for name in names)


# ── what to do ───────────────────────────────────────────────────────────────────────────────────────────


def _configs(args: Args) -> list[Config]:
    """One benchmark, or one for each --config; what the command line says goes before what the file does."""
    from poc.bench import config

    base = config.Config(("host", "poc"), directory=args.directory, root=args.root)
    given = _given(args)
    if "quick" not in given and args.vs_host:
        given["quick"] = _ask(base._replace(**given))
    if given.get("quick"):
        base = base._replace(runs=5)
    found = [config.load(path, base)._replace(**given) for path in args.config] or [base._replace(**given)]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    named = [
        one if one.output else one._replace(output=f"poc-bench-{stamp}{f'-{number}' if number else ''}.json")
        for number, one in enumerate(found)
    ]
    for one in named:
        if args.vs_host and "host" not in one.runtimes:
            raise InvalidArgument(f"--vs-host compares with host, which is not among {', '.join(one.runtimes)}")
        if args.relative_to and args.relative_to not in one.runtimes:
            raise InvalidArgument(f"--relative-to {args.relative_to}: not among {', '.join(one.runtimes)}")
    if len({one.output for one in named}) < len(named):
        raise InvalidArgument("several configurations write to one output; give each its own in its file")
    return named


def _given(args: Args) -> dict[str, Any]:
    """What the command line says, by `Config`'s keys."""
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
        given["paths"] = dict(_path(text) for text in args.runtime_path)
    if args.vs_host or args.arguments:
        given["suites"] = ("compare",) if args.vs_host else tuple(args.arguments)
    if args.scale is not None:
        given["scale"] = _number(args.scale)
    return given


def _path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path.startswith("/")):
        raise InvalidArgument(f"--runtime-path {text}: NAME=/PATH is wanted")
    return name, path


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(f"--scale: {text!r} is no number") from None


def _ask(config: Config) -> bool:
    """Quick or full? Without a terminal it is the full one."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    from poc.bench.runner import Bench

    quick, full = (
        _span(Bench(config._replace(quick=quick, runs=config.runs if config.runs != 10 or not quick else 5)).seconds())
        for quick in (True, False)
    )
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


def _go_apart(configs: list[Config]) -> None:
    from poc.bench import machine
    from poc.bench.runtimes import find

    runtimes = [find(name, config.paths) for config in configs for name in config.runtimes]
    if any(runtime.needs_mounts for runtime in runtimes) and not machine.is_apart():
        machine.go_apart()


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────


def _measure(config: Config, args: Args) -> int:
    from poc.bench.runner import Bench

    bench = Bench(config)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with time_left() as report:
            results = bench.run(report, args.resume)
    except (KeyboardInterrupt, SystemExit):
        if os.path.exists(str(config.output)):
            complain(
                f"what was measured is in {config.output}; the same call with -o and --resume goes on", "Interrupted"
            )
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    _print(results, args)
    return 1 if results.failures else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first one ends the benchmark, in order; another must not disturb that."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _print(results: Results, args: Args) -> None:
    if args.format == "json":
        print(json.dumps(results.data, indent=1))
    else:
        print(_text(results, args, args.format))
        print(f"every sample: {results.path}")


def _text(results: Results, args: Args, format: str | None) -> str:
    """The table, what it means, and what a reader has to know; for a terminal, or in Markdown."""
    from poc.bench import report

    base = args.relative_to or ("host" if args.vs_host else None)
    if base is not None and base not in results.data["runtimes"]:
        raise InvalidArgument(f"--relative-to {base}: that was not measured")
    found = report.against(results, base) if base and args.vs_host else report.matrix(results, base)
    parts = [report.markdown(found) if format == "markdown" else table(*found)]
    failed = [f"failed: {one['suite']} {one['runtime']}: {one['error']}" for one in results.failures]
    mark = "- " if format == "markdown" else ""
    for lines in (report.sentences(results, base), report.notes(results), failed):
        parts.append("\n".join(f"{mark}{line}" for line in lines))
    return "\n\n".join(filter(None, parts))


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────


def _list_runtimes(args: Args) -> int:
    """Those that `poc bench` knows, with their version or why they are not here."""
    from poc.bench import machine
    from poc.bench.runtimes import KNOWN, find

    paths = dict(_path(text) for text in args.runtime_path or ())
    found = [find(name, paths) for name in (*KNOWN, *paths)]
    if any(runtime.needs_mounts for runtime in found) and not machine.is_apart():
        machine.go_apart()
    reasons = {runtime.name: runtime.absent() for runtime in found}
    rows = [
        {"Name": one.name, "Version": "" if reasons[one.name] else one.version(), "Reason": reasons[one.name]}
        for one in found
    ]
    show(rows, (("RUNTIME", "Name"), ("VERSION", "Version"), ("WHY NOT", "Reason")), args.format)
    return 0


def _list_suites(args: Args) -> int:
    from poc.bench.suites import SUITES

    rows = [{"Name": suite.name, "Title": suite.title, "Needs": ", ".join(suite.programs)} for suite in SUITES]
    show(rows, (("SUITE", "Name"), ("WHAT IT MEASURES", "Title"), ("NEEDS", "Needs")), args.format)
    return 0


def _compare(args: Args) -> int:
    """Is the second better or worse than the first? Ends with 1 when something is worse by more than the noise."""
    from poc.bench import report
    from poc.bench.results import Results

    old, new = (Results.load(path) for path in args.arguments[1:])
    found = list(report.regressions(old, new))
    if not found:
        raise InvalidArgument("the two have measured nothing in common")
    for line, worse in found:
        print(f"WORSE  {line}" if worse else f"       {line}")
    return int(any(worse for _, worse in found))


def _prepare(args: Args) -> int:
    """An image with all programs that suites need, made as `poc init` makes its own."""
    from poc.bench.image import PACKAGES, PREPARED
    from poc.cli.progress import progress
    from poc.engine import Engine

    with progress() as report:
        image = Engine(args.root).images.make_of_packages(PREPARED, list(PACKAGES), report)
    print(f"{PREPARED}: {', '.join(PACKAGES)}; {image.origin} (poc bench --image {PREPARED} …)")
    return 0


def _report(args: Args) -> int:
    """One HTML file of results, or their tables in Markdown: of files, or of all that are in directories."""
    from poc.bench import html
    from poc.bench.results import Results

    if args.format not in (None, "html", "markdown"):
        raise InvalidArgument(f"--format: {args.format!r} is neither html nor markdown")
    paths = [path for name in args.arguments[1:] or ["."] for path in _result_files(name)]
    found = [Results.load(path) for path in paths]
    wanted = args.format or ("markdown" if str(args.output).endswith(".md") else "html")
    if wanted == "html" and args.relative_to:
        raise InvalidArgument("--relative-to is chosen in the page itself")
    text = html.page(found) if wanted == "html" else "\n\n".join(_text(one, args, "markdown") for one in found)
    if args.output in (None, "-"):
        print(text)
        return 0
    with open(args.output, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return 0


def _result_files(name: str) -> list[str]:
    if not os.path.isdir(name):
        return [name]
    found = [os.path.join(name, entry) for entry in sorted(os.listdir(name)) if entry.endswith(".json")]
    if not found:
        raise InvalidArgument(f"{name} holds no results (*.json)")
    return found


VERBS: dict[str, Any] = {  # what each does, and the options it takes
    "runtimes": (_list_runtimes, "format", "runtime_path"),
    "suites": (_list_suites, "format"),
    "compare": (_compare,),
    "report": (_report, "format", "output", "relative_to"),
    "prepare": (_prepare,),
}
