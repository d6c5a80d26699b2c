"""A network for runtimes that bring none: namespaces on a bridge of the benchmark's, made as CNI makes them.

::

    namespaces/NAME, a bound network namespace: eth0 ═══ veth on the bridge, where the host has the bridge's address

The bridge and the addresses are those of a store of poc's in the workspace, which takes them away at its end.
"""

from __future__ import annotations

import os
import subprocess

from poc.engine import Engine
from poc.errors import PocError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.workspace import Workspace


class Network:
    """Of one workspace; nothing is made before the first `add`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._networks = Engine(f"{workspace.path}/network").networks

    def path(self, name: str) -> str:
        return f"{self._workspace.directory('namespaces')}/{name}"

    def add(self, name: str) -> str:
        """Make a namespace with an address on the bridge; the path to join it by. Raises PocError, OSError."""
        path = self.path(name)
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC))
        made = subprocess.run(
            ["unshare", f"--net={path}", "ip", "link", "set", "lo", "up"], capture_output=True, text=True
        )
        if made.returncode:
            raise PocError(f"no network namespace can be made: {made.stderr.strip()}")
        bridge = self._networks.bridge()
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            bridge.attach(namespace, f"pb{os.urandom(6).hex()}", self._networks.leases().acquire(name))
        finally:
            os.close(namespace)
        return path

    def addresses(self, name: str) -> tuple[str, str]:
        """(its own, the host's) of a namespace."""
        return self._networks.leases().acquire(name), self._networks.bridge().gateway

    def remove(self, name: str) -> None:
        """Let go of a namespace; content when there is none. The kernel removes it with its last process."""
        path = self.path(name)
        if os.path.exists(path):
            subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)
            os.unlink(path)
            self._networks.release(name)
