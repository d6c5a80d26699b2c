"""Many containers at once: all run, each has its own name, address and groups, and all go together, leaving nothing.

How long that takes, and what it costs, is measured by scripts/bench-load.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import leaks
import pytest
from conftest import CommandLine, needs, wait_until
from faults import await_nothing, leftovers

if TYPE_CHECKING:
    import poc

pytestmark = [needs("root", "overlay", "program:busybox"), pytest.mark.timeout(300)]

AT_ONCE = 4


def start_many(cli: CommandLine, count: int) -> list[str]:
    """The ids of so many on the bridge, started four at a time; process 1 of each ignores TERM."""

    def start(number: int) -> str:
        words = ("run", "-d", "--name", f"many{number}", "busybox", "sh", "-c", "hostname -i; exec sleep 1000")
        done = cli(*words)
        assert (done.stderr, done.exit_code) == ("", 0)
        return done.stdout.strip()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(start, range(count)))


def test_each_is_its_own(engine: poc.Engine, cli: CommandLine) -> None:
    ids = start_many(cli, 40)
    names = cli("ps", "--format", "{{.Names}}").stdout.split()
    assert sorted(names) == sorted(f"many{number}" for number in range(40))
    described = json.loads(cli("inspect", *ids).stdout)
    assert [each["Id"] for each in described] == ids
    assert {each["State"]["Status"] for each in described} == {"running"}
    assert len({each["State"]["Pid"] for each in described}) == len(ids)

    addresses = [each["NetworkSettings"]["IPAddress"] for each in described]
    assert len(set(addresses)) == len(ids)
    wait_until(lambda: all(any(cli("logs", id)) for id in ids[:5]), 60)
    assert [cli("logs", id) for id in ids[:5]] == [(f"{address}\n", "", 0) for address in addresses[:5]], (
        "what it has is what is said"
    )
    assert engine.networks.leases().owners() == dict(zip(addresses, ids, strict=True))

    for each in described:
        assert engine.containers.get(each["Id"]).cgroup.pids() == [each["State"]["Pid"]]
    shown = [json.loads(line) for line in cli("stats", "--no-stream", "--format", "json").stdout.splitlines()]
    assert sorted(row["Name"] for row in shown) == sorted(names)
    assert {row["PIDs"] for row in shown} == {"1"}


def test_all_end_together(engine: poc.Engine, cli: CommandLine) -> None:
    """Each is killed after its 2 seconds; one after the other that would be 24."""
    ids = start_many(cli, 12)
    begin = time.monotonic()
    stopped = cli("stop", "-t", "2", *ids)
    took = time.monotonic() - begin
    assert stopped == ("".join(f"{id}\n" for id in ids), "", 0)
    assert 2 <= took < 12

    assert cli("ps", "-q").stdout == ""
    assert cli("wait", *ids).stdout == "137\n" * 12
    assert cli("start", *ids[:5]).stdout.split() == ids[:5]
    removed = cli("rm", *ids)
    assert removed.exit_code == 1
    assert removed.stdout.split() == ids[5:], "those that run stay, the others go"
    assert all("is running" in line for line in removed.stderr.splitlines())
    assert len(removed.stderr.splitlines()) == 5
    forced = cli("rm", "-f", *ids)
    assert (forced.stdout.split(), forced.exit_code) == (ids[:5], 0)
    assert forced.stderr == "".join(f"Error: no such container: {id}\n" for id in ids[5:]), "said, but no failure"

    await_nothing(lambda: leftovers(engine))
    assert engine.networks.leases().owners() == {}
    assert not [path for path in leaks.cgroups() if any(id in path for id in ids)]


def test_waiting_for_many(cli: CommandLine) -> None:
    """All are waited for at once: those with --rm are gone before the last has ended."""
    words = ("run", "-d", "--rm", "--network", "none", "busybox", "sh", "-c")
    ids = [cli(*words, f"sleep 2.{9 - number}; exit {number}").stdout.strip() for number in range(6)]
    assert cli("wait", *ids) == ("0\n1\n2\n3\n4\n5\n", "", 0)


def test_restarting_many(engine: poc.Engine, cli: CommandLine) -> None:
    """Each runs anew, and a name that is missing is complained of in its place."""
    names = [f"again{number}" for number in range(8)]
    for name in names:
        engine.containers.run("busybox", ["sleep", "1000"], detach=True, name=name, network="none")
    before = [container.attrs["State"]["Pid"] for container in engine.containers.list()]
    begin = time.monotonic()
    done = cli("restart", "-t", "1", *names[:4], "missing", *names[4:])
    assert time.monotonic() - begin < len(names), "one second each, at the same time"
    assert (done.stdout.split(), done.exit_code) == (names, 1)
    assert done.stderr == "Error: no such container: missing\n"
    after = [container.attrs["State"]["Pid"] for container in engine.containers.list()]
    assert len(after) == len(names)
    assert not set(before) & set(after)
