"""The bridge that containers hang on, its address and way out, and the pair of interfaces of each container.

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
import time
from contextlib import contextmanager

from poc import _fs, _libc
from poc.errors import InvalidArgument, PocError
from poc.net.addresses import CANDIDATES, Subnet, choose_subnet, mac_address, overlaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from poc.net.firewall import Firewall

_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFMTU = 0x8913, 0x8915, 0x8921
_IFF_UP = 1
_CLONE_NEWNET = 0x40000000
_ALIAS = "poc, forwarding was 0 on:"
# What the kernel answers where it has no route, or one that says unreachable, prohibit or blackhole.
_NO_ROUTE = errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL


def default_route_interface() -> str | None:
    """The interface that traffic to the internet leaves through; None when there is no way out.

    The kernel is asked where it would send to a public address (nothing is sent), rather than for its list of default
    routes: so policy rules count, and a VPN that covers everything with two half-sized routes is seen.
    """
    with rtnetlink() as ip:
        return _way_out(ip)


def taken_subnets(ignore: str | None = None) -> list[str]:
    """Every subnet this host has an address in or a route to, but for those on the interface ``ignore``."""
    with rtnetlink() as ip:
        return _taken(ip, ignore)


class Bridge:
    """A bridge with its own subnet, and the nftables table with its rules: forwarding, NAT, the internal half cut off.

    ``name`` at most 15 characters; ``subnet`` as ``10.209.0.0/16``. Nothing happens until `ensure`.

    Forwarding is switched on for the bridge and the default route's interface, not for the whole host. Which
    interfaces that changed is kept as the bridge's alias (`ip link` shows it): in the kernel, with the object it
    belongs to, gone with a reboot like the change itself. `remove` puts them back, unless another bridge of poc
    needs them or somebody has made the whole host a router since. Who deletes the bridge by hand deletes the record.
    """

    __slots__ = ("gateway", "name", "subnet", "table")

    def __init__(self, name: str = "pocbr0", table: str = "poc", subnet: str = "10.209.0.0/16") -> None:
        if not 0 < len(name.encode()) < 16 or "/" in name or name.split() != [name]:
            raise InvalidArgument(f"bridge name {name!r}: 1 to 15 characters without blanks and slashes are needed")
        self.name = name
        self.table = table
        self.subnet = Subnet(subnet)
        self.gateway = self.subnet.gateway

    @classmethod
    def establish(cls, name: str = "pocbr0", table: str = "poc", candidates: Iterable[str] = CANDIDATES) -> Bridge:
        """Choose a subnet that is free on this host and make the bridge, as one step: two at once choose differently.

        Raises OSError, and PocError when no candidate is free.
        """
        with _locked(), rtnetlink() as ip:
            bridge = cls(name, table, choose_subnet(candidates, _taken(ip, name)))
            bridge._make(ip)
        return bridge

    def exists(self) -> bool:
        """Whether the interface is there; one ioctl, nothing imported."""
        return _index(self.name) is not None

    def ensure(self) -> None:
        """Make the bridge and its rules, or mend what is missing; a second call changes nothing.

        Raises OSError, and PocError when the subnet is in use elsewhere.
        """
        with _locked(), rtnetlink() as ip:
            self._make(ip)

    def attach(
        self, netns_fd: int, host_name: str, address: str, internal: bool = False, hardware: str = ""
    ) -> list[str]:
        """Give the network namespace ``netns_fd`` an `eth0` on this bridge, with ``address`` and a way out.

        ``host_name`` is the host's end (`host_interface_name`); an interface left under that name is replaced.
        ``hardware`` is its MAC address, by default one that follows from ``address``.
        ``internal`` leaves the default route away and holds the container to its half of the subnet. What is missing
        of the bridge is mended first. Returns warnings, one line each, when something on this host keeps the
        container from the outside. Raises OSError; then nothing is left. When the namespace's last process ends, the
        kernel removes the pair by itself.
        """
        with rtnetlink() as ip, self._firewall() as firewall:
            outside = _way_out(ip)
            if not (self._intact(outside) and firewall.intact()):
                self.ensure()
            if internal:
                firewall.ensure_guard()
                firewall.pass_docker()  # where br_netfilter is on, Docker drops even what stays on the bridge
            self._add_pair(ip, netns_fd, host_name, hardware or mac_address(address), internal)
            try:
                with entered(netns_fd):
                    self._configure(address, internal)
                _await_port(ip, host_name)
                return self._blocked(firewall, netns_fd) if outside and not internal else []
            except BaseException:
                _delete(ip, host_name)
                raise

    def blocked_by(self) -> list[str]:
        """Who on this host, other than poc, filters forwarded packets: table, chain and policy, one line each.

        Whether they do block is seen when a container is attached, by trying.
        """
        with self._firewall() as firewall:
            return firewall.others()

    def remove(self) -> None:
        """Take away the rules, the bridge and the interfaces on it, and put back the sysctls; content when gone."""
        with _locked(), rtnetlink() as ip, self._firewall() as firewall:
            firewall.remove()
            self._take_down(ip)

    def _make(self, ip: Any) -> None:
        outside = _way_out(ip)
        existed = self.exists()
        try:
            index = self._ensure_link(ip, outside)
            self._ensure_address(ip, index)
            self._ensure_forwarding(ip, index, outside)
            with self._firewall() as firewall:
                firewall.ensure()
        except BaseException:
            if not existed:
                self._take_down(ip)
            raise

    def _intact(self, outside: str | None) -> bool:
        return (
            self.exists()
            and bool(_flags(self.name) & _IFF_UP)
            and _address(self.name) == self.gateway
            and _forwarding(self.name)
            and (outside is None or _forwarding(outside))
        )

    def _ensure_link(self, ip: Any, outside: str | None) -> int:
        if not self.exists():
            # Without an address of its own a bridge takes the lowest of its ports', and changes as they come and go.
            hardware = mac_address(self.gateway)
            with errors(f"create bridge {self.name}"):
                ip.link("add", ifname=self.name, kind="bridge", address=hardware, mtu=_mtu(outside))
        _set_sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "1")  # containers have no IPv6; no back door by it
        index = socket.if_nametoindex(self.name)
        with errors(f"bring {self.name} up"):
            ip.link("set", index=index, state="up")
        return index

    def _ensure_address(self, ip: Any, index: int) -> None:
        wanted = f"{self.gateway}/{self.subnet.prefix}"
        present = _addresses(ip, only=index)
        if wanted not in present:
            self._check_subnet(ip)
            with errors(f"add {wanted} to {self.name}"):
                ip.addr("add", index=index, address=self.gateway, prefixlen=self.subnet.prefix)
        for stale in present:
            if stale != wanted:  # of a former subnet
                address, _, prefix = stale.partition("/")
                with errors(f"delete {stale} from {self.name}"):
                    ip.addr("del", index=index, address=address, prefixlen=int(prefix))

    def _check_subnet(self, ip: Any) -> None:
        for subnet in _addresses(ip, ignore=self.name):
            if overlaps(subnet, self.subnet.text):
                raise PocError(f"the subnet {self.subnet.text} of {self.name} overlaps this host's address {subnet}")

    def _ensure_forwarding(self, ip: Any, index: int, outside: str | None) -> None:
        _set_sysctl(_forwarding_of(self.name), "1")
        if outside is None:
            return
        records = _records(ip)
        switched_by_poc = any(outside in interfaces for interfaces in records.values())
        if (switched_by_poc or not _forwarding(outside)) and outside not in records.get(self.name, ()):
            interfaces = " ".join([*records.get(self.name, ()), outside])
            with errors(f"set the alias of {self.name}"):
                ip.link("set", index=index, ifalias=f"{_ALIAS} {interfaces}")
        _set_sysctl(_forwarding_of(outside), "1")

    def _take_down(self, ip: Any) -> None:
        index = _index(self.name)
        if index is None:
            return
        self._restore_forwarding(ip)
        for link in list(ip.get_links(master=index)):
            _delete(ip, link.get_attr("IFLA_IFNAME"))
        _delete(ip, self.name)

    def _restore_forwarding(self, ip: Any) -> None:
        records = _records(ip)
        mine = records.pop(self.name, [])
        if _forwarding("all"):
            return  # that would have switched them on too
        for interface in mine:
            if not any(interface in others for others in records.values()) and _index(interface) is not None:
                _set_sysctl(_forwarding_of(interface), "0")

    def _add_pair(self, ip: Any, netns_fd: int, host_name: str, hardware: str, internal: bool) -> None:
        from poc.net.firewall import INTERNAL_GROUP

        mtu = _mtu(self.name)
        inside = [("IFLA_IFNAME", "eth0"), ("IFLA_NET_NS_FD", netns_fd), ("IFLA_MTU", mtu)]
        pair = {
            "ifname": host_name,
            "kind": "veth",
            "info_peer": {"attrs": [*inside, ("IFLA_ADDRESS", hardware)]},
            "master": _index(self.name),
            "mtu": mtu,
            "group": INTERNAL_GROUP if internal else 0,
            "state": "up",
        }
        if _index(host_name) is not None:
            _delete(ip, host_name)  # of this container's former life: its namespace is just being torn down
        with errors(f"create veth {host_name}"):
            ip.link("add", **pair)

    def _configure(self, address: str, internal: bool) -> None:
        index = socket.if_nametoindex("eth0")
        with rtnetlink() as ip, errors(f"give eth0 the address {address}"):
            ip.addr("add", index=index, address=address, prefixlen=self.subnet.prefix)
            ip.link("set", index=index, state="up")
            if not internal:
                ip.route("add", dst="0.0.0.0/0", gateway=self.gateway, oif=index)

    def _blocked(self, firewall: Firewall, netns_fd: int) -> list[str]:
        others = firewall.others()
        if not others or self._lets_out(firewall, netns_fd):
            return []
        firewall.pass_docker()
        if self._lets_out(firewall, netns_fd):
            return []
        return [
            f"containers on {self.name} do not reach the outside: {' or '.join(others)} drops what {self.name} "
            f"forwards; accept `-i {self.name}`, and replies to it, there"
        ]

    def _lets_out(self, firewall: Firewall, netns_fd: int) -> bool:
        with entered(netns_fd):
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with probe:
            return firewall.lets_out(probe)

    @contextmanager
    def _firewall(self) -> Iterator[Firewall]:
        from poc.net.firewall import Firewall
        from poc.net.nftables import Nftables

        with Nftables() as netlink:
            yield Firewall(netlink, self.table, self.name, self.subnet)


@contextmanager
def rtnetlink() -> Iterator[Any]:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        yield ip


@contextmanager
def errors(what: str, forgive: int = 0) -> Iterator[None]:
    """Turn pyroute2's error, which is no OSError, into one that says what failed; forgive one errno."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code != forgive:
            raise OSError(error.code, f"{what}: {error.args[1]}") from None


@contextmanager
def _locked() -> Iterator[None]:
    """Only one process at a time per network namespace; the lock hangs on the namespace itself and needs no file."""
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(namespace, fcntl.LOCK_EX)
        yield
    finally:
        os.close(namespace)


@contextmanager
def entered(netns_fd: int) -> Iterator[None]:
    """Have the calling thread in another network namespace; sockets stay in the one they were made in."""
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
    from poc.net.firewall import PUBLIC_ADDRESS

    try:
        with errors("look up the default route"):
            route = ip.route("get", dst=PUBLIC_ADDRESS)[0]
    except OSError as error:
        if error.errno in _NO_ROUTE:
            return None
        raise
    return socket.if_indextoname(route.get_attr("RTA_OIF"))


def _addresses(ip: Any, ignore: str | None = None, only: int | None = None) -> list[str]:
    ignored = _index(ignore) if ignore else None
    return [
        f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
        for address in ip.get_addr(family=socket.AF_INET)
        if address["index"] != ignored and only in (None, address["index"])
    ]


def _taken(ip: Any, ignore: str | None) -> list[str]:
    mine = _index(ignore) if ignore else None
    routes = (route for route in ip.get_routes(family=socket.AF_INET) if route["dst_len"])
    return _addresses(ip, ignore) + [
        f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
        for route in routes
        if mine is None or route.get_attr("RTA_OIF") != mine
    ]


def _records(ip: Any) -> dict[str, list[str]]:
    """Of each bridge of poc, whatever its store, the interfaces whose forwarding was switched on for it."""
    aliases = {
        link.get_attr("IFLA_IFNAME"): link.get_attr("IFLA_IFALIAS") or "" for link in ip.get_links(kind="bridge")
    }
    return {name: alias.removeprefix(_ALIAS).split() for name, alias in aliases.items() if alias.startswith(_ALIAS)}


def _await_port(ip: Any, host_name: str) -> None:
    """Wait until the bridge passes what comes from the container.

    Carrier is noticed by a kernel worker a moment after the far end came up. Until then the first packet would be
    lost, and that is an ARP request, repeated only after a second.
    """
    index = _index(host_name)
    for wait in (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
        time.sleep(wait)
        if ip.get_links(index)[0].get_attr("IFLA_OPERSTATE") == "UP":
            return


def remove_link(name: str) -> None:
    """Delete an interface of this network namespace, and with one end of a pair the other; content without. OSError."""
    if _index(name) is not None:
        with rtnetlink() as ip:
            _delete(ip, name)


def _delete(ip: Any, name: str) -> None:
    index = _index(name)
    if index is not None:
        with errors(f"delete {name}", forgive=errno.ENODEV):
            ip.link("del", index=index)


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _ioctl(number: int, name: str) -> bytes:
    """A netdevice(7) request for an interface: the 24 bytes after its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        return fcntl.ioctl(control, number, struct.pack("16s24x", name.encode()))[16:]


def _flags(name: str) -> int:
    return int(struct.unpack_from("H", _ioctl(_SIOCGIFFLAGS, name))[0])


def _mtu(name: str | None) -> int:
    return int(struct.unpack_from("i", _ioctl(_SIOCGIFMTU, name))[0]) if name else 1500


def _address(name: str) -> str | None:
    try:
        return socket.inet_ntoa(_ioctl(_SIOCGIFADDR, name)[4:8])
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise


def _forwarding_of(name: str) -> str:
    return f"ipv4/conf/{name}/forwarding"


def _forwarding(name: str) -> bool:
    return _fs.read_text(f"/proc/sys/net/{_forwarding_of(name)}") != "0"


def _set_sysctl(name: str, value: str) -> None:
    path = f"/proc/sys/net/{name}"
    if os.path.exists(path) and _fs.read_text(path) != value:
        _fs.write_text(path, value)
