"""What a start of a container costs: poc beside every other runtime that is here, on one rootfs and /bin/true.

All are run round after round, each time in another order, so that whatever else the machine does, and what the
one before has left it to do, hits all alike; a ratio is the median of the ratios of each round. Then what a
running container costs in memory, and with ``--sysbench`` what it costs the program in it. crun refuses a host
with v1 and v2 cgroups: there all run without the v2 mount.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

import poc  # noqa: E402
from poc import cgroups  # noqa: E402

POC = str(CHECKOUT / "scripts" / "poc")
POC_RUNTIME = str(CHECKOUT / "scripts" / "poc-runtime")
Case = Callable[[], object]


def quietly(*command: str) -> Case:
    """Run a command and expect it to succeed."""

    def run() -> None:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    return run


def life(*runtime: str, bundle: str, id: str) -> Case:
    """What an engine has an OCI runtime do for a container: create, start, and delete when it has ended."""

    def run() -> None:
        quietly(*runtime, "create", "--bundle", bundle, id)()
        quietly(*runtime, "start", id)()
        while subprocess.run([*runtime, "delete", id], capture_output=True).returncode:
            pass  # it still runs

    return run


def make_rootfs(directory: Path) -> Path:
    """A root file system with one static program."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin")
    for applet in ("true", "sh", "sleep"):
        (directory / "bin" / applet).symlink_to("busybox")
    for name in ("hostname", "hosts", "resolv.conf"):  # as every image has them
        (directory / "etc" / name).touch()
    return directory


def make_bundle(directory: Path, root: Path) -> None:
    """An OCI bundle as `runc spec` makes it, without a terminal."""
    directory.mkdir()
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    path = directory / "config.json"
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=False, args=["/bin/true"])
    spec["root"] = {"path": str(root)}
    path.write_text(json.dumps(spec))


class Docker:
    """A docker daemon of our own, without networks, if none answers."""

    def __init__(self, scratch: Path, root: Path) -> None:
        self.daemon: subprocess.Popen[bytes] | None = None
        self.command = ["docker"]
        if subprocess.run(["docker", "info"], capture_output=True).returncode:
            socket = f"unix://{scratch}/docker.sock"
            options = ["--data-root", f"{scratch}/docker", "--exec-root", f"{scratch}/docker-exec", "-H", socket]
            options += ["--pidfile", f"{scratch}/docker.pid", "--iptables=false", "--bridge=none"]
            with open(scratch / "dockerd.log", "wb") as log:
                self.daemon = subprocess.Popen(["dockerd", *options], stdout=log, stderr=log)
            self.command = ["docker", "-H", socket]
            self._wait()
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run([*self.command, "import", "-", "poc-bench"], stdin=tar.stdout, check=True, capture_output=True)

    def _wait(self) -> None:
        for _ in range(300):
            if not subprocess.run([*self.command, "info"], capture_output=True).returncode:
                return
            time.sleep(0.1)
        raise SystemExit("dockerd did not come up in 30 s")

    def close(self) -> None:
        subprocess.run([*self.command, "rmi", "-f", "poc-bench"], capture_output=True)
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait()


def podman_command(scratch: Path) -> list[str]:
    """podman with a store of its own."""
    return ["podman", "--storage-driver", "vfs", "--root", f"{scratch}/podman", "--runroot", f"{scratch}/podman-run"]


def cases(scratch: Path, engine: poc.Engine, docker: Docker | None, root: Path) -> dict[str, Case]:
    """What is measured, by name. A container is left running, for the exec."""
    run = [POC, "--root", engine.paths.data, "run", "--rm"]
    engine.containers.run("bench", ["sleep", "3600"], name="running", detach=True, network="none")
    interpreter = str(CHECKOUT / ".venv" / "bin" / "python")
    found: dict[str, Case] = {
        "interpreter": quietly(interpreter, "-I", "-S", "-c", "pass"),
        "poc run (none)": quietly(*run, "--network", "none", "bench", "/bin/true"),
        "poc run (bridge)": quietly(*run, "bench", "/bin/true"),
        "poc exec": quietly(POC, "--root", engine.paths.data, "exec", "running", "/bin/true"),
        "poc library": lambda: engine.containers.run("bench", ["/bin/true"], remove=True, network="none", check=True),
    }
    bundle = str(scratch / "bundle")
    runtime, id = [POC_RUNTIME, "--root", f"{scratch}/poc-runtime"], f"bench-{os.getpid()}"
    if shutil.which("runc"):
        found["poc-runtime run"] = quietly(*runtime, "run", "-b", bundle, f"{id}-poc")
        found["poc-runtime life"] = life(*runtime, bundle=bundle, id=f"{id}-poc")
        found["runc life"] = life("runc", bundle=bundle, id=f"{id}-runc")
    others = {
        "crun run": ["crun", "run", "-b", bundle, f"bench-crun-{os.getpid()}"],
        "runc run": ["runc", "run", "-b", bundle, f"bench-runc-{os.getpid()}"],
        "bwrap": ["bwrap", "--unshare-all", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"],
        "podman run (none)": [
            *podman_command(scratch),
            *(
                "run",
                "--rm",
                "--network",
                "none",
                "--ulimit=nofile=1024:1024",
                "--ulimit=nproc=1024:1024",
                "--rootfs",
                str(root),
                "/bin/true",
            ),
        ],
    }
    found.update((name, quietly(*command)) for name, command in others.items() if shutil.which(command[0]))
    if docker is not None:
        found["docker run (none)"] = quietly(
            *docker.command, "run", "--rm", "--network", "none", "poc-bench", "/bin/true"
        )
    return found


def measure(found: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each case in each round, after one round that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in found}
    order = list(found)
    for number in range(-1, rounds):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            found[name]()
            if number >= 0:
                samples[name].append((time.perf_counter() - start) * 1000)
    return samples


def ratio(samples: dict[str, list[float]], name: str, base: str) -> float | None:
    """The median over the rounds of one case's time by another's."""
    if name not in samples or base not in samples:
        return None
    return statistics.median(a / b for a, b in zip(samples[name], samples[base], strict=True))


def report(samples: dict[str, list[float]]) -> None:
    """The medians, each beside those that users compare with. A life is create, start and delete."""
    bases = ("crun run", "runc run", "runc life", "docker run (none)")
    rows = []
    for name, times in samples.items():
        ratios = [ratio(samples, name, base) for base in bases]
        rows.append([name, statistics.median(times), min(times), *("" if r is None else f"{r:.2f}" for r in ratios)])
    headers = ["", "median ms", "min ms", *(f"/ {base}" for base in bases)]
    print(tabulate(rows, headers, floatfmt=".1f"))
    bridge = [b - n for b, n in zip(samples["poc run (bridge)"], samples["poc run (none)"], strict=True)]
    print(f"\nwhat the bridge adds to a start: {statistics.median(bridge):.1f} ms (median of the paired differences)")


def report_targets(samples: dict[str, list[float]]) -> None:
    """The figures that poc promises."""
    targets = (
        ("poc exec", "poc run (none)", 1.3),
        ("poc run (none)", "runc run", 2.5),
        ("poc run (none)", "docker run (none)", 0.4),
        ("poc library", "crun run", 0.8),
        ("poc-runtime run", "runc run", 1.3),
        ("poc-runtime life", "runc life", 1.5),
    )
    for name, base, most in targets:
        found = ratio(samples, name, base)
        if found is None:
            print(f"{name} / {base}: not measured, {base.split()[0]} is not here")
        else:
            print(f"{name} / {base}: {found:.2f}, at most {most} promised: {'met' if found <= most else 'MISSED'}")


def report_memory(engine: poc.Engine, count: int = 5) -> None:
    """PSS (proc_pid_smaps(5)) of the monitors of detached containers: what poc itself keeps for each."""
    running = [engine.containers.run("bench", ["sleep", "600"], detach=True, network=mode) for mode in MODES * count]
    try:
        sizes: dict[str, list[int]] = {mode: [] for mode in MODES}
        for container in running:
            monitor = json.loads(Path(engine.paths.runtime(container.id, "state.json")).read_text())["monitor"][0]
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{monitor}/smaps_rollup").read_text(), re.MULTILINE)
            assert found is not None
            sizes[container.config.network].append(int(found[1]))
        for mode, values in sizes.items():
            print(f"memory kept per detached container, network {mode}: {statistics.median(values) / 1024:.1f} MiB PSS")
    finally:
        for container in running:
            container.remove(force=True)


MODES = ["none", "bridge"]
_FILES = "--file-total-size=256M --file-num=16 --file-test-mode=rndrw"
# name: (shell script, where its report has the figure, how far from the host's it may be)
SYSBENCH = {
    "cpu": ("sysbench cpu --time=4 run", r"events per second:\s+([\d.]+)", 0.02),
    "memory": ("sysbench memory --time=4 --memory-total-size=1T run", r"\(([\d.]+) MiB/sec\)", 0.02),
    "fileio rndrw": (
        f"sysbench fileio {_FILES} prepare >&2 && sync && sysbench fileio {_FILES} --time=4 run && rm test_file.*",
        r"reads/s:\s+([\d.]+)",
        0.05,
    ),
}


def report_sysbench(engine: poc.Engine, image: str, scratch: Path, rounds: int) -> None:
    """The image's sysbench by the host's, in turn, each first every other time; fileio on the same file system."""
    for name, (script, pattern, bound) in SYSBENCH.items():
        found: dict[str, list[float]] = {"host": [], "container": []}
        for number in range(rounds):
            for where in ("host", "container") if number % 2 else ("container", "host"):
                if where == "host":
                    command = ["sh", "-c", script]
                    text = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True).stdout
                else:
                    command = ["sh", "-c", f"cd /tmp && {script}"]
                    text = engine.containers.run(image, command, remove=True, network="none", check=True).output
                found[where].append(figure(text, pattern))
        ratios = [inside / outside for inside, outside in zip(found["container"], found["host"], strict=True)]
        median = statistics.median(ratios)
        verdict = "met" if abs(median - 1) <= bound else "MISSED"
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"sysbench {name}: container / host {median:.3f} ({spread}), 1 ± {bound} promised: {verdict}")


def figure(report: str, pattern: str) -> float:
    """The one number looked for in sysbench's report."""
    found = re.search(pattern, report)
    if found is None:
        raise SystemExit(f"sysbench's report lacks {pattern}:\n{report}")
    return float(found[1])


def without_hybrid_cgroups() -> None:
    """Start again in a mount namespace without the v2 mount, where v1 and v2 cgroups are mixed."""
    host = cgroups.host()
    if host.mode == "hybrid":
        script = f'umount {host.unified} && exec "$@"'
        os.execvp(
            "unshare",
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "-", sys.executable, *sys.argv],
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds that count (default 30)")
    parser.add_argument("--sysbench", metavar="IMAGE", help="also compare sysbench in this image with the host's")
    parser.add_argument("--root", help="the store that holds that image")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    arguments = parser.parse_args()
    without_hybrid_cgroups()
    with tempfile.TemporaryDirectory(prefix="poc-bench-", dir="/var/tmp") as name:
        scratch = Path(name)
        root = make_rootfs(scratch / "rootfs")
        if shutil.which("runc"):
            make_bundle(scratch / "bundle", root)
        engine = poc.Engine(f"{scratch}/poc")
        engine.images.store.add_directory(str(root), "bench")
        docker = Docker(scratch, root) if shutil.which("dockerd") else None
        try:
            samples = measure(cases(scratch, engine, docker, root), arguments.rounds)
            report(samples)
            report_targets(samples)
            report_memory(engine)
            if arguments.sysbench:
                report_sysbench(poc.Engine(arguments.root), arguments.sysbench, scratch, 10)
        finally:
            if docker is not None:
                docker.close()
            engine.prune(images=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(samples, indent=1))


if __name__ == "__main__":
    main()
