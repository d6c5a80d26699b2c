"""`poc bench`: the reader of sysbench's reports, the statistics, and small real comparisons."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import leaks
import pytest
from conftest import CHECKOUT, CommandLine, CommandResult, Terminal, needs, running
from hypothesis import given
from hypothesis import strategies as st

from poc import _fs
from poc.bench import config, report, statistics, sysbench, workspace
from poc.bench.results import SCHEMA, Results
from poc.bench.runner import Bench
from poc.bench.runtimes import find
from poc.bench.runtimes.base import CallFailed, Host
from poc.bench.suites import SUITES
from poc.bench.suites import choose as choose_suites
from poc.bench.suites.apps import ab_figures, redis_figures
from poc.bench.suites.base import Measured, Metric, Settings, Suite
from poc.bench.suites.disk import fio_figures, rate
from poc.bench.suites.limits import used_cpus
from poc.bench.suites.network import iperf_figures
from poc.errors import Conflict, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

REPORTS = os.path.join(CHECKOUT, "tests", "sysbench")
NAMES = sorted(os.listdir(REPORTS))


# ── sysbench's reports ───────────────────────────────────────────────────────────────────────────────────


def read(name: str) -> str:
    with open(f"{REPORTS}/{name}") as file:
        return file.read()


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_report_is_read(name: str) -> None:
    text = read(name).partition("Threads started!")[2]
    text = re.sub(r"^\[ .*$|^ +[\d.]+ \|.*$", "", text, flags=re.MULTILINE)  # while it ran; the histogram
    text = text.replace("95th", "").replace("99th", "")
    told = sorted(float(number) for number in re.findall(r"\d+(?:\.\d+)?", text))
    found = sysbench.parse(read(name))
    derived = {"general.events_per_second", "latency.mean"}
    assert sorted(value for key, value in found.items() if key not in derived) == told


def test_what_the_numbers_of_a_report_are_called() -> None:
    files = sysbench.parse(read("fileio.txt"))
    assert files["fileio.fsyncs_per_second"] == 2705.93 and files["throughput.written_mib_per_second"] == 422.49
    assert files["latency.p95"] == 0.01 and files["fairness.events.avg"] == 70406
    assert files["latency.mean"] == pytest.approx(978.45 / 70406)
    memory = sysbench.parse(read("memory.txt"))
    assert memory["memory.operations"] == 9589832 and memory["memory.mib_per_second"] == 9356.37
    assert sysbench.parse(read("histo.txt"))["latency.p99"] == 0.28
    threads = sysbench.parse(read("threads.txt"))
    assert threads["general.events_per_second"] == pytest.approx(2721 / 1.0014)
    assert sysbench.version(read("cpu.txt")) == "1.0.20"


def test_a_report_that_is_none() -> None:
    for text, words in [
        ("", "has written nothing"),
        ("FATAL: unable to create 100 threads\nmore", "FATAL: unable to create 100 threads"),
        (read("cpu.txt").partition("Threads fairness")[0], "sum:"),
    ]:
        with pytest.raises(sysbench.BadReport, match=words):
            sysbench.parse(text)


# ── statistics ───────────────────────────────────────────────────────────────────────────────────────────

VALUES = st.floats(0.001, 1e6)
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12)


@given(PAIRS)
def test_a_ratio_lies_in_its_interval_and_turns_round(pairs: list[tuple[float, float]]) -> None:
    samples, base = [a for a, _ in pairs], [b for _, b in pairs]
    found, turned = statistics.ratio(samples, base), statistics.ratio(base, samples)
    assert found and turned
    assert found.value == pytest.approx(1 / turned.value)
    if len(pairs) == 1:
        assert found.low is None and not found.differs
    else:
        assert found.low is not None and found.high is not None and turned.low is not None
        assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)
        assert math.log(found.high) == pytest.approx(-math.log(turned.low), abs=1e-6)


@given(st.lists(VALUES, min_size=2, max_size=12), st.floats(0.1, 10))
def test_a_constant_factor_is_found_exactly(base: list[float], factor: float) -> None:
    found = statistics.ratio([factor * value for value in base], base)
    assert found and found.low == pytest.approx(factor) and found.high == pytest.approx(factor)
    shuffled = statistics.independent_ratio([value * factor for value in base], base)
    assert shuffled and shuffled.value == pytest.approx(factor)


@given(st.lists(VALUES, min_size=1, max_size=40))
def test_a_summary_drops_nothing(samples: list[float]) -> None:
    found = statistics.summarize(samples)
    assert found.n == len(samples) and found.min <= found.median <= found.max
    assert found.min <= found.mean * (1 + 1e-9) and found.mean <= found.max * (1 + 1e-9)
    assert set(found.outliers) <= set(samples)
    assert found.max in statistics.outliers([*[1.0, 1.1, 0.9] * 3, 1e7 + found.max, found.max][:10]) or found.max < 1e7


@pytest.mark.parametrize("n", [3, 5, 6, 10, 20])
def test_intervals_hold_the_truth_in_95_of_100_cases(n: int) -> None:
    """Of ratios with a truth of 1.2, with noise that hits both sides, and noise of each."""
    rng, held, cases = random.Random(n), 0, 400
    for _ in range(cases):
        drift = [rng.lognormvariate(0, 0.5) for _ in range(n)]
        samples = [1.2 * way * rng.lognormvariate(0, 0.1) for way in drift]
        found = statistics.ratio(samples, [way * rng.lognormvariate(0, 0.1) for way in drift])
        assert found and found.low is not None and found.high is not None
        held += found.low <= 1.2 <= found.high
    assert held / cases >= 0.92  # 0.95 less what 400 cases may be off


def test_the_tables_behind_the_intervals() -> None:
    """Critical values as printed in textbooks; the t quantiles by their density."""
    assert [statistics._outside(n) for n in (6, 7, 8, 9, 10, 20)] == [0, 2, 3, 5, 8, 52]
    pairs = [(3, 3), (4, 4), (5, 5), (3, 8), (10, 10), (20, 20)]
    assert [statistics._outside_of_two(m, n) for m, n in pairs] == [-1, 0, 2, 2, 23, 127]
    assert abs(statistics._outside(100) - statistics._outside(101)) < 60  # where the exact count ends
    for freedom, quantile in enumerate(statistics._T, 1):
        steps = 20_000
        width = quantile / steps
        density = [(1 + (at * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for at in range(steps + 1)]
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        assert scale * width * (sum(density) - (density[0] + density[-1]) / 2) == pytest.approx(0.475, abs=1e-5)


def test_one_outlier_hides_no_difference() -> None:
    base = [100.0, 101, 99, 100, 102, 98, 100, 101, 99, 100]
    slower = [1.1 * value for value in base]
    slower[3] = 2000
    found = statistics.ratio(slower, base)
    assert found and found.differs and found.low == found.value == pytest.approx(1.1)
    assert statistics.outliers(slower) == [2000]
    assert statistics.summarize(slower).max == 2000


def test_sentences() -> None:
    def of(ratio: statistics.Ratio, better: str = "lower") -> str:
        return statistics.sentence("CPU", ratio, better, "poc", "host")

    assert of(statistics.Ratio(0.998, 0.991, 1.004, 10, "")) == (
        "CPU: no measurable difference (0.998, 0.991 to 1.004)"
    )
    assert of(statistics.Ratio(2.4, 2.3, 2.5, 10, "")) == "CPU: poc is 2.4 × slower than host (2.400, 2.300 to 2.500)"
    assert of(statistics.Ratio(2.4, 2.3, 2.5, 10, ""), "higher").startswith("CPU: poc is 2.4 × faster than host")
    assert of(statistics.Ratio(0.97, 0.96, 0.98, 10, ""), "higher").startswith("CPU: poc is 3.0 % slower than host")
    assert of(statistics.Ratio(1.1, 0.8, 1.4, 10, "")) == (
        "CPU: the noise is larger than the difference (1.100, 0.800 to 1.400)"
    )
    assert of(statistics.Ratio(2, None, None, 1, "")) == (
        "CPU: too few runs to tell a difference from noise (2.000 in 1 run)"
    )
    noisy = statistics.sentence("CPU", statistics.Ratio(1.1, 0.8, 1.4, 10, ""), "lower", "poc", "host", pair=True)
    assert noisy.startswith("CPU: the noise is larger than the difference between poc and host (")
    assert statistics.ratio([1, 0], [1, 1]) is None and statistics.ratio([], []) is None
    assert NormalDist().inv_cdf(0.975) == pytest.approx(1.959964, abs=1e-6)  # of the approximations


def test_what_has_no_ratio_is_told_in_figures() -> None:
    results = Results.new({}, None)
    results.describe([Call()], Settings())
    for name, value in (("a", 0.0), ("b", 1234.5)):
        results.data["runtimes"][name] = ""
        results.add("test.call", name, 0, 0.1, Measured({"call": value}))
    assert list(report.sentences(results)) == ["A call: b 1234 ms, a 0 ms"]
    assert report.regressions(results, results) == [
        ("test.call (a call) a: 0 ms, before 0 ms", False),
        ("test.call (a call) b: too few runs to tell a difference from noise (1.000 in 1 run)", False),
    ]


def test_used_cpus_from_what_a_shell_tells() -> None:
    assert used_cpus("2000000000\n0m0.01s 0m0.00s\n1m0.50s 0m1.50s\n") == pytest.approx(31)


def test_rates_from_what_dd_tells() -> None:
    assert rate("1+0 in\n8388608 bytes (8.4 MB, 8.0 MiB) copied, 2.0 s, 4.2 MB/s\n") == 4
    with pytest.raises(CallFailed, match="dd says 'dd: no'"):
        rate("dd: no\n")


def test_fio_of_this_machine_is_understood(tmp_path: Path) -> None:
    if not shutil.which("fio"):
        pytest.skip("needs the program fio")
    words = ["fio", "--name=x", "--size=1M", "--rw=randwrite", "--bs=128k", "--output-format=json", "--unlink=1"]
    text = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = fio_figures("fio: a note\n" + text)
    assert found["iops"] / 8 == pytest.approx(found["rate"], rel=0.01) and found["latency.p95"] <= found["latency.p99"]
    assert 0 < found["latency.mean"] < 1000
    with pytest.raises(CallFailed):
        fio_figures('{"jobs": []}')


AB_REPORT = """Failed requests:        {failed}
Requests per second:    5796.21 [#/sec] (mean)
Time per request:       17.253 [ms] (mean)
Time per request:       0.173 [ms] (mean, across all concurrent requests)
  95%     41
"""


def test_figures_of_ab_and_redis_benchmark() -> None:
    assert ab_figures(AB_REPORT.format(failed=0)) == {"rate": 5796.21, "mean": 17.253, "p95": 41}
    for text, words in [(AB_REPORT.format(failed=3), "3 requests failed"), ("ab: Connection refused", "refused")]:
        with pytest.raises(CallFailed, match=words):
            ab_figures(text)
    text = '"test","rps","avg_latency_ms"\n' + "".join(f'"{name}","10.5","1"\n' for name in ("SET", "GET", "INCR"))
    assert redis_figures(text + '"LPUSH","7","1"\n') == {"set": 10.5, "get": 10.5, "incr": 10.5, "lpush": 7}
    with pytest.raises(CallFailed, match="no lpush in"):
        redis_figures(text)


# ── known answers ────────────────────────────────────────────────────────────────────────────────────────


class Slow(Host):
    """The host, but each call takes 50 ms longer."""

    def run(self, command: Sequence[str], limits: object = None) -> str:
        time.sleep(0.05)
        return super().run(command)


class Broken(Host):
    def run(self, command: Sequence[str], limits: object = None) -> str:
        raise CallFailed("broken: it never works")


class Call(Suite):
    """How long a call takes."""

    name, title, headline = "test.call", "A call", "call"
    metrics = (Metric("call", "a call", "ms"),)

    def measure(self, runtime: Any, settings: Settings) -> Measured:
        start = time.perf_counter()
        runtime.run(["true"])
        return Measured({"call": (time.perf_counter() - start) * 1000})


@pytest.fixture
def place(run_directory: str) -> str:
    """Where a benchmark of a test works; what it leaves is found by the check of the host."""
    return run_directory


def bench(place: str, *runtimes: Host, runs: int = 8, output: str | None = None, seed: int = 1) -> Bench:
    asked = config.Config(("host",), runs=runs, warmup=1, seed=seed, output=output, directory=place)
    return Bench(asked, runtimes, (Call(),))


def test_a_call_takes_as_long_as_its_program() -> None:
    """Not as long as it takes until somebody looks again, which after 63 ms would be every 50."""

    def milliseconds(seconds: str) -> float:
        start = time.perf_counter()
        Host("host").call("sleep", seconds)
        return (time.perf_counter() - start) * 1000

    assert 70 <= min(milliseconds("0.07") for _ in range(10)) < 100
    assert 120 <= min(milliseconds("0.12") for _ in range(10)) < 150


@needs("root")
def test_a_delay_of_50_ms_is_found_and_two_equals_are_equal(place: str) -> None:
    results = bench(place, Host("one"), Slow("slow"), Host("other"), runs=12).run()
    mine, base = results.pairs("test.call", "call", "slow", "one")
    assert sorted(a - b for a, b in zip(mine, base, strict=True))[6] == pytest.approx(50, abs=8)
    slow, equal = report.sentences(results, "one")
    assert re.match(r"A call: slow is [\d.]+ × slower than one \(", slow)
    found = statistics.ratio(*results.pairs("test.call", "call", "other", "one"))
    assert found and found.low is not None and found.high is not None
    assert found.low <= 1.1 and found.high >= 0.9 and "slower" not in equal.replace(" % slower", "")
    assert results.data["harness"] and max(results.data["harness"]) < 0.5


@needs("root")
def test_rounds_are_complete_and_shuffled_by_the_seed(place: str) -> None:
    def order(seed: int) -> list[tuple[int, str]]:
        results = bench(place, Host("a"), Host("b"), Host("c"), runs=5, seed=seed).run()
        return [(sample["round"], sample["runtime"]) for sample in results.data["samples"]]

    first = order(7)
    assert first == order(7) != order(8)
    assert [round for round, _ in first] == [round for round in range(-1, 5) for _ in range(3)]
    assert all({name for at, name in first if at == round} == {"a", "b", "c"} for round in range(-1, 5))
    assert len({tuple(name for at, name in first if at == round) for round in range(-1, 5)}) > 1


@needs("root")
def test_what_fails_is_noted_and_the_others_go_on(place: str, tmp_path: Path) -> None:
    path = str(tmp_path / "results.json")
    results = bench(place, Host("host"), Broken("broken"), runs=2, output=path).run()
    assert len(results.samples("test.call", "call", "host")) == 2
    assert {sample["error"] for sample in results.failures} == {"broken: it never works"}
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["schema"] == SCHEMA and stored["state"] == "complete"
    summary = stored["summary"]["test.call"]["call"]["host"]
    values = [s["values"]["call"] for s in stored["samples"] if s["runtime"] == "host" and s["round"] >= 0]
    assert summary["n"] == 2 and summary["min"] == min(values) and summary["max"] == max(values)
    assert os.listdir(tmp_path) == ["results.json"]


class Interrupting(Host):
    """Interrupts the benchmark after so many calls."""

    left = 5

    def run(self, command: Sequence[str], limits: object = None) -> str:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().run(command)


@needs("root")
def test_an_interrupted_run_goes_on_where_it_was(place: str, tmp_path: Path) -> None:
    path = str(tmp_path / "results.json")
    with pytest.raises(KeyboardInterrupt):
        bench(place, Interrupting("a"), Host("b"), output=path).run()
    first = Results.load(path).data
    assert first["state"] == "interrupted" and 6 <= len(first["samples"]) <= 9
    other = bench(place, Host("a"), output=path)
    with pytest.raises(Conflict, match="other settings: runtimes"):
        other.run(resume=True)
    second = bench(place, Host("a"), Host("b"), output=path, seed=2).run(resume=True).data
    assert second["samples"][: len(first["samples"])] == first["samples"] and len(second["samples"]) == 2 * 9
    assert second["state"] == "complete" and second["settings"]["seed"] == 1


def test_results_of_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text in ("{", "[]", '{"schema": "poc-bench/0"}'):
        path.write_text(text)
        with pytest.raises(InvalidArgument):
            Results.load(str(path))


def test_a_workspace_of_a_killed_benchmark_is_cleaned_up(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    script = (
        "import os, sys; from poc.bench.workspace import Workspace; place = Workspace(sys.argv[1]);"
        " place.undo('touch', sys.argv[2]); print(place.path, flush=True); os.kill(os.getpid(), 9)"
    )
    place = str(tmp_path / "place")
    os.mkdir(place)
    command = [sys.executable, "-c", script, place, str(proof)]
    left = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    with workspace.Workspace(place) as mine:
        time.sleep(1.1)  # a directory that has just been made may not be locked yet
        assert workspace.clean(place) in ([left], []) and proof.exists() and not os.path.exists(left)
        assert os.path.isdir(mine.path)
    assert os.listdir(place) == []


def test_an_interrupt_does_not_stop_the_cleaning_up(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "place").mkdir()
    with pytest.raises(KeyboardInterrupt), workspace.Workspace(str(tmp_path / "place")) as mine:
        mine.undo("sh", "-c", 'echo >> "$0"', str(proof))
        mine.undo("sh", "-c", 'test -e "$0" || { : > "$0"; kill -INT $PPID; exec sleep 60; }', str(proof))
    assert proof.read_text() == "\n" and os.listdir(tmp_path / "place") == []


@needs("root")
def test_what_only_looks_like_a_workspace_is_left_alone(tmp_path: Path) -> None:
    """Its name is no secret, and the commands in it would be run with root's rights."""
    place, proof = tmp_path / "place", tmp_path / "proof"
    for name in ("pb-no-undo", "pb-not-ours", "pb-open"):
        (place / name).mkdir(parents=True, mode=0o711)
        if name != "pb-no-undo":
            (place / name / "undo").write_text(json.dumps(["touch", str(proof)]) + "\n")
    os.chown(place / "pb-not-ours", 1000, 1000)
    os.chmod(place / "pb-open", 0o777)
    (place / "pb-link").symlink_to(tmp_path)
    time.sleep(1.1)
    assert workspace.clean(str(place)) == [] and len(os.listdir(place)) == 4 and not proof.exists()


# ── what is asked for ────────────────────────────────────────────────────────────────────────────────────


def test_suites_are_chosen_by_the_beginning_of_their_names() -> None:
    def names(*prefixes: str) -> list[str]:
        return [suite.name for suite in choose_suites(prefixes)]

    assert names("performance.memory") == [f"performance.memory.{x}" for x in ("total", "minavglatency", "maxlatency")]
    assert names("scalability.runtime.5") == ["scalability.runtime.5"]  # and not .50
    assert names("boot", "operations.container.exec") == ["boot", "operations.container.exec"]
    assert "compare.sysbench.cpu" not in names() and len(names("compare")) == 5
    with pytest.raises(InvalidArgument, match="no suite 'perf'"):
        names("perf")
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    for suite in SUITES:
        assert suite.metric(suite.headline) and suite.title


class Recording(Host):
    """Keeps the command lines, and answers with a report."""

    def __init__(self) -> None:
        super().__init__("recording")
        self.commands: list[str] = []

    def run(self, command: Sequence[str], limits: object = None) -> str:
        self.commands.append(" ".join(command))
        return read("cpu.txt")


def test_the_five_workloads_of_vs_host() -> None:
    """The original's, word for word but for their order; the quick ones take about two minutes with 5 runs."""
    runtime, files = Recording(), "sysbench fileio --file-test-mode=rndrw --file-total-size=10240M --max-requests=0"
    for suite in choose_suites(["compare"]):
        suite.measure(runtime, Settings())
    assert [sorted(command.split()) for command in runtime.commands] == [
        sorted(words.split())
        for words in (
            "sysbench cpu --threads=100 --time=60 --cpu-max-prime=64000 run",
            "sysbench threads --threads=64 --thread-yields=100 --thread-locks=2 --time=10 run",
            "sysbench memory --threads=100 --time=60 --memory-oper=write run",
            "sysbench memory --memory-block-size=1M --memory-total-size=10240M run",
            *(f"{files} --time=300 {step}" for step in ("prepare", "run", "cleanup")),
        )
    ]
    commands = [suite.command(Settings()) for suite in choose_suites(["compare"])]
    assert [command for command in runtime.commands if command.endswith(" run")] == commands  # which the results keep
    quick = config.Config(("host", "poc"), ("compare",), runs=5, quick=True)
    assert 60 < Bench(quick).seconds() < 180
    assert Bench(quick._replace(quick=False)).seconds() > 3600


def test_runtimes_by_name() -> None:
    names = ("host", "poc", "poc:crun", "runc", "docker:io.containerd.kata.v2", "podman", "/opt/runsc")
    assert [find(name).name for name in names] == list(names)
    assert find("gvisor", {"gvisor": "/no/runsc"}).absent() == "/no/runsc is not there"
    for name in ("nothing", "podman:crun", "host:x", ""):
        with pytest.raises(InvalidArgument, match="no runtime"):
            find(name)


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    base = config.Config(runs=3)
    path.write_text(
        "runtimes: {poc: null, gvisor: /usr/local/bin/runsc}\nfilter: [boot, limits]\nwarmup: 0\n"
        "scale: 2\noutput: out.json\n"
    )
    found = config.load(str(path), base)
    assert found.runtimes == ("poc", "gvisor") and found.paths == {"gvisor": "/usr/local/bin/runsc"}
    assert (found.suites, found.runs, found.warmup, found.scale) == (("boot", "limits"), 3, 0, 2.0)
    assert found.output == "out.json"
    for text, words in [
        ("- a", "a mapping of"),
        ("run: 3", "unknown key 'run'"),
        ("runs: many", "runs: 'many' can't be used"),
        ("a: [", "bench.yaml"),
        ("filter: 3", "filter: 3"),
    ]:
        path.write_text(text)
        with pytest.raises(InvalidArgument, match=words):
            config.load(str(path), base)
    for changes in ({"runs": 0}, {"warmup": -1}, {"scale": 0.0}, {"runtimes": ()}):
        with pytest.raises(InvalidArgument):
            base._replace(**changes).checked()


# ── the real thing ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cli(engine_root: str) -> CommandLine:
    """Benchmarks have stores of their own, and no networks but in suites about them."""
    return CommandLine(engine_root)


@needs("root", "program:runc", "program:ldd")
def test_a_matrix_of_host_poc_and_runc(cli: CommandLine, place: str, tmp_path: Path) -> None:
    path = str(tmp_path / "out.json")
    options = ["--runtimes=host,poc,runc", "--runs=2", "--warmup=0", f"--directory={place}", "-o", path]
    done = cli("bench", *options, "operations.container.lifecycle", "operations.container.exec", "boot")
    assert done.exit_code == 0 and done.stderr == "", done.stderr + done.stdout
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["runtimes"].keys() == {"host", "poc", "runc"} and data["runtimes"]["runc"].startswith("runc version")
    life = data["summary"]["operations.container.lifecycle"]
    assert life.keys() == {"create", "run", "destroy", "create_and_run"}
    assert all(found.keys() == {"poc", "runc"} and found["poc"]["min"] > 0 for found in life.values())
    boot = data["summary"]["boot"]["boot"]
    assert boot["host"]["median"] < boot["poc"]["median"] and boot["host"]["median"] < boot["runc"]["median"]
    assert data["skipped"]["operations.container.exec"] == {"host": "host has no containers"}
    assert data["machine"]["cpus"] == os.cpu_count() and data["machine"]["filesystem"]
    assert re.search(r"^operations\.container\.lifecycle\n  create, run `true`, remove, ms +poc +2 ", done.stdout, re.M)
    again = cli("bench", "compare", path, path)
    assert again.exit_code == 0 and "WORSE" not in again.stdout and "operations.container.exec" in again.stdout
    data["samples"] = [{**s, "round": s["round"] + 2 * n} for n in range(4) for s in data["samples"]]
    (tmp_path / "out.json").write_text(json.dumps(data))
    for sample in data["samples"]:
        sample["values"] = {key: value * 3 for key, value in sample["values"].items()}
    (tmp_path / "worse.json").write_text(json.dumps(data))
    worse = cli("bench", "compare", path, str(tmp_path / "worse.json"))
    assert worse.exit_code == 1 and re.search(r"WORSE +boot .* poc: it is 3.0 × slower than before", worse.stdout)


@needs("root", "program:sysbench", "program:ldd")
def test_vs_host(cli: CommandLine, place: str, tmp_path: Path) -> None:
    path = str(tmp_path / "out.json")
    options = ["--quick", "--scale=0.25", "--runs=1", "--warmup=0", f"--directory={place}", "-o", path]
    done = cli("bench", "--vs-host", *options)
    assert done.exit_code == 0 and done.stderr == "", done.stderr
    data = json.loads((tmp_path / "out.json").read_text())
    titles = [suite["title"] for suite in data["suites"].values()]
    assert titles == ["CPU", "Threads", "Memory, 100 threads", "Memory, blocks of 1 MiB", "Files"]
    for title in titles:
        assert re.search(rf"^{title}: too few runs to tell a difference from noise", done.stdout, re.M)
    assert len(data["samples"]) == 10 and not any("error" in sample for sample in data["samples"])
    for sample in data["samples"]:
        assert sample["values"]["latency.max"] > 0 and sample["values"]["fairness.time.avg"] > 0
        assert sysbench.parse(sample["raw"]) == sample["values"]
    threads = {s["runtime"]: re.search(r"Number of threads: (\d+)", s["raw"]) for s in data["samples"][:2]}
    assert {name: found and found[1] for name, found in threads.items()} == {"host": "100", "poc": "100"}


@needs("root", "program:runc", "program:ldd")
def test_what_is_kept_for_containers_and_many_at_once(cli: CommandLine, place: str, tmp_path: Path) -> None:
    """A monitor of poc's for each, and nothing of runc's."""
    path = tmp_path / "out.json"
    options = ["--runtimes=poc,runc", "--runs=1", "--warmup=0", f"--directory={place}", "-o", str(path)]
    assert cli("bench", *options, "scalability.runtime.5").exit_code == 0
    samples = json.loads(path.read_text())["samples"]
    values = {sample["runtime"]: sample["values"] for sample in samples}
    assert 1 < values["poc"]["kept"] < 20 and values["runc"]["kept"] == 0
    assert all(found["start"] > 1 and found["destroy"] > 1 for found in values.values())


@needs("root", "program:runc", "program:ldd")
def test_an_interrupt_leaves_nothing_and_keeps_what_was_measured(cli: CommandLine, place: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    options = ["--runtimes=poc,runc", "--seed=3", "--warmup=0", f"--directory={place}", "-o", str(path)]
    words = ["bench", *options, "operations.container.exec"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(cli.start(*words, "--runs=500", **pipes)) as process:
        deadline = time.monotonic() + 30
        while not path.exists() or len(json.loads(path.read_text())["samples"]) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Interrupted: what was measured is in" in stderr
    kept = json.loads(path.read_text())
    assert kept["state"] == "interrupted" and [name for name in os.listdir(place) if name.startswith("pb-")] == []
    count = len(kept["samples"])
    rounds = str(count // 2 + 2)
    done = cli(*words, "--resume", f"--runs={rounds}")
    assert done.exit_code == 0, done.stderr
    data = json.loads(path.read_text())
    assert data["samples"][:count] == kept["samples"] and len(data["samples"]) == 2 * int(rounds)


@needs("root", "program:runc", "program:ldd")
def test_what_a_killed_benchmark_left_the_next_one_takes_away(cli: CommandLine, place: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    options = ["--warmup=0", f"--directory={place}", "-o", str(path)]
    words = ["bench", "--runtimes=poc,runc", "--runs=500", *options, "operations.container.exec"]
    with running(cli.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) as process:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(random.random())
        process.kill()
    assert json.loads(path.read_text())["state"] == "running"
    (left,) = (name for name in os.listdir(place) if name.startswith("pb-"))
    time.sleep(1.1)  # one that has just been made may not be locked yet
    assert cli("bench", "--runtimes=host", "--runs=1", *options, "boot").exit_code == 0
    assert not os.path.exists(f"{place}/{left}")  # and what lived in it the check of the host would find


@needs("root", "program:sysbench", "program:ldd")
def test_on_a_terminal_it_asks_shows_how_far_it_is_and_ends_by_ctrl_c(
    cli: CommandLine, place: str, tmp_path: Path, terminal: Terminal
) -> None:
    path = tmp_path / "out.json"
    words = ["bench", "--vs-host", "--runs=2", "--scale=0.5", "--warmup=0", f"--directory={place}", "-o", str(path)]
    if shutil.which("podman"):  # with which it starts itself again, in namespaces of its own
        words.append("--runtimes=host,podman")
    with terminal.start([*cli.command, *words], env={**os.environ, "TERM": "xterm"}) as process:
        assert b"quick takes about" in terminal.read_until(b"Which? ")
        os.write(terminal.fd, b"quick\n")
        terminal.read_until(b"compare.sysbench.cpu")
        assert re.search(rb"0:0\d:\d\d left", terminal.read_until(b"compare.sysbench.threads"))  # the time that is left
        os.write(terminal.fd, b"\x03")
        assert terminal.read_until(b"goes on").count(b"what was measured is in") == 1
        assert process.wait(30) == 130
    data = json.loads(path.read_text())
    assert data["state"] == "interrupted" and data["settings"]["quick"] and len(data["samples"]) >= 4
    with terminal.start([*cli.command, *words]) as process:
        terminal.read_until(b"Which? ")
        os.write(terminal.fd, b"neither\n")
        assert b"nothing was measured" in terminal.read_until(b"nothing was measured")
        assert process.wait(30) == 1


@needs("root")
def test_what_is_absent_or_unknown_is_an_error(
    cli: CommandLine, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, message in [
        (["--runtimes=poc,gvisor", "--runtime-path=gvisor=/no/runsc", "boot"], "gvisor: /no/runsc is not there"),
        (["--runtimes=poc,nothing", "boot"], "no runtime 'nothing'"),
        (["nonsense"], "no suite 'nonsense'"),
        (["--runs=0", "boot"], "at least one run"),
        (["--vs-host", "boot"], "--vs-host has its own suites"),
        (["--runtime-path=runsc", "boot"], "NAME=/PATH is wanted"),
        (["--resume", "boot"], "--output FILE"),
        (["--scale=big", "boot"], "'big' is no number"),
        (["--format=xml", "boot"], "neither table, markdown nor json"),
        (["--runtimes=host", "operations"], "host has no"),
        (["--vs-host", "--quick", "--runtimes=poc"], "compares with host, which is not among poc"),
        (["--relative-to=runc", "boot"], "--relative-to runc: not among host, poc"),
        (["--image=nowhere", "boot"], "no such image: nowhere"),
        (["--output=/no/where/x.json", "boot"], "can't be written to /no/where/x.json"),
        (["--output=/", "boot"], "can't be written to /"),
        (["--directory=/no/where", "boot"], "no directory /no/where to work in"),
        (["--scale=nan", "boot"], "scale nan: larger than 0"),
    ]:
        done = cli("bench", f"--directory={place}", *words)
        assert done.exit_code == 1 and message in done.stderr and done.stdout == "", (words, done)
        assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@needs("root")
def test_an_option_without_an_effect_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    made = str(made_up(tmp_path))
    for words in (
        ["runtimes", "--runs=3"],
        ["suites", "--quick"],
        ["compare", made, made, "--format=json"],
        ["report", made, "--seed=3"],
        ["prepare", "--quick"],
    ):
        done = cli("bench", *words)
        assert done.exit_code == 125 and done.stdout == ""
        assert done.stderr.startswith(f"poc: unknown flag: {words[-1].partition('=')[0]} (see 'poc bench {words[0]} --")
    for words, message in [
        (["report", made, "--format=xml"], "neither html nor markdown"),
        (["report", made, "--relative-to=poc"], "chosen in the page itself"),
        (["report", made, "--format=markdown", "--relative-to=crun"], "that was not measured"),
        (["report", str(tmp_path / "nothing.json")], "No such file"),
    ]:
        assert message in cli("bench", *words).stderr
    done = cli("bench", "report", made, "-o", str(tmp_path / "report.md"), "--relative-to=runc")
    assert done == ("", "", 0)
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"^\| test.call +\| a call, ms +\| poc +\| 10 +\|", text, re.M)
    assert re.search(r"^- A call: poc is \d\.\d × faster than runc \(", text, re.M)


@needs("root", "program:ldd")
def test_several_configurations_in_one_call(
    cli: CommandLine, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, suite in (("one", "boot"), ("two", "operations.container.exec")):
        text = f"runtimes: [poc]\nfilter: {suite}\nruns: 1\nwarmup: 0\noutput: {name}.json\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    done = cli("bench", f"--directory={place}", "--config=one.yaml", "--config=two.yaml", "--seed=5")
    assert done.exit_code == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert list(one["suites"]) == ["boot"] and list(two["suites"]) == ["operations.container.exec"]
    assert one["settings"]["seed"] == two["settings"]["seed"] == 5 and len(one["samples"]) == 1
    (tmp_path / "two.yaml").write_text("filter: boot\noutput: one.json\n")
    refused = cli("bench", "--config=one.yaml", "--config=two.yaml")
    assert refused.exit_code == 1 and "write to one output" in refused.stderr


@needs("root")
def test_the_listings(cli: CommandLine) -> None:
    runtimes = cli("bench", "runtimes", "--runtime-path=gvisor=/no/runsc", "--format=json").stdout.splitlines()
    found = {row["Name"]: row for row in map(json.loads, runtimes)}
    assert found["host"]["Version"].startswith("Linux ") and found["poc"]["Version"].startswith("poc ")
    assert found["gvisor"]["Reason"] == "/no/runsc is not there" and not found["gvisor"]["Version"]
    suites = [json.loads(line)["Name"] for line in cli("bench", "suites", "--format=json").stdout.splitlines()]
    assert suites == [suite.name for suite in SUITES]


@needs("root", "program:ldd")
def test_limits_are_measured(cli: CommandLine, place: str, tmp_path: Path) -> None:
    """What a limit leaves may be taken by others; that it is not passed is seen on any machine."""
    path = tmp_path / "out.json"
    options = ["--runtimes=host,poc", "--quick", "--scale=0.2", "--runs=1", "--warmup=0", f"--directory={place}"]
    suites = ["limits.accuracy", "limits.cpu.scaling", "limits.memory", "limits.blkio", "io.dd"]
    done = cli("bench", *options, "-o", str(path), *suites)
    assert done.exit_code == 0, done.stdout
    data = json.loads(path.read_text())
    values = {(sample["suite"], sample["runtime"]): sample["values"] for sample in data["samples"]}
    for name in ("poc",):
        for suite in ("limits.accuracy", "limits.cpu.scaling"):
            for key, got in values[suite, name].items():
                assert not key.startswith("got.") or 0 < got < 1.3 * float(key[4:]) + 0.05, (suite, name, key, got)
        assert 50 <= values["limits.memory", name]["got"] <= 64
        if ("limits.blkio", name) in values:  # on a disk
            assert values["limits.blkio", name]["got"] < 5
        assert values["io.dd", name]["rate"] > 0
    assert values["io.dd", "host"]["rate"] > 0 and ("limits.memory", "host") not in values
    assert data["skipped"]["limits.memory"] == {"host": "host has no containers"}


IPERF = ("program:ldd", "program:iperf3", "program:ip", "program:nft")
APPS = ("program:nginx", "program:ab", "program:redis-server", "program:redis-benchmark")
MOST_SECONDS = 240


@pytest.fixture
def bare_network(outside: int) -> Iterator[None]:
    """A host of the test's own, with a default route. At the end it is as it was."""

    def look() -> list[str]:
        switches = ("ip_forward", "conf/all/forwarding", "conf/uplink/forwarding")
        told = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        return [*sorted(leaks.links()), told, *(_fs.read_text(f"/proc/sys/net/ipv4/{name}") for name in switches)]

    before = look()
    yield
    assert look() == before


def measured(path: Path, done: CommandResult) -> dict[tuple[str, str], dict[str, Any]]:
    """The samples of a benchmark that went well, one for each suite and runtime."""
    assert done.exit_code == 0 and done.stderr == "", done
    samples = json.loads(path.read_text())["samples"]
    assert [sample for sample in samples if "error" in sample] == []
    return {(sample["suite"], sample["runtime"]): sample for sample in samples}


def check_traffic(found: dict[tuple[str, str], dict[str, Any]], runtimes: Sequence[str]) -> None:
    """It went over a bridge and not over loopback, to where it is said to go, and as fast as a machine is."""
    assert found.keys() == {(f"network.iperf.{end}", name) for end in ("host", "container") for name in runtimes}
    for (suite, name), sample in found.items():
        assert sample["values"]["rate"] > 100 and sample["values"]["retransmits"] >= 0, (suite, name)
        (way,) = json.loads(sample["raw"])["start"]["connected"]
        ends = {way["local_host"], way["remote_host"]}
        assert len(ends) == 2 and not any(end.startswith("127.") for end in ends)
        assert way["remote_host"].endswith(".0.1") == (suite == "network.iperf.host"), (suite, name, way)


@pytest.mark.timeout(MOST_SECONDS)
@needs("root", "program:runc", "program:crun", *IPERF)
def test_traffic_of_containers(bare_network: None, cli: CommandLine, place: str, tmp_path: Path) -> None:
    runtimes = ("host", "poc", "poc:runc", "poc-runtime", "runc", "crun")
    path = tmp_path / "out.json"
    options = [f"--runtimes={','.join(runtimes)}", "--quick", "--runs=1", "--warmup=0", f"--directory={place}"]
    done = cli("bench", *options, "-o", str(path), "network.iperf", timeout=MOST_SECONDS)
    check_traffic(measured(path, done), runtimes)


@pytest.mark.timeout(MOST_SECONDS)
@needs("root", "program:docker", "program:dockerd", "program:podman", "program:containerd", "program:ctr", *IPERF)
def test_traffic_of_engines(bare_network: None, cli: CommandLine, place: str, tmp_path: Path) -> None:
    """The daemons are the benchmark's own, in the network of the test."""
    runtimes = ("docker", "podman", "containerd")
    path = tmp_path / "out.json"
    options = [f"--runtimes={','.join(runtimes)}", "--quick", "--runs=1", "--warmup=0", f"--directory={place}"]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none"}
    done = subprocess.run(
        [*cli.command, "bench", *options, "-o", str(path), "network.iperf"],
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        env=environment,
    )
    check_traffic(measured(path, CommandResult(done.stdout, done.stderr, done.returncode)), runtimes)


@pytest.mark.timeout(MOST_SECONDS)
@pytest.mark.parametrize("runtimes", ["host,poc,runc", "docker,podman"])
@needs("root", "program:runc", "program:docker", "program:dockerd", "program:podman", *IPERF)
def test_a_benchmark_of_networks_that_is_killed_leaves_nothing(
    bare_network: None, cli: CommandLine, place: str, tmp_path: Path, runtimes: str
) -> None:
    """Not once the next one has begun: no link, rule, address, namespace, process, cgroup or mount."""
    path = tmp_path / "out.json"
    options = ["--quick", "--warmup=0", f"--directory={place}", "-o", str(path)]
    words = ["bench", f"--runtimes={runtimes}", "--runs=500", *options, "network.iperf"]
    null = subprocess.DEVNULL
    with running(cli.start(*words, stdout=null, stderr=null, start_new_session=True)) as process:
        deadline = time.monotonic() + 90
        while not path.exists() or len(json.loads(path.read_text())["samples"]) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert len(list(leaks.links())) > 2
        time.sleep(2 * random.random())
        process.kill()
    (left,) = (name for name in os.listdir(place) if name.startswith("pb-"))
    time.sleep(1.1)  # one that has just been made may not be locked yet
    assert cli("bench", "--runtimes=host", "--runs=1", *options, "boot", timeout=120).exit_code == 0
    assert not os.path.exists(f"{place}/{left}")


def without(program: str, *command: str) -> list[str]:
    """What runs a command on a host that lacks a program."""
    hide = f'mount --bind /dev/null {shutil.which(program)} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", hide, "-", *command]


@needs("root", *IPERF, *APPS)
def test_a_network_suite_says_what_it_lacks(
    bare_network: None, cli: CommandLine, place: str, tmp_path: Path, image_tar: str
) -> None:
    options = ["bench", "--runtimes=poc", "--runs=1", "--warmup=0", f"--directory={place}", "--format=markdown"]
    done = cli(*options, "--image=busybox", "network")
    assert (done.stdout, done.exit_code) == ("", 1) and done.stderr.count("\n") == 1
    assert "network.iperf.host: iperf3: not there (install it on this host" in done.stderr
    for program, suite, reason in (
        ("iperf3", "network.iperf.host", "iperf3: not there (install it on this host, or use `poc bench prepare`"),
        ("ab", "app.nginx", "ab: not on this host (install it)"),
        ("ip", "network.iperf.container", "ip: not on this host (install it)"),
    ):
        command = without(program, *cli.command, *options, "-o", str(tmp_path / "out.json"), suite, "boot")
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0 and told.stderr == "", told
        (line,) = (line for line in told.stdout.splitlines() if "not measured" in line)
        assert line.startswith(f"- not measured: {suite}; {reason}"), line


IPERF_REPORT = """{"start": {}, "end": {
    "sum_sent": {"bits_per_second": 3e9, "retransmits": 7}, "sum_received": {"bits_per_second": 2.5e9}}}"""


def test_figures_of_iperf3() -> None:
    assert iperf_figures(IPERF_REPORT) == {"rate": 2500, "retransmits": 7}
    for text, words in [
        ('{"start": {}, "end": {}, "error": "unable to connect"}', "^iperf3: unable to connect$"),
        ('{"start": {}, "end": {}}', "can't be read: 'sum_received'"),
        ("iperf3: killed", "can't be read"),
    ]:
        with pytest.raises(CallFailed, match=words):
            iperf_figures(text)


@needs("root", "program:ldd", "program:ip", "program:nft", *APPS)
def test_servers_in_a_container(bare_network: None, cli: CommandLine, place: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    options = ["--runtimes=host,poc", "--quick", "--scale=0.1", "--runs=1", "--warmup=0", f"--directory={place}"]
    found = measured(path, cli("bench", *options, "-o", str(path), "app"))
    assert found.keys() == {(suite, runtime) for suite in ("app.nginx", "app.redis") for runtime in ("host", "poc")}
    for (suite, _), sample in found.items():
        assert sample["values"]["rate" if suite == "app.nginx" else "get"] > 10
        if suite == "app.nginx":
            address = re.search(r"^Server Hostname: +(\S+)$", sample["raw"], re.MULTILINE)
            assert address and not address[1].startswith("127.")


@needs("root")
def test_an_image_of_the_store_in_place_of_the_hosts_programs(
    cli: CommandLine, place: str, tmp_path: Path, image_tar: str
) -> None:
    path = tmp_path / "out.json"
    options = ["--runtimes=host,poc", "--runs=1", "--warmup=0", f"--directory={place}", "-o", str(path)]
    done = cli("bench", *options, "--image=busybox", "boot", "io.fio.read")
    data = json.loads(path.read_text())
    assert done.exit_code == 1 and data["settings"]["image"] == "busybox"  # busybox's date has no %N: told, not hidden
    assert [sample["runtime"] for sample in data["samples"] if "error" in sample and sample["suite"] == "boot"] == [
        "poc"
    ]
    assert data["skipped"]["io.fio.read"]["poc"].startswith("fio: not there (install it")
    absent = cli("bench", *options, "--image=nowhere", "boot")
    assert absent.exit_code == 1 and "no such image: nowhere" in absent.stderr


@needs("root")
def test_an_image_of_several_layers(cli: CommandLine, place: str, tmp_path: Path, image_tar: str) -> None:
    """What upper layers have added, replaced and removed is so."""
    change = "rm /bin/dd /bin/date; printf '#!/bin/sh\\necho 1000000000\\n' > /bin/date; chmod 755 /bin/date"
    assert cli("run", "--network=none", "--name=change", "busybox", "sh", "-c", change).exit_code == 0
    assert cli("commit", "change", "changed").exit_code == 0 and cli("rm", "change").exit_code == 0
    path = tmp_path / "out.json"
    options = ["--runtimes=poc,poc-runtime", "--runs=1", "--warmup=0", f"--directory={place}", "-o", str(path)]
    done = cli("bench", *options, "--image=changed", "boot", "io.dd")
    assert cli("rmi", "changed").exit_code == 0
    data = json.loads(path.read_text())
    assert done.exit_code == 0 and data["summary"]["boot"]["boot"].keys() == {"poc", "poc-runtime"}, data["samples"]
    assert all(sample["values"]["boot"] < -1e12 for sample in data["samples"])  # as its date says
    assert data["skipped"]["io.dd"].keys() == {"poc", "poc-runtime"}


@needs("root", "program:ldd")
def test_an_image_is_prepared_of_what_is_there(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sysbench", "sh"):
        (tmp_path / "bin" / name).write_text("")
    done = cli("bench", "prepare", "--from=dir", str(tmp_path))
    assert done.exit_code == 0 and done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == f"poc-bench (made from {tmp_path}): poc bench --image poc-bench …"
    assert (
        second.startswith("it lacks true, ") and "fio" in second and "sysbench" not in second and " sh," not in second
    )
    assert cli("rmi", "poc-bench").exit_code == 0
    for words, message in [
        (["--from=tar"], "--from tar needs a rootfs tarball"),
        (["--from=tar", "/no/file"], "/no/file: No such file"),
        (["--from=nowhere"], "--from nowhere: there are "),
        (["--from=registry"], "no image could be made (registry: "),
    ]:
        done = cli("bench", "prepare", *words)
        assert done.exit_code != 0 and message in done.stderr and done.stdout == "" and done.stderr.count("\n") == 1


ENGINES = ("crun", "docker", "podman", "containerd")


@pytest.mark.timeout(240)
@needs("root", "program:ldd", *(f"program:{name}" for name in ENGINES), "program:dockerd", "program:ctr")
def test_every_engine_of_this_machine_beside_poc(cli: CommandLine, place: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    names = ["poc:runc", "poc-runtime", *ENGINES]
    options = [f"--runtimes={','.join(names)}", "--runs=1", "--warmup=0", f"--directory={place}", "-o", str(path)]
    done = cli("bench", *options, "operations.container.lifecycle", "boot", timeout=200)
    assert path.exists(), done
    data = json.loads(path.read_text())
    assert done.exit_code == 0 and done.stderr == "", [sample for sample in data["samples"] if "error" in sample]
    assert list(data["runtimes"]) == names
    for suite in ("operations.container.lifecycle", "boot"):
        assert {s["runtime"] for s in data["samples"] if s["suite"] == suite} == set(names)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────


def made_up(tmp_path: Path) -> Path:
    """Results with known figures, an outlier, and words that a page must not take for its own."""
    settings = {"runtimes": ["poc", "runc", "<b>odd</b>"], "runs": 10, "warmup": 0, "seed": 1}
    results = Results.new(settings, str(tmp_path / "made-up.json"))
    results.describe([Call()], Settings())
    results.data["runtimes"] = {"poc": "poc 0.1.0", "runc": "runc 1", "<b>odd</b>": "</script><script>throw 1</script>"}
    rng = random.Random(4)
    for round in range(10):
        for name, typical in (("poc", 50.0), ("runc", 120.0), ("<b>odd</b>", 51.0)):
            value = typical * rng.uniform(0.9, 1.1) * (3 if (name, round) == ("poc", 4) else 1)
            results.add("test.call", name, round, 0.1, Measured({"call": value}))
    results.fail("test.call", "runc", 10, "</script> it broke")
    results.finish("complete")
    return tmp_path / "made-up.json"


def as_shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{float(f'{value:.4g}'):g}"


@needs("program:chromium")
def test_the_page_shows_the_figures_of_the_json(cli: CommandLine, tmp_path: Path) -> None:
    from browser import browser

    source = made_up(tmp_path)
    target = tmp_path / "report.html"
    done = cli("bench", "report", str(tmp_path), "-o", str(target))
    assert done == ("", "", 0)
    assert not re.search(r"""(src|href)=|url\(|@import|https?:""", target.read_text())  # it stands alone
    summary = json.loads(source.read_text())["summary"]["test.call"]["call"]
    values = (
        "Object.fromEntries([...document.querySelectorAll('[data-key=call] [data-runtime]')]"
        ".map(row => [row.dataset.runtime, row.querySelector('.value').textContent]))"
    )
    with browser() as page:
        page.open(str(target))
        for statistic in ("median", "min", "mean", "max"):
            page.choose("statistic", statistic)
            page.choose("base", "")
            shown = {name: f"{as_shown(found[statistic])} ms" for name, found in summary.items()}
            assert page(values) == shown
            for base in summary:
                page.choose("base", base)
                ratios = {name: found[statistic] / summary[base][statistic] for name, found in summary.items()}
                assert page(values) == {name: f"{as_shown(ratio)} ×" for name, ratio in ratios.items()}
        glance = "[...document.querySelectorAll('table td')].map(cell => cell.textContent)"
        page.choose("base", "")
        page.choose("statistic", "median")
        assert page(glance) == [f"{as_shown(summary[name]['median'])} ms" for name in ("poc", "runc", "<b>odd</b>")]
        page.choose("base", "runc")
        results = Results.load(str(source))
        told = "\n" + page("document.querySelector('.sentences').innerText")
        for name in ("poc", "<b>odd</b>"):
            found = statistics.ratio(*results.pairs("test.call", "call", name, "runc"))
            assert f"\n{name} is {1 / found.value:.1f} × faster than runc ({found})" in told  # type: ignore[union-attr]
        assert page("document.querySelectorAll('.dot').length") == 30
        assert page("document.querySelectorAll('[data-runtime=poc] .dot.outlier').length") == 1
        assert "runc failed: </script> it broke" in page("document.body.innerText")
        for width in (360, 390, 1200):
            for dark in (False, True):
                page.look(width, 800, dark)
                assert page("document.documentElement.scrollWidth") <= width
                ink, paper = page("[getComputedStyle(document.body).color, getComputedStyle(document.body).background]")
                assert (int(re.findall(r"\d+", ink)[0]) > int(re.findall(r"\d+", paper)[0])) == dark
                if directory := os.environ.get("POC_SCREENSHOTS"):  # for whoever wants to look at it
                    page.screenshot(f"{directory}/report-{width}-{'dark' if dark else 'light'}.png")
        assert page.problems == []
