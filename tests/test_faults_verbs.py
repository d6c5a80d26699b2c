"""Killed 120 times: whoever is attached to a container or works in it, and monitors between two runs or in a check.

The container goes on without the former, and what is left of the latter is cleared up by whoever comes next.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import faults
import leaks
import pytest
from conftest import CommandLine, needs
from faults import await_nothing, leftovers

import poc
from poc import _fs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [needs("root", "overlay", "program:busybox"), pytest.mark.timeout(300)]

SEED = int(os.environ.get("POC_TEST_SEED", time.time_ns() % 1_000_000))
ROUNDS, AT_ONCE = 20, 4
BUSY = ["sh", "-c", "trap 'exit 0' TERM; while :; do echo tick; read -t 1 line && echo got $line; sleep 0.02; done"]
VERBS = (
    ("attach", "busy"),
    ("attach", "--no-stdin", "busy"),
    ("logs", "-f", "busy"),
    ("exec", "busy", "sleep", "0.3"),
    ("exec", "-i", "busy", "cat"),
    ("exec", "-it", "busy", "sleep", "0.3"),
    ("exec", "-d", "busy", "sleep", "0.3"),
)


def monitor_of(engine: poc.Engine, container: poc.Container) -> int:
    pid: int = _fs.read_json(engine.paths.runtime(container.id, "state.json"))["monitor"][0]
    return pid


def test_80_clients(engine: poc.Engine, engine_root: str) -> None:
    cli, dice = faults.MarkedCommandLine(engine_root), random.Random(SEED)
    print(f"seed {SEED}")
    engine.containers.run("busybox", ["true"], remove=True, network="none")
    words = ("run", "-d", "-i", "--name", "busy", "--network", "none", "busybox", *BUSY)
    assert cli(*words).exit_code == 0
    container = engine.containers.get("busy")
    pid, monitor = container.attrs["State"]["Pid"], monitor_of(engine, container)
    held = len(os.listdir(f"/proc/{monitor}/fd"))
    for _ in range(ROUNDS):
        kill_some(cli, dice)
        assert container.attrs["State"]["Pid"] == pid, f"seed {SEED}"
    await_nothing(lambda: too_many(container), f"seed {SEED}: ")
    await_nothing(lambda: more_than(held, os.listdir(f"/proc/{monitor}/fd")), f"seed {SEED}: ")
    with container.attach() as session:
        session.write(b"me\n")
        assert any(b"got me" in data for _, data in session)
    container.remove(force=True)
    await_nothing(lambda: leftovers(engine), f"seed {SEED}: ")


def kill_some(cli: CommandLine, dice: random.Random) -> None:
    """Each at another moment: while it starts, while it connects, while it carries bytes."""
    commands = []
    for _ in range(AT_ONCE):
        verb = dice.choice(VERBS)
        commands.append(cli.start(*verb, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(dice.uniform(0, 0.06))
    for command in commands:
        time.sleep(dice.uniform(0, 0.06))
        command.kill()
        command.communicate()


def too_many(container: poc.Container) -> list[str]:
    """Processes in it other than its own two: what a killed exec leaves ends by itself, at the end of its stdin."""
    return [f"process {pid}" for pid in container.cgroup.pids()][2:]


def more_than(count: int, names: list[str]) -> list[str]:
    return [f"descriptor {name}" for name in names[count:]]


AGAIN = ["sh", "-c", "sleep 0.03; exit 1"]


def between_runs(engine: poc.Engine) -> poc.Container:
    container = engine.containers.run("busybox", AGAIN, detach=True, restart_policy="always", network="none")
    assert isinstance(container, poc.Container)
    return container


def in_a_check(engine: poc.Engine) -> poc.Container:
    check = {"test": "sleep 0.05", "interval": "10ms"}
    container = engine.containers.run("busybox", ["sleep", "60"], detach=True, healthcheck=check, network="none")
    assert isinstance(container, poc.Container)
    return container


def await_exited(container: poc.Container, note: str) -> None:
    await_nothing(lambda: [] if container.status == "exited" else [container.status], note)


@pytest.mark.parametrize("begin", [between_runs, in_a_check])
def test_20_monitors(engine: poc.Engine, begin: Callable[[poc.Engine], poc.Container]) -> None:
    dice = random.Random(SEED)
    for number in range(20):
        note = f"seed {SEED}, {number}: "
        container = begin(engine)
        time.sleep(dice.uniform(0, 0.35))
        with suppress(ProcessLookupError):
            os.kill(monitor_of(engine, container), signal.SIGKILL)
        await_exited(container, note)
        state = container.attrs["State"]
        assert state["ExitCode"] in (1, 137) and not state["Restarting"] and state["Pid"] == 0, note
        await_nothing(lambda: [str(process) for process in leaks.our_processes()], note)
        container.start()
        assert container.status in ("running", "restarting"), note
        container.remove(force=True)
        await_nothing(lambda: leftovers(engine), note)
