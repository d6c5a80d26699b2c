"""poc.net on the real kernel, in network namespaces that the tests make: no packet leaves them."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CLONE_NEWNET, OUTSIDE_ADDRESS, needs

from poc import _fs, _libc, net
from poc.errors import PocError
from poc.namespaces import run_and_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs("root", "program:ip", "program:nft")

UPLINK_ADDRESS = "198.51.100.2"  # of the host's end of conftest's `outside`
INTERNAL_GROUP = 0x706F63


class Station:
    """A network namespace that a bridge attaches, held open by ``fd``."""

    def __init__(self) -> None:
        home = this_namespace()
        try:
            _libc.unshare(CLONE_NEWNET)
            net.loopback_up()
            self.fd = this_namespace()
        finally:
            _libc.setns(home, CLONE_NEWNET)
            os.close(home)

    def attach(self, bridge: net.Bridge, address: str, internal: bool = False) -> list[str]:
        self.address = address
        return bridge.attach(self.fd, net.host_interface_name(address), address, internal)

    def run(self, command: str) -> str:
        nsenter = ["nsenter", f"--net=/proc/self/fd/{self.fd}", *shlex.split(command)]
        return subprocess.run(nsenter, pass_fds=[self.fd], capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True)
def no_router(own_network: None) -> None:
    """A new network namespace takes the first one's settings over, and that may be a router."""
    _fs.write_text("/proc/sys/net/ipv4/ip_forward", "0")


@pytest.fixture
def stations(own_network: None) -> Iterator[list[Station]]:
    """Twenty namespaces to attach; their ends on the host go with them."""
    stations = [Station() for _ in range(20)]
    yield stations
    for station in stations:
        os.close(station.fd)


@pytest.fixture
def bridge(own_network: None) -> net.Bridge:
    return net.Bridge("pocbr0", "poc", "10.209.0.0/16")


def this_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """The test in another network namespace; a socket made here stays there."""
    home = this_namespace()
    try:
        _libc.setns(namespace, CLONE_NEWNET)
        yield
    finally:
        _libc.setns(home, CLONE_NEWNET)
        os.close(home)


@contextmanager
def inside_process(pid: int) -> Iterator[None]:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(fd):
            yield
    finally:
        os.close(fd)


def listener(address: str = "") -> socket.socket:
    return socket.create_server((address, 7), backlog=64)


def connects(address: str, server: socket.socket, timeout: float = 10) -> str | None:
    """The address that ``server`` sees a TCP connection come from; None when there comes none in time."""
    with socket.socket() as client:
        client.settimeout(timeout)
        try:
            client.connect((address, 7))
        except OSError:
            return None
        client.sendall(b"ping")
        connection, (peer, _) = server.accept()
        with connection:
            assert connection.recv(4) == b"ping"
            connection.sendall(b"pong")
            assert client.recv(4) == b"pong"
        return str(peer)


def shell(command: str) -> str:
    return subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout


def links() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def host_network() -> dict[str, Any]:
    """All that poc could change of this network namespace, but for handles and indices."""
    forwarding = "/proc/sys/net/ipv4/conf"
    return {
        "links": links(),
        "addresses": shell("ip -4 -o address"),
        "routes": shell("ip -4 route show table all").replace(" linkdown", ""),  # noticed a moment later
        "rules": shell("nft list ruleset"),
        "forwarding": {name: _fs.read_text(f"{forwarding}/{name}/forwarding") for name in os.listdir(forwarding)},
        "aliases": [link.get("ifalias") for link in json.loads(shell("ip -j link"))],
    }


def sees_outside(station: Station, outside: int) -> str | None:
    """Under which address a station is seen by the world beyond the default route."""
    with inside_process(outside):
        server = listener()
    with server, inside(station.fd):
        return connects(OUTSIDE_ADDRESS, server)


def hears_from(station: Station, outside: int, timeout: float = 0.3) -> bool:
    """Whether a datagram of a station gets to the world, with or without a way back."""
    with inside_process(outside):
        world = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        world.bind(("", 7))
    with inside(station.fd):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with world, sender:
        world.settimeout(timeout)
        try:
            sender.sendto(b"", (OUTSIDE_ADDRESS, 7))
            world.recv(1)
        except OSError:
            return False
        return True


def test_twenty_attached_at_once_reach_each_other_and_the_gateway(stations: list[Station], bridge: net.Bridge) -> None:
    """Nobody has made the bridge before: the twenty race for that too."""
    pids = []
    for number, station in enumerate(stations):
        station.address = f"10.209.{1 if number < 15 else 200}.{number}"
        pid = os.fork()
        if pid == 0:
            run_and_exit(lambda s=station, n=number: len(s.attach(bridge, s.address, n >= 15)))  # type: ignore[misc]
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)
    servers = []
    for station in stations:
        with inside(station.fd):
            servers.append(listener())
    gateway = listener(bridge.gateway)
    for station in stations:
        with inside(station.fd):
            assert [connects(other.address, server) for other, server in zip(stations, servers, strict=True)] == [
                station.address
            ] * len(stations)
            assert connects(bridge.gateway, gateway) == station.address
        link = json.loads(station.run("ip -j address show dev eth0"))[0]
        assert (link["operstate"], link["address"]) == ("UP", net.mac_address(station.address))
    for server in (*servers, gateway):
        server.close()
    bridge.remove()
    assert links() == ["lo"]


def test_the_outside_sees_the_host(stations: list[Station], bridge: net.Bridge, outside: int) -> None:
    before = host_network()
    assert net.default_route_interface() == "uplink"
    station = stations[0]
    assert station.attach(bridge, "10.209.0.2") == []
    assert sees_outside(station, outside) == UPLINK_ADDRESS
    assert json.loads(station.run("ip -j route show default"))[0]["gateway"] == bridge.gateway
    # Who may set addresses can't send under one that is not the bridge's to give.
    station.run("ip address add 203.0.113.9/32 dev eth0")
    station.run(f"ip route replace default via {bridge.gateway} src 203.0.113.9")
    assert not hears_from(station, outside)
    station.run(f"ip route replace default via {bridge.gateway}")
    assert hears_from(station, outside, timeout=10)
    # The world knows a way to the containers, and still can't open a connection to one.
    with inside(station.fd):
        server = listener()
    with inside_process(outside):
        shell(f"ip route add 10.209.0.0/16 via {UPLINK_ADDRESS}")
        assert connects(station.address, server, timeout=0.3) is None
    server.close()
    bridge.remove()
    bridge.remove()
    assert host_network() == before


def test_internal_stays_inside(stations: list[Station], bridge: net.Bridge, outside: int) -> None:
    open_one, internal = stations[:2]
    open_one.attach(bridge, "10.209.0.2")
    assert internal.attach(bridge, "10.209.128.2", internal=True) == []
    with inside(open_one.fd):
        server = listener()
    with inside(internal.fd):
        assert connects(open_one.address, server) == internal.address
    assert internal.run("ip route show default") == ""
    assert shell("ip -6 address show dev pocbr0") == "", "no way to the host beside the rules"
    assert not hears_from(internal, outside)
    # Who may configure the interface gives itself a default route, then an address of the other half.
    for address in ("10.209.128.2", "10.209.0.99"):
        internal.run("ip address flush dev eth0")
        internal.run(f"ip address add {address}/16 dev eth0")
        internal.run(f"ip route add default via {bridge.gateway}")
        assert not hears_from(internal, outside)
    with inside(internal.fd):
        assert connects(open_one.address, server, timeout=0.3) is None
    with inside(open_one.fd):
        assert connects("10.209.0.99", server, timeout=0.3) is None
    assert "lladdr" not in open_one.run("ip neighbour show 10.209.0.99"), "its claim to the address is not heard"
    assert sees_outside(open_one, outside) == UPLINK_ADDRESS
    assert hears_from(open_one, outside, timeout=10)
    server.close()
    bridge.remove()
    assert "poc" not in shell("nft list ruleset")


DAMAGE = {
    "table gone": "nft delete table ip poc",
    "rules gone": "nft flush table ip poc",
    "everything flushed": "nft flush ruleset",
    "foreign rule": "nft insert rule ip poc forward drop",
    "address gone": "ip address flush dev pocbr0",
    "bridge down": "ip link set pocbr0 down",
    "bridge does not forward": "sysctl -q net.ipv4.conf.pocbr0.forwarding=0",
    "uplink does not forward": "sysctl -q net.ipv4.conf.uplink.forwarding=0",
    "former subnet": "ip address add 10.173.0.1/16 dev pocbr0",
}


def test_what_is_damaged_is_mended(stations: list[Station], bridge: net.Bridge, outside: int) -> None:
    bridge.ensure()
    whole = host_network()
    everything = shell("nft -a list ruleset") + shell("ip -4 -d address show pocbr0").partition("bridge")[0]
    bridge.ensure()
    assert shell("nft -a list ruleset") + shell("ip -4 -d address show pocbr0").partition("bridge")[0] == everything
    for damage in DAMAGE.values():
        shell(damage)
        assert host_network() != whole, damage
        bridge.ensure()
        assert host_network() == whole, damage
    # A container that is attached mends it as well.
    for number, damage in enumerate(DAMAGE.values()):
        shell(damage)
        stations[number].attach(bridge, f"10.209.0.{number + 2}")
        assert sees_outside(stations[number], outside) == UPLINK_ADDRESS, damage
    shell("ip link del pocbr0")
    stations[-1].attach(bridge, "10.209.0.99")
    assert sees_outside(stations[-1], outside) == UPLINK_ADDRESS
    bridge.remove()


def test_rules_are_what_their_comments_say(stations: list[Station], bridge: net.Bridge) -> None:
    """Each rule's comment, by which it is recognised, is what `nft` makes of the rule itself."""
    stations[0].attach(bridge, "10.209.128.2", internal=True)
    rules = [line.strip() for line in shell("nft list ruleset").splitlines() if " comment " in line]
    assert len(rules) == 11
    for rule in rules:
        text, _, comment = rule.replace("packets 0 bytes 0 ", "").partition(" comment ")
        assert comment == f'"{text.replace(chr(34), "")}"'
    bridge.remove()


def test_two_stores_side_by_side(stations: list[Station], outside: int) -> None:
    before = host_network()
    one = net.Bridge.establish("pocbr0", "poc")
    other = net.Bridge.establish("pocbrff", "poc-ff")
    assert one.subnet.text != other.subnet.text
    with pytest.raises(PocError, match="overlaps this host's address"):
        net.Bridge("pocbrfe", "poc-fe", one.subnet.text).ensure()
    assert "pocbrfe" not in links()
    for station, bridge in zip(stations, (one, other), strict=False):
        station.attach(bridge, bridge.gateway[:-1] + "9")
        assert sees_outside(station, outside) == UPLINK_ADDRESS
    with inside(stations[1].fd):
        server = listener()
    with inside(stations[0].fd):
        assert connects(stations[1].address, server, timeout=0.3) is None, "containers of another store are foreign"
    server.close()
    one.remove()
    assert sees_outside(stations[1], outside) == UPLINK_ADDRESS, "the other store still needs the uplink to forward"
    other.remove()
    assert host_network() == before


def test_forwarding_that_others_want_stays(bridge: net.Bridge, outside: int) -> None:
    bridge.ensure()
    shell("sysctl -q net.ipv4.ip_forward=1")
    bridge.remove()
    assert _fs.read_text("/proc/sys/net/ipv4/conf/uplink/forwarding") == "1"


def test_without_an_outside(stations: list[Station], bridge: net.Bridge) -> None:
    assert net.default_route_interface() is None
    shell("ip route add blackhole default")
    assert net.default_route_interface() is None
    assert stations[0].attach(bridge, "10.209.0.2") == []
    bridge.remove()


def test_the_bridge_has_the_way_outs_packet_size(stations: list[Station], bridge: net.Bridge, outside: int) -> None:
    shell("ip link set uplink mtu 1380")
    stations[0].attach(bridge, "10.209.0.2")
    assert json.loads(stations[0].run("ip -j link show eth0"))[0]["mtu"] == 1380
    bridge.remove()


def test_nothing_is_left_of_a_failed_attachment(stations: list[Station], bridge: net.Bridge) -> None:
    bridge.ensure()
    before = links()
    with open("/dev/null") as no_namespace, pytest.raises(OSError, match="create veth pocdeadbeefdead"):
        bridge.attach(no_namespace.fileno(), "pocdeadbeefdead", "10.209.0.2")
    first, second = stations[:2]
    first.run("ip route add blackhole default")
    with pytest.raises(OSError, match=r"give eth0 the address 10\.209\.0\.3: File exists"):
        first.attach(bridge, "10.209.0.3")
    assert links() == before
    second.attach(bridge, "10.209.0.4")
    with pytest.raises(OSError, match="File exists"):
        bridge.attach(second.fd, "pocdeadbeefdead", "10.209.0.5")
    assert links() == sorted([*before, net.host_interface_name("10.209.0.4")])
    bridge.remove()


def test_a_pair_goes_with_its_container_and_its_name_can_be_used_at_once(own_network: None, bridge: net.Bridge) -> None:
    bridge.ensure()
    before = links()
    for _ in range(5):
        container = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        while os.readlink(f"/proc/{container.pid}/ns/net") == os.readlink("/proc/thread-self/ns/net"):
            time.sleep(0.001)
        namespace = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY)
        container.kill()  # it ends while it is being started; the name is the one of its former life
        container.wait()
        bridge.attach(namespace, "poc0123456789ab", "10.209.0.2")
        os.close(namespace)
    deadline = time.monotonic() + 10
    while links() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert links() == before
    bridge.remove()


def killed_half_way(function: Callable[[], object], milliseconds: float) -> None:
    """Run ``function`` in a process, and kill that at any moment of the time it takes."""

    def child() -> None:
        function()

    pid = os.fork()
    if pid == 0:
        run_and_exit(child)
    time.sleep(random.uniform(0, milliseconds) / 1000)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_killed_at_any_moment_nothing_is_left(bridge: net.Bridge, outside: int) -> None:
    before = host_network()
    for _ in range(20):
        killed_half_way(bridge.ensure, 12)
        bridge.remove()
        assert host_network() == before
    for _ in range(20):
        bridge.ensure()
        killed_half_way(bridge.remove, 12)
        bridge.remove()
        assert host_network() == before
    bridge.ensure()
    for _ in range(20):
        station = Station()
        killed_half_way(lambda s=station: s.attach(bridge, "10.209.0.2"), 8)  # type: ignore[misc]
        os.close(station.fd)
    station = Station()
    station.attach(bridge, "10.209.0.2")
    assert sees_outside(station, outside) == UPLINK_ADDRESS
    os.close(station.fd)
    deadline = time.monotonic() + 10
    while len(links()) > len(before["links"]) + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    bridge.remove()
    assert host_network() == before


def test_another_firewall_is_named_only_when_it_blocks(
    stations: list[Station], bridge: net.Bridge, outside: int
) -> None:
    shell("nft add table inet wall")
    shell("nft add chain inet wall gate { type filter hook forward priority 10; policy drop; }")
    assert bridge.blocked_by() == ["nftables table inet wall chain gate (policy drop)"]
    (warning,) = stations[0].attach(bridge, "10.209.0.2")
    assert "pocbr0 do not reach the outside: nftables table inet wall chain gate (policy drop) drops" in warning
    assert not hears_from(stations[0], outside)
    shell("nft add rule inet wall gate iifname pocbr0 accept")
    shell("nft add rule inet wall gate ct state established accept")
    assert stations[1].attach(bridge, "10.209.0.3") == []
    assert sees_outside(stations[1], outside) == UPLINK_ADDRESS
    # A rule blocks as well as a policy does.
    shell("nft flush chain inet wall gate")
    shell("nft chain inet wall gate { policy accept; }")
    shell("nft add rule inet wall gate reject")
    (warning,) = stations[2].attach(bridge, "10.209.0.4")
    assert "nftables table inet wall chain gate drops what pocbr0 forwards" in warning
    assert not hears_from(stations[2], outside)
    wall = shell("nft list table inet wall")
    bridge.remove()
    assert shell("nft list ruleset") == wall


@needs("program:iptables-legacy")
def test_a_legacy_firewall_is_seen_and_dockers_chain_in_it_used(
    stations: list[Station], bridge: net.Bridge, outside: int
) -> None:
    if subprocess.run(["iptables-legacy", "-P", "FORWARD", "DROP"], capture_output=True).returncode:
        pytest.skip("needs a kernel with the iptables of old")
    (warning,) = stations[0].attach(bridge, "10.209.0.2")
    assert "iptables-legacy chain FORWARD drops" in warning
    shell("iptables-legacy -N DOCKER-USER")
    shell("iptables-legacy -I FORWARD -j DOCKER-USER")
    before = shell("iptables-legacy -S")
    assert stations[1].attach(bridge, "10.209.0.3") == []
    assert sees_outside(stations[1], outside) == UPLINK_ADDRESS
    bridge.remove()
    assert shell("iptables-legacy -S") == before


@contextmanager
def docker(directory: str) -> Iterator[None]:
    """A Docker daemon in this network namespace; its mounts and processes are its own."""
    os.mkdir(directory)
    paths = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    options = [f"--{option}={directory}/{name}" for option, name in paths.items()]
    own = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with open(f"{directory}/log", "w") as log:
        daemon = subprocess.Popen(
            [*own, "dockerd", *options, f"--host=unix://{directory}/socket"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while "API listen on" not in (said := _fs.read_text(f"{directory}/log")):
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"dockerd does not start: {said[-500:]}")
            time.sleep(0.05)
        yield
    finally:
        daemon.kill()
        daemon.wait()
        _fs.remove_tree(directory)


def forward_policy() -> str:
    chains = json.loads(shell("nft -j list chain ip filter FORWARD"))["nftables"]
    return str(next(entry["chain"]["policy"] for entry in chains if "chain" in entry))


@needs("program:dockerd", "program:iptables")
def test_next_to_docker(stations: list[Station], bridge: net.Bridge, outside: int, run_directory: str) -> None:
    early, late, internal, other_internal, after_restart = stations[:5]
    early.attach(bridge, "10.209.0.2")
    with docker(f"{run_directory}/docker"):
        assert forward_policy() == "drop"
        bare = shell("iptables -S")
        assert not hears_from(early, outside), "Docker drops what it does not know"
        assert late.attach(bridge, "10.209.0.3") == []
        for station in (early, late):
            assert sees_outside(station, outside) == UPLINK_ADDRESS
        passed = shell("iptables -S DOCKER-USER")
        assert internal.attach(bridge, "10.209.128.2", internal=True) == []
        internal.run(f"ip route add default via {bridge.gateway}")
        assert not hears_from(internal, outside)
        bridge.ensure()
        assert shell("iptables -S DOCKER-USER") == passed, "rules are not repeated"
        shell("iptables -F DOCKER-USER")
    with docker(f"{run_directory}/docker"):
        assert forward_policy() == "drop"
        other_internal.attach(bridge, "10.209.128.3", internal=True)
        with inside(early.fd):
            server = listener()
        with server, inside(other_internal.fd):
            assert connects(early.address, server) == other_internal.address
        assert after_restart.attach(bridge, "10.209.0.4") == []
        assert sees_outside(after_restart, outside) == UPLINK_ADDRESS
        bridge.remove()
        assert sorted(shell("iptables -S").splitlines()) == sorted(bare.splitlines())
