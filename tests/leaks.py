"""What a test may leave behind on the host: looked at before and after every test (see `conftest.no_leaks`).

A snapshot is a set of `Trace`s. Processes are told apart exactly: a child of ours, whatever forked it and whoever
adopted it since, shows the address of our stack (fork without exec), our mark in its environment (exec), or such
an ancestor. A mount or a link bears no such mark: while another pytest or poc runs on this machine, one that does
not name our directories may be theirs, and is reported as a warning only.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARK = f"POC_TEST_RUN={os.getpid()}.{time.time_ns()}"
OWN_GROUPS = f"/poc-{os.getpid()}-"  # cgroups that tests choose the name of
SETTLE_SECONDS = 2.0
STATE_DIRECTORIES = ("/run/poc", "/var/lib/poc")


class Trace(NamedTuple):
    """One thing on the host. ``ours``: certainly made by these tests, not by a neighbour."""

    kind: str
    what: str
    ours: bool = False


class Process(NamedTuple):
    pid: int
    parent: int
    state: str
    started: int
    stack: int
    command: str


def snapshot(directory: str) -> frozenset[Trace]:
    """All traces now. ``directory`` is this run's own: its ``tmp`` must be as empty as before, what names it, ours."""
    found: set[Trace] = set()
    for kind, look in LOOKS.items():
        found.update(Trace(kind, what, directory in what or OWN_GROUPS in what) for what in look())
    found.update(Trace("file", f"{directory}/tmp/{name}", True) for name in _names(f"{directory}/tmp"))
    found.update(Trace("open descriptor", what, True) for what in open_descriptors())
    found.update(Trace("process", f"{p.pid} {p.command}", True) for p in our_processes())
    return frozenset(found)


def difference(before: frozenset[Trace], directory: str) -> tuple[frozenset[Trace], frozenset[Trace]]:
    """What came and what went since ``before``.

    The kernel takes down namespaces, cgroups and links after the last process has gone: wait for that.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while (after := snapshot(directory)) != before and time.monotonic() < deadline:
        gc.collect()  # a descriptor may hang on a cycle
        time.sleep(0.02)
    return after - before, before - after


def mounts() -> Iterator[str]:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, source = line.partition(" - ")
            yield f"{fields.split()[4]} {source.strip()}"


def cgroups() -> Iterator[str]:
    """The top of every hierarchy, and all below a group of ours."""
    for root in cgroup_roots():
        for entry in os.scandir(root):
            if entry.is_dir(follow_symlinks=False):
                yield entry.path
                if entry.name.startswith("poc"):
                    yield from (path for path, _, _ in os.walk(entry.path))


def cgroup_roots() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file if " - cgroup" in line]


def links() -> Iterator[str]:
    return (name for _, name in socket.if_nameindex())


def named_network_namespaces() -> Iterator[str]:
    return _names("/run/netns")


def loop_devices() -> Iterator[str]:
    for name in _names("/sys/block"):
        if name.startswith("loop"):
            try:
                with open(f"/sys/block/{name}/loop/backing_file") as file:
                    yield f"{name} {file.read().strip()}"
            except OSError:
                pass  # no file behind it, or no longer


def nftables_rules() -> Iterator[str]:
    if os.geteuid() or not shutil.which("nft"):
        return
    result = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True)
    table = ""
    for line in result.stdout.splitlines():
        table = line if line.startswith("table") else table
        # Traffic moves the counters of any firewall.
        yield f"{table} {re.sub(r'counter packets [0-9]+ bytes [0-9]+', 'counter', line.strip())}"


def state_files() -> Iterator[str]:
    for directory in STATE_DIRECTORIES:
        for name in _names(directory):
            yield f"{directory}/{name}"
            yield from (f"{directory}/{name}/{child}" for child in _names(f"{directory}/{name}"))


LOOKS: dict[str, Callable[[], Iterator[str]]] = {
    "mount": mounts,
    "cgroup": cgroups,
    "link": links,
    "network namespace": named_network_namespaces,
    "loop device": loop_devices,
    "nftables rule": nftables_rules,
    "state": state_files,
}


def open_descriptors() -> Iterator[str]:
    """Of this process, the tests'."""
    for name in os.listdir("/proc/self/fd"):
        try:
            yield f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"
        except FileNotFoundError:
            pass  # the listing's own


def _names(directory: str) -> Iterator[str]:
    try:
        yield from os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        pass


def our_processes() -> list[Process]:
    """Every process that these tests started, directly or not, and that is still there (zombies too)."""
    everyone = processes()
    me = everyone[os.getpid()]
    verdicts: dict[int, bool] = {me.pid: False, 0: False, 1: False, 2: False}

    def is_ours(process: Process) -> bool:
        if process.pid not in verdicts:
            parent = everyone.get(process.parent)
            verdicts[process.pid] = (
                process.parent == me.pid
                or process.stack == me.stack != 0
                or (parent is not None and is_ours(parent))
                or _bears_mark(process.pid)
            )
        return verdicts[process.pid]

    return [process for process in everyone.values() if is_ours(process)]


def processes() -> dict[int, Process]:
    """All processes but kernel threads, by pid (proc_pid_stat(5): fields 3, 4, 22 and 28)."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                head, _, tail = file.read().rpartition(")")
        except OSError:
            continue  # it has ended
        fields = tail.split()
        if fields[1] != "2":
            command = head.partition("(")[2]
            found[int(name)] = Process(int(name), int(fields[1]), fields[0], int(fields[19]), int(fields[25]), command)
    return found


def _bears_mark(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return MARK.encode() in file.read()
    except OSError:
        return False


def neighbours() -> list[str]:
    """Other people's pytest and poc processes: neither ours nor our ancestors."""
    everyone = processes()
    related = {process.pid for process in our_processes()}
    pid = os.getpid()
    while pid in everyone:
        related.add(pid)
        pid = everyone[pid].parent
    lines = {pid: _command_line(pid) for pid in everyone.keys() - related}
    return [f"{pid} {line[:80]}" for pid, line in lines.items() if re.search(r"\b(pytest|poc)\b", line)]


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
