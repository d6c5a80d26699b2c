"""Subnets, and which container has which address. Imports nothing heavy: `poc run` needs it on every start.

A subnet's first address is the bridge's (the gateway). The first half of the others belongs to containers that may
reach the outside, the second half to `internal` ones, so that two static firewall rules tell them apart.
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import os
import struct

from poc._lean import socket
from poc.errors import InvalidArgument, PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Private /16s that home routers, VPNs, Docker, libvirt, podman and Kubernetes rarely take by default.
CANDIDATES = (
    *(f"10.{second}.0.0/16" for second in (209, 173, 137, 231, 151, 199, 113, 67)),
    *(f"172.{second}.0.0/16" for second in (30, 29, 31)),
    "192.168.0.0/17",
    "192.168.128.0/17",
)


class Subnet:
    """``10.209.0.0/16`` and what follows from it. Raises InvalidArgument for what is not an IPv4 subnet.

    ``network`` is its first address as a number, ``size`` how many it has, ``gateway`` the bridge's own.
    """

    __slots__ = ("gateway", "network", "prefix", "size", "text")

    def __init__(self, text: str) -> None:
        address, _, prefix = text.partition("/")
        self.text = text
        self.network = parse_address(address)
        self.prefix = int(prefix) if prefix.isdecimal() else 32
        if not 8 <= self.prefix <= 29:
            raise InvalidArgument(f"subnet {text}: a prefix length from /8 to /29 is needed, such as 10.209.0.0/16")
        self.size = 1 << (32 - self.prefix)
        if self.network % self.size:
            right = format_address(self.network - self.network % self.size)
            raise InvalidArgument(f"subnet {text}: bits are set after the prefix; {right}/{self.prefix} is meant?")
        self.gateway = format_address(self.network + 1)

    @property
    def open_half(self) -> str:
        """The first half, as a subnet: the addresses of containers that may reach the outside."""
        return f"{format_address(self.network)}/{self.prefix + 1}"

    @property
    def internal_half(self) -> str:
        """The second half, as a subnet: the addresses of containers without the outside."""
        return f"{format_address(self.network + self.size // 2)}/{self.prefix + 1}"

    def pool(self, internal: bool) -> range:
        """The addresses, as numbers, that a lease may have; network, gateway and broadcast are not among them."""
        middle = self.network + self.size // 2
        return range(middle, self.network + self.size - 1) if internal else range(self.network + 2, middle)


def parse_address(text: str) -> int:
    """An IPv4 address as a number. Raises InvalidArgument."""
    try:
        return int(struct.unpack("!I", socket.inet_pton(socket.AF_INET, text))[0])
    except OSError:
        raise InvalidArgument(f"{text!r} is not an IPv4 address") from None


def format_address(number: int) -> str:
    """The reverse of `parse_address`."""
    return socket.inet_ntoa(struct.pack("!I", number))


def span(subnet: str) -> tuple[int, int]:
    """The first and last address of ``a.b.c.d/n`` as numbers; the address may be any one of the subnet's."""
    address, _, prefix = subnet.partition("/")
    size = 1 << (32 - int(prefix or 32))
    first = parse_address(address) // size * size
    return first, first + size - 1


def overlaps(one: str, other: str) -> bool:
    """Whether two subnets (``a.b.c.d/n``) share an address."""
    (first, last), (other_first, other_last) = span(one), span(other)
    return first <= other_last and other_first <= last


def choose_subnet(candidates: Iterable[str], taken: Collection[str]) -> str:
    """The first of ``candidates`` that overlaps none of ``taken`` (both ``a.b.c.d/n``). Raises PocError if none is."""
    for candidate in candidates:
        if not any(overlaps(candidate, other) for other in taken):
            return candidate
    raise PocError("no free private subnet: this host's routes and addresses cover all candidates; name one yourself")


def mac_address(address: str) -> str:
    """The hardware address that goes with an IPv4 address.

    It follows from the address so that no neighbour's ARP cache is stale when an address is used again.
    Locally administered (the second bit), unicast.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x02\x70" + socket.inet_aton(address))


def host_interface_name(container_id: str) -> str:
    """The name of the host's end of a container's veth pair: ``poc`` and 12 hexadecimal digits, 15 characters.

    IFNAMSIZ allows no more. An id is cut to its short form, anything else is hashed.
    """
    short = container_id[:12]
    if len(short) < 12 or short.strip("0123456789abcdef"):
        import hashlib

        short = hashlib.sha256(os.fsencode(container_id)).hexdigest()[:12]
    return f"poc{short}"


class Leases:
    """Which owner (a container id) has which address: one symbolic link per address, pointing at its owner.

    A symbolic link is made exclusively and with its content in one call, so two processes never get one address and
    nobody, whenever killed, leaves an address without an owner. On a tmpfs a reboot frees them all.
    """

    __slots__ = ("directory", "subnet")

    def __init__(self, directory: str, subnet: str) -> None:
        self.directory = directory
        self.subnet = Subnet(subnet)

    def acquire(self, owner: str, internal: bool = False) -> str:
        """An address nobody else has until `release`; the one ``owner`` has already, if so. Raises PocError when full.

        The search starts where the owner's hash falls, so a container that starts again mostly gets the same address.
        """
        pool = self.subnet.pool(internal)
        start = binascii.crc32(owner.encode())
        for step in range(len(pool)):
            address = format_address(pool[(start + step) % len(pool)])
            if self._claim(address, owner):
                return address
        kind = "internal addresses" if internal else "addresses"
        raise PocError(f"no free address: all {len(pool)} {kind} of {self.subnet.text} are leased ({self.directory})")

    def release(self, owner: str) -> None:
        """Free the address of ``owner``; content when it has none."""
        release(self.directory, owner)

    def owners(self) -> dict[str, str]:
        """Every leased address and who has it."""
        try:
            addresses = os.listdir(self.directory)
        except FileNotFoundError:
            return {}
        found = ((address, self._owner(address)) for address in addresses)
        return {address: owner for address, owner in found if owner is not None}

    def _claim(self, address: str, owner: str) -> bool:
        path = f"{self.directory}/{address}"
        try:
            os.symlink(owner, path)
        except FileExistsError:
            return self._owner(address) == owner
        except FileNotFoundError:
            os.makedirs(self.directory, 0o755, exist_ok=True)
            return self._claim(address, owner)
        return True

    def _owner(self, address: str) -> str | None:
        return _owner(f"{self.directory}/{address}")


def release(directory: str, owner: str) -> None:
    """Free every address that ``owner`` has in a directory of leases, whatever the subnet; content without any."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # Two who release one owner must not interleave: the later would delete what a third leased in between.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for address in os.listdir(lock):
            if _owner(f"{directory}/{address}") == owner:
                os.unlink(address, dir_fd=lock)
    finally:
        os.close(lock)


def _owner(lease: str) -> str | None:
    try:
        return os.readlink(lease)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None  # released since it was listed, or somebody else's file
        raise
