"""poc.net without a kernel: subnets, names, leases, and what an import costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st

from poc import net
from poc.errors import InvalidArgument, PocError
from poc.namespaces import run_and_exit
from poc.net.addresses import format_address, overlaps, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUBNETS = st.builds(
    lambda number, prefix: f"{format_address(number >> (32 - prefix) << (32 - prefix))}/{prefix}",
    st.integers(1 << 24, (1 << 32) - 1),
    st.integers(8, 29),
)


def test_a_subnet_is_read_strictly() -> None:
    subnet = net.Subnet("10.209.0.0/16")
    assert (subnet.gateway, subnet.prefix) == ("10.209.0.1", 16)
    assert (subnet.open_half, subnet.internal_half) == ("10.209.0.0/17", "10.209.128.0/17")
    for bad in ("10.209.0.0", "10.209.0.0/30", "10.209.0.0/7", "10.209.0.1/16", "10.209/16", "x/16", "10.0.0.0/-8", ""):
        with pytest.raises(InvalidArgument):
            net.Subnet(bad)
    with pytest.raises(InvalidArgument, match=r"10\.209\.0\.0/16 is meant"):
        net.Subnet("10.209.7.7/16")


@given(SUBNETS)
def test_no_pool_holds_network_gateway_or_broadcast(text: str) -> None:
    subnet = net.Subnet(text)
    outer, inner = subnet.pool(internal=False), subnet.pool(internal=True)
    assert len(outer) + len(inner) == subnet.size - 3
    assert parse_address(subnet.gateway) == subnet.network + 1 not in outer
    assert subnet.network not in outer
    assert subnet.network + subnet.size - 1 not in inner
    half = subnet.internal_half
    assert all(overlaps(format_address(number), half) for number in (inner[0], inner[-1]))
    assert not any(overlaps(format_address(number), half) for number in (outer[0], outer[-1]))


@given(st.lists(SUBNETS, max_size=8))
def test_the_chosen_subnet_is_free(taken: list[str]) -> None:
    free = [candidate for candidate in net.CANDIDATES if not any(overlaps(candidate, other) for other in taken)]
    if free:
        assert net.choose_subnet(net.CANDIDATES, taken) == free[0]
    else:
        with pytest.raises(PocError, match="no free private subnet"):
            net.choose_subnet(net.CANDIDATES, taken)


def test_subnets_overlap_when_one_holds_the_other() -> None:
    assert overlaps("10.0.0.0/8", "10.209.0.0/16")
    assert overlaps("10.209.3.4/24", "10.209.0.0/16")
    assert overlaps("10.209.3.4", "10.209.3.4/32")
    assert not overlaps("10.208.0.0/16", "10.209.0.0/16")
    assert net.choose_subnet(net.CANDIDATES, ["10.0.0.0/8", "172.16.0.0/12"]).startswith("192.168.")


@given(st.text(min_size=1), st.text(min_size=1))
def test_an_interface_name_fits_and_tells_containers_apart(one: str, other: str) -> None:
    for id in (one, other):
        name = net.host_interface_name(id)
        assert len(name) == 15
        assert name.isascii()
        assert name.isalnum()
    assert one == other or net.host_interface_name(one) != net.host_interface_name(other)
    assert net.host_interface_name("0123456789abcdef" * 4) == "poc0123456789ab"


def test_a_hardware_address_is_local_and_of_one_station() -> None:
    assert net.mac_address("10.209.0.1") == "02:70:0a:d1:00:01"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "sixteen-letters-", "\n"])
def test_a_bridge_name_that_the_kernel_refuses_is_refused_first(name: str) -> None:
    with pytest.raises(InvalidArgument):
        net.Bridge(name)


def test_leases_run_out_and_come_back(tmp_path: Path) -> None:
    leases = net.Leases(str(tmp_path / "a" / "leases"), "10.209.0.0/29")
    leases.release("nobody")
    assert leases.owners() == {}
    addresses = {leases.acquire(owner) for owner in ("a", "b")}
    assert addresses == {"10.209.0.2", "10.209.0.3"}
    assert leases.acquire("a") == leases.acquire("a"), "one owner has one address"
    with pytest.raises(PocError, match="no free address: all 2 addresses"):
        leases.acquire("c")
    assert {leases.acquire(owner, internal=True) for owner in "cde"} == {f"10.209.0.{n}" for n in (4, 5, 6)}
    with pytest.raises(PocError, match="no free address: all 3 internal"):
        leases.acquire("f", internal=True)
    assert sorted(leases.owners().values()) == list("abcde")
    for owner in "abcdeee":
        leases.release(owner)
    assert leases.owners() == {}
    assert os.listdir(leases.directory) == []


def test_somebody_elses_file_is_no_lease(tmp_path: Path) -> None:
    leases = net.Leases(str(tmp_path), "10.209.0.0/16")
    (tmp_path / "note").write_text("")
    address = leases.acquire("a")
    leases.release("b")
    assert leases.owners() == {address: "a"}


def test_sixty_processes_lease_different_addresses(tmp_path: Path) -> None:
    leases = net.Leases(str(tmp_path), "10.209.0.0/24")

    def lease(number: int) -> None:
        leases.acquire(f"container {number}")
        leases.acquire(f"internal {number}", internal=True)

    in_processes(60, lease)
    owners = leases.owners()
    assert len(owners) == 120
    assert sorted(owners.values()) == sorted(f"{kind} {n}" for kind in ("container", "internal") for n in range(60))


def test_who_holds_a_lease_holds_it_alone(tmp_path: Path) -> None:
    leases = net.Leases(str(tmp_path / "leases"), "10.209.0.0/29")
    held = tmp_path / "held"
    held.mkdir()

    def come_and_go(number: int) -> None:
        for turn in range(60):
            owner = f"{number}.{turn}"
            try:
                address = leases.acquire(owner)
            except PocError:
                continue  # eight compete for two
            (held / address).mkdir()  # fails if another holds it
            (held / address).rmdir()
            leases.release(owner)
            leases.release(owner)

    in_processes(8, come_and_go)
    assert leases.owners() == {}


def in_processes(count: int, function: Callable[[int], None]) -> None:
    """Run ``function`` in that many forked processes at once; all must succeed."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            run_and_exit(lambda number=number: function(number))  # type: ignore[misc]
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * count


def test_the_import_is_light() -> None:
    heavy = {"pyroute2", "asyncio", "ipaddress", "hashlib", "dataclasses", "subprocess", "re", "contextlib"}
    baseline = "import ctypes, errno, json, fcntl, os, socket, struct, typing, sys; before = set(sys.modules); "
    code = baseline + "import poc.net; print(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert not heavy & set(result.stdout.split())
    assert {"poc.net.addresses"} == {m for m in result.stdout.split() if m.startswith("poc.net.")}


def test_a_public_address_is_not_a_candidate() -> None:
    for candidate in net.CANDIDATES:
        net.Subnet(candidate)
        assert socket.inet_aton(candidate.partition("/")[0])[0] in (10, 172, 192)
