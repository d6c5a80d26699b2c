"""Container networks: a bridge behind NAT, addresses that can't collide, and the interfaces of each container.

    bridge = Bridge(subnet=choose_subnet(CANDIDATES, taken_subnets()))
    bridge.ensure()
    address = Leases("/run/poc/leases", bridge.subnet.text).acquire(container_id)
    bridge.attach(netns_fd, host_interface_name(container_id), address)

Usable without the rest of poc. Does not resolve names, publish ports or know what a container is.
"""

from __future__ import annotations

from poc.net.addresses import CANDIDATES, Leases, Subnet, choose_subnet, host_interface_name, mac_address
from poc.net.bridge import Bridge, default_route_interface, loopback_up, taken_subnets

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
    "taken_subnets",
]
