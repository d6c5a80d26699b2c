"""The bridge that containers hang on, its address, its way out, and the pair of interfaces of each container.

    container's namespace          host's namespace
    eth0 10.209.77.5/16 ── veth ── poc0123456789ab ─┐
                                                    ├─ pocbr0 10.209.0.1 ── forward, masquerade ── default route
    eth0 10.209.130.2/16 ─ veth ── poc89abcdef0123 ─┘   (internal half: no default route, not forwarded)

"Host" is the network namespace of the caller, which need not be the initial one. pyroute2 is imported in the
functions that talk to the kernel, since its import alone costs more than all of them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from poc import _fs, _libc
from poc.net.addresses import Subnet, mac_address, overlaps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from poc.net.nftables import Chain

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8914, 0x8921
_IFF_UP = 1
_CLONE_NEWNET = 0x40000000
_ALIAS = "poc, forwarding was 0 on:"


def loopback_up() -> None:
    """Bring `lo` up in the calling network namespace (netdevice(7)); the kernel gives it 127.0.0.1 by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack_from("16sH", request)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def default_route_interface() -> str | None:
    """The interface that traffic to the internet leaves through; None when there is no way out.

    The kernel is asked where it would send to a public address (nothing is sent), rather than for its list of default
    routes: so policy rules count, and a VPN that covers everything with two half-sized routes is seen.
    """
    with _rtnetlink() as ip:
        return _way_out(ip)


def taken_subnets(ignore: str | None = None) -> list[str]:
    """Every subnet this host has an address in or a route to, but for those on the interface ``ignore``."""
    with _rtnetlink() as ip:
        subnets = _addresses(ip, ignore)
        mine = _index(ignore) if ignore else None
        for route in ip.get_routes(family=socket.AF_INET):
            if route["dst_len"] and route.get_attr("RTA_OIF") != mine:
                subnets.append(f"{route.get_attr('RTA_DST')}/{route['dst_len']}")
    return subnets


class Bridge:
    """A bridge with its own subnet, and the nftables table with its rules: forwarding, NAT, the internal half cut off.

    ``name`` at most 15 characters; ``subnet`` as ``10.209.0.0/16``. Nothing happens until `ensure`.
    The former value of a sysctl that had to be changed is kept as the bridge's alias (`ip link` shows it): in the
    kernel, with the object it belongs to, gone with a reboot like the change itself.
    """

    __slots__ = ("gateway", "name", "subnet", "table")

    def __init__(self, name: str = "pocbr0", table: str = "poc", subnet: str = "10.209.0.0/16") -> None:
        self.name = name
        self.table = table
        self.subnet = Subnet(subnet)
        self.gateway = self.subnet.gateway

    def exists(self) -> bool:
        """Whether the interface is there; one ioctl, nothing imported."""
        return _index(self.name) is not None

    def ensure(self) -> list[str]:
        """Make the bridge and its rules, or mend what is missing; a second call changes nothing.

        Returns warnings: one line for each thing on this host that keeps containers from the outside.
        Raises OSError, and PocError when the subnet is in use elsewhere.
        """
        with _rtnetlink() as ip:
            outside = _way_out(ip)
            index = self._ensure_link(ip, outside)
            self._ensure_forwarding(ip, index, outside)
        return self._ensure_rules()

    def attach(self, netns_fd: int, host_name: str, address: str, internal: bool = False) -> list[str]:
        """Give the network namespace ``netns_fd`` an `eth0` on this bridge, with ``address`` and a way out.

        ``host_name`` is the host's end (`host_interface_name`); an interface left under that name is replaced.
        ``internal`` leaves the default route away. What is missing of the bridge is mended first.
        Returns warnings as `ensure` does. Raises OSError; then nothing is left. When the namespace's processes end,
        the kernel removes the pair by itself.
        """
        with _rtnetlink() as ip:
            warnings = self._mend(ip)
            index = _index(self.name)
            hardware = mac_address(address)
            peer = {"attrs": [("IFLA_IFNAME", "eth0"), ("IFLA_NET_NS_FD", netns_fd), ("IFLA_ADDRESS", hardware)]}
            mtu = _mtu(self.name)
            peer["attrs"].append(("IFLA_MTU", mtu))
            pair = {"ifname": host_name, "kind": "veth", "master": index, "mtu": mtu, "state": "up", "info_peer": peer}
            _add_pair(ip, pair)
            try:
                self._configure(netns_fd, address, internal)
            except BaseException:
                _delete(ip, host_name)
                raise
        return warnings

    def remove(self) -> None:
        """Take away the table, the bridge and the interfaces on it, and put back the sysctls; content when gone."""
        from poc.net.nftables import Nftables

        with _rtnetlink() as ip:
            index = _index(self.name)
            if index is not None:
                _restore_forwarding(self._recorded(ip, index))
            with Nftables() as nft:
                nft.delete(self.table)
            if index is not None:
                for link in list(ip.get_links(master=index)):
                    _delete(ip, link.get_attr("IFLA_IFNAME"))
                _delete(ip, self.name)

    def _configure(self, netns_fd: int, address: str, internal: bool) -> None:
        with _entered(netns_fd):
            index = _index("eth0")
            with _rtnetlink() as ip, _errors(f"configure eth0 with {address}"):
                ip.addr("add", index=index, address=address, prefixlen=self.subnet.prefix)
                ip.link("set", index=index, state="up")
                if not internal:
                    ip.route("add", dst="0.0.0.0/0", gateway=self.gateway, oif=index)

    def _mend(self, ip: Any) -> list[str]:
        outside = _way_out(ip)
        if not self.exists() or not _forwarding(self.name) or (outside and not _forwarding(outside)):
            return self.ensure()
        return self._ensure_rules()

    def _ensure_link(self, ip: Any, outside: str | None) -> int:
        index = _index(self.name)
        if index is None:
            self._check_subnet(ip)
            # Without an address of its own a bridge takes the lowest of its ports', and changes as they come and go.
            hardware = mac_address(self.gateway)
            link = {"ifname": self.name, "kind": "bridge", "address": hardware, "mtu": _mtu(outside)}
            with _errors(f"create bridge {self.name}", forgive=errno.EEXIST):
                ip.link("add", **link)
            index = socket.if_nametoindex(self.name)
        if f"{self.gateway}/{self.subnet.prefix}" not in _addresses(ip, only=index):
            with _errors(f"add {self.gateway} to {self.name}", forgive=errno.EEXIST):
                ip.addr("add", index=index, address=self.gateway, prefixlen=self.subnet.prefix)
        with _errors(f"bring {self.name} up"):
            ip.link("set", index=index, state="up")
        return index

    def _check_subnet(self, ip: Any) -> None:
        from poc.errors import PocError

        for subnet in _addresses(ip, ignore=self.name):
            if overlaps(subnet, self.subnet.text):
                raise PocError(f"the subnet {self.subnet.text} of {self.name} overlaps this host's address {subnet}")

    def _ensure_forwarding(self, ip: Any, index: int, outside: str | None) -> None:
        _set_sysctl(self.name, "1")
        if outside is None or _forwarding(outside):
            return
        recorded = [*self._recorded(ip, index), outside]
        with _errors(f"set the alias of {self.name}"):
            ip.link("set", index=index, ifalias=f"{_ALIAS} {' '.join(recorded)}")
        _set_sysctl(outside, "1")

    def _recorded(self, ip: Any, index: int) -> list[str]:
        alias = ip.get_links(index)[0].get_attr("IFLA_IFALIAS") or ""
        return alias.removeprefix(_ALIAS).split() if alias.startswith(_ALIAS) else []

    def _ensure_rules(self) -> list[str]:
        from poc.net.nftables import Nftables

        with Nftables() as nft:
            chains = self._chains()
            if not nft.holds(self.table, chains):
                nft.replace(self.table, chains)
        return []

    def _chains(self) -> Sequence[Chain]:
        from poc.net import nftables as nft

        inward, outward = nft.interface_in(self.name), nft.interface_out(self.name)
        internal = self.subnet.internal_half
        forward = (
            (inward, outward, nft.accept()),  # with br_netfilter the bridge's own traffic comes by here
            (inward, nft.source(internal), nft.drop()),
            (inward, nft.accept()),
            (outward, nft.destination(internal), nft.drop()),
            (outward, nft.replies(), nft.accept()),
            (outward, nft.published(), nft.accept()),
            (outward, nft.drop()),
        )
        leaving = ((nft.source(self.subnet.text), nft.interface_out(self.name, equal=False), nft.masquerade()),)
        return (
            nft.Chain("forward", "filter", nft.HOOK_FORWARD, 0, forward),
            nft.Chain("postrouting", "nat", nft.HOOK_POSTROUTING, 100, leaving),
        )


@contextmanager
def _rtnetlink() -> Iterator[Any]:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        yield ip


@contextmanager
def _errors(what: str, forgive: int = 0) -> Iterator[None]:
    """Turn pyroute2's error, which is no OSError, into one that says what failed; forgive one errno."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code != forgive:
            raise OSError(error.code, f"{what}: {error.args[1]}") from None


@contextmanager
def _entered(netns_fd: int) -> Iterator[None]:
    """Have the calling thread in another network namespace, in which its sockets then stay."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc.setns(netns_fd, _CLONE_NEWNET)
        try:
            yield
        finally:
            _libc.setns(home, _CLONE_NEWNET)
    finally:
        os.close(home)


def _way_out(ip: Any) -> str | None:
    try:
        with _errors("look up the default route"):
            route = ip.route("get", dst="1.1.1.1")[0]
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return None  # no route, or one that says unreachable, prohibit or blackhole
        raise
    return socket.if_indextoname(route.get_attr("RTA_OIF"))


def _addresses(ip: Any, ignore: str | None = None, only: int | None = None) -> list[str]:
    ignored = _index(ignore) if ignore else None
    return [
        f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
        for address in ip.get_addr(family=socket.AF_INET)
        if address["index"] != ignored and only in (None, address["index"])
    ]


def _add_pair(ip: Any, pair: dict[str, Any]) -> None:
    try:
        with _errors(f"create veth {pair['ifname']}"):
            ip.link("add", **pair)
    except FileExistsError:
        _delete(ip, pair["ifname"])  # of this container's former life: its namespace is being torn down
        with _errors(f"create veth {pair['ifname']}"):
            ip.link("add", **pair)


def _delete(ip: Any, name: str) -> None:
    index = _index(name)
    if index is not None:
        with _errors(f"delete {name}", forgive=errno.ENODEV):
            ip.link("del", index=index)


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _mtu(name: str | None) -> int:
    if name is None:
        return 1500
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = fcntl.ioctl(control, _SIOCGIFMTU, struct.pack("16si20x", name.encode(), 0))
    return int(struct.unpack_from("16si", request)[1])


def _sysctl(name: str) -> str:
    return f"/proc/sys/net/ipv4/conf/{name}/forwarding"


def _forwarding(name: str) -> bool:
    return _fs.read_text(_sysctl(name)) != "0"


def _set_sysctl(name: str, value: str) -> None:
    if _fs.read_text(_sysctl(name)) != value:
        _fs.write_text(_sysctl(name), value)


def _restore_forwarding(interfaces: list[str]) -> None:
    if _forwarding("all"):
        return  # somebody has made this host a router since, and that would have switched these on too
    for name in interfaces:
        try:
            _set_sysctl(name, "0")
        except FileNotFoundError:
            pass  # the interface is gone, and its setting with it
