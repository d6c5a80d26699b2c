"""Interfaces of the host that a container is to have: OCI ``linux.netDevices`` (config-linux.md, Network Devices)."""

from __future__ import annotations

import socket

from poc.errors import Conflict, InvalidArgument
from poc.net.bridge import entered, errors, rtnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_IFA_F_PERMANENT, _RT_SCOPE_UNIVERSE = 0x80, 0


def move(devices: Mapping[str, str], netns_fd: int) -> None:
    """Move interfaces of the caller's network namespace into another, {name here: name there}, and bring them up there.

    They keep their lasting global addresses. A name there may end in ``%d``, for which the kernel puts a number. All
    or none: a device whose new namespace ends with a failed container would be gone. Raises InvalidArgument when there
    is no such interface, Conflict when there is one of the new name, and OSError.
    """
    indices = {name: _index(name) for name in devices}
    with entered(netns_fd):
        taken = {name for _, name in socket.if_nameindex()}
    for name, new_name in devices.items():
        if new_name in taken:
            raise Conflict(f"/linux/netDevices/{name}: the container has an interface {new_name} already")
        if "%" not in new_name:
            taken.add(new_name)
    for name, new_name in devices.items():
        _move(name, indices[name], netns_fd, new_name)


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise InvalidArgument(f"/linux/netDevices/{name}: this host has no such interface") from None


def _move(name: str, index: int, netns_fd: int, new_name: str) -> None:
    pointer = f"/linux/netDevices/{name}"
    with entered(netns_fd):
        before = {number for number, _ in socket.if_nameindex()}
    with rtnetlink() as ip, errors(f"{pointer}: move {name}"):
        addresses = [message for message in ip.get_addr(index=index) if _lasts(message)]
        ip.link("set", index=index, state="down")
        ip.link("set", index=index, ifname=new_name, net_ns_fd=netns_fd)
    with entered(netns_fd), rtnetlink() as ip, errors(f"{pointer}: bring {new_name} up"):
        (there,) = {number for number, _ in socket.if_nameindex()} - before
        for message in addresses:
            ip.addr("add", index=there, family=message["family"], prefixlen=message["prefixlen"], **_ends(message))
        ip.link("set", index=there, state="up")


def _lasts(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return bool(flags & _IFA_F_PERMANENT) and message["scope"] == _RT_SCOPE_UNIVERSE


def _ends(message: Any) -> dict[str, str]:
    """Of a point-to-point interface the address is its own, and the other end's is told apart from it."""
    address, local = message.get_attr("IFA_ADDRESS"), message.get_attr("IFA_LOCAL")
    return {"address": address} if local in (None, address) else {"address": address, "local": local}
