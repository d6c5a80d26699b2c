"""How poc does with many containers: 200 detached ones on the bridge, started four at a time.

It prints what the starts, `ps`, `stats --no-stream`, `stop` and `rm` of all took, and what a container costs in
memory. All of it happens in a store of its own, which is gone afterwards. The program in each container is a `sleep`
that is process 1 and so ignores TERM: the hardest to stop, as the whole timeout passes before it is killed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

import poc  # noqa: E402

MOST_RATIO, MOST_PS, MOST_STATS, MOST_STOP = 1.3, 0.5, 3.0, 60.0  # promised; seconds but for the first
SAMPLE = 10  # starts that make a median
KERNEL = ("Slab", "KernelStack", "PageTables", "Percpu")  # proc_meminfo(5): what the kernel keeps for all of them


class Bench:
    """One store, and the command line on it."""

    def __init__(self, root: str, network: str) -> None:
        start = str(CHECKOUT / "scripts" / "start.py")
        self.command = [sys.executable, "-I", "-S", "-X", "utf8", start, "poc", "--root", root]
        self.run = ("run", "-d", "--network", network, "load", "sleep", "100000")
        self.engine = poc.Engine(root)

    def poc(self, *words: str) -> list[str]:
        """The lines that a command prints; it must succeed and complain of nothing."""
        done = subprocess.run([*self.command, *words], capture_output=True, text=True)
        if done.returncode or done.stderr:
            raise SystemExit(f"poc {' '.join(words[:4])} …: exit code {done.returncode}: {done.stderr[:2000]}")
        return done.stdout.splitlines()

    def start(self, _: object = None) -> float:
        """Seconds that one more container takes."""
        return timed(lambda: self.poc(*self.run))

    def alone(self) -> list[float]:
        """Seconds of some starts, one after the other, of containers that go again."""
        found = []
        for _ in range(SAMPLE):
            begin = time.perf_counter()
            (id,) = self.poc(*self.run)
            found.append(time.perf_counter() - begin)
            self.poc("rm", "-f", id)
        return found

    def monitors(self) -> list[int]:
        """The process that looks after each of them."""
        files = Path(self.engine.paths.run).glob("*/state.json")
        return [json.loads(file.read_text())["monitor"][0] for file in files]

    def programs(self) -> list[int]:
        """The first process of each."""
        files = Path(self.engine.paths.run).glob("*/state.json")
        return [json.loads(file.read_text())["init"][0] for file in files]


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def pss(pids: Iterable[int]) -> float:
    """The median proportional set size of these processes, in KiB (proc_pid_smaps(5))."""
    found = (re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE) for pid in pids)
    return statistics.median(int(match[1]) for match in found if match)


def kernel_memory() -> int:
    """KiB that the kernel keeps for itself, of this whole host."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[1]) for fields in lines if fields[0].rstrip(":") in KERNEL)


def make_image(directory: Path, engine: poc.Engine) -> None:
    """One static program."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), directory / "bin")
    (directory / "bin" / "sleep").symlink_to("busybox")
    engine.images.store.add_directory(str(directory), "load")


def measure(bench: Bench, count: int, at_once: int) -> list[list[str]]:
    """The rows of the table: what, how much, what was promised."""
    bench.start()  # the bridge is made, files are in the page cache
    bench.poc("rm", "-f", *bench.poc("ps", "-q"))
    kernel = kernel_memory()
    few = bench.alone()
    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        starts = list(pool.map(bench.start, range(count)))
    rows = [timed_row(f"{count} starts, {at_once} at a time", time.perf_counter() - begin)]
    time.sleep(3)  # the monitors make themselves small after two quiet seconds
    kernel = kernel_memory() - kernel
    rows += [ratio_row(f"the last {SAMPLE} of them by the first", starts[:SAMPLE], starts[-SAMPLE:])]
    rows += [ratio_row(f"one more start, beside {count} by beside none", few, bench.alone())]
    rows += [timed_row("ps", statistics.median(timed(lambda: bench.poc("ps")) for _ in range(5)), MOST_PS)]
    stats = statistics.median(timed(lambda: bench.poc("stats", "--no-stream")) for _ in range(3))
    rows += [timed_row("stats --no-stream", stats, MOST_STATS)]
    rows += [["memory of each: its monitor (PSS)", f"{pss(bench.monitors()) / 1024:.1f} MiB", ""]]
    rows += [["memory of each: its program (PSS)", f"{pss(bench.programs()) / 1024:.1f} MiB", ""]]
    rows += [[f"memory of each: kernel ({', '.join(KERNEL)})", f"{kernel / count / 1024:.1f} MiB", ""]]
    ids = bench.poc("ps", "-q")
    if len(ids) != count:
        raise SystemExit(f"of {count} containers {len(ids)} run")
    rows += [timed_row("stop of all", timed(lambda: bench.poc("stop", *ids)), MOST_STOP)]
    rows += [timed_row("rm of all", timed(lambda: bench.poc("rm", *ids)))]
    return rows


def timed_row(what: str, seconds: float, most: float | None = None) -> list[str]:
    return [what, f"{seconds:.2f} s", "" if most is None else f"under {most:g} s: {verdict(seconds < most)}"]


def ratio_row(what: str, first: list[float], last: list[float]) -> list[str]:
    """Of the medians; and of the fastest, which tell what it is where others use this machine too."""
    before, after = statistics.median(first), statistics.median(last)
    fastest = f"of the fastest {min(last) / min(first):.2f}"
    figure = f"{after / before:.2f} ({before * 1000:.0f} to {after * 1000:.0f} ms; {fastest})"
    return [what, figure, f"at most {MOST_RATIO}: {verdict(after / before <= MOST_RATIO)}"]


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-load", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="containers (default 200)")
    parser.add_argument("--at-once", type=int, default=4, help="started at the same time (default 4)")
    parser.add_argument("--network", default="bridge", help="bridge (default), internal or none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="poc-load-", dir="/var/tmp") as name:
        bench = Bench(f"{name}/poc", arguments.network)
        make_image(Path(name, "rootfs"), bench.engine)
        try:
            rows = measure(bench, arguments.count, arguments.at_once)
        finally:
            bench.engine.prune(images=True)
    print(tabulate(rows, headers=["", "measured", "promised"]))


if __name__ == "__main__":
    main()
