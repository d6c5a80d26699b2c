"""What a benchmark ran on, for whoever reads its numbers later."""

from __future__ import annotations

import os
import shlex
import sys

import psutil

from poc import __version__
from poc.bench.runtimes.base import first_line
from poc.bench.runtimes.oci import hybrid_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from poc.bench.runtimes.base import Runtime

APART = "POC_BENCH_APART"  # in the environment of a benchmark in a mount namespace of its own: the cgroup mode outside


def describe(directory: str) -> dict[str, Any]:
    """CPU, memory, kernel, cgroup mode, the file system that ``directory`` is on, versions."""
    host = os.uname()
    return {
        "cpu": _cpu(),
        "cpus": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "kernel": f"{host.sysname} {host.release}",
        "machine": host.machine,
        "system": _system(),
        "cgroup": cgroup_mode(),
        "filesystem": _filesystem(directory),
        "load": list(os.getloadavg()),
        "python": sys.version.split()[0],
        "poc": __version__,
        "sysbench": first_line("sysbench", "--version"),
    }


def cgroup_mode() -> str:
    """v1, v2, or hybrid: both are mounted. `poc bench` may have hidden v2 for runtimes that refuse that."""
    if os.environ.get(APART):
        return os.environ[APART]
    with open("/proc/self/mounts") as file:
        kinds = {line.split()[2] for line in file}
    return "hybrid" if hybrid_mount() else "v2" if "cgroup2" in kinds else "v1"


def go_apart() -> None:
    """Start this program again in a mount namespace of its own, without v2 cgroups where they are mixed with v1.

    For runtimes that mount in their caller's namespace: nothing of theirs is left in the host's, whatever happens.
    """
    mode, path = cgroup_mode(), hybrid_mount()
    hide = f"umount {shlex.quote(path)} || exit; " if path else ""
    environment = {**os.environ, APART: f"{mode}, v2 hidden" if path else mode}
    # What is mounted later is to be seen in the boxes of daemons too (poc.bench.runtimes.daemons).
    script = f'mount --make-rshared /; {hide}exec "$@"'
    words = ["unshare", "--mount", "--propagation=slave", "sh", "-c", script, "-", *sys.orig_argv]
    sys.stdout.flush()
    os.execvpe(words[0], words, environment)


def go_apart_for(runtimes: Iterable[Runtime]) -> None:
    """The same, if one of them needs it and it has not been done."""
    if APART not in os.environ and any(runtime.needs_mounts for runtime in runtimes):
        go_apart()


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine


def _system() -> str:
    try:
        with open("/etc/os-release") as file:
            lines = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    except OSError:
        return ""
    return lines.get("PRETTY_NAME", "").strip('"')


def _filesystem(directory: str) -> str:
    best = _mount(directory)
    return f"{best.fstype} on {best.device}" if best else ""


def _mount(directory: str) -> Any:
    """The longest mount point that the directory is below."""
    directory = os.path.realpath(directory)
    mounts = [entry for entry in psutil.disk_partitions(all=True) if _is_below(directory, entry.mountpoint)]
    return max(mounts, key=lambda entry: len(entry.mountpoint), default=None)


def disk_of(directory: str) -> str:
    """The whole disk that a directory is on, which is what can be limited; "" where there is none."""
    best = _mount(directory)
    name = os.path.basename(os.path.realpath(best.device)) if best else ""
    place = os.path.realpath(f"/sys/class/block/{name}")
    if not name or not os.path.exists(place):
        return ""
    return f"/dev/{os.path.basename(os.path.dirname(place) if os.path.exists(f'{place}/partition') else place)}"


def _is_below(path: str, place: str) -> bool:
    return os.path.commonpath((path, place)) == place
