"""The networks there are, as docker lists and describes them: one bridge with two ways to be on it, host and none."""

from __future__ import annotations

import hashlib

from poc.engine.logs import timestamp
from poc.engine.networks import Networks
from poc.engine.store import read_optional
from poc.errors import NetworkNotFound
from poc.net.addresses import mac_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine.store import Paths

_DRIVERS = {"bridge": "bridge", "host": "host", "internal": "bridge", "none": "null"}


class Network:
    """One network. docker-py's words: ``name``, ``id``, ``attrs``."""

    __slots__ = ("_paths", "driver", "id", "name")

    def __init__(self, paths: Paths, name: str) -> None:
        self._paths = paths
        self.name = name
        self.driver = _DRIVERS[name]
        self.id = network_id(paths, name)

    def __repr__(self) -> str:
        return f"<Network {self.name}>"

    @property
    def attrs(self) -> dict[str, Any]:
        """docker's ``inspect`` object, looked up now."""
        bridge = Networks(self._paths).known() if self.driver == "bridge" else None
        pools = [{"Subnet": bridge.subnet.text, "Gateway": bridge.gateway}] if bridge else []
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": timestamp(Networks(self._paths).made()),
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": pools},
            "Internal": self.name == "internal",
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": self._containers(),
            "Options": {"com.docker.network.bridge.name": bridge.name} if bridge else {},
            "Labels": {},
        }

    def _containers(self) -> dict[str, dict[str, str]]:
        """The running ones that are on it."""
        paths, found = self._paths, {}
        for id in paths.ids():
            record = read_optional(paths.container(id, "container.json"))
            state = read_optional(paths.runtime(id, "state.json"))
            if record and state and record["config"].get("network") == self.name:
                found[id] = _endpoint(record, state, Networks(paths))
        return found


def _endpoint(record: dict[str, Any], state: dict[str, Any], networks: Networks) -> dict[str, str]:
    address, bridge = state.get("address") or "", networks.known()
    return {
        "Name": record["name"],
        "EndpointID": endpoint_id(record["id"], record["config"]["network"]),
        "MacAddress": mac_address(address) if address else "",
        "IPv4Address": f"{address}/{bridge.subnet.prefix}" if address and bridge else "",
        "IPv6Address": "",
    }


def network_id(paths: Paths, name: str) -> str:
    """64 digits that stay the same for a network of a store."""
    return hashlib.sha256(f"{paths.data}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()


def endpoint_id(container: str, network: str) -> str:
    """64 digits for a container's place on a network."""
    return hashlib.sha256(f"{container}\0{network}".encode()).hexdigest()


def get(paths: Paths, name: str) -> Network:
    """The network of this name, id, or unique beginning of an id. Raises NetworkNotFound."""
    if name in _DRIVERS:
        return Network(paths, name)
    found = [network for network in every(paths) if name and network.id.startswith(name)]
    if len(found) != 1:
        raise NetworkNotFound(name)
    return found[0]


def every(paths: Paths) -> list[Network]:
    """All of them, by name."""
    return [Network(paths, name) for name in sorted(_DRIVERS)]
