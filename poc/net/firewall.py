"""The bridge's rules, and getting along with whoever else filters what this host forwards.

A packet must pass every base chain at the forward hook: our accept does not undo another's drop. Docker drops all it
does not know, and offers the chain DOCKER-USER for what its users want to let through: there go two rules of ours,
through the `iptables` that Docker uses itself. Where somebody else drops, the way out is tried with one packet, which
our own table catches before it leaves the host, and if that does not arrive, the culprit is named.

Imports pyroute2 at once (through `nftables`): import this module inside functions only.
"""

from __future__ import annotations

import errno
import time

from poc import _fs
from poc.net import nftables as nft

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from typing import Any

    from poc.net.addresses import Subnet

INTERNAL_GROUP = 0x706F63  # interface group of the host's ends of internal containers
PUBLIC_ADDRESS = "1.1.1.1"  # stands for the internet in look-ups and in the probe; nothing is ever sent there
_PROBE_PORTS = 1, 443  # nobody uses source port 1, and who lets anything out lets 443 out
_PROBE_WAITS = 0, 0.001, 0.002, 0.005, 0.01, 0.03, 0.05, 0.3, 0.8  # the kernel asks for a lost neighbour after 1 s
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def nat_table(name: str, bridge: str, subnet: Subnet) -> nft.Table:
    """The table every bridge has: what is forwarded, and under which source address it leaves."""
    inward, outward = nft.interface_in(bridge), nft.interface_out(bridge)
    elsewhere = nft.interface_out(bridge, equal=False)
    forward = (
        (inward, outward, nft.accept()),  # the bridge's own traffic comes by here where br_netfilter is on
        (inward, nft.source(subnet.open_half), nft.accept()),
        (inward, nft.drop()),
        (outward, nft.destination(subnet.internal_half), nft.drop()),
        (outward, nft.replies(), nft.accept()),
        (outward, nft.published(), nft.accept()),
        (outward, nft.drop()),
    )
    mine = nft.source(subnet.text)
    probe = ((mine, nft.destination(PUBLIC_ADDRESS), nft.tcp(*_PROBE_PORTS), nft.counter(), nft.drop()),)
    chains = (
        nft.Chain("forward", "filter", nft.FORWARD, 0, forward),
        nft.Chain("probe", "filter", nft.POSTROUTING, 50, probe),
        nft.Chain("postrouting", "nat", nft.POSTROUTING, 100, ((mine, elsewhere, nft.masquerade()),)),
    )
    return nft.Table(nft.IPV4, name, chains)


def guard_table(name: str, subnet: Subnet) -> nft.Table:
    """The table that keeps internal containers to their half of the subnet, made with the first of them.

    Docker's default capabilities allow raw packets, and with those a container could take an address of the other
    half, were its frames not looked at where they enter the bridge.
    """
    internal = nft.group_in(INTERNAL_GROUP)
    rules = tuple(
        (internal, foreign(subnet.internal_half), nft.drop()) for foreign in (nft.foreign_source, nft.foreign_arp)
    )
    return nft.Table(nft.BRIDGE, name, (nft.Chain("internal", "filter", nft.PREROUTING, -300, rules),))


class Firewall:
    """What filters forwarded packets on this host, of ours and of others, as it was when this was made."""

    __slots__ = ("bridge", "chains", "netlink", "subnet", "table")

    def __init__(self, netlink: nft.Nftables, table: str, bridge: str, subnet: Subnet) -> None:
        self.netlink = netlink
        self.table = nat_table(table, bridge, subnet)
        self.bridge = bridge
        self.subnet = subnet
        self.chains = netlink.chains()

    def intact(self) -> bool:
        """Whether our table is there with all its rules."""
        return self.netlink.intact(self.table, self.chains)

    def ensure(self) -> None:
        """Make or mend our table, and our rules in Docker's chain where there is one."""
        if not self.netlink.holds(self.table):
            self.netlink.replace(self.table)
        self.pass_docker()

    def ensure_guard(self) -> None:
        """Make or mend the table for internal containers."""
        guard = guard_table(self.table.name, self.subnet)
        if not self.netlink.intact(guard, self.chains):
            self.netlink.replace(guard)

    def remove(self) -> None:
        """Delete our tables, and our rules from Docker's chain."""
        self.netlink.delete(self.table.name)
        for program in self._docker():
            for rule in _docker_rules(self.bridge):
                while _iptables(program, "-D", rule):
                    pass  # until it is not there; two processes may have put it there twice

    def pass_docker(self) -> None:
        """Have what the bridge forwards pass Docker's DROP policy; does nothing where there is no Docker."""
        for program in self._docker():
            for rule in _docker_rules(self.bridge):
                if not _iptables(program, "-C", rule):
                    _iptables(program, "-I", rule)

    def others(self) -> list[str]:
        """Who else filters forwarded packets, as text: first those that drop what no rule of theirs lets through."""
        drop = [_described(chain) + " (policy drop)" for chain in self._foreign() if _drops(chain)]
        rules = [_described(chain) for chain in self._foreign() if not _drops(chain) and _filters(chain)]
        return drop + rules + (["iptables-legacy chain FORWARD"] if _legacy_filter() else [])

    def lets_out(self, probe: socket.socket) -> bool:
        """Whether what a container sends is forwarded: one packet from it is seen leaving, and stopped there.

        ``probe`` is a non-blocking TCP socket of the container's network namespace.
        """
        before = self.netlink.packets(self.table, "probe")
        probe.bind(("", _PROBE_PORTS[0]))
        if probe.connect_ex((PUBLIC_ADDRESS, _PROBE_PORTS[1])) != errno.EINPROGRESS:
            return False
        for wait in _PROBE_WAITS:
            time.sleep(wait)
            if self.netlink.packets(self.table, "probe") != before:
                return True
        return False

    def _foreign(self) -> Iterator[Any]:
        for chain in self.chains:
            hook = chain.get_attr("NFTA_CHAIN_HOOK")
            if hook is None or hook.get_attr("NFTA_HOOK_HOOKNUM") != nft.FORWARD or _is_pocs(chain):
                continue
            if chain["nfgen_family"] in (nft.IPV4, nft.INET) and chain.get_attr("NFTA_CHAIN_TYPE") == "filter":
                yield chain

    def _docker(self) -> list[str]:
        programs = []
        if any(
            chain.get_attr("NFTA_CHAIN_NAME") == "DOCKER-USER" and chain["nfgen_family"] == nft.IPV4
            for chain in self.chains
        ):
            programs.append("iptables-nft")
        if _legacy_filter():
            programs.append("iptables-legacy")
        return programs


def _is_pocs(chain: Any) -> bool:
    """Is it of a table like ours, of this store or another? Those touch nothing but their own bridge's packets."""
    name = str(chain.get_attr("NFTA_CHAIN_TABLE"))
    return chain["nfgen_family"] == nft.IPV4 and (name == "poc" or name.startswith("poc-"))


def _drops(chain: Any) -> bool:
    return bool(chain.get_attr("NFTA_CHAIN_POLICY") == 0)


def _filters(chain: Any) -> bool:
    return bool(chain.get_attr("NFTA_CHAIN_USE"))


def _described(chain: Any) -> str:
    family = nft.FAMILIES[chain["nfgen_family"]]
    return f"nftables table {family} {chain.get_attr('NFTA_CHAIN_TABLE')} chain {chain.get_attr('NFTA_CHAIN_NAME')}"


def _legacy_filter() -> bool:
    # Asking `iptables-legacy` would load its tables where nobody uses them.
    try:
        return "filter" in _fs.read_text("/proc/thread-self/net/ip_tables_names").split()
    except FileNotFoundError:
        return False


def _docker_rules(bridge: str) -> tuple[tuple[str, ...], ...]:
    comment = ("-m", "comment", "--comment", f"poc {bridge}", "-j", "ACCEPT")
    return (
        ("-i", bridge, *comment),
        ("-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", *comment),
    )


def _iptables(program: str, action: str, rule: tuple[str, ...]) -> bool:
    """Whether ``action`` on DOCKER-USER succeeded; it fails where there is no such rule, chain or program."""
    import subprocess

    quiet = subprocess.DEVNULL
    for name in (program, "iptables"):  # old distributions have but one of the two, under the plain name
        command = (name, "-w", "5", action, "DOCKER-USER", *rule)
        try:
            return subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, env={"PATH": _PATH}).returncode == 0
        except FileNotFoundError:
            continue
    return False
