"""Container networks: a bridge behind NAT, addresses that can't collide, and the interfaces of each container.

    bridge = Bridge.establish()
    address = Leases("/run/poc/leases", bridge.subnet.text).acquire(container_id)
    warnings = bridge.attach(netns_fd, host_interface_name(container_id), address)

Usable without the rest of poc. Does not resolve names, publish ports or know what a container is.

    addresses   subnets, leases, names: pure, and light enough for every `poc run`
    bridge      links, addresses, routes, forwarding
    firewall    our rules, and getting along with Docker's and others'
    nftables    tables as data, written and compared over netlink
"""

from __future__ import annotations

import fcntl
import struct

from poc._lean import socket
from poc.net.addresses import CANDIDATES, Leases, Subnet, choose_subnet, host_interface_name, mac_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.net.bridge import Bridge, default_route_interface, remove_link, taken_subnets

__all__ = [
    "CANDIDATES",
    "Bridge",
    "Leases",
    "Subnet",
    "choose_subnet",
    "default_route_interface",
    "host_interface_name",
    "loopback_up",
    "mac_address",
    "remove_link",
    "taken_subnets",
]

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    """Bring `lo` up in the calling network namespace (netdevice(7)); the kernel gives it 127.0.0.1 by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", b"lo"))
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def __getattr__(name: str) -> object:
    # Only whoever needs the bridge pays for its module.
    if name in ("Bridge", "default_route_interface", "remove_link", "taken_subnets"):
        from poc.net import bridge

        return getattr(bridge, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
