"""Containers on networks: bridge, internal, none, host; names and addresses; fifty at once. The host is a network
namespace of the test's own, the outside another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from conftest import OUTSIDE_ADDRESS, CommandLine, needs

import poc
from poc.cgroups import Cgroup
from poc.engine.recovery import cgroup_path

if TYPE_CHECKING:
    from typing import Any

pytestmark = needs("root", "overlay", "program:nft")

SLEEP = ["sleep", "1000"]
MANY = 50


def start(engine: poc.Engine, network: str = "bridge", **options: Any) -> poc.Container:
    container = engine.containers.run("busybox", SLEEP, detach=True, network=network, **options)
    assert isinstance(container, poc.Container)
    return container


def address(container: poc.Container) -> str:
    found = container.attrs["NetworkSettings"]["IPAddress"]
    assert isinstance(found, str) and found.count(".") == 3
    return found


def shell(engine: poc.Engine, script: str, network: str = "bridge", **options: Any) -> str:
    """What a shell in a container prints, errors too."""
    command = ["sh", "-c", f"exec 2>&1; {script}"]
    result = engine.containers.run("busybox", command, remove=True, network=network, **options)
    assert isinstance(result, poc.RunResult)
    return result.output


def reaches(engine: poc.Engine, network: str, *addresses: str) -> list[bool]:
    script = "".join(f"ping -c1 -W2 {address} >/dev/null 2>&1 && echo yes || echo no;" for address in addresses)
    return [word == "yes" for word in shell(engine, script, network).split()]


def links() -> set[str]:
    return set(os.listdir("/proc/self/net/dev_snmp6")) - {"lo"}


def wait_for_links(count: int) -> None:
    """Until the host has so many of poc's; the kernel takes a container's away when it comes to it."""
    deadline = time.monotonic() + 20
    while len([name for name in links() if name.startswith("poc")]) != count:
        assert time.monotonic() < deadline, links()
        time.sleep(0.01)


def test_bridge_and_internal(engine: poc.Engine, outside: int) -> None:
    gateway = engine.networks.bridge().gateway
    public, internal = start(engine), start(engine, "internal", hostname="inner")
    assert address(public) != address(internal)
    everyone = (address(public), address(internal), gateway, OUTSIDE_ADDRESS)
    assert reaches(engine, "bridge", *everyone) == [True] * 4
    assert reaches(engine, "internal", *everyone) == [True, True, True, False]
    script = "ip -o address show eth0; ip route; cat /etc/hosts; ls /sys/class/net"
    told = shell(engine, script)
    assert f"default via {gateway} dev eth0" in told and told.split()[-2:] == ["eth0", "lo"]
    assert "default" not in shell(engine, "ip route", "internal")
    with open(f"/proc/{internal.attrs['State']['Pid']}/root/etc/hosts") as file:
        assert f"{address(internal)}\tinner\n" in file.read()

    listener = engine.containers.run("busybox", ["nc", "-l", "-p", "80", "-e", "echo", "hello"], detach=True)
    assert shell(engine, f"until nc {address(listener)} 80; do sleep 0.1; done </dev/null") == "hello\n"
    assert listener.wait(timeout=20) == 0
    # Seen from outside it is the host that calls: there is no route back to the containers' subnet.
    answer = ["nsenter", "--net", f"--target={outside}", "busybox", "nc", "-l", "-p", "81", "-e", "echo", "outside"]
    with subprocess.Popen(answer) as server:
        try:
            assert shell(engine, f"until nc {OUTSIDE_ADDRESS} 81; do sleep 0.1; done </dev/null") == "outside\n"
        finally:
            server.kill()
    wait_for_links(3)  # a bridge and two containers
    for container in (public, internal):
        container.remove(force=True)
    assert engine.networks.leases().owners() == {}


def test_none_and_host(engine: poc.Engine, outside: int) -> None:
    script = "ls /sys/class/net; ip route; ping -c1 -W2 127.0.0.1 | grep -c ' 0% packet'"
    assert shell(engine, script, "none") == "lo\n1\n"
    assert reaches(engine, "none", OUTSIDE_ADDRESS) == [False]
    assert "uplink" in shell(engine, "ls /sys/class/net; ls /sys/class/net/uplink/address", "host")
    assert reaches(engine, "host", OUTSIDE_ADDRESS) == [True]
    assert "pocbr" not in " ".join(links()), "no bridge is made for who does not want one"


@pytest.mark.parametrize("network", ["bridge", "none", "host"])
def test_files_about_the_network(engine: poc.Engine, network: str) -> None:
    with open("/etc/resolv.conf") as file:
        servers = [line.split()[1] for line in file if line.startswith("nameserver")]
    wanted = servers if network == "host" else [server for server in servers if not server.startswith(("127.", "::1"))]
    script = "hostname -i; ping -c1 -W2 localhost | grep -c ' 0% packet'; grep nameserver /etc/resolv.conf"
    own, pings, *resolv = shell(engine, script, network, hostname="me").splitlines()
    assert own.count(".") == 3 and pings == "1"
    assert [line.split()[1] for line in resolv] == wanted


def test_the_longest_name_fits_an_interface(engine: poc.Engine) -> None:
    before = links()
    containers = [start(engine, name=letter * 255, hostname=letter * 63) for letter in "ab"]
    new = links() - before - {engine.networks.bridge().name}
    assert len(new) == 2 and all(len(name) <= 15 for name in new)
    assert {name.removeprefix("poc") for name in new} == {container.short_id for container in containers}
    for container in containers:
        container.remove(force=True)
    wait_for_links(1)


def check_all_up(engine: poc.Engine) -> None:
    """Every container its own name, address, link and cgroup, and all within reach."""
    containers = engine.containers.list()
    addresses = [address(container) for container in containers]
    assert len(containers) == MANY
    assert len({container.name for container in containers}) == len(set(addresses)) == MANY
    assert engine.networks.leases().owners() == {
        address: container.id for address, container in zip(addresses, containers, strict=True)
    }
    for container in containers:
        pid = container.attrs["State"]["Pid"]
        assert pid in Cgroup(cgroup_path(container.id)).pids()
    wait_for_links(MANY + 1)
    assert all(reaches(engine, "bridge", *addresses))


def check_all_gone(engine: poc.Engine, ids: list[str]) -> None:
    assert engine.containers.list(all=True) == []
    assert engine.networks.leases().owners() == {}
    assert not [id for id in ids if Cgroup(cgroup_path(id)).exists()]
    assert sorted(os.listdir(engine.paths.run)) == ["leases", "seccomp"]
    assert os.listdir(f"{engine.paths.data}/names") == os.listdir(f"{engine.paths.data}/containers") == []


def test_fifty_commands_at_once(cli: CommandLine, engine: poc.Engine) -> None:
    """The first of which make the bridge."""
    commands = [
        cli.start("run", "-d", "--name", f"number{number}", "busybox", *SLEEP, stdout=subprocess.PIPE, text=True)
        for number in range(MANY)
    ]
    ids = [str(command.communicate(timeout=100)[0]).strip() for command in commands]
    assert [command.returncode for command in commands] == [0] * MANY
    assert len(set(ids)) == MANY and all(len(id) == 64 for id in ids)
    check_all_up(engine)
    rows = [json.loads(line) for line in cli("ps", "--format", "json").stdout.splitlines()]
    assert {row["Names"] for row in rows} == {f"number{number}" for number in range(MANY)}
    removed = cli("rm", "-f", *ids, timeout=100)
    assert (removed.stdout.split(), removed.stderr) == (ids, "")
    check_all_gone(engine, ids)


def test_fifty_threads_at_once(engine: poc.Engine) -> None:
    with ThreadPoolExecutor(MANY) as pool:
        containers = list(pool.map(lambda number: start(engine, name=f"number{number}"), range(MANY)))
        check_all_up(engine)
        list(pool.map(lambda container: container.remove(force=True), containers))
        check_all_gone(engine, [container.id for container in containers])
        outputs = pool.map(lambda number: shell(engine, f"echo {number}", name=f"number{number}"), range(MANY))
        assert [int(output) for output in outputs] == list(range(MANY))
    check_all_gone(engine, [])
