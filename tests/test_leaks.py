"""The leak check itself: it sees what a test leaves behind, names it, and knows its own from a neighbour's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import leaks
import pytest
from conftest import needs

from poc import _libc

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.05)


def test_nothing_is_reported_when_nothing_is_left(run_directory: str, tmp_path: Path) -> None:
    before = leaks.snapshot(run_directory)
    (tmp_path / "a file").write_text("of the test's own")
    subprocess.run(["true"], check=True)
    assert not any(trace.ours for part in leaks.difference(before, run_directory) for trace in part)


def test_processes_are_ours_however_they_came_about(run_directory: str) -> None:
    """A child, an orphan that was executed, and an orphan that was only forked; a stranger is none of ours."""
    program = "import os, time\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    child = subprocess.Popen(["sleep", "60"])
    orphan = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert orphan.stdout is not None
    executed = int(orphan.stdout.readline())
    forked = _forked_orphan()
    orphan.wait()
    orphan.stdout.close()
    try:
        pids = {process.pid for process in leaks.our_processes()}
        assert {child.pid, executed, forked} <= pids
        assert not {1, os.getpid(), os.getppid()} & pids
    finally:
        for pid in (child.pid, executed, forked):
            os.kill(pid, 9)
        child.wait()


def _forked_orphan() -> int:
    """A grandchild that sleeps, after its parent, our child, has ended."""
    here, there = os.pipe()
    if not (child := os.fork()):
        if not os.fork():
            os.write(there, str(os.getpid()).encode())
            os.closerange(0, 256)
            time.sleep(60)
        os._exit(0)
    os.waitpid(child, 0)
    pid = int(os.read(here, 20))
    os.close(here)
    os.close(there)
    return pid


def test_files_and_descriptors_are_seen(run_directory: str) -> None:
    before = leaks.snapshot(run_directory)
    path = os.path.join(run_directory, "tmp", "forgotten")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    came, _ = leaks.difference(before, run_directory)
    os.close(fd)
    os.unlink(path)
    kinds = {trace.kind: trace.what for trace in came if trace.ours}
    assert kinds == {"file": path, "open descriptor": f"{fd} -> {path}"}


@needs("root")
def test_mounts_and_links_are_seen(run_directory: str, tmp_path: Path, own_network: None) -> None:
    before = leaks.snapshot(run_directory)
    _libc.mount("tmpfs", str(tmp_path), "tmpfs")
    try:
        subprocess.run(["ip", "link", "add", "forgotten", "type", "veth"], check=True)
        came, _ = leaks.difference(before, run_directory)
    finally:
        _libc.umount(str(tmp_path))
    subprocess.run(["ip", "link", "delete", "forgotten"], check=True)
    found = {(trace.kind, trace.what.split()[0], trace.ours) for trace in came}
    assert {("mount", str(tmp_path), True), ("link", "forgotten", False)} <= found


@needs("root", "program:nft")
def test_rules_are_seen_and_moving_counters_are_not(run_directory: str, own_network: None) -> None:
    rules = (
        "add table inet forgotten\n"
        "add chain inet forgotten c { type filter hook output priority 0 ; }\n"
        "add rule inet forgotten c counter accept\n"
    )
    before = leaks.snapshot(run_directory)
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    came, _ = leaks.difference(before, run_directory)
    assert "nftables rule" in {trace.kind for trace in came}

    with_rule = frozenset(leaks.nftables_rules())
    _knock_on_loopback()
    assert frozenset(leaks.nftables_rules()) == with_rule
    subprocess.run(["nft", "delete", "table", "inet", "forgotten"], check=True)


def _knock_on_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knock:
        knock.sendto(b"x", ("127.0.0.1", 9))


@needs("root", "cgroup:pids")
def test_cgroups_are_seen(run_directory: str) -> None:
    path = f"{leaks.cgroup_roots()[0]}/poc-forgotten-{os.getpid()}"
    before = leaks.snapshot(run_directory)
    os.makedirs(f"{path}/below")
    came, _ = leaks.difference(before, run_directory)
    os.rmdir(f"{path}/below")
    os.rmdir(path)
    assert {path, f"{path}/below"} <= {trace.what for trace in came if trace.kind == "cgroup"}
